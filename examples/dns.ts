/**
 * A DNS server that forwards what it is asked, and remembers the answers for as
 * long as they hold: by UDP, and by TCP what is too long for a datagram.
 *
 *     deno task example:dns --upstream 9.9.9.9
 *     deno run --allow-net examples/dns.ts --port 5300 --upstream 127.0.0.1:53
 *
 * Ctrl-C or SIGTERM ends it, once what was asked before is answered.
 */

import { type TcpConn, TcpListener } from "@c10k/sockets/tcp";
import { engineSupport, UdpEndpoint } from "@c10k/sockets/udp";
import { parseArgs } from "@std/cli";
import { Cache } from "./dns/cache.ts";
import { Forwarder } from "./dns/forwarder.ts";
import { readMessage, writeMessage } from "./dns/message.ts";
import { Upstream } from "./dns/upstream.ts";

const USAGE =
  `Usage: dns.ts [--host 127.0.0.1] [--port 5300] [--upstream 9.9.9.9[:53]] [--timeout MS] [--cache ENTRIES]`;

/** How long a connection may do nothing, in milliseconds. */
const IDLE = 10_000;
/** How long answers may take after a signal, in milliseconds. */
const GRACE = 5_000;
/** Connections that are served at a time; the kernel's queue holds others. */
const MOST_CONNECTIONS = 100;
/** Datagrams that are being answered; others are lost, and asked again. */
const MOST_DATAGRAMS = 10_000;

/** Ends the program because of how it was called, or because it cannot serve. */
function refuse(problem: unknown): never {
  const isUsage = !(problem instanceof Error) || problem instanceof TypeError || problem instanceof RangeError;
  console.error(
    `${problem instanceof Error ? problem.message : problem}${isUsage ? " (--help shows how to call it)" : ""}`,
  );
  Deno.exit(isUsage ? 2 : 1);
}

const flags = parseArgs(Deno.args.filter((arg) => arg !== "--"), {
  string: ["host", "port", "upstream", "timeout", "cache"],
  boolean: ["help"],
  default: { host: "127.0.0.1", port: "5300", upstream: "9.9.9.9", timeout: "2000", cache: "10000" },
  unknown: (arg) => refuse(`Unknown argument "${arg}"`),
});
if (flags.help) console.log(USAGE), Deno.exit(0);

function integer(flag: "port" | "timeout" | "cache", least: number, most: number): number {
  const value = Number(flags[flag]);
  if (Number.isInteger(value) && value >= least && value <= most) return value;
  refuse(`--${flag} takes a number from ${least} to ${most}, not "${flags[flag]}"`);
}

/** `9.9.9.9`, `9.9.9.9:53`, `2620:fe::fe` or `[2620:fe::fe]:53`. */
function upstreamOf(text: string): Upstream {
  const [, hostname = "", port = "53"] = /^\[(.+)\](?::(\d{1,5}))?$/.exec(text) ??
    /^([\d.]+)(?::(\d{1,5}))?$/.exec(text) ?? /^(.*:.*:.*)$/.exec(text) ?? [];
  try {
    return new Upstream({ hostname, port: Number(port) }, integer("timeout", 1, 60_000));
  } catch {
    refuse(`--upstream takes an IP address, not "${text}"`);
  }
}

let lastReport = "";
/** Says why upstream gives no answer, once in a row. */
function report(error: unknown): void {
  const message = error instanceof Error ? error.message : String(error);
  if (message !== lastReport) console.error(`no answer from upstream: ${message}`);
  lastReport = message;
}

const upstream = upstreamOf(String(flags.upstream));
const forwarder = new Forwarder(upstream, new Cache(integer("cache", 0, 10_000_000)), report);

/** The same port for both transports; which one the kernel picks for UDP may be taken for TCP. */
function bind(): [UdpEndpoint, TcpListener] {
  const [hostname, port] = [String(flags.host), integer("port", 0, 65_535)];
  // On all addresses each answer has to leave from the one that was asked: the client takes no other.
  const packetInfo = /^(0\.0\.0\.0|::)$/.test(hostname) && engineSupport().engine === "native";
  for (let attempt = 1;; attempt++) {
    let endpoint: UdpEndpoint | undefined;
    try {
      endpoint = UdpEndpoint.bind({ hostname, port, packetInfo });
      return [endpoint, TcpListener.bind({ hostname, port: endpoint.addr.port })];
    } catch (error) {
      endpoint?.close();
      if (port !== 0 || attempt === 10) refuse(error);
    }
  }
}

const stopping = new AbortController();
let pending = 0;

/** Answers datagrams as they come; slow answers hold up no others. */
async function serveUdp(endpoint: UdpEndpoint): Promise<void> {
  const p = new Uint8Array(65_535);
  while (true) {
    const { data, address, localAddress } = await endpoint.recvFrom(p);
    if (pending >= MOST_DATAGRAMS) continue;
    pending++;
    forwarder.reply(data.slice(), "udp")
      .then((reply) => reply === undefined ? 0 : endpoint.sendTo(reply, address, { localAddress }))
      .catch(() => {}) // the client asks again
      .finally(() => pending--);
  }
}

async function serveTcp(listener: TcpListener): Promise<void> {
  const open = new Set<Promise<void>>();
  for await (const conn of listener) {
    const done = converse(conn)
      .then(() => conn.finish()) // with what it still sends unread, close() would take answers back
      .catch(() => conn.close()) // it has gone, or did nothing for too long
      .finally(() => {
        open.delete(done);
        listener.resume();
      });
    if (open.add(done).size >= MOST_CONNECTIONS) listener.pause();
  }
  await Promise.all(open);
}

/** Answers one query after the other, until the client has no more. */
async function converse(conn: TcpConn): Promise<void> {
  for (let isFirst = true;; isFirst = false) {
    const query = await readMessage(conn, { timeout: IDLE, ...(isFirst ? {} : { signal: stopping.signal }) });
    if (query === undefined) return;
    const reply = await forwarder.reply(query, "tcp");
    if (reply === undefined) return;
    await writeMessage(conn, reply, { timeout: IDLE });
  }
}

function stop(): void {
  stopping.abort();
  listener.drain(); // who is in the kernel's queue has connected, and is answered
  setTimeout(() => Deno.exit(0), GRACE);
}

const [endpoint, listener] = bind();
const signals: Deno.Signal[] = Deno.build.os === "windows" ? ["SIGINT", "SIGBREAK"] : ["SIGINT", "SIGTERM"];
for (const signal of signals) Deno.addSignalListener(signal, stop);

const { hostname, port } = listener.addr;
console.log(`listening on ${hostname.includes(":") ? `[${hostname}]` : hostname}:${port}`);
console.log(`engine ${endpoint.engine}, upstream ${upstream.address.hostname} port ${upstream.address.port}`);
console.log(`try it: dig @${hostname} -p ${port} deno.com`);
serveUdp(endpoint);
await serveTcp(listener);
do await new Promise((resolve) => setTimeout(resolve, 10)); while (pending > 0);
Deno.exit(0);
