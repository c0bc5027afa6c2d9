/**
 * Packets between threads of one process, by `postMessage`. Threads share one
 * table of descriptors, so a native socket travels as its number; it belongs
 * to the thread that may end first until the other one has taken it. A
 * connection of the runtime engine travels as its two streams.
 */

import { Descriptor } from "../../internal/descriptor.ts";
import { notSupportedError } from "../../internal/errors.ts";
import { entrust, isEntrusted, isTracked } from "../../internal/owner.ts";
import { ConnectionSender } from "./connection_channel.ts";
import type { Packet, Transport } from "./link.ts";
import { cloneOf } from "./sealing.ts";
import { RuntimeConn } from "../../tcp/runtime_conn.ts";
import { type MovedConn, sentReason, StreamSocket } from "../../tcp/stream_socket.ts";
import { ConnStreams } from "../../tcp/streams.ts";
import { driverOf, TcpConn, wrapConn } from "../../tcp/tcp_conn.ts";
import {
  descriptorsOf,
  kindOf,
  MOST_SOCKETS,
  type MovableSocket,
  receivedSocket,
  type SocketKind,
} from "./socket_transfer.ts";

/** Where to post: a Worker, or a Worker's own scope. */
interface Poster {
  postMessage(message: unknown, transfer: Transferable[]): void;
}

/** A socket on its way. */
type Moved = { readonly kind: SocketKind; readonly fd: number } | {
  readonly kind: "streams";
  readonly conn: MovedConn;
};

/** What is posted. */
export interface ThreadMessage {
  readonly packet: Packet;
  readonly sockets: readonly Moved[];
  /** Where other connections come from, for a {@linkcode ConnectionReceiver}. */
  readonly channel?: number;
}

/** {@linkcode Transport} between threads. */
export class ThreadTransport implements Transport {
  /** A connection has left here as its streams. */
  hasSentStreams = false;
  readonly #poster: Poster;
  readonly #owner: bigint;
  readonly #takesNative: boolean;
  readonly #refer: ((on: boolean) => void) | undefined;
  /** Connections whose bytes go through here to the other thread. */
  readonly #flowing = new Map<RuntimeConn, ConnStreams>();
  /** For the connections of a pool's child. */
  #connections: ConnectionSender | undefined;
  #hasHanded = false;

  /**
   * `owner` is the number of the thread among the two that may end first; `takesNative` whether the other one may use
   * the native engine; `refer` lets waiting for packets keep this thread alive, or not.
   */
  constructor(poster: Poster, owner: bigint, takesNative = true, refer?: (on: boolean) => void) {
    this.#poster = poster;
    this.#owner = owner;
    this.#takesNative = takesNative;
    this.#refer = refer;
  }

  check(sockets: readonly MovableSocket[]): void {
    for (const socket of sockets) {
      const conn = runtimeConn(socket);
      if (conn !== undefined) {
        conn.checkMove();
        continue;
      }
      const descriptors = descriptorsOf([socket], "send a socket");
      if (this.#takesNative && this.#owner === 0n) {
        throw notSupportedError(
          "send a socket of the native engine to a thread",
          "mount /proc and allow memfd_create(2)",
        );
      } else if (this.#takesNative) {
        if (descriptors.every(isTracked)) continue;
        throw notSupportedError("send a socket with so high a descriptor to a thread", "open it with a lower one");
      } else {
        throw notSupportedError(
          "send a socket of the native engine to a thread that may not use it",
          'start the thread with permissions that have ffi: "inherit"',
        );
      }
    }
  }

  send(packet: Packet, sockets: readonly MovableSocket[], sent: () => void): Promise<void> {
    try {
      this.trySend(packet, sockets);
      sent();
      return Promise.resolve();
    } catch (error) {
      return Promise.reject(error);
    }
  }

  trySend(packet: Packet, sockets: readonly MovableSocket[]): boolean {
    const [first] = sockets;
    if (packet.type === "connection" && first !== undefined && this.#connections !== undefined) {
      if (this.#tryHand(first, this.#connections)) return true;
    }
    // Before any is detached. The body can be cloned: it is sealed, or the library's own.
    this.check(sockets);
    const streams: Transferable[] = [];
    const moved = sockets.map((socket): Moved => {
      const runtime = runtimeConn(socket);
      if (runtime !== undefined) {
        this.hasSentStreams = true;
        const conn = this.#asStreams(runtime.move());
        streams.push(conn.readable, conn.writable);
        return { kind: "streams", conn };
      }
      const kind = kindOf(socket);
      const fd = socket.detach();
      entrust(fd, this.#owner);
      return { kind, fd };
    });
    const isNative = packet.type === "connection" && moved[0]?.kind === "conn";
    const channel = isNative && this.#connections === undefined ? this.#openChannel() : undefined;
    const message: ThreadMessage = { packet, sockets: moved };
    this.#poster.postMessage(channel === undefined ? message : { ...message, channel }, streams);
    return true;
  }

  ref(on: boolean): void {
    this.#refer?.(on);
  }

  close(): void {
    for (const [conn, streams] of this.#flowing) {
      conn.close();
      streams.fail(new Deno.errors.Interrupted("The thread has ended"));
    }
    this.#flowing.clear();
    this.#connections?.close();
    this.#connections = undefined;
  }

  /** From the second connection on there is a channel for those that follow: a child for one connection needs none. */
  #openChannel(): number | undefined {
    if (this.#hasHanded && this.#owner !== 0n) {
      try {
        const [sender, there] = ConnectionSender.open();
        this.#connections = sender;
        entrust(there, this.#owner);
        return there;
      } catch { /* no descriptors are left; the next connection tries again */ }
    }
    this.#hasHanded = true;
    return undefined;
  }

  /** Hands a native connection over by the channel; false, and it is still whole here, if it cannot go there. */
  #tryHand(socket: MovableSocket, channel: ConnectionSender): boolean {
    let fd = -1;
    const hasGone = channel.trySend(socket, () => entrust(fd = socket.detach(), this.#owner));
    if (hasGone === false) {
      const message: ThreadMessage = { packet: { type: "connection" }, sockets: [{ kind: "conn", fd }] };
      this.#poster.postMessage(message, []);
    }
    return hasGone !== undefined;
  }

  #asStreams(conn: RuntimeConn): MovedConn {
    // The other side cancels and closes when its connection is closed, and what it has written must still be sent.
    const streams = new ConnStreams(
      {
        read: (p, signal) => conn.read(p, signal),
        readChunk: () => conn.readChunk(),
        writeAll: (p, signal) => conn.writeAll(p, signal),
        closeWrite: () => conn.closeWrite(),
        close: () => {
          this.#flowing.delete(conn);
          conn.close();
        },
      },
      false,
      sentReason,
    );
    this.#flowing.set(conn, streams);
    const { readable, writable } = streams;
    return { readable, writable, localAddr: conn.localAddr, remoteAddr: conn.remoteAddr };
  }
}

/** Seals a message for a thread. */
export function sealForThread({ type, body }: Packet, sockets: readonly MovableSocket[]): Packet {
  checkKinds(sockets);
  return { type, body: cloneOf(body) };
}

/** Throws if one of the sockets can be sent to no thread. */
function checkKinds(sockets: readonly MovableSocket[]): void {
  for (const socket of sockets) {
    const conn = runtimeConn(socket);
    if (conn !== undefined) conn.checkMove();
    else descriptorsOf([socket], "send a socket");
  }
}

/** The connection of the runtime engine behind a socket, if it is one. */
function runtimeConn(socket: MovableSocket): RuntimeConn | undefined {
  const driver = socket instanceof TcpConn ? driverOf(socket) : undefined;
  return driver instanceof RuntimeConn ? driver : undefined;
}

const TYPES: readonly unknown[] = [
  "message",
  "credit",
  "shutdown",
  "pool",
  "connection",
  "bye",
] satisfies Packet["type"][];
const KINDS: readonly unknown[] = ["conn", "listener", "udp", "streams"] satisfies Moved["kind"][];

/** Whether a message that has been posted is one of this library's: a child can post whatever it likes. */
export function isThreadMessage(value: unknown): value is ThreadMessage {
  const { packet, sockets } = (value ?? {}) as { [K in keyof ThreadMessage]?: unknown };
  if (typeof packet !== "object" || packet === null || !TYPES.includes((packet as Partial<Packet>).type)) return false;
  return Array.isArray(sockets) && sockets.length <= MOST_SOCKETS && sockets.every(isMoved);
}

function isMoved(value: unknown): value is Moved {
  const { kind, conn, fd } = (value ?? {}) as { kind?: unknown; conn?: Partial<MovedConn> | null; fd?: unknown };
  if (!KINDS.includes(kind)) return false;
  if (kind !== "streams") return typeof fd === "number";
  return conn?.readable instanceof ReadableStream && conn.writable instanceof WritableStream &&
    typeof conn.localAddr === "object" && typeof conn.remoteAddr === "object";
}

/**
 * Makes sockets of what has come, and counts those of which none could be made.
 *
 * @param owner The thread among the two that may end first, on whose behalf its descriptors were posted.
 * @param flowing Gets the connections whose bytes go through the sender, as long as they are open.
 * @throws {TypeError} If a number is posted that the sender has not given away: it would be closed, or taken from its
 * owner. None is taken then.
 */
export function unpackThreadMessage(
  { sockets: sent }: ThreadMessage,
  owner: bigint,
  flowing = new Set<StreamSocket>(),
): [MovableSocket[], lost: number] {
  const numbers = sent.flatMap((moved) => moved.kind === "streams" ? [] : moved.fd);
  if (new Set(numbers).size < numbers.length || !numbers.every((fd) => isEntrusted(fd, owner))) {
    throw new TypeError("Cannot receive: a descriptor is not the sender's to give");
  }
  const sockets = sent.flatMap((moved) =>
    moved.kind === "streams"
      ? wrapConn(new RuntimeConn(openStreams(moved.conn, flowing)))
      : receivedSocket(moved.kind, new Descriptor(moved.fd)) ?? []
  );
  return [sockets, sent.length - sockets.length];
}

function openStreams(conn: MovedConn, flowing: Set<StreamSocket>): StreamSocket {
  const socket = new StreamSocket(conn);
  flowing.add(socket);
  socket.onClosed = () => flowing.delete(socket);
  return socket;
}
