/** UDP echo over `Bun.udpSocket`, under Bun. With `--sink` it counts, and tells who asks with one byte. */

import { countBytes } from "./count.ts";

interface BunUdpSocket {
  port: number;
  send(data: Uint8Array, port: number, address: string): boolean;
}

declare const Bun: {
  argv: string[];
  udpSocket(options: {
    hostname: string;
    port: number;
    socket: { data(socket: BunUdpSocket, data: Uint8Array, port: number, address: string): void };
  }): Promise<BunUdpSocket>;
};

const isSink = Bun.argv.includes("--sink");
let count = 0;
const socket = await Bun.udpSocket({
  hostname: "127.0.0.1",
  port: 0,
  socket: {
    data(socket, data, port, address) {
      if (!isSink) socket.send(data, port, address);
      else if (data.length === 1) socket.send(countBytes(count), port, address);
      else count++;
    },
  },
});
console.log(`listening 127.0.0.1:${socket.port}`);
