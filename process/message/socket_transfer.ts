/** Sockets that are sent away: whole there, detached here. */

import { Descriptor } from "../../internal/descriptor.ts";
import { notSupportedError } from "../../internal/errors.ts";
import { atCaller } from "../../internal/stack.ts";
import { quote } from "../../internal/validate.ts";
import { NativeConn } from "../../tcp/native_conn.ts";
import { driverOf, TcpConn, wrapConn } from "../../tcp/tcp_conn.ts";
import { TcpListener } from "../../tcp/tcp_listener.ts";
import { UdpEndpoint } from "../../udp/udp_endpoint.ts";
import { UnixListener } from "./unix_socket.ts";

/** Sockets that one message may carry. */
export const MOST_SOCKETS = 16_384;

/**
 * What can be sent to another thread or process.
 *
 * @example Tell the kinds apart
 * ```ts
 * import type { MovableSocket } from "@c10k/sockets/process";
 * import { TcpConn, TcpListener } from "@c10k/sockets/tcp";
 *
 * function describe(socket: MovableSocket): string {
 *   if (socket instanceof TcpConn) return `connection from ${socket.remoteAddr.hostname}`;
 *   return `${socket instanceof TcpListener ? "listener" : "endpoint"} on port ${socket.addr.port}`;
 * }
 * using listener = TcpListener.bind({ hostname: "127.0.0.1", port: 0 });
 * console.log(describe(listener));
 * ```
 */
export type MovableSocket = TcpConn | TcpListener | UdpEndpoint;

/** What the library's own packets carry: also the listener of a control socket. */
export type Carried = MovableSocket | UnixListener;

/** Which class a descriptor is to become again. */
export type SocketKind = "conn" | "listener" | "udp" | "control";

/** The kind of a socket. */
export function kindOf(socket: Carried): SocketKind {
  if (socket instanceof UnixListener) return "control";
  return socket instanceof TcpConn ? "conn" : socket instanceof TcpListener ? "listener" : "udp";
}

/**
 * Checks sockets that are to be sent, before anything is done with them.
 *
 * @throws {TypeError} If one is no socket, or stands there twice.
 * @throws {Deno.errors.BadResource} If one is closed.
 */
export function checkSockets(value: unknown, action: string): readonly MovableSocket[] {
  if (value === undefined) return [];
  if (!Array.isArray(value)) throw atCaller(new TypeError(`sockets must be an array, received ${quote(value)}`));
  if (value.length > MOST_SOCKETS) {
    throw atCaller(new RangeError(`sockets must hold at most ${MOST_SOCKETS} sockets, has ${value.length}`));
  }
  const seen = new Set<unknown>();
  // A copy: the caller's array may change while the message waits.
  const sockets = Array.from({ length: value.length }, (_, i) => value[i] as MovableSocket);
  for (const socket of sockets) {
    if (!(socket instanceof TcpConn || socket instanceof TcpListener || socket instanceof UdpEndpoint)) {
      throw atCaller(new TypeError(`sockets must hold TcpConn, TcpListener or UdpEndpoint, received ${quote(socket)}`));
    }
    if (seen.has(socket)) throw atCaller(new TypeError("sockets must hold each socket once"));
    seen.add(socket);
    if (socket.engine === "native" && socket.fd === undefined) {
      throw atCaller(new Deno.errors.BadResource(`Cannot ${action}: a socket is closed`));
    }
  }
  return sockets;
}

/** The descriptors of native sockets, which stay with them. */
export function descriptorsOf(sockets: readonly Carried[], action: string): number[] {
  return sockets.map((socket) => {
    const { engine, fd } = socket;
    if (engine !== "native") {
      throw notSupportedError(
        `${action} of the runtime engine`,
        "it has connections only that can be moved, and to a thread only; use --allow-ffi on Linux",
      );
    }
    if (fd === undefined) throw atCaller(new Deno.errors.BadResource(`Cannot ${action}: a socket is closed`));
    if (socket instanceof TcpConn) driverOf(socket).checkMove();
    return fd;
  });
}

/** Closes sockets here whose copies have been sent. */
export function giveAway(sockets: readonly Carried[]): void {
  for (const socket of sockets) socket.close();
}

/**
 * Makes a socket of a descriptor that was sent here. Closes it if it is none of
 * that kind; a connection that the peer has reset on the way is one still.
 */
export function receivedSocket(kind: SocketKind, descriptor: Descriptor): MovableSocket | undefined {
  const fd = descriptor.detach();
  try {
    if (kind === "conn") return wrapConn(NativeConn.adoptSent(fd));
    if (kind === "listener") return TcpListener.fromFd(fd);
    if (kind === "udp") return UdpEndpoint.fromFd(fd);
  } catch { /* not that kind */ }
  new Descriptor(fd).close();
  return undefined;
}
