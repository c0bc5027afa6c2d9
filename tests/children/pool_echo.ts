/** A pool's child: each connection gets the child's number and pid as a line, then all it sends back. */

import { serve } from "@c10k/sockets/process";

const me = `${Deno.pid} ${crypto.randomUUID().slice(0, 8)}`;
await serve(async (conn) => {
  const p = new Uint8Array(16 * 1024);
  await conn.writeAll(new TextEncoder().encode(`${me}\n`));
  for (let n = await conn.read(p); n !== null; n = await conn.read(p)) await conn.writeAll(p.subarray(0, n));
});
