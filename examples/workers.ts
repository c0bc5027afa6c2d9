/**
 * A TCP echo server that hands each connection to the next of several threads.
 * This one file is both sides: the thread that accepts, and those that serve.
 *
 *     deno task example:workers
 *     deno run --allow-net --allow-ffi --allow-read examples/workers.ts --threads 4
 *
 * With `--allow-ffi` the socket itself is handed over; without it, its two
 * streams. Ctrl-C or SIGTERM: no new connections, open ones may finish for 5 s.
 */

import { type Child, parent, spawnWorker } from "@c10k/sockets/process";
import { TcpConn, TcpListener } from "@c10k/sockets/tcp";
import { parseArgs } from "@std/cli";

const USAGE = `Usage: workers.ts [--host 127.0.0.1] [--port 8080] [--threads N]`;

/** How long open connections may go on after a signal, in milliseconds. */
const GRACE = 5_000;

/** Serves what the accepting thread hands over, until it asks for the end. */
async function serve(): Promise<void> {
  for await (const { sockets } of parent().messages()) {
    // The thread does not end before these have.
    for (const conn of sockets) if (conn instanceof TcpConn) parent().waitUntil(echo(conn));
  }
}

async function echo(conn: TcpConn): Promise<void> {
  try {
    const p = new Uint8Array(16 * 1024);
    for (let n = await conn.read(p); n !== null; n = await conn.read(p)) {
      await conn.writeAll(p.subarray(0, n));
    }
    await conn.closeWrite();
  } catch {
    /* the client is gone */
  } finally {
    conn.close();
  }
}

/** Ends the program because of how it was called. */
function refuse(problem: string): never {
  console.error(`${problem}. ${USAGE}`);
  Deno.exit(2);
}

function whole(value: unknown, flag: string): number {
  const isWhole = typeof value === "string" && /^\d{1,5}$/.test(value);
  return isWhole ? Number(value) : refuse(`--${flag} takes a number, not "${value}"`);
}

function listen(hostname: string, port: number): TcpListener {
  try {
    return TcpListener.bind({ hostname, port });
  } catch (error) {
    console.error(error instanceof Error ? error.message : error);
    Deno.exit(1);
  }
}

async function accept(): Promise<void> {
  const flags = parseArgs(Deno.args.filter((arg) => arg !== "--"), {
    string: ["host", "port", "threads"],
    boolean: ["help"],
    default: { host: "127.0.0.1", port: "8080", threads: String(navigator.hardwareConcurrency) },
    unknown: (arg) => refuse(`Unknown argument "${arg}"`),
  });
  if (flags.help) {
    console.log(USAGE);
    Deno.exit(0);
  }
  const count = whole(flags.threads, "threads") || refuse("--threads takes a number from 1");
  const listener = listen(String(flags.host), whole(flags.port, "port"));
  const threads = Array.from({ length: count }, () => spawnWorker(import.meta.url));

  // Who is in the kernel's queue has connected, and is served.
  const stop = () => void listener.drain();
  const signals: Deno.Signal[] = Deno.build.os === "windows" ? ["SIGINT", "SIGBREAK"] : ["SIGINT", "SIGTERM"];
  for (const signal of signals) Deno.addSignalListener(signal, stop);
  console.log(`listening on ${listener.addr.hostname}:${listener.addr.port}`);
  console.log(`${count} threads, engine ${listener.engine}`);
  console.log(`try it: nc ${listener.addr.hostname} ${listener.addr.port}`);

  let next = 0;
  const sending = new Set<Promise<void>>();
  for await (const conn of listener) {
    const thread = threads[next++ % count] as Child;
    // It fails if the thread has: the connection is still here then.
    const sent = thread.send("serve this", { sockets: [conn] }).catch(() => conn.close())
      .finally(() => sending.delete(sent));
    sending.add(sent);
  }
  await Promise.all(sending);
  await Promise.all(threads.map((thread) => thread.shutdown({ grace: GRACE })));
  Deno.exit(0);
}

if ("DedicatedWorkerGlobalScope" in globalThis) await serve();
else await accept();
