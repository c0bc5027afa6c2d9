/** Children of both kinds: messages, sockets in messages, their ends, what they may do, and who may talk to them. */

import { type Child, type MovableSocket, parent, spawnProcess, spawnWorker } from "@c10k/sockets/process";
import { engineSupport, TcpConn, TcpListener } from "@c10k/sockets/tcp";
import { UdpEndpoint } from "@c10k/sockets/udp";
import {
  assert,
  assertEquals,
  assertInstanceOf,
  assertMatch,
  assertRejects,
  assertStrictEquals,
  assertStringIncludes,
  assertThrows,
} from "@std/assert";
import { deadline, delay } from "@std/async";
import { serialize } from "node:v8";
import { type Incoming, Link } from "../process/link.ts";
import { PARENT_VARIABLE } from "../process/names.ts";
import { ProcessTransport } from "../process/process_transport.ts";
import { UnixListener, UnixSocket } from "../process/unix_socket.ts";
import {
  childTest,
  descriptorLinks,
  internetSockets,
  isAlive,
  moduleOf,
  next,
  oneKindTest,
  spawn,
  type TestChild,
  withoutOrphans,
} from "./_process.ts";
import { decode, encode, eventually, Pair, readExactly, readText, ROOT, runDeno } from "./_util.ts";

const ECHO = new URL("./children/echo.ts", import.meta.url);
const ACTOR = new URL("./children/actor.ts", import.meta.url);

/** How many messages may be unread, as `Child.send` documents. */
const WINDOW = 256;

/** Sends to a child that answers each message with one, and returns that. */
// deno-lint-ignore no-explicit-any -- what a child says is checked by what is done with it
async function ask(child: Child, message: unknown, sockets: MovableSocket[] = []): Promise<Incoming<any>> {
  await child.send(message, { sockets });
  return await next(child.messages());
}

/** Sends a text over a connection and checks that it comes back. */
async function checkEcho(conn: TcpConn, text: string): Promise<void> {
  await conn.writeAll(encode(text));
  assertEquals(decode(await readExactly(conn, encode(text).length)), text);
}

/** Waits until the reactor has what it needs, so that descriptors can be counted. */
async function warmUp(): Promise<void> {
  using pair = await Pair.open("native");
  const reading = pair.server.read(new Uint8Array(1));
  await pair.client.writeAll(new Uint8Array(1));
  await reading;
}

/** Waits until there are no more descriptors than there were. */
async function assertDescriptors(before: number): Promise<void> {
  await eventually(() => descriptorLinks().length <= before ? true : undefined).catch(() => {});
  const links = descriptorLinks();
  assert(links.length <= before, `${links.length} descriptors, had ${before}: ${links.join(" ")}`);
}

/** How a promise has ended, as text. */
function outcome(promise: Promise<unknown>): Promise<string> {
  return promise.then(() => "done", (error) => error.name);
}

/** Whether a promise is still pending after a time in which it could have been settled. */
async function isPending(promise: Promise<unknown>): Promise<boolean> {
  return await Promise.race([promise.then(() => false, () => false), delay(50).then(() => true)]);
}

// --- messages

childTest("Child.send() and messages() carry what structuredClone does", async (kind) => {
  await using child = spawn(kind, ECHO);
  const circular: { self?: unknown; list: unknown[] } = { list: [] };
  circular.self = circular;
  circular.list.push(circular);
  const values: unknown[] = [
    undefined,
    null,
    -0,
    NaN,
    2n ** 200n,
    "text \u{1F600} \ud800",
    new Date(86_400_000),
    new Map<unknown, unknown>([["a", new Map([[1, new Set([1, "2"])]])], [{ key: true }, 2n]]),
    [1, , 3],
    /a+b/gi,
    { a: undefined, b: [{ c: [] }] },
    new Uint8Array([1, 2, 255]),
    new Float64Array([0.5, -0, Infinity]),
    new BigInt64Array([-1n, 2n]),
    new Uint16Array(new Uint16Array([1, 2, 3, 4]).buffer, 2, 2),
    new Uint8Array([7, 8, 9]).buffer,
    new Uint8Array(0),
  ];
  for (const value of values) {
    const { message, sockets, lost } = await ask(child, value);
    assertEquals(message.message, value);
    assertEquals(Object.prototype.toString.call(message.message), Object.prototype.toString.call(value));
    assertEquals([sockets, message.lost, lost], [[], 0, 0]);
  }
  const { message: { message: same } } = await ask(child, circular);
  assertStrictEquals(same.self, same);
  assertStrictEquals(same.list[0], same);

  const cause = new TypeError("the cause");
  const { message: { message: error } } = await ask(child, new RangeError("the error", { cause }));
  assertInstanceOf(error, RangeError);
  assertEquals(error.message, "the error");
  assertInstanceOf(error.cause, TypeError);

  const long = "0123456789abcdef".repeat(5 * 1024 * 1024 / 16);
  assert((await ask(child, long)).message.message === long);
});

childTest("Child.send() and messages() keep the order of 1,000 both ways at the same time", async (kind) => {
  await using child = spawn(
    kind,
    moduleOf(`
      const sending = (async () => {
        for (let i = 0; i < 1000; i++) await parent().send({ i, text: "x".repeat(i) });
      })();
      const seen = [];
      for await (const { message } of parent().messages()) {
        seen.push(message.i);
        if (seen.length === 1000) break;
      }
      await sending;
      await parent().send(seen);
    `),
  );
  const inbox = child.messages();
  const sent = Array.from({ length: 1000 }, (_, i) => child.send({ i, text: "y".repeat(1000 - i) }));
  const expected = Array.from({ length: 1000 }, (_, i) => i);
  const seen: number[] = [];
  while (seen.length < 1000) {
    const { message: { i, text } } = await next(inbox);
    assertEquals(text.length, i);
    seen.push(i);
  }
  await Promise.all(sent);
  assertEquals(seen, expected);
  assertEquals((await next(inbox)).message, expected);
});

// --- sockets

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

childTest(`Child.send() sends 1,000 sockets in one message${tooFew}`, async (kind) => {
  await warmUp();
  const before = descriptorLinks().length;
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
  await assertDescriptors(before);
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

// --- flow control

/** Says where it can be told to read by a datagram, reads nothing before, then counts what comes before "last". */
const LATE_READER = moduleOf(`
  const endpoint = UdpEndpoint.bind({ hostname: "127.0.0.1", port: 0 });
  await parent().send(endpoint.addr);
  await endpoint.recvFrom(new Uint8Array(1));
  endpoint.close();
  const seen = [];
  for await (const { message, sockets } of parent().messages()) {
    for (const socket of sockets) socket.close();
    if (message === "last") break;
    seen.push(message);
  }
  await parent().send(seen);
  for await (const _ of parent().messages());
`);

async function letRead(addr: Deno.NetAddr): Promise<void> {
  using endpoint = UdpEndpoint.bind({ hostname: "127.0.0.1", port: 0, engine: "native" });
  await endpoint.sendTo(new Uint8Array(1), addr);
}

childTest("Child.send() waits while 256 messages are unread, and can be cancelled", async (kind) => {
  using pair = await Pair.open("native");
  await using child = spawn(kind, LATE_READER);
  const { message: addr } = await next(child.messages());
  await Promise.all(Array.from({ length: WINDOW }, (_, i) => child.send(i)));

  const abort = new AbortController();
  const reason = new Error("no longer");
  const cancelled = [
    child.send("cancelled", { sockets: [pair.server], signal: abort.signal }),
    ...Array.from({ length: 100 }, () => child.send("x".repeat(1 << 20), abort)),
  ];
  const goesOn = child.send("goes on");
  assert(await isPending(Promise.race([...cancelled, goesOn])));
  abort.abort(reason);
  for (const promise of cancelled) assertStrictEquals(await promise.catch((error) => error), reason);
  assertStrictEquals(await child.send("too late", { signal: abort.signal }).catch((error) => error), reason);
  await pair.client.writeAll(encode("whole"));
  assertEquals(await readText(pair.server), "whole");
  assert(await isPending(goesOn));

  // What was let through is all that the child holds: not one more.
  await letRead(addr);
  await goesOn;
  await child.send("last");
  const { message: seen } = await next(child.messages());
  assertEquals(seen, [...Array(WINDOW).keys(), "goes on"]);
});

childTest("Child.kill() lets the sends that wait reject, with their sockets whole", async (kind) => {
  using pair = await Pair.open("native");
  await using child = spawn(kind, LATE_READER);
  await next(child.messages());
  await Promise.all(Array.from({ length: WINDOW }, (_, i) => child.send(i)));
  const waiting = [child.send("waits"), child.send("waits", { sockets: [pair.server] })];
  const outcomes = Promise.all(waiting.map(outcome));
  child.kill();
  assertEquals(await outcomes, ["BrokenPipe", "BrokenPipe"]);
  await pair.client.writeAll(encode("whole"));
  assertEquals(await readText(pair.server), "whole");
});

oneKindTest("process", "Child.send() that waits for a stopped process is cancelled before it is sent", async (kind) => {
  using pair = await Pair.open("native");
  await using child = spawn(kind, LATE_READER);
  const { message: addr } = await next(child.messages());
  child.kill("SIGSTOP");
  // More than the socket between them holds.
  const abort = new AbortController();
  const size = 50_000;
  const sends = Array.from({ length: 60 }, (_, i) => child.send(`${i}`.padEnd(size), abort));
  const withSocket = child.send("cancelled", { sockets: [pair.server], signal: abort.signal });
  const settled: string[] = [];
  for (const [i, send] of sends.entries()) send.then(() => settled[i] = "sent", () => settled[i] = "cancelled");
  assert(await isPending(withSocket));
  abort.abort(new Error("no longer"));
  await assertRejects(() => withSocket, Error, "no longer");
  await Promise.allSettled(sends);
  const sent = settled.flatMap((how, i) => how === "sent" ? `${i}`.padEnd(size) : []);
  assert(sent.length > 0 && sent.length < 60);
  child.kill("SIGCONT");
  await letRead(addr);
  await child.send("last");
  const { message: seen } = await next(child.messages());
  assertEquals(seen.length, sent.length);
  assert(sent.every((text, i) => seen[i] === text));
  await pair.client.writeAll(encode("whole"));
  assertEquals(await readText(pair.server), "whole");
});

oneKindTest(
  "process",
  "Child.send() that is cancelled half-way sends nothing, and what follows is whole",
  async (kind) => {
    using pair = await Pair.open("native");
    await using child = spawn(kind, LATE_READER);
    const { message: addr } = await next(child.messages());
    child.kill("SIGSTOP");
    const abort = new AbortController();
    const half = child.send("h".repeat(1 << 20), { sockets: [pair.server], signal: abort.signal });
    assert(await isPending(half));
    abort.abort(new Error("no longer"));
    await assertRejects(() => half, Error, "no longer");
    const following = child.send("following");
    child.kill("SIGCONT");
    await following;
    await letRead(addr);
    await child.send("last");
    assertEquals((await next(child.messages())).message, ["following"]);
    await pair.client.writeAll(encode("whole"));
    assertEquals(await readText(pair.server), "whole");
  },
);

oneKindTest("process", "Child.kill() lets the sends to a stopped process reject with BrokenPipe", async (kind) => {
  using pair = await Pair.open("native");
  await using child = spawn(kind, LATE_READER);
  await next(child.messages());
  child.kill("SIGSTOP");
  const outcomes = Promise.all(Array.from({ length: 60 }, () => outcome(child.send("x".repeat(50_000)))));
  const last = child.send("last", { sockets: [pair.server] });
  assert(await isPending(last));
  child.kill();
  await assertRejects(() => last, Deno.errors.BrokenPipe, "it has ended");
  assertEquals([...new Set(await outcomes)].sort(), ["BrokenPipe", "done"]);
  assertEquals(typeof pair.server.fd, "number");
});

// --- how children end

/** Modules that end by themselves before they have talked: status code of a process, of a thread, a thread's error. */
const EARLY_ENDS: [string, string | URL, number, number, RegExp | undefined][] = [
  ["that throws", moduleOf(`throw new Error("boom")`), 1, 1, /boom/],
  ["that rejects", moduleOf(`await Promise.reject(new TypeError("boom"))`), 1, 1, /TypeError: boom/],
  ["that throws what is no error", moduleOf(`throw "boom"`), 1, 1, /boom/],
  ["with a syntax error", moduleOf(`const = 1`), 1, 1, /SyntaxError/],
  ["that is missing", new URL("./children/missing.js", import.meta.url), 1, 1, /Module not found.*missing\.js/],
  ["that calls Deno.exit(3)", moduleOf(`Deno.exit(3)`), 3, 1, /3/],
  ["that calls Deno.exit(0)", moduleOf(`Deno.exit(0)`), 0, 0, undefined],
];

for (const [what, module, code, threadCode, text] of EARLY_ENDS) {
  childTest(`a module ${what} ends the child, and messages stay here with their sockets`, async (kind) => {
    using pair = await Pair.open("native");
    await using child = spawn(kind, module, { stderr: "null", name: "faulty" });
    const sends = [child.send("early"), child.send("with a socket", { sockets: [pair.server] })];
    const outcomes = Promise.all(sends.map(outcome));
    const status = await deadline(child.closed, 10_000);
    const expected = kind === "process" ? code : threadCode;
    assertEquals([status.success, status.code, status.signal], [expected === 0, expected, undefined]);
    if (kind === "process" || text === undefined) assertEquals(status.error, undefined);
    else {
      assertInstanceOf(status.error, Error);
      assertMatch(status.error.message, /^worker \d+ \(faulty\) has /);
      assertMatch(status.error.message, text);
    }
    assertEquals(await outcomes, ["BrokenPipe", "BrokenPipe"]);
    await pair.client.writeAll(encode("whole"));
    assertEquals(await readText(pair.server), "whole");
  });
}

oneKindTest("worker", "a Worker that closes itself before it has called parent() has ended well", async (kind) => {
  await using child = spawn(kind, moduleOf(`self.close()`));
  const sending = outcome(child.send("early"));
  assertEquals(await deadline(child.closed, 10_000), { success: true, code: 0, signal: undefined, error: undefined });
  assertEquals(await sending, "BrokenPipe");
});

/** What ends a child that has talked: status code of a process, of a thread, a thread's error. */
const LATE_ENDS: [string, string, number, number, RegExp | undefined][] = [
  ["an unhandled rejection", `Promise.reject(new Error("boom"))`, 1, 1, /boom/],
  ["an exception in a timer", `setTimeout(() => { throw new Error("boom"); })`, 1, 1, /boom/],
  ["reportError()", `reportError(new Error("boom"))`, 1, 1, /boom/],
  ["Deno.exit(3)", `Deno.exit(3)`, 3, 1, /3/],
  ["self.close()", `"DedicatedWorkerGlobalScope" in globalThis ? self.close() : Deno.exit()`, 0, 0, undefined],
];

for (const [what, text, code, threadCode, error] of LATE_ENDS) {
  childTest(`${what} ends a child, and with it the sockets of messages that nobody has read`, async (kind) => {
    using pair = await Pair.open("native");
    using second = await Pair.open("native");
    await using child = spawn(
      kind,
      // The first message makes it fail, and is the last that it reads.
      moduleOf(`
        addEventListener("error", () => {});
        const [first] = [parent().messages()];
        const { value: { sockets } } = await first.next();
        await parent().send("goes");
        const endpoint = UdpEndpoint.bind({ hostname: "127.0.0.1", port: 0 });
        await parent().send(endpoint.addr);
        await endpoint.recvFrom(new Uint8Array(1));
        ${text};
        await new Promise((resolve) => setTimeout(resolve, 60_000));
      `),
      { stderr: "null" },
    );
    const inbox = child.messages();
    await child.send("taken", { sockets: [pair.server] });
    assertEquals((await next(inbox)).message, "goes");
    const { message: addr } = await next(inbox);
    await child.send("never read", { sockets: [second.server] });
    await letRead(addr);
    const status = await deadline(child.closed, 10_000);
    const expected = kind === "process" ? code : threadCode;
    assertEquals([status.success, status.code, status.signal], [expected === 0, expected, undefined]);
    if (kind === "worker" && error !== undefined) assertMatch(status.error?.message ?? "", error);
    else assertEquals(status.error, undefined);
    for (const { client } of [pair, second]) {
      assertEquals(await deadline(readText(client).catch(() => null), 5_000), null);
    }
    await assertRejects(() => child.send("after the end"), Deno.errors.BrokenPipe, "it has ended");
    assertEquals((await inbox.next()).done, true);
  });
}

childTest("Child.closed of a child that has ended leaves what it has said before to be read", async (kind) => {
  using pair = await Pair.open("native");
  await using child = spawn(
    kind,
    moduleOf(`
      const { value: { sockets } } = await parent().messages().next();
      await parent().send("one");
      await parent().send("two", { sockets });
      "DedicatedWorkerGlobalScope" in globalThis ? self.close() : Deno.exit();
    `),
  );
  await child.send("go", { sockets: [pair.server] });
  assertEquals((await child.closed).success, true);
  const inbox = child.messages();
  assertEquals((await next(inbox)).message, "one");
  const { message, sockets: [back] } = await next(inbox);
  assertEquals(message, "two");
  assert(back instanceof TcpConn);
  using conn = back;
  await pair.client.writeAll(encode("whole"));
  assertEquals(await readText(conn), "whole");
  assertEquals(await inbox.next(), { value: undefined, done: true });
});

childTest("Child.kill() closes the sockets of the child, and its epoll and eventfd", async (kind) => {
  await warmUp();
  const before = descriptorLinks().length;
  using client = UdpEndpoint.bind({ hostname: "127.0.0.1", port: 0, engine: "native" });
  const child = spawn(
    kind,
    moduleOf(`
      const early = UdpEndpoint.bind({ hostname: "127.0.0.1", port: 0 });
      const port = parent();
      const listener = TcpListener.bind({ hostname: "127.0.0.1", port: 0 });
      const endpoint = UdpEndpoint.bind({ hostname: "127.0.0.1", port: 0 });
      const client = await TcpConn.connect({ port: listener.addr.port });
      const server = await listener.accept();
      const p = new Uint8Array(9);
      for (const call of [listener.accept(), endpoint.recvFrom(p), server.read(p), early.recvFrom(p)]) call.catch(() => {});
      await port.send([listener.addr.port, endpoint.addr.port, early.addr.port]);
    `),
  );
  const { message: [port, ...udpPorts] } = await next(child.messages());
  using conn = await TcpConn.connect({ port, engine: "native" });
  child.kill();
  assertEquals(await child.closed, { success: false, code: 137, signal: "SIGKILL", error: undefined });
  assertEquals(await readText(conn).catch(() => null), null);
  await assertRejects(() => TcpConn.connect({ port, engine: "native" }), Deno.errors.ConnectionRefused);
  for (const udpPort of udpPorts) UdpEndpoint.bind({ hostname: "127.0.0.1", port: udpPort, engine: "native" }).close();
  conn.close();
  client.close();
  await assertDescriptors(before);
});

childTest("a child that fails at once leaves nothing of what it has opened", async (kind) => {
  await warmUp();
  const before = descriptorLinks().length;
  using probe = TcpListener.bind({ hostname: "127.0.0.1", port: 0, engine: "native" });
  const { port } = probe.addr;
  probe.close();
  const text = `TcpListener.bind({ hostname: "127.0.0.1", port: ${port} }).accept(); throw new Error("boom")`;
  const child = spawn(kind, moduleOf(text), { stderr: "null" });
  assertEquals((await child.closed).code, 1);
  // The port is free for the next one.
  TcpListener.bind({ hostname: "127.0.0.1", port, engine: "native" }).close();
  await assertDescriptors(before);
});

childTest("Child.kill() may come twice, and at once; after the end nothing can be sent", async (kind) => {
  const child = spawn(kind, ECHO);
  child.kill();
  child.kill();
  const status = await child.closed;
  assertEquals(status, { success: false, code: 137, signal: "SIGKILL", error: undefined });
  assertStrictEquals(await child.closed, status);
  child.kill();
  assertStrictEquals(await child.shutdown(), status);
  await assertRejects(() => child.send("after the end"), Deno.errors.BrokenPipe, "Cannot send to");
  assertEquals(await child.messages().next(), { value: undefined, done: true });
  assertEquals(child.kind, kind);
  assertEquals(typeof child.pid, kind === "process" ? "number" : "undefined");
});

oneKindTest("process", "Child.kill() sends another signal, which a process may take its own way", async (kind) => {
  await using child = spawn(
    kind,
    moduleOf(`
      Deno.addSignalListener("SIGUSR1", () => void parent().send("SIGUSR1"));
      await parent().send("ready");
      for await (const _ of parent().messages());
    `),
  );
  const inbox = child.messages();
  await next(inbox);
  child.kill("SIGUSR1");
  assertEquals((await next(inbox)).message, "SIGUSR1");
  child.kill("SIGTERM");
  assertEquals(await child.closed, { success: false, code: 143, signal: "SIGTERM", error: undefined });
});

childTest("Child.shutdown() ends the child's loop over messages, after those that were sent before", async (kind) => {
  const child = spawn(
    kind,
    moduleOf(`
      let count = 0;
      for await (const _ of parent().messages()) count++;
      await parent().send({ count, aborted: parent().signal.aborted, reason: parent().signal.reason.name });
    `),
  );
  const inbox = child.messages();
  for (let i = 0; i < 10; i++) await child.send(i);
  const [first, second] = [child.shutdown(), child.shutdown()];
  assertEquals((await next(inbox)).message, { count: 10, aborted: true, reason: "Interrupted" });
  const status = await deadline(first, 10_000);
  assertEquals(status, { success: true, code: 0, signal: undefined, error: undefined });
  assertStrictEquals(await second, status);
  assertEquals((await inbox.next()).done, true);
});

childTest("ParentPort.waitUntil() lets something be finished after the parent has asked for the end", async (kind) => {
  const child = spawn(
    kind,
    moduleOf(`
      const asked = new Promise((resolve) => parent().signal.addEventListener("abort", resolve));
      parent().waitUntil(asked.then(async () => {
        await new Promise((resolve) => setTimeout(resolve, 50));
        await parent().send("finished");
      }));
      await parent().send("ready");
      for await (const _ of parent().messages());
    `),
  );
  const inbox = child.messages();
  await next(inbox);
  const ending = child.shutdown();
  assertEquals((await next(inbox)).message, "finished");
  assertEquals((await deadline(ending, 10_000)).success, true);
});

childTest("Child.shutdown() kills the child when the grace is over", async (kind) => {
  const child = spawn(
    kind,
    moduleOf(`
      parent().waitUntil(new Promise(() => setInterval(() => {}, 1000)));
      await parent().send("ready");
      for await (const _ of parent().messages());
    `),
  );
  await next(child.messages());
  const begin = performance.now();
  const status = await child.shutdown({ grace: 100 });
  assertEquals(status, { success: false, code: 137, signal: "SIGKILL", error: undefined });
  const took = performance.now() - begin;
  assert(took >= 95 && took < 5_000, `${took} ms`);
  await assertRejects(() => child.shutdown({ grace: -1 }), RangeError);
});

childTest("Child.shutdown() of a child that has only just been started ends it", async (kind) => {
  const child = spawn(kind, ECHO);
  const { signal } = await deadline(child.shutdown(), 10_000);
  assertEquals(signal, kind === "process" ? "SIGTERM" : undefined);
});

// --- wrong types

childTest("Child.send() refuses what cannot be sent, and leaves the sockets whole", async (kind) => {
  using pair = await Pair.open("native");
  using closed = await Pair.open("native");
  closed.server.close();
  const { server, client } = pair;
  await using child = spawn(kind, ECHO);
  const inbox = child.messages();
  const refusals: [unknown, unknown, new (...args: never[]) => Error, string][] = [
    ["x", { sockets: "sockets" }, TypeError, "sockets must be an array"],
    ["x", { sockets: server }, TypeError, "sockets must be an array"],
    ["x", { sockets: [server, server] }, TypeError, "each socket once"],
    ["x", { sockets: [server, {}] }, TypeError, "must hold TcpConn"],
    ["x", { sockets: [server, undefined] }, TypeError, "must hold TcpConn"],
    ["x", { sockets: [server, 5] }, TypeError, "must hold TcpConn"],
    ["x", { sockets: [server, closed.server] }, Deno.errors.BadResource, "a socket is closed"],
    ["x", { sockets: [server], signal: "signal" }, TypeError, "signal"],
    ["x", "options", TypeError, "options"],
    [() => {}, { sockets: [server] }, DOMException, "could not be cloned"],
    [{ a: [Symbol("s")] }, { sockets: [server] }, DOMException, "could not be cloned"],
    [() => {}, {}, DOMException, "could not be cloned"],
  ];
  // Before the child is there, and after.
  for (const when of ["early", "later"]) {
    const calls = refusals.map(([message, options]) => child.send(message, options as object));
    const checks = calls.map((call, i) => {
      const [, , type, text] = refusals[i] as typeof refusals[number];
      return assertRejects(() => call, type, text);
    });
    await Promise.all(checks);
    const { message } = await ask(child, when);
    assertEquals(message.message, when);
  }
  await client.writeAll(encode("whole"));
  assertEquals(await readText(server), "whole");
  // Of two messages with the same socket one gets it.
  const [first, second] = [child.send("first", { sockets: [server] }), child.send("second", { sockets: [server] })];
  await first;
  await assertRejects(() => second, Deno.errors.BadResource, "a socket is closed");
  const { message, sockets } = await next(inbox);
  assertEquals([message.message, sockets.length], ["first", 1]);
  for (const socket of sockets) socket.close();
});

childTest("Child.send() of a socket wakes the calls that wait on it, as close() does", async (kind) => {
  using pair = await Pair.open("native");
  await using child = spawn(kind, ACTOR);
  const calls = [pair.server.read(new Uint8Array(9)), pair.listener.accept()];
  const outcomes = Promise.all(calls.map(outcome));
  await ask(child, "serve", [pair.server, pair.listener]);
  for (const name of await outcomes) assertMatch(name, /^(BadResource|Interrupted)$/);
  await checkEcho(pair.client, "hello");
});

oneKindTest("process", "Child.send() refuses sockets of the runtime engine", async (kind) => {
  using listener = TcpListener.bind({ hostname: "127.0.0.1", port: 0, engine: "runtime" });
  await using child = spawn(kind, ECHO);
  await ask(child, "ready");
  const error = await assertRejects(() => child.send("x", { sockets: [listener] }), Deno.errors.NotSupported);
  assertStringIncludes(error.message, "runtime engine");
  using client = await TcpConn.connect({ port: listener.addr.port, engine: "runtime" });
  using server = await listener.accept();
  await server.writeAll(encode("whole"));
  assertEquals(await readText(client), "whole");
});

for (const [name, start] of [["spawnWorker", spawnWorker], ["spawnProcess", spawnProcess]] as const) {
  Deno.test({
    name: `${name}() refuses wrong types before it starts anything`,
    ignore: engineSupport().engine !== "native",
    fn: () =>
      withoutOrphans(() => {
        const call = start as (module: unknown, options?: unknown) => Child;
        for (const module of [undefined, null, 5, {}, ["x"]]) {
          assertThrows(() => call(module), TypeError, "module must be a string or a URL");
        }
        assertThrows(() => call(ECHO, "options"), TypeError, "options");
        assertThrows(() => call(ECHO, { name: 5 }), TypeError, "name must be a string");
        assertThrows(() => call(ECHO, { permissions: "all" }), TypeError, 'permissions must be "inherit", "none"');
        assertThrows(() => call(ECHO, { permissions: 5 }), TypeError, "permissions");
        assertThrows(() => call(ECHO, { permissions: { nett: true } }), TypeError, "permissions must name");
        assertThrows(() => call(ECHO, { permissions: { net: "all" } }), TypeError, "permissions.net must be");
        assertThrows(() => call(ECHO, { permissions: { net: [5] } }), TypeError, "permissions.net must be");
        if (start === spawnProcess) {
          assertThrows(() => call(ECHO, { args: "x" }), TypeError, "args must be an array of strings");
          assertThrows(() => call(ECHO, { flags: [5] }), TypeError, "flags must be an array of strings");
          for (const flag of ["-A", "--allow-all", "--allow-net=x", "--deny-net", "-R", "-N=x", "--permission-set"]) {
            assertThrows(() => call(ECHO, { flags: [flag] }), TypeError, "use permissions");
          }
          assertThrows(() => call(ECHO, { permissions: { net: ["a,b"] } }), TypeError, "comma");
        }
        return Promise.resolve();
      }),
  });
}

Deno.test("parent() throws where there is none", async () => {
  assertThrows(() => parent(), Error, "this program was not started by spawnWorker or spawnProcess");
  const worker = new Worker(
    moduleOf(`try { parent(); postMessage("reached"); } catch (error) { postMessage(error.message); }`),
    { type: "module" },
  );
  const { data } = await new Promise<MessageEvent<string>>((resolve) => worker.onmessage = resolve);
  worker.terminate();
  assertStringIncludes(data, "this program was not started by spawnWorker or spawnProcess");
});

// --- permissions

/** Tells what it may do, by its exit code if it cannot talk: 64, and one bit for each permission. */
const ASKS_ITSELF = `
  const names = ["env", "ffi", "import", "net", "read", "run", "sys", "write"];
  const states = {};
  for (const name of names) {
    const { state, partial } = Deno.permissions.querySync({ name });
    states[name] = partial ? "partial" : state;
  }
  const net = (host) => Deno.permissions.querySync({ name: "net", host }).state;
  states.hosts = [net("127.0.0.1:9"), net("127.0.0.1:8")];
`;

const GRANTED = ["env", "ffi", "net", "read", "run", "sys", "write"];

/** What the child of a program with these flags is granted. */
async function grantedIn(flags: string[], spawn: string, permissions: string): Promise<unknown> {
  const module = moduleOf(`${ASKS_ITSELF}; await parent().send(states);`);
  const { code, stdout, stderr } = await runDeno(
    flags,
    `
    import { spawnProcess, spawnWorker } from "@c10k/sockets/process";
    try {
      const child = ${spawn}(${JSON.stringify(module)}, { permissions: ${permissions} });
      const { value } = await child.messages().next();
      child.kill();
      await child.closed;
      console.log(JSON.stringify(value.message));
    } catch (error) {
      console.log(JSON.stringify([error.name, error.message]));
    }`,
  );
  assertEquals([code, stderr], [0, ""]);
  const result = JSON.parse(stdout);
  if (Array.isArray(result)) return result;
  const { hosts, ...states } = result;
  return {
    granted: Object.keys(states).filter((name) => states[name] === "granted" && name !== "import"),
    partial: Object.keys(states).filter((name) => states[name] === "partial" && name !== "import"),
    hosts,
  };
}

oneKindTest("process", 'permissions: "none" is nothing at all', async (kind) => {
  const module = moduleOf(`
    ${ASKS_ITSELF}
    try {
      parent();
      Deno.exit(1);
    } catch { /* without --allow-ffi it has none */ }
    let code = 64;
    for (const name of ["ffi", "net", "read", "run", "write"]) code += states[name] === "granted" ? 1 : 0;
    Deno.exit(code);
  `);
  await using child = spawn(kind, module, { permissions: "none" });
  assertEquals((await child.closed).code, 64);
});

oneKindTest("process", "permissions: a child has what was named, and nothing else", async (kind) => {
  const module = moduleOf(`${ASKS_ITSELF}; await parent().send(states);`);
  await using child = spawn(kind, module, { permissions: { ffi: "inherit", net: ["127.0.0.1:9"], read: false } });
  const { message: { hosts, ...states } } = await next(child.messages());
  assertEquals(hosts, ["granted", "prompt"]);
  delete states.import;
  assertEquals(states, {
    env: "prompt",
    ffi: "granted",
    net: "prompt",
    read: "prompt",
    run: "prompt",
    sys: "prompt",
    write: "prompt",
  });
});

const native = engineSupport().engine === "native";
const RUN = ["--allow-ffi", `--allow-run=${Deno.execPath()}`];

for (
  const [flags, spawn, permissions, expected] of [
    [["--allow-all"], "spawnProcess", `"inherit"`, { granted: GRANTED, partial: [], hosts: ["granted", "granted"] }],
    [[...RUN, "--allow-net"], "spawnProcess", `"inherit"`, {
      granted: ["ffi", "net"],
      partial: [],
      hosts: ["granted", "granted"],
    }],
    // What is granted in part cannot be known, and is not handed on.
    [[...RUN, "--allow-net=127.0.0.1:9"], "spawnProcess", `"inherit"`, {
      granted: ["ffi"],
      partial: [],
      hosts: ["prompt", "prompt"],
    }],
    [[...RUN, "--allow-net", "--deny-net=127.0.0.1:8"], "spawnProcess", `"inherit"`, {
      granted: ["ffi"],
      partial: [],
      hosts: ["prompt", "prompt"],
    }],
    [[...RUN, "--allow-net=127.0.0.1"], "spawnProcess", `{ ffi: true, net: ["127.0.0.1:9"] }`, {
      granted: ["ffi"],
      partial: [],
      hosts: ["granted", "prompt"],
    }],
    [[...RUN, "--allow-net=127.0.0.1:9"], "spawnProcess", `{ ffi: true, net: ["127.0.0.1:8"] }`, [
      "NotCapable",
      /the child would get net access to "127\.0\.0\.1:8", which this program has not, run again with the --allow-net flag/,
    ]],
    [[...RUN, "--allow-net=127.0.0.1:9"], "spawnProcess", `{ ffi: true, net: true }`, [
      "NotCapable",
      /the child would get net, which this program has not, run again with the --allow-net flag/,
    ]],
    [[...RUN, "--allow-net", "--deny-net=127.0.0.1:8"], "spawnProcess", `{ ffi: true, net: true }`, [
      "NotCapable",
      /the child would get net, which/,
    ]],
    [RUN, "spawnProcess", `{ ffi: true, read: ["/etc/passwd"] }`, [
      "NotCapable",
      /the child would get read access to "\/etc\/passwd"/,
    ]],
    [["--allow-ffi"], "spawnProcess", `"inherit"`, ["NotCapable", /^Cannot start process 1 .*--allow-run/]],
    [["--allow-ffi", "--allow-run=sh"], "spawnProcess", `"inherit"`, ["NotCapable", /^Cannot start process 1 /]],
    [["--allow-run"], "spawnProcess", `"inherit"`, ["NotSupported", /^Cannot start process 1 .*--allow-ffi/]],
    [["--allow-all"], "spawnWorker", `"inherit"`, { granted: GRANTED, partial: [], hosts: ["granted", "granted"] }],
    [["--allow-all", "--unstable-worker-options"], "spawnWorker", `{ net: ["127.0.0.1:9"] }`, {
      granted: [],
      partial: [],
      hosts: ["granted", "prompt"],
    }],
    [["--allow-all", "--unstable-worker-options"], "spawnWorker", `"none"`, {
      granted: [],
      partial: [],
      hosts: ["prompt", "prompt"],
    }],
    [["--allow-net=127.0.0.1:9", "--unstable-worker-options"], "spawnWorker", `{ net: ["127.0.0.1:8"] }`, [
      "NotCapable",
      /escalate|--allow-net/,
    ]],
  ] as [string[], string, string, [string, RegExp] | object][]
) {
  const shown = flags.map((flag) => flag.replace(Deno.execPath(), "deno"));
  Deno.test(
    { name: `permissions [${shown.join(" ")}] ${spawn}(${permissions})`, ignore: !native },
    () =>
      withoutOrphans(async () => {
        const result = await grantedIn(flags, spawn, permissions);
        if (!Array.isArray(expected)) return assertEquals(result, expected);
        const [name, message] = result as [string, string];
        assertEquals(name, expected[0]);
        assertMatch(message, expected[1]);
      }),
  );
}

// --- who may talk

/** Where a child finds its parent. */
function controlPath(pid: number | undefined): string {
  const variables = Deno.readTextFileSync(`/proc/${pid}/environ`).split("\0");
  const path = variables.find((variable) => variable.startsWith(`${PARENT_VARIABLE}=`))?.split("=")[1];
  assert(path !== undefined);
  return path;
}

/** Connects to a path and waits until the other side closes. */
async function knock(path: string): Promise<void> {
  const socket = UnixSocket.connect(path, "the victim");
  try {
    socket.trySend(new Uint8Array([1, 2, 3]), () => [], () => {});
    await deadline(socket.receive(), 5_000).then(
      ({ data }) => assertEquals(data.length, 0),
      (error) => assertInstanceOf(error, Deno.errors.ConnectionReset),
    );
  } finally {
    socket.close();
  }
}

oneKindTest("process", "spawnProcess() lets nobody but the child connect", async (kind) => {
  await using child = spawn(kind, ECHO);
  child.kill("SIGSTOP");
  const path = controlPath(child.pid);
  const folder = path.slice(0, path.lastIndexOf("/"));
  const modes = [folder, path].map((path) => (Deno.statSync(path).mode ?? 0) & 0o777);
  assertEquals(modes, [0o700, 0o600]);
  // Before the child comes: from this process, and from another of the same user.
  await knock(path);
  await knock(path);
  const { code, stderr } = await runDeno(
    ["--allow-all"],
    `
    import { UnixSocket } from "${new URL("process/unix_socket.ts", ROOT)}";
    const socket = UnixSocket.connect(${JSON.stringify(path)}, "the victim");
    const { data } = await socket.receive();
    socket.close();
    Deno.exit(data.length === 0 ? 42 : 1);`,
  );
  assertEquals([code, stderr], [42, ""]);
  child.kill("SIGCONT");
  assertEquals((await ask(child, "hello")).message.pid, child.pid);
  // And afterwards nobody can.
  assertThrows(() => Deno.statSync(folder), Deno.errors.NotFound);
  assertThrows(() => UnixSocket.connect(path, "the victim"), Error, "ENOENT");
  assertEquals((await ask(child, "again")).message.message, "again");
});

oneKindTest("process", "parent() believes nobody but the process that has started this one", async () => {
  const folder = await Deno.makeTempDir();
  const listener = new UnixListener(`${folder}/control`).publish();
  try {
    const abort = new AbortController();
    const accepting = listener.accept(abort.signal).then((socket) => socket.close(), () => {});
    const module = `${folder}/child.js`;
    await Deno.writeTextFile(
      module,
      decodeURIComponent(
        moduleOf(`try { parent(); Deno.exit(1); } catch (error) { console.log(error.message); }`).split(
          ",",
        )[1] as string,
      ),
    );
    // The shell stands between: it is the parent of the child.
    const { stdout } = await new Deno.Command("sh", {
      args: ["-c", `"${Deno.execPath()}" run --quiet -A "${module}"; exit $?`],
      env: { [PARENT_VARIABLE]: listener.path, NO_COLOR: "1" },
    }).output();
    abort.abort();
    await accepting;
    assertEquals(
      decode(stdout).trim(),
      "Cannot reach the parent: this program was not started by spawnWorker or spawnProcess",
    );
  } finally {
    listener.close();
    await Deno.remove(folder, { recursive: true });
  }
});

const UNIX_SOCKET = new URL("process/unix_socket.ts", ROOT);

for (
  const [what, bytes] of [
    ["garbage", `[1, 2, 3, 4]`],
    ["a packet that ends early", `[1, ...serialize({ packet: { type: "message" }, kinds: [] }).subarray(0, 9)]`],
    ["a number", `[1, ...serialize(5)]`],
    ["an envelope without a packet", `[1, ...serialize({ kinds: [] })]`],
    ["an envelope without kinds", `[1, ...serialize({ packet: { type: "message" } })]`],
    ["a type that is no string", `[1, ...serialize({ packet: { type: 5 }, kinds: [] })]`],
  ] as const
) {
  oneKindTest("process", `a child that writes ${what} to its parent is ended, and no other`, async (kind) => {
    await using good = spawn(kind, ECHO);
    await using bad = spawn(
      kind,
      moduleOf(`
        import { UnixSocket } from "${UNIX_SOCKET}";
        import { serialize } from "node:v8";
        const socket = UnixSocket.connect(Deno.env.get("${PARENT_VARIABLE}"), "the parent");
        await socket.receive();
        await socket.send(new Uint8Array(${bytes}), () => [], () => {});
        setInterval(() => {}, 1000);
      `),
    );
    await ask(good, "before");
    await bad.send("go");
    const { success, signal, error } = await deadline(bad.closed, 10_000);
    assertEquals([success, signal], [false, "SIGKILL"]);
    assertInstanceOf(error, Error);
    assertStringIncludes(error.message, "Cannot receive");
    await assertRejects(() => bad.send("after the end"), Deno.errors.BrokenPipe);
    assertEquals((await ask(good, "after")).message.message, "after");
  });
}

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
    ignore: !native,
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
  ] as [string, number[][]][]
) {
  Deno.test({
    name: `ProcessTransport closes the descriptors of a message ${what}`,
    ignore: !native,
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

// --- inheritance, and the end of the parent

oneKindTest(
  "process",
  "spawnProcess() lets a child inherit no socket, also of those opened meanwhile",
  async (kind) => {
    const pairs: Pair[] = [];
    const children: TestChild[] = [];
    try {
      for (let i = 0; i < 20; i++) {
        const opening = Promise.all([Pair.open("native"), Pair.open("native")]);
        children.push(spawn(kind, ECHO));
        pairs.push(...await opening);
      }
      await Promise.all(children.map((child) => ask(child, "up")));
      const ours = descriptorLinks();
      assert(ours.filter((link) => link.startsWith("socket:")).length >= 20 * 6);
      const internet = internetSockets();
      for (const { pid } of children) {
        const sockets = descriptorLinks(pid as number).filter((link) => link.startsWith("socket:"));
        assert(sockets.length > 0);
        assertEquals(sockets.filter((link) => ours.includes(link) || internet.has(link)), []);
      }
    } finally {
      for (const pair of pairs) pair[Symbol.dispose]();
      await Promise.all(children.map((child) => child[Symbol.asyncDispose]()));
    }
  },
);

Deno.test({
  name: "spawnProcess() children that have called parent() end with a parent that is killed, also busy ones",
  ignore: !native,
  fn: () =>
    withoutOrphans(async () => {
      const folder = await Deno.makeTempDir();
      const program = new Deno.Command(Deno.execPath(), {
        args: [
          "run",
          "--quiet",
          "--no-prompt",
          "-A",
          new URL("children/parent_program.ts", import.meta.url).href,
          folder,
        ],
        cwd: ROOT,
        stdin: "null",
        stdout: "piped",
        stderr: "inherit",
      }).spawn();
      const reader = program.stdout.pipeThrough(new TextDecoderStream()).getReader();
      const { value } = await deadline(reader.read(), 20_000);
      const [idle, busy, alone] = (value ?? "").trim().split(" ").map(Number) as [number, number, number];
      try {
        assertEquals([idle, busy, alone].map(isAlive), [true, true, true]);
        const begin = performance.now();
        program.kill("SIGKILL");
        await eventually(() => [idle, busy].some(isAlive) ? undefined : true);
        const took = performance.now() - begin;
        assert(took < 1_000, `${took} ms`);
        // Nobody can end this one: nothing of the library runs there.
        assert(isAlive(alone));
      } finally {
        for (const pid of [idle, busy, alone]) if (isAlive(pid)) Deno.kill(pid, "SIGKILL");
        await program.status;
        await reader.cancel();
        await Deno.remove(folder, { recursive: true });
      }
    }),
});
