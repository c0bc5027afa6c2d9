/**
 * A chat server in one thread: rooms, and nobody who reads slowly holds up the others.
 *
 *     deno task example:chat
 *     deno run --allow-net --allow-ffi examples/chat.ts --port 8080 --backend epoll
 *
 * Ctrl-C or SIGTERM: everybody is told, and has 5 s or until the next Ctrl-C to read it.
 */

import { type Backend, Multiplexer } from "@c10k/sockets/mux";
import { type TcpConn, TcpListener } from "@c10k/sockets/tcp";
import { parseArgs } from "@std/cli";
import { Buffer } from "node:buffer";
import { Lines, type Member, Rooms, tell } from "./chat/rooms.ts";

const USAGE = "Usage: chat.ts [--host 127.0.0.1] [--port 8080] [--backend auto|epoll|poll|select|runtime]";
const MAX_QUEUE = 256 * 1024; // bytes that may wait for one client, beyond the kernel's buffer
const BURST = 16 * 1024; // bytes that are read of one client before a pause, so that its readers keep up
const PAUSE = 10; // ms
const GRACE = 5_000; // ms to read what was sent before the end

/** Ends the program; with code 2 because of how it was called. */
function fail(error: unknown, code = 2): never {
  console.error(error instanceof Error ? error.message : `${error}. ${USAGE}`);
  Deno.exit(code);
}

function open(): [Multiplexer<Client | undefined>, TcpListener] {
  const values = { host: "127.0.0.1", port: "8080", backend: "auto" };
  const unknown = (arg: string) => fail(`Unknown argument "${arg}"`);
  const args = Deno.args.filter((arg) => arg !== "--");
  const flags = parseArgs(args, { string: Object.keys(values), boolean: ["help"], default: values, unknown });
  if (flags.help) console.log(USAGE), Deno.exit(0);
  const [hostname, port, backend] = [String(flags.host), String(flags.port), String(flags.backend) as Backend];
  if (!/^\d{1,5}$/.test(port)) fail(`--port takes a number, not "${port}"`);
  try {
    const mux = new Multiplexer<Client | undefined>({ backend, maxEvents: 16 }); // few, for output to be sent between
    const engine = mux.backend === "runtime" ? "runtime" : "native";
    return [mux, TcpListener.bind({ hostname, port: Number(port), engine, onAcceptError: pause })];
  } catch (error) {
    fail(error, error instanceof TypeError || error instanceof RangeError ? 2 : 1);
  }
}

/** Somebody who is connected. */
class Client implements Member {
  nick = "";
  room = "";
  readonly #lines = new Lines();
  #output: Uint8Array[] = []; // what the kernel has not taken yet; readers share the lines
  #allowance = BURST; // bytes to read before the next pause
  #leaving = false; // gets what is in #output, and FIN
  constructor(readonly conn: TcpConn) {
    mux.register(conn, { readable: true }, this);
  }

  /** Does what does not block, and says what to be told of next. */
  serve(readable: boolean, writable: boolean, allowance = this.#allowance): void {
    this.#allowance = allowance;
    try {
      if (readable) this.#read();
      if (writable) this.#write();
      const interest = { readable: this.#allowance > 0, writable: this.#output.length > 0 };
      if (mux.has(this.conn)) mux.modify(this.conn, interest);
    } catch {
      this.conn.close();
      rooms.leave(this, "is gone");
    }
  }

  send(line: Uint8Array): void {
    this.#output.push(line);
    unsent.add(this);
  }

  dismiss(notice: string, why = "leaves"): void {
    if (this.#leaving) return;
    this.#leaving = true;
    rooms.leave(this, why);
    tell([this], notice);
    setTimeout(() => this.conn.close(), GRACE);
  }

  #write(): void {
    if (!mux.has(this.conn)) return; // closed meanwhile
    const bytes = Buffer.concat(this.#output);
    const rest = bytes.subarray(this.conn.tryWrite(bytes) ?? 0);
    this.#output = rest.length > 0 ? [rest] : [];
    if (rest.length > MAX_QUEUE && !this.#leaving) {
      this.#output = [rest.subarray(0, rest.indexOf("\n") + 1)];
      this.dismiss("* you read too slowly", "reads too slowly");
    }
    // Not close(), which with something unread would take back what was sent (RST).
    if (this.#leaving && this.#output.length === 0) this.conn.shutdown("write");
  }

  #read(): void {
    const n = this.conn.tryRead(buffer);
    for (const line of this.#lines.take(buffer.subarray(0, n ?? 0), n === null)) rooms.obey(this, line);
    this.#allowance -= n ?? 0;
    if (this.#allowance <= 0) setTimeout(() => this.serve(false, false, BURST), PAUSE);
    if (n !== null) return;
    this.dismiss("* goodbye");
    this.#write();
    this.conn.close();
  }
}

const [[mux, listener], rooms] = [open(), new Rooms()];
const buffer = new Uint8Array(BURST); // one for all: what is read is copied before the next is read
const unsent = new Set<Client>(); // those with something new in #output
let [stopped, isDrained]: [number | undefined, boolean] = [undefined, false];

function pause(error: Error): void {
  console.error(error.message); // no descriptor is left: asked again at once, the listener would be ready still
  listener.pause();
  setTimeout(() => stopped ?? listener.resume(), 100 * PAUSE);
}

async function stop(): Promise<void> {
  // A task runner passes the same Ctrl-C on a second time.
  if (stopped !== undefined) return performance.now() - stopped > 500 ? mux.close() : undefined;
  stopped = performance.now();
  setTimeout(() => mux.close(), GRACE);
  listener.resume(), listener.drain(); // who is in the kernel's queue has connected, and is heard
  for await (const conn of listener) rooms.welcome(new Client(conn));
  for (const { data } of mux.registrations()) data?.serve(true, false); // what they have said already
  await new Promise((resolve) => setTimeout(resolve, 20 * PAUSE));
  rooms.clear();
  for (const { data } of mux.registrations()) data?.dismiss("* the server stops");
  isDrained = true;
  mux.wake();
}
Deno.addSignalListener("SIGINT", stop);
Deno.addSignalListener(Deno.build.os === "windows" ? "SIGBREAK" : "SIGTERM", stop);

mux.register(listener, { readable: true });
const { hostname, port } = listener.addr;
console.log(`listening on ${hostname.includes(":") ? `[${hostname}]` : hostname}:${port}, backend ${mux.backend}`);
console.log(`try it: nc ${hostname} ${port}`);
for await (const events of mux) {
  for (const { data: client, readable, writable, error } of events) {
    const conn = client === undefined ? listener.tryAccept() : undefined;
    if (conn !== undefined) rooms.welcome(new Client(conn));
    client?.serve(readable || error, writable);
  }
  for (const client of unsent) client.serve(false, unsent.delete(client)); // many lines in a packet
  if (isDrained && mux.size === 0) break;
}
Deno.exit(0);
