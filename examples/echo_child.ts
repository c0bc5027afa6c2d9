/**
 * What the children of `examples/echo.ts --model worker|process` and of
 * `examples/processes.ts` run: it echoes each connection that its pool gives it.
 */

import { serve } from "@c10k/sockets/process";

await serve(async (conn) => {
  const p = new Uint8Array(16 * 1024);
  for (let n = await conn.read(p); n !== null; n = await conn.read(p)) {
    await conn.writeAll(p.subarray(0, n));
  }
  await conn.closeWrite();
});
