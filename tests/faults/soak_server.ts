/**
 * The server of the soak: a pool of threads, a pool of processes and an
 * endpoint, each echoing. It reloads both pools on SIGHUP. Argument: seconds
 * that connections have to finish.
 */

import { Pool } from "@c10k/sockets/process";
import { UdpEndpoint } from "@c10k/sockets/udp";

const grace = Number(Deno.args[0]) * 1_000;
const module = new URL("./child.ts", import.meta.url);
const listen = { hostname: "127.0.0.1", port: 0 };
const pools = await Promise.all(
  (["worker", "process"] as const).map((kind) => Pool.start({ kind, module, listen, size: 2, grace })),
);
const endpoint = UdpEndpoint.bind({ hostname: "127.0.0.1", port: 0 });
console.log(JSON.stringify({ tcp: pools.map(({ addr }) => addr.port), udp: endpoint.addr.port }));

(async () => {
  const p = new Uint8Array(65_536);
  while (true) {
    const { data, address } = await endpoint.recvFrom(p);
    await endpoint.sendTo(data, address);
  }
})();

await Promise.all(pools.map(({ closed }) => closed));
Deno.exit(0);
