/** Pools under load, while children are killed and replaced, and programs by other programs. */

import { assert, assertEquals } from "@std/assert";
import { delay } from "@std/async";
import { assertGone, Client, Load, startPool, untilRefused } from "./_pool.ts";
import { childTest, isAlive, type Kind, oneKindTest } from "./_process.ts";
import { eventually, long, oneOf, ServerProcess } from "./_util.ts";

/** The books of one connection, which sends and receives until it breaks or all is done. */
interface Book {
  /** Who has said that it serves; undefined if nobody has. */
  pid: number | undefined;
  result: "done" | "broken" | "refused";
  error: unknown;
  readonly start: number;
  end: number;
}

async function keepBook(port: number): Promise<Book> {
  const book: Book = { pid: undefined, result: "done", error: undefined, start: performance.now(), end: 0 };
  try {
    using client = await Client.open(port);
    book.pid = client.server.pid;
    for (let i = 0; i < 5; i++) {
      await client.echo(`message ${i}`);
      await delay(5);
    }
    await client.finish();
  } catch (error) {
    book.error = error;
    book.result = error instanceof Deno.errors.ConnectionRefused ? "refused" : "broken";
  }
  book.end = performance.now();
  return book;
}

/** For how many seconds children are killed, and how often the pool is reloaded. */
const [SECONDS, RELOADS] = [20, 10];

// A thread cannot be killed from outside.
for (const balance of oneOf("kill", ["round-robin", "shared"] as const)) {
  long(oneKindTest)(
    "process",
    `Pool [${balance}] loses only connections of killed children while one is killed each 100 ms for ${SECONDS} s`,
    async (kind) => {
      // On a slow machine they are killed before they have done anything.
      const restart = { delay: 1, maxDelay: 1, limit: 10_000 };
      await using pool = await startPool({ kind, balance, size: 4, restart });
      const { port } = pool.addr;
      const kills: { pid: number; at: number }[] = [];
      const books: Book[] = [];
      const end = performance.now() + SECONDS * 1_000;
      const goesOn = () => performance.now() < end || kills.length < SECONDS;
      const clients = Array.from({ length: 16 }, async () => {
        while (goesOn()) books.push(await keepBook(port));
      });
      while (goesOn()) {
        await delay(100);
        const serving = pool.stats().filter(({ state }) => state === "serving");
        const victim = serving[Math.floor(Math.random() * serving.length)];
        // Where a new one takes longer than that to come up, somebody stays to serve.
        if (victim?.pid === undefined || serving.length < 2 || kills.some(({ pid }) => pid === victim.pid)) continue;
        kills.push({ pid: victim.pid, at: performance.now() });
        Deno.kill(victim.pid, "SIGKILL");
      }
      await Promise.all(clients);

      const counts = { done: 0, broken: 0, refused: 0 };
      for (const { result } of books) counts[result]++;
      assertEquals(counts.refused, 0);
      assert(counts.done > 0, `none of ${books.length} connections was served`);
      for (const { pid, error, start, end } of books.filter(({ result }) => result === "broken")) {
        assert(isBreak(error), String(error));
        // One that was being handed over has not heard of its child yet.
        const wasKilled = kills.some((kill) =>
          kill.at < end && (pid === undefined ? kill.at > start - 1_000 : kill.pid === pid)
        );
        assert(wasKilled, `a connection of ${pid} broke, which nobody had killed: ${error}`);
      }
      // The end of the last one may not have been noticed yet.
      await eventually(() => {
        const stats = pool.stats();
        const restarts = stats.reduce((sum, { restarts }) => sum + restarts, 0);
        const isWhole = stats.filter(({ state }) => state === "serving").length === 4;
        return isWhole && restarts >= kills.length ? true : undefined;
      });
      assertEquals((await keepBook(port)).result, "done");
      await assertGone(kills.map(({ pid }) => pid), 10_000);
    },
  );
}

function isBreak(error: unknown): boolean {
  return error instanceof Deno.errors.ConnectionReset || error instanceof Deno.errors.BrokenPipe ||
    (error instanceof Error && error.message.startsWith("the connection was closed before"));
}

for (const balance of oneOf("reload", ["shared", "round-robin"] as const)) {
  childTest(
    `Pool.reload() [${balance}] ${RELOADS} times loses nothing while connections come each millisecond`,
    async (kind) => {
      await using pool = await startPool({ kind, balance, size: 2 });
      const load = new Load(() => pool.addr.port);
      for (let i = 0; i < RELOADS; i++) await pool.reload();
      await load.stop();
      assertEquals(load.errors, []);
      const children = new Set(load.servers.map(({ child }) => child));
      assert(children.size > RELOADS, `${children.size} children have served ${load.servers.length} connections`);
      await eventually(() => pool.stats().length === 2 ? true : undefined);
    },
  );
}

function startProgram(options: Record<string, unknown>): Promise<ServerProcess> {
  return ServerProcess.start(["--allow-all", "tests/children/pool_program.ts", JSON.stringify(options)]);
}

function pidsOf(program: ServerProcess): number[] {
  return (/pids (.*)/.exec(program.stdout.join(""))?.[1] ?? "").split(" ").map(Number);
}

const TAKEN = [["process", "shared"], ["process", "round-robin"], ["worker", "reuseport"]] as const;
for (const [kind, balance] of oneOf("take over", TAKEN)) {
  long(Deno.test)(
    `[${kind}] Pool [${balance}] is taken over by another program without losing a connection`,
    async () => {
      const folder = await Deno.makeTempDir();
      try {
        const options = {
          kind,
          balance,
          size: 2,
          control: `${folder}/control`,
          listen: { hostname: "127.0.0.1", port: 0 },
        };
        let running = await startProgram(options);
        const { port } = running;
        const load = new Load(() => port);
        for (let i = 0; i < 2; i++) {
          const next = await startProgram(options);
          assertEquals(next.port, port);
          // It ends by itself, once all that it has is served.
          assertEquals(await running.ended(), 0);
          await assertGone(pidsOf(running).filter((pid) => pid !== running.pid), 10_000);
          running = next;
        }
        await load.stop();
        assertEquals(load.errors, []);
        // Each of the three programs had its turn.
        const runs = new Set(load.servers.map(({ run }) => run)).size;
        assert(runs >= 3 && runs <= 6, `${runs} children have served ${load.servers.length} connections`);
        assertEquals(await running.stop("SIGTERM"), 0);
      } finally {
        await Deno.remove(folder, { recursive: true });
      }
    },
  );
}

long(Deno.test)("Pool.start() takes a control path over from a program that was killed", async () => {
  const folder = await Deno.makeTempDir();
  try {
    const options = {
      kind: "process",
      size: 1,
      control: `${folder}/control`,
      listen: { hostname: "127.0.0.1", port: 0 },
    };
    const first = await startProgram(options);
    await first.stop("SIGKILL");
    assert((await Deno.lstat(options.control)).isSocket);
    assertEquals(((await Deno.lstat(options.control)).mode ?? 0) & 0o777, 0o600);
    const second = await startProgram(options);
    (await Client.open(second.port)).conn.close();
    assertEquals(await second.stop("SIGTERM"), 0);
    assertEquals([...Deno.readDirSync(folder)], []);
    await Deno.writeTextFile(options.control, "not a socket");
    await using pool = await startPool({ ...options, kind: "process", control: `${folder}/other` });
    assert(pool.addr.port > 0);
    let error: unknown;
    await startPool({ ...options, kind: "process" }).catch((e) => error = e);
    assert(error instanceof Error && /control/.test(error.message), String(error));
    assertEquals(await Deno.readTextFile(options.control), "not a socket");
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
});

for (const kind of oneOf("signals", ["worker", "process"] as const)) {
  Deno.test(`[${kind}] Pool reloads on SIGHUP, and closes on SIGTERM and SIGINT`, async () => {
    for (const signal of ["SIGTERM", "SIGINT"] as const) {
      const program = await startProgram({ kind, size: 2, listen: { hostname: "127.0.0.1", port: 0 } });
      using client = await Client.open(program.port);
      Deno.kill(program.pid, "SIGHUP");
      let fresh: Client | undefined;
      while (fresh === undefined) {
        const next = await Client.open(program.port);
        if (next.server.child > 2) fresh = next;
        else next.conn.close();
      }
      await client.echo("in the old child");
      const ending = program.stop(signal);
      await untilRefused(program.port);
      await fresh.echo("the pool waits for this");
      await client.finish();
      await fresh.finish();
      assertEquals(await ending, 0);
    }
  });
}

for (const balance of oneOf("killed", ["shared", "round-robin"] as const)) {
  Deno.test(`Pool [${balance}] leaves no processes when its program is killed`, async () => {
    const kind: Kind = "process";
    const program = await startProgram({ kind, balance, size: 3, listen: { hostname: "127.0.0.1", port: 0 } });
    const pids = pidsOf(program);
    assertEquals(pids.length, 3);
    assert(pids.every(isAlive));
    using client = await Client.open(program.port);
    await client.echo("served");
    await program.stop("SIGKILL");
    await assertGone(pids, 1_000);
  });
}
