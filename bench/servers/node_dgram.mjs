/** UDP echo over `node:dgram`, under Node. With `--sink` it counts, and tells who asks with one byte. */

import { createSocket } from "node:dgram";

const socket = createSocket("udp4");
let count = 0;
if (process.argv.includes("--sink")) {
  socket.on("message", (data, from) => {
    if (data.length !== 1) return void count++;
    const answer = Buffer.alloc(8);
    answer.writeBigUInt64LE(BigInt(count));
    socket.send(answer, from.port, from.address);
  });
} else {
  socket.on("message", (data, from) => socket.send(data, from.port, from.address));
}
socket.bind(0, "127.0.0.1", () => console.log(`listening 127.0.0.1:${socket.address().port}`));
