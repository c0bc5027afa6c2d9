/** The conformance suite of {@linkcode TcpListener}: the same on every engine. */

import { type Engine, TcpConn, TcpListener } from "@c10k/sockets/tcp";
import { assert, assertEquals, assertRejects, assertStringIncludes, assertThrows } from "@std/assert";
import { delay } from "@std/async";
import { decode, encode, ENGINES, engineTest, eventually, readText, ROOT } from "./_util.ts";

const LOCAL = { hostname: "127.0.0.1", port: 0 } as const;

engineTest("TcpListener.bind() with port 0 tells the port that the kernel picked", (engine) => {
  using listener = TcpListener.bind({ ...LOCAL, engine });
  assertEquals(listener.addr.transport, "tcp");
  assertEquals(listener.addr.hostname, "127.0.0.1");
  assert(listener.addr.port > 0);
  assertEquals(listener.engine, engine);
});

engineTest("TcpListener.bind() takes names, IPv6 addresses and brackets", async (engine) => {
  for (const [hostname, shown] of [["localhost", undefined], ["::1", "::1"], ["[::1]", "::1"], ["::", "::"]] as const) {
    using listener = TcpListener.bind({ hostname, port: 0, engine });
    if (shown !== undefined) assertEquals(listener.addr.hostname, shown);
    const host = listener.addr.hostname === "::" ? "::1" : listener.addr.hostname;
    using client = await TcpConn.connect({ hostname: host, port: listener.addr.port, engine });
    using server = await listener.accept();
    assertEquals(server.remoteAddr, client.localAddr);
    assertEquals(server.localAddr, client.remoteAddr);
  }
});

engineTest("TcpListener.bind() to :: serves IPv4 clients too", async (engine) => {
  using listener = TcpListener.bind({ hostname: "::", port: 0, engine });
  using client = await TcpConn.connect({ port: listener.addr.port, engine });
  using server = await listener.accept();
  assertEquals(server.remoteAddr.hostname, "::ffff:127.0.0.1");
  assertEquals(client.remoteAddr.hostname, "127.0.0.1");
  // Windows has IPV6_V6ONLY on by default, and the runtime gives no way to it.
}, Deno.build.os === "windows");

engineTest("TcpListener.accept() hands out a connection that was waiting before the call", async (engine) => {
  using listener = TcpListener.bind({ ...LOCAL, engine });
  using client = await TcpConn.connect({ port: listener.addr.port, engine });
  await client.writeAll(encode("early"));
  using server = await listener.accept();
  assertEquals(await readText(server), "early");
  assertEquals(server.engine, engine);
});

engineTest("TcpListener.accept() serves concurrent calls in their order", async (engine) => {
  using listener = TcpListener.bind({ ...LOCAL, engine });
  const order: number[] = [];
  const accepts = Array.from({ length: 5 }, async (_, i) => {
    const conn = await listener.accept();
    order.push(i);
    return conn;
  });
  const clients: TcpConn[] = [];
  for (let i = 0; i < 5; i++) {
    const client = await TcpConn.connect({ port: listener.addr.port, engine });
    clients.push(client);
    await client.writeAll(encode(String(i)));
  }
  const servers = await Promise.all(accepts);
  assertEquals(order, [0, 1, 2, 3, 4]);
  for (const [i, server] of servers.entries()) assertEquals(await readText(server), String(i));
  for (const conn of [...clients, ...servers]) conn.close();
});

engineTest("TcpListener.accept() that is cancelled leaves the connection to the next call", async (engine) => {
  using listener = TcpListener.bind({ ...LOCAL, engine });
  const reason = new Error("enough");
  const abort = new AbortController();
  const cancelled = listener.accept({ signal: abort.signal });
  await delay(5);
  abort.abort(reason);
  assertEquals(await cancelled.catch((error) => error), reason);

  using client = await TcpConn.connect({ port: listener.addr.port, engine });
  await client.writeAll(encode("kept"));
  using server = await listener.accept();
  assertEquals(await readText(server), "kept");
});

engineTest(
  "TcpListener.accept() that is cancelled in the middle of the line keeps the others' order",
  async (engine) => {
    using listener = TcpListener.bind({ ...LOCAL, engine });
    const abort = new AbortController();
    const first = listener.accept();
    const second = listener.accept({ signal: abort.signal });
    const third = listener.accept();
    abort.abort("no more");
    assertEquals(await second.catch((error) => error), "no more");
    using clientA = await TcpConn.connect({ port: listener.addr.port, engine });
    using serverA = await first;
    using clientB = await TcpConn.connect({ port: listener.addr.port, engine });
    using serverB = await third;
    assertEquals(serverA.remoteAddr.port, clientA.localAddr.port);
    assertEquals(serverB.remoteAddr.port, clientB.localAddr.port);
  },
);

engineTest("TcpListener.accept() with an aborted signal rejects, and takes nothing", async (engine) => {
  using listener = TcpListener.bind({ ...LOCAL, engine });
  using _client = await TcpConn.connect({ port: listener.addr.port, engine });
  const error = await listener.accept({ signal: AbortSignal.abort("before") }).catch((error) => error);
  assertEquals(error, "before");
  using _server = await listener.accept();
});

engineTest("TcpListener.tryAccept() never waits, and takes what is there", async (engine) => {
  using listener = TcpListener.bind({ ...LOCAL, engine });
  assertEquals(listener.tryAccept(), undefined);
  using client = await TcpConn.connect({ port: listener.addr.port, engine });
  using server = await eventually(() => listener.tryAccept());
  assertEquals(server.remoteAddr.port, client.localAddr.port);
  assertEquals(listener.tryAccept(), undefined);
});

engineTest("TcpListener.pause() leaves connections in the kernel's queue until resume()", async (engine) => {
  using listener = TcpListener.bind({ ...LOCAL, engine });
  listener.pause();
  let accepted = 0;
  const accepts = [0, 1].map(async () => {
    const conn = await listener.accept();
    accepted++;
    return conn;
  });
  using _a = await TcpConn.connect({ port: listener.addr.port, engine });
  using _b = await TcpConn.connect({ port: listener.addr.port, engine });
  await delay(20);
  assertEquals(accepted, 0);
  assertEquals(listener.tryAccept(), undefined);
  listener.resume();
  for (const conn of await Promise.all(accepts)) conn.close();
  assertEquals(accepted, 2);
});

engineTest("TcpListener.pause() holds a call that waits already", async (engine) => {
  using listener = TcpListener.bind({ ...LOCAL, engine });
  let accepted = false;
  const accepting = listener.accept().then((conn) => {
    accepted = true;
    return conn;
  });
  await delay(5);
  listener.pause();
  using _client = await TcpConn.connect({ port: listener.addr.port, engine });
  await delay(20);
  assertEquals(accepted, false);
  listener.resume();
  (await accepting).close();
});

engineTest("TcpListener.close() wakes all who wait with BadResource", async (engine) => {
  const listener = TcpListener.bind({ ...LOCAL, engine });
  const accepts = [listener.accept(), listener.accept()];
  await delay(5);
  listener.close();
  for (const accept of accepts) {
    await assertRejects(() => accept, Deno.errors.BadResource, "listener is closed (EBADF)");
  }
});

engineTest("TcpListener.close() is idempotent, and calls after it get BadResource", async (engine) => {
  const listener = TcpListener.bind({ ...LOCAL, engine });
  const { port } = listener.addr;
  listener.close();
  listener.close();
  listener[Symbol.dispose]();
  listener.ref();
  listener.unref();
  const expected = `Cannot accept on TCP listener 127.0.0.1:${port}: listener is closed (EBADF)`;
  await assertRejects(() => listener.accept(), Deno.errors.BadResource, expected);
  assertThrows(() => listener.tryAccept(), Deno.errors.BadResource, expected);
  assertThrows(() => listener.pause(), Deno.errors.BadResource);
  assertThrows(() => listener.resume(), Deno.errors.BadResource);
  assertEquals(listener.addr.port, port);
});

engineTest("TcpListener.close() has freed the port when a waiting accept is rejected", async (engine) => {
  const first = TcpListener.bind({ ...LOCAL, engine });
  const accepting = assertRejects(() => first.accept(), Deno.errors.BadResource);
  first.close();
  await accepting;
  using second = TcpListener.bind({ ...LOCAL, port: first.addr.port, engine });
  assertEquals(second.addr.port, first.addr.port);
});

engineTest("TcpListener iteration ends cleanly on close, from inside and from outside", async (engine) => {
  for (const inside of [true, false]) {
    const listener = TcpListener.bind({ ...LOCAL, engine });
    using _client = await TcpConn.connect({ port: listener.addr.port, engine });
    let count = 0;
    for await (const conn of listener) {
      count++;
      conn.close();
      if (inside) listener.close();
      else setTimeout(() => listener.close(), 5);
    }
    assertEquals(count, 1);
  }
});

engineTest("TcpListener iteration that is left early leaves the listener open", async (engine) => {
  using listener = TcpListener.bind({ ...LOCAL, engine });
  using _a = await TcpConn.connect({ port: listener.addr.port, engine });
  for await (const conn of listener) {
    conn.close();
    break;
  }
  using _b = await TcpConn.connect({ port: listener.addr.port, engine });
  (await listener.accept()).close();
});

for (const engine of ENGINES) {
  const name = `[${engine}] TcpListener tells of a shortage of descriptors, and goes on when there are some again`;
  // The limit is the shell's, for this process alone.
  Deno.test({ name, ignore: Deno.build.os !== "linux", fn: () => runShort(engine) });
}

async function runShort(engine: Engine): Promise<void> {
  const source = `
    import { TcpConn, TcpListener, TcpSocket } from "${import.meta.resolve("@c10k/sockets/tcp")}";
    const codes = new Set();
    const onAcceptError = (error) => codes.add(error.code);
    const engine = "${engine}";
    using listener = TcpListener.bind({ hostname: "127.0.0.1", port: 0, engine, onAcceptError });
    using client = await TcpConn.connect({ port: listener.addr.port, engine });
    const files = [];
    try {
      while (true) files.push(Deno.openSync("/dev/null"));
    } catch { /* no more */ }
    try {
      TcpSocket.open("IPv4");
    } catch (error) {
      console.log(error.message);
    }
    const accepting = listener.accept();
    while (codes.size === 0) await new Promise((resolve) => setTimeout(resolve, 1));
    for (const file of files) file.close();
    using server = await accepting;
    console.log(...codes, server.remoteAddr.port === client.localAddr.port);`;
  const url = `data:text/javascript,${encodeURIComponent(source)}`;
  const args = ["-c", 'ulimit -n 100; exec "$0" run --quiet --no-lock --no-check -A "$1"', Deno.execPath(), url];
  const { stdout, stderr } = await new Deno.Command("sh", { args, cwd: ROOT, env: { NO_COLOR: "1" } }).output();
  const open = ENGINES.includes("native")
    ? "Cannot open TCP socket: too many open files in this process (EMFILE)\n"
    : "Cannot open TCP socket on the native engine: ";
  assertStringIncludes(decode(stdout), open, decode(stderr));
  assert(decode(stdout).endsWith("EMFILE true\n"), decode(stdout));
}

engineTest("TcpListener closes connections that nobody took", async (engine) => {
  const listener = TcpListener.bind({ ...LOCAL, engine });
  assertEquals(listener.tryAccept(), undefined);
  using client = await TcpConn.connect({ port: listener.addr.port, engine });
  await delay(5);
  listener.close();
  const end = await client.read(new Uint8Array(1)).catch((error) => error);
  assert(end === null || end instanceof Deno.errors.ConnectionReset, Deno.inspect(end));
});
