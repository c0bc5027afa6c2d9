/** What broke in pools and children, each found by a reader who looked for it. */

import { Pool } from "@c10k/sockets/process";
import { TcpConn, TcpListener } from "@c10k/sockets/tcp";
import { UdpEndpoint } from "@c10k/sockets/udp";
import { assertEquals, assertLess, assertMatch, assertRejects, assertThrows } from "@std/assert";
import { deadline } from "@std/async";
import { SOCK_STREAM } from "../internal/socket.ts";
import { AF_INET, encodeSockaddr } from "../internal/sockaddr.ts";
import { kernel } from "./_kernel.ts";
import {
  assertDescriptors,
  descendants,
  descriptorLinks,
  isAlive,
  moduleOf,
  NATIVE,
  runStarved,
  spawn,
  withoutOrphans,
} from "./_process.ts";
import { eventually, long, readText, replaced, withoutLeaks } from "./_util.ts";
import { duplicate } from "../process/pool/listeners.ts";
import { checkPoolOptions } from "../process/pool/options.ts";
import type { FromChild } from "../process/message/pool_protocol.ts";
import { Restarts } from "../process/pool/restarts.ts";
import { WorkerChild } from "../process/child/spawn_worker.ts";
import { Signals } from "../process/pool/signals.ts";
import { Supervisor } from "../process/pool/supervisor.ts";
import { ControlServer, takeOver } from "../process/pool/upgrade.ts";

function nativeTest(name: string, fn: () => void | Promise<void>): void {
  Deno.test({ name, ignore: !NATIVE, fn: () => withoutOrphans(async () => await withoutLeaks(fn)) });
}

nativeTest("Pool [round-robin] gives up when its listener is closed by somebody else", async () => {
  const listener = TcpListener.bind({ hostname: "127.0.0.1", port: 0 });
  const module = new URL("./children/pool_echo.ts", import.meta.url);
  const pool = await Pool.start({ kind: "worker", module, size: 2, signals: false, balance: "round-robin", listener });
  listener.close();
  await assertRejects(() => deadline(pool.closed, 10_000), Deno.errors.BadResource);
  await pool.close();
});

nativeTest("duplicate() of a listener that was shut down leaves no copy open", () => {
  const kernel = Deno.dlopen("libc.so.6", { shutdown: { parameters: ["i32", "i32"], result: "i32" } });
  using listener = TcpListener.bind({ hostname: "127.0.0.1", port: 0 });
  kernel.symbols.shutdown(listener.fd as number, 2);
  kernel.close();
  const before = [...Deno.readDirSync("/proc/self/fd")].length;
  assertThrows(() => duplicate([listener]), TypeError);
  assertEquals([...Deno.readDirSync("/proc/self/fd")].length, before);
});

for (const left of [0, 1]) {
  nativeTest(`a pool's child that gets ${left} of 2 listeners does not count as serving`, async () => {
    const child = new WorkerChild(new URL("./children/pool_echo.ts", import.meta.url), {});
    const ready = Promise.withResolvers<void>();
    child.link.onPacket = ({ body }) => (body as FromChild).is === "ready" && ready.resolve();
    await ready.promise;
    const start = { do: "start", id: 1, mode: "accept", listeners: 2, limit: Infinity, shared: true, once: false };
    const listeners = Array.from({ length: left }, () => TcpListener.bind({ hostname: "127.0.0.1", port: 0 }));
    await child.link.post({ type: "pool", body: start }, listeners); // as if the others were lost
    const { success } = await deadline(child.closed, 10_000);
    assertEquals(success, false);
  });
}

nativeTest("Supervisor.renew() that fails forgets a new child that has ended before the others were up", async () => {
  const folder = await Deno.makeTempDir();
  const module = moduleOf(`
    const exists = (name) => [...Deno.readDirSync(${JSON.stringify(folder)})].some((entry) => entry.name === name);
    const isBad = exists("bad");
    let isFirst = !isBad;
    if (isBad) try { Deno.mkdirSync(${JSON.stringify(`${folder}/first`)}); isFirst = true; } catch { /* the second */ }
    if (!isFirst) {
      await new Promise((resolve) => setTimeout(resolve, 1_000));
      throw new Error("a bad release");
    }
    serve(() => {});
    if (isBad) setTimeout(() => close(), 20);
  `);
  const listen = { hostname: "127.0.0.1", port: 0 };
  const settings = checkPoolOptions({
    kind: "worker",
    module,
    size: 2,
    signals: false,
    balance: "round-robin",
    listen,
  });
  const children = new Supervisor(settings, new Restarts(), () => [], () => {});
  await children.startAll();
  await Deno.mkdir(`${folder}/bad`);
  await assertRejects(() => children.renew(), Error, "before it called serve()");
  // The new one that has served is drained, if it has not ended yet.
  await eventually(() => children.all.every(({ state }) => state === "serving") ? true : undefined);
  assertEquals(children.all.length, 2);
  await children.endAll(0, true);
  await Deno.remove(folder, { recursive: true });
});

nativeTest("Pool.start() refuses a control path that is too long for a Unix socket", async () => {
  const module = new URL("./children/pool_echo.ts", import.meta.url);
  const options = {
    kind: "worker",
    module,
    size: 1,
    signals: false,
    listen: { hostname: "127.0.0.1", port: 0 },
  } as const;
  const why = "control must have at most 107 bytes, has 108";
  await assertRejects(() => Pool.start({ ...options, control: `/tmp/${"c".repeat(103)}` }), RangeError, why);
  const folder = await Deno.makeTempDir();
  const control = `${folder}/${"c".repeat(106 - folder.length)}`;
  await using _pool = await Pool.start({ ...options, control });
  assertEquals(Deno.lstatSync(control).isSocket, true);
  await Deno.remove(folder, { recursive: true });
});

nativeTest("takeOver() closes what it gets beside listeners", async () => {
  const folder = await Deno.makeTempDir();
  const sockets =
    () => [TcpListener.bind({ hostname: "127.0.0.1", port: 0 }), UdpEndpoint.bind({ hostname: "127.0.0.1" })];
  const server = new ControlServer(`${folder}/control`, sockets, () => {});
  server.publish();
  const before = descriptorLinks().length;
  const takeover = await takeOver(`${folder}/control`);
  assertEquals(takeover?.listeners.length, 1);
  for (const listener of takeover?.listeners ?? []) listener.close();
  takeover?.close();
  await assertDescriptors(before);
  server.close();
  await Deno.remove(folder, { recursive: true });
});

long(Deno.test)({
  name: "[worker] Child.kill() leaves a thread that never returns what it has, also when descriptors have run out",
  ignore: !NATIVE,
  async fn() {
    const module = moduleOf(`
      const libc = Deno.dlopen("libc.so.6", { usleep: { parameters: ["u32"], result: "i32" } });
      const listener = TcpListener.bind({ hostname: "127.0.0.1", port: 0 });
      postMessage({ packet: { type: "message", body: listener.addr.port }, sockets: [] });
      libc.symbols.usleep(3_500_000);
    `);
    const { stdout, stderr } = await runStarved(`
      import { spawnWorker } from "@c10k/sockets/process";
      import { TcpConn } from "@c10k/sockets/tcp";
      const child = spawnWorker(${JSON.stringify(module)});
      const { value: { message: port } } = await child.messages().next();
      await new Promise((resolve) => setTimeout(resolve, 50));
      fill();
      child.kill();
      await child.closed;
      free();
      (await TcpConn.connect({ port })).close();
      console.log("open as long as the thread runs");
      for (let tries = 0; tries < 500; tries++) {
        try { (await TcpConn.connect({ port })).close(); } catch (error) { console.log(error.code); break; }
        await new Promise((resolve) => setTimeout(resolve, 20));
      }`);
    assertEquals([stdout, stderr], ["open as long as the thread runs\nECONNREFUSED\n", ""]);
  },
});

for (const kind of ["worker", "process"] as const) {
  nativeTest(`[${kind}] Child.kill() refuses a signal that there is not, also once the child has ended`, async () => {
    const child = spawn(kind, "data:text/javascript,setInterval(() => {}, 1000)");
    const refuse = () => {
      for (const signal of ["SIGX", "SIGNONE", "constructor", "", "sigterm", 15, ["SIGTERM"], null]) {
        const message = "signal must be the name of a signal, received ";
        assertThrows(() => child.kill(signal as Deno.Signal), TypeError, message);
      }
    };
    try {
      refuse();
    } finally {
      child.kill();
      await child.closed;
    }
    refuse();
    child.kill("SIGTERM");
  });
}

nativeTest("spawnProcess() says in the library's words that descriptors have run out", async () => {
  const { stdout } = await runStarved(`
    import { spawnProcess } from "@c10k/sockets/process";
    fill();
    try { spawnProcess("data:text/javascript,"); } catch (error) { console.log(error.name, error.message); }`);
  assertMatch(stdout, /^Error Cannot start process /);
});

nativeTest(
  "Pool [round-robin] hands streams of the runtime engine to a thread, and opens nothing for each",
  async () => {
    const module = new URL("./children/pool_echo.ts", import.meta.url);
    const listen = { hostname: "127.0.0.1", port: 0, engine: "runtime" } as const;
    await using pool = await Pool.start({
      kind: "worker",
      module,
      size: 1,
      signals: false,
      balance: "round-robin",
      listen,
    });
    const visit = async () => {
      using conn = await TcpConn.connect({ port: pool.addr.port });
      assertEquals(await conn.read(new Uint8Array(1)), 1);
    };
    for (let i = 0; i < 3; i++) await visit();
    const before = descriptorLinks().length;
    for (let i = 0; i < 10; i++) await visit();
    await assertDescriptors(before);
  },
);

Deno.test({
  name: "[worker] Pool [round-robin] serves when there are descriptors for its connections and for nothing else",
  ignore: !NATIVE,
  async fn() {
    const { stdout, stderr } = await runStarved(`
      import { Pool } from "@c10k/sockets/process";
      import { TcpConn } from "@c10k/sockets/tcp";
      const module = ${JSON.stringify(new URL("./children/pool_echo.ts", import.meta.url).href)};
      const listen = { hostname: "127.0.0.1", port: 0 };
      const pool = await Pool.start({ kind: "worker", module, size: 1, signals: false, balance: "round-robin", listen });
      fill();
      // The client and the server of each; the second is the first that would go by a channel, which needs two more.
      for (let i = 0; i < 3; i++) {
        held.pop().close();
        held.pop().close();
        using conn = await TcpConn.connect({ port: pool.addr.port });
        console.log(await conn.read(new Uint8Array(1)));
      }
      free();
      await pool.close({ grace: 0 });`);
    assertEquals([stdout, stderr], ["1\n1\n1\n", ""]);
  },
});

nativeTest("Pool.close() [round-robin] serves what the kernel has accepted and nobody has taken yet", async () => {
  const module = new URL("./children/pool_echo.ts", import.meta.url);
  const listen = { hostname: "127.0.0.1", port: 0 };
  const options = { kind: "worker", module, size: 1, signals: false, balance: "round-robin", listen } as const;
  const pool = await Pool.start(options);
  // In one turn of the event loop, in which nothing is accepted.
  const fd = kernel.socket(AF_INET, SOCK_STREAM, 0);
  const address = encodeSockaddr({ hostname: "127.0.0.1", port: pool.addr.port }) as Uint8Array<ArrayBuffer>;
  assertEquals(kernel.connect(fd, address, address.length), 0);
  const closing = pool.close();
  using client = TcpConn.fromFd(fd);
  assertMatch(await readText(client) ?? "", /^\d+ \d+ /);
  client.close();
  await closing;
});

Deno.test("Signals takes a signal that comes again within half a second for the same one", () => {
  const heard = new Map<Deno.Signal, () => void>();
  using _add = replaced(Deno, "addSignalListener", (signal: Deno.Signal, fn: () => void) => heard.set(signal, fn));
  using _remove = replaced(Deno, "removeSignalListener", (signal: Deno.Signal) => heard.delete(signal));
  let now = 0;
  using _now = replaced(performance, "now", () => now);
  let ends = 0;
  const signals = new Signals(() => ends++, () => Promise.resolve());
  signals.listen();
  for (const [time, expected] of [[1_000, 1], [1_001, 1], [1_499, 1], [1_500, 2], [1_600, 2], [9_000, 3]] as const) {
    now = time;
    heard.get("SIGINT")?.();
    assertEquals(ends, expected, `at ${time} ms`);
  }
  signals.stop();
  assertEquals(heard.size, 0);
});

nativeTest("Pool.start() leaves no listener open if a child ends before it is told how to serve", async () => {
  const module = moduleOf(`
    serve(() => {});
    setTimeout(() => Deno.kill(Deno.pid, "SIGKILL"), 10);
  `);
  const listener = TcpListener.bind({ hostname: "127.0.0.1", port: 0 });
  const { port } = listener.addr;
  const options = {
    kind: "process",
    module,
    size: 1,
    signals: false,
    balance: "shared",
    listener,
    stderr: "null",
  } as const;
  const starting = assertRejects(() => Pool.start({ ...options, restart: { limit: 1 } }));
  // It says that it is ready, and ends, before anybody here can hear it: nothing is read here until it is dead. On a busy
  // machine that takes seconds; one that is still starting would be told to serve, and start() would be right to resolve.
  const pid = await eventually(() => descendants(Deno.pid)[0]);
  const end = performance.now() + 30_000;
  while (isAlive(pid)) assertLess(performance.now(), end, "the child does not end");
  await starting;
  await assertRejects(() => TcpConn.connect({ port }), Deno.errors.ConnectionRefused);
});
