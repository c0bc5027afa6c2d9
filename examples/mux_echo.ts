/**
 * The TCP echo server once more, in one thread that watches all sockets and
 * never waits for a single one: select, poll, epoll, or what Deno has.
 *
 *     deno task example:mux
 *     deno run --allow-net --allow-ffi examples/mux_echo.ts --backend select
 *
 * Ctrl-C or SIGTERM: no new connections, open ones may finish for 5 s or until
 * the next Ctrl-C.
 */

import { type Backend, Multiplexer } from "@c10k/sockets/mux";
import { type TcpConn, TcpListener } from "@c10k/sockets/tcp";
import { parseArgs } from "@std/cli";

const USAGE = `Usage: mux_echo.ts [--host 127.0.0.1] [--port 8080] [--backend auto|epoll|poll|select|runtime]`;

/** How long open connections may go on after a signal, in milliseconds. */
const GRACE = 5_000;
/** How long to leave connections in the kernel's queue when descriptors have run out, in milliseconds. */
const PAUSE = 100;

/** A connection, and what did not fit into its send buffer. */
interface Client {
  readonly conn: TcpConn;
  unsent: Uint8Array | undefined;
}

/** Ends the program because of how it was called. */
function refuse(problem: unknown): never {
  console.error(`${problem instanceof Error ? problem.message : problem}. ${USAGE}`);
  Deno.exit(2);
}

const flags = parseArgs(Deno.args, {
  string: ["host", "port", "backend"],
  boolean: ["help"],
  default: { host: "127.0.0.1", port: "8080", backend: "auto" },
  unknown: (arg) => refuse(`Unknown argument "${arg}"`),
});
if (flags.help) {
  console.log(USAGE);
  Deno.exit(0);
}

function text(flag: "host" | "port" | "backend"): string {
  const value = flags[flag];
  return typeof value === "string" ? value : refuse(`--${flag} takes one value`);
}

function open(): [Multiplexer<Client | undefined>, TcpListener] {
  try {
    const [hostname, port] = [text("host"), text("port")];
    if (!/^\d{1,5}$/.test(port)) throw new RangeError(`--port takes a number, not "${port}"`);
    const mux = new Multiplexer<Client | undefined>({ backend: text("backend") as Backend | "auto" });
    const engine = mux.backend === "runtime" ? "runtime" : "native";
    return [mux, TcpListener.bind({ hostname, port: Number(port), engine, onAcceptError: pause })];
  } catch (error) {
    if (error instanceof TypeError || error instanceof RangeError) refuse(error);
    console.error(error instanceof Error ? error.message : error);
    Deno.exit(1);
  }
}

const [mux, listener] = open();
/** One buffer for all: what is read is written or copied before the next is read. */
const buffer = new Uint8Array(16 * 1024);

function accept(): void {
  const conn = listener.tryAccept();
  if (conn !== undefined) mux.register(conn, { readable: true }, { conn, unsent: undefined });
}

/** No descriptor is left: asked again at once, the listener would be ready still. */
function pause(error: Error): void {
  console.error(error.message);
  if (!mux.has(listener)) return;
  mux.unregister(listener);
  setTimeout(watchListener, PAUSE);
}

function watchListener(): void {
  if (stopped === undefined) mux.register(listener, { readable: true });
}

/** Sends what there is room for; what is left waits for room, and until then nothing more is read. */
function send(client: Client, bytes: Uint8Array): void {
  const { conn } = client;
  const n = conn.tryWrite(bytes) ?? 0;
  if (n < bytes.length) {
    if (client.unsent === undefined) mux.modify(conn, { writable: true });
    client.unsent = client.unsent === undefined ? bytes.slice(n) : bytes.subarray(n);
  } else if (client.unsent !== undefined) {
    client.unsent = undefined;
    mux.modify(conn, { readable: true });
  }
}

function serve(client: Client): void {
  const { conn } = client;
  try {
    if (client.unsent !== undefined) return send(client, client.unsent);
    const n = conn.tryRead(buffer);
    if (n === null) conn.close();
    else if (n !== undefined) send(client, buffer.subarray(0, n));
  } catch {
    conn.close(); // a peer that has gone is no event for the others
  }
}

const signals: Deno.Signal[] = Deno.build.os === "windows" ? ["SIGINT", "SIGBREAK"] : ["SIGINT", "SIGTERM"];
let stopped: number | undefined;

function stop(): void {
  if (stopped === undefined) {
    stopped = performance.now();
    listener.close();
    setTimeout(() => mux.close(), GRACE);
    if (mux.size > 0) console.log(`stopping: ${mux.size} open, Ctrl-C again to cut`);
    mux.wake();
  } else if (performance.now() - stopped > 500) {
    mux.close(); // sooner it is the same Ctrl-C, which a task runner passes on a second time
  }
}
for (const signal of signals) Deno.addSignalListener(signal, stop);

watchListener();
const { hostname, port } = listener.addr;
console.log(`listening on ${hostname.includes(":") ? `[${hostname}]` : hostname}:${port}`);
console.log(`backend ${mux.backend}`);
console.log(`try it: nc ${hostname} ${port}`);

for await (const events of mux) {
  for (const { data: client, readable, writable, error } of events) {
    if (client === undefined) accept();
    else if (readable || writable || error) serve(client);
  }
  if (stopped !== undefined && mux.size === 0) break;
}
Deno.exit(0);
