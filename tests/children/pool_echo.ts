/**
 * A pool's child: each connection gets the child's number, its process and its name of this run as a line, then all
 * that it sends back. A connection that sends "!" makes the child fail, one that sends "?" its handler.
 */

import { serve } from "@c10k/sockets/process";

const run = crypto.randomUUID().slice(0, 8);

await serve(async (conn, { child }) => {
  const p = new Uint8Array(16 * 1024);
  await conn.writeAll(new TextEncoder().encode(`${child} ${Deno.pid} ${run}\n`));
  for (let n = await conn.read(p); n !== null; n = await conn.read(p)) {
    if (p[0] === "!".charCodeAt(0)) queueMicrotask(() => reportError(new Error("child failed as asked")));
    if (p[0] === "?".charCodeAt(0)) throw new Error("handler failed as asked");
    await conn.writeAll(p.subarray(0, n));
  }
}, { onError: () => {} });
