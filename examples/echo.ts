/**
 * A TCP echo server: everything that a client sends comes back.
 *
 *     deno task example:echo
 *     deno run --allow-net examples/echo.ts --port 8080
 *     deno run --allow-all examples/echo.ts --model process --per connection
 *
 * Ctrl-C or SIGTERM: no new connections, open ones may finish for 5 s or until
 * the next Ctrl-C.
 */

import { Pool } from "@c10k/sockets/process";
import { type EngineOption, engineSupport, type TcpConn, TcpListener } from "@c10k/sockets/tcp";
import { parseArgs } from "@std/cli";

const USAGE = `Usage: echo.ts [--host 127.0.0.1] [--port 8080] [--engine auto|runtime|native]
  [--model async|worker|process] [--per pool|connection]`;

/** How long open connections may go on after a signal, in milliseconds. */
const GRACE = 5_000;

/** Ends the program because of how it was called. */
function refuse(problem: string): never {
  console.error(`${problem} (--help shows how to call it)`);
  Deno.exit(2);
}

interface Flags {
  listen: { hostname: string; port: number; engine: EngineOption };
  model: "async" | "worker" | "process";
  per: "pool" | "connection";
}

function readFlags(args: string[]): Flags {
  const flags = parseArgs(args, {
    string: ["host", "port", "engine", "model", "per"],
    boolean: ["help"],
    default: { host: "127.0.0.1", port: "8080", engine: "auto", model: "async", per: "pool" },
    unknown: (arg) => refuse(`Unknown argument "${arg}"`),
  });
  if (flags.help) {
    console.log(USAGE);
    Deno.exit(0);
  }
  const { host, port, engine, model, per } = flags;
  if (typeof host !== "string" || host === "") refuse("--host takes an address or a name");
  if (typeof port !== "string" || !/^\d{1,5}$/.test(port) || Number(port) > 65535) {
    refuse(`--port takes a number from 0 to 65535, not "${port}"`);
  }
  if (engine !== "auto" && engine !== "runtime" && engine !== "native") {
    refuse(`--engine takes auto, runtime or native, not "${engine}"`);
  }
  if (model !== "async" && model !== "worker" && model !== "process") {
    refuse(`--model takes async, worker or process, not "${model}"`);
  }
  if (per !== "pool" && per !== "connection") refuse(`--per takes pool or connection, not "${per}"`);
  return { listen: { hostname: host, port: Number(port), engine }, model, per };
}

/** Ends the program because it cannot serve. */
function fail(error: unknown): never {
  console.error(error instanceof Error ? error.message : error);
  Deno.exit(error instanceof TypeError ? 2 : 1);
}

function bind(options: Flags["listen"]): TcpListener {
  try {
    return TcpListener.bind(options);
  } catch (error) {
    fail(error);
  }
}

/** Sends back what arrives, until the client has finished and has all its echoes. */
async function echo(conn: TcpConn): Promise<void> {
  const p = new Uint8Array(16 * 1024);
  for (let n = await conn.read(p); n !== null; n = await conn.read(p)) {
    await conn.writeAll(p.subarray(0, n));
  }
  await conn.closeWrite();
}

/** A client that goes away is no event for the others; anything else is worth a line. */
function report(error: unknown): void {
  const { ConnectionReset, BrokenPipe, NotConnected, TimedOut, Interrupted, BadResource } = Deno.errors;
  const usual = [ConnectionReset, BrokenPipe, NotConnected, TimedOut, Interrupted, BadResource];
  if (!usual.some((ErrorClass) => error instanceof ErrorClass)) console.error(error);
}

function announce({ hostname, port }: Deno.NetAddr, how: string): void {
  console.log(`listening on ${hostname.includes(":") ? `[${hostname}]` : hostname}:${port}`);
  console.log(how);
  console.log(`try it: nc ${hostname} ${port}`);
}

const { listen, model, per } = readFlags(Deno.args);
const listener = bind(listen);

if (model !== "async") {
  // Threads or processes serve: a few that stay, or a fresh one for each connection.
  const module = new URL("./echo_child.ts", import.meta.url);
  const pool = await Pool.start({ kind: model, per, listener, module }).catch(fail);
  announce(pool.addr, `model ${model}, per ${per}`);
  await pool.closed;
  Deno.exit(0);
}

const open = new Map<TcpConn, Promise<void>>();

const signals: Deno.Signal[] = Deno.build.os === "windows" ? ["SIGINT", "SIGBREAK"] : ["SIGINT", "SIGTERM"];

let stopped: number | undefined;

function stop(): void {
  if (stopped === undefined) {
    stopped = performance.now();
    listener.close();
    if (open.size > 0) console.log(`stopping: ${open.size} open, Ctrl-C again to cut`);
  } else if (performance.now() - stopped > 500) {
    // Sooner it is the same Ctrl-C, which a task runner passes on a second time.
    for (const conn of open.keys()) conn.close();
  }
}
for (const signal of signals) Deno.addSignalListener(signal, stop);

const { reason } = engineSupport();
announce(listener.addr, `engine ${listener.engine}${listener.engine === "runtime" && reason ? `: ${reason}` : ""}`);

for await (const conn of listener) {
  const done = echo(conn).catch(report).finally(() => {
    conn.close();
    open.delete(conn);
  });
  open.set(conn, done);
}

const late = setTimeout(() => {
  for (const conn of open.keys()) conn.close();
}, GRACE);
await Promise.all(open.values());
clearTimeout(late);
Deno.exit(0);
