/** Sources that nothing is asked of: every backend reports errors and hang-ups of them, and nothing else. */

import { type Backend, Multiplexer, type ReadyEvent, type Source } from "@c10k/sockets/mux";
import { TcpConn, TcpListener } from "@c10k/sockets/tcp";
import { UdpEndpoint } from "@c10k/sockets/udp";
import { assert, assertEquals, assertGreaterOrEqual, assertThrows } from "@std/assert";
import { delay } from "@std/async";
import { ReadyBit } from "../poll/selector.ts";
import { SelectSelector } from "../poll/select.ts";
import { Descriptors, kernel } from "./_kernel.ts";
import { NATIVE } from "./_process.ts";
import { encode, eventually, withoutLeaks } from "./_util.ts";

const KERNEL: readonly Backend[] = ["epoll", "poll", "select"];
const F_DUPFD_CLOEXEC = 1030;
const SHUT_RDWR = 2;

const FLAGS = ["readable", "writable", "priority", "readClosed", "writeClosed", "error"] as const;
type Flag = typeof FLAGS[number];

function flags(event: ReadyEvent): Flag[] {
  return FLAGS.filter((flag) => event[flag]);
}

/** Declares a test for each backend, or for some. */
function pausedTest(
  name: string,
  fn: (backend: Backend, mux: Multiplexer) => Promise<void>,
  only: readonly Backend[] = Multiplexer.backends(),
): void {
  for (const backend of Multiplexer.backends().filter((backend) => only.includes(backend))) {
    const run = async () => {
      using mux = new Multiplexer({ backend });
      await fn(backend, mux);
    };
    // Only a native peer resets a connection.
    Deno.test({ name: `[${backend}] ${name}`, ignore: !NATIVE, fn: () => withoutLeaks(run) });
  }
}

/** A connection whose peer can reset it. */
class Resettable implements Disposable {
  private constructor(readonly listener: TcpListener, readonly server: TcpConn, readonly client: TcpConn) {}

  static async open(backend: Backend): Promise<Resettable> {
    const engine = backend === "runtime" ? "runtime" : "native";
    const listener = TcpListener.bind({ hostname: "127.0.0.1", port: 0, engine });
    const client = await TcpConn.connect({ port: listener.addr.port, engine: "native" });
    return new Resettable(listener, await listener.accept(), client);
  }

  [Symbol.dispose](): void {
    this.client.close();
    this.server.close();
    this.listener.close();
  }
}

/** The flags of the next event. */
async function nextFlags(mux: Multiplexer): Promise<Flag[]> {
  const end = performance.now() + 5_000;
  for (let left = 5_000; left > 0; left = end - performance.now()) {
    const [event] = await mux.wait({ timeout: left });
    if (event !== undefined) return flags(event);
  }
  throw new Error("no event");
}

async function expectNoEvents(mux: Multiplexer): Promise<void> {
  assertEquals((await mux.wait({ timeout: 20 })).map(flags), []);
}

/** The ways to ask for nothing: each begins with a source that is not registered. */
const WAYS: [string, (mux: Multiplexer, source: Source) => void, only?: readonly Backend[]][] = [
  ["registered with nothing", (mux, source) => mux.register(source, {})],
  ["modified to nothing", (mux, source) => {
    mux.register(source, { readable: true, writable: true });
    mux.modify(source, {});
  }],
  ["modified to nothing, after a wait", (mux, source) => {
    mux.register(source, { readable: true });
    mux.wake();
    if (mux.backend !== "runtime") mux.waitSync(0);
    mux.modify(source, {});
  }],
  ["nothing, registered anew", (mux, source) => {
    mux.register(source, {});
    mux.unregister(source);
    mux.register(source, {});
  }],
  ["priority", (mux, source) => mux.register(source, { priority: true }), KERNEL],
  ["nothing, edge", (mux, source) => mux.register(source, { trigger: "edge" }), ["epoll"]],
  ["nothing, exclusive", (mux, source) => mux.register(source, { exclusive: true }), ["epoll"]],
];

pausedTest("Multiplexer.wait() reports a reset whatever was asked for", async (backend, mux) => {
  for (const [name, ask, only] of WAYS) {
    if (only?.includes(backend) === false) continue;
    using p = await Resettable.open(backend);
    ask(mux, p.server);
    await expectNoEvents(mux);
    p.client.reset();
    assertEquals(await nextFlags(mux), ["readClosed", "writeClosed", "error"], name);
    // The next read throws it.
    assertThrows(() => p.server.tryRead(new Uint8Array(1)), Deno.errors.ConnectionReset);
  }
});

pausedTest("Multiplexer.wait() reports a reset behind data that is not read", async (backend, mux) => {
  for (const when of ["before", "after"] as const) {
    using p = await Resettable.open(backend);
    if (when === "after") mux.register(p.server, {});
    await p.client.writeAll(encode("unread"));
    if (when === "after") await expectNoEvents(mux);
    else mux.register(p.server, {});
    p.client.reset();
    assertEquals(await nextFlags(mux), ["readClosed", "writeClosed", "error"]);
    mux.modify(p.server, { readable: true });
    const event = await nextFlags(mux);
    assert(event.includes("readable"), `${event}`);
  }
});

pausedTest(
  "Multiplexer.wait() reports a reset of a source that is only to be written, and is full",
  async (backend, mux) => {
    using p = await Resettable.open(backend);
    const chunk = new Uint8Array(64 * 1024);
    for (let idle = 0; idle < 10;) {
      if (p.server.tryWrite(chunk) === undefined) {
        idle++;
        await delay(2);
      } else idle = 0;
    }
    mux.register(p.server, { writable: true });
    await expectNoEvents(mux);
    p.client.reset();
    const event = await nextFlags(mux);
    assert(event.includes("error") && event.includes("writable"), `${event}`);
  },
);

pausedTest(
  "Multiplexer.wait() reports trouble as long as it holds, once with oneshot, and at each modify()",
  async (backend, mux) => {
    using p = await Resettable.open(backend);
    using q = await Resettable.open(backend);
    mux.register(p.server, {}, "level");
    mux.register(q.server, { oneshot: true }, "once");
    p.client.reset();
    q.client.reset();
    const told = { level: 0, once: 0 };
    while (told.level < 5 || told.once < 1) {
      for (const { data } of await mux.wait({ timeout: 5_000 })) told[data as "level" | "once"]++;
    }
    assertEquals(told.once, 1);
    mux.unregister(p.server);
    await expectNoEvents(mux);
    mux.modify(q.server, { oneshot: true });
    assert((await nextFlags(mux)).includes("error"));
    await expectNoEvents(mux);
    // Once the error was read, both sides are closed still.
    mux.modify(q.server, {});
    assertThrows(() => q.server.tryRead(new Uint8Array(1)), Deno.errors.ConnectionReset);
    assertEquals(await nextFlags(mux), ["readClosed", "writeClosed"]);
  },
);

pausedTest(
  "Multiplexer.wait() says nothing of data, of room and of an end-of-file that nobody asked for",
  async (backend, mux) => {
    using p = await Resettable.open(backend);
    mux.register(p.server, {});
    await p.client.writeAll(encode("data"));
    await p.client.closeWrite();
    await expectNoEvents(mux);
    // While nothing is told, nothing is lost.
    mux.modify(p.server, { readable: true });
    assert((await nextFlags(mux)).includes("readable"));
    assertEquals(p.server.tryRead(new Uint8Array(10)), 4);
    await eventually(() => p.server.tryRead(new Uint8Array(1)) === null ? true : undefined);
    mux.modify(p.server, {});
    await expectNoEvents(mux);
  },
);

pausedTest("Multiplexer.wait() reports the end of both sides whatever was asked for", async (backend, mux) => {
  using p = await Resettable.open(backend);
  mux.register(p.server, {});
  await p.client.closeWrite();
  await expectNoEvents(mux);
  await p.server.closeWrite();
  assertEquals(await nextFlags(mux), ["readClosed", "writeClosed"]);
  assertEquals(await nextFlags(mux), ["readClosed", "writeClosed"]);
  mux.modify(p.server, { readable: true });
  assertEquals(await nextFlags(mux), ["readable", "readClosed", "writeClosed"]);
});

pausedTest("Multiplexer.wait() takes no connection for a listener of which nothing is asked", async (backend, mux) => {
  const engine = backend === "runtime" ? "runtime" : "native";
  using listener = TcpListener.bind({ hostname: "127.0.0.1", port: 0, engine });
  mux.register(listener, {});
  using _client = await TcpConn.connect({ port: listener.addr.port, engine });
  await expectNoEvents(mux);
  mux.modify(listener, { readable: true });
  assertEquals(await nextFlags(mux), ["readable"]);
  using _server = listener.tryAccept();
});

pausedTest("Multiplexer.wait() reports that a paused listener was shut down", async (_, mux) => {
  using listener = TcpListener.bind({ hostname: "127.0.0.1", port: 0, engine: "native" });
  mux.register(listener, { readable: true });
  listener.pause();
  await expectNoEvents(mux);
  kernel.shutdown(listener.fd as number, SHUT_RDWR);
  assert((await nextFlags(mux)).includes("writeClosed"));
}, KERNEL);

pausedTest("Multiplexer.wait() reports that nobody receives from a connected endpoint", async (_, mux) => {
  using endpoint = UdpEndpoint.bind({ hostname: "127.0.0.1", engine: "native" });
  using nobody = UdpEndpoint.bind({ hostname: "127.0.0.1", engine: "native" });
  endpoint.connect(nobody.addr);
  nobody.close();
  mux.register(endpoint, {});
  await expectNoEvents(mux);
  await endpoint.send(encode("x"));
  assertEquals(await nextFlags(mux), ["error"]);
  assertThrows(() => endpoint.tryRecvFrom(new Uint8Array(1)), Deno.errors.ConnectionRefused);
  await expectNoEvents(mux);
}, KERNEL);

pausedTest(
  "Multiplexer.wait() reports trouble of descriptors that are no sockets, and takes files that have none",
  async (backend, mux) => {
    using descriptors = new Descriptors();
    const [reading, writing] = descriptors.pipe();
    mux.register({ fd: writing }, {});
    mux.register({ fd: reading }, {});
    await expectNoEvents(mux);
    kernel.close(reading);
    assert((await nextFlags(mux)).includes("error"));
    mux.unregister({ fd: writing });
    if (backend === "epoll") return;
    const fd = kernel.open(new TextEncoder().encode("/proc/self/status\0"), 0);
    mux.register({ fd }, {});
    await expectNoEvents(mux);
    mux.modify({ fd }, { readable: true });
    assert((await nextFlags(mux)).includes("readable"));
    mux.unregister({ fd });
    kernel.close(fd);
  },
  KERNEL,
);

pausedTest(
  "Multiplexer.wait() that is under way reports the trouble of a source that was paused meanwhile",
  async (backend, mux) => {
    using p = await Resettable.open(backend);
    mux.register(p.server, { readable: true });
    const waiting = nextFlags(mux);
    await delay(10);
    mux.modify(p.server, {});
    p.client.reset();
    assertEquals(await waiting, ["readClosed", "writeClosed", "error"]);
  },
);

Deno.test({
  name:
    "[select] Selector.select() passes over paused sources that were closed without being unregistered, and does not spin",
  ignore: !Multiplexer.backends().includes("select"),
  async fn() {
    using descriptors = new Descriptors();
    const selector = new SelectSelector(8);
    try {
      const [reading, writing] = descriptors.pipe();
      const copy = kernel.fcntl(writing, F_DUPFD_CLOEXEC, 0);
      selector.register(writing, 1, 0);
      kernel.close(reading);
      assertEquals([selector.select(1_000), selector.ready(0)], [1, ReadyBit.ERROR]);
      assertEquals([selector.select(1_000), selector.ready(0)], [1, ReadyBit.ERROR]);
      // The pipe is open still, by another number.
      kernel.close(writing);
      selector.select(0);
      for (const select of [() => selector.select(30), () => selector.selectElsewhere(30)]) {
        const begun = performance.now();
        assertEquals(await select(), 0);
        assertGreaterOrEqual(performance.now() - begun, 29);
      }
      kernel.close(copy);
    } finally {
      selector.close();
    }
  },
});

pausedTest("Multiplexer.wait() reports a reset behind more than is read ahead once some was read", async (_, mux) => {
  using p = await Resettable.open("runtime");
  mux.register(p.server, {});
  await p.client.writeAll(new Uint8Array(40_000));
  await expectNoEvents(mux);
  p.client.reset();
  // It is not known: nobody has read as far.
  await expectNoEvents(mux);
  let read = 0;
  await eventually(() => {
    try {
      read += p.server.tryRead(new Uint8Array(16 * 1024)) ?? 0;
    } catch (error) {
      return error instanceof Deno.errors.ConnectionReset ? true : undefined;
    }
    return undefined;
  });
  assertEquals(read, 40_000);
  assertEquals(await nextFlags(mux), ["readClosed", "writeClosed"]);
}, ["runtime"]);
