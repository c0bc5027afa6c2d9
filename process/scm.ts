/**
 * Descriptors in a message of a Unix socket: `SCM_RIGHTS` of unix(7). Their
 * control message is a `struct cmsghdr` (internal/msghdr.ts) and an `int` for
 * each.
 */

import { Descriptor } from "../internal/descriptor.ts";
import { lastErrno } from "../internal/syscall.ts";
import { libc } from "../internal/libc.ts";
import {
  addressOf,
  CONTROL,
  CONTROL_DATA,
  CONTROL_LENGTH,
  FLAGS,
  HEADER_WORDS,
  IOVEC,
  IOVEC_COUNT,
  IOVEC_LENGTH,
  IOVEC_WORDS,
  setPointer,
} from "../internal/msghdr.ts";
import { MSG_NOSIGNAL } from "../internal/socket.ts";
import { constants } from "node:os";

// asm-generic/socket.h, bits/socket.h
const SOL_SOCKET = 1;
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
export interface Received {
  /** What it carries. Empty at the end of the connection. */
  readonly data: Uint8Array<ArrayBuffer>;
  /** Owned by the caller from now on. */
  readonly descriptors: Descriptor[];
  /** Descriptors were lost, because this process may not have so many. */
  readonly cut: boolean;
}

const header = new Uint32Array(HEADER_WORDS);
const headerBytes = new Uint8Array(header.buffer);
const vector = new Uint32Array(IOVEC_WORDS);
// 253 numbers do not end on a boundary of 8 bytes.
const control = new Int32Array(CONTROL_DATA + MOST_DESCRIPTORS + 1);
let packet: Uint8Array<ArrayBuffer> | undefined;

function prepare(data: Uint8Array<ArrayBuffer>, controlLength: number): void {
  setPointer(vector, 0, addressOf(data));
  vector[IOVEC_LENGTH] = data.length;
  setPointer(header, IOVEC, addressOf(new Uint8Array(vector.buffer)));
  header[IOVEC_COUNT] = 1;
  setPointer(header, CONTROL, controlLength === 0 ? 0 : addressOf(new Uint8Array(control.buffer)));
  header[CONTROL_LENGTH] = controlLength;
  header[FLAGS] = 0;
}

/**
 * sendmsg(2) of a packet with copies of `descriptors`.
 *
 * @returns The number of bytes, or errno as a negative number.
 */
export function sendPacket(fd: number, data: Uint8Array<ArrayBuffer>, descriptors: readonly number[]): number {
  // By way of an ArrayBuffer of its own, which does not move.
  const bytes = data.length > 64 ? data : copy(data);
  const length = HEADER_BYTES + descriptors.length * 4;
  prepare(bytes, descriptors.length === 0 ? 0 : length);
  control.set([length, 0, SOL_SOCKET, SCM_RIGHTS]);
  control.set(descriptors, CONTROL_DATA);
  while (true) {
    const n = libc.sendmsg(fd, headerBytes, MSG_NOSIGNAL);
    if (n >= 0) return n;
    const errno = lastErrno();
    if (errno !== EINTR) return -errno;
  }
}

const small = new Uint8Array(new ArrayBuffer(64));

function copy(data: Uint8Array): Uint8Array<ArrayBuffer> {
  small.set(data);
  return small.subarray(0, data.length);
}

/**
 * recvmsg(2) of one packet with all descriptors in it, which are
 * close-on-exec from the start.
 *
 * @returns The packet, or errno as a negative number.
 */
export function receivePacket(fd: number): Received | number {
  packet ??= new Uint8Array(LARGEST_PACKET);
  prepare(packet, control.byteLength);
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
    data: packet.slice(0, n),
    descriptors,
    cut: ((header[FLAGS] as number) & MSG_CTRUNC) !== 0,
  };
}
