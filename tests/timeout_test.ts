/** Calls that wait for as long as their `timeout` says: they reject then, and nothing is lost. */

import { Multiplexer } from "@c10k/sockets/mux";
import { type Engine, TcpConn, type WaitOptions } from "@c10k/sockets/tcp";
import { DatagramBatch, UdpEndpoint } from "@c10k/sockets/udp";
import { assert, assertEquals, assertRejects, assertThrows } from "@std/assert";
import { delay } from "@std/async";
import { Deadline } from "../internal/deadline.ts";
import { checkWait } from "../internal/wait.ts";
import { decode, encode, engineTest, Pair, readExactly, replaced, sized } from "./_util.ts";

/** A call that waits in vain, and one after it that gets what comes then. */
interface Case {
  readonly call: (options: WaitOptions) => Promise<unknown>;
  readonly then: () => Promise<void>;
}

/** Fills the send buffers of a connection, until nothing more fits for a while. */
async function fill(conn: TcpConn): Promise<number> {
  let sent = 0;
  const p = new Uint8Array(1024 * 1024);
  for (let quiet = 0; quiet < 5;) {
    const n = conn.tryWrite(p);
    if (n === undefined) {
      quiet++;
      await delay(5);
    } else {
      quiet = 0;
      sent += n;
    }
  }
  return sent;
}

async function expectNext(conn: TcpConn, other: TcpConn): Promise<void> {
  await other.writeAll(encode("next"));
  assertEquals(decode(await readExactly(conn, 4)), "next");
}

/** All calls of a connection and a listener that wait, by name. */
function tcpCases({ listener, client, server }: Pair, engine: Engine): Record<string, Case> {
  const p = new Uint8Array(16);
  const then = () => expectNext(server, client);
  return {
    "read()": { call: (o) => server.read(p, o), then },
    "peek()": { call: (o) => server.peek(p, o), then },
    "readFull()": { call: (o) => server.readFull(p, o), then },
    "ready() to read": { call: (o) => server.ready({ readable: true }, o), then },
    "accept()": {
      call: (o) => listener.accept(o),
      then: async () => {
        using other = await TcpConn.connect({ port: listener.addr.port, engine });
        using conn = await listener.accept();
        assertEquals(conn.remoteAddr.port, other.localAddr.port);
      },
    },
    "ready() of a listener": {
      call: (o) => listener.ready({ readable: true }, o),
      then: async () => {
        using _ = await TcpConn.connect({ port: listener.addr.port, engine });
        assertEquals((await listener.ready({ readable: true })).readable, true);
        (await listener.accept()).close();
      },
    },
  };
}

function expectTimeout(call: Promise<unknown>): Promise<Error> {
  return assertRejects(() => call, Deno.errors.TimedOut, "timed out after 30 ms");
}

engineTest(
  "calls that wait on a connection or a listener reject after their timeout, and lose nothing",
  async (engine) => {
    using pair = await Pair.open(engine);
    for (const [name, { call, then }] of Object.entries(tcpCases(pair, engine))) {
      const begin = performance.now();
      const error = await expectTimeout(call({ timeout: 30 }));
      assert(performance.now() - begin >= 30, name);
      assert(error.message.startsWith("Cannot "), error.message);
      assertEquals("code" in error, false, name);
      await then();
      // Behind another that waits, and beside a signal.
      const first = expectTimeout(call({ timeout: 30 }));
      const second = expectTimeout(call({ timeout: 30, signal: new AbortController().signal }));
      const third = expectTimeout(call({ timeout: 30 }));
      await Promise.all([first, second, third]);
      await then();
    }
  },
);

engineTest("a signal that is aborted before the timeout decides, and the other way about", async (engine) => {
  using pair = await Pair.open(engine);
  const p = new Uint8Array(1);
  const abort = new AbortController();
  const first = assertRejects(() => pair.server.read(p, { signal: abort.signal, timeout: 10_000 }), Error, "stop");
  abort.abort(new Error("stop"));
  await first;
  const late = new AbortController();
  await assertRejects(() => pair.server.read(p, { signal: late.signal, timeout: 10 }), Deno.errors.TimedOut);
  late.abort(new Error("stop"));
  await expectNext(pair.server, pair.client);
});

engineTest(
  "write(), writeAll() and ready() to write reject after their timeout if there is no room",
  async (engine) => {
    using pair = await Pair.open(engine);
    const { client, server } = pair;
    const sent = await fill(client);
    await expectTimeout(client.write(encode("w"), { timeout: 30 }));
    await expectTimeout(client.writeAll(encode("w"), { timeout: 30 }));
    await expectTimeout(client.ready({ writable: true }, { timeout: 30 }));
    await expectTimeout(client.ready({ readable: true, writable: true }, { timeout: 30 }));
    const writing = client.writeAll(encode("last"));
    const p = new Uint8Array(1024 * 1024);
    let tail = "";
    let read = 0;
    // What was given up is on its way as a whole, or not at all.
    while (!tail.endsWith("last")) {
      const n = await server.read(p, { timeout: 10_000 });
      assert(n !== null);
      read += n;
      tail = (tail + decode(p.subarray(Math.max(0, n - 8), n))).slice(-8);
    }
    await writing;
    assert(read >= sent + 4 && read <= sent + 6, `${read} of ${sent}`);
  },
);

engineTest("calls that wait on an endpoint reject after their timeout, and lose no datagram", async (engine) => {
  using a = UdpEndpoint.bind({ hostname: "127.0.0.1", engine });
  using b = UdpEndpoint.bind({ hostname: "127.0.0.1", engine });
  const p = new Uint8Array(16);
  const batch = new DatagramBatch({ capacity: 2, datagramSize: 16 });
  const calls: Record<string, (options: WaitOptions) => Promise<unknown>> = {
    recvFrom: (o) => b.recvFrom(p, o),
    peek: (o) => b.recvFrom(p, { ...o, peek: true }),
    recv: (o) => b.recv(p, o),
    recvBatch: (o) => b.recvBatch(batch, o),
    ready: (o) => b.ready({ readable: true }, o),
  };
  for (const [name, call] of Object.entries(calls)) {
    await Promise.all([1, 2, 3].map(() => expectTimeout(call({ timeout: 30 }))));
    await a.sendTo(encode(name), b.addr);
    assertEquals(decode((await b.recvFrom(p, { timeout: 10_000 })).data), name);
  }
  assertEquals(await a.sendTo(encode("in time"), b.addr, { timeout: 10_000 }), 7);
  batch.set(0, encode("batch"), b.addr);
  assertEquals(await a.sendBatch(batch, { timeout: 10_000 }), 1);
  assertEquals(await b.recv(p), 7);
  assertEquals(await b.recv(p), 5);
});

engineTest("a timeout that is over does not make a multiplexer's wait fail", async (engine) => {
  using mux = new Multiplexer({ backend: engine === "native" ? "epoll" : "runtime" });
  assertEquals((await mux.wait({ timeout: 20 })).length, 0);
});

Deno.test("a timeout is a number of milliseconds of at least 0; Infinity is none", () => {
  for (const timeout of ["1", null, 1n]) {
    assertThrows(() => checkWait({ timeout: timeout as never }), TypeError, "timeout must be a number of milliseconds");
  }
  for (const timeout of [-1, NaN, -Infinity]) {
    assertThrows(() => checkWait({ timeout }), RangeError, "timeout must be at least 0 ms");
  }
  assertEquals(checkWait({ timeout: Infinity }), undefined);
  assertEquals(checkWait({ timeout: 0 }), { signal: undefined, timeout: 0 });
});

/** Timers of the runtime that wait. */
class Timers implements Disposable {
  readonly waiting = new Set<number>();
  /** Timers that were ever set. */
  count = 0;
  readonly #set = globalThis.setTimeout;
  readonly #clear = globalThis.clearTimeout;
  readonly #replaced = [
    replaced(globalThis, "setTimeout", (callback: () => void, ms: number) => {
      this.count++;
      const id = this.#set(() => {
        this.waiting.delete(id as unknown as number);
        callback();
      }, ms);
      this.waiting.add(id as unknown as number);
      return id;
    }),
    replaced(globalThis, "clearTimeout", (id: number) => {
      this.waiting.delete(id);
      this.#clear(id);
    }),
  ];

  [Symbol.dispose](): void {
    for (const one of this.#replaced) one[Symbol.dispose]();
  }
}

// The test runner tells of a timer that is left behind.
engineTest("100,000 reads with a timeout leave no timer behind", async (engine) => {
  const times = sized(engine === "native" ? 20_000 : 2_000, 100_000);
  using pair = await Pair.open(engine);
  const { client, server } = pair;
  const p = new Uint8Array(1);
  // Each read waits for what is written after it.
  for (let i = 0; i < times; i++) {
    const reading = server.read(p, { timeout: 30_000 });
    client.tryWrite(p);
    assertEquals(await reading, 1);
  }
});

Deno.test("Deadlines share a timer, which is stopped once none is set", async () => {
  using timers = new Timers();
  // A module of its own, for the timers are taken when it is loaded.
  const counted = "../internal/deadline.ts?counted";
  const { Deadline: Counted } = await import(counted) as { Deadline: typeof Deadline };
  const deadlines = Array.from({ length: 100 }, () => new Counted(() => {}));
  for (let i = 0; i < 1_000; i++) {
    for (const deadline of deadlines) deadline.set(30_000);
    for (let turn = 0; turn < 5; turn++) await undefined;
    for (const deadline of deadlines) deadline.clear();
  }
  for (let turn = 0; turn < 100; turn++) await undefined;
  assertEquals([timers.count, timers.waiting.size], [1, 0]);
});

engineTest("10,000 calls whose time is over together leave the event loop its turns", async (engine) => {
  using endpoint = UdpEndpoint.bind({ hostname: "127.0.0.1", engine });
  const p = new Uint8Array(1);
  const calls = Array.from({ length: sized(2_000, 10_000) }, () => endpoint.recvFrom(p, { timeout: 50 }));
  let turns = 0;
  const counting = setInterval(() => turns++, 1);
  const results = await Promise.allSettled(calls);
  clearInterval(counting);
  assert(results.every((result) => result.status === "rejected" && result.reason instanceof Deno.errors.TimedOut));
  assert(turns > 10, `${turns} turns`);
});

Deno.test("Deadline passes in its order, not before its time, however many are set and cleared", async () => {
  const passed: number[] = [];
  const begin = performance.now();
  const lengths = [40, 5, 300.5, 5, 0, 260, 40, 17];
  const deadlines = lengths.map((length, i) =>
    new Deadline(() => {
      assert(performance.now() - begin >= length, `${length} ms`);
      passed.push(i);
    })
  );
  for (const [i, deadline] of deadlines.entries()) deadline.set(lengths[i] as number);
  // Cleared ones pass never, one that is set anew counts from then, and what is cleared twice was cleared.
  (deadlines[0] as Deadline).clear();
  (deadlines[0] as Deadline).clear();
  (deadlines[7] as Deadline).clear();
  (deadlines[7] as Deadline).set(100);
  // The thread is busy meanwhile: what is set late does not pass early.
  while (performance.now() - begin < 60);
  const late = new Deadline(() => passed.push(8));
  late.set(50);
  await delay(20);
  assertEquals(passed.includes(8), false);
  await delay(500);
  // Of the same length in the order in which they were set.
  assertEquals(passed.toSorted(), [1, 2, 3, 4, 5, 6, 7, 8]);
  assert(passed.indexOf(1) < passed.indexOf(3));
  assertEquals(passed.at(-1), 2);
});

Deno.test("Deadline of one that is set by another when it passes", async () => {
  const { promise, resolve } = Promise.withResolvers<number>();
  const begin = performance.now();
  const second = new Deadline(() => resolve(performance.now() - begin));
  const first = new Deadline(() => second.set(20));
  first.set(20);
  // A deadline alone keeps no program alive.
  const alive = setInterval(() => {}, 1_000);
  assert(await promise >= 40);
  clearInterval(alive);
});
