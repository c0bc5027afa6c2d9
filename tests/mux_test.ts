/** Multiplexer: one suite, every backend by name. */

import {
  type Backend,
  type Interest,
  Multiplexer,
  type MultiplexerOptions,
  type ReadyEvent,
  type Source,
  Waker,
} from "@c10k/sockets/mux";
import { type Engine, TcpConn, TcpListener } from "@c10k/sockets/tcp";
import {
  assert,
  assertEquals,
  assertGreaterOrEqual,
  assertLess,
  assertMatch,
  assertRejects,
  assertThrows,
} from "@std/assert";
import { delay } from "@std/async";
import net from "node:net";
import { setImmediate } from "node:timers";
import { Descriptors, kernel, MSG_OOB } from "./_kernel.ts";
import { namespaceTest } from "./_namespace.ts";
import { encode, eventually, long, median, Pair, PATIENCE, readToEnd, runDeno, withoutLeaks } from "./_util.ts";

/** What a test of a backend works with. */
interface Context {
  readonly backend: Backend;
  readonly engine: Engine;
  open<T = string>(options?: MultiplexerOptions): Multiplexer<T>;
  pair(): Promise<Pair>;
}

/** Declares a test for each backend, or for some. */
function muxTest(name: string, fn: (context: Context) => Promise<void> | void, only?: readonly Backend[]): void {
  for (const backend of Multiplexer.backends()) {
    if (only !== undefined && !only.includes(backend)) continue;
    const engine = backend === "runtime" ? "runtime" : "native";
    const open = <T>(options?: MultiplexerOptions) => new Multiplexer<T>({ backend, ...options });
    const pair = () => Pair.open(engine);
    Deno.test(`[${backend}] ${name}`, () => withoutLeaks(() => fn({ backend, engine, open, pair })));
  }
}

const KERNEL: readonly Backend[] = ["epoll", "poll", "select"];

const FLAGS = ["readable", "writable", "priority", "readClosed", "writeClosed", "error"] as const;
type Flag = typeof FLAGS[number];

/** The flags that are set. */
function flags(event: ReadyEvent): Flag[] {
  return FLAGS.filter((flag) => event[flag]);
}

/** Waits for an event of `source` that has all the flags; spurious wake-ups are let pass. */
async function expectEvent(mux: Multiplexer<unknown>, source: Source, ...expected: Flag[]): Promise<ReadyEvent> {
  const end = performance.now() + 5_000;
  for (let left = 5_000; left > 0; left = end - performance.now()) {
    for (const event of await mux.wait({ timeout: left })) {
      if (event.source === source && expected.every((flag) => event[flag])) return event;
    }
  }
  throw new Error(`no event with ${expected.join(", ")}`);
}

/** Waits a little and expects that nothing is told. */
async function expectNoEvents(mux: Multiplexer<unknown>): Promise<void> {
  const events = await mux.wait({ timeout: 20 });
  assertEquals(events.map(flags), []);
}

const READABLE: Interest = { readable: true };
const WRITABLE: Interest = { writable: true };

// What is told of.

muxTest("Multiplexer.wait() tells of data as long as it is there", async ({ open, pair }) => {
  using p = await pair();
  using mux = open();
  mux.register(p.server, READABLE, "server");
  await expectNoEvents(mux);
  await p.client.writeAll(encode("hello"));
  for (let i = 0; i < 3; i++) {
    const event = await expectEvent(mux, p.server, "readable");
    assertEquals([event.data, flags(event)], ["server", ["readable"]]);
  }
  assertEquals(p.server.tryRead(new Uint8Array(10)), 5);
  await expectNoEvents(mux);
  assertEquals(p.server.tryRead(new Uint8Array(10)), undefined);
});

muxTest("Multiplexer.wait() tells at once that a socket is writable", async ({ open, pair }) => {
  using p = await pair();
  using mux = open();
  mux.register(p.client, WRITABLE, "client");
  const [event] = await mux.wait({ timeout: 5_000 });
  assertEquals(flags(event as ReadyEvent), ["writable"]);
});

muxTest("Multiplexer.wait() tells when a full socket is writable again", async ({ open, pair }) => {
  using p = await pair();
  using mux = open();
  const chunk = new Uint8Array(64 * 1024);
  for (let idle = 0; idle < 10;) {
    if (p.client.tryWrite(chunk) === undefined) {
      idle++;
      await delay(2);
    } else idle = 0;
  }
  mux.register(p.client, WRITABLE);
  await expectNoEvents(mux);
  const reading = readToEnd(p.server);
  await expectEvent(mux, p.client, "writable");
  p.client.close();
  await reading.catch(() => {});
});

muxTest("Multiplexer.wait() tells of the peer's end-of-file", async ({ open, pair }) => {
  using p = await pair();
  using mux = open();
  mux.register(p.server, READABLE);
  await p.client.closeWrite();
  const event = await expectEvent(mux, p.server, "readClosed");
  assertEquals(flags(event), ["readable", "readClosed"]);
  assertEquals(p.server.tryRead(new Uint8Array(1)), null);
});

muxTest("Multiplexer.wait() tells of the peer's reset", async ({ engine, open }) => {
  using listener = TcpListener.bind({ hostname: "127.0.0.1", port: 0, engine });
  const client = net.connect(listener.addr.port, "127.0.0.1");
  client.on("error", () => {});
  using server = await listener.accept();
  using mux = open();
  mux.register(server, READABLE);
  await expectNoEvents(mux);
  const closed = new Promise((resolve) => client.once("close", resolve));
  client.resetAndDestroy();
  const event = await expectEvent(mux, server, "error");
  assert(event.readable && event.readClosed, "a read does not block");
  assertThrows(() => server.tryRead(new Uint8Array(1)), Deno.errors.ConnectionReset);
  await closed;
});

muxTest("Multiplexer.wait() tells of a connection to accept", async ({ engine, open }) => {
  using listener = TcpListener.bind({ hostname: "127.0.0.1", port: 0, engine });
  using mux = open();
  mux.register(listener, READABLE, "listener");
  await expectNoEvents(mux);
  using _client = await TcpConn.connect({ port: listener.addr.port, engine });
  const event = await expectEvent(mux, listener, "readable");
  assertEquals([event.data, flags(event)], ["listener", ["readable"]]);
  using conn = listener.tryAccept();
  assert(conn !== undefined);
  assertEquals(listener.tryAccept(), undefined);
  await expectNoEvents(mux);
});

muxTest("Multiplexer.wait() tells of a datagram", async ({ open }) => {
  using d = new Descriptors();
  const [receiver, sender] = d.udp();
  const source = { fd: receiver };
  using mux = open();
  mux.register(source, READABLE, "udp");
  await expectNoEvents(mux);
  d.write(sender, 10);
  assertEquals(flags(await expectEvent(mux, source, "readable")), ["readable"]);
  assertEquals(d.read(receiver), 10);
  await expectNoEvents(mux);
}, KERNEL);

muxTest("Multiplexer.wait() tells of out-of-band data", async ({ open, pair }) => {
  using p = await pair();
  using mux = open();
  mux.register(p.server, { priority: true });
  await expectNoEvents(mux);
  kernel.send(p.client.fd as number, encode("!"), 1, MSG_OOB);
  assertEquals(flags(await expectEvent(mux, p.server, "priority")), ["priority"]);
}, KERNEL);

muxTest("Multiplexer.wait() tells of both directions in one event", async ({ open, pair }) => {
  using p = await pair();
  using mux = open();
  await p.client.writeAll(encode("x"));
  mux.register(p.server, { readable: true, writable: true });
  assertEquals(flags(await expectEvent(mux, p.server, "readable", "writable")), ["readable", "writable"]);
});

muxTest("Multiplexer.register() takes anything that has a descriptor", async ({ open }) => {
  using d = new Descriptors();
  using mux = open();
  const [reading, writing] = d.pipe();
  const event = d.eventfd();
  const child = new Deno.Command("cat", { stdin: "piped", stdout: "null" }).spawn();
  const sources = { pipe: { fd: reading }, event: { fd: event }, child: { fd: d.pidfd(child.pid) } };
  for (const [name, source] of Object.entries(sources)) mux.register(source, READABLE, name);
  await expectNoEvents(mux);
  d.write(writing, 1);
  await expectEvent(mux, sources.pipe, "readable");
  d.read(reading);
  d.write(event, new Uint8Array([1, 0, 0, 0, 0, 0, 0, 0]));
  await expectEvent(mux, sources.event, "readable");
  d.read(event);
  await child.stdin.close();
  await expectEvent(mux, sources.child, "readable");
  await child.status;
  mux.unregister(sources.child);
  d.close(writing);
  // A pipe whose writer is gone: a read gives end-of-file, so it is readable.
  assertEquals(flags(await expectEvent(mux, sources.pipe, "readClosed")), ["readable", "readClosed", "writeClosed"]);
}, KERNEL);

Deno.test({
  name: "Multiplexer.register() takes stdin",
  ignore: !Multiplexer.backends().includes("epoll"),
  async fn() {
    const source = `
      import { Multiplexer } from "@c10k/sockets/mux";
      for (const backend of ["epoll", "poll", "select"] as const) {
        using mux = new Multiplexer({ backend });
        mux.register({ fd: 0 }, { readable: true });
        const [event] = await mux.wait({ timeout: 5_000 });
        console.log(backend, event?.readable);
      }`;
    const file = await Deno.makeTempFile({ suffix: ".ts" });
    await Deno.writeTextFile(file, source);
    const child = new Deno.Command(Deno.execPath(), {
      args: ["run", "--no-lock", "--config", new URL("../deno.json", import.meta.url).pathname, "--allow-all", file],
      stdin: "piped",
      stdout: "piped",
    }).spawn();
    const writer = child.stdin.getWriter();
    await writer.write(encode("typed\n"));
    const { stdout } = await child.output();
    await writer.close().catch(() => {});
    await Deno.remove(file);
    assertEquals(new TextDecoder().decode(stdout), "epoll true\npoll true\nselect true\n");
  },
});

// How it is told.

muxTest("interest oneshot tells once, until it is modified", async ({ open, pair }) => {
  using p = await pair();
  using mux = open();
  mux.register(p.server, { readable: true, oneshot: true }, "server");
  await p.client.writeAll(encode("hello"));
  await expectEvent(mux, p.server, "readable");
  await expectNoEvents(mux);
  await p.client.writeAll(encode("more"));
  await expectNoEvents(mux);
  mux.modify(p.server, { readable: true, oneshot: true });
  assertEquals((await expectEvent(mux, p.server, "readable")).data, "server");
  await expectNoEvents(mux);
});

muxTest('interest trigger: "edge" tells once for each arrival', async ({ open, pair }) => {
  using p = await pair();
  using mux = open();
  mux.register(p.server, { readable: true, trigger: "edge" });
  await p.client.writeAll(encode("one"));
  await expectEvent(mux, p.server, "readable");
  await expectNoEvents(mux);
  await p.client.writeAll(encode("two"));
  await expectEvent(mux, p.server, "readable");
  await expectNoEvents(mux);
  assertEquals(p.server.tryRead(new Uint8Array(10)), 6);
  await p.client.writeAll(encode("three"));
  await expectEvent(mux, p.server, "readable");
}, ["epoll"]);

muxTest("an interest that the backend lacks is refused, and registers nothing", async ({ backend, open, pair }) => {
  using p = await pair();
  using mux = open();
  const lacking: Record<Backend, Interest[]> = {
    epoll: [],
    poll: [{ trigger: "edge" }, { exclusive: true }],
    select: [{ trigger: "edge" }, { exclusive: true }],
    runtime: [{ trigger: "edge" }, { exclusive: true }, { priority: true }],
  };
  for (const interest of lacking[backend]) {
    assertThrows(() => mux.register(p.server, { readable: true, ...interest }), Deno.errors.NotSupported, backend);
    assertEquals([mux.size, mux.has(p.server)], [0, false]);
    mux.register(p.server, READABLE);
    assertThrows(() => mux.modify(p.server, { readable: true, ...interest }), Deno.errors.NotSupported);
    mux.unregister(p.server);
  }
});

muxTest("interest exclusive wakes one of two multiplexers, and can be modified", async ({ engine, open }) => {
  using listener = TcpListener.bind({ hostname: "127.0.0.1", port: 0, engine });
  const muxes = [open(), open(), open(), open()];
  for (const mux of muxes) mux.register(listener, { readable: true, exclusive: true });
  const woken: number[] = [];
  const waits = muxes.map((mux, i) =>
    mux.wait({ timeout: PATIENCE / 60 }).then((events) => events.length > 0 && woken.push(i))
  );
  await delay(PATIENCE / 400); // all wait in the kernel
  using _client = await TcpConn.connect({ port: listener.addr.port, engine });
  await Promise.all(waits);
  assertGreaterOrEqual(woken.length, 1);
  assertLess(woken.length, 4, "not all are woken");
  const [mux] = muxes as [Multiplexer<string>];
  mux.modify(listener, { readable: true });
  await expectEvent(mux, listener, "readable");
  mux.modify(listener, { readable: true, exclusive: true });
  await expectEvent(mux, listener, "readable");
  for (const mux of muxes) mux.close();
}, ["epoll"]);

muxTest("more ready sources than maxEvents are all told of within two rounds", async ({ engine, open }) => {
  using listener = TcpListener.bind({ hostname: "127.0.0.1", port: 0, engine });
  const clients: TcpConn[] = [];
  const servers: TcpConn[] = [];
  using mux = open<number>({ maxEvents: 30 });
  for (let i = 0; i < 60; i++) {
    clients.push(await TcpConn.connect({ port: listener.addr.port, engine }));
    servers.push(await listener.accept());
    await clients[i]?.writeAll(encode("x"));
    mux.register(servers[i] as TcpConn, READABLE, i);
  }
  await delay(50);
  await mux.wait(); // on the runtime this starts the reads
  await delay(50);
  for (let round = 0; round < 5; round++) {
    const told = new Set<number>();
    for (let i = 0; i < 2; i++) {
      const events = await mux.wait({ timeout: 1_000 });
      assertEquals(events.length, 30);
      for (const { data } of events) told.add(data);
    }
    assertEquals(told.size, 60);
  }
  for (const conn of [...clients, ...servers]) conn.close();
  assertEquals(mux.size, 0);
});

long(muxTest)("10,000 sources at once, of which 100 are ready", async ({ engine, open }) => {
  using mux = open<number>();
  const listeners: TcpListener[] = [];
  for (let i = 0; i < 10_000; i++) {
    // One address has ports for 28,000, most of which others may have used just before.
    const hostname = `127.0.${1 + (i >> 10)}.1`;
    const listener = TcpListener.bind({ hostname, port: 0, engine });
    listeners.push(listener);
    mux.register(listener, READABLE, i);
  }
  assertEquals(mux.size, 10_000);
  await expectNoEvents(mux);
  const expected = new Set(Array.from({ length: 100 }, (_, i) => i * 100 + 7));
  const clients = await Promise.all([...expected].map((i) => {
    const { hostname, port } = (listeners[i] as TcpListener).addr;
    return TcpConn.connect({ hostname, port, engine });
  }));
  const told = new Set<number>();
  await eventually(() =>
    told.size === 100 ? true : (mux.wait({ timeout: 0 }).then((events) => {
      for (const { data } of events) told.add(data);
    }).catch(() => {}),
      undefined)
  );
  assertEquals([...told].sort((a, b) => a - b), [...expected]);
  for (const socket of [...clients, ...listeners]) socket.close();
  assertEquals(mux.size, 0);
}, ["epoll", "poll", "runtime"]);

// Changes.

muxTest("Multiplexer.modify() changes interest and data, and shows in registrations()", async ({ open, pair }) => {
  using p = await pair();
  using mux = open();
  mux.register(p.server, WRITABLE, "before");
  await expectEvent(mux, p.server, "writable");
  mux.modify(p.server, READABLE, "after");
  await expectNoEvents(mux);
  assertEquals([...mux.registrations()], [{ source: p.server, interest: READABLE, data: "after" }]);
  mux.modify(p.server, WRITABLE);
  assertEquals((await expectEvent(mux, p.server, "writable")).data, "after");
  mux.modify(p.server, {});
  await expectNoEvents(mux);
});

muxTest(
  "modify() and unregister() in the middle of a batch empty events that are still to come",
  async ({ open, pair }) => {
    const pairs = [await pair(), await pair(), await pair(), await pair()];
    using mux = open<TcpConn>();
    for (const { server, client } of pairs) {
      await client.writeAll(encode("x"));
      mux.register(server, { readable: true, writable: true }, server);
    }
    await delay(20);
    await mux.wait({ timeout: 0 });
    await delay(20);
    const events = await mux.wait({ timeout: 1_000 });
    assertEquals(events.length, 4);
    const [a, b, c, d] = events as [ReadyEvent<TcpConn>, ReadyEvent<TcpConn>, ReadyEvent<TcpConn>, ReadyEvent<TcpConn>];
    mux.unregister(b.source);
    mux.modify(c.source, WRITABLE);
    d.data.close();
    assertEquals([flags(a), flags(b), flags(c), flags(d)], [["readable", "writable"], [], ["writable"], []]);
    const later = await mux.wait({ timeout: 1_000 });
    assertEquals(new Set(later.map((event) => event.source)), new Set([a.source, c.source]));
    for (const p of pairs) p[Symbol.dispose]();
  },
);

muxTest("a closed socket is unregistered, and its number's next owner hears nothing of it", async ({ open, pair }) => {
  using listening = await pair();
  using mux = open<string>();
  for (let round = 0; round < 20; round++) {
    const p = await Pair.open("native");
    mux.register(p.server, READABLE, "old");
    mux.register(p.client, WRITABLE, "trigger");
    await p.client.writeAll(encode("x"));
    const events = await mux.wait({ timeout: 1_000 });
    const { fd } = p.server;
    p.server.close();
    assertEquals([mux.has(p.server), mux.size], [false, 1]);
    mux.unregister(p.server); // does nothing
    // The kernel gives the number out again at once.
    const again = await Pair.open("native");
    const next = [again.listener, again.client, again.server].find((socket) => socket.fd === fd);
    if (next !== undefined) mux.register(next, READABLE, "new");
    for (const event of events) if (event.data === "old") assertEquals(flags(event), []);
    for (const event of await mux.wait({ timeout: 0 })) assertEquals(event.data, "trigger");
    p[Symbol.dispose]();
    again[Symbol.dispose]();
    assertEquals(mux.size, 0);
  }
  listening.client.close();
}, KERNEL);

muxTest("detach() unregisters a socket", async ({ open, pair }) => {
  using p = await pair();
  using mux = open();
  mux.register(p.server, WRITABLE);
  const fd = p.server.detach();
  assertEquals([mux.size, mux.has({ fd })], [0, false]);
  await expectNoEvents(mux);
  using again = TcpConn.fromFd(fd);
  mux.register(again, WRITABLE);
  await expectEvent(mux, again, "writable");
}, KERNEL);

muxTest("a descriptor that is closed behind its back is silent, and disturbs no other", async ({ open }) => {
  using d = new Descriptors();
  using mux = open();
  const [reading, writing] = d.pipe();
  const [other, otherWriting] = d.pipe();
  mux.register({ fd: reading }, READABLE, "closed");
  mux.register({ fd: other }, READABLE, "open");
  d.close(reading);
  d.close(writing);
  await expectNoEvents(mux);
  d.write(otherWriting, 1);
  const [event] = await mux.wait({ timeout: 1_000 });
  assertEquals(event?.data, "open");
  mux.unregister({ fd: reading });
  assertEquals(mux.size, 1);
}, KERNEL);

muxTest("register(), modify() and unregister() take effect on a wait that is under way", async ({ open, pair }) => {
  using p = await pair();
  using q = await pair();
  using mux = open();
  mux.register(q.server, READABLE, "q");
  await q.client.writeAll(encode("x"));
  mux.modify(q.server, {});
  const first = mux.wait({ timeout: 5_000 });
  await delay(30);
  mux.register(p.client, WRITABLE, "registered");
  assertEquals((await first)[0]?.data, "registered");
  mux.modify(p.client, READABLE);
  const second = mux.wait({ timeout: 5_000 });
  await delay(30);
  mux.modify(q.server, READABLE);
  assertEquals((await second)[0]?.data, "q");
  q.server.tryRead(new Uint8Array(9));
  const third = mux.wait({ timeout: 60 });
  await delay(20);
  mux.unregister(q.server);
  await q.client.writeAll(encode("x"));
  assertEquals((await third).length, 0);
});

muxTest("a socket that is closed while a wait is under way ends its connection at once", async ({ open, pair }) => {
  using p = await pair();
  using mux = open();
  mux.register(p.server, READABLE);
  const waiting = mux.wait({ timeout: 2_000 });
  await delay(30);
  const begin = performance.now();
  p.server.close();
  assertEquals(await p.client.read(new Uint8Array(1)), null); // its FIN
  assertLess(performance.now() - begin, 1_000);
  mux.wake();
  await waiting;
});

// Wrong use.

muxTest("the same source twice, an unknown source, a closed source", async ({ open, pair }) => {
  using p = await pair();
  using mux = open();
  mux.register(p.server, READABLE);
  const twice = assertThrows(() => mux.register(p.server, WRITABLE), Deno.errors.AlreadyExists);
  assert(
    /^Cannot register TCP connection with \S+ with the multiplexer: .*\(EEXIST\)$/.test(twice.message),
    twice.message,
  );
  assertThrows(() => mux.modify(p.client, WRITABLE), Deno.errors.NotFound, "ENOENT");
  assertThrows(() => mux.unregister(p.client), Deno.errors.NotFound, "ENOENT");
  mux.unregister(p.server);
  assertThrows(() => mux.unregister(p.server), Deno.errors.NotFound);
  mux.register(p.server, READABLE);
  p.client.close();
  assertThrows(() => mux.register(p.client, READABLE), Deno.errors.BadResource);
  assertThrows(() => mux.modify(p.client, READABLE), Deno.errors.BadResource);
  assertEquals(mux.has(p.client), false);
  assertEquals(mux.size, 1);
});

muxTest("a descriptor stands for itself, whichever object carries it", ({ open }) => {
  using d = new Descriptors();
  using mux = open();
  const [fd] = d.pipe();
  mux.register({ fd }, READABLE, "pipe");
  assertEquals(mux.has({ fd }), true);
  assertThrows(() => mux.register({ fd }, READABLE), Deno.errors.AlreadyExists);
  mux.modify({ fd }, WRITABLE);
  mux.unregister({ fd });
  assertEquals([mux.has({ fd }), mux.size], [false, 0]);
  assertThrows(
    () => mux.register({ fd: 19_999 }, READABLE),
    mux.backend === "select" ? RangeError : Deno.errors.BadResource,
  );
}, KERNEL);

muxTest("Multiplexer.register() refuses the descriptor of its own waker, which goes on waking", async ({ open }) => {
  using mux = open();
  const waker = mux.waker();
  assertThrows(() => mux.register({ fd: waker.fd as number }, READABLE), Deno.errors.AlreadyExists, "(EEXIST)");
  assertEquals([mux.size, mux.has({ fd: waker.fd as number })], [0, false]);
  waker.wake();
  assertLess(await measure(() => mux.wait({ timeout: 5_000 })), 5_000);
}, KERNEL);

muxTest("wrong types and numbers are refused before any system call", async ({ open, pair }) => {
  using p = await pair();
  using mux = open();
  // deno-lint-ignore no-explicit-any
  const any = (value: unknown) => value as any;
  for (const source of [undefined, null, 5, "5", {}, { fd: "5" }, { fd: undefined }]) {
    assertThrows(() => mux.register(any(source), READABLE), Error);
  }
  for (
    const interest of [undefined, null, 1, { readable: 1 }, { trigger: "both" }, { exclusive: true, oneshot: true }]
  ) {
    assertThrows(() => mux.register(p.server, any(interest)), TypeError);
  }
  for (const timeout of [-1, NaN]) await assertRejects(() => mux.wait({ timeout }), RangeError);
  await assertRejects(() => mux.wait({ timeout: any("5") }), TypeError);
  for (const maxEvents of [0, 1.5, 65_537]) assertThrows(() => open({ maxEvents }), RangeError);
  assertThrows(() => open({ backend: any("kqueue") }), TypeError);
  assertEquals(mux.size, 0);
});

muxTest("a closed multiplexer refuses everything, and close() may be called twice", async ({ backend, open, pair }) => {
  using p = await pair();
  const mux = open();
  mux.register(p.server, READABLE);
  const waker = mux.waker();
  mux.close();
  mux.close();
  assertEquals([mux.size, mux.has(p.server), [...mux.registrations()]], [0, false, []]);
  for (
    const call of [
      () => mux.register(p.server, READABLE),
      () => mux.modify(p.server, READABLE),
      () => mux.unregister(p.server),
      () => mux.wake(),
      () => mux.waker(),
      () => waker.wake(),
      () => backend === "runtime" ? mux.wake() : mux.waitSync(0),
    ]
  ) assertThrows(call, Deno.errors.BadResource, "closed");
  await assertRejects(() => mux.wait(), Deno.errors.BadResource, "closed");
  for await (const _ of mux) throw new Error("an event of a closed multiplexer");
  // The sockets are not its own.
  await p.client.writeAll(encode("x"));
  assertEquals(await p.server.read(new Uint8Array(9)), 1);
});

muxTest("Multiplexer.close() wakes a wait that has just found nothing on this thread", async ({ open, pair }) => {
  using p = await pair();
  const mux = open();
  mux.register(p.server, { readable: true });
  // After one that was fruitful the next is made on this thread, with a turn of the event loop after it.
  const wait = mux.wait();
  await delay(5);
  await p.client.writeAll(encode("x"));
  assertEquals((await wait).length, 1);
  p.server.tryRead(new Uint8Array(9));
  setImmediate(() => mux.close());
  await assertRejects(() => mux.wait(), Deno.errors.BadResource);
}, ["epoll"]);

muxTest("Multiplexer.close() wakes a wait with BadResource, and ends a loop", async ({ open, pair }) => {
  using p = await pair();
  for (const pause of [0, 1, 30]) {
    const mux = open();
    mux.register(p.server, READABLE);
    const waiting = mux.wait().catch((error) => error);
    const other = open();
    const loop = (async () => {
      for await (const _ of other) { /* nothing comes */ }
      return "ended";
    })();
    await delay(pause);
    mux.close();
    other.close();
    assert(await waiting instanceof Deno.errors.BadResource);
    assertEquals(await loop, "ended");
  }
});

muxTest("a second wait is refused while one is under way", async ({ backend, open }) => {
  using mux = open();
  const waiting = mux.wait({ timeout: 30 });
  await assertRejects(() => mux.wait(), Deno.errors.Busy);
  if (backend !== "runtime") assertThrows(() => mux.waitSync(0), Deno.errors.Busy);
  // A loop is told, too: it ends quietly only when the multiplexer is closed.
  await assertRejects(
    async () => {
      for await (const _ of mux) throw new Error("a second wait");
    },
    Deno.errors.Busy,
    "another wait is under way",
  );
  assertEquals((await waiting).length, 0);
  assertEquals((await mux.wait({ timeout: 0 })).length, 0);
});

Deno.test({
  name: "sockets of one engine are refused by backends of the other",
  ignore: !Multiplexer.backends().includes("epoll"),
  async fn() {
    using native = await Pair.open("native");
    using runtime = await Pair.open("runtime");
    for (const backend of Multiplexer.backends()) {
      using mux = new Multiplexer({ backend });
      const { server } = backend === "runtime" ? native : runtime;
      assertThrows(() => mux.register(server, READABLE), Deno.errors.NotSupported, "make the multiplexer with backend");
    }
    using mux = new Multiplexer({ backend: "runtime" });
    assertThrows(() => mux.register({ fd: 0 }, READABLE), Deno.errors.NotSupported, "use epoll, poll or select");
    assertThrows(() => mux.waitSync(0), Deno.errors.NotSupported);
  },
});

muxTest("select has no room for descriptors from 1,024 on, and says what has", ({ open }) => {
  using d = new Descriptors();
  using mux = open();
  const [fd] = d.pipe();
  const high = d.duplicate(fd, 1024);
  assertThrows(() => mux.register({ fd: high }, READABLE), RangeError, "use poll or epoll");
  mux.register({ fd: d.duplicate(fd, 1023) }, READABLE);
  assertEquals(mux.size, 1);
}, ["select"]);

muxTest("a multiplexer on select whose own descriptor finds no room says so, and leaves none behind", async () => {
  const source = `
    import { Multiplexer } from "@c10k/sockets/mux";
    const open = () => [...Deno.readDirSync("/proc/self/fd")].length;
    new Multiplexer({ backend: "select" }).close();
    // A descriptor gets the lowest number that is free.
    const files = Array.from({ length: 1024 }, () => Deno.openSync("/dev/null"));
    const before = open();
    for (let i = 0; i < 3; i++) {
      try { new Multiplexer({ backend: "select" }); } catch (error) { console.log(error.name, /below 1024/.test(error.message)); }
    }
    new Multiplexer({ backend: "poll" }).close();
    console.log(open() - before);
    for (const file of files) file.close();`;
  const { stdout, stderr } = await runDeno(["--allow-all"], source);
  assertEquals([stdout, stderr], ["RangeError true\nRangeError true\nRangeError true\n0\n", ""]);
}, ["select"]);

muxTest("epoll refuses a file, which poll and select find ready always", async ({ backend, open }) => {
  using d = new Descriptors();
  using mux = open();
  const source = { fd: d.file(new URL(import.meta.url).pathname) };
  if (backend === "epoll") {
    assertThrows(() => mux.register(source, READABLE), Deno.errors.PermissionDenied, "epoll cannot watch a file");
  } else {
    mux.register(source, READABLE);
    await expectEvent(mux, source, "readable");
  }
}, KERNEL);

// Time.

muxTest("Multiplexer.wait() keeps its timeout: 0, a fraction, 50 ms", async ({ open, pair }) => {
  using p = await pair();
  using mux = open();
  mux.register(p.server, READABLE);
  for (const timeout of [0, 0.4, 50]) {
    for (let i = 0; i < 5; i++) {
      const begin = performance.now();
      assertEquals((await mux.wait({ timeout })).length, 0);
      const took = performance.now() - begin;
      assertGreaterOrEqual(took, timeout);
      assertLess(took, timeout + 250);
    }
  }
});

muxTest("Multiplexer.wait() without a timeout ends with its signal, and loses nothing", async ({ open, pair }) => {
  using p = await pair();
  using mux = open();
  mux.register(p.server, { readable: true, oneshot: true });
  assertEquals(await mux.wait({ signal: AbortSignal.abort("before") }).catch((error) => error), "before");
  for (const pause of [0, 1, 40]) {
    const abort = new AbortController();
    const waiting = mux.wait({ signal: abort.signal }).catch((error) => error);
    await delay(pause);
    abort.abort("enough");
    assertEquals(await waiting, "enough");
  }
  await p.client.writeAll(encode("x"));
  await expectEvent(mux, p.server, "readable");
});

muxTest("an event that comes together with the signal is told, now or by the next wait", async ({ open, pair }) => {
  using p = await pair();
  using mux = open();
  for (let i = 0; i < 50; i++) {
    if (i === 0) mux.register(p.server, { readable: true, oneshot: true });
    else mux.modify(p.server, { readable: true, oneshot: true });
    const abort = new AbortController();
    const waiting = mux.wait({ signal: abort.signal }).catch(() => undefined);
    if (i % 2 === 0) await delay(3);
    p.client.tryWrite(encode("x"));
    abort.abort();
    const events = await waiting;
    if (events === undefined) await expectEvent(mux, p.server, "readable");
    else assertEquals(events.length, 1);
    assertEquals(await p.server.read(new Uint8Array(1)), 1);
  }
});

muxTest("timers and other I/O of the program go on beside waits that never rest", async ({ engine, open, pair }) => {
  using p = await pair();
  using mux = open();
  mux.register(p.client, WRITABLE);
  const delays: number[] = [];
  let last = performance.now();
  const timer = setInterval(() => {
    delays.push(performance.now() - last - 10);
    last = performance.now();
  }, 10);
  let echoes = 0;
  using other = await Pair.open(engine);
  const echoing = (async () => {
    const buffer = new Uint8Array(16);
    while (true) {
      await other.client.writeAll(encode("x"));
      await other.server.read(buffer);
      echoes++;
    }
  })().catch(() => {});
  for (const end = performance.now() + 500; performance.now() < end;) await mux.wait();
  clearInterval(timer);
  delays.push(performance.now() - last - 10);
  other[Symbol.dispose]();
  await echoing;
  assertLess(median(delays), 50, "the median delay of a 10 ms timer");
  assertGreaterOrEqual(echoes, 10, "echoes in 500 ms");
});

muxTest("a process ends when its multiplexer is closed, and not while it waits", async ({ backend }) => {
  const permissions = backend === "runtime" ? ["--allow-net"] : ["--allow-net", "--allow-ffi"];
  const source = `
    import { Multiplexer } from "@c10k/sockets/mux";
    import { TcpListener } from "@c10k/sockets/tcp";
    const listener = TcpListener.bind({ hostname: "127.0.0.1", port: 0, engine: "${
    backend === "runtime" ? "runtime" : "native"
  }" });
    const mux = new Multiplexer({ backend: "${backend}" });
    mux.register(listener, { readable: true });
    mux.waker();
    mux.wait({ timeout: 100 }).then(() => {
      console.log("waited");
      Deno.unrefTimer(setTimeout(() => mux.close(), 150));
      return mux.wait();
    }).catch((error) => console.log(error.name));`;
  const begin = performance.now();
  assertEquals(await runDeno(permissions, source), { code: 0, stdout: "waited\nBadResource\n", stderr: "" });
  assertLess(performance.now() - begin, 10_000);
});

muxTest("an idle wait uses no CPU", async ({ backend }) => {
  if (Deno.build.os !== "linux") return;
  const source = `
    import { Multiplexer } from "@c10k/sockets/mux";
    const mux = new Multiplexer({ backend: "${backend}" });
    await mux.wait({ timeout: 20 });
    const before = Deno.readTextFileSync("/proc/self/stat");
    await mux.wait({ timeout: 1_000 });
    const after = Deno.readTextFileSync("/proc/self/stat");
    const cpu = (stat) => stat.split(" ").slice(13, 15).reduce((sum, ticks) => sum + Number(ticks), 0);
    console.log(cpu(after) - cpu(before));`;
  const { stdout, stderr } = await runDeno(["--allow-all"], source);
  assertEquals(stderr, "");
  assertLess(Number(stdout), 5, "ticks of 10 ms in a second");
});

// Waking.

muxTest("Multiplexer.wake() ends the wait that is under way, or else the next one, once", async ({ open }) => {
  using mux = open();
  const waiting = mux.wait();
  await delay(20);
  mux.wake();
  assertEquals((await waiting).length, 0);
  mux.wake();
  mux.wake();
  const begin = performance.now();
  assertEquals((await mux.wait()).length, 0);
  assertLess(performance.now() - begin, 1_000);
  assertGreaterOrEqual(await measure(() => mux.wait({ timeout: 30 })), 30);
  mux.waker().wake();
  await mux.wait();
  assertEquals(mux.size, 0);
});

async function measure(action: () => Promise<unknown>): Promise<number> {
  const begin = performance.now();
  await action();
  return performance.now() - begin;
}

const MUX_URL = new URL("../mux/mod.ts", import.meta.url).href;

muxTest("Waker.fromFd() wakes a waitSync() from another Worker", async ({ open }) => {
  using mux = open();
  const { fd } = mux.waker();
  const source = `
    import { Waker } from "${MUX_URL}";
    using waker = Waker.fromFd(${fd});
    postMessage("ready");
    Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 100);
    waker.wake();
    postMessage("woken");`;
  const url = URL.createObjectURL(new Blob([source], { type: "text/javascript" }));
  const worker = new Worker(url, { type: "module" });
  await new Promise<void>((resolve) => worker.onmessage = () => resolve());
  const begin = performance.now();
  assertEquals(mux.waitSync(10_000).length, 0);
  assertLess(performance.now() - begin, 5_000);
  worker.terminate();
  URL.revokeObjectURL(url);
}, KERNEL);

muxTest("Multiplexer.waitSync() blocks a Worker, which the main thread wakes", async ({ backend }) => {
  const source = `
    import { Multiplexer } from "${MUX_URL}";
    using mux = new Multiplexer({ backend: "${backend}" });
    postMessage(mux.waker().fd);
    const begin = performance.now();
    const events = mux.waitSync();
    postMessage([events.length, performance.now() - begin]);`;
  const url = URL.createObjectURL(new Blob([source], { type: "text/javascript" }));
  const worker = new Worker(url, { type: "module" });
  const [count, took] = await new Promise<[number, number]>((resolve) => {
    worker.onmessage = async ({ data }) => {
      if (typeof data !== "number") return resolve(data);
      using waker = Waker.fromFd(data);
      await delay(60);
      waker.wake();
    };
  });
  assertEquals(count, 0);
  assertGreaterOrEqual(took, 20);
  worker.terminate();
  URL.revokeObjectURL(url);
}, KERNEL);

muxTest("Multiplexer.waitSync() keeps its timeout, and goes on after a signal (EINTR)", async ({ backend }) => {
  const source = `
    import { Multiplexer } from "@c10k/sockets/mux";
    Deno.addSignalListener("SIGUSR2", () => {});
    using mux = new Multiplexer({ backend: "${backend}" });
    for (const timeout of [0, 0.4, 50]) {
      const begin = performance.now();
      mux.waitSync(timeout);
      const took = performance.now() - begin;
      console.log(took >= timeout && took < timeout + 200);
    }
    new Deno.Command("sh", { args: ["-c", \`for i in 1 2 3 4 5; do sleep 0.05; kill -USR2 \${Deno.pid} 2> /dev/null; done\`] }).spawn().unref();
    const begin = performance.now();
    console.log(mux.waitSync(600).length, performance.now() - begin >= 600);
    const later = performance.now();
    new Deno.Command("sh", { args: ["-c", \`for i in 1 2 3 4 5; do sleep 0.05; kill -USR2 \${Deno.pid} 2> /dev/null; done\`] }).spawn().unref();
    console.log((await mux.wait({ timeout: 600 })).length, performance.now() - later >= 600);
    Deno.exit(0);`;
  const { stdout, stderr } = await runDeno(["--allow-all"], source);
  assertEquals([stdout, stderr], ["true\ntrue\ntrue\n0 true\n0 true\n", ""]);
}, KERNEL);

muxTest("Waker.fromFd() refuses what is no eventfd, and outlives the multiplexer harmlessly", () => {
  using d = new Descriptors();
  const [fd] = d.pipe();
  assertThrows(() => Waker.fromFd(fd), TypeError, "not an eventfd");
  assertThrows(() => Waker.fromFd(19_999), Deno.errors.BadResource);
  const mux = new Multiplexer({ backend: "epoll" });
  using waker = Waker.fromFd(mux.waker().fd as number);
  mux.close();
  waker.wake();
  waker.close();
  assertThrows(() => waker.wake(), Deno.errors.BadResource);
}, ["epoll"]);

Deno.test("Waker refuses construction", () => {
  const construct = Waker as unknown as new () => Waker;
  assertThrows(() => new construct(), TypeError, "Illegal constructor: use Multiplexer.waker or Waker.fromFd");
});

namespaceTest("Waker.fromFd() takes nothing for an eventfd where there is no /proc to tell", async ({ run }) => {
  const source = `
    import { Multiplexer, Waker } from "@c10k/sockets/mux";
    using mux = new Multiplexer({ backend: "epoll" });
    try { Waker.fromFd(mux.waker().fd); } catch (error) { console.log(error.name, error.message); }
    mux.wake();
    console.log((await mux.wait()).length);`;
  const { stdout, stderr } = await run(source, `mount -t tmpfs none /proc\n"$@"`);
  assertMatch(stdout, /^TypeError Cannot make a waker from descriptor \d+: not an eventfd\n0\n$/);
  assertEquals(stderr, "");
});

// Cost.

long(muxTest)("1,000,000 events allocate nothing", async () => {
  const source = `
    import { Multiplexer } from "@c10k/sockets/mux";
    import { TcpConn, TcpListener } from "@c10k/sockets/tcp";
    using listener = TcpListener.bind({ hostname: "127.0.0.1", port: 0 });
    using mux = new Multiplexer();
    const conns = [];
    for (let i = 0; i < 200; i++) {
      conns.push(await TcpConn.connect({ port: listener.addr.port }), await listener.accept());
      mux.register(conns.at(-1), { writable: true });
    }
    const run = (events) => { while (events > 0) for (const event of mux.waitSync()) if (event.writable) events--; };
    run(100_000);
    gc();
    const before = Deno.memoryUsage().heapUsed;
    run(1_000_000);
    console.log(Deno.memoryUsage().heapUsed - before);
    Deno.exit(0);`;
  const { stdout, stderr } = await runDeno(["--allow-all", "--v8-flags=--expose-gc"], source);
  assertEquals(stderr, "");
  // Nothing was collected in between. An object takes 24 bytes at least; what there is comes with each wait, not event.
  assertLess(Number(stdout), 4_000_000, "bytes");
}, ["epoll"]);

Deno.test("Multiplexer.backends() lists the runtime always, and the default is the first", () => {
  const backends = Multiplexer.backends();
  assertEquals(backends.at(-1), "runtime");
  using mux = new Multiplexer();
  assertEquals(mux.backend, backends[0]);
});

muxTest(
  "console.log() shows a multiplexer's backend and how many sources it watches",
  async ({ backend, open, pair }) => {
    using p = await pair();
    using mux = open();
    mux.register(p.server, READABLE);
    assertEquals(Deno.inspect(mux), `Multiplexer { backend: "${backend}", size: 1 }`);
  },
);

Deno.test("with --allow-net alone there is the runtime backend, and the others say why not", async () => {
  const source = `
    import { Multiplexer } from "@c10k/sockets/mux";
    console.log(Multiplexer.backends(), new Multiplexer().backend);
    for (const backend of ["epoll", "poll", "select"] as const) {
      try { new Multiplexer({ backend }); } catch (error) { console.log(error.name, error.message); }
    }`;
  const { code, stdout } = await runDeno(["--allow-net"], source);
  assertEquals(code, 0);
  assertEquals(stdout.split("\n")[0], '[ "runtime" ] runtime');
  if (Deno.build.os === "linux") {
    assertEquals(stdout.split("\n")[1], 'NotSupported Cannot use backend "epoll": run with --allow-ffi');
  }
});

// What a review found.

muxTest(
  "modify() while an answer is on its way neither silences nor loses what it asks for",
  async ({ open, pair }) => {
    // On poll the answer to the oneshot before silenced the interest after it.
    for (const next of [READABLE, { writable: true, oneshot: true }] as Interest[]) {
      using p = await pair();
      using mux = open();
      mux.register(p.server, { readable: true, oneshot: true });
      const waiting = mux.wait();
      await delay(30);
      p.client.tryWrite(encode("x"));
      for (const end = performance.now() + 5; performance.now() < end;) { /* the other thread has its answer */ }
      mux.modify(p.server, next);
      const flag = next.readable ? "readable" : "writable";
      const told = (await waiting).some((event) => event[flag]);
      if (!told || next.readable) await expectEvent(mux, p.server, flag);
      if (next.readable) await expectEvent(mux, p.server, flag);
      else await expectNoEvents(mux);
    }
  },
);

/** Makes `p.server` readable, and lets a wait elsewhere have its answer, but not hand it over. */
function answer(p: Pair): void {
  p.client.tryWrite(encode("x"));
  for (const end = performance.now() + 5; performance.now() < end;) { /* the other thread has its answer */ }
}

muxTest(
  "an answer on its way to what is unregistered, closed or another's by now is dropped",
  async ({ open, pair }) => {
    const ways: Record<string, (mux: Multiplexer<string>, p: Pair) => void> = {
      unregistered: (mux, p) => mux.unregister(p.server),
      closed: (_, p) => p.server.close(),
      "another's": (mux, p) => {
        mux.unregister(p.server);
        mux.register(p.server, { writable: true }, "another");
      },
    };
    for (const [way, change] of Object.entries(ways)) {
      using p = await pair();
      using mux = open<string>();
      mux.register(p.server, READABLE, "old");
      const waiting = mux.wait({ timeout: way === "another's" ? 5_000 : 60 });
      await delay(20);
      answer(p);
      change(mux, p);
      const told = (await waiting).map((event) => [event.data, ...flags(event)]);
      assertEquals(told, way === "another's" ? [["another", "writable"]] : [], way);
    }
  },
);

muxTest("a oneshot is not used up by an answer that holds no more when it arrives", async ({ open, pair }) => {
  // On select alone, which looks a second time.
  using p = await pair();
  using mux = open();
  mux.register(p.server, { readable: true, oneshot: true });
  const waiting = mux.wait({ timeout: 60 });
  await delay(20);
  answer(p);
  for (const end = performance.now() + 5_000; p.server.tryRead(new Uint8Array(9)) === undefined;) {
    assertLess(performance.now(), end);
  }
  assertEquals((await waiting).length, 0);
  p.client.tryWrite(encode("x"));
  await expectEvent(mux, p.server, "readable");
}, ["select"]);

muxTest("many multiplexers that wait leave threads for the rest of the program", async ({ engine, open }) => {
  const muxes = Array.from({ length: 40 }, () => open());
  const waits = muxes.map((mux) => mux.wait({ timeout: 3_000 }));
  await delay(20);
  using p = await Pair.open(engine);
  const begin = performance.now();
  const reading = p.server.read(new Uint8Array(1));
  await delay(5);
  await p.client.writeAll(encode("x"));
  await reading;
  for (const mux of muxes) mux.wake();
  await Promise.all(waits);
  assertLess(performance.now() - begin, 1_500);
  for (const mux of muxes) mux.close();
});

muxTest("a paused listener is not told of, until it is resumed", async ({ engine, open }) => {
  using listener = TcpListener.bind({ hostname: "127.0.0.1", port: 0, engine });
  using mux = open();
  mux.register(listener, READABLE);
  listener.pause();
  using _client = await TcpConn.connect({ port: listener.addr.port, engine });
  await delay(10);
  await expectNoEvents(mux);
  mux.modify(listener, READABLE);
  await expectNoEvents(mux);
  const waiting = mux.wait({ timeout: 5_000 });
  await delay(20);
  listener.resume();
  assertEquals((await waiting).length, 1);
  using _server = listener.tryAccept();
});

muxTest("Waker.fromFd() is not fooled by a file's name", async () => {
  using d = new Descriptors();
  const path = await Deno.makeTempFile({ suffix: "eventfd" });
  assertThrows(() => Waker.fromFd(d.file(path)), TypeError, "not an eventfd");
  await Deno.remove(path);
}, ["epoll"]);

muxTest("a socket takes the number of a descriptor that was closed without being unregistered", async ({ open }) => {
  using d = new Descriptors();
  using mux = open();
  const [fd, other] = d.pipe();
  mux.register({ fd }, READABLE);
  d.close(fd);
  d.close(other);
  const sockets: TcpListener[] = [];
  while (sockets.every((socket) => socket.fd !== fd) && sockets.length < 50) {
    sockets.push(TcpListener.bind({ hostname: "127.0.0.1", port: 0 }));
  }
  const heir = sockets.find((socket) => socket.fd === fd) as TcpListener;
  mux.register(heir, READABLE);
  assertEquals(mux.size, 1);
  using _client = await TcpConn.connect({ port: heir.addr.port });
  await expectEvent(mux, heir, "readable");
  for (const socket of sockets) socket.close();
}, KERNEL);

muxTest("maxEvents: 1 looks once more when an interrupt had the only place", async ({ open, pair }) => {
  using p = await pair();
  using mux = open({ maxEvents: 1 });
  mux.register(p.client, WRITABLE);
  for (let i = 0; i < 20; i++) {
    const abort = new AbortController();
    mux.modify(p.client, {});
    const waiting = mux.wait({ signal: abort.signal }).catch(() => {});
    if (i % 2 === 0) await delay(1);
    abort.abort();
    await waiting;
    mux.modify(p.client, WRITABLE);
    assertEquals((await mux.wait({ timeout: 0 })).length, 1);
  }
});

const CYCLES = 200_000;

long(muxTest)(`registering and unregistering ${CYCLES} times grows nothing`, async ({ backend, engine }) => {
  const source = `
    import { Multiplexer } from "@c10k/sockets/mux";
    import { TcpListener } from "@c10k/sockets/tcp";
    using listener = TcpListener.bind({ hostname: "127.0.0.1", port: 0, engine: "${engine}" });
    using mux = new Multiplexer({ backend: "${backend}" });
    const cycle = (times) => { for (; times > 0; times--) { mux.register(listener, { writable: true }); mux.unregister(listener); } };
    cycle(${CYCLES / 10});
    gc();
    const before = Deno.memoryUsage().heapUsed;
    cycle(${CYCLES});
    gc();
    console.log(Deno.memoryUsage().heapUsed - before);
    Deno.exit(0);`;
  const { stdout, stderr } = await runDeno(["--allow-all", "--v8-flags=--expose-gc"], source);
  assertEquals(stderr, "");
  assertLess(Number(stdout), 3_000_000, "bytes");
});

muxTest("a multiplexer that finds no descriptor left says so, and leaves none behind", async ({ backend }) => {
  const source = `
    import { Multiplexer } from "@c10k/sockets/mux";
    import { TcpListener } from "@c10k/sockets/tcp";
    const hold = [];
    try { while (true) hold.push(TcpListener.bind({ hostname: "127.0.0.1", port: 0 })); } catch { /* full */ }
    for (let left = 0; left < 2; left++) {
      try { new Multiplexer({ backend: "${backend}" }).close(); console.log("made"); } catch (error) { console.log(error.message, error.code); }
      hold.pop().close();
    }
    new Multiplexer({ backend: "${backend}" }).close();
    Deno.exit(0);`;
  const file = await Deno.makeTempFile({ suffix: ".ts" });
  await Deno.writeTextFile(file, source);
  const config = new URL("../deno.json", import.meta.url).pathname;
  const { stdout } = await new Deno.Command("sh", {
    args: ["-c", 'ulimit -n 200; exec "$0" run -A --no-lock --config "$1" "$2"', Deno.execPath(), config, file],
    env: { NO_COLOR: "1" },
  }).output();
  await Deno.remove(file);
  const [first] = new TextDecoder().decode(stdout).split("\n");
  assertEquals(first, "Cannot make a multiplexer: too many open files in this process (EMFILE) EMFILE");
}, KERNEL);

Deno.test({
  name: "a grant for the C library's path is enough for every backend",
  ignore: !Multiplexer.backends().includes("epoll"),
  async fn() {
    const path = `/lib/${Deno.build.arch}-linux-gnu/libc.so.6`;
    const source = `
      import { Multiplexer } from "@c10k/sockets/mux";
      import { TcpConn, TcpListener } from "@c10k/sockets/tcp";
      for (const backend of Multiplexer.backends()) {
        const engine = backend === "runtime" ? "runtime" : "native";
        using listener = TcpListener.bind({ hostname: "127.0.0.1", port: 0, engine });
        using mux = new Multiplexer({ backend });
        mux.register(listener, { readable: true });
        const waiting = mux.wait({ timeout: 5_000 });
        using client = await TcpConn.connect({ port: listener.addr.port, engine });
        console.log(backend, (await waiting).length);
      }`;
    const { stdout, stderr } = await runDeno(["--allow-net", `--allow-ffi=${path}`], source);
    assertEquals([stdout, stderr], ["epoll 1\npoll 1\nselect 1\nruntime 1\n", ""]);
  },
});

Deno.test({
  name: "a grant for a folder opens no library in it",
  ignore: Deno.build.os !== "linux",
  async fn() {
    const source = `import { engineSupport } from "@c10k/sockets/tcp"; console.log(engineSupport().reason);`;
    assertEquals((await runDeno(["--allow-ffi=."], source)).stdout, "run with --allow-ffi\n");
  },
});

Deno.test("[runtime] TcpConn.tryWrite() gathers small writes while the first is on its way", async () => {
  using pair = await Pair.open("runtime");
  let taken = 0;
  for (let i = 0; i < 1000; i++) taken += pair.client.tryWrite(new Uint8Array(20)) ?? 0;
  assertEquals(taken, 20_000);
  for (let n: number | undefined = 0; n !== undefined; n = pair.client.tryWrite(new Uint8Array(10_000))) taken += n;
  assertLess(taken, 3 * 64 * 1024);
  pair.client.close(); // sends all of it
  assertEquals(await readToEnd(pair.server), taken);
});

muxTest("Multiplexer.wait() returns new events each time, or the same ones by `reuseEvents`", async (context) => {
  for (const reuseEvents of [false, true]) {
    using pair = await context.pair();
    using mux = context.open({ reuseEvents });
    mux.register(pair.server, READABLE, "a");
    await pair.client.writeAll(encode("x"));
    await expectEvent(mux, pair.server, "readable");
    const waits = [await mux.wait(), await mux.wait()] as const;
    const [first, second] = waits.map(([event]) => event);
    assertEquals([first === second, waits[0] === waits[1]], [reuseEvents, reuseEvents]);
    assertEquals([second?.readable, second?.data], [true, "a"]);
    // What is not watched any more is not reported; an event that the program has kept stays what it was.
    mux.unregister(pair.server);
    assertEquals([first?.readable, second?.readable], [!reuseEvents, false]);
  }
});
