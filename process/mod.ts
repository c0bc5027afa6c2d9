/**
 * Threads and processes, and sockets handed between them: the first two ways
 * to serve many connections.
 *
 * | to do this                                    | call                                    | runtime engine          |
 * | --------------------------------------------- | --------------------------------------- | ----------------------- |
 * | start a thread                                | {@linkcode spawnWorker}                 | yes                     |
 * | start a process running Deno                  | {@linkcode spawnProcess}                | no                      |
 * | talk to who has started this one              | {@linkcode parent}                      | in a thread             |
 * | serve one listener with many children         | {@linkcode Pool} and {@linkcode serve}  | threads, handed over    |
 * | let any program serve a connection            | {@linkcode spawnFor}                    | yes, relayed            |
 * | take sockets that systemd has opened          | {@linkcode listenFds}                   | no                      |
 * | see what sockets a process has open           | {@linkcode openSockets}                 | no                      |
 *
 * What says no there needs the native engine: Linux and `--allow-ffi`. On the
 * runtime engine a connection can be sent to a thread, as its two streams;
 * listeners and endpoints cannot.
 *
 * fork(2) is never called: a process with V8's threads does not survive it. A
 * child is a fresh Worker, or a fresh Deno process that shares nothing.
 *
 * @example A pool of threads
 * ```ts
 * import { Pool } from "@c10k/sockets/process";
 *
 * const child = `
 *   import { serve } from "${import.meta.resolve("@c10k/sockets/process")}";
 *   await serve((conn) => conn.readable.pipeTo(conn.writable));
 * `;
 * await using pool = await Pool.start({
 *   kind: "worker",
 *   module: `data:application/typescript,${encodeURIComponent(child)}`, // or a file's URL
 *   listen: { hostname: "127.0.0.1", port: 0 },
 * });
 * console.log(pool.addr);
 * ```
 *
 * @module
 */

export type { Child, ChildPermissions, ProcessOptions, ShutdownOptions, SpawnOptions } from "./child/child.ts";
export type { ChildStatus } from "./program/status.ts";
export type { Incoming, MessagesOptions, SendOptions, WaitOptions } from "./message/link.ts";
export { listenFds, type ListenFdsOptions } from "./inspect/listen_fds.ts";
export type { MovableSocket } from "./message/socket_transfer.ts";
export { openSockets, type SocketInfo } from "./inspect/open_sockets.ts";
export { parent, type ParentPort } from "./child/parent.ts";
export type { RawAddr, SocketProtocol, SocketState, SocketType } from "./inspect/proc_net.ts";
export { spawnProcess } from "./child/spawn_process.ts";
export { spawnWorker } from "./child/spawn_worker.ts";
export { type ChildStats, Pool } from "./pool/pool.ts";
export type { Balance, PoolOptions } from "./pool/options.ts";
export type { RestartOptions } from "./pool/restarts.ts";
export { serve, type ServeContext, type ServeHandler, type ServeOptions } from "./pool/serve.ts";
export { spawnFor, type SpawnForOptions } from "./child/spawn_for.ts";
