/**
 * Threads and processes, and sockets handed between them.
 *
 * @module
 */

export type { Child, ChildPermissions, ChildStatus, ProcessOptions, ShutdownOptions, SpawnOptions } from "./child.ts";
export type { Incoming, SendOptions } from "./link.ts";
export type { MovableSocket } from "./moving.ts";
export { parent, type ParentPort } from "./parent.ts";
export { spawnProcess } from "./spawn_process.ts";
export { spawnWorker } from "./spawn_worker.ts";
export { type ChildStats, Pool } from "./pool.ts";
export type { Balance, PoolOptions } from "./pool_options.ts";
export type { RestartOptions } from "./restarts.ts";
export { serve, type ServeContext, type ServeHandler, type ServeOptions } from "./serve.ts";
