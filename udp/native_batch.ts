/**
 * Batches as recvmmsg(2) and sendmmsg(2) take them. On machines with 64-bit
 * pointers, in 32-bit words (bits/types/struct_iovec.h, bits/socket.h):
 *
 *     struct iovec     0 base 64 bits | 2 length 64 bits                                       4 words
 *     struct mmsghdr   0 name 64 bits | 2 namelen | 4 iov 64 bits | 6 iovlen 64 bits
 *                      8 control 64 bits | 10 controllen 64 bits | 12 flags | 14 msg_len      16 words
 */

import { libc } from "../internal/libc.ts";
import { MSG_NOSIGNAL, MSG_TRUNC } from "../internal/socket.ts";
import { SOCKADDR_SIZE } from "../internal/sockaddr.ts";
import { receiveMany, transmitMany } from "../internal/syscall.ts";
import { type BatchMemory, NAME_SIZE } from "./datagram_batch.ts";

const IOVEC_WORDS = 4;
const IOVEC_LENGTH = 2;
const HEADER_WORDS = 16;
const NAME = 0;
const NAME_LENGTH = 2;
const IOVEC = 4;
const IOVEC_COUNT = 6;
const RECEIVED = 14;

/** The headers of one batch, which point into its memory. */
export class NativeBatch {
  readonly #headers: Uint32Array<ArrayBuffer>;
  readonly #headerBytes: Uint8Array<ArrayBuffer>;
  readonly #vectors: Uint32Array<ArrayBuffer>;
  readonly #memory: BatchMemory;
  /** How many headers hold something else than what a receive needs. */
  #used: number;

  constructor(memory: BatchMemory) {
    const { capacity, datagramSize, data, names } = memory;
    this.#memory = memory;
    this.#headers = new Uint32Array(capacity * HEADER_WORDS);
    this.#headerBytes = new Uint8Array(this.#headers.buffer);
    this.#vectors = new Uint32Array(capacity * IOVEC_WORDS);
    const [at, vectors] = [addressOf(data), addressOf(new Uint8Array(this.#vectors.buffer))];
    const peers = addressOf(names);
    const headers = new BigUint64Array(this.#headers.buffer);
    const pointers = new BigUint64Array(this.#vectors.buffer);
    for (let i = 0; i < capacity; i++) {
      pointers[i * IOVEC_WORDS / 2] = at + BigInt(i * datagramSize);
      headers[(i * HEADER_WORDS + NAME) / 2] = peers + BigInt(i * NAME_SIZE);
      headers[(i * HEADER_WORDS + IOVEC) / 2] = vectors + BigInt(i * IOVEC_WORDS * 4);
      this.#headers[i * HEADER_WORDS + IOVEC_COUNT] = 1;
    }
    this.#used = capacity;
  }

  /** recvmmsg(2); returns the number of datagrams, or errno as a negative number. */
  receive(fd: number): number {
    const { capacity, datagramSize, nameLengths, sizes } = this.#memory;
    const headers = this.#headers;
    for (let i = 0; i < this.#used; i++) {
      headers[i * HEADER_WORDS + NAME_LENGTH] = SOCKADDR_SIZE;
      this.#vectors[i * IOVEC_WORDS + IOVEC_LENGTH] = datagramSize;
    }
    this.#used = 0;
    const n = receiveMany(fd, this.#headerBytes, capacity, MSG_TRUNC);
    if (n < 0) return n;
    this.#used = n;
    this.#memory.length = n;
    for (let i = 0; i < n; i++) {
      nameLengths[i] = headers[i * HEADER_WORDS + NAME_LENGTH] as number;
      sizes[i] = headers[i * HEADER_WORDS + RECEIVED] as number;
    }
    return n;
  }

  /** sendmmsg(2) of the datagrams from `start` to `end`; returns how many it took, or errno as a negative number. */
  send(fd: number, start: number, end: number): number {
    const { datagramSize, nameLengths, sizes } = this.#memory;
    for (let i = start; i < end; i++) {
      this.#headers[i * HEADER_WORDS + NAME_LENGTH] = nameLengths[i] as number;
      this.#vectors[i * IOVEC_WORDS + IOVEC_LENGTH] = Math.min(sizes[i] as number, datagramSize);
    }
    this.#used = Math.max(this.#used, end);
    const headers = start === 0 ? this.#headerBytes : this.#headerBytes.subarray(start * HEADER_WORDS * 4);
    return transmitMany(fd, headers, end - start, MSG_NOSIGNAL);
  }
}

/** Where a buffer lies; it does not move as long as it is not transferred away. */
function addressOf(bytes: Uint8Array<ArrayBuffer>): bigint {
  return BigInt(libc.memcpy_address(bytes, null, 0));
}

/** The headers that belong to a batch, made at its first use. */
export function nativeBatch(memory: BatchMemory): NativeBatch {
  if (memory.data.length === 0 || memory.names.length === 0) {
    throw new TypeError("The batch's memory was transferred away");
  }
  return (memory.kept ??= new NativeBatch(memory)) as NativeBatch;
}
