/**
 * Opens and closes connections one after the other, by both sides in turn, and
 * prints what is left of them: `deno run -A tests/churn.ts 100000`.
 */

import { TcpConn, TcpListener } from "@c10k/sockets/tcp";
import { openDescriptors } from "./_util.ts";

const total = Number(Deno.args[0] ?? 100_000);
const warmup = total / 5;

using listener = TcpListener.bind({ hostname: "127.0.0.1", port: 0, engine: "native" });
const p = new Uint8Array(16);

async function connection(i: number): Promise<void> {
  // A source address of its own each 10,000, or the ports in TIME_WAIT would run out.
  const localAddress = `127.0.${1 + Math.floor(i / 10_000)}.1`;
  using client = await TcpConn.connect({ port: listener.addr.port, localAddress, engine: "native" });
  using server = await listener.accept();
  const [first, second] = i % 2 === 0 ? [client, server] : [server, client];
  const reading = second.read(p);
  if (i % 4 < 2) await first.writeAll(p);
  first.close();
  if (i % 4 < 2) await reading;
  if (await second.read(p) !== null) throw new Error("no end-of-file");
  await reading;
}

let descriptors = 0;
let before = 0;
for (let i = 0; i < total; i++) {
  if (i === warmup) {
    descriptors = openDescriptors();
    before = Deno.memoryUsage().rss;
  }
  await connection(i);
}
const growth = Deno.memoryUsage().rss - before;
console.log(JSON.stringify({ descriptors: openDescriptors() - descriptors, growth }));
