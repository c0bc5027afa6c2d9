/** How one program takes over from another by the control socket, and what goes wrong on the way. */

import { Pool, type PoolOptions } from "@c10k/sockets/process";
import { TcpListener } from "@c10k/sockets/tcp";
import { assert, assertEquals, assertRejects } from "@std/assert";
import { UnixSocket } from "../process/unix_socket.ts";
import { ECHO, untilRefused, visit } from "./_pool.ts";
import { moduleOf, oneKindTest } from "./_process.ts";
import { eventually, openDescriptors, ROOT, run } from "./_util.ts";

/** A test with a pool that others can take over from; a thread is the least that a pool takes. */
function upgradeTest(name: string, fn: (running: Pool, options: PoolOptions & { control: string }) => Promise<void>) {
  oneKindTest("worker", name, async (kind) => {
    const folder = await Deno.makeTempDir();
    try {
      const listen = { hostname: "127.0.0.1", port: 0 };
      const options = { kind, module: ECHO, size: 1, signals: false, control: `${folder}/control`, listen } as const;
      await using running = await Pool.start(options);
      await fn(running, options);
    } finally {
      await Deno.remove(folder, { recursive: true });
    }
  });
}

const FAILING = moduleOf(`throw new Error("a bad release");`);

upgradeTest("Pool.start() takes the listener over from a running pool, which closes", async (running, options) => {
  const { port } = running.addr;
  await using next = await Pool.start(options);
  assertEquals(next.addr.port, port);
  await running.closed;
  await visit(port);
  // The path is the new one's by now.
  assert((await Deno.lstat(options.control)).isSocket);
  await next.close();
  await assertRejects(() => Deno.lstat(options.control), Deno.errors.NotFound);
});

upgradeTest("Pool.start() that fails after a takeover leaves the running pool whole", async (running, options) => {
  const { port } = running.addr;
  for (let i = 0; i < 2; i++) {
    await assertRejects(() => Pool.start({ ...options, module: FAILING }), Error, "before it called serve()");
    await visit(port);
    assertEquals([...Deno.readDirSync(options.control.replace(/\/control$/, ""))].map(({ name }) => name), ["control"]);
  }
  await using next = await Pool.start(options);
  assertEquals(next.addr.port, port);
});

upgradeTest("Pool goes on when a program is killed that was taking over", async (running, options) => {
  const program = `
    import { takeOver } from "${new URL("process/upgrade.ts", ROOT)}";
    const { listeners } = await takeOver(${JSON.stringify(options.control)});
    console.log(listeners.length);
    Deno.kill(Deno.pid, "SIGKILL");
  `;
  const { stdout } = await run(["run", "--quiet", "--allow-all", moduleOf(program)]);
  assertEquals(stdout, "1\n");
  const { port } = running.addr;
  await visit(port);
  await using next = await Pool.start(options);
  assertEquals(next.addr.port, port);
});

upgradeTest("Pool.start() refuses to take over while another one does", async (running, options) => {
  const { addr } = running;
  const asked = Promise.withResolvers<void>();
  const told = Promise.withResolvers<Response>();
  const server = Deno.serve({ hostname: "127.0.0.1", port: 0, onListen: () => {} }, () => {
    asked.resolve();
    return told.promise;
  });
  // Its child comes up when it is told to.
  const slow = moduleOf(`
    await (await fetch("http://127.0.0.1:${server.addr.port}")).text();
    await import("${ECHO}");
  `);
  const first = Pool.start({ ...options, module: slow });
  await asked.promise;
  await assertRejects(() => Pool.start(options), Deno.errors.Busy, "another one takes over already");
  await visit(addr.port);
  told.resolve(new Response());
  await using next = await first;
  assertEquals(next.addr, addr);
  await server.shutdown();
});

upgradeTest("Pool.start() leaves a listener alone that has another address", async (running, options) => {
  const other = TcpListener.bind({ hostname: "127.0.0.1", port: 0 });
  const { port } = running.addr;
  const { listen: _, ...others } = options;
  await using next = await Pool.start({ ...others, listener: other });
  assertEquals(next.addr, other.addr);
  await running.closed;
  await visit(next.addr.port);
  await untilRefused(port);
});

upgradeTest("Pool survives what a forged client says to its control socket", async (running, options) => {
  const before = openDescriptors();
  const [mine, theirs] = UnixSocket.pair();
  for (const [descriptors, text] of [[[], "?"], [[mine, theirs], "\x01nonsense"], [[mine], "\x00"]] as const) {
    const socket = UnixSocket.connect(options.control, "the pool");
    await socket.send(new TextEncoder().encode(text), () => [...descriptors], () => {});
    // It is cut, once it is understood that nothing can be.
    if (text !== "\x00") await socket.receive().catch(() => {});
    socket.close();
  }
  new UnixSocket(mine, "a pair").close();
  new UnixSocket(theirs, "a pair").close();
  await eventually(() => openDescriptors() <= before ? true : undefined);
  const { port } = running.addr;
  await visit(port);
  await using next = await Pool.start(options);
  assertEquals(next.addr.port, port);
});
