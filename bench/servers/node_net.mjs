/** Echo over `node:net`, under Node. */

import { createServer } from "node:net";

const server = createServer((socket) => {
  socket.on("data", (bytes) => {
    if (!socket.write(bytes)) socket.pause();
  });
  socket.on("drain", () => socket.resume());
  // A peer that has gone is no concern of the others.
  socket.on("error", () => socket.destroy());
});

server.listen({ host: "127.0.0.1", port: 0, backlog: 4096 }, () => {
  console.log(`listening 127.0.0.1:${server.address().port}`);
});
