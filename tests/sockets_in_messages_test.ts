/** Sockets in messages: whole there, closed here, and nothing lost or leaked on the way. */

import { TcpConn, TcpListener } from "@c10k/sockets/tcp";
import { UdpEndpoint } from "@c10k/sockets/udp";
import { assert, assertEquals, assertInstanceOf, assertRejects, assertStringIncludes } from "@std/assert";
import { deadline } from "@std/async";
import { serialize } from "node:v8";
import { Link } from "../process/message/link.ts";
import { ProcessTransport } from "../process/message/process_transport.ts";
import { UnixSocket } from "../process/message/unix_socket.ts";
import { ACTOR, ask, checkEcho, childTest, ECHO, moduleOf, NATIVE, next, spawn, warmUp } from "./_process.ts";
import { decode, encode, eventually, Pair, readExactly, readText } from "./_util.ts";

childTest("TcpConn sent away is closed here and whole there, with what was unread, and comes back", async (kind) => {
  using pair = await Pair.open("native");
  const { client, server } = pair;
  server.setNoDelay(true);
  server.setKeepAlive({ idle: 77, interval: 7, count: 5 });
  server.setOption("TCP_USER_TIMEOUT", 4321);
  await client.writeAll(encode("unread"));
  await eventually(() => server.queues().receive === 6 ? true : undefined);
  const options = ["TCP_NODELAY", "SO_KEEPALIVE", "TCP_KEEPIDLE", "TCP_KEEPINTVL", "TCP_KEEPCNT", "TCP_USER_TIMEOUT"];
  const addresses = [server.localAddr, server.remoteAddr];
  await using child = spawn(
    kind,
    moduleOf(`
      for await (const { sockets: [conn] } of parent().messages()) {
        const p = new Uint8Array(3);
        const n = await conn.read(p);
        await conn.writeAll(new TextEncoder().encode("there"));
        const options = ${JSON.stringify(options)}.map((name) => conn.getOption(name));
        await parent().send(
          { read: p.subarray(0, n), options, addresses: [conn.localAddr, conn.remoteAddr] },
          { sockets: [conn] },
        );
        if (conn.fd !== undefined) throw new Error("still open");
      }
    `),
  );
  await child.send("take this", { sockets: [server] });
  assertEquals([server.fd, client.fd !== undefined], [undefined, true]);
  await assertRejects(() => server.read(new Uint8Array(1)), Deno.errors.BadResource);
  await assertRejects(() => server.writeAll(new Uint8Array(1)), Deno.errors.BadResource);

  const { message, sockets: [back], lost } = await next(child.messages());
  assertEquals([decode(message.read), message.options, message.addresses, lost], [
    "unr",
    [1, 1, 77, 7, 5, 4321],
    addresses,
    0,
  ]);
  assert(back instanceof TcpConn);
  using conn = back;
  assertEquals(decode(await readExactly(client, 5)), "there");
  assertEquals(await readText(conn), "ead");
  assertEquals([conn.localAddr, conn.remoteAddr], addresses);
  // Waits here as ever: it is registered anew.
  const reading = readText(conn);
  await client.writeAll(encode("more"));
  assertEquals(await reading, "more");
  await conn.writeAll(encode("answer"));
  await conn.closeWrite();
  assertEquals([await readText(client), await readText(client)], ["answer", null]);
});

childTest("TcpListener sent away accepts there, also who was waiting before", async (kind) => {
  const listener = TcpListener.bind({ hostname: "127.0.0.1", port: 0, backlog: 7, engine: "native" });
  const { addr } = listener;
  using early = await TcpConn.connect({ port: addr.port });
  await eventually(() => listener.queue().length === 1 ? true : undefined);
  await using child = spawn(kind, ACTOR);
  assertEquals((await ask(child, "keep", [listener])).message, { done: "keep", lost: 0 });
  assertEquals(listener.fd, undefined);
  await assertRejects(() => listener.accept(), Deno.errors.BadResource);
  const { sockets: [back] } = await ask(child, "give");
  assert(back instanceof TcpListener);
  assertEquals([back.addr, back.queue()], [addr, { length: 1, limit: 7 }]);
  await ask(child, "serve", [back]);
  await checkEcho(early, "early");
  using late = await TcpConn.connect({ port: addr.port });
  await checkEcho(late, "late");
});

childTest("TcpConn that the peer has reset on the way arrives, and says so", async (kind) => {
  using pair = await Pair.open("native");
  await using child = spawn(
    kind,
    moduleOf(`
      for await (const { sockets: [conn], lost } of parent().messages()) {
        const error = await conn.read(new Uint8Array(1)).then(() => "none", ({ name }) => name);
        await parent().send([error, conn.remoteAddr, lost]);
        conn.close();
      }
    `),
  );
  const sending = child.send("reset by now", { sockets: [pair.server] });
  // It has not begun yet.
  pair.client.reset();
  await sending;
  const { message } = await next(child.messages());
  assertEquals(message, ["ConnectionReset", { transport: "tcp", hostname: "0.0.0.0", port: 0 }, 0]);
});

childTest("UdpEndpoint sent away answers there, also what was waiting before", async (kind) => {
  const endpoint = UdpEndpoint.bind({ hostname: "127.0.0.1", port: 0, engine: "native" });
  using client = UdpEndpoint.bind({ hostname: "127.0.0.1", port: 0, engine: "native" });
  endpoint.setTtl(42);
  const { addr } = endpoint;
  for (const text of ["one", "two", "three"]) await client.sendTo(encode(text), addr);
  await using child = spawn(kind, ACTOR);
  await ask(child, "keep", [endpoint]);
  assertEquals(endpoint.fd, undefined);
  await assertRejects(() => endpoint.recvFrom(new Uint8Array(1)), Deno.errors.BadResource);
  const { sockets: [back] } = await ask(child, "give");
  assert(back instanceof UdpEndpoint);
  assertEquals([back.addr, decode((await back.recvFrom(new Uint8Array(9))).data)], [addr, "one"]);
  await ask(child, "serve", [back]);
  await client.sendTo(encode("four"), addr);
  for (const text of ["two", "three", "four"]) {
    const { data, address } = await deadline(client.recvFrom(new Uint8Array(9)), 5_000);
    assertEquals([decode(data), address], [text, addr]);
  }
});

childTest("Child.send() sends sockets of all kinds in one message, in their order", async (kind) => {
  using pair = await Pair.open("native");
  using endpoint = UdpEndpoint.bind({ hostname: "127.0.0.1", port: 0, engine: "native" });
  using second = TcpListener.bind({ hostname: "127.0.0.1", port: 0, engine: "native" });
  const ports = [endpoint.addr.port, pair.client.localAddr.port, second.addr.port];
  await using child = spawn(kind, ECHO);
  const { sockets } = await ask(child, "all", [endpoint, pair.client, second]);
  try {
    assertEquals(sockets.map((socket) => socket.constructor), [UdpEndpoint, TcpConn, TcpListener] as unknown[]);
    assertEquals(sockets.map((socket) => ("addr" in socket ? socket.addr : socket.localAddr).port), ports);
  } finally {
    for (const socket of sockets) socket.close();
  }
});

/** 1,000 connections have 2,000 ends here, and as many again may be copies on their way. */
const NEEDED = 4_000;
const allowed = Deno.build.os !== "linux"
  ? 0
  : Number(/^Max open files\s+(\d+)/m.exec(Deno.readTextFileSync("/proc/self/limits"))?.[1] ?? Infinity);
const tooFew = allowed < NEEDED ? ` (needs ulimit -n ${NEEDED}, has ${allowed})` : "";

// Which of them are left open is counted after each test.
childTest(`Child.send() sends 1,000 sockets in one message${tooFew}`, async (kind) => {
  const listener = TcpListener.bind({ hostname: "127.0.0.1", port: 0, engine: "native" });
  const clients: TcpConn[] = [];
  const servers: TcpConn[] = [];
  {
    await using child = spawn(kind, ACTOR);
    for (let i = 0; i < 1000; i++) {
      clients.push(await TcpConn.connect({ port: listener.addr.port, engine: "native" }));
      servers.push(await listener.accept());
    }
    listener.close();
    assertEquals((await ask(child, "serve", servers)).message, { done: "serve", lost: 0 });
    assertEquals(servers.filter(({ fd }) => fd !== undefined), []);
    await Promise.all(clients.map((client, i) => checkEcho(client, `client ${i}`)));
    for (const client of clients) client.close();
  }
}, tooFew !== "");

childTest("two children exchange a socket by way of their parent", async (kind) => {
  using pair = await Pair.open("native");
  await using first = spawn(kind, ACTOR);
  await using second = spawn(kind === "worker" ? "process" : "worker", ACTOR);
  await using third = spawn(kind, ACTOR);
  await ask(first, "keep", [pair.server]);
  await pair.client.writeAll(encode("kept unread"));
  for (const [from, to] of [[first, second], [second, third], [third, first], [first, third]] as const) {
    const { sockets } = await ask(from, "give");
    assertEquals(sockets.length, 1);
    await ask(to, "keep", sockets);
  }
  const { sockets } = await ask(third, "give");
  await ask(second, "serve", sockets);
  assertEquals(decode(await readExactly(pair.client, 11)), "kept unread");
  await checkEcho(pair.client, "hello");
  // Nobody on the way has kept a copy: the end of one is the end of the connection.
  second.kill();
  assertEquals(await readText(pair.client).catch(() => null), null);
});

/** A transport on one end of a pair, and the other end to forge packets on. */
class Forgery implements AsyncDisposable {
  readonly link = new Link("the forger");
  readonly socket: UnixSocket;
  readonly #transport: ProcessTransport;
  readonly #end: Promise<Error | undefined>;

  constructor() {
    const [here, there] = UnixSocket.pair();
    this.socket = new UnixSocket(there, "the forger's end");
    const { promise, resolve } = Promise.withResolvers<Error | undefined>();
    this.#end = promise;
    this.#transport = new ProcessTransport(new UnixSocket(here, "the victim's end"), this.link, resolve);
    this.link.attach(this.#transport);
  }

  /** Sends bytes as they are, with descriptors. */
  async send(bytes: readonly number[] | Uint8Array, fds: number[] = []): Promise<void> {
    await this.socket.send(new Uint8Array(bytes), () => fds, () => {});
  }

  /** Sends a message that says it has sockets of these kinds. */
  async message(kinds: unknown[], fds: number[], type = "message"): Promise<void> {
    await this.send([1, ...serialize({ packet: { type, body: type }, kinds })], fds);
  }

  /** Closes the forger's end, and returns how the transport has ended. */
  async close(): Promise<Error | undefined> {
    this.socket.close();
    return await deadline(this.#end, 5_000);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
    this.link.close(new Error("over"));
    this.link.discard();
  }
}

for (
  const [what, kinds, descriptors, taken] of [
    ["more descriptors than it says", ["conn"], ["conn", "listener", "udp", "conn"], 1],
    ["descriptors of which it says nothing", [], ["conn", "udp"], 0],
    ["fewer descriptors than it says", ["conn", "listener", "udp"], ["conn"], 0],
    ["no descriptors though it says so", ["conn"], [], 0],
    ["a listener for a connection", ["conn", "conn"], ["listener", "conn"], 1],
    ["an endpoint for a listener", ["listener"], ["udp"], 0],
    ["what is no socket", ["conn", "listener", "udp"], ["file", "file", "file"], 0],
    ["a kind that there is not", ["shell", 5, null], ["conn", "conn", "conn"], 0],
  ] as [string, unknown[], string[], number][]
) {
  Deno.test({
    name: `ProcessTransport closes the rest of a message with ${what}`,
    ignore: !NATIVE,
    async fn() {
      await warmUp();
      using pair = await Pair.open("native");
      using endpoint = UdpEndpoint.bind({ hostname: "127.0.0.1", port: 0, engine: "native" });
      await using forgery = new Forgery();
      const inbox = forgery.link.messages();
      const own = { conn: pair.server.fd, listener: pair.listener.fd, udp: endpoint.fd, file: 1 };
      const before = allDescriptors();
      await forgery.message(kinds, descriptors.map((name) => own[name as keyof typeof own] as number));
      const { message, sockets, lost } = await next(inbox);
      assertEquals([message, sockets.length, lost], ["message", taken, kinds.length - taken]);
      assertEquals(allDescriptors(), before + taken);
      for (const socket of sockets) socket.close();
      assertEquals(allDescriptors(), before);
      // It goes on: the next one is whole.
      await forgery.message([], []);
      assertEquals((await next(inbox)).message, "message");
      // What was sent was a copy.
      await checkPair(pair);
    },
  });
}

/** All descriptors of this process, but the one that lists them. */
function allDescriptors(): number {
  return [...Deno.readDirSync("/proc/self/fd")].length - 1;
}

async function checkPair({ client, server }: Pair): Promise<void> {
  await client.writeAll(encode("whole"));
  assertEquals(await readText(server), "whole");
}

for (
  const [what, steps] of [
    ["that is abandoned", [[0], [2]]],
    ["whose sender ends half-way", [[0], [0]]],
    ["of a type that there is not", [[1, ...serialize({ packet: { type: "other" }, kinds: ["conn"] })]]],
    ["that only the library itself may send", [[1, ...serialize({ packet: { type: "pool" }, kinds: ["conn"] })]]],
    ["that says it is the end", [[1, ...serialize({ packet: { type: "shutdown" }, kinds: ["conn"] })]]],
    ["that is empty", [[]]],
    ["of credit that is no number", [[1, ...serialize({ packet: { type: "credit", body: {} }, kinds: ["conn"] })]]],
    ["that nobody has ordered", Array(257).fill([1, ...serialize({ packet: { type: "message" }, kinds: ["conn"] })])],
  ] as [string, number[][]][]
) {
  Deno.test({
    name: `ProcessTransport closes the descriptors of a message ${what}`,
    ignore: !NATIVE,
    async fn() {
      await warmUp();
      using pair = await Pair.open("native");
      const before = allDescriptors();
      {
        await using forgery = new Forgery();
        for (const bytes of steps) await forgery.send(bytes, [pair.server.fd as number]);
        if (what === "that is empty") assertEquals(await forgery.close(), undefined);
      }
      assertEquals(allDescriptors(), before);
      await checkPair(pair);
    },
  });
}

for (
  const [what, bytes] of [
    ["a packet that ends early", [1, ...serialize({ packet: { type: "message" }, kinds: [] }).subarray(0, 9)]],
    ["a number", [1, ...serialize(5)]],
    ["an envelope without a packet", [1, ...serialize({ kinds: [] })]],
    ["an envelope without kinds", [1, ...serialize({ packet: { type: "message" } })]],
    ["a type that is no string", [1, ...serialize({ packet: { type: 5 }, kinds: [] })]],
    ["a packet marked as nothing that there is", [9, ...serialize({ packet: { type: "message" }, kinds: [] })]],
  ] as [string, number[]][]
) {
  Deno.test({
    name: `ProcessTransport takes no more from who has sent ${what}`,
    ignore: !NATIVE,
    async fn() {
      await using forgery = new Forgery();
      await forgery.send(bytes);
      const error = await forgery.close();
      assertInstanceOf(error, TypeError);
      assertStringIncludes(error.message, "Cannot receive: not a message of this library");
    },
  });
}
