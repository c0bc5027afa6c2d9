/**
 * Berkeley sockets for Deno: all modules of the library under one name. Import
 * `@c10k/sockets/tcp` and its siblings to load one module only.
 *
 * @example An echo server and one client
 * ```ts
 * import { TcpConn, TcpListener } from "@c10k/sockets";
 * import { assertEquals } from "@std/assert";
 *
 * using listener = TcpListener.bind({ hostname: "127.0.0.1", port: 0 }); // port 8080, say, in a server
 *
 * async function echo(conn: TcpConn) {
 *   const p = new Uint8Array(16 * 1024);
 *   for (let n = await conn.read(p); n !== null; n = await conn.read(p)) {
 *     await conn.writeAll(p.subarray(0, n));
 *   }
 * }
 *
 * (async () => {
 *   for await (const conn of listener) echo(conn).catch(console.error).finally(() => conn.close());
 * })();
 *
 * using client = await TcpConn.connect({ hostname: "127.0.0.1", port: listener.addr.port });
 * await client.writeAll(new TextEncoder().encode("hello"));
 * await client.closeWrite();
 * assertEquals(await new Response(client.readable).text(), "hello");
 * ```
 *
 * @module
 */

export * from "./tcp/mod.ts";
export * from "./udp/mod.ts";
export * from "./mux/mod.ts";
export * from "./process/mod.ts";
