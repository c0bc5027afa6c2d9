/** Durations that callers choose: however long, a timer does not end early, and `Infinity` never ends. */

import { Multiplexer } from "@c10k/sockets/mux";
import { spawnFor } from "@c10k/sockets/process";
import { TcpConn, TcpListener } from "@c10k/sockets/tcp";
import { assert, assertEquals, assertRejects } from "@std/assert";
import { deadline, delay } from "@std/async";
import { sleep, Timer } from "../internal/timer.ts";
import { startPool, visit } from "./_pool.ts";
import { childTest, moduleOf, spawn } from "./_process.ts";
import { engineTest, eventually, Pair, replaced, socketTest } from "./_util.ts";

const DAYS = 24 * 60 * 60 * 1000;
/** All of them ended at once when they were handed to the runtime as they stand. */
const LONG = [30 * DAYS, 2 ** 31, 2 ** 32 + 5, 1e300, Infinity];

/** Timers of the runtime that end when they are told to, without any time passing. */
class Clock implements Disposable {
  readonly steps: number[] = [];
  readonly #waiting = new Map<number, () => void>();
  readonly #set = replaced(globalThis, "setTimeout", (callback: () => void, ms: number) => {
    this.#waiting.set(this.steps.push(ms), callback);
    return this.steps.length;
  });
  readonly #clear = replaced(globalThis, "clearTimeout", (id?: number) => void this.#waiting.delete(id ?? 0));

  /** Ends the timers that wait; returns how many there were. */
  tick(): number {
    const callbacks = [...this.#waiting.values()];
    this.#waiting.clear();
    for (const callback of callbacks) callback();
    return callbacks.length;
  }

  [Symbol.dispose](): void {
    this.#set[Symbol.dispose]();
    this.#clear[Symbol.dispose]();
  }
}

Deno.test("Timer waits for a long duration in steps that the runtime can keep, and calls back once", () => {
  for (
    const [duration, steps] of [
      [0, [0]],
      [0.4, [1]],
      [50.01, [51]],
      [2 ** 31 - 1, [2 ** 31 - 1]],
      [2 ** 31, [2 ** 31 - 1, 1]],
      [30 * DAYS, [2 ** 31 - 1, 30 * DAYS - (2 ** 31 - 1)]],
      [2 ** 33, [2 ** 31 - 1, 2 ** 31 - 1, 2 ** 31 - 1, 2 ** 31 - 1, 4]],
    ] as const
  ) {
    using clock = new Clock();
    let calls = 0;
    new Timer(duration, () => calls++);
    for (let i = 0; i < steps.length; i++) {
      assertEquals(calls, 0);
      assertEquals(clock.tick(), 1);
    }
    assertEquals([clock.steps, calls, clock.tick()], [[...steps], 1, 0]);
  }
});

Deno.test("Timer of Infinity starts nothing, and one that is cancelled calls nobody in any of its steps", () => {
  using clock = new Clock();
  let calls = 0;
  new Timer(Infinity, () => calls++).cancel();
  assertEquals(clock.steps, []);
  for (const steps of [0, 1, 2]) {
    const timer = new Timer(100 * DAYS, () => calls++);
    for (let i = 0; i < steps; i++) clock.tick();
    timer.cancel();
    timer.cancel();
    assertEquals(clock.tick(), 0);
  }
  assertEquals(calls, 0);
});

Deno.test("sleep() ends no earlier than it was asked for", async () => {
  for (const duration of [0, 0.4, 3.5]) {
    const begun = performance.now();
    await sleep(duration);
    assert(performance.now() - begun >= duration);
  }
});

childTest("Child.shutdown() waits as long as a grace of weeks says", async (kind) => {
  await Promise.all(LONG.map(async (grace) => {
    await using child = spawn(
      kind,
      moduleOf(`
        await parent().send("up");
        for await (const _ of parent().messages());
        parent().waitUntil(new Promise((resolve) => setTimeout(resolve, 50)));
      `),
    );
    await child.messages().next();
    assertEquals((await child.shutdown({ grace })).signal, undefined);
  }));
});

engineTest("spawnFor() gives a program that is shut down the grace of weeks that was asked for", async (engine) => {
  for (const grace of LONG) {
    using pair = await Pair.open(engine);
    const child = spawnFor(pair.server, "sh", {
      args: ["-c", 'trap "sleep 0.05; exit 7" TERM; echo up; while true; do sleep 0.01; done'],
    });
    await pair.client.read(new Uint8Array(3));
    assertEquals((await child.shutdown({ grace })).code, 7);
  }
}, Deno.build.os === "windows");

childTest("Pool takes durations of weeks for its start, its grace and its restarts", async (kind) => {
  for (const long of [30 * DAYS, Infinity]) {
    await using pool = await startPool({
      kind,
      size: 1,
      startTimeout: long,
      grace: long,
      restart: { delay: long, maxDelay: long, healthyAfter: long },
    });
    const conn = await TcpConn.connect({ port: pool.addr.port });
    await conn.read(new Uint8Array(100));
    // The old child may finish this connection, which takes longer than a timer that ends at once.
    await pool.reload();
    await visit(pool.addr.port);
    assertEquals(pool.stats().map(({ state }) => state).sort(), ["draining", "serving"]);
    await conn.closeWrite();
    assertEquals(await conn.read(new Uint8Array(1)), null);
    conn.close();
    await eventually(() => pool.stats().length === 1 ? true : undefined);
  }
});

engineTest("TcpConn.connect() with a timeout of weeks connects, and waits", async (engine) => {
  using listener = TcpListener.bind({ hostname: "127.0.0.1", port: 0, engine });
  for (const timeout of LONG) {
    using _client = await TcpConn.connect({ port: listener.addr.port, engine, timeout });
    using _server = await listener.accept();
  }
});

socketTest("Multiplexer.wait() with a timeout of weeks waits until something happens", async () => {
  for (const backend of Multiplexer.backends()) {
    for (const timeout of LONG) {
      using mux = new Multiplexer({ backend });
      const waiting = mux.wait({ timeout });
      assertEquals(await Promise.race([waiting, delay(10).then(() => "waits")]), "waits");
      mux.wake();
      assertEquals(await deadline(waiting, 10_000), []);
      if (backend === "runtime") continue;
      mux.wake();
      assertEquals(mux.waitSync(timeout), []);
    }
    using mux = new Multiplexer({ backend });
    const signal = AbortSignal.timeout(10);
    await assertRejects(() => mux.wait({ timeout: 30 * DAYS, signal }), DOMException);
  }
});
