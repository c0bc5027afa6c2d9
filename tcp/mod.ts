/**
 * TCP: the listening socket and the connected one.
 *
 * | textbook | here |
 * |---|---|
 * | socket, bind, listen | {@linkcode TcpListener.bind} |
 * | accept | {@linkcode TcpListener.accept} |
 * | socket, connect | {@linkcode TcpConn.connect} |
 * | read, write | {@linkcode TcpConn.read}, {@linkcode TcpConn.writeAll} |
 * | shutdown | {@linkcode TcpConn.closeWrite} |
 * | close | {@linkcode TcpConn.close}, or `using` |
 *
 * @example Talk to a server
 * ```ts
 * import { TcpConn, TcpListener } from "@c10k/sockets/tcp";
 *
 * using listener = TcpListener.bind({ hostname: "127.0.0.1", port: 0 });
 * using client = await TcpConn.connect({ port: listener.addr.port });
 * using server = await listener.accept();
 *
 * await server.writeAll(new TextEncoder().encode("welcome\n"));
 * const p = new Uint8Array(1024);
 * const n = await client.read(p);
 * console.log(new TextDecoder().decode(p.subarray(0, n ?? 0)));
 * ```
 *
 * @module
 */

export type { KeepAliveTimes } from "./driver.ts";
export { SocketOption } from "../internal/socket_option.ts";
export { type FinishOptions, TcpConn, type TcpConnectOptions } from "./tcp_conn.ts";
export type { Readiness, ReadyInterest } from "../poll/readiness.ts";
export type { WaitOptions } from "../internal/wait.ts";
export type { TcpInfo, TcpState } from "./tcp_info.ts";
export { TcpListener, type TcpListenOptions } from "./tcp_listener.ts";
export { TcpSocket } from "./tcp_socket.ts";
export { type Engine, type EngineOption, type EngineSupport, engineSupport } from "../internal/engine.ts";
export { SyscallError } from "../internal/errors.ts";
