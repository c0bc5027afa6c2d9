/** A pool of echo children, or of some that hash: `pool.ts '{"kind":"worker","handler":"hash",…}'`, options of a pool. */

import { Pool } from "../../process/mod.ts";

const { handler = "echo", ...options } = JSON.parse(Deno.args[0] ?? "{}");
try {
  const pool = await Pool.start({
    ...options,
    module: new URL(`./pool_${handler}.ts`, import.meta.url),
    listen: { hostname: "127.0.0.1", port: 0 },
  });
  console.log(`listening 127.0.0.1:${pool.addr.port}`);
  await pool.closed;
} catch (error) {
  // One line, which the table shows as the reason why the row is missing.
  console.error(`error: ${error instanceof Error ? error.message : error}`);
  Deno.exit(1);
}
