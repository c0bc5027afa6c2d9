/**
 * A TCP load balancer: each connection goes to one of several servers, or to another where that one is not reached.
 *
 *     deno task example:proxy 127.0.0.1:9001 127.0.0.1:9002
 *     deno run --allow-net --allow-ffi examples/proxy.ts --balance least-connections 127.0.0.1:9001 [::1]:9002
 *
 * Half-closed connections stay so, a slow side slows the other down, and a reset is passed on (as FIN by the runtime
 * engine). Ctrl-C or SIGTERM: no new connections, open ones may finish for --grace or until the next Ctrl-C.
 */

import { type EngineOption, TcpConn, TcpListener } from "@c10k/sockets/tcp";
import { parseArgs } from "@std/cli";

const USAGE = `Usage: proxy.ts [--host 127.0.0.1] [--port 8080] [--balance round-robin|least-connections]
  [--engine auto|runtime|native] [--timeout 2500] [--grace 5000] SERVER:PORT…
  --timeout: milliseconds for a server to accept, and between two looks at its health`;

/** Ends the program; with code 2 because of how it was called. */
function fail(error: unknown, code = 2): never {
  console.error(error instanceof Error ? error.message : `${error} (--help shows how to call it)`);
  Deno.exit(code);
}

const milliseconds = { timeout: "2500", grace: "5000" };
const values = { host: "127.0.0.1", port: "8080", balance: "round-robin", engine: "auto", ...milliseconds };
const string = [...Object.keys(values), "_"];
const unknown = (arg: string, key?: string) => key === undefined || fail(`Unknown argument "${arg}"`);
const args = Deno.args.filter((arg) => arg !== "--");
const flags = parseArgs(args, { string, boolean: ["help"], default: values, unknown });
if (flags.help) console.log(USAGE), Deno.exit(0);

/** The value of a flag, if it looks right. */
function flag(name: keyof typeof values, pattern: RegExp): string {
  const value = String(flags[name]);
  return pattern.test(value) ? value : fail(`--${name} cannot be "${value}"`);
}

const balance = flag("balance", /^(round-robin|least-connections)$/);
const engine = flag("engine", /^(auto|runtime|native)$/) as EngineOption;
const [timeout, grace] = [Number(flag("timeout", /^[1-9]\d{0,8}$/)), Number(flag("grace", /^\d{1,9}$/))];

/** The servers, with the number of connections that each has or is about to get. */
const servers = flags._.map((name) => {
  const [, v6, host, port] = /^(?:\[(\S+)\]|([^\s:]+)):0*([1-9]\d{0,4})$/.exec(String(name)) ?? [];
  const hostname = v6 ?? host;
  if (hostname === undefined || Number(port) > 65535) fail(`A server is given as HOST:PORT, not as "${name}"`);
  return { name, hostname, port: Number(port), connections: 0, isUp: true };
});
if (servers.length === 0) fail("No server is given");
type Server = typeof servers[number];
let turn = 0;

/** Chooses by turns or by load; of `left` those that are down come last. */
function choose(left: Server[]): Server | undefined {
  const up = left.filter(({ isUp }) => isUp);
  const candidates = up.length > 0 ? up : left;
  const least = balance === "round-robin" ? Infinity : Math.min(...candidates.map(({ connections }) => connections));
  const best = candidates.filter(({ connections }) => connections <= least);
  return best[turn++ % best.length];
}

/** Connects, which is a look at the server's health as well. */
async function reach(server: Server): Promise<TcpConn | undefined> {
  const { name, hostname, port } = server;
  try {
    const conn = await TcpConn.connect({ hostname, port, timeout, engine });
    if (!server.isUp) console.log(`${name} is up`);
    server.isUp = true;
    return conn;
  } catch (error) {
    if (!server.isUp) return;
    server.isUp = false;
    console.log(`${name} is down: ${error instanceof Error ? error.message : error}`);
    if (!servers.some(({ isUp }) => isUp)) console.log("no server is left: clients are cut until one is up");
  }
}

/** Closes a connection so that the peer does not take it for a proper end, where the engine can. */
function cut(conn: TcpConn): void {
  try {
    conn.reset();
  } catch {
    conn.close();
  }
}

/** Passes on what comes, at the pace of the slower side, and how it ends. */
async function relay(from: TcpConn, to: TcpConn): Promise<void> {
  from.setNoDelay(); // pieces go as they come
  from.setKeepAlive(); // a peer that has vanished is noticed some time
  let p = new Uint8Array(4 * 1024);
  while (true) {
    const n = await from.read(p).catch(() => void cut(to));
    if (n === undefined) return;
    if (n === null) return await to.closeWrite();
    // If this fails, the other direction passes on what `to` has said before, and meets the end as well.
    await to.writeAll(p.subarray(0, n));
    if (n === p.length && n < 64 * 1024) p = new Uint8Array(2 * n);
  }
}

/** Joins a client and the first server that can be reached. */
async function serve(client: TcpConn): Promise<void> {
  let left = servers;
  for (let server = choose(left); server !== undefined; server = choose(left)) {
    server.connections++;
    const conn = await reach(server);
    if (conn !== undefined) await Promise.allSettled([relay(client, conn), relay(conn, client)]);
    conn?.close();
    server.connections--;
    if (conn !== undefined) return client.close();
    left = left.filter((other) => other !== server);
  }
  cut(client);
}

function bind(): TcpListener {
  try {
    return TcpListener.bind({ hostname: flag("host", /./), port: Number(flag("port", /^\d{1,5}$/)), engine });
  } catch (error) {
    fail(error, error instanceof TypeError || error instanceof RangeError ? 2 : 1);
  }
}

const listener = bind();
const open = new Map<TcpConn, Promise<void>>();
const cutAll = () => open.forEach((_, client) => cut(client));
let stopped: number | undefined;

async function stop(): Promise<void> {
  // Sooner it is the same Ctrl-C, which a task runner passes on a second time.
  if (stopped !== undefined) return performance.now() - stopped > 500 ? cutAll() : undefined;
  stopped = performance.now();
  setTimeout(cutAll, grace);
  await listener.drain(); // who is in the kernel's queue has connected, and is served
  if (open.size > 0) console.log(`stopping: ${open.size} open, Ctrl-C again to cut`);
}
const signals = ["SIGINT", Deno.build.os === "windows" ? "SIGBREAK" : "SIGTERM"] as const;
for (const signal of signals) Deno.addSignalListener(signal, stop);

setInterval(() => servers.forEach(async (server) => (await reach(server))?.close()), timeout);
const { hostname, port } = listener.addr;
console.log(`listening on ${hostname.includes(":") ? `[${hostname}]` : hostname}:${port}, engine ${listener.engine}`);
console.log(`try it: curl http://${hostname.includes(":") ? `[${hostname}]` : hostname}:${port}/`);
for await (const client of listener) {
  open.set(client, serve(client).finally(() => open.delete(client)));
}
await Promise.all(open.values());
Deno.exit(0);
