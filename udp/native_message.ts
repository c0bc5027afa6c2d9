/** One datagram with its local address: recvmsg(2) and sendmsg(2). */

import {
  CONTROL,
  CONTROL_LENGTH,
  HEADER_WORDS,
  IOVEC,
  IOVEC_COUNT,
  IOVEC_LENGTH,
  IOVEC_WORDS,
  NAME,
  NAME_LENGTH,
  pointerTo,
  setPointer,
} from "../internal/msghdr.ts";
import { sizeOf, viewOf } from "../internal/bytes.ts";
import { AF_INET6, SOCKADDR_SIZE } from "../internal/sockaddr.ts";
import { receiveMessage, transmitMessage } from "../internal/syscall.ts";
import { INFO_WORDS, PacketInfo, Sides, writeLocal } from "./packet_info.ts";
import { NAME_SIZE } from "./peer_cache.ts";

/** A `struct msghdr` with all that it points to, but the datagram. Made at its first use. */
class Message {
  readonly name = new Uint8Array(new ArrayBuffer(NAME_SIZE));
  readonly info = new PacketInfo(1);
  readonly control = new Uint32Array(new ArrayBuffer(INFO_WORDS * 4));
  readonly #source = new Sides(1);
  readonly #header = new Uint32Array(new ArrayBuffer(HEADER_WORDS * 4));
  readonly #headerBytes = new Uint8Array(this.#header.buffer);
  readonly #vector = new Uint32Array(new ArrayBuffer(IOVEC_WORDS * 4));
  readonly #nameAt = pointerTo(this.name);

  constructor() {
    setPointer(this.#header, IOVEC, pointerTo(new Uint8Array(this.#vector.buffer)));
    setPointer(this.#header, CONTROL, pointerTo(new Uint8Array(this.control.buffer)));
    this.#header[IOVEC_COUNT] = 1;
  }

  receive(fd: number, p: Uint8Array, flags: number): number {
    this.#point(p);
    setPointer(this.#header, NAME, this.#nameAt);
    this.#header[NAME_LENGTH] = SOCKADDR_SIZE;
    this.#header[CONTROL_LENGTH] = INFO_WORDS * 4;
    const n = receiveMessage(fd, this.#headerBytes, flags);
    if (n >= 0) {
      this.info.read(0, this.control, 0, this.#header[CONTROL_LENGTH] as number, this.name[0] === AF_INET6);
    }
    return n;
  }

  send(
    fd: number,
    p: Uint8Array,
    to: Uint8Array<ArrayBuffer> | undefined,
    from: Uint8Array<ArrayBuffer>,
    flags: number,
  ): number {
    this.#point(p);
    if (to !== undefined) this.name.set(to);
    setPointer(this.#header, NAME, to === undefined ? 0 : this.#nameAt);
    this.#header[NAME_LENGTH] = to?.length ?? 0;
    this.#source.set(0, from);
    this.#header[CONTROL_LENGTH] = writeLocal(this.#source, 0, this.control, 0) * 4;
    return transmitMessage(fd, this.#headerBytes, flags);
  }

  /** The datagram's memory; it stays where it is until the call returns, for nothing else runs meanwhile. */
  #point(p: Uint8Array): void {
    const size = sizeOf(p);
    // A view has memory that does not move: V8 keeps a small array without one in its own heap.
    setPointer(this.#vector, 0, size === 0 ? this.#nameAt : pointerTo(viewOf(p) as Uint8Array<ArrayBuffer>));
    this.#vector[IOVEC_LENGTH] = size;
  }
}

let made: Message | undefined;

/** The message of this thread. */
export function message(): Message {
  return made ??= new Message();
}
