/**
 * A key-value server that speaks the protocol of Redis (RESP2), in one thread
 * that watches all sockets.
 *
 *     deno task example:kv
 *     deno run --allow-net --allow-ffi examples/kv.ts --port 6380
 *
 * PING, ECHO, SET (EX, PX, NX, XX), GET, DEL, EXISTS, INCR, DECR, EXPIRE, TTL,
 * MGET, MSET, DBSIZE, FLUSHDB, INFO, COMMAND, CONFIG GET. Everything is kept in
 * memory, and nowhere else. Ctrl-C or SIGTERM ends it, once what was asked before is answered.
 */

import { type Backend, Multiplexer } from "@c10k/sockets/mux";
import { type TcpConn, TcpListener } from "@c10k/sockets/tcp";
import { parseArgs } from "@std/cli";
import { Buffer } from "node:buffer";
import { Client, type Hub } from "./kv/client.ts";
import { describe, type Info } from "./kv/info.ts";
import { Replies } from "./kv/replies.ts";
import { Store } from "./kv/store.ts";

const USAGE =
  `Usage: kv.ts [--host 127.0.0.1] [--port 6380] [--backend auto|epoll|poll|select|runtime] [--buffers MIB]`;

/** How long to leave connections in the kernel's queue when descriptors have run out, in milliseconds. */
const PAUSE = 100;
/** After a signal: how long to wait for what was asked before, while something is, and altogether, in milliseconds. */
const END = { quiet: 50, grace: 1_000 };
/** How often keys that are due are looked for, in milliseconds, and how many keys are looked at. */
const SWEEP = { interval: 100, soon: 2, keys: 500 };

/** Ends the program because of how it was called, or because it cannot serve. */
function refuse(problem: unknown): never {
  const isUsage = !(problem instanceof Error) || problem instanceof TypeError || problem instanceof RangeError;
  console.error(
    `${problem instanceof Error ? problem.message : problem}${isUsage ? " (--help shows how to call it)" : ""}`,
  );
  Deno.exit(isUsage ? 2 : 1);
}

const flags = parseArgs(Deno.args.filter((arg) => arg !== "--"), {
  string: ["host", "port", "backend", "buffers"],
  boolean: ["help"],
  default: { host: "127.0.0.1", port: "6380", backend: "auto", buffers: "1024" },
  unknown: (arg) => refuse(`Unknown argument "${arg}"`),
});
if (flags.help) console.log(USAGE), Deno.exit(0);

function open(): [Multiplexer<Client | undefined>, TcpListener] {
  try {
    const mux = new Multiplexer<Client | undefined>({ backend: flags.backend as Backend | "auto" });
    const engine = mux.backend === "runtime" ? "runtime" : "native";
    const hostname = String(flags.host);
    return [mux, TcpListener.bind({ hostname, port: Number(flags.port), engine, onAcceptError: pause })];
  } catch (error) {
    refuse(error);
  }
}

const [mux, listener] = open();
const store = new Store();
const begun = Date.now();
const hub: Hub = {
  mux,
  service: { store, replies: new Replies(), info },
  buffer: Buffer.alloc(64 * 1024),
  mostHeld: mostHeld(),
  held: 0,
};
let connections = 0;

function mostHeld(): number {
  const size = Number(flags.buffers);
  return size >= 1 ? size * 1024 * 1024 : refuse(`--buffers takes a number of MiB from 1, not "${flags.buffers}"`);
}

/** What INFO tells. */
function info(): Info {
  const clients = mux.size - (mux.has(listener) ? 1 : 0);
  return describe(store, { port: listener.addr.port, begun, clients, connections, held: hub.held });
}

function accept(conn: TcpConn): void {
  connections++;
  try {
    new Client(conn, hub);
  } catch (error) {
    // It has gone again, or select has no room for it.
    console.error(error instanceof Error ? error.message : error);
    conn.close();
  }
}

/** No descriptor is left: asked again at once, the listener would be ready still. */
function pause(error: Error): void {
  console.error(error.message);
  if (!mux.has(listener)) return;
  mux.unregister(listener);
  setTimeout(watchListener, PAUSE);
}

function watchListener(): void {
  if (!isStopped) mux.register(listener, { readable: true });
}

/** Removes what is due, a little at a time. */
function sweep(): void {
  store.now = Date.now();
  setTimeout(sweep, store.sweep(SWEEP.keys) ? SWEEP.soon : SWEEP.interval);
}

let [isStopped, isQuiet] = [false, false];
let resting: ReturnType<typeof setTimeout> | undefined;

/** Serves those who have connected, and ends when they have no more questions. */
async function stop(): Promise<void> {
  if (isStopped) return;
  isStopped = true;
  setTimeout(() => mux.close(), END.grace);
  listener.drain();
  for await (const conn of listener) accept(conn);
  rest();
}

/** Puts off the end, which comes with a look at the sockets that finds nothing. */
function rest(): void {
  clearTimeout(resting);
  isQuiet = false;
  resting = setTimeout(() => (isQuiet = true, mux.wake()), END.quiet);
}

const signals: Deno.Signal[] = Deno.build.os === "windows" ? ["SIGINT", "SIGBREAK"] : ["SIGINT", "SIGTERM"];
for (const signal of signals) Deno.addSignalListener(signal, stop);
watchListener(), sweep();
const { hostname, port } = listener.addr;
console.log(`listening on ${hostname.includes(":") ? `[${hostname}]` : hostname}:${port}`);
console.log(`backend ${mux.backend}`);
console.log(`try it: redis-cli -h ${hostname} -p ${port} set greeting hello`);

for await (const events of mux) {
  store.now = Date.now();
  if (isQuiet && events.length === 0) break;
  if (resting !== undefined) rest();
  for (const event of events) {
    event.data?.onReady(event);
    if (event.data !== undefined || isStopped) continue;
    for (let conn = listener.tryAccept(); conn !== undefined; conn = listener.tryAccept()) accept(conn);
  }
}
Deno.exit(0);
