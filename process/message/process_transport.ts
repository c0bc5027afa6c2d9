/** Packets between processes, over a Unix socket: what they carry is serialized as `structuredClone` would. */

import { Deserializer, Serializer } from "node:v8";
import { Buffer } from "node:buffer";
import { isArrayBuffer } from "node:util/types";
import type { Descriptor } from "../../internal/descriptor.ts";
import { atCaller } from "../../internal/stack.ts";
import { wrapConn } from "../../tcp/tcp_conn.ts";
import { readRecord, RECORD_SIZE, writeRecord } from "./connection_record.ts";
import { hostObjectIn } from "./host_objects.ts";
import type { Link, Packet, Transport } from "./link.ts";
import {
  type Carried,
  descriptorsOf,
  giveAway,
  kindOf,
  MOST_SOCKETS,
  type MovableSocket,
  type SocketKind,
} from "./socket_transfer.ts";
import { LARGEST_PACKET, MOST_DESCRIPTORS } from "./scm.ts";
import { cloneOf, Sealed } from "./sealing.ts";
import type { UnixSocket } from "./unix_socket.ts";

/**
 * The first byte of each packet: more of the message follows, it is the last
 * one, the sender could not go on and nothing of it counts, or it is a
 * connection for a pool's child, of which there are too many to serialize each.
 */
const MORE = 0;
const LAST = 1;
const ABANDONED = 2;
const CONNECTION = 3;
const CHUNK = LARGEST_PACKET - 1;

/** The first packet of a child: it has called `parent()`, and reads what is sent to it. */
export const HELLO: Uint8Array<ArrayBuffer> = new Uint8Array([4]);

/** A packet with a connection, which is sent at once. */
const connection = new Uint8Array(1 + RECORD_SIZE);
connection[0] = CONNECTION;

/** The types of packets that a child and its parent send each other. */
const TYPES: readonly unknown[] = ["message", "credit", "shutdown", "pool", "connection"] satisfies Packet["type"][];

/** Largest message, in bytes; more would have to be held in memory by who receives it. */
const LARGEST_MESSAGE = 256 * 1024 * 1024;

/** The whole of a message, before it is cut into packets. */
interface WholeMessage {
  readonly packet: Packet;
  readonly kinds: readonly SocketKind[];
}

/** {@linkcode Transport} over a Unix socket. */
export class ProcessTransport implements Transport {
  readonly #socket: UnixSocket;
  readonly #link: Link;

  constructor(socket: UnixSocket, link: Link, onEnd: (error?: Error) => void) {
    this.#socket = socket;
    this.#link = link;
    this.#receive().then(() => onEnd(), onEnd);
  }

  check(sockets: readonly Carried[]): void {
    descriptorsOf(sockets, "send a socket");
  }

  async send(
    packet: Packet,
    sockets: readonly Carried[],
    sent: () => void,
    signal?: AbortSignal,
  ): Promise<void> {
    const chunks = this.#pack(packet, sockets);
    let tried = 0;
    try {
      for (const { data, from, to } of chunks) {
        const isLast = ++tried === chunks.length;
        await this.#socket.send(
          data,
          // Of all: one may have been closed since its copy went.
          () => descriptorsOf(sockets, "send a socket").slice(from, to),
          () => {
            if (!isLast) return;
            giveAway(sockets);
            sent();
          },
          signal,
        );
      }
    } catch (error) {
      if (tried > 1) await this.#socket.send(new Uint8Array([ABANDONED]), () => [], () => {}).catch(() => {});
      throw error;
    }
  }

  trySend(packet: Packet, sockets: readonly Carried[]): boolean {
    const chunks = this.#pack(packet, sockets);
    const [first] = chunks;
    if (chunks.length > 1 || first === undefined) return false;
    return this.#socket.trySend(
      first.data,
      () => descriptorsOf(sockets, "send a socket"),
      () => giveAway(sockets),
    ) ?? false;
  }

  ref(on: boolean): void {
    this.#socket.ref(on);
  }

  close(): void {
    this.#socket.close();
  }

  #pack(
    packet: Packet,
    sockets: readonly Carried[],
  ): { data: Uint8Array<ArrayBuffer>; from: number; to: number }[] {
    const [first] = sockets;
    if (packet.type === "connection" && first !== undefined && writeRecord(connection, 1, first)) {
      return [{ data: connection, from: 0, to: 1 }];
    }
    const bytes = packet.body instanceof Sealed ? packet.body.bytes : pack(packet, sockets);
    const count = Math.max(Math.ceil(bytes.length / CHUNK), Math.ceil(sockets.length / MOST_DESCRIPTORS));
    return Array.from({ length: count }, (_, i) => {
      const part = bytes.subarray(i * CHUNK, (i + 1) * CHUNK);
      const data = new Uint8Array(1 + part.length);
      data[0] = i === count - 1 ? LAST : MORE;
      data.set(part, 1);
      return { data, from: i * MOST_DESCRIPTORS, to: (i + 1) * MOST_DESCRIPTORS };
    });
  }

  async #receive(): Promise<void> {
    let parts: Uint8Array[] = [];
    let size = 0;
    let descriptors: Descriptor[] = [];
    let cut = false;
    const forget = () => {
      for (const descriptor of descriptors) descriptor.close();
      [parts, size, descriptors, cut] = [[], 0, [], false];
    };
    try {
      while (true) {
        const received = await this.#socket.receive();
        descriptors.push(...received.descriptors);
        cut ||= received.cut;
        const { data } = received;
        if (data.length === 0) return;
        if (data[0] === ABANDONED) {
          forget();
          continue;
        }
        if (data[0] === CONNECTION && data.length === connection.length && parts.length === 0) {
          // What the parent has accepted needs no check.
          const conn = cut ? undefined : descriptors[0]?.passTo((fd) => readRecord(data, 1, fd));
          const sockets = conn === undefined ? [] : [wrapConn(conn)];
          forget();
          this.#link.receive({ type: "connection" }, sockets, 1 - sockets.length);
          continue;
        }
        if (data[0] !== MORE && data[0] !== LAST) throw notOurs();
        size += data.length - 1;
        if (size > LARGEST_MESSAGE || descriptors.length > MOST_SOCKETS || parts.length > LARGEST_MESSAGE / CHUNK) {
          throw new TypeError("Cannot receive: the message is too large");
        }
        parts.push(data.subarray(1));
        if (data[0] === MORE) continue;
        const whole = decode(parts);
        const sockets = cut || descriptors.length < whole.kinds.length ? [] : this.#unpack(whole, descriptors);
        const lost = whole.kinds.length - sockets.length;
        // Surplus ones, and those of a message that has lost some.
        forget();
        this.#link.receive(whole.packet, sockets, lost);
      }
    } finally {
      forget();
    }
  }

  /** Makes sockets of the first descriptors, as many as the message says; those that cannot be are left out. */
  #unpack({ kinds }: WholeMessage, descriptors: readonly Descriptor[]): MovableSocket[] {
    return kinds.flatMap((kind, i) => this.#link.receiveSocket(kind, descriptors[i] as Descriptor) ?? []);
  }
}

/** Seals a message for a process. */
export function sealForProcess({ type, body }: Packet, sockets: readonly MovableSocket[]): Packet {
  descriptorsOf(sockets, "send a socket");
  // Bytes have no getters and hold no other objects.
  if (ArrayBuffer.isView(body) || isArrayBuffer(body)) {
    return { type, body: new Sealed(pack({ type, body }, sockets)) };
  }
  // Serializing alone accepts a value that cannot be cloned, a stream for example, and makes it an empty object.
  const clone = cloneOf(body);
  let bytes: Uint8Array | undefined;
  let refusal: unknown;
  try {
    bytes = pack({ type, body: clone }, sockets);
  } catch (error) {
    refusal = error;
  }
  // It uses up the clone, which is in the bytes by now.
  const host = hostObjectIn(clone);
  if (host !== undefined) throw cloneError(`${host} could not be cloned: it belongs to this process`);
  if (bytes === undefined) throw refusal;
  return { type, body: new Sealed(bytes) };
}

/** The bytes of a packet. */
function pack(packet: Packet, sockets: readonly Carried[]): Uint8Array {
  const whole: WholeMessage = { packet, kinds: sockets.map(kindOf) };
  const bytes = serialize(whole);
  if (bytes.length <= LARGEST_MESSAGE) return bytes;
  throw atCaller(new RangeError(`message must have at most ${LARGEST_MESSAGE} bytes, has ${bytes.length}`));
}

/**
 * Not `serialize()` of node:v8: it writes each view without its buffer, reads a DataView from a wrong place, and makes
 * a copy of shared memory.
 *
 * @throws {DOMException} If the value cannot be cloned.
 */
function serialize(value: unknown): Uint8Array {
  const serializer = new Serializer();
  try {
    serializer.writeHeader();
    serializer.writeValue(value);
    return serializer.releaseBuffer();
  } catch (error) {
    // No getter is called here, so nothing else can fail: memory that is shared within one process.
    throw cloneError(error instanceof Error ? error.message : String(error));
  }
}

/** In the words of `structuredClone`. */
function cloneError(message: string): DOMException {
  return atCaller(new DOMException(message, "DataCloneError"));
}

function decode(parts: readonly Uint8Array[]): WholeMessage {
  const bytes = parts.length === 1 ? parts[0] as Uint8Array : Buffer.concat(parts);
  let whole: unknown;
  try {
    const deserializer = new Deserializer(Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength));
    deserializer.readHeader();
    whole = deserializer.readValue();
  } catch (error) {
    throw notOurs(error);
  }
  if (!isWholeMessage(whole)) throw notOurs();
  return whole;
}

function notOurs(cause?: unknown): Error {
  const message = "Cannot receive: not a message of this library";
  return new TypeError(message, cause === undefined ? {} : { cause });
}

function isWholeMessage(value: unknown): value is WholeMessage {
  if (typeof value !== "object" || value === null) return false;
  const { packet, kinds } = value as Partial<WholeMessage>;
  // An array may claim to have billions of places.
  if (!Array.isArray(kinds) || kinds.length > MOST_SOCKETS) return false;
  return typeof packet === "object" && packet !== null && TYPES.includes(packet.type);
}
