/**
 * One busy connection among idle ones, for `docs/four-ways.md`: what does a
 * wait cost that finds one socket ready and many that are not?
 *
 *     strace -c -e trace=/select,/poll deno run --allow-net --allow-ffi docs/among_idle.ts --backend select --idle 500
 *
 * strace without `-f` counts the main thread alone, which is the one that waits.
 */

import { Multiplexer } from "@c10k/sockets/mux";
import { TcpConn, TcpListener } from "@c10k/sockets/tcp";
import { parseArgs } from "@std/cli";

const flags = parseArgs(Deno.args, {
  string: ["backend", "idle", "rounds"],
  default: { backend: "epoll", idle: "500", rounds: "10000" },
});
const backend = Multiplexer.backends().find((name) => name === flags.backend && name !== "runtime");
const idle = Number(flags.idle);
const rounds = Number(flags.rounds);
if (backend === undefined || !Number.isInteger(idle / 2) || !Number.isInteger(rounds)) {
  console.error(
    "Usage: among_idle.ts [--backend epoll|poll|select] [--idle EVEN] [--rounds N], with --allow-ffi on Linux",
  );
  Deno.exit(2);
}

using listener = TcpListener.bind({ hostname: "127.0.0.1", port: 0, engine: "native" });
using mux = new Multiplexer<TcpConn>({ backend });

async function pair(): Promise<[TcpConn, TcpConn]> {
  return [await TcpConn.connect({ port: listener.addr.port, engine: "native" }), await listener.accept()];
}

// Both ends of a connection are sockets that never become ready.
const sleepers: TcpConn[] = [];
for (let i = 0; i < idle / 2; i++) sleepers.push(...await pair());
const [client, server] = await pair();
for (const socket of [...sleepers, server]) mux.register(socket, { readable: true }, socket);

const p = new Uint8Array(1);
let events = 0;
const begin = performance.now();
for (let i = 0; i < rounds; i++) {
  client.tryWrite(p);
  for (const { data: conn } of mux.waitSync()) {
    events++;
    conn.tryRead(p);
  }
}
const took = performance.now() - begin;
console.log(
  `${backend}, ${idle} idle: ${events} events in ${rounds} waits, ${(1000 * took / rounds).toFixed(1)} µs each`,
);
for (const socket of [...sleepers, client, server]) socket.close();
