/**
 * A TCP echo server on all cores: a pool of processes, which are replaced when
 * they fail.
 *
 *     deno task example:processes
 *     deno run --allow-net --allow-ffi --allow-run --allow-read examples/processes.ts --size 4 --balance round-robin
 *
 * SIGHUP replaces all processes without losing a connection; Ctrl-C or SIGTERM
 * lets open ones finish. With `--control PATH` (and `--allow-write`) a second
 * start with the same path takes the port over from the first, which drains.
 */

import { type Balance, Pool } from "@c10k/sockets/process";
import { parseArgs } from "@std/cli";

const USAGE = `Usage: processes.ts [--host 127.0.0.1] [--port 8080] [--size N] [--per pool|connection]
  [--balance shared|reuseport|round-robin|least-connections] [--control PATH]`;

/** Ends the program because of how it was called. */
function refuse(problem: string): never {
  console.error(`${problem}. ${USAGE}`);
  Deno.exit(2);
}

const flags = parseArgs(Deno.args.filter((arg) => arg !== "--"), {
  string: ["host", "port", "size", "per", "balance", "control"],
  boolean: ["help"],
  default: { host: "127.0.0.1", port: "8080" },
  unknown: (arg) => refuse(`Unknown argument "${arg}"`),
});
if (flags.help) {
  console.log(USAGE);
  Deno.exit(0);
}

function text(flag: keyof typeof flags): string {
  const value = flags[flag];
  return typeof value === "string" ? value : refuse(`--${flag} takes one value`);
}

function whole(flag: "port" | "size"): number {
  return /^\d{1,5}$/.test(text(flag)) ? Number(text(flag)) : refuse(`--${flag} takes a number, not "${text(flag)}"`);
}

async function start(): Promise<Pool> {
  try {
    return await Pool.start({
      kind: "process",
      module: new URL("./echo_child.ts", import.meta.url),
      listen: { hostname: text("host"), port: whole("port") },
      ...(flags.size === undefined ? {} : { size: whole("size") }),
      ...(flags.per === undefined ? {} : { per: text("per") as "pool" | "connection" }),
      ...(flags.balance === undefined ? {} : { balance: text("balance") as Balance }),
      ...(flags.control === undefined ? {} : { control: text("control") }),
    });
  } catch (error) {
    if (error instanceof TypeError || error instanceof RangeError) refuse(error.message);
    console.error(error instanceof Error ? error.message : error);
    Deno.exit(1);
  }
}

const pool = await start();
const { hostname, port } = pool.addr;
console.log(`listening on ${hostname.includes(":") ? `[${hostname}]` : hostname}:${port}`);
console.log(`processes ${pool.stats().map(({ pid }) => pid).join(", ") || "one for each connection"}`);
console.log(`try it: nc ${hostname} ${port}`);

// Each minute: who has served how much.
const report = setInterval(() => console.table(pool.stats(), ["pid", "state", "active", "total", "restarts"]), 60_000);
try {
  await pool.closed;
} catch (error) {
  console.error(error);
  Deno.exitCode = 1;
} finally {
  clearInterval(report);
}
