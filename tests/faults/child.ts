/** A pool's child of the fault tests: it echoes. */

import { serve } from "@c10k/sockets/process";

await serve(async (conn) => {
  const p = new Uint8Array(16 * 1024);
  for (let n = await conn.read(p); n !== null; n = await conn.read(p)) await conn.writeAll(p.subarray(0, n));
  await conn.closeWrite();
}, { onError: () => {} });
