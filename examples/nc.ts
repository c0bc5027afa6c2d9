/**
 * What nc(1) does: standard input goes to a socket, and what the socket receives to standard output.
 *
 *     deno task example:nc 127.0.0.1 8080
 *     deno run --allow-net examples/nc.ts -l 8080 > file
 *     deno run --allow-net examples/nc.ts -zv 127.0.0.1 8000-8100
 *
 * End-of-file on standard input closes the sending side, as nc -N does; the end is when both sides have finished, on a
 * terminal when the peer has. With -u each read of standard input is a datagram, and only -w ends the wait for more;
 * that nobody listens there is told natively (--allow-ffi). -l takes one connection, or the first peer; on 127.0.0.1,
 * unless HOST is given. -w is for connecting and for silence. Exit codes: 0, 1 for a connection that failed or broke, 2
 * for a wrong call, 130 and 143 for signals, after what was read is sent.
 */

import { type EngineOption, TcpConn, TcpListener } from "@c10k/sockets/tcp";
import { UdpEndpoint } from "@c10k/sockets/udp";
import { parseArgs } from "@std/cli";
import { lookup } from "node:dns/promises";

const USAGE = "Usage: nc.ts [-lNuvz] [-w SECONDS] [--engine auto|runtime|native] [HOST] PORT[-PORT]";

/** Ends the program with one line. */
function fail(error: unknown): never {
  console.error(error instanceof Error ? error.message : `${error}. ${USAGE}`);
  Deno.exit(error instanceof Error && !(error instanceof TypeError || error instanceof RangeError) ? 1 : 2);
}

const flags = parseArgs(Deno.args.filter((arg) => arg !== "--"), {
  string: ["w", "engine", "_"],
  boolean: ["l", "N", "u", "v", "z", "help"],
  default: { engine: "auto", w: "0" },
  unknown: (arg, key) => key === undefined || fail(`Unknown argument "${arg}"`),
});
if (flags.help) console.log(USAGE), Deno.exit(0);
const [ports, hostname = "127.0.0.1"] = flags._.map(String).reverse();
const [, first, last = first] = /^(\d{1,5})(?:-(\d{1,5}))?$/.exec(ports ?? "") ?? [];
if (first === undefined || flags._.length > 2) fail(`[HOST] PORT must be given, not "${flags._.join(" ")}"`);
if (last !== first && !flags.z) fail("Several ports are for -z");
if (flags.z && (flags.l || flags.u)) fail("-z goes neither with -l nor with -u");
if (!/^\d{1,6}$/.test(String(flags.w))) fail(`-w takes seconds, not "${flags.w}"`);
const [port, engine, timeout] = [Number(first), String(flags.engine) as EngineOption, 1_000 * Number(flags.w)];

const note = (text: string) => flags.v && console.error(text);
let silence: ReturnType<typeof setTimeout> | undefined;

/** Puts off the end that comes after silence. */
function stir(): void {
  clearTimeout(silence);
  if (timeout > 0) silence = setTimeout(() => Deno.exit(0), timeout);
}

async function print(bytes: Uint8Array): Promise<void> {
  stir();
  for (let at = 0; at < bytes.length;) at += await Deno.stdout.write(bytes.subarray(at));
}

/** Hands on standard input, up to its end. */
async function input(size: number, send: (bytes: Uint8Array) => Promise<unknown>): Promise<void> {
  const p = new Uint8Array(size);
  for (let n = await Deno.stdin.read(p); n !== null; n = await Deno.stdin.read(p)) {
    await send(p.subarray(0, n));
    stir();
  }
}

async function talk(conn: TcpConn): Promise<void> {
  finish = () => conn.closeWrite();
  stir();
  const sending = input(64 * 1024, (bytes) => conn.writeAll(bytes)).then(finish);
  sending.catch(() => {}); // thrown below: what the peer said before it went is printed first
  const p = new Uint8Array(64 * 1024);
  for (let n = await conn.read(p); n !== null; n = await conn.read(p)) await print(p.subarray(0, n));
  if (!Deno.stdin.isTerminal()) await sending;
}

/** Exchanges datagrams with one peer, by default the first that sends one. */
async function exchange(endpoint: UdpEndpoint, peer?: { hostname: string; port: number }): Promise<void> {
  const p = new Uint8Array(65_535);
  peer ??= (await endpoint.recvFrom(p, { peek: true })).address;
  if (endpoint.engine === "native") endpoint.connect(peer);
  stir();
  const { hostname, port } = peer;
  const sending = input(8 * 1024, (bytes) => endpoint.sendTo(bytes, { hostname, port }));
  const receiving = (async () => {
    while (true) {
      const { data, address } = await endpoint.recvFrom(p);
      if (address.hostname === hostname && address.port === port) await print(data);
    }
  })();
  await Promise.all([sending, receiving]);
}

async function listen(): Promise<void> {
  const socket = (flags.u ? UdpEndpoint : TcpListener).bind({ hostname, port, engine });
  console.error(`listening on ${socket.addr.hostname} ${socket.addr.port}`);
  console.error(`try it: nc ${flags.u ? "-u " : ""}${socket.addr.hostname} ${socket.addr.port}`);
  if (socket instanceof UdpEndpoint) return await exchange(socket);
  const conn = await socket.accept();
  socket.close();
  note(`Connection from ${conn.remoteAddr.hostname} ${conn.remoteAddr.port}`);
  await talk(conn);
}

async function connect(): Promise<void> {
  if (flags.u) {
    const { address, family } = await lookup(hostname);
    const endpoint = UdpEndpoint.bind({ hostname: family === 6 ? "::" : "0.0.0.0", engine });
    return await exchange(endpoint, { hostname: address, port });
  }
  const conn = await TcpConn.connect({ hostname, port, engine, timeout: timeout || Infinity });
  note(`Connection to ${hostname} ${port} succeeded`);
  await talk(conn);
}

async function scan(): Promise<void> {
  let code = 1;
  for (let port = Number(first); port <= Number(last); port++) {
    const options = { hostname, port, engine, timeout: timeout || Infinity };
    const conn = await TcpConn.connect(options).catch((error) => void note(error.message));
    if (conn === undefined) continue;
    conn.close();
    note(`Connection to ${hostname} ${port} succeeded`);
    code = 0;
  }
  Deno.exit(code);
}

/** Ends the program once what was read is sent, after a second at the latest. */
let finish = (): Promise<void> => Promise.resolve();
function stop(code: number): void {
  setTimeout(() => Deno.exit(code), 1_000);
  finish().finally(() => Deno.exit(code));
}
Deno.addSignalListener("SIGINT", () => stop(130));
if (Deno.build.os !== "windows") Deno.addSignalListener("SIGTERM", () => stop(143));

await (flags.z ? scan() : flags.l ? listen() : connect()).catch(fail);
Deno.exit(0);
