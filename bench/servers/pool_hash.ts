/** A child that computes SHA-256 of 1 MiB on its own thread before each echo. */

import { createHash } from "node:crypto";
import { serve } from "../../process/mod.ts";

const DATA = new Uint8Array(1024 * 1024);

await serve(async (conn) => {
  const buffer = new Uint8Array(32 * 1024);
  for (;;) {
    const n = await conn.read(buffer);
    if (n === null) break;
    DATA[0] = createHash("sha256").update(DATA).digest()[0] ?? 0;
    await conn.writeAll(buffer.subarray(0, n));
  }
});
