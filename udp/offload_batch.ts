/**
 * Batches with control messages. They leave the cutting and joining of datagrams to the kernel (udp(7)):
 *
 * - `UDP_SEGMENT`, generic segmentation offload: datagrams of one size to one
 *   peer go down the stack as one message, which is cut as late as possible.
 * - `UDP_GRO`, generic receive offload: what arrived together from one peer
 *   comes up as one message of up to 64 KiB, with the size of its pieces.
 *
 * And they carry the addresses on this machine (udp/packet_info.ts), once a batch has some.
 */

import { constants } from "node:os";
import { MSG_NOSIGNAL, MSG_TRUNC } from "../internal/socket.ts";
import { AF_INET6, SOCKADDR_SIZE } from "../internal/sockaddr.ts";
import { receiveMany, transmitMany } from "../internal/syscall.ts";
import { type BatchMemory, GRO_SEGMENTS, GRO_SIZE, type KernelBatch, MOST_MESSAGES } from "./datagram_batch.ts";
import {
  CONTROL,
  CONTROL_DATA,
  CONTROL_LENGTH,
  CONTROL_WORDS,
  findControl,
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
import { INFO_WORDS, type PacketInfo, writeLocal } from "./packet_info.ts";
import { NAME_SIZE } from "./peer_cache.ts";

// linux/udp.h
export const SOL_UDP = 17;
export const UDP_SEGMENT = 103;
export const UDP_GRO = 104;
/** `UDP_MAX_SEGMENTS` of the kernels that have the least. */
const MOST_SEGMENTS = 64;
/** Largest payload of what is to be cut, in bytes (RFC 768 over IPv4). */
const LARGEST_MESSAGE = 65_507;
const NAME_WORDS = NAME_SIZE / 4;
/** Bytes of the control message up to the end of its data: `CMSG_LEN`. */
const SEGMENT_LENGTH = 18;

/** What the kernel answers where a message cannot be cut: a path of smaller packets, no checksums in hardware, IPsec. */
const CANNOT_CUT: ReadonlySet<number> = new Set(
  (["EINVAL", "EMSGSIZE", "EIO", "ENOPROTOOPT"] as const).map((name) => -constants.errno[name]),
);

/** Headers with the vectors and control messages that they point to. */
class Headers {
  readonly words: Uint32Array<ArrayBuffer>;
  readonly bytes: Uint8Array<ArrayBuffer>;
  readonly control: Uint32Array<ArrayBuffer>;

  constructor(count: number, controlWords: number) {
    this.words = new Uint32Array(count * HEADER_WORDS);
    this.bytes = new Uint8Array(this.words.buffer);
    this.control = new Uint32Array(count * controlWords);
    const at = pointerTo(new Uint8Array(this.control.buffer));
    for (let i = 0; i < count; i++) setPointer(this.words, i * HEADER_WORDS + CONTROL, at + i * controlWords * 4);
  }
}

/** {@linkcode KernelBatch} of a batch with `gso` or `gro`. */
export class OffloadBatch implements KernelBatch {
  readonly #memory: BatchMemory;
  /** Words of room for the control messages of one message. */
  readonly #controlWords: number;
  readonly #incoming: Headers;
  readonly #outgoing: Headers;
  readonly #outgoingVectors: Uint32Array<ArrayBuffer>;
  /** For each outgoing message the number of its first datagram. */
  readonly #firsts: Uint32Array<ArrayBuffer>;
  readonly #incomingVectors: Uint32Array<ArrayBuffer>;
  readonly #nameWords: Uint32Array<ArrayBuffer>;
  readonly #data: number;
  readonly #names: number;
  readonly #vectors: number;
  /** Where received messages go, and the room for each. */
  readonly #from: number;
  readonly #room: number;

  constructor(memory: BatchMemory) {
    const { capacity, datagramSize, gro, data, names, most } = memory;
    this.#memory = memory;
    this.#controlWords = memory.info === undefined ? CONTROL_WORDS : INFO_WORDS;
    this.#incoming = new Headers(capacity, this.#controlWords);
    this.#outgoing = new Headers(Math.min(most, MOST_MESSAGES), this.#controlWords);
    this.#incomingVectors = new Uint32Array(capacity * IOVEC_WORDS);
    this.#outgoingVectors = new Uint32Array(most * IOVEC_WORDS);
    this.#firsts = new Uint32Array(Math.min(most, MOST_MESSAGES) + 1);
    this.#nameWords = new Uint32Array(names.buffer);
    this.#data = pointerTo(data);
    this.#names = pointerTo(names);
    this.#vectors = pointerTo(new Uint8Array(this.#outgoingVectors.buffer));
    this.#from = gro ? capacity * datagramSize : 0;
    this.#room = gro ? GRO_SIZE : datagramSize;
    const vectors = pointerTo(new Uint8Array(this.#incomingVectors.buffer));
    const { words } = this.#incoming;
    for (let i = 0; i < capacity; i++) {
      setPointer(this.#incomingVectors, i * IOVEC_WORDS, this.#data + this.#from + i * this.#room);
      this.#incomingVectors[i * IOVEC_WORDS + IOVEC_LENGTH] = this.#room;
      setPointer(words, i * HEADER_WORDS + NAME, this.#names + i * NAME_SIZE);
      setPointer(words, i * HEADER_WORDS + IOVEC, vectors + i * IOVEC_WORDS * 4);
      words[i * HEADER_WORDS + IOVEC_COUNT] = 1;
    }
  }

  receive(fd: number): number {
    const { capacity } = this.#memory;
    const { words, bytes } = this.#incoming;
    for (let i = 0; i < capacity; i++) {
      words[i * HEADER_WORDS + NAME_LENGTH] = SOCKADDR_SIZE;
      words[i * HEADER_WORDS + CONTROL_LENGTH] = this.#controlWords * 4;
    }
    const n = receiveMany(fd, bytes, capacity, MSG_TRUNC);
    return n < 0 ? n : this.#takeApart(n);
  }

  /** Makes datagrams of messages: from the last to the first, since names move up. */
  #takeApart(messages: number): number {
    const memory = this.#memory;
    const { offsets, sizes, nameLengths, info } = memory;
    const { words } = this.#incoming;
    let length = 0;
    for (let m = 0; m < messages; m++) length += this.#pieces(m);
    memory.room = this.#room;
    memory.length = length;
    for (let m = messages - 1, i = length; m >= 0; m--) {
      const total = words[m * HEADER_WORDS + RECEIVED] as number;
      const size = this.#pieceSize(m);
      const from = this.#from + m * this.#room;
      const nameLength = words[m * HEADER_WORDS + NAME_LENGTH] as number;
      for (let piece = this.#pieces(m) - 1; piece >= 0; piece--) {
        i--;
        offsets[i] = from + piece * size;
        sizes[i] = Math.min(size, total - piece * size);
        nameLengths[i] = nameLength;
        if (i !== m) this.#copyName(m, i);
        if (info !== undefined) this.#readInfo(info, m, i);
      }
    }
    return length;
  }

  #pieces(m: number): number {
    const total = this.#incoming.words[m * HEADER_WORDS + RECEIVED] as number;
    const size = this.#pieceSize(m);
    // A kernel that joins still more would cost what is beyond, but never the borders of what is not.
    return size >= total ? 1 : Math.min(Math.ceil(total / size), GRO_SEGMENTS);
  }

  /** Bytes of a message's pieces: all of it if it is one datagram. */
  #pieceSize(m: number): number {
    const { words, control } = this.#incoming;
    const length = words[m * HEADER_WORDS + CONTROL_LENGTH] as number;
    const at = length === 0 ? -1 : findControl(control, m * this.#controlWords, length, SOL_UDP, UDP_GRO);
    return (at >= 0 ? control[at] : words[m * HEADER_WORDS + RECEIVED]) as number;
  }

  #readInfo(info: PacketInfo, m: number, i: number): void {
    const { words, control } = this.#incoming;
    const length = words[m * HEADER_WORDS + CONTROL_LENGTH] as number;
    const isIPv6 = this.#memory.names[i * NAME_SIZE] === AF_INET6;
    info.read(i, control, m * this.#controlWords, length, isIPv6);
  }

  send(fd: number, start: number, end: number): number {
    let taken = this.#sendAs(fd, start, end, this.#memory.gso ? MOST_SEGMENTS : 1);
    if (CANNOT_CUT.has(taken) && this.#firsts[1] as number > start + 1) taken = this.#sendAs(fd, start, end, 1);
    return taken;
  }

  #sendAs(fd: number, start: number, end: number, segments: number): number {
    const { sizes, nameLengths, offsets, room, info } = this.#memory;
    const { words, bytes, control } = this.#outgoing;
    const vectors = this.#outgoingVectors;
    const firsts = this.#firsts;
    let messages = 0;
    for (let i = start; i < end && messages < MOST_MESSAGES; messages++) {
      const count = segments === 1 ? 1 : this.#run(i, Math.min(end, i + segments));
      const at = messages * HEADER_WORDS;
      setPointer(words, at + NAME, this.#names + i * NAME_SIZE);
      words[at + NAME_LENGTH] = nameLengths[i] as number;
      setPointer(words, at + IOVEC, this.#vectors + i * IOVEC_WORDS * 4);
      words[at + IOVEC_COUNT] = count;
      const first = messages * this.#controlWords;
      let here = first;
      if (count > 1) {
        control[here] = SEGMENT_LENGTH;
        control[here + 1] = 0;
        control[here + 2] = SOL_UDP;
        control[here + 3] = UDP_SEGMENT;
        // A 16-bit number, which comes first on these machines.
        control[here + CONTROL_DATA] = sizes[i] as number;
        here += CONTROL_WORDS;
      }
      if (info !== undefined) here += writeLocal(info.locals, i, control, here);
      words[at + CONTROL_LENGTH] = (here - first) * 4;
      firsts[messages] = i;
      for (const last = i + count; i < last; i++) {
        setPointer(vectors, i * IOVEC_WORDS, this.#data + (offsets[i] as number));
        vectors[i * IOVEC_WORDS + IOVEC_LENGTH] = Math.min(sizes[i] as number, room);
      }
      firsts[messages + 1] = i;
    }
    const n = transmitMany(fd, bytes, messages, MSG_NOSIGNAL);
    return n < 0 ? n : (firsts[n] as number) - start;
  }

  /** How many datagrams from `i` on can go as one message: all but the last of one size, to one peer. */
  #run(i: number, end: number): number {
    const { sizes } = this.#memory;
    const size = sizes[i] as number;
    let total = size;
    let next = i + 1;
    for (; size > 0 && next < end; next++) {
      const more = sizes[next] as number;
      if (more === 0 || more > size || total + more > LARGEST_MESSAGE || !this.#isSamePeer(i, next)) break;
      total += more;
      if (more < size) return next + 1 - i;
    }
    return next - i;
  }

  #isSamePeer(a: number, b: number): boolean {
    const { nameLengths, info } = this.#memory;
    const length = nameLengths[a] as number;
    if (nameLengths[b] !== length) return false;
    if (info !== undefined && !info.locals.isSame(a, b)) return false;
    for (let word = 0; word < length / 4; word++) {
      if (this.#nameWords[a * NAME_WORDS + word] !== this.#nameWords[b * NAME_WORDS + word]) return false;
    }
    return true;
  }

  #copyName(from: number, to: number): void {
    for (let word = 0; word < NAME_WORDS; word++) {
      this.#nameWords[to * NAME_WORDS + word] = this.#nameWords[from * NAME_WORDS + word] as number;
    }
  }
}
