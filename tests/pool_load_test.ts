/** Pools under load, while children are killed and replaced, and programs by other programs. */

import { TcpConn } from "@c10k/sockets/tcp";
import type { Balance } from "@c10k/sockets/process";
import { assert, assertEquals } from "@std/assert";
import { delay } from "@std/async";
import { assertGone, BALANCES, Client, isAlive, Load, startPool } from "./_pool.ts";
import { childTest, type Kind } from "./_process.ts";
import { eventually, ServerProcess } from "./_util.ts";

/** Sends and receives until the connection breaks or all is done; the books of one connection. */
interface Book {
  /** Who has said that it serves; undefined if nobody has. */
  pid: number | undefined;
  result: "done" | "broken" | "refused";
  error: unknown;
  end: number;
}

async function keepBook(port: number): Promise<Book> {
  const book: Book = { pid: undefined, result: "done", error: undefined, end: 0 };
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

for (const balance of ["shared", "round-robin"] as const) {
  childTest(
    `Pool [${balance}] loses only connections of killed children while one is killed each 100 ms`,
    async (kind) => {
      if (kind === "worker") return; // A thread cannot be killed from outside.
      await using pool = await startPool({ kind, balance, size: 4, restart: { delay: 1 } });
      const { port } = pool.addr;
      const kills: { pid: number; at: number; active: number }[] = [];
      const books: Book[] = [];
      const end = performance.now() + 20_000;
      const clients = Array.from({ length: 16 }, async () => {
        while (performance.now() < end) books.push(await keepBook(port));
      });
      while (performance.now() < end) {
        await delay(100);
        const serving = pool.stats().filter(({ state }) => state === "serving");
        const victim = serving[Math.floor(Math.random() * serving.length)];
        if (victim?.pid === undefined || kills.some(({ pid }) => pid === victim.pid)) continue;
        kills.push({ pid: victim.pid, at: performance.now(), active: victim.active });
        Deno.kill(victim.pid, "SIGKILL");
      }
      await Promise.all(clients);

      const counts = { done: 0, broken: 0, refused: 0 };
      for (const { result } of books) counts[result]++;
      assertEquals(counts.refused, 0);
      assert(kills.length >= 30, `${kills.length} were killed`);
      assert(counts.done > 16 * kills.length / 4, `${counts.done} of ${books.length} connections were served`);
      for (const book of books.filter(({ result }) => result === "broken")) {
        assert(isBreak(book.error), String(book.error));
        // One that was being handed over has not heard of its child yet.
        const killed = kills.some(({ pid, at }) =>
          (book.pid === undefined || book.pid === pid) && at < book.end && book.end - at < 2_000
        );
        assert(killed, `a connection of ${book.pid} broke, which nobody had killed: ${book.error}`);
      }
      // All of them can break at a time, and no more: 16 clients, 4 children.
      assert(counts.broken <= kills.length * 16, `${counts.broken} broke with ${kills.length} children`);
      await eventually(() => pool.stats().filter(({ state }) => state === "serving").length === 4 ? true : undefined);
      assert(pool.stats().reduce((sum, { restarts }) => sum + restarts, 0) >= kills.length);
      assertEquals((await keepBook(port)).result, "done");
      await assertGone(kills.map(({ pid }) => pid), 1_000);
    },
  );
}

function isBreak(error: unknown): boolean {
  return error instanceof Deno.errors.ConnectionReset || error instanceof Deno.errors.BrokenPipe ||
    (error instanceof Error && error.message.startsWith("the connection was closed before"));
}

for (const balance of BALANCES) {
  childTest(
    `Pool.reload() [${balance}] ten times loses nothing while connections come each millisecond`,
    async (kind) => {
      await using pool = await startPool({ kind, balance, size: 2 });
      const load = new Load(() => pool.addr.port);
      for (let i = 0; i < 10; i++) await pool.reload();
      await load.stop();
      assertEquals(load.errors, []);
      assert(load.servers.length > 200, `${load.servers.length} connections`);
      const children = new Set(load.servers.map(({ child }) => child));
      assert(children.size > 10, `${children.size} children have served`);
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

for (const [kind, balance] of [["process", "shared"], ["process", "round-robin"], ["worker", "reuseport"]] as const) {
  Deno.test(`[${kind}] Pool [${balance}] is taken over by another program without losing a connection`, async () => {
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
      for (let i = 0; i < 3; i++) {
        const next = await startProgram(options);
        assertEquals(next.port, port);
        // It ends by itself, once all that it has is served.
        assertEquals(await running.ended(), 0);
        await assertGone(pidsOf(running).filter((pid) => pid !== running.pid), 1_000);
        running = next;
      }
      await load.stop();
      assertEquals(load.errors, []);
      assert(load.servers.length > 200, `${load.servers.length} connections`);
      assertEquals(new Set(load.servers.map(({ run }) => run)).size, 8);
      assertEquals(await running.stop("SIGTERM"), 0);
    } finally {
      await Deno.remove(folder, { recursive: true });
    }
  });
}

Deno.test("Pool.start() takes a control path over from a program that was killed", async () => {
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

for (const kind of ["worker", "process"] as const) {
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
      await eventually(() => refuses(program.port));
      await fresh.echo("the pool waits for this");
      await client.finish();
      await fresh.finish();
      assertEquals(await ending, 0);
    }
  });
}

/** Whether nobody listens there any more. */
const probes = new Map<number, boolean>();
function refuses(port: number): true | undefined {
  TcpConn.connect({ port }).then((conn) => conn.close(), () => probes.set(port, true));
  return probes.get(port) ? true : undefined;
}

for (const balance of ["shared", "round-robin"] satisfies Balance[]) {
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
