/** A program with a pool of echo children. Arguments: options of `Pool.start` as JSON. It prints where it listens. */

import { Pool } from "@c10k/sockets/process";

const pool = await Pool.start({
  module: new URL("./pool_echo.ts", import.meta.url),
  ...JSON.parse(Deno.args[0] ?? ""),
});
console.log(`pids ${pool.stats().map(({ pid }) => pid ?? Deno.pid).join(" ")}`);
console.log(`listening on 127.0.0.1:${pool.addr.port}`);
await pool.closed;
console.log("closed");
