/** Batches with one datagram a header, as recvmmsg(2) and sendmmsg(2) take them. */

import { MSG_NOSIGNAL, MSG_TRUNC } from "../internal/socket.ts";
import { SOCKADDR_SIZE } from "../internal/sockaddr.ts";
import { receiveMany, transmitMany } from "../internal/syscall.ts";
import type { BatchMemory, KernelBatch } from "./datagram_batch.ts";
import {
  HEADER_WORDS,
  IOVEC,
  IOVEC_COUNT,
  IOVEC_LENGTH,
  IOVEC_WORDS,
  NAME,
  NAME_LENGTH,
  pointerTo,
  RECEIVED,
  setPointer,
} from "../internal/msghdr.ts";
import { NAME_SIZE } from "./peer_cache.ts";

/** The headers of a batch with one datagram for each, which point into its memory once and for all. */
export class NativeBatch implements KernelBatch {
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
    const [at, vectors] = [pointerTo(data), pointerTo(new Uint8Array(this.#vectors.buffer))];
    const peers = pointerTo(names);
    for (let i = 0; i < capacity; i++) {
      setPointer(this.#vectors, i * IOVEC_WORDS, at + i * datagramSize);
      setPointer(this.#headers, i * HEADER_WORDS + NAME, peers + i * NAME_SIZE);
      setPointer(this.#headers, i * HEADER_WORDS + IOVEC, vectors + i * IOVEC_WORDS * 4);
      this.#headers[i * HEADER_WORDS + IOVEC_COUNT] = 1;
    }
    this.#used = capacity;
  }

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
