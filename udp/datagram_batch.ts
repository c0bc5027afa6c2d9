/** Many datagrams for one system call. */

import { hostKind } from "../internal/address.ts";
import { atCaller } from "../internal/stack.ts";
import {
  checkBoolean,
  checkBytes,
  checkHostname,
  checkInteger,
  checkOptions,
  checkPort,
  quote,
} from "../internal/validate.ts";
import { Peers } from "./peers.ts";

/**
 * How large a {@linkcode DatagramBatch} is.
 *
 * @example A thousand small ones
 * ```ts
 * import { DatagramBatch, type DatagramBatchOptions } from "@c10k/sockets/udp";
 *
 * const options: DatagramBatchOptions = { capacity: 1000, datagramSize: 512 };
 * const batch = new DatagramBatch(options); // takes 512 kB, once
 * console.log(batch.capacity);
 * ```
 */
export interface DatagramBatchOptions {
  /**
   * Datagrams that it has room for, from 1 to 1024 (`UIO_MAXIOV`).
   *
   * @default {64}
   */
  capacity?: number;
  /**
   * Bytes that each has room for, from 1 to 65,535.
   *
   * @default {2048}
   */
  datagramSize?: number;
  /**
   * Send datagrams of one size to one peer that follow each other as one
   * message, which the kernel cuts as late as possible (generic segmentation
   * offload, `UDP_SEGMENT` of udp(7)). Native engine; where a path or the
   * kernel cannot, and on the runtime engine, they go one by one.
   *
   * @default {false}
   */
  gso?: boolean;
  /**
   * Receive what arrived together from one peer as one message of up to
   * 64 KiB (generic receive offload, `UDP_GRO` of udp(7)), and take it apart
   * here: `length` may then be up to 128 × `capacity`, and the batch takes
   * 70 KiB × `capacity` more memory. The first such receive sets the option
   * on the socket, whose other receives are refused from then on. Native
   * engine; where the kernel cannot, and on the runtime engine, they come one
   * by one.
   *
   * @default {false}
   */
  gro?: boolean;
}

const DEFAULT_CAPACITY = 64;
const DEFAULT_SIZE = 2048;
/** Room for a `struct sockaddr_in6`, on a boundary of 8 bytes. */
export const NAME_SIZE = 32;
/**
 * Largest message that `UDP_GRO` makes, in bytes, and the datagrams in it: the kernel joins up to 64
 * (`UDP_GRO_CNT_MAX`), and hands on what a sender on this machine has joined, up to 128 (`UDP_MAX_SEGMENTS`).
 */
export const GRO_SIZE = 65_536;
export const GRO_SEGMENTS = 128;
/** What sendmmsg(2) takes at once, `UIO_MAXIOV`. */
export const MOST_MESSAGES = 1024;

/** What a batch is made of; the engines fill it. */
export interface BatchMemory {
  readonly capacity: number;
  readonly datagramSize: number;
  readonly gso: boolean;
  readonly gro: boolean;
  /** Datagrams at most: with `gro` one of the `capacity` messages may bring many. */
  readonly most: number;
  /** `datagramSize` bytes for each datagram that is set, then with `gro` {@linkcode GRO_SIZE} for each message. */
  readonly data: Uint8Array<ArrayBuffer>;
  /** The addresses as the kernel takes them, {@linkcode NAME_SIZE} bytes each. */
  readonly names: Uint8Array<ArrayBuffer>;
  /** Bytes of each address, 0 if there is none. */
  readonly nameLengths: Uint32Array<ArrayBuffer>;
  /** The peers in it as objects. */
  readonly peers: Peers;
  /** Where each datagram begins in `data`. */
  readonly offsets: Uint32Array<ArrayBuffer>;
  /** Bytes of each datagram, as it was sent. */
  readonly sizes: Uint32Array<ArrayBuffer>;
  /** Bytes that a datagram has room for; what is larger was cut. */
  room: number;
  /** How many there are. */
  length: number;
  /** What an engine keeps with it, made once. */
  kept: unknown;
}

let memoryOfBatch: (batch: DatagramBatch) => BatchMemory;

/**
 * Buffers for many datagrams, laid out once and used again: what
 * `recvmmsg(2)` fills and `sendmmsg(2)` sends in one system call.
 *
 * What a receive has put there can be sent back as it stands: each datagram
 * has its sender's address.
 *
 * @example Send ten datagrams at once
 * ```ts
 * import { DatagramBatch, UdpEndpoint } from "@c10k/sockets/udp";
 *
 * using a = UdpEndpoint.bind({ hostname: "127.0.0.1" });
 * using b = UdpEndpoint.bind({ hostname: "127.0.0.1" });
 * const batch = new DatagramBatch();
 * for (let i = 0; i < 10; i++) batch.set(i, new Uint8Array([i]), b.addr);
 * await a.sendBatch(batch);
 *
 * const received = new DatagramBatch();
 * const n = await b.recvBatch(received);
 * for (let i = 0; i < n; i++) console.log(received.data(i), received.address(i));
 * ```
 */
export class DatagramBatch {
  readonly #memory: BatchMemory;

  static {
    memoryOfBatch = (batch) => batch.#memory;
  }

  /**
   * Lays out the buffers: `capacity` × `datagramSize` bytes.
   *
   * @param options How many, and how large.
   * @throws {TypeError} If an option has the wrong type.
   * @throws {RangeError} If a number is out of range.
   */
  constructor(options: DatagramBatchOptions = {}) {
    checkOptions(options);
    const capacity = checkInteger(options.capacity ?? DEFAULT_CAPACITY, "capacity", 1, MOST_MESSAGES);
    const datagramSize = checkInteger(options.datagramSize ?? DEFAULT_SIZE, "datagramSize", 1, 65535);
    const gso = checkBoolean(options.gso ?? false, "gso");
    const gro = checkBoolean(options.gro ?? false, "gro");
    const most = gro ? capacity * GRO_SEGMENTS : capacity;
    this.#memory = {
      capacity,
      datagramSize,
      gso,
      gro,
      most,
      // By way of an ArrayBuffer: V8 keeps small arrays without one in its own heap, where they move.
      data: new Uint8Array(new ArrayBuffer(capacity * (datagramSize + (gro ? GRO_SIZE : 0)))),
      names: new Uint8Array(new ArrayBuffer(most * NAME_SIZE)),
      nameLengths: new Uint32Array(most),
      peers: new Peers(),
      offsets: new Uint32Array(most),
      sizes: new Uint32Array(most),
      room: datagramSize,
      length: 0,
      kept: undefined,
    };
    placeInOrder(this.#memory);
  }

  /** Datagrams that it has room for; with `gro` messages, of up to 128 datagrams each. */
  get capacity(): number {
    return this.#memory.capacity;
  }

  /** Datagrams that it holds: as many as the last receive brought, or as were set. */
  get length(): number {
    return this.#memory.length;
  }

  set length(length: number) {
    this.#memory.length = checkInteger(length, "length", 0, this.#memory.most);
  }

  /**
   * Returns what a datagram carries: a view of the batch's own memory, valid
   * until the next receive.
   *
   * @param i The datagram's number, from 0.
   *
   * @example What it carries
   * ```ts
   * import { DatagramBatch } from "@c10k/sockets/udp";
   * import { assertEquals } from "@std/assert";
   *
   * const batch = new DatagramBatch({ capacity: 4 });
   * batch.set(0, new Uint8Array([1, 2, 3]), { hostname: "127.0.0.1", port: 9 });
   * assertEquals(batch.data(0), new Uint8Array([1, 2, 3]));
   * ```
   */
  data(i: number): Uint8Array<ArrayBuffer> {
    const { data, offsets, room, sizes } = this.#memory;
    const from = offsets[this.#check(i)] as number;
    return data.subarray(from, from + Math.min(sizes[i] as number, room));
  }

  /**
   * Returns a datagram's size as it was sent, also if there was no room for all of it.
   *
   * @param i The datagram's number, from 0.
   *
   * @example How large it is
   * ```ts
   * import { DatagramBatch } from "@c10k/sockets/udp";
   * import { assertEquals } from "@std/assert";
   *
   * const batch = new DatagramBatch({ capacity: 4 });
   * batch.set(0, new Uint8Array([1, 2, 3]), { hostname: "127.0.0.1", port: 9 });
   * assertEquals(batch.size(0), 3);
   * ```
   */
  size(i: number): number {
    return this.#memory.sizes[this.#check(i)] as number;
  }

  /**
   * Tells whether there was no room for all of a datagram.
   *
   * @param i The datagram's number, from 0.
   *
   * @example Whether all is there
   * ```ts
   * import { DatagramBatch } from "@c10k/sockets/udp";
   * import { assertEquals } from "@std/assert";
   *
   * const batch = new DatagramBatch({ capacity: 4 });
   * batch.set(0, new Uint8Array([1, 2, 3]), { hostname: "127.0.0.1", port: 9 });
   * assertEquals(batch.truncated(0), false);
   * ```
   */
  truncated(i: number): boolean {
    return this.size(i) > this.#memory.room;
  }

  /**
   * Returns where a datagram comes from, or goes to.
   *
   * @param i The datagram's number, from 0.
   * @returns The address. The same object for the same peer, mostly; it cannot be changed.
   * @throws {RangeError} If there is no such datagram.
   * @throws {TypeError} If it was set without an address, for a connected endpoint.
   *
   * @example Where it goes
   * ```ts
   * import { DatagramBatch } from "@c10k/sockets/udp";
   * import { assertEquals } from "@std/assert";
   *
   * const batch = new DatagramBatch({ capacity: 4 });
   * batch.set(0, new Uint8Array([1, 2, 3]), { hostname: "127.0.0.1", port: 9 });
   * assertEquals(batch.address(0).port, 9);
   * ```
   */
  address(i: number): Deno.NetAddr {
    const { names, nameLengths, peers } = this.#memory;
    if (nameLengths[this.#check(i)] === 0) throw atCaller(new TypeError(`Datagram ${i} has no address`));
    return peers.decode(names, i * NAME_SIZE);
  }

  /**
   * Puts a datagram into the batch, as a copy. The length grows to hold it.
   *
   * @param i The datagram's number, from 0 to the length.
   * @param data What it carries.
   * @param to Where it goes: an address, no name; may be left out for a connected endpoint.
   * @throws {TypeError} If an argument has the wrong type, `to` is no address, or its zone no interface.
   * @throws {RangeError} If there is no room for it.
   *
   * @example Fill a batch
   * ```ts
   * import { DatagramBatch } from "@c10k/sockets/udp";
   * import { assertEquals } from "@std/assert";
   *
   * const batch = new DatagramBatch({ capacity: 4 });
   * batch.set(0, new Uint8Array([1, 2, 3]), { hostname: "127.0.0.1", port: 9 });
   * assertEquals(batch.length, 1);
   * ```
   */
  set(i: number, data: Uint8Array, to?: { hostname: string; port: number }): void {
    const memory = this.#memory;
    checkInteger(i, "i", 0, Math.min(memory.length, memory.capacity - 1));
    checkBytes(data, "data");
    if (data.length > memory.datagramSize) {
      throw atCaller(new RangeError(`data must have at most ${memory.datagramSize} bytes, received ${data.length}`));
    }
    if (to === undefined) {
      memory.nameLengths[i] = 0;
    } else {
      checkOptions(to, "to");
      const { hostname: host, port } = to;
      const hostname = checkHostname(host);
      const peer = memory.peers.encode(hostname, checkPort(port, "port", 1));
      if (peer === undefined) {
        const problem = hostKind(hostname) === "name" ? "must be an IP address" : "has the zone of no interface";
        throw atCaller(new TypeError(`hostname ${problem}, received ${quote(host)}`));
      }
      memory.names.set(peer.sockaddr, i * NAME_SIZE);
      memory.nameLengths[i] = peer.sockaddr.length;
    }
    memory.offsets[i] = i * memory.datagramSize;
    memory.data.set(data, memory.offsets[i]);
    memory.sizes[i] = data.length;
    if (i === memory.length) memory.length++;
  }

  #check(i: number): number {
    return checkInteger(i, "i", 0, this.#memory.length - 1);
  }
}

/**
 * The memory of a batch, for the engines.
 *
 * @throws {TypeError} If somebody has transferred it away, by the buffer behind `data(i)`.
 */
export function memoryOf(batch: DatagramBatch): BatchMemory {
  const memory = memoryOfBatch(batch);
  if (memory.data.length === 0) throw atCaller(new TypeError("The batch's memory was transferred away"));
  return memory;
}

/** Gives each of the first `capacity` datagrams its place of `datagramSize` bytes. */
export function placeInOrder(memory: BatchMemory): void {
  const { capacity, datagramSize, offsets } = memory;
  for (let i = 0; i < capacity; i++) offsets[i] = i * datagramSize;
  memory.room = datagramSize;
}
