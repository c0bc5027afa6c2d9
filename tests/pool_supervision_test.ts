/** How a pool keeps its children: who is replaced and when, what one that is stuck costs, and how all of it ends. */

import { Pool, type PoolOptions } from "@c10k/sockets/process";
import { TcpConn, TcpListener } from "@c10k/sockets/tcp";
import { assert, assertEquals, assertRejects } from "@std/assert";
import { deadline, delay } from "@std/async";
import { Restarts } from "../process/restarts.ts";
import { assertGone, byChild, Client, startPool, visit, visits } from "./_pool.ts";
import { childTest, isAlive, moduleOf, oneKindTest } from "./_process.ts";
import { encode, eventually, runDeno } from "./_util.ts";

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

for (const balance of ["shared", "reuseport", "round-robin"] as const) {
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

oneKindTest("process", "Pool [round-robin] is not held up by a child that takes nothing", async (kind) => {
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

childTest("Pool [per connection] gives up when children fail one after the other", async (kind) => {
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

childTest("Pool.close() in the midst of a reload ends the old children and the new ones", async (kind) => {
  for (const ms of [0, 30, 150]) {
    const pool = await startPool({ kind, size: 2 });
    const pids = new Set(pool.stats().map(({ pid }) => pid ?? 0));
    const reloading = pool.reload();
    for (const end = performance.now() + ms; performance.now() < end; await delay(1)) {
      for (const { pid } of pool.stats()) pids.add(pid ?? 0);
    }
    for (const { pid } of pool.stats()) pids.add(pid ?? 0);
    const closing = pool.close();
    await reloading.catch((error) => assert(error instanceof Deno.errors.Interrupted, String(error)));
    await closing;
    assertEquals(pool.stats(), []);
    if (kind === "process") assert(![...pids].some(isAlive));
  }
});

childTest("Pool.reload() is done once for all that ask for it while another one runs", async (kind) => {
  await using pool = await startPool({ kind, size: 1 });
  const [before] = pool.stats();
  await Promise.all(Array.from({ length: 10 }, () => pool.reload()));
  const [after] = await whole(pool, 1);
  assertEquals((after?.id ?? 0) - (before?.id ?? 0), 2);
});

childTest("Pool.reload() fills the place of a child that fails meanwhile, once", async (kind) => {
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

// In a process of its own, since such a thread stays.
Deno.test("Pool.close() ends although a thread never returns to its event loop", async () => {
  const module = moduleOf(`
    import { serve } from "${import.meta.resolve("@c10k/sockets/process")}";
    serve(async (conn) => {
      await conn.writeAll(new Uint8Array(1));
      setTimeout(() => { while (true); });
      await new Promise(() => {});
    });
  `);
  const { code, stdout, stderr } = await runDeno(
    ["--allow-all"],
    `import { Pool } from "@c10k/sockets/process";
     import { TcpConn, TcpListener } from "@c10k/sockets/tcp";
     const listen = { hostname: "127.0.0.1", port: 0 };
     const pool = await Pool.start({ kind: "worker", module: ${JSON.stringify(module)}, size: 1, listen });
     const conn = await TcpConn.connect({ port: pool.addr.port });
     await conn.read(new Uint8Array(1));
     await pool.close({ grace: 50 });
     console.log("closed", pool.stats().length);
     Deno.exit();`,
  );
  assertEquals([code, stdout, stderr], [0, "closed 0\n", ""]);
});

Deno.test("Pool.start() closes the listener that it was given, also if it fails", async () => {
  const listener = TcpListener.bind({ hostname: "127.0.0.1", port: 0 });
  const options: PoolOptions = { kind: "worker", module: moduleOf(`throw new Error("bad")`), size: 1, listener };
  await assertRejects(() => Pool.start({ ...options, signals: false }), Error, "before it called serve()");
  assertEquals(listener.fd, undefined);
  await assertRejects(() => Pool.start(options), Deno.errors.BadResource, "the listener is closed");
});
