/** A child that echoes, as `ours.ts` does in one thread. */

import { serve } from "../../process/mod.ts";

await serve(async (conn) => {
  const buffer = new Uint8Array(32 * 1024);
  for (;;) {
    const n = await conn.read(buffer);
    if (n === null) break;
    await conn.writeAll(buffer.subarray(0, n));
  }
});
