/** Echo over `Bun.listen`, under Bun. */

/** What was received and could not be sent yet. */
interface State {
  unsent: Uint8Array | undefined;
}

interface BunSocket {
  data: State;
  write(bytes: Uint8Array): number;
  pause(): void;
  resume(): void;
}

interface BunHandlers {
  open(socket: BunSocket): void;
  data(socket: BunSocket, bytes: Uint8Array): void;
  drain(socket: BunSocket): void;
  error(): void;
}

declare const Bun: {
  listen(
    options: { hostname: string; port: number; socket: BunHandlers },
  ): { port: number };
};

function send(socket: BunSocket, bytes: Uint8Array): void {
  const sent = Math.max(socket.write(bytes), 0);
  if (sent === bytes.length) {
    socket.data.unsent = undefined;
    return;
  }
  // The bytes belong to Bun once this handler has returned.
  socket.data.unsent = bytes.slice(sent);
}

const listener = Bun.listen({
  hostname: "127.0.0.1",
  port: 0,
  socket: {
    open(socket) {
      socket.data = { unsent: undefined };
    },
    data(socket, bytes) {
      send(socket, bytes);
      if (socket.data.unsent !== undefined) socket.pause();
    },
    drain(socket) {
      if (socket.data.unsent === undefined) return;
      send(socket, socket.data.unsent);
      if (socket.data.unsent === undefined) socket.resume();
    },
    // A peer that has gone is no concern of the others.
    error() {},
  },
});
console.log(`listening 127.0.0.1:${listener.port}`);
