/** UDP echo over `Deno.listenDatagram`: what a user of Deno has without this library. */

const endpoint = Deno.listenDatagram({ transport: "udp", hostname: "127.0.0.1", port: 0 });
console.log(`listening 127.0.0.1:${(endpoint.addr as Deno.NetAddr).port}`);
const buffer = new Uint8Array(2048);
while (true) {
  const [data, from] = await endpoint.receive(buffer);
  await endpoint.send(data, from);
}
