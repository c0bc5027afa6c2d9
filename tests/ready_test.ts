/** `ready()`, `readFull()` and `finish()`: waiting without a buffer, exact reads, and ends that lose no answer. */

import { spawnFor, spawnWorker } from "@c10k/sockets/process";
import { TcpConn, TcpListener, type WaitOptions } from "@c10k/sockets/tcp";
import { UdpEndpoint } from "@c10k/sockets/udp";
import { assert, assertEquals, assertRejects, assertThrows } from "@std/assert";
import { deadline, delay } from "@std/async";
import { libc } from "../internal/libc.ts";
import { decode, encode, ENGINES, engineTest, eventually, Pair, readToEnd, replaced, socketTest } from "./_util.ts";

const LOCAL = { hostname: "127.0.0.1", port: 0 };

/** Whether a promise is settled after a while. */
async function isSettled(promise: Promise<unknown>): Promise<boolean> {
  let settled = false;
  promise.then(() => settled = true, () => settled = true);
  await delay(30);
  return settled;
}

engineTest("TcpConn.ready() resolves when there is something, and again as long as there is", async (engine) => {
  using pair = await Pair.open(engine);
  const { client, server } = pair;
  const p = new Uint8Array(4);
  // Read to the last byte of a buffer, and by every kind of read: nothing is left then.
  for (const read of ["tryRead", "read", "readFull", "peek and read"]) {
    const ready = server.ready({ readable: true });
    assertEquals(await isSettled(ready), false, read);
    await client.writeAll(encode("12345678"));
    const nothing = { readClosed: false, writeClosed: false, error: false };
    assertEquals(await ready, { readable: true, writable: false, ...nothing });
    await eventually(() => server.tryRead(p));
    assertEquals((await server.ready({ readable: true })).readable, true, read);
    if (read === "tryRead") assertEquals(server.tryRead(p), 4);
    else if (read === "readFull") await server.readFull(p);
    else {
      if (read !== "read") await server.peek(p);
      await server.read(p);
    }
    assertEquals(decode(p), "5678");
  }
  assertEquals((await server.ready({ writable: true })).writable, true);
  const both = await server.ready({ readable: true, writable: true });
  assertEquals([both.readable, both.writable], [false, true]);
});

engineTest("TcpConn.ready() tells of end-of-file and of a reset", async (engine) => {
  using pair = await Pair.open(engine);
  const { client, server } = pair;
  const waiting = server.ready({ readable: true });
  await client.closeWrite();
  const { readable, readClosed } = await waiting;
  assertEquals([readable, readClosed], [true, true]);
  assertEquals(server.tryRead(new Uint8Array(1)), null);
  assertEquals((await server.ready({ readable: true })).readable, true);

  // Deno sends FIN before RST.
  if (engine !== "native") return;
  using other = await Pair.open(engine);
  const reset = other.server.ready({ readable: true });
  await other.server.writeAll(encode("unread"));
  await delay(10);
  other.client.close(); // with something unread: RST
  assertEquals((await reset).readable, true);
  await assertRejects(async () => {
    for (let n: number | null | undefined = undefined; n === undefined; await delay(1)) {
      n = other.server.tryRead(new Uint8Array(1));
      if (n === null) throw new Error("end-of-file");
    }
  }, Deno.errors.ConnectionReset);
});

engineTest("calls that read and ready() are served in their order, on each side by itself", async (engine) => {
  using pair = await Pair.open(engine);
  const { client, server } = pair;
  const order: string[] = [];
  const done = [
    server.read(new Uint8Array(1)).then(() => order.push("read 1")),
    server.ready({ readable: true }).then(() => order.push("ready 2")),
    server.readFull(new Uint8Array(3)).then(() => order.push("full 3")),
    server.ready({ readable: true }).then(() => order.push("ready 4")),
    server.read(new Uint8Array(1)).then(() => order.push("read 5")),
  ];
  await server.ready({ writable: true });
  assertEquals(order, []);
  for (const byte of "abcde") {
    await client.writeAll(encode(byte));
    await delay(10);
  }
  await Promise.all(done);
  assertEquals(order, ["read 1", "ready 2", "full 3", "ready 4", "read 5"]);
});

engineTest("TcpConn.ready() that is cancelled or closed leaves the line", async (engine) => {
  using pair = await Pair.open(engine);
  const { client, server } = pair;
  const abort = new AbortController();
  const cancelled = assertRejects(() => server.ready({ readable: true }, { signal: abort.signal }), Error, "stop");
  const both = assertRejects(() => client.ready({ readable: true }, { signal: abort.signal }), Error, "stop");
  const reading = server.read(new Uint8Array(1));
  abort.abort(new Error("stop"));
  await Promise.all([cancelled, both]);
  await client.writeAll(encode("a"));
  assertEquals(await reading, 1);
  const closed = assertRejects(() => server.ready({ readable: true }), Deno.errors.BadResource, "closed meanwhile");
  server.close();
  await closed;
  await assertRejects(() => server.ready({ readable: true }), Deno.errors.BadResource, "is closed");
});

engineTest("ready() refuses what there is nothing to wait for", async (engine) => {
  using pair = await Pair.open(engine);
  using endpoint = UdpEndpoint.bind({ ...LOCAL, engine });
  for (const socket of [pair.client, pair.listener, endpoint]) {
    await assertRejects(() => socket.ready({}), TypeError, "interest must have readable");
    await assertRejects(() => socket.ready(undefined as never), TypeError, "interest must be an object");
    await assertRejects(() => socket.ready({ readable: 1 as never }), TypeError, "readable must be a boolean");
  }
  await assertRejects(() => pair.listener.ready({ writable: true }), TypeError, "a listener never is");
});

engineTest("TcpListener.ready() waits for a connection, also while paused and drained", async (engine) => {
  using listener = TcpListener.bind({ ...LOCAL, engine });
  const { port } = listener.addr;
  const waiting = listener.ready({ readable: true });
  assertEquals(await isSettled(waiting), false);
  using _a = await TcpConn.connect({ port, engine });
  await waiting;
  const first = await eventually(() => listener.tryAccept());
  first.close();

  listener.pause();
  const paused = listener.ready({ readable: true });
  using _b = await TcpConn.connect({ port, engine });
  assertEquals(await isSettled(paused), false);
  listener.resume();
  await paused;
  (await listener.accept()).close();

  const last = listener.ready({ readable: true });
  await listener.drain();
  // A call tells then that it is closed, if the wait itself has not.
  await last.catch(() => {});
  await assertRejects(() => listener.ready({ readable: true }), Deno.errors.BadResource);
});

engineTest("UdpEndpoint.ready() resolves when there is a datagram, and again as long as there is", async (engine) => {
  using a = UdpEndpoint.bind({ ...LOCAL, engine });
  using b = UdpEndpoint.bind({ ...LOCAL, engine });
  const p = new Uint8Array(16);
  // More than it takes to be busy, for such an endpoint is watched no longer.
  for (let i = 0; i < 200; i++) {
    await a.sendTo(encode("x"), b.addr);
    await b.recvFrom(p);
  }
  const waiting = b.ready({ readable: true });
  assertEquals(await isSettled(waiting), false);
  await a.sendTo(encode("one"), b.addr);
  await a.sendTo(encode("two"), b.addr);
  await waiting;
  for (const text of ["one", "two"]) {
    await b.ready({ readable: true });
    assertEquals(decode((await eventually(() => b.tryRecvFrom(p))).data), text);
  }
  assertEquals((await b.ready({ writable: true })).writable, true);
  const again = b.ready({ readable: true });
  assertEquals(await isSettled(again), false);
  b.close();
  await assertRejects(() => again, Deno.errors.BadResource);
});

socketTest("an idle connection that waits with ready() holds no buffer", async () => {
  using listener = TcpListener.bind({ ...LOCAL, engine: "native" });
  const waiting: Promise<unknown>[] = [];
  const conns: TcpConn[] = [];
  const before = Deno.memoryUsage();
  for (let i = 0; i < 500; i++) {
    const [client, server] = await Promise.all([TcpConn.connect({ port: listener.addr.port }), listener.accept()]);
    conns.push(client, server);
    waiting.push(server.ready({ readable: true }).catch(() => {}));
  }
  const held = Deno.memoryUsage().external - before.external;
  for (const conn of conns) conn.close();
  await Promise.all(waiting);
  assert(held / 500 < 1_024, `${Math.round(held / 500)} bytes for each`);
}, !ENGINES.includes("native"));

engineTest("TcpConn.readFull() fills its buffer, whatever arrives at a time", async (engine) => {
  using pair = await Pair.open(engine);
  const { client, server } = pair;
  const data = Uint8Array.from({ length: 300_000 }, (_, i) => i * 7);
  const sending = (async () => {
    for (let at = 0; at < data.length;) {
      const size = Math.min(data.length - at, 1 + (at * 31) % 70_000);
      await client.writeAll(data.subarray(at, at + size));
      at += size;
      await delay(1);
    }
    await client.closeWrite();
  })();
  for (let at = 0; at < data.length;) {
    const size = Math.min(data.length - at, 1 + (at * 17) % 100_000);
    const p = new Uint8Array(size);
    assertEquals(await server.readFull(p), size);
    assertEquals(p, data.subarray(at, at + size));
    at += size;
  }
  assertEquals(await server.readFull(new Uint8Array(5)), null);
  assertEquals(await server.readFull(new Uint8Array(0)), 0);
  await sending;
});

engineTest("TcpConn.readFull() that fails takes nothing", async (engine) => {
  const ends: Record<string, (server: TcpConn) => Promise<unknown>> = {
    timeout: (server) => assertRejects(() => server.readFull(new Uint8Array(9), { timeout: 20 }), Deno.errors.TimedOut),
    signal: (server) => {
      const signal = AbortSignal.timeout(20);
      return assertRejects(() => server.readFull(new Uint8Array(9), { signal }), DOMException);
    },
  };
  for (const end of Object.values(ends)) {
    using pair = await Pair.open(engine);
    const { client, server } = pair;
    await client.writeAll(encode("hel"));
    const ended = end(server);
    await delay(5);
    await client.writeAll(encode("lo"));
    await ended;
    assertEquals((await server.ready({ readable: true })).readable, true);
    const p = new Uint8Array(9);
    assertEquals([await server.peek(p), decode(p.subarray(0, 5))], [5, "hello"]);
    assertEquals([server.tryRead(p.subarray(0, 2)), decode(p.subarray(0, 2))], [2, "he"]);
    if (engine === "native") {
      await assertRejects(
        async () => await server.detach(),
        Deno.errors.Busy,
        "3 bytes were received for a readFull()",
      );
    }
    await client.writeAll(encode(" world!"));
    assertEquals([await server.readFull(p), decode(p)], [9, "llo world"]);
    assertEquals([await server.read(p), decode(p.subarray(0, 1))], [1, "!"]);
    assertEquals(await isSettled(server.ready({ readable: true }, { timeout: 10_000 })), false);
  }
});

socketTest("a connection that has bytes of a readFull() is given to nobody", async () => {
  using pair = await Pair.open("native");
  const { client, server } = pair;
  await client.writeAll(encode("HELLO"));
  const p = new Uint8Array(10);
  const reading = server.readFull(p);
  reading.catch(() => {});
  await eventually(() => server.queues().receive === 0 ? true : undefined);
  const child = spawnWorker("data:text/javascript,setInterval(() => {}, 1000)");
  using fresh = await Pair.open("native");
  const why = "5 bytes were received for a readFull()";
  assertThrows(() => server.detach(), Deno.errors.Busy, why);
  await assertRejects(() => child.send("both", { sockets: [fresh.server, server] }), Deno.errors.Busy, why);
  assertThrows(() => spawnFor(server, "cat"), Deno.errors.Busy, why);
  assertEquals(fresh.server.fd === undefined, false);
  child.kill();
  await client.writeAll(encode("world"));
  assertEquals([await reading, decode(p)], [10, "HELLOworld"]);
  await child.closed;
}, !ENGINES.includes("native"));

engineTest("bytes of a readFull() that waits are not in its buffer, which its caller can wipe", async (engine) => {
  using pair = await Pair.open(engine);
  const { client, server } = pair;
  const p = new Uint8Array(10);
  const abort = new AbortController();
  abort.signal.addEventListener("abort", () => p.fill(63));
  await client.writeAll(encode("HELLO"));
  const reading = assertRejects(() => server.readFull(p, { signal: abort.signal }), Error, "stop");
  await delay(20);
  abort.abort(new Error("stop"));
  await reading;
  assertEquals([await server.read(p), decode(p.subarray(0, 5))], [5, "HELLO"]);
});

engineTest("ready() that is ready at once leaves the event loop its turns", async (engine) => {
  using pair = await Pair.open(engine);
  using endpoint = UdpEndpoint.bind({ ...LOCAL, engine });
  await pair.client.writeAll(encode("unread"));
  await pair.server.ready({ readable: true });
  const waits: readonly (() => Promise<unknown>)[] = [
    () => pair.server.ready({ writable: true }),
    () => pair.server.ready({ readable: true }),
    () => pair.server.ready({ readable: true, writable: true }),
    () => endpoint.ready({ writable: true }),
  ];
  for (const wait of waits) {
    let isOver = false;
    setTimeout(() => isOver = true, 5);
    const end = performance.now() + 5_000;
    while (!isOver && performance.now() < end) await wait();
    assert(isOver, String(wait));
  }
});

engineTest("a signal that is aborted while the options are read ends the call", async (engine) => {
  using pair = await Pair.open(engine);
  const { server } = pair;
  const calls: Record<string, (options: WaitOptions) => Promise<unknown>> = {
    read: (options) => server.read(new Uint8Array(1), options),
    readFull: (options) => server.readFull(new Uint8Array(2), options),
    ready: (options) => server.ready({ readable: true }, options),
    accept: (options) => pair.listener.accept(options),
  };
  for (const [name, call] of Object.entries(calls)) {
    const abort = new AbortController();
    const options = {
      get timeout() {
        abort.abort(new Error("stop"));
        return 60_000;
      },
      signal: abort.signal,
    };
    const outcome = await deadline(call(options), 5_000).catch((error: Error) => error.message);
    assertEquals(outcome, "stop", name);
  }
});

socketTest("an error is told by ready() until a call has thrown it", async () => {
  using endpoint = UdpEndpoint.bind({ ...LOCAL, engine: "native" });
  const gone = UdpEndpoint.bind({ ...LOCAL, engine: "native" });
  endpoint.connect(gone.addr);
  gone.close();
  const waiting = endpoint.ready({ readable: true });
  await endpoint.send(new Uint8Array(1));
  assertEquals((await waiting).error, true);
  await assertRejects(() => endpoint.recv(new Uint8Array(1)), Deno.errors.ConnectionRefused);
  assertEquals((await endpoint.ready({ writable: true })).error, false);
  assertEquals(await isSettled(endpoint.ready({ readable: true }, { timeout: 10_000 })), false);
}, !ENGINES.includes("native"));

socketTest("ready() of a listener goes on after a shortage that tryAccept() has met", async () => {
  using listener = TcpListener.bind({ ...LOCAL, engine: "native" });
  const { accept4, memcpy } = libc;
  const client = await TcpConn.connect({ port: listener.addr.port });
  await listener.ready({ readable: true });
  {
    using _ = replaced(libc, "accept4", () => {
      libc.fcntl(-1, 0, 0); // so that errno can be what it is
      return accept4(-1, new Uint8Array(28), new Uint8Array(4), 0);
    });
    using _errno = replaced(libc, "memcpy", (into: Uint8Array, from: Deno.PointerValue, size: bigint) => {
      const result = memcpy(into as Uint8Array<ArrayBuffer>, from, size as never);
      if (into.length === 4) new DataView(into.buffer).setInt32(0, 24, true); // EMFILE
      return result;
    });
    assertEquals(listener.tryAccept(), undefined);
  }
  await listener.ready({ readable: true }, { timeout: 20_000 });
  (await eventually(() => listener.tryAccept())).close();
  client.close();
}, !ENGINES.includes("native"));

engineTest("TcpConn.readFull() at end-of-file leaves what has come", async (engine) => {
  using pair = await Pair.open(engine);
  await pair.client.writeAll(encode("hello"));
  await pair.client.closeWrite();
  const error = await assertRejects(() => pair.server.readFull(new Uint8Array(9)), Deno.errors.UnexpectedEof);
  assert(error.message.endsWith("end-of-file after 5 of 9 bytes"), error.message);
  const p = new Uint8Array(9);
  assertEquals([await pair.server.read(p), decode(p.subarray(0, 5))], [5, "hello"]);
  assertEquals(await pair.server.readFull(p), null);
});

engineTest("TcpConn.readFull() tells of a buffer that is changed while it waits", async (engine) => {
  using pair = await Pair.open(engine);
  const p = new Uint8Array(9);
  await pair.client.writeAll(encode("hel"));
  const reading = assertRejects(() => pair.server.readFull(p), TypeError, "p was resized or transferred");
  await delay(10);
  p.buffer.transfer();
  await pair.client.writeAll(encode("lo"));
  await reading;
});

engineTest(
  "TcpConn.finish() lets a peer read all of an answer, although it has sent more than was read",
  async (engine) => {
    for (let i = 0; i < 20; i++) {
      using listener = TcpListener.bind({ ...LOCAL, engine });
      using client = await TcpConn.connect({ port: listener.addr.port, engine });
      const server = await listener.accept();
      await client.writeAll(new Uint8Array(1_000));
      await server.readFull(new Uint8Array(10));
      const answering = server.writeAll(new Uint8Array(500_000)).then(() => server.finish());
      await delay(2);
      assertEquals(await readToEnd(client), 500_000);
      // It goes on sending, which is dropped.
      await client.writeAll(new Uint8Array(100_000));
      client.close();
      await answering;
      await assertRejects(() => server.finish(), Deno.errors.BadResource);
    }
  },
);

engineTest("TcpConn.finish() gives a peer up after its timeout, its size, or when it is told to", async (engine) => {
  for (const way of ["timeout", "size", "signal", "reset", "no room"]) {
    using pair = await Pair.open(engine);
    const { client, server } = pair;
    const abort = new AbortController();
    if (way === "no room") {
      while (server.tryWrite(new Uint8Array(1024 * 1024)) !== undefined) await delay(1);
    }
    const finished = server.finish({
      ...(way === "timeout" || way === "no room" ? { timeout: 30 } : { timeout: 60_000 }),
      ...(way === "size" ? { size: 10 } : {}),
      signal: abort.signal,
    });
    if (way === "size") await client.writeAll(new Uint8Array(20));
    if (way === "signal") abort.abort(new Error("stop"));
    if (way === "reset") {
      await client.writeAll(new Uint8Array(1));
      if (engine === "native") client.reset();
      else client.close();
    }
    if (way === "signal") await assertRejects(() => finished, Error, "stop");
    else await deadline(finished, 20_000);
    await assertRejects(() => server.read(new Uint8Array(1)), Deno.errors.BadResource);
  }
});

socketTest(
  "TcpConn.connect() does not depend on errno, which the runtime can overwrite before it is read",
  async () => {
    using listener = TcpListener.bind({ ...LOCAL, engine: "native" });
    const { connect } = libc;
    using _ = replaced(libc, "connect", (...args: Parameters<typeof connect>) => {
      const result = connect(...args);
      libc.open(encode("/nonexistent\0"), 0, 0); // ENOENT
      return result;
    });
    using client = await TcpConn.connect({ port: listener.addr.port, engine: "native" });
    using server = await listener.accept();
    assertEquals(client.localAddr.port, server.remoteAddr.port);
  },
  !ENGINES.includes("native"),
);
