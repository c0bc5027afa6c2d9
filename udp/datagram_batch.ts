/** Many datagrams for one system call. */

import { hostKind } from "../internal/address.ts";
import { sizeOf, viewOf } from "../internal/bytes.ts";
import {
  checkBoolean,
  checkBytes,
  checkHostname,
  checkInteger,
  checkOptions,
  checkPort,
  quote,
} from "../internal/validate.ts";
import { familyOf, PacketInfo, type Sides } from "./packet_info.ts";
import { NAME_SIZE, type Peer, Peers } from "./peer_cache.ts";
import { atCaller } from "../internal/stack.ts";

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
/**
 * Largest message that `UDP_GRO` makes, in bytes, and the datagrams in it: the kernel joins up to 64
 * (`UDP_GRO_CNT_MAX`), and hands on what a sender on this machine has joined, up to 128 (`UDP_MAX_SEGMENTS`).
 */
export const GRO_SIZE = 65_536;
export const GRO_SEGMENTS = 128;
/** What sendmmsg(2) takes at once, `UIO_MAXIOV`. */
export const MOST_MESSAGES = 1024;

/** A batch as the kernel takes it. Both calls return a number of datagrams, or errno as a negative number. */
export interface KernelBatch {
  /** recvmmsg(2); the batch holds what came. */
  receive(fd: number): number;
  /** sendmmsg(2) of the datagrams from `start` to `end`; returns how many it took. */
  send(fd: number, start: number, end: number): number;
}

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
  /** The addresses on this machine; `undefined` until one is known. */
  info: PacketInfo | undefined;
  /** How many there are. */
  length: number;
  /** What the native engine keeps with it, made at its first use. */
  kept: KernelBatch | undefined;
}

let memoryOfBatch: (batch: DatagramBatch) => BatchMemory;

/** Returns whether a value is a genuine batch, or of a subclass: a `Proxy` has no memory. */
export let isBatch: (value: unknown) => value is DatagramBatch;

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
    isBatch = (value): value is DatagramBatch => typeof value === "object" && value !== null && #memory in value;
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
      info: undefined,
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
    return dataIn(this.#memory, this.#check(i));
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
    return this.#memory.sizes[this.#check(i)] as number > this.#memory.room;
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
    if (this.#memory.nameLengths[this.#check(i)] === 0) throw atCaller(new TypeError(`Datagram ${i} has no address`));
    return addressIn(this.#memory, i);
  }

  /**
   * Returns the local address of a datagram: the one that an answer leaves
   * from, as {@linkcode Datagram.localAddress}.
   *
   * @param i The datagram's number, from 0.
   * @returns The address; `undefined` if it is not known, and the kernel chooses one.
   * @throws {RangeError} If there is no such datagram.
   *
   * @example Leave from another address than the kernel's choice
   * ```ts
   * import { DatagramBatch } from "@c10k/sockets/udp";
   * import { assertEquals } from "@std/assert";
   *
   * const batch = new DatagramBatch({ capacity: 4 });
   * const to = { hostname: "127.0.0.1", port: 9 };
   * batch.set(0, new Uint8Array(3), to, { localAddress: "127.0.0.2" });
   * assertEquals(batch.localAddress(0), "127.0.0.2");
   * ```
   */
  localAddress(i: number): string | undefined {
    return localIn(this.#memory, this.#check(i));
  }

  /**
   * Returns the address that a received datagram was sent to, as
   * {@linkcode Datagram.destination}.
   *
   * @param i The datagram's number, from 0.
   * @returns The address; `undefined` unless the endpoint was bound with `packetInfo`.
   * @throws {RangeError} If there is no such datagram.
   *
   * @example The address that was asked
   * ```ts
   * import { DatagramBatch, engineSupport, UdpEndpoint } from "@c10k/sockets/udp";
   * import { assertEquals } from "@std/assert";
   *
   * if (engineSupport().engine === "native") {
   *   using server = UdpEndpoint.bind({ hostname: "0.0.0.0", packetInfo: true });
   *   using client = UdpEndpoint.bind({ hostname: "127.0.0.1" });
   *   await client.sendTo(new Uint8Array(3), { hostname: "127.0.0.2", port: server.addr.port });
   *   const batch = new DatagramBatch();
   *   await server.recvBatch(batch);
   *   assertEquals(batch.destination(0), "127.0.0.2");
   * }
   * ```
   */
  destination(i: number): string | undefined {
    this.#check(i);
    const { info, peers } = this.#memory;
    return info === undefined ? undefined : hostOf(peers, info.destinations, i);
  }

  /**
   * Puts a datagram into the batch, as a copy. The length grows to hold it.
   *
   * @param i The datagram's number, from 0 to the length.
   * @param data What it carries.
   * @param to Where it goes: an address, no name; may be left out for a connected endpoint.
   * @param options The local address that it leaves from.
   * @throws {TypeError} If an argument has the wrong type, an address is none, has the zone of no interface, or the
   * two are of different families.
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
  set(
    i: number,
    data: Uint8Array,
    to?: { hostname: string; port: number },
    options?: { localAddress?: string },
  ): void {
    const memory = this.#memory;
    // The addresses first: their getters can resize or transfer `data`, and change the batch.
    const peer = to === undefined ? undefined : peerAt(memory, to);
    const localAddress = options === undefined ? undefined : checkLocalAddress(options);
    const local = localAddress === undefined ? undefined : localPeer(memory.peers, localAddress, peer);
    checkInteger(i, "i", 0, Math.min(memory.length, memory.capacity - 1));
    checkBytes(data, "data");
    const size = sizeOf(data);
    if (size > memory.datagramSize) {
      throw atCaller(new RangeError(`data must have at most ${memory.datagramSize} bytes, received ${size}`));
    }
    if (peer !== undefined) memory.names.set(peer.sockaddr, i * NAME_SIZE);
    memory.nameLengths[i] = peer?.sockaddr.length ?? 0;
    memory.offsets[i] = i * memory.datagramSize;
    if (local !== undefined) keepInfo(memory);
    memory.info?.set(i, local);
    if (size > 0) memory.data.set(viewOf(data, 0, size), memory.offsets[i]);
    memory.sizes[i] = size;
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
  if (sizeOf(memory.data) === 0) throw atCaller(new TypeError("The batch's memory was transferred away"));
  return memory;
}

/** Returns the part of the memory that a datagram fills. */
export function dataIn(memory: BatchMemory, i: number): Uint8Array<ArrayBuffer> {
  const { data, offsets, room, sizes } = memory;
  const from = offsets[i] as number;
  return data.subarray(from, from + Math.min(sizes[i] as number, room));
}

/** Returns the address of a datagram that has one. */
export function addressIn(memory: BatchMemory, i: number): Deno.NetAddr {
  return memory.peers.decode(memory.names, i * NAME_SIZE);
}

/** Gives a batch room for what is known of this machine's side. */
export function keepInfo(memory: BatchMemory): PacketInfo {
  if (memory.info === undefined) {
    memory.info = new PacketInfo(memory.most);
    // What an engine has made has no room for control messages.
    memory.kept = undefined;
  }
  return memory.info;
}

/** Returns the local address of a datagram. */
export function localIn({ info, peers }: BatchMemory, i: number): string | undefined {
  return info === undefined ? undefined : hostOf(peers, info.locals, i);
}

/** Returns an address as text; `undefined` if it is not known. */
export function hostOf(peers: Peers, sides: Sides, i: number): string | undefined {
  return sides.has(i) ? peers.decode(sides.bytes, i * NAME_SIZE).hostname : undefined;
}

/** Returns a local address as an options bag gives it, read once. */
export function checkLocalAddress(options: { localAddress?: string | undefined }): string | undefined {
  checkOptions(options);
  const { localAddress } = options;
  if (localAddress === undefined) return undefined;
  const hostname = checkHostname(localAddress, "localAddress");
  if (hostKind(hostname) !== "name") return hostname;
  throw atCaller(new TypeError(`localAddress must be an IP address, received ${quote(localAddress)}`));
}

/**
 * Returns a local address as the kernel takes it.
 *
 * @throws {TypeError} If its zone is no interface, or its family not that of the destination.
 */
export function localPeer(peers: Peers, localAddress: string, to: Peer | undefined): Uint8Array<ArrayBuffer> {
  const local = peers.encode(localAddress, 0)?.sockaddr;
  if (local === undefined) {
    throw atCaller(new TypeError(`localAddress has the zone of no interface, received ${quote(localAddress)}`));
  }
  if (to !== undefined && familyOf(local) !== familyOf(to.sockaddr)) {
    const family = familyOf(to.sockaddr);
    throw atCaller(
      new TypeError(
        `localAddress must be an ${family} address, as the destination, received ${quote(localAddress)}`,
      ),
    );
  }
  return local;
}

/** Returns a destination as the kernel takes it. */
function peerAt(memory: BatchMemory, to: { hostname: string; port: number }): Peer {
  checkOptions(to, "to");
  const { hostname: host, port } = to;
  const hostname = checkHostname(host);
  const peer = memory.peers.encode(hostname, checkPort(port, "port", 1));
  if (peer !== undefined) return peer;
  const problem = hostKind(hostname) === "name" ? "must be an IP address" : "has the zone of no interface";
  throw atCaller(new TypeError(`hostname ${problem}, received ${quote(host)}`));
}

/** Gives each of the first `capacity` datagrams its place of `datagramSize` bytes. */
export function placeInOrder(memory: BatchMemory): void {
  const { capacity, datagramSize, offsets } = memory;
  for (let i = 0; i < capacity; i++) offsets[i] = i * datagramSize;
  memory.room = datagramSize;
}
