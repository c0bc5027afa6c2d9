/**
 * A child that does what its messages say: "serve" the sockets of the message, "keep" them, "give" all back that were
 * kept.
 */

import { type MovableSocket, parent } from "@c10k/sockets/process";
import { TcpConn, TcpListener } from "@c10k/sockets/tcp";

const kept: MovableSocket[] = [];

for await (const { message, sockets, lost } of parent().messages()) {
  if (message === "serve") { for (const socket of sockets) serve(socket); }
  if (message === "keep") kept.push(...sockets);
  await parent().send({ done: message, lost }, { sockets: message === "give" ? kept.splice(0) : [] });
}

/** A connection gets back what it sends, a listener serves all that come, an endpoint answers each datagram. */
async function serve(socket: MovableSocket): Promise<void> {
  if (socket instanceof TcpConn) {
    const p = new Uint8Array(1024);
    for (let n = await socket.read(p); n !== null; n = await socket.read(p)) await socket.writeAll(p.subarray(0, n));
    socket.close();
  } else if (socket instanceof TcpListener) {
    for await (const conn of socket) serve(conn);
  } else {
    for await (const [data, address] of socket) await socket.sendTo(data, address);
  }
}
