/**
 * Berkeley sockets for Deno: all modules of the library under one name. Import
 * `@c10k/sockets/tcp` and its siblings to take only what you need.
 *
 * @example An echo server
 * ```ts
 * import { TcpListener } from "@c10k/sockets";
 *
 * using listener = TcpListener.bind({ hostname: "127.0.0.1", port: 0 });
 * console.log(listener.addr);
 * ```
 *
 * @module
 */

export * from "./tcp/mod.ts";
export * from "./udp/mod.ts";
export * from "./mux/mod.ts";
export * from "./process/mod.ts";
