import { type MovableSocket, Pool, type PoolOptions, serve } from "@c10k/sockets/process";
import { TcpConn, TcpListener } from "@c10k/sockets/tcp";
import { assert, assertEquals, assertMatch, assertRejects, assertStringIncludes, assertThrows } from "@std/assert";
import { deadline, delay } from "@std/async";
import type { FromChild, ToChild } from "../process/message/pool_protocol.ts";
import { ProcessChild } from "../process/child/spawn_process.ts";
import { WorkerChild } from "../process/child/spawn_worker.ts";
import { BALANCES, byChild, Client, ECHO, startPool, untilRefused, visit, visits } from "./_pool.ts";
import { ask, checkEcho, childTest, ECHO as PLAIN, type Kind, NATIVE, next, spawn } from "./_process.ts";
import { encode, eventually, long, oneOf, Pair, readText, ROOT, sized, socketTest, some } from "./_util.ts";

function moduleOf(source: string): string {
  return `data:text/javascript,${encodeURIComponent(source)}`;
}

const PROCESS = import.meta.resolve("@c10k/sockets/process");

/** A pool's connections as its children count them, once all of them are finished. */
async function totals(pool: Pool, expected: number): Promise<Map<number, number>> {
  const stats = await eventually(() => {
    const stats = pool.stats();
    const isDone = stats.every(({ active }) => active === 0) &&
      stats.reduce((sum, { total }) => sum + total, 0) === expected;
    return isDone ? stats : undefined;
  });
  return new Map(stats.filter(({ total }) => total > 0).map(({ id, total }) => [id, total]));
}

for (const balance of some(2, BALANCES)) {
  childTest(`Pool [${balance}] answers each connection from the child that stats() says`, async (kind) => {
    await using pool = await startPool({ kind, balance, size: 4 });
    const count = sized(500, 10_000);
    const servers = await visits(pool.addr.port, count);
    assertEquals(servers.length, count);
    assertEquals(await totals(pool, count), byChild(servers));
    assertEquals(new Set(servers.map(({ run }) => run)).size, byChild(servers).size);
    for (const { id, pid } of pool.stats()) {
      assert(servers.every((server) => server.child !== id || server.pid === (pid ?? Deno.pid)));
    }
    if (balance === "round-robin") {
      for (const n of byChild(servers).values()) assert(Math.abs(n - count / 4) <= count / 4 * 0.2, `${n} of ${count}`);
    }
  });

  childTest(
    `Pool [${balance}] has no more than maxConnections open, and serves the next when one is done`,
    async (kind) => {
      await using pool = await startPool({ kind, balance, size: 1, maxConnections: 2 });
      const { port } = pool.addr;
      using first = await Client.open(port);
      using second = await Client.open(port);
      const waiting = Client.open(port);
      const early = await Promise.race([waiting, delay(100)]);
      assertEquals(early, undefined, "a third connection was served beside two");
      await second.echo("still served");
      await first.finish();
      using third = await waiting;
      await third.echo("now it is my turn");
    },
  );

  childTest(`Pool [${balance}] replaces a child that has failed, whose connections break alone`, async (kind) => {
    await using pool = await startPool({ kind, balance, size: 3, restart: { delay: 1 } });
    const { port } = pool.addr;
    const clients: Client[] = [];
    try {
      while (clients.length < 9 || byChild(clients.map(({ server }) => server)).size < 2) {
        clients.push(await Client.open(port));
      }
      const { child } = (clients[0] as Client).server;
      const before = pool.stats().find(({ id }) => id === child);
      await clients[0]?.conn.writeAll(encode("!"));
      for (const { conn, server, echo } of clients) {
        if (server.child === child) {
          await assertEnds(conn);
        } else {
          await echo.call({ conn } as Client, "not concerned");
        }
      }
      const after = await eventually(() => {
        const stats = pool.stats();
        const isWhole = stats.length === 3 && stats.every(({ id, state }) => id !== child && state === "serving");
        return isWhole ? stats : undefined;
      });
      const fresh = after.filter(({ restarts }) => restarts === 1);
      assertEquals(fresh.length, 1);
      assert((fresh[0]?.since ?? 0) >= (before?.since ?? Infinity));
    } finally {
      for (const client of clients) client.conn.close();
    }
    await visits(port, 20, 5);
  });
}

/** Reads until the other side has gone, one way or the other. */
async function assertEnds(conn: TcpConn): Promise<void> {
  try {
    while (await deadline(readText(conn), 10_000) !== null);
  } catch (error) {
    assert(error instanceof Deno.errors.ConnectionReset, String(error));
  }
}

childTest("Pool [per connection] starts a child for each, and ends it after", async (kind) => {
  await using pool = await startPool({ kind, per: "connection", size: 3 });
  const servers = await visits(pool.addr.port, 6, 6);
  assertEquals(new Set(servers.map(({ run }) => run)).size, 6);
  await eventually(() => pool.stats().length === 0 ? true : undefined);
  // There is nobody to replace.
  await pool.reload();
  assertEquals(pool.stats(), []);
});

childTest("Pool [per connection] has no more than size children, and the next connection waits", async (kind) => {
  await using pool = await startPool({ kind, per: "connection", size: 2 });
  const { port } = pool.addr;
  using first = await Client.open(port);
  using second = await Client.open(port);
  const waiting = Client.open(port);
  assertEquals(await Promise.race([waiting, delay(300)]), undefined);
  assertEquals(pool.stats().length, 2);
  await second.echo("still served");
  await first.finish();
  using third = await waiting;
  await third.echo("now it is my turn");
});

long(childTest)("Pool [per connection] goes on when a child fails", async (kind) => {
  await using pool = await startPool({ kind, per: "connection", size: 2 });
  using failing = await Client.open(pool.addr.port);
  await failing.conn.writeAll(encode("!"));
  await assertEnds(failing.conn);
  await visits(pool.addr.port, 3, 1);
});

childTest("Pool.close() lets connections finish, and refuses new ones", async (kind) => {
  for (const balance of some(2, BALANCES)) {
    const pool = await startPool({ kind, balance, size: 2 });
    const { port } = pool.addr;
    using client = await Client.open(port);
    const closing = pool.close();
    await untilRefused(port);
    await client.echo("still served");
    await client.finish();
    await deadline(closing, 5_000);
    await pool.closed;
    assertEquals(pool.stats(), []);
    await pool.close();
  }
});

childTest("Pool.close() ends what is not finished after the grace", async (kind) => {
  const pool = await startPool({ kind, size: 2 });
  using client = await Client.open(pool.addr.port);
  await pool.close({ grace: 50 });
  await assertEnds(client.conn);
});

long(childTest)("Pool.close() tells the handler by its signal", async (kind) => {
  const source = `
    import { serve } from "${PROCESS}";
    await serve(async (conn, context) => {
      const say = (text) => conn.writeAll(new TextEncoder().encode(text));
      await say("hello");
      const isAsked = (await conn.read(new Uint8Array(1))) === null;
      if (isAsked) await new Promise((resolve) => context.signal.addEventListener("abort", resolve));
      // One that looks when its time is over is told at once.
      else await new Promise((resolve) => setTimeout(resolve, 1_050));
      await say("bye " + context.signal.aborted);
    });
  `;
  const pool = await startPool({ kind, size: 1, module: moduleOf(source) });
  using conn = await TcpConn.connect({ port: pool.addr.port });
  using late = await TcpConn.connect({ port: pool.addr.port });
  assertEquals([await readText(conn), await readText(late)], ["hello", "hello"]);
  await conn.closeWrite();
  await late.writeAll(encode("x"));
  const closing = pool.close();
  assertEquals([await readText(conn), await readText(late)], ["bye true", "bye true"]);
  await closing;
});

childTest("Pool.close() closes what is queued and finds no room within the grace", async (kind) => {
  const pool = await startPool({ kind, size: 1, maxConnections: 1, balance: "round-robin" });
  using client = await Client.open(pool.addr.port);
  using queued = await TcpConn.connect({ port: pool.addr.port });
  await pool.close({ grace: 50 });
  await assertEnds(client.conn);
  await assertEnds(queued);
});

// Not in a top-level await: a Worker that is terminated there leaves two descriptors of Deno's own open.
childTest("Pool.start() rejects when a child does not call serve() in time", async (kind) => {
  const module = moduleOf(`import "${PROCESS}"; setInterval(() => {}, 1000);`);
  const error = await assertRejects(() => startPool({ kind, module, startTimeout: 700 }), Deno.errors.TimedOut);
  assert(/has not called serve\(\) in 700 ms/.test(error.message), error.message);
});

childTest("Pool.start() rejects with what a child has thrown", async (kind) => {
  const failing = moduleOf(`import "${PROCESS}"; throw new Error("not today");`);
  const error = await assertRejects(() => startPool({ kind, module: failing }), Error, "before it called serve()");
  if (kind === "worker") assert(/not today/.test((error.cause as Error).message), String(error.cause));
  await assertRejects(() => startPool({ kind, module: new URL("./children/none.ts", import.meta.url) }), Error);
});

long(childTest)("Pool.closed rejects with the last error when children fail one after the other", async (kind) => {
  const source = `
    import { serve } from "${PROCESS}";
    const done = serve(() => {});
    setTimeout(() => { throw new Error("always the same") }, 30);
    await done;
  `;
  const pool = await startPool({ kind, size: 1, module: moduleOf(source), restart: { delay: 1, limit: 3 } });
  const error = await assertRejects(() => deadline(pool.closed, 20_000), Error, "3 children in a row have failed");
  assert(error.cause instanceof Error);
  assertEquals(pool.stats(), []);
  await assertRejects(() => pool.reload(), Deno.errors.BadResource);
});

childTest("Pool.reload() replaces all children, and open connections finish in the old ones", async (kind) => {
  for (const balance of some(1, BALANCES)) {
    await using pool = await startPool({ kind, balance, size: 2 });
    const { port } = pool.addr;
    using client = await Client.open(port);
    const old = pool.stats().map(({ id }) => id);
    await pool.reload();
    const fresh = pool.stats().filter(({ state }) => state === "serving").map(({ id }) => id);
    assertEquals(fresh.length, 2);
    assert(fresh.every((id) => !old.includes(id)));
    await client.echo("in the old child");
    for (const { child } of await visits(port, 20, 5)) assert(fresh.includes(child));
    await client.finish();
    await eventually(() => pool.stats().length === 2 ? true : undefined);
  }
});

childTest("Pool.reload() leaves the old children when a new one fails", async (kind) => {
  const file = await Deno.makeTempFile({ suffix: ".js" });
  try {
    const good =
      `import { serve } from "${PROCESS}";\nawait serve(async (conn) => { await conn.read(new Uint8Array(1)); });\n`;
    await Deno.writeTextFile(file, good);
    await using pool = await startPool({ kind, size: 2, module: file });
    const old = pool.stats().map(({ id }) => id);
    await Deno.writeTextFile(file, `import "${PROCESS}"; throw new Error("a bad release");`);
    await assertRejects(() => pool.reload(), Error);
    assertEquals(pool.stats().map(({ id }) => id), old);
    assertEquals(pool.stats().map(({ state }) => state), ["serving", "serving"]);
    await Deno.writeTextFile(file, good);
    await pool.reload();
    await Promise.all([pool.reload(), pool.reload()]);
    assertEquals(pool.stats().filter(({ state }) => state === "serving").length, 2);
  } finally {
    await Deno.remove(file);
  }
});

childTest("serve() resets the connection of a handler that fails, and goes on", async (kind) => {
  await using pool = await startPool({ kind, size: 1 });
  using client = await Client.open(pool.addr.port);
  await client.conn.writeAll(encode("?"));
  await assertRejects(() => client.conn.read(new Uint8Array(1)), Deno.errors.ConnectionReset);
  assertEquals((await visit(pool.addr.port)).run, client.server.run);
});

childTest("Pool serves who came before its children were there, from a listener of the caller's", async (kind) => {
  for (const balance of oneOf("early", ["shared", "round-robin"] as const)) {
    const listener = TcpListener.bind({ hostname: "127.0.0.1", port: 0 });
    const early = Client.open(listener.addr.port);
    await using pool = await startPool({ kind, balance, listener });
    using client = await early;
    await client.echo("served at last");
    assertEquals(pool.addr.port, client.conn.remoteAddr.port);
    await client.finish();
  }
});

Deno.test("Pool [runtime] hands connections to threads as streams", async () => {
  const listen = { hostname: "127.0.0.1", port: 0, engine: "runtime" } as const;
  await using pool = await startPool({ kind: "worker", listen });
  const servers = await visits(pool.addr.port, 300);
  assertEquals(await totals(pool, 300), byChild(servers));
  for (const n of byChild(servers).values()) assertEquals(n, 100);
  await pool.reload();
  using client = await Client.open(pool.addr.port);
  await client.echo("x".repeat(1_000_000));
  await client.finish();
});

Deno.test("Pool.start() says which options the runtime engine lacks", async () => {
  const listen = { hostname: "127.0.0.1", port: 0, engine: "runtime" } as const;
  const refused: Partial<PoolOptions>[] = [{ kind: "process" }, { balance: "shared" }, { balance: "reuseport" }, {
    control: "/tmp/none",
  }];
  for (const options of refused) {
    await assertRejects(() => startPool({ kind: "worker", listen, ...options }), Deno.errors.NotSupported);
  }
});

Deno.test("Pool.start() checks its options before anything is started", { ignore: !NATIVE }, async () => {
  const wrong: [Record<string, unknown>, new (...args: never[]) => Error][] = [
    [{ kind: "thread" }, TypeError],
    [{ listen: undefined }, TypeError],
    [{ listen: 8080 }, TypeError],
    [{ listener: {}, listen: undefined }, TypeError],
    [{ size: 0 }, RangeError],
    [{ size: 1.5 }, RangeError],
    [{ size: "4" }, TypeError],
    [{ per: "request" }, TypeError],
    [{ balance: "random" }, TypeError],
    [{ balance: "shared", per: "connection" }, TypeError],
    [{ maxConnections: 0 }, RangeError],
    [{ grace: -1 }, RangeError],
    [{ grace: "1s" }, TypeError],
    [{ restart: 5 }, TypeError],
    [{ restart: { limit: 0 } }, RangeError],
    [{ signals: "yes" }, TypeError],
    [{ control: "" }, TypeError],
    [{ module: 5 }, TypeError],
    [{ permissions: "all" }, TypeError],
    [{ kind: "worker", args: ["x"] }, TypeError],
  ];
  for (const [options, type] of wrong) {
    await assertRejects(
      () => startPool({ kind: "process", size: 1, ...options } as unknown as PoolOptions),
      type as typeof Error,
      undefined,
      Deno.inspect(options),
    );
  }
  using taken = TcpListener.bind({ hostname: "127.0.0.1", port: 0 });
  await assertRejects(
    () => startPool({ kind: "worker", listen: { hostname: "127.0.0.1", port: taken.addr.port } }),
    Deno.errors.AddrInUse,
  );
});

socketTest("Pool.start() takes no listener for reuseport that others cannot bind beside", async () => {
  const listener = TcpListener.bind({ hostname: "127.0.0.1", port: 0 });
  await assertRejects(
    () => startPool({ kind: "worker", balance: "reuseport", listener }),
    TypeError,
    "listener must be bound with reusePort",
  );
  // It was not taken.
  assertEquals(typeof listener.fd, "number");
  listener.close();
}, !NATIVE);

Deno.test("Pool is made by Pool.start() only", () => {
  assertThrows(() => new (Pool as unknown as new () => Pool)(), TypeError, "Illegal constructor: use Pool.start");
});

childTest("Pool shows where it listens, and its children until it is closed", async (kind) => {
  const pool = await startPool({ kind, size: 1 });
  const { port } = pool.addr;
  const shown = Deno.inspect(pool);
  await pool.close();
  assertMatch(shown, new RegExp(`^Pool \\{\\s+addr: "127.0.0.1:${port}",\\s+children: \\[\\s+\\{\\s+id: \\d+`));
  assertStringIncludes(shown, 'state: "serving"');
  assertEquals(Deno.inspect(pool), `Pool { addr: "127.0.0.1:${port}", children: [] }`);
  assertEquals(pool.addr.port, port);
});

childTest(
  "serve() ends a connection so that its client gets all of the answer, and counts it as served",
  async (kind) => {
    const module = moduleOf(`
    import { serve } from "${PROCESS}";
    await serve(async (conn) => {
      await conn.readFull(new Uint8Array(10));
      await conn.writeAll(new Uint8Array(500_000));
    });`);
    await using pool = await startPool({ kind, module, size: 1, maxConnections: 1 });
    const begin = performance.now();
    const clients: TcpConn[] = [];
    for (let i = 0; i < 3; i++) {
      const client = await TcpConn.connect({ port: pool.addr.port });
      clients.push(client);
      // Most of it nobody reads. The client stays, and keeps no other from being served.
      await client.writeAll(new Uint8Array(1_000));
      await delay(5);
      await client.readFull(new Uint8Array(500_000));
      assertEquals(await client.read(new Uint8Array(1)), null);
    }
    assert(performance.now() - begin < 2_000, "one waits for another's end");
    for (const client of clients) client.close();
  },
);

childTest("serve() tells of a handler's timeout, which no client has caused", async (kind) => {
  const module = moduleOf(`
    import { serve } from "${PROCESS}";
    import { TcpListener } from "${import.meta.resolve("@c10k/sockets/tcp")}";
    let told = "nothing";
    await serve(async (conn) => {
      using database = TcpListener.bind({ hostname: "127.0.0.1", port: 0 });
      const p = new Uint8Array(1);
      await conn.readFull(p);
      if (p[0] === 63) await conn.writeAll(new TextEncoder().encode(told));
      else await database.accept({ timeout: 10 });
    }, { onError: (error) => void (told = error.name) });`);
  await using pool = await startPool({ kind, module, size: 1 });
  using first = await TcpConn.connect({ port: pool.addr.port });
  await first.writeAll(encode("!"));
  await assertRejects(() => first.read(new Uint8Array(1)), Deno.errors.ConnectionReset);
  using second = await TcpConn.connect({ port: pool.addr.port });
  await second.writeAll(encode("?"));
  assertEquals(await readText(second), "TimedOut");
});

childTest("serve() in a child that no pool has started says so", async (kind) => {
  const module = moduleOf(`
    import { parent, serve } from "${PROCESS}";
    const { message } = await serve(() => {}).catch((error) => error);
    await parent().send(message);
  `);
  await using child = spawn(kind, module);
  const { message } = await next(child.messages());
  assertEquals(message, "Cannot serve: the parent is no Pool, take what it sends by parent().messages()");
  // Nor does it go unnoticed.
  const careless = moduleOf(`import { serve } from "${PROCESS}"; serve(() => {});`);
  await using other = spawn(kind, careless, { stderr: "null" });
  const { success, code } = await deadline(other.closed, 10_000);
  assertEquals([success, code], [false, 1]);
});

Deno.test("serve() checks its arguments, and that it is called in a child", () => {
  assertThrows(() => serve("handler" as never), TypeError, 'handler must be a function, received "handler"');
  assertThrows(() => serve(() => {}, "options" as never), TypeError, "options");
  assertThrows(() => serve(() => {}, { onError: 5 as never }), TypeError, "onError must be a function, received 5");
  assertThrows(() => serve(() => {}), Error, "was not started by spawnWorker or spawnProcess");
});

childTest("serve() of a child that serves already is refused, and the first goes on", async (kind) => {
  const source = `
    import { serve } from "${PROCESS}";
    let said = "";
    serve((conn) => conn.writeAll(new TextEncoder().encode(said)));
    try {
      serve(() => {});
    } catch (error) {
      said = error.message;
    }
  `;
  await using pool = await startPool({ kind, size: 1, module: moduleOf(source) });
  using conn = await TcpConn.connect({ port: pool.addr.port });
  assertEquals(await readText(conn), "Cannot serve: this child serves already");
});

long(Deno.test)("serve() [runtime] closes the connection of a handler that fails", async () => {
  const listen = { hostname: "127.0.0.1", port: 0, engine: "runtime" } as const;
  await using pool = await startPool({ kind: "worker", size: 1, listen });
  using client = await Client.open(pool.addr.port);
  await client.conn.writeAll(encode("?"));
  await assertEnds(client.conn);
  assertEquals((await visit(pool.addr.port)).run, client.server.run);
});

/** A pool's child without a pool, and what it says but its counts. */
async function childAlone(kind: Kind) {
  const child = kind === "worker" ? new WorkerChild(ECHO, {}) : new ProcessChild(ECHO, {});
  const said: string[] = [];
  const counts = { opened: 0, closed: 0 };
  child.link.onPacket = ({ body }) => {
    const told = body as FromChild;
    if (told.is === "counting") Object.assign(counts, told);
    else said.push(told.is);
  };
  const post = (body: ToChild, sockets: MovableSocket[] = []) => child.link.post({ type: "pool", body }, sockets);
  await eventually(() => said.shift());
  await post({ do: "start", id: 1, mode: "hand-over", listeners: 0, limit: Infinity, shared: false, once: false });
  return { child, said, counts, post };
}

long(childTest)("serve() counts a connection that was lost on the way as finished", async (kind) => {
  const { child, said, counts, post } = await childAlone(kind);
  // As it comes to a child that may have no more descriptors.
  await child.link.post({ type: "connection" });
  await eventually(() => counts.closed === 1 ? true : undefined);
  assertEquals(counts.opened, 1);
  await post({ do: "drain" });
  await eventually(() => said.includes("drained") ? true : undefined);
  await child.shutdown();
});

long(childTest)(
  "serve() says once that it leaves and that it drains, and looks for nothing after that",
  async (kind) => {
    using pair = await Pair.open("native");
    const { child, said, post } = await childAlone(kind);
    await child.link.post({ type: "connection" }, [pair.server]);
    await readText(pair.client);
    const asked: string[] = [];
    if (kind === "process") {
      // Each is taken before what is sent after it has come back.
      for (let i = 0; i < 2; i++) {
        child.kill("SIGTERM");
        await eventually(() => said.includes("leaving") ? true : undefined);
        await checkEcho(pair.client, "still served");
        await delay(5);
      }
      asked.push("leaving");
    }
    await post({ do: "drain" });
    await eventually(() => said.includes("draining") ? true : undefined);
    await post({ do: "drain" });
    await post({ do: "look" });
    await checkEcho(pair.client, "to the end");
    await pair.client.closeWrite();
    await eventually(() => said.includes("drained") ? true : undefined);
    assertEquals(said, [...asked, "draining", "drained"]);
    assertEquals((await child.shutdown()).success, true);
  },
);

long(childTest)("a child that does not serve closes a connection that is for a pool's child", async (kind) => {
  using pair = await Pair.open("native");
  const child = kind === "worker" ? new WorkerChild(PLAIN, {}) : new ProcessChild(PLAIN, {});
  await child.link.post({ type: "connection" }, [pair.server]);
  assertEquals(await readText(pair.client), null);
  assertEquals((await ask(child, "hello")).message.message, "hello");
  await child.shutdown();
});

long(childTest)("Pool closes what a child sends along with what it says", async (kind) => {
  const source = `
    import { serve } from "${PROCESS}";
    import { thePort } from "${new URL("process/child/parent.ts", ROOT)}";
    serve((conn) => thePort().link.post({ type: "pool", body: { is: "counting", opened: 1, closed: 0 } }, [conn]));
  `;
  await using pool = await startPool({ kind, size: 1, module: moduleOf(source) });
  using conn = await TcpConn.connect({ port: pool.addr.port });
  assertEquals(await deadline(readText(conn), 10_000), null);
});
