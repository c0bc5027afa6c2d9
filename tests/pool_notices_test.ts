/** What a pool says on standard error about children that end. */

import type { Pool, PoolOptions } from "@c10k/sockets/process";
import { TcpConn } from "@c10k/sockets/tcp";
import { assert, assertEquals, assertMatch } from "@std/assert";
import { nextStart, reportDeath } from "../process/pool/death_notice.ts";
import type { PoolChild } from "../process/pool/pool_child.ts";
import { startPool } from "./_pool.ts";
import { childTest, type Kind, moduleOf, NATIVE, oneKindTest } from "./_process.ts";
import { encode, eventually, long, replaced, ROOT } from "./_util.ts";

/** A child that does what a connection says; it ends at once while there is a file. */
function obedient(flag: string): string {
  return moduleOf(`
    if (await Deno.stat(${JSON.stringify(flag)}).then(() => true, () => false)) Deno.exit(4);
    await serve(async (conn) => {
      const p = new Uint8Array(10);
      await conn.read(p);
      const order = String.fromCharCode(p[0]);
      if (order === "3") Deno.exit(3);
      if (order === "0") Deno.exit(0);
      if (order === "e") setTimeout(() => { throw new Error("two\\nlines \\x1b[31m"); });
      if (order === "r") Promise.reject(new RangeError("nobody handles"));
      if (order !== "x") await new Promise((resolve) => setTimeout(resolve, 60_000));
    });`);
}

/** A pool of such children, and the lines that it writes. */
class Watched implements AsyncDisposable {
  readonly lines: string[] = [];
  readonly #error = replaced(console, "error", (...args: unknown[]) => void this.lines.push(args.join(" ")));
  pool!: Pool;

  private constructor(readonly flag: string) {}

  static async start(options: Partial<PoolOptions> & Pick<PoolOptions, "kind">): Promise<Watched> {
    const watched = new Watched(await Deno.makeTempDir() + "/flag");
    const child = options.kind === "process" ? { stderr: "null" as const } : {};
    watched.pool = await startPool({ module: obedient(watched.flag), size: 1, ...child, ...options });
    return watched;
  }

  /** Opens a connection that gives the child an order. */
  async order(text: string): Promise<TcpConn> {
    const conn = await TcpConn.connect({ port: this.pool.addr.port });
    await conn.writeAll(encode(text));
    return conn;
  }

  /** The next line, taken out of the list. */
  line(): Promise<string> {
    return eventually(() => this.lines.shift());
  }

  /** Waits until another child serves. */
  async whole(id: number | undefined): Promise<void> {
    await eventually(() => this.pool.stats().find((child) => child.id !== id && child.state === "serving"));
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.pool.close({ grace: 0 });
    this.#error[Symbol.dispose]();
    await Deno.remove(this.flag.replace(/flag$/, ""), { recursive: true });
  }
}

const CASES: [order: string, kind: Kind, how: RegExp][] = [
  ["3", "process", /^has ended with code 3;/],
  ["0", "process", /^has ended with code 0;/],
  ["e", "process", /^has ended with code 1;/],
  ["3", "worker", /^has ended with the exit code 3;/],
  ["0", "worker", /^has ended with code 0;/],
  // One line, and nothing that a terminal obeys.
  ["e", "worker", /^has ended with code 1: Error: two lines {2}\[31m;/],
  ["r", "worker", /^has ended with code 1: .*RangeError: nobody handles;/],
];

for (const kind of ["worker", "process"] as const) {
  oneKindTest(kind, "Pool writes one line for each child that ends unasked, and how it has ended", async (kind) => {
    await using watched = await Watched.start({ kind, restart: { delay: 20, maxDelay: 20 } });
    for (const [order, , how] of CASES.filter(([, of]) => of === kind)) {
      const { id, pid } = watched.pool.stats()[0] ?? {};
      using _conn = await watched.order(order);
      const line = await watched.line();
      const who = `Pool: ${kind} ${id} (data: module)${pid === undefined ? "" : `, pid ${pid},`} `;
      assert(line.startsWith(who), `${line} is not about ${who}`);
      assertMatch(line.slice(who.length), how);
      assertMatch(line, /; the next one starts in (1[5-9]|2[0-5]) ms$/);
      await watched.whole(id);
    }
    assertEquals(watched.lines, []);
  });
}

long(oneKindTest)(
  "process",
  "Pool names the signal that has ended a child, and says nothing of SIGTERM",
  async (kind) => {
    await using watched = await Watched.start({ kind, restart: { delay: 1 } });
    for (const signal of ["SIGKILL", "SIGUSR1", "SIGTERM"] as const) {
      const [child] = watched.pool.stats();
      Deno.kill(child?.pid as number, signal);
      if (signal !== "SIGTERM") {
        assertMatch(await watched.line(), new RegExp(`, pid ${child?.pid}, has ended by ${signal};`));
      }
      await watched.whole(child?.id);
    }
    await eventually(() => watched.pool.stats().length === 1 ? true : undefined);
    assertEquals(watched.lines, []);
  },
);

long(childTest)(
  "Pool writes a line for each child that ends before it serves, and the last says that it gives up",
  async (kind) => {
    await using watched = await Watched.start({ kind, restart: { delay: 4, limit: 4 } });
    watched.pool.closed.catch(() => {});
    await Deno.writeTextFile(watched.flag, "");
    using _conn = await watched.order("3");
    assertMatch(await watched.line(), /code 3; the next one starts in \d ms$/);
    for (let i = 0; i < 3; i++) {
      const line = await watched.line();
      assertMatch(line, kind === "process" ? /has ended with code 4 before it called serve\(\);/ : /exit code 4;/);
      assertMatch(line, i < 2 ? /; the next one starts in \d+ ms$/ : /; the pool gives up$/);
    }
    assertEquals(watched.lines, []);
  },
);

childTest("Pool writes a line for a child of one connection that ends in the midst of it", async (kind) => {
  await using watched = await Watched.start({ kind, per: "connection", size: 3 });
  using finished = await watched.order("x");
  await finished.read(new Uint8Array(1));
  using _failed = await watched.order("3");
  assertMatch(await watched.line(), /code 3; the next connection gets another one$/);
  assertEquals(watched.lines, []);
});

long(childTest)("Pool writes nothing about children that end because they were asked to", async (kind) => {
  await using watched = await Watched.start({ kind, size: 2 });
  const busy = [await watched.order("wait"), await watched.order("wait")];
  await eventually(() => watched.pool.stats().reduce((sum, { active }) => sum + active, 0) === 2 ? true : undefined);
  await watched.pool.reload();
  await watched.pool.close({ grace: 1 });
  for (const conn of busy) conn.close();
  assertEquals(watched.lines, []);
});

Deno.test({
  name: "Pool goes on if there is no room for its lines on standard error",
  ignore: !NATIVE,
  async fn() {
    const source = `
      import { Pool } from "@c10k/sockets/process";
      import { TcpConn } from "@c10k/sockets/tcp";
      const pool = await Pool.start({
        kind: "process", size: 1, stderr: "null", restart: { delay: 1 }, listen: { hostname: "127.0.0.1", port: 0 },
        module: ${JSON.stringify(new URL("./children/pool_echo.ts", import.meta.url).href)},
      });
      const [{ id, pid }] = pool.stats();
      Deno.kill(pid, "SIGKILL");
      while (!pool.stats().some((child) => child.id !== id && child.state === "serving")) {
        await new Promise((resolve) => setTimeout(resolve, 5));
      }
      using conn = await TcpConn.connect({ port: pool.addr.port });
      console.log(await conn.read(new Uint8Array(1)));
      await pool.close({ grace: 0 });`;
    const args = ["-c", 'exec "$0" eval --quiet "$1" 2>/dev/full', Deno.execPath(), source];
    const { code, stdout } = await new Deno.Command("sh", { args, cwd: ROOT, env: { NO_COLOR: "1" } }).output();
    assertEquals([code, new TextDecoder().decode(stdout)], [0, "1\n"]);
  },
});

Deno.test("nextStart() says milliseconds, seconds, or that none starts", () => {
  assertEquals([0, 0.5, 1.2, 999, 9_750, Infinity].map(nextStart), [
    "the next one starts at once",
    "the next one starts at once",
    "the next one starts in 2 ms",
    "the next one starts in 999 ms",
    "the next one starts in 9.8 s",
    "no other one starts in its place",
  ]);
});

Deno.test("reportDeath() says nothing of SIGTERM, survives what cannot be shown, and a console that fails", () => {
  const lines: unknown[] = [];
  using _ = replaced(console, "error", (line: unknown) => {
    lines.push(line);
    throw new Error("no standard error");
  });
  reportDeath({ signal: "SIGTERM" } as PoolChild, new Error("ended"), "next");
  const hostile = {
    toString() {
      throw new Error("not shown");
    },
  };
  reportDeath(undefined, hostile, "next");
  assertEquals(lines, ["Pool: cannot start a child: an error that cannot be shown; next"]);
});
