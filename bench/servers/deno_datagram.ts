/**
 * UDP echo over `Deno.listenDatagram`: what a user of Deno has without this
 * library. With `--sink` it counts, and tells who asks with one byte.
 */

import { countBytes } from "./count.ts";

const endpoint = Deno.listenDatagram({ transport: "udp", hostname: "127.0.0.1", port: 0 });
console.log(`listening 127.0.0.1:${(endpoint.addr as Deno.NetAddr).port}`);
const buffer = new Uint8Array(2048);
if (Deno.args.includes("--sink")) {
  for (let count = 0;;) {
    const [data, from] = await endpoint.receive(buffer);
    if (data.length === 1) await endpoint.send(countBytes(count), from);
    else count++;
  }
}
while (true) {
  const [data, from] = await endpoint.receive(buffer);
  await endpoint.send(data, from);
}
