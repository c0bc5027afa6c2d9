/**
 * The server of the fault tests: TCP and UDP echo on one port, as one program
 * on either engine or as a pool. Arguments: a model and a host name.
 */

import { Pool } from "@c10k/sockets/process";
import { type TcpConn, TcpListener } from "@c10k/sockets/tcp";
import { UdpEndpoint } from "@c10k/sockets/udp";

const [model = "native", hostname = "127.0.0.1", extra = "{}"] = Deno.args;
const engine = model === "runtime" ? "runtime" : "native";
const listener = TcpListener.bind({ hostname, port: 0, engine });
const { port } = listener.addr;

async function echo(conn: TcpConn): Promise<void> {
  const p = new Uint8Array(16 * 1024);
  for (let n = await conn.read(p); n !== null; n = await conn.read(p)) await conn.writeAll(p.subarray(0, n));
  await conn.closeWrite();
}

async function answer(endpoint: UdpEndpoint): Promise<void> {
  const p = new Uint8Array(65_536);
  while (true) {
    const { data, address } = await endpoint.recvFrom(p);
    // A datagram that cannot be sent is lost, as datagrams may be.
    await endpoint.sendTo(data, address).catch(() => {});
  }
}

const endpoint = UdpEndpoint.bind({ hostname, port, engine });
answer(endpoint);

if (model === "worker" || model === "process") {
  const module = new URL("./child.ts", import.meta.url);
  const pool = await Pool.start({ kind: model, module, listener, size: 2, grace: 5_000, ...JSON.parse(extra) });
  console.log(`listening on ${hostname}:${port}`);
  await pool.closed;
  Deno.exit(0);
} else {
  console.log(`listening on ${hostname}:${port}`);
  for await (const conn of listener) echo(conn).catch(() => {}).finally(() => conn.close());
}
