/** The conformance suite of {@linkcode TcpListener}: the same on every engine. */

import { type Engine, TcpConn, TcpListener } from "@c10k/sockets/tcp";
import { assert, assertEquals, assertRejects, assertStringIncludes, assertThrows } from "@std/assert";
import { deadline, delay } from "@std/async";
import { decode, encode, ENGINES, engineTest, eventually, hasCommand, readText, ROOT, runWithin } from "./_util.ts";
import { Multiplexer } from "@c10k/sockets/mux";

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
    await assertRejects(() => accept, Deno.errors.BadResource, "listener was closed meanwhile (EBADF)");
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
    // Deno begins to listen for it itself after half a second, and fails if there is no descriptor then.
    Deno.addSignalListener("SIGUSR1", () => {});
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
    console.log(...codes, server.remoteAddr.port === client.localAddr.port);
    Deno.exit();`;
  const url = `data:text/javascript,${encodeURIComponent(source)}`;
  const args = ["-c", 'ulimit -n 100; exec "$0" run --quiet --no-lock --no-check -A "$1"', Deno.execPath(), url];
  const { stdout, stderr } = await new Deno.Command("sh", { args, cwd: ROOT, env: { NO_COLOR: "1" } }).output();
  const open = ENGINES.includes("native")
    ? "Cannot open TCP socket: too many open files in this process (EMFILE)\n"
    : "Cannot open TCP socket on the native engine: ";
  assertStringIncludes(decode(stdout), open, decode(stderr));
  assert(decode(stdout).endsWith("EMFILE true\n"), decode(stdout) + decode(stderr));
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

/** Clients that have connected and sent a request, and that no call has accepted. */
async function queued(count: number, port: number): Promise<TcpConn[]> {
  return await Promise.all(Array.from({ length: count }, async (_, i) => {
    const client = await TcpConn.connect({ port });
    await client.writeAll(encode(`request ${i}`));
    return client;
  }));
}

/** Answers one request. */
async function answer(conn: TcpConn): Promise<void> {
  await conn.writeAll(encode(`answer to ${await readText(conn)}`));
  conn.close();
}

engineTest("TcpListener.drain() hands out every connection of the queue, and then loops end", async (engine) => {
  using listener = TcpListener.bind({ ...LOCAL, engine });
  const { port } = listener.addr;
  const clients = await queued(100, port);
  const drained = listener.drain();
  const answering: Promise<void>[] = [];
  for await (const conn of listener) answering.push(answer(conn));
  assertEquals(answering.length, 100);
  await Promise.all([drained, ...answering]);
  for (const [i, client] of clients.entries()) {
    assertEquals(await readText(client), `answer to request ${i}`);
    client.close();
  }
  await assertRejects(() => TcpConn.connect({ port }), Deno.errors.ConnectionRefused);
  await assertRejects(() => listener.accept(), Deno.errors.BadResource);
  assertThrows(() => listener.tryAccept(), Deno.errors.BadResource);
  listener.pause();
  listener.resume(); // as a program does when a connection has ended: nothing happens
  assertEquals(listener.addr.port, port);
});

engineTest("TcpListener.drain() hands out the queue also if the listener keeps no program alive", async (engine) => {
  using listener = TcpListener.bind({ ...LOCAL, engine });
  const [client] = await queued(1, listener.addr.port);
  listener.unref();
  // Something else keeps the program alive.
  const [conn] = await deadline(Promise.all([listener.accept(), listener.drain()]), 5_000);
  await answer(conn);
  assertEquals(await readText(client as TcpConn), "answer to request 0");
  client?.close();
});

engineTest("TcpListener.drain() while a loop waits gives it what has just connected, and ends it", async (engine) => {
  using listener = TcpListener.bind({ ...LOCAL, engine });
  const answering: Promise<void>[] = [];
  const loop = (async () => {
    for await (const conn of listener) answering.push(answer(conn));
  })();
  const clients = await queued(3, listener.addr.port);
  await listener.drain();
  await loop;
  await Promise.all(answering);
  assertEquals(answering.length, 3);
  for (const client of clients) client.close();
});

engineTest(
  "TcpListener.drain() serves the calls that wait in their order, and rejects those left over",
  async (engine) => {
    using listener = TcpListener.bind({ ...LOCAL, engine });
    listener.pause();
    const accepts = Array.from({ length: 4 }, () => listener.accept());
    const late = accepts.map((accept) => accept.then((conn) => conn.close(), (error) => error.name));
    const clients = await queued(2, listener.addr.port);
    await listener.drain();
    listener.pause(); // one that is paused holds them back
    assertEquals(await Promise.race([accepts[0], delay(20)]), undefined);
    listener.resume();
    assertEquals(await Promise.all(late), [undefined, undefined, "BadResource", "BadResource"]);
    for (const client of clients) client.close();
  },
);

engineTest(
  "TcpListener.drain() leaves connections to tryAccept(), and close() closes those left over",
  async (engine) => {
    const listener = TcpListener.bind({ ...LOCAL, engine });
    const clients = await queued(3, listener.addr.port);
    const drained = listener.drain();
    assertEquals(listener.drain(), drained); // the same end
    await drained;
    const [first, second] = [listener.tryAccept(), listener.tryAccept()];
    assert(first !== undefined && second !== undefined);
    listener.close();
    assertThrows(() => listener.tryAccept(), Deno.errors.BadResource);
    await listener.drain(); // of a closed one
    const closed = TcpListener.bind({ ...LOCAL, engine });
    closed.close();
    await closed.drain();
    await Promise.all([answer(first), answer(second)]);
    const answers = await Promise.all(clients.map((client) => readText(client).catch(() => "reset")));
    assertEquals(answers.map((text) => text?.startsWith("answer") ?? false), [true, true, false]);
    for (const client of clients) client.close();
  },
);

engineTest("TcpListener.drain() takes the listener out of a multiplexer, and a loop gets the rest", async (engine) => {
  using listener = TcpListener.bind({ ...LOCAL, engine });
  using mux = new Multiplexer<string>({ backend: engine === "native" ? "auto" : "runtime" });
  mux.register(listener, { readable: true }, "listener");
  const clients = await queued(3, listener.addr.port);
  assertEquals((await mux.wait()).map(({ data }) => data), ["listener"]);
  const drained = listener.drain();
  assertEquals(mux.size, 0);
  let count = 0;
  for await (const conn of listener) mux.register(conn, { readable: true }, String(++count));
  assertEquals(count, 3);
  for (const { source } of [...mux.registrations()]) (source as TcpConn).close();
  for (const client of clients) client.close();
  await drained;
});

Deno.test({
  name: "TcpListener.drain() accepts as descriptors become free, when there are too few for the queue",
  async fn() {
    const program = `
      import { TcpConn, TcpListener } from "@c10k/sockets/tcp";
      // Deno opens its own descriptors for signals some time after its start, and panics if there are none by then.
      Deno.addSignalListener("SIGUSR1", () => {});
      for (const engine of ${JSON.stringify(ENGINES)}) {
        let reports = 0;
        const listener = TcpListener.bind({ ...${JSON.stringify(LOCAL)}, engine, onAcceptError: () => reports++ });
        const { port } = listener.addr;
        const script = "import socket, sys; c = [socket.create_connection(('127.0.0.1', int(sys.argv[1]))) for _ in range(40)];" +
          "[s.sendall(b'x') for s in c]; print('there', flush=True); print(sum(len(s.recv(9)) for s in c))";
        const clients = new Deno.Command("python3", { args: ["-c", script, String(port)], stdout: "piped" }).spawn();
        const reader = clients.stdout.pipeThrough(new TextDecoderStream()).getReader();
        await reader.read();
        const held: Deno.FsFile[] = [];
        while (true) try { held.push(Deno.openSync("/dev/null")); } catch { break; }
        for (const file of held.splice(0, 8)) file.close(); // fewer than the clients
        listener.drain();
        let served = 0;
        const open = new Set<Promise<void>>();
        for await (const conn of listener) {
          const done = (async () => {
            const p = new Uint8Array(9);
            const n = await conn.read(p) ?? 0;
            await new Promise((resolve) => setTimeout(resolve, 5));
            await conn.writeAll(p.subarray(0, n));
            conn.close();
            served++;
          })();
          open.add(done);
        }
        await Promise.all(open);
        for (const file of held) file.close();
        let answers = "";
        for (let part = await reader.read(); !part.done; part = await reader.read()) answers += part.value;
        console.log(engine, served, answers.trim(), reports > 0);
        await clients.status;
      }
      Deno.exit(0);
    `;
    const { code, stdout, stderr } = await runWithin(80, program);
    assertEquals([code, stderr], [0, ""]);
    assertEquals(stdout.trim().split("\n"), ENGINES.map((engine) => `${engine} 40 40 true`));
  },
  ignore: Deno.build.os !== "linux" || !hasCommand("python3"),
});

engineTest("TcpListener.drain() of a paused listener ends the calls and the loop that wait", async (engine) => {
  const listener = TcpListener.bind({ hostname: "127.0.0.1", port: 0, engine });
  const waiting = assertRejects(() => listener.accept(), Deno.errors.BadResource, "listener was closed meanwhile");
  const loop = (async () => {
    for await (const conn of listener) conn.close();
  })();
  listener.pause();
  await listener.drain();
  await waiting;
  await loop;
});
