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

export type { Child, ChildPermissions, ChildStatus, ProcessOptions, ShutdownOptions, SpawnOptions } from "./child.ts";
export type { Incoming, MessagesOptions, SendOptions } from "./link.ts";
export { listenFds, type ListenFdsOptions } from "./listen_fds.ts";
export type { MovableSocket } from "./moving.ts";
export { openSockets, type SocketInfo } from "./open_sockets.ts";
export { parent, type ParentPort } from "./parent.ts";
export type { RawAddr, SocketProtocol, SocketState, SocketType } from "./proc_net.ts";
export { spawnProcess } from "./spawn_process.ts";
export { spawnWorker } from "./spawn_worker.ts";
export { type ChildStats, Pool } from "./pool.ts";
export type { Balance, PoolOptions } from "./pool_options.ts";
export type { RestartOptions } from "./restarts.ts";
export { serve, type ServeContext, type ServeHandler, type ServeOptions } from "./serve.ts";
export { spawnFor, type SpawnForOptions } from "./spawn_for.ts";
