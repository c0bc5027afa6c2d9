/**
 * A super-server: runs a program for each connection, on its standard input
 * and output, as inetd(8) does.
 *
 *     deno task example:inetd
 *     deno run --allow-net --allow-run --allow-ffi examples/inetd.ts --port 8080 -- sort -u
 *
 * With `--allow-ffi` on Linux the program has the socket itself; without it the
 * bytes go through here. Started by systemd, it takes the socket of its unit.
 */

import { type Child, listenFds, spawnFor } from "@c10k/sockets/process";
import { engineSupport, type TcpConn, TcpListener } from "@c10k/sockets/tcp";
import { parseArgs } from "@std/cli";

const USAGE = `Usage: inetd.ts [--host 127.0.0.1] [--port 8080] [--max 100] [-- PROGRAM ARGUMENT …]`;

/** How long programs may go on after a signal, and after SIGTERM has asked them to end, in milliseconds. */
const GRACE = 5_000;
const LAST_GRACE = 1_000;

/** Ends the program because of how it was called. */
function refuse(problem: string): never {
  console.error(`${problem}. ${USAGE}`);
  Deno.exit(2);
}

// `deno task example:inetd -- --help` passes the -- on; no program is called --help.
const isForTask = Deno.args[0] === "--" && Deno.args[1]?.startsWith("-");
const flags = parseArgs(isForTask ? Deno.args.slice(1) : Deno.args, {
  string: ["host", "port", "max"],
  boolean: ["help"],
  default: { host: "127.0.0.1", port: "8080", max: "100" },
  "--": true,
  unknown: (arg) => refuse(`Unknown argument "${arg}"`),
});
if (flags.help) {
  console.log(USAGE);
  Deno.exit(0);
}
const [command = "cat", ...args] = flags["--"] as string[];

function whole(flag: "port" | "max"): number {
  const value: unknown = flags[flag];
  const isWhole = typeof value === "string" && /^\d{1,5}$/.test(value);
  return isWhole ? Number(value) : refuse(`--${flag} takes a number, not "${value}"`);
}

function listen(): TcpListener {
  try {
    const [passed] = engineSupport().engine === "native" ? listenFds() : [];
    return passed instanceof TcpListener
      ? passed
      : TcpListener.bind({ hostname: String(flags.host), port: whole("port") });
  } catch (error) {
    console.error(error instanceof Error ? error.message : error);
    Deno.exit(1);
  }
}

const listener = listen();
const most = whole("max");
const running = new Set<Child>();

function start(conn: TcpConn): void {
  try {
    const child = spawnFor(conn, command, { args, env: { REMOTE_ADDR: conn.remoteAddr.hostname } });
    running.add(child);
    child.closed.then(() => {
      running.delete(child);
      listener.resume();
    });
    // More wait in the kernel's queue.
    if (running.size >= most) listener.pause();
  } catch (error) {
    console.error(error instanceof Error ? error.message : error);
    conn.close();
  }
}

// Who is in the kernel's queue has connected, and is served.
const stop = () => void listener.drain();
const signals: Deno.Signal[] = Deno.build.os === "windows" ? ["SIGINT", "SIGBREAK"] : ["SIGINT", "SIGTERM"];
for (const signal of signals) Deno.addSignalListener(signal, stop);

const { hostname, port } = listener.addr;
console.log(`listening on ${hostname.includes(":") ? `[${hostname}]` : hostname}:${port}`);
console.log(`each connection gets ${[command, ...args].join(" ")}, engine ${listener.engine}`);
console.log(`try it: nc -N ${hostname} ${port}`);

for await (const conn of listener) start(conn);
const late = new Promise((resolve) => setTimeout(resolve, GRACE));
await Promise.race([late, Promise.all([...running].map((child) => child.closed))]);
await Promise.all([...running].map((child) => child.shutdown({ grace: LAST_GRACE })));
Deno.exit(0);
