/** Connections on their way to another thread: what goes into the channel comes out of it, and when it is full nothing is lost. */

import { TcpConn, TcpListener } from "@c10k/sockets/tcp";
import { assert, assertEquals, assertThrows } from "@std/assert";
import { Descriptor } from "../internal/descriptor.ts";
import { newOwner } from "../internal/owner.ts";
import { reactor } from "../poll/reactor.ts";
import { ConnectionReceiver, ConnectionSender } from "../process/message/connection_channel.ts";
import { type ThreadMessage, ThreadTransport, unpackThreadMessage } from "../process/message/thread_transport.ts";
import { wrapConn } from "../tcp/tcp_conn.ts";
import { kernel } from "./_kernel.ts";
import { NATIVE, warmUp } from "./_process.ts";
import { encode, eventually, Pair, readText, withoutLeaks } from "./_util.ts";

function channelTest(name: string, fn: () => Promise<void>): void {
  Deno.test({ name, ignore: !NATIVE, fn: () => warmUp().then(() => withoutLeaks(fn)) });
}

for (const hostname of ["127.0.0.1", "::1"]) {
  channelTest(`ConnectionReceiver gets connections with both addresses and what is unread: ${hostname}`, async () => {
    const [sender, there] = ConnectionSender.open();
    const taken: TcpConn[] = [];
    ConnectionReceiver.open(there, (conn) => taken.push(wrapConn(conn)));
    using listener = TcpListener.bind({ hostname, port: 0, engine: "native" });
    for (const text of ["first", "second"]) {
      using client = await TcpConn.connect({ hostname, port: listener.addr.port });
      const server = await listener.accept();
      const { localAddr, remoteAddr } = server;
      await client.writeAll(encode(text));
      await client.closeWrite();
      assertEquals(sender.trySend(server, () => server.detach()), true);
      using conn = await eventually(() => taken.shift());
      assertEquals([conn.localAddr, conn.remoteAddr], [localAddr, remoteAddr]);
      assertEquals(await readText(conn), text);
    }
    sender.close();
  });
}

channelTest("ConnectionSender.trySend() says when there is no room, and which connection cannot go", async () => {
  const [sender, there] = ConnectionSender.open();
  using pair = await Pair.open("native");
  // Nobody receives: the descriptors in the records are this one's, again and again.
  let sent = 0;
  while (sender.trySend(pair.server, () => {})) assert(++sent < 100_000);
  assert(sent > 128, `room for ${sent}, and a pool hands over 128`);
  pair.server.close();
  let isGiven = false;
  assertEquals(sender.trySend(pair.server, () => isGiven = true), undefined);
  assertEquals(isGiven, false);
  sender.close();
  new Descriptor(there).close();
});

channelTest(
  "ConnectionReceiver.open() takes what was sent if the kernel does not watch it, and no more can be sent",
  async () => {
    const [sender, there] = ConnectionSender.open();
    using pair = await Pair.open("native");
    assertEquals(sender.trySend(pair.server, () => pair.server.detach()), true);
    // What is watched already is refused (EEXIST).
    reactor().register(there, { name: "another", kind: "socket", onReady() {} });
    const taken: TcpConn[] = [];
    assertEquals(ConnectionReceiver.open(there, (conn) => taken.push(wrapConn(conn))), undefined);
    assertEquals(taken.length, 1);
    using conn = taken[0] as TcpConn;
    await conn.writeAll(encode("whole"));
    assertEquals(await readText(pair.client), "whole");
    assertEquals(sender.trySend(conn, () => {}), false);
    sender.close();
  },
);

channelTest("ThreadTransport hands connections by message once nobody receives from its channel", async () => {
  const owner = newOwner();
  const posted: ThreadMessage[] = [];
  const transport = new ThreadTransport({ postMessage: (message) => posted.push(message as ThreadMessage) }, owner);
  for (let i = 0; i < 4; i++) {
    using pair = await Pair.open("native");
    assertEquals(transport.trySend({ type: "connection" }, [pair.server]), true);
    const [message] = posted.splice(0);
    assert(message !== undefined);
    // The second one opens the channel, and nobody takes it over.
    assertEquals(message.channel !== undefined, i === 1);
    if (message.channel !== undefined) kernel.close(message.channel);
    const [[conn]] = unpackThreadMessage(message, owner);
    await (conn as TcpConn).writeAll(encode("whole"));
    assertEquals(await readText(pair.client), "whole");
    conn?.close();
  }
  transport.close();
});

channelTest("ThreadTransport refuses a native socket for a thread that nobody keeps track of", async () => {
  using pair = await Pair.open("native");
  const transport = new ThreadTransport({ postMessage: () => {} }, 0n);
  assertThrows(() => transport.check([pair.server]), Deno.errors.NotSupported, "mount /proc and allow memfd_create(2)");
  transport.close();
});
