/** How a pool keeps its children: who is replaced and when, what one that is stuck costs, and how all of it ends. */

import { Pool, type PoolOptions } from "@c10k/sockets/process";
import { TcpConn, TcpListener } from "@c10k/sockets/tcp";
import { assert, assertEquals, assertMatch, assertRejects } from "@std/assert";
import { deadline, delay } from "@std/async";
import { Restarts } from "../process/pool/restarts.ts";
import { kernel } from "./_kernel.ts";
import { assertGone, byChild, Client, ECHO, startPool, visit, visits } from "./_pool.ts";
import { childTest, isAlive, type Kind, moduleOf, oneKindTest } from "./_process.ts";
import { encode, ENGINES, engineTest, eventually, long, oneOf, readText, ROOT, runDeno } from "./_util.ts";

const SHUT_RDWR = 2;

const YOUNG = { hasServed: false, since: new Date(Date.now() + 3_600_000) };
const WORKING = { hasServed: true, since: new Date() };

Deno.test("Restarts doubles the delay up to its maximum, give or take a quarter", () => {
  const restarts = new Restarts({ delay: 100, maxDelay: 1_000, limit: 2_000 });
  for (const expected of [100, 200, 400, 800, 1_000, 1_000]) {
    const delay = restarts.fail(0, YOUNG, []) ?? NaN;
    assert(delay >= expected * 0.75 && delay <= expected * 1.25, `${delay} instead of ${expected}`);
  }
  for (let i = 0; i < 1_500; i++) assert((restarts.fail(0, YOUNG, []) ?? NaN) <= 1_250);
  // What several do at a time is no row, and what has worked ends one.
  assert((restarts.fail(1, YOUNG, []) ?? NaN) <= 125);
  assert((restarts.fail(0, WORKING, []) ?? NaN) <= 125);
  restarts.fail(0, YOUNG, []);
  restarts.succeed();
  assert((restarts.fail(0, YOUNG, []) ?? NaN) <= 125);
});

Deno.test("Restarts gives up after so many failures in a row, unless another child is healthy", () => {
  const restarts = new Restarts({ limit: 3, healthyAfter: 1_000 });
  assert(restarts.fail(0, YOUNG, [YOUNG]) !== undefined);
  assert(restarts.fail(0, YOUNG, [YOUNG]) !== undefined);
  assert(restarts.fail(1, YOUNG, [YOUNG]) !== undefined);
  assert(restarts.fail(0, YOUNG, [YOUNG, WORKING]) !== undefined);
  assert(restarts.fail(0, YOUNG, [{ hasServed: false, since: new Date(Date.now() - 1_000) }]) !== undefined);
  assertEquals(restarts.fail(0, YOUNG, [YOUNG]), undefined);
});

/** Waits until a pool has so many children that serve, and no others. */
function whole(pool: Pool, size: number) {
  return eventually(() => {
    const stats = pool.stats();
    return stats.length === size && stats.every(({ state }) => state === "serving") ? stats : undefined;
  });
}

for (const balance of oneOf("SIGTERM", ["shared", "reuseport", "round-robin"] as const)) {
  oneKindTest("process", `Pool [${balance}] replaces a child that gets SIGTERM, which finishes first`, async (kind) => {
    await using pool = await startPool({ kind, balance, size: 2 });
    using client = await Client.open(pool.addr.port);
    Deno.kill(client.server.pid, "SIGTERM");
    const fresh = await eventually(() => {
      const serving = pool.stats().filter(({ state }) => state === "serving");
      return serving.length === 2 && serving.every(({ pid }) => pid !== client.server.pid) ? serving : undefined;
    });
    assertEquals(fresh.filter(({ restarts }) => restarts === 1).length, 1);
    await visits(pool.addr.port, 40, 10);
    await client.echo("in the old child");
    await client.finish();
    await assertGone([client.server.pid], 10_000);
    await whole(pool, 2);
  });
}

long(oneKindTest)("process", "Pool [round-robin] is not held up by a child that takes nothing", async (kind) => {
  await using pool = await startPool({ kind, balance: "round-robin", size: 2 });
  const [stuck, other] = pool.stats();
  assert(stuck?.pid !== undefined && other !== undefined);
  Deno.kill(stuck.pid, "SIGSTOP");
  const servers: Awaited<ReturnType<typeof visit>>[] = [];
  const visiting = Array.from({ length: 600 }, async () => void servers.push(await visit(pool.addr.port)));
  // 128 wait for the stuck one; all others are served.
  await eventually(() => servers.length === 600 - 128 ? true : undefined);
  assertEquals([...byChild(servers).keys()], [other.id]);
  Deno.kill(stuck.pid, "SIGCONT");
  await Promise.all(visiting);
  assertEquals(byChild(servers), new Map([[other.id, 600 - 128], [stuck.id, 128]]));
});

long(childTest)("Pool [per connection] gives up when children fail one after the other", async (kind) => {
  const module = moduleOf(`throw new Error("a bad release");`);
  const pool = await startPool({ kind, module, per: "connection", size: 2, restart: { delay: 1, limit: 3 } });
  const { port } = pool.addr;
  const clients = await Promise.all([TcpConn.connect({ port }), TcpConn.connect({ port })]);
  const error = await assertRejects(() => deadline(pool.closed, 60_000), Error, "3 children in a row have failed");
  assert(error.cause instanceof Error);
  await pool.close();
  assertEquals(pool.stats(), []);
  // Nobody serves them, and they are not left hanging.
  for (const client of clients) {
    assertEquals(await client.read(new Uint8Array(1)).catch(() => null), null);
    client.close();
  }
});

childTest("Pool.close() is made to come sooner by another call with less grace", async (kind) => {
  for (const balance of ["shared", "round-robin"] as const) {
    const pool = await startPool({ kind, balance, size: 2 });
    using client = await Client.open(pool.addr.port);
    const closing = pool.close({ grace: Infinity });
    await client.echo("still served");
    assertEquals(await Promise.race([pool.close(), delay(50, {}).then(() => "waits")]), "waits");
    await pool.close({ grace: 0 });
    await closing;
    await pool.closed;
  }
});

long(childTest)("Pool.close() in the midst of a reload ends the old children and the new ones", async (kind) => {
  for (const ms of [0, 30, 150]) {
    const pool = await startPool({ kind, size: 2 });
    const pids = new Set(pool.stats().map(({ pid }) => pid ?? 0));
    const reloading = pool.reload();
    for (const end = performance.now() + ms; performance.now() < end; await delay(1)) {
      for (const { pid } of pool.stats()) pids.add(pid ?? 0);
    }
    for (const { pid } of pool.stats()) pids.add(pid ?? 0);
    const closing = pool.close();
    await reloading.catch((error) => assert(error instanceof Deno.errors.BadResource, String(error)));
    await closing;
    assertEquals(pool.stats(), []);
    if (kind === "process") assert(![...pids].some(isAlive));
  }
});

long(childTest)("Pool.reload() is done once for all that ask for it while another one runs", async (kind) => {
  await using pool = await startPool({ kind, size: 1 });
  const [before] = pool.stats();
  await Promise.all(Array.from({ length: 10 }, () => pool.reload()));
  const [after] = await whole(pool, 1);
  assertEquals((after?.id ?? 0) - (before?.id ?? 0), 2);
});

long(childTest)("Pool.reload() fills the place of a child that fails meanwhile, once", async (kind) => {
  await using pool = await startPool({ kind, balance: "shared", size: 2, restart: { delay: 1 } });
  using client = await Client.open(pool.addr.port);
  const reloading = pool.reload();
  await client.conn.writeAll(encode("!"));
  await reloading;
  const ids = (await whole(pool, 2)).map(({ id }) => id);
  assert(!ids.includes(client.server.child));
  await visits(pool.addr.port, 20, 5);
  assertEquals((await whole(pool, 2)).map(({ id }) => id), ids);
});

childTest("Pool [shared] divides maxConnections among its children to the last one", async (kind) => {
  await using pool = await startPool({ kind, balance: "shared", size: 3, maxConnections: 4 });
  const { port } = pool.addr;
  const clients = await Promise.all(Array.from({ length: 4 }, () => Client.open(port)));
  const fifth = Client.open(port);
  assertEquals(await Promise.race([fifth, delay(100)]), undefined);
  await clients.pop()?.finish();
  clients.push(await fifth);
  assertEquals([...byChild(clients.map(({ server }) => server)).values()].sort(), [1, 1, 2]);
  for (const client of clients) await client.finish();
});

// In a process of its own, since such threads stay.
for (const engine of ENGINES) {
  long(Deno.test)(
    `[${engine}] Pool.close() closes the port and the connections of threads that never return to their event loop`,
    async () => {
      const module = moduleOf(`
      serve(async (conn) => {
        await conn.writeAll(new Uint8Array(1));
        setTimeout(() => { while (true); });
        await new Promise(() => {});
      });
    `);
      const { code, stdout, stderr } = await runDeno(
        ["--allow-net", "--allow-read", ...(engine === "native" ? ["--allow-ffi"] : [])],
        `import { Pool } from "@c10k/sockets/process";
       import { TcpConn, TcpListener } from "@c10k/sockets/tcp";
       const listen = { hostname: "127.0.0.1", port: 0 };
       const balances = "${engine}" === "native" ? ["shared", "reuseport", "round-robin"] : ["round-robin"];
       const pools = await Promise.all(balances.map(async (balance) => {
         const pool = await Pool.start({ kind: "worker", module: ${JSON.stringify(module)}, size: 1, listen, balance });
         const conn = await TcpConn.connect({ port: pool.addr.port });
         await conn.read(new Uint8Array(1));
         return { pool, conn };
       }));
       await Promise.all(pools.map(async ({ pool, conn }) => {
         await pool.close({ grace: 50 });
         TcpListener.bind({ hostname: "127.0.0.1", port: pool.addr.port }).close();
         const end = await conn.read(new Uint8Array(1)).catch((error) => error.code);
         if (end !== null && end !== "ECONNRESET") throw new Error(end);
         console.log("closed", pool.stats().length);
       }));
       Deno.exit();`,
      );
      assertEquals([code, stdout, stderr], [0, "closed 0\n".repeat(engine === "native" ? 3 : 1), ""]);
    },
  );
}

engineTest("Pool.start() closes the listener that it was given, also if it fails", async (engine) => {
  const listener = TcpListener.bind({ hostname: "127.0.0.1", port: 0, engine });
  const options: PoolOptions = { kind: "worker", module: moduleOf(`throw new Error("bad")`), size: 1, listener };
  await assertRejects(() => Pool.start({ ...options, signals: false }), Error, "before it called serve()");
  assertEquals(listener.fd, undefined);
  await assertRejects(() => Pool.start(options), Deno.errors.BadResource, "the listener is closed");
});

oneKindTest("worker", "Pool [per connection] gives up when its listener is closed by somebody else", async (kind) => {
  const listener = TcpListener.bind({ hostname: "127.0.0.1", port: 0 });
  const pool = await startPool({ kind, per: "connection", listener });
  listener.close();
  await assertRejects(() => deadline(pool.closed, 10_000), Deno.errors.BadResource);
  await pool.close();
  assertEquals(pool.stats(), []);
});

childTest("Pool [shared] gives up when its listening socket is shut down behind its back", async (kind) => {
  const listener = TcpListener.bind({ hostname: "127.0.0.1", port: 0 });
  const restart = { limit: 1 };
  const pool = await startPool({ kind, size: 1, balance: "shared", listener, restart });
  // Its child has it, once it has served.
  await visit(pool.addr.port);
  kernel.shutdown(listener.fd as number, SHUT_RDWR);
  await assertRejects(() => deadline(pool.closed, 20_000), Error, "1 children in a row have failed");
  await pool.close();
});

/** A process that does not start with a file of this repository needs its import map. */
function configOf(kind: Kind): { flags?: string[] } {
  return kind === "process" ? { flags: [`--config=${new URL("deno.json", ROOT).pathname}`] } : {};
}

/** Fails one child, and leaves a connection behind that nobody can take yet. */
async function failOne(pool: Pool): Promise<TcpConn> {
  using client = await Client.open(pool.addr.port);
  await client.conn.writeAll(encode("!"));
  await eventually(() => pool.stats().length === 0 ? true : undefined);
  return await TcpConn.connect({ port: pool.addr.port });
}

long(childTest)(
  "Pool [round-robin] keeps a connection for the child that replaces one which has failed",
  async (kind) => {
    await using pool = await startPool({ kind, size: 1, balance: "round-robin", restart: { delay: 20 } });
    using conn = await failOne(pool);
    assertMatch(await deadline(readText(conn), 20_000) ?? "", /^\d+ \d+ [0-9a-f]+\n$/);
    assertEquals(pool.stats().map(({ restarts }) => restarts), [1]);
  },
);

long(childTest)("Pool [round-robin] closes a connection that waits for a child when it gives up", async (kind) => {
  const file = await Deno.makeTempFile({ suffix: ".js" });
  try {
    await Deno.writeTextFile(file, `import "${ECHO}";`);
    // The second failure is that of the child that comes after a while.
    const pool = await startPool({
      kind,
      size: 1,
      balance: "round-robin",
      module: file,
      restart: { delay: 300, limit: 2 },
      ...configOf(kind),
    });
    await Deno.writeTextFile(file, `throw new Error("a bad release");`);
    const closed = assertRejects(() => pool.closed, Error, "2 children in a row have failed");
    using conn = await failOne(pool);
    assertEquals(await deadline(readText(conn), 20_000), null);
    await closed;
    await pool.close();
  } finally {
    await Deno.remove(file);
  }
});

long(childTest)("Pool.close() does not wait for a child that was to come later", async (kind) => {
  const pool = await startPool({ kind, size: 1, restart: { delay: 600_000, maxDelay: 600_000 } });
  (await failOne(pool)).close();
  await deadline(pool.close({ grace: 0 }), 5_000);
  assertEquals(pool.stats(), []);
});

long(childTest)(
  "Pool.reload() is faster than a child that was to come later, which is not needed then",
  async (kind) => {
    await using pool = await startPool({ kind, size: 1, restart: { delay: 400 } });
    (await failOne(pool)).close();
    await pool.reload();
    await visit(pool.addr.port);
    // The delay is moved by a quarter at most.
    await delay(550);
    assertEquals(pool.stats().filter(({ state }) => state === "serving").length, 1);
    await visit(pool.addr.port);
  },
);

long(childTest)("Pool.reload() that waits for another one is refused when the pool closes", async (kind) => {
  const pool = await startPool({ kind, size: 1 });
  const [first, second] = [pool.reload(), pool.reload()].map((reloading) => reloading.catch((error) => error));
  await pool.close();
  await first;
  const error = await second;
  assert(error instanceof Deno.errors.BadResource, String(error));
  assertEquals(error.message, "Cannot reload: the pool is closed");
});

/** Says to children what they do, one after the other as they ask. */
class Director implements AsyncDisposable {
  readonly #server: Deno.HttpServer<Deno.NetAddr>;
  readonly #asking: { path: string; resolve(answer: Response): void }[] = [];

  constructor() {
    this.#server = Deno.serve({ hostname: "127.0.0.1", port: 0, onListen: () => {} }, (request) => {
      const { pathname: path } = new URL(request.url);
      return new Promise((resolve) => this.#asking.push({ path, resolve }));
    });
  }

  /** Waits until somebody asks, and answers who was first. */
  async tell(answer: string, path = "/part"): Promise<void> {
    const [found] = await eventually(() => {
      const at = this.#asking.findIndex((asking) => asking.path === path);
      return at < 0 ? undefined : this.#asking.splice(at, 1);
    });
    found?.resolve(new Response(answer));
  }

  /** A module that asks for its part: "echo", "fail", "fail later" and "stay", which ends no sooner than that is said. */
  get module(): string {
    const ask = (path: string) => `fetch("http://127.0.0.1:${this.#server.addr.port}${path}").then((it) => it.text())`;
    return moduleOf(`
      const part = await ${ask("/part")};
      if (part === "fail") throw new Error("failed as told");
      if (part === "fail later") ${ask("/later")}.then(() => reportError(new Error("failed later as told")));
      if (part === "stay") parent().waitUntil(${ask("/end")});
      await import("${ECHO}");
    `);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const { resolve } of this.#asking.splice(0)) resolve(new Response());
    await this.#server.shutdown();
  }
}

/** Starts a pool of two and reloads it; one new child serves, and the other one still waits for what it is told. */
async function halfReloaded(kind: Kind, director: Director, part: string) {
  const { module } = director;
  const starting = startPool({
    kind,
    size: 2,
    balance: "round-robin",
    module,
    restart: { delay: 1 },
    ...configOf(kind),
  });
  for (let i = 0; i < 2; i++) await director.tell("echo");
  const pool = await starting;
  const old = pool.stats().map(({ id }) => id);
  const reloading = pool.reload();
  await director.tell(part);
  const first = await eventually(() => pool.stats().find(({ id, state }) => !old.includes(id) && state === "serving"));
  return { pool, old, reloading, first };
}

long(childTest)("Pool.reload() replaces a new child that has failed before the others serve", async (kind) => {
  await using director = new Director();
  const { pool, old, reloading, first } = await halfReloaded(kind, director, "fail later");
  await using _ = pool;
  await director.tell("", "/later");
  await eventually(() => pool.stats().every(({ id }) => id !== first.id) ? true : undefined);
  await director.tell("echo");
  await deadline(reloading, 20_000);
  await director.tell("echo");
  const fresh = await whole(pool, 2);
  assert(fresh.every(({ id }) => id !== first.id && !old.includes(id)));
  assertEquals(fresh.map(({ restarts }) => restarts).sort(), [0, 1]);
});

long(childTest)(
  "Pool.reload() of which all new children fail, one after it has served, leaves the old ones",
  async (kind) => {
    await using director = new Director();
    const { pool, old, reloading, first } = await halfReloaded(kind, director, "fail later");
    await using _ = pool;
    await director.tell("", "/later");
    await eventually(() => pool.stats().every(({ id }) => id !== first.id) ? true : undefined);
    await director.tell("fail");
    await assertRejects(() => deadline(reloading, 20_000), Error, "before it called serve()");
    assertEquals((await whole(pool, 2)).map(({ id }) => id), old);
  },
);

long(oneKindTest)(
  "process",
  "Pool.reload() replaces a new child that gets SIGTERM before the others serve",
  async (kind) => {
    await using director = new Director();
    const { pool, old, reloading, first } = await halfReloaded(kind, director, "stay");
    await using _ = pool;
    Deno.kill(first.pid as number, "SIGTERM");
    await eventually(() => pool.stats().find(({ id, state }) => id === first.id && state === "draining"));
    await director.tell("echo");
    await deadline(reloading, 20_000);
    await director.tell("echo");
    await director.tell("", "/end");
    const fresh = await whole(pool, 2);
    assert(fresh.every(({ id }) => id !== first.id && !old.includes(id)));
  },
);

long(childTest)("Pool.close() replaces no child that asks to be drained at that very moment", async (kind) => {
  // A child says so when it gets SIGTERM; this one says it late.
  const module = moduleOf(`
    import { thePort } from "${new URL("process/child/parent.ts", ROOT)}";
    serve((_, { signal }) =>
      new Promise((resolve) =>
        signal.addEventListener("abort", () => {
          thePort().link.post({ type: "pool", body: { is: "leaving" } });
          resolve();
        })
      )
    );
  `);
  const pool = await startPool({ kind, size: 1, module });
  using _ = await TcpConn.connect({ port: pool.addr.port });
  await eventually(() => pool.stats()[0]?.active === 1 ? true : undefined);
  await deadline(pool.close(), 10_000);
  assertEquals(pool.stats(), []);
});
