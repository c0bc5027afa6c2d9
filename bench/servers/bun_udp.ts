/** UDP echo over `Bun.udpSocket`, under Bun. */

interface BunUdpSocket {
  port: number;
  send(data: Uint8Array, port: number, address: string): boolean;
}

declare const Bun: {
  udpSocket(options: {
    hostname: string;
    port: number;
    socket: { data(socket: BunUdpSocket, data: Uint8Array, port: number, address: string): void };
  }): Promise<BunUdpSocket>;
};

const socket = await Bun.udpSocket({
  hostname: "127.0.0.1",
  port: 0,
  socket: {
    data(socket, data, port, address) {
      socket.send(data, port, address);
    },
  },
});
console.log(`listening 127.0.0.1:${socket.port}`);
