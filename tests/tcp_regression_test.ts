/** What broke once. Each test says what. */

import { TcpConn, TcpListener, TcpSocket } from "@c10k/sockets/tcp";
import { assert, assertEquals, assertLess, assertRejects, assertThrows } from "@std/assert";
import { delay } from "@std/async";
import net from "node:net";
import { encode, ENGINES, engineTest, Pair, readToEnd, runDeno } from "./_util.ts";

engineTest("TcpConn.writeAll() with a signal never resolves when close() has cut it", async (engine) => {
  for (let turns = 0; turns < 40; turns++) {
    using pair = await Pair.open(engine);
    const size = 16 * 1024 * 1024;
    const { signal } = new AbortController();
    const writing = pair.client.writeAll(new Uint8Array(size), { signal }).then(() => "resolved", (error) => error);
    for (let i = 0; i < turns; i++) await undefined;
    pair.client.close();
    const outcome = await writing;
    if (outcome === "resolved") assertEquals(await readToEnd(pair.server), size);
    else assert(outcome instanceof Deno.errors.BadResource, Deno.inspect(outcome));
  }
});

engineTest("TcpConn.close() wakes a read although tryWrite's bytes are still going out", async (engine) => {
  using pair = await Pair.open(engine);
  const chunk = new Uint8Array(64 * 1024);
  for (let idle = 0; idle < 20;) {
    if (pair.client.tryWrite(chunk) === undefined) {
      idle++;
      await delay(2);
    } else {
      idle = 0;
    }
  }
  const reading = pair.client.read(new Uint8Array(10));
  pair.client.close();
  await assertRejects(() => reading, Deno.errors.BadResource);
  await readToEnd(pair.server).catch(() => {});
});

for (const engine of ENGINES) {
  Deno.test(`[${engine}] TcpListener.tryAccept() on a fresh listener lets the process end`, async () => {
    const flags = engine === "native" ? ["--allow-net", "--allow-ffi"] : ["--allow-net"];
    const source = `
      import { TcpListener } from "@c10k/sockets/tcp";
      const listener = TcpListener.bind({ hostname: "127.0.0.1", port: 0, engine: "${engine}" });
      listener.tryAccept();
      addEventListener("unload", () => console.log("ended"));`;
    assertEquals(await runDeno(flags, source), { code: 0, stdout: "ended\n", stderr: "" });
  });
}

engineTest("TcpConn.writable.abort() does not wait for a write that stalls", async (engine) => {
  using pair = await Pair.open(engine);
  const writer = pair.client.writable.getWriter();
  const writing = writer.write(new Uint8Array(32 * 1024 * 1024)).catch((error) => error);
  writer.closed.catch(() => {});
  await delay(20);
  await writer.abort(new Error("enough")).catch(() => {});
  await writing;
  await assertRejects(() => pair.client.read(new Uint8Array(1)), Deno.errors.BadResource);
});

engineTest("TcpConn that is used by its streams alone is closed when a write fails", async (engine) => {
  using listener = TcpListener.bind({ hostname: "127.0.0.1", port: 0, engine });
  for (let i = 0; i < 10; i++) {
    const socket = net.connect(listener.addr.port, "127.0.0.1");
    socket.on("error", () => {});
    const conn = await listener.accept();
    const piping = conn.readable.pipeTo(conn.writable).catch(() => {});
    socket.write(new Uint8Array(1_000_000));
    await delay(2);
    const closed = new Promise((resolve) => socket.once("close", resolve));
    socket.resetAndDestroy();
    await closed;
    await piping;
    await assertRejects(() => conn.read(new Uint8Array(1)), Deno.errors.BadResource);
  }
});

engineTest("TcpConn drops the data of writes that were cancelled behind one that stalls", async (engine) => {
  using pair = await Pair.open(engine);
  const stalled = pair.client.writeAll(new Uint8Array(32 * 1024 * 1024)).catch(() => {});
  const before = Deno.memoryUsage().rss;
  for (let i = 0; i < 4_000; i++) {
    const abort = new AbortController();
    const write = pair.client.write(new Uint8Array(64 * 1024), { signal: abort.signal }).catch(() => {});
    abort.abort();
    await write;
  }
  // 250 MiB went through; the collector is not asked to be prompt.
  assertLess(Deno.memoryUsage().rss - before, 160 * 1024 * 1024);
  pair.client.close();
  await stalled;
});

engineTest("TcpConn refuses a signal in the place of the options, and construction", async (engine) => {
  using pair = await Pair.open(engine);
  const signal = AbortSignal.timeout(1_000_000) as unknown as { signal: AbortSignal };
  await assertRejects(() => pair.client.read(new Uint8Array(1), signal), TypeError, "{ signal }");
  const Conn = TcpConn as unknown as new () => TcpConn;
  const Listener = TcpListener as unknown as new () => TcpListener;
  assertThrows(() => new Conn(), TypeError, "Illegal constructor: use TcpConn.connect");
  assertThrows(() => new Listener(), TypeError, "Illegal constructor: use TcpListener.bind");
  const Socket = TcpSocket as unknown as new (fd?: number) => TcpSocket;
  for (const fd of [undefined, 0]) {
    assertThrows(() => new Socket(fd), TypeError, "Illegal constructor: use TcpSocket.open");
  }
});

engineTest("a signal that lives long holds on to no call that is done", async (engine) => {
  using pair = await Pair.open(engine);
  const { signal } = new AbortController();
  let listeners = 0;
  const { addEventListener, removeEventListener } = signal;
  signal.addEventListener = (...args: Parameters<AbortSignal["addEventListener"]>) => {
    listeners++;
    addEventListener.apply(signal, args);
  };
  signal.removeEventListener = (...args: Parameters<AbortSignal["removeEventListener"]>) => {
    listeners--;
    removeEventListener.apply(signal, args);
  };
  for (let i = 0; i < 50; i++) {
    const reading = pair.server.read(new Uint8Array(1), { signal });
    await pair.client.writeAll(encode("x"), { signal });
    await reading;
  }
  const accepting = pair.listener.accept({ signal });
  (await TcpConn.connect({ port: pair.listener.addr.port, engine, signal })).close();
  (await accepting).close();
  assertEquals(listeners, 0);
});
