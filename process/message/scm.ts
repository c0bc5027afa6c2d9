/**
 * Descriptors in a message of a Unix socket: `SCM_RIGHTS` of unix(7). Their
 * control message is a `struct cmsghdr` (internal/msghdr.ts) and an `int` for
 * each.
 */

import { SOL_SOCKET } from "../../internal/constants.ts";
import { Descriptor } from "../../internal/descriptor.ts";
import { lastErrno } from "../../internal/syscall.ts";
import { libc } from "../../internal/libc.ts";
import {
  CONTROL,
  CONTROL_DATA,
  CONTROL_LENGTH,
  FLAGS,
  HEADER_WORDS,
  IOVEC,
  IOVEC_COUNT,
  IOVEC_LENGTH,
  IOVEC_WORDS,
  pointerTo,
  setPointer,
} from "../../internal/msghdr.ts";
import { MSG_NOSIGNAL } from "../../internal/socket.ts";
import { constants } from "node:os";

// asm-generic/socket.h, bits/socket.h
const SCM_RIGHTS = 1;
const MSG_CTRUNC = 0x8;
const MSG_CMSG_CLOEXEC = 0x40000000;
/** Descriptors that one message may carry: `SCM_MAX_FD` of the kernel. */
export const MOST_DESCRIPTORS = 253;
/** Largest packet that is sent or received here, in bytes. */
export const LARGEST_PACKET = 65_536;

const { EINTR } = constants.errno;

const HEADER_BYTES = CONTROL_DATA * 4;

/** A message that has been received. */
export interface ReceivedPacket {
  /** What it carries. Empty at the end of the connection. */
  readonly data: Uint8Array<ArrayBuffer>;
  /** Owned by the caller from now on. */
  readonly descriptors: Descriptor[];
  /** Descriptors were lost, because this process may not have so many. */
  readonly cut: boolean;
}

const header = new Uint32Array(HEADER_WORDS);
const headerBytes = new Uint8Array(header.buffer);

/** Memory for C: on an ArrayBuffer of its own it does not move, so its address is asked for once. */
class Fixed {
  readonly bytes: Uint8Array<ArrayBuffer>;
  #address = 0;

  constructor(size: number) {
    this.bytes = new Uint8Array(new ArrayBuffer(size));
  }

  get address(): number {
    return this.#address ||= pointerTo(this.bytes);
  }
}

const vectorMemory = new Fixed(IOVEC_WORDS * 4);
const vector = new Uint32Array(vectorMemory.bytes.buffer);
// 253 numbers do not end on a boundary of 8 bytes.
const controlMemory = new Fixed((CONTROL_DATA + MOST_DESCRIPTORS + 1) * 4);
const control = new Int32Array(controlMemory.bytes.buffer);
/** What is sent, if it fits: an array so small may be where the garbage collector moves it. */
const small = new Fixed(128);
let packet: Fixed | undefined;

function prepare(address: number, length: number, controlLength: number): void {
  setPointer(vector, 0, address);
  vector[IOVEC_LENGTH] = length;
  setPointer(header, IOVEC, vectorMemory.address);
  header[IOVEC_COUNT] = 1;
  setPointer(header, CONTROL, controlLength === 0 ? 0 : controlMemory.address);
  header[CONTROL_LENGTH] = controlLength;
  header[FLAGS] = 0;
}

/**
 * sendmsg(2) of a packet with copies of `descriptors`.
 *
 * @returns The number of bytes, or errno as a negative number.
 */
export function sendPacket(fd: number, data: Uint8Array<ArrayBuffer>, descriptors: readonly number[]): number {
  const isSmall = data.length <= small.bytes.length;
  if (isSmall) small.bytes.set(data);
  const length = HEADER_BYTES + descriptors.length * 4;
  prepare(isSmall ? small.address : pointerTo(data), data.length, descriptors.length === 0 ? 0 : length);
  control[0] = length;
  control[1] = 0;
  control[2] = SOL_SOCKET;
  control[3] = SCM_RIGHTS;
  control.set(descriptors, CONTROL_DATA);
  while (true) {
    const n = libc.sendmsg(fd, headerBytes, MSG_NOSIGNAL);
    if (n >= 0) return n;
    const errno = lastErrno();
    if (errno !== EINTR) return -errno;
  }
}

/**
 * recvmsg(2) of one packet with all descriptors in it, which are
 * close-on-exec from the start.
 *
 * @returns The packet, or errno as a negative number.
 */
export function receivePacket(fd: number): ReceivedPacket | number {
  packet ??= new Fixed(LARGEST_PACKET);
  prepare(packet.address, LARGEST_PACKET, control.byteLength);
  let n = 0;
  while (true) {
    n = libc.recvmsg(fd, headerBytes, MSG_CMSG_CLOEXEC);
    if (n >= 0) break;
    const errno = lastErrno();
    if (errno !== EINTR) return -errno;
  }
  const descriptors: Descriptor[] = [];
  const end = header[CONTROL_LENGTH] as number;
  if (end > HEADER_BYTES && control[2] === SOL_SOCKET && control[3] === SCM_RIGHTS) {
    const last = (control[0] as number) / 4;
    for (let at = CONTROL_DATA; at < last; at++) descriptors.push(new Descriptor(control[at] as number));
  }
  return {
    // The next packet may come, of another connection, before this one is looked at.
    data: packet.bytes.slice(0, n),
    descriptors,
    cut: ((header[FLAGS] as number) & MSG_CTRUNC) !== 0,
  };
}
