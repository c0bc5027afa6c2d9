/** UDP echo over this library: `ours_udp.ts one|many|gro runtime|native [--sink]`. */

import { DatagramBatch, UdpEndpoint } from "../../udp/mod.ts";
import { countBytes } from "./count.ts";

const [calls, engine, sink] = Deno.args as ["one" | "many" | "gro", "runtime" | "native", "--sink"?];

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
const batch = new DatagramBatch({ gro: calls === "gro" });
const p = new Uint8Array(2048);
if (sink !== undefined && calls === "one") {
  for (let count = 0;;) {
    const { data, address } = await endpoint.recvFrom(p);
    if (data.length === 1) await endpoint.sendTo(countBytes(count), address);
    else count++;
  }
} else if (sink !== undefined) {
  for (let count = 0;;) {
    const n = await endpoint.recvBatch(batch);
    for (let i = 0; i < n; i++) {
      if (batch.size(i) === 1) await endpoint.sendTo(countBytes(count), batch.address(i));
      else count++;
    }
  }
} else if (calls === "one") {
  while (true) {
    const { data, address } = await endpoint.recvFrom(p);
    await endpoint.sendTo(data, address);
  }
} else {
  while (true) {
    await endpoint.recvBatch(batch);
    await endpoint.sendBatch(batch);
  }
}
