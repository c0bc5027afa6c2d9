/** UDP echo over this library: `ours_udp.ts one|many runtime|native`. */

import { DatagramBatch, UdpEndpoint } from "../../udp/mod.ts";

const [calls, engine] = Deno.args as ["one" | "many", "runtime" | "native"];

function bind(): UdpEndpoint {
  try {
    return UdpEndpoint.bind({ hostname: "127.0.0.1", engine });
  } catch (error) {
    // One line, which the table shows as the reason why the row is missing.
    console.error(`error: ${error instanceof Error ? error.message : error}`);
    Deno.exit(1);
  }
}

const endpoint = bind();
console.log(`listening 127.0.0.1:${endpoint.addr.port}`);
if (calls === "many") {
  const batch = new DatagramBatch();
  while (true) {
    await endpoint.recvBatch(batch);
    await endpoint.sendBatch(batch);
  }
} else {
  const p = new Uint8Array(2048);
  while (true) {
    const { data, address } = await endpoint.recvFrom(p);
    await endpoint.sendTo(data, address);
  }
}
