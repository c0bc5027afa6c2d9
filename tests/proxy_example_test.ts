/** `examples/proxy.ts` on both engines: curl through it to Deno.serve and nginx, and peers that misbehave on either side. */

import { type Engine, TcpConn, TcpListener } from "@c10k/sockets/tcp";
import { assert, assertEquals, assertLess, assertRejects, assertStringIncludes } from "@std/assert";
import { delay } from "@std/async";
import { Nginx } from "./_nginx.ts";
import { pipe, Program } from "./_program.ts";
import {
  checksum,
  clientTest,
  decode,
  encode,
  ENGINES,
  eventually,
  freePort,
  oneOf,
  randomBytes,
  readExactly,
  readText,
  readToEnd,
  run,
  ServerProcess,
  socketTest,
  some,
  withoutLeaks,
} from "./_util.ts";

const EXAMPLE = "examples/proxy.ts";
const MIB = 1024 * 1024;

/** Starts the example for servers on these ports, with no more permissions than the engine needs. */
function start(engine: Engine, ports: number[], ...flags: string[]): Promise<ServerProcess> {
  const permissions = engine === "native" ? ["--allow-net", "--allow-ffi"] : ["--allow-net"];
  const servers = ports.map((port) => `127.0.0.1:${port}`);
  return ServerProcess.start([...permissions, EXAMPLE, "--port", "0", "--engine", engine, ...flags, ...servers]);
}

function serveHttp(name: string, milliseconds = 0): Promise<ServerProcess> {
  return ServerProcess.start(["--allow-net", "tests/children/http_server.ts", name, String(milliseconds)]);
}

/** The paths that a server of ours was asked for. */
function requestsOf(server: ServerProcess): string[] {
  return server.stdout.join("").split("\n").filter((line) => line.startsWith("/"));
}

/** Waits until the proxy has said something. */
async function said(proxy: ServerProcess, pattern: RegExp): Promise<void> {
  await eventually(() => pattern.test(proxy.stdout.join("")) || undefined);
}

/** A server in this process. */
function listen(): TcpListener {
  return TcpListener.bind({ hostname: "127.0.0.1", port: 0 });
}

/** A connection through the proxy, from client to server. */
async function connect(proxy: ServerProcess, listener: TcpListener): Promise<[client: TcpConn, server: TcpConn]> {
  return await Promise.all([TcpConn.connect({ port: proxy.port }), listener.accept()]);
}

for (const engine of oneOf("proxy", ENGINES)) {
  clientTest(
    ["curl", "nginx"],
    `[${engine}] proxy example balances over Deno.serve and nginx, of which one that is killed loses what it had begun`,
    async () => {
      await using one = await Nginx.start("nginx 1");
      await using two = await Nginx.start("nginx 2");
      await using three = await serveHttp("deno 3");
      await using four = await serveHttp("deno 4", 20);
      // No look at their health while this takes: clients' connections meet the dead server.
      const ports = [one, two, three, four].map(({ port }) => port);
      await using proxy = await start(engine, ports, "--timeout", "60000");
      const url = `http://127.0.0.1:${proxy.port}`;
      const turns = [...Array(8).keys()].map((i) => `${url}/turn${i}`);
      const names = await pipe("curl", ["-sS", ...turns, "-H", "Connection: close"]);
      assertEquals(decode(names), "nginx 1\nnginx 2\ndeno 3\ndeno 4\n".repeat(2));

      const [total, together] = [400, 8];
      await using curl = new Program("curl", [
        ...["--silent", "--parallel", "--parallel-max", String(together), "--header", "Connection: close"],
        ...["--output", "/dev/null", "--write-out", "%{http_code} %{url_effective}\n", `${url}/[1-${total}]`],
      ]);
      await eventually(() => requestsOf(four).length >= 12 || undefined);
      await four.stop("SIGKILL");
      await curl.ended();
      const results = [...curl.stdout.matchAll(/^(\d+) .*(\/\d+)$/gm)].map(([, code, path]) => ({ code, path }));
      assertEquals(results.length, total);
      const failed = results.filter(({ code }) => code !== "200").map(({ path }) => path);
      assertLess(failed.length, together + 1, "no more than were in flight");
      const elsewhere = [...one.requests(), ...two.requests(), ...requestsOf(three)];
      assertEquals(elsewhere.filter((path) => failed.includes(path)), [], "and only those to the one that was killed");
      const all = [...elsewhere, ...requestsOf(four)];
      assertEquals(all.length, new Set(all).size, "nothing is asked twice");
      await said(proxy, new RegExp(`:${four.port} is down: .*ECONN`));
      assertEquals(proxy.stderr.join(""), "");
    },
  );

  clientTest(["curl", "nginx"], `[${engine}] proxy example passes on large bodies in both directions`, async () => {
    await using nginx = await Nginx.start("nginx");
    await using deno = await serveHttp("deno");
    await using proxy = await start(engine, [deno.port, nginx.port]);
    const url = `http://127.0.0.1:${proxy.port}`;
    const data = randomBytes(16 * MIB);
    await Deno.writeFile(`${nginx.folder}/files/big`, data);
    for (const args of [["--data-binary", `@${nginx.folder}/files/big`, "-H", "Expect:", url], [`${url}/files/big`]]) {
      const body = await pipe("curl", ["-sS", "--fail", ...args]);
      assertEquals([body.length, await checksum(body)], [data.length, await checksum(data)]);
    }
  });

  clientTest(
    ["nc.openbsd", "socat"],
    `[${engine}] proxy example passes on that one side has finished, in both directions`,
    () =>
      withoutLeaks(async () => {
        // sha256sum says nothing before the end of its input.
        const port = freePort();
        await using socat = new Program("socat", [
          "-d",
          "-d",
          `TCP-LISTEN:${port},bind=127.0.0.1,fork`,
          "EXEC:sha256sum",
        ]);
        await socat.until(/listening on/);
        await using proxy = await start(engine, [port]);
        const data = randomBytes(MIB);
        const sum = decode(await pipe("nc.openbsd", ["-N", "127.0.0.1", String(proxy.port)], data));
        assertEquals(sum, `${await checksum(data)}  -\n`);

        using listener = listen();
        await using second = await start(engine, [listener.addr.port]);
        const [client, server] = await connect(second, listener);
        await server.writeAll(encode("only this"));
        await server.closeWrite();
        assertEquals([await readText(client), await readText(client)], ["only this", null]);
        await client.writeAll(encode("and still"));
        assertEquals(await readText(server), "and still");
        client.close();
        assertEquals(await readText(server), null);
        server.close();
      }),
  );

  socketTest(`[${engine}] proxy example passes on a reset`, async () => {
    using listener = listen();
    await using proxy = await start(engine, [listener.addr.port]);
    for (const first of ["client", "server"] as const) {
      const [client, server] = await connect(proxy, listener);
      const [from, to] = first === "client" ? [client, server] : [server, client];
      await from.writeAll(encode("x"));
      assertEquals(await readText(to), "x");
      if (from.engine === "native") from.reset();
      else from.close();
      if (engine === "native") await assertRejects(() => readText(to), Deno.errors.ConnectionReset);
      else assertEquals(await readText(to).catch(() => null), null);
      to.close();
    }
  });

  socketTest(`[${engine}] proxy example slows down a server whose client does not read`, async () => {
    using listener = listen();
    await using proxy = await start(engine, [listener.addr.port]);
    const [client, server] = await connect(proxy, listener);
    const before = Deno.build.os === "linux" ? proxy.rss() : 0;
    let sent = 0;
    let isOver = false;
    const sending = (async () => {
      for (; !isOver && sent < 512; sent++) await server.writeAll(new Uint8Array(MIB));
      await server.closeWrite();
    })();
    for (let last = -1; sent === 0 || sent > last; await delay(200)) last = sent;
    assertLess(sent, 64, "MiB until it has to wait");
    if (before > 0) assertLess((proxy.rss() - before) / MIB, 32, "MiB that the proxy grows by");
    isOver = true;
    const received = await readToEnd(client);
    await sending;
    assertEquals(received, sent * MIB);
    client.close();
    server.close();
  });

  socketTest(`[${engine}] proxy example goes to another server when one does not accept in time`, async () => {
    // With a full queue the kernel drops what asks for a connection.
    using full = TcpListener.bind({ hostname: "127.0.0.1", port: 0, backlog: 0, engine: "native" });
    using _waiting = await TcpConn.connect({ port: full.addr.port });
    using listener = listen();
    await using proxy = await start(engine, [full.addr.port, listener.addr.port], "--timeout", "400");
    const begin = performance.now();
    using client = await TcpConn.connect({ port: proxy.port });
    await client.writeAll(encode("here"));
    let text: string | null = null;
    // Others are looks at the server's health.
    while (text === null) {
      using server = await listener.accept();
      text = await readText(server);
    }
    assertEquals(text, "here");
    assert(performance.now() - begin > 390, "it has waited");
    await said(proxy, new RegExp(`:${full.addr.port} is down: .*no connection within 400 ms`));
  }, !ENGINES.includes("native"));

  socketTest(`[${engine}] proxy example with --balance least-connections prefers the server with fewer`, async () => {
    using left = listen();
    using right = listen();
    await using proxy = await start(
      engine,
      [left.addr.port, right.addr.port],
      ...["--balance", "least-connections", "--timeout", "60000"],
    );
    const open = { left: [] as [TcpConn, TcpConn][], right: [] as [TcpConn, TcpConn][] };
    const next = async () => {
      const stop = new AbortController();
      const client = await TcpConn.connect({ port: proxy.port });
      const accept = async (side: "left" | "right", listener: TcpListener) => {
        const server = await listener.accept({ signal: stop.signal });
        stop.abort();
        open[side].push([client, server]);
      };
      await Promise.allSettled([accept("left", left), accept("right", right)]);
    };
    for (let i = 0; i < 4; i++) await next();
    assertEquals([open.left.length, open.right.length], [2, 2]);
    for (const [client, server] of open.left.splice(0)) {
      await client.closeWrite();
      assertEquals(await readText(server), null);
      server.close();
      assertEquals(await readText(client), null);
      client.close();
    }
    for (let i = 0; i < 2; i++) await next();
    assertEquals([open.left.length, open.right.length], [2, 2]);
    for (const conn of [...open.left, ...open.right].flat()) conn.close();
  });

  clientTest(["curl"], `[${engine}] proxy example looks whether servers are there, and says when none is`, async () => {
    const serve = (port: number) =>
      Deno.serve({ hostname: "127.0.0.1", port, onListen: () => {} }, () => new Response("here\n"));
    const first = serve(0);
    const { port } = first.addr;
    await using proxy = await start(engine, [port], "--timeout", "100");
    const url = `http://127.0.0.1:${proxy.port}`;
    assertEquals(decode(await pipe("curl", ["-sS", url])), "here\n");
    await first.shutdown();
    await said(proxy, new RegExp(`:${port} is down: .*\\nno server is left: .*\\n`));
    // "Couldn't connect", "empty reply" or "failure in receiving", by when the end comes.
    await using curl = new Program("curl", ["-sS", url]);
    const code = await curl.ended();
    assert([7, 52, 56].includes(code), `${code} ${curl.stderr}`);
    const second = serve(port);
    await said(proxy, new RegExp(`:${port} is up\\n`));
    assertEquals(decode(await pipe("curl", ["-sS", url])), "here\n");
    await second.shutdown();
  });

  socketTest(
    `[${engine}] proxy example on SIGTERM lets connections finish for --grace, and then cuts them`,
    async () => {
      using listener = listen();
      for (const isPatient of [true, false]) {
        await using proxy = await start(engine, [listener.addr.port], "--grace", isPatient ? "20000" : "300");
        const [client, server] = await connect(proxy, listener);
        const stopping = proxy.stop("SIGTERM");
        await said(proxy, /stopping: 1 open, Ctrl-C again to cut/);
        await assertRejects(() => TcpConn.connect({ port: proxy.port }), Deno.errors.ConnectionRefused);
        await client.writeAll(encode("after"));
        assertEquals(decode(await readExactly(server, 5)), "after");
        if (isPatient) {
          await client.closeWrite();
          assertEquals(await readText(server), null);
          server.close();
        }
        assertEquals(await readText(client).catch(() => null), null);
        assertEquals(await stopping, 0);
        client.close();
        server.close();
      }
    },
    Deno.build.os === "windows",
  );
}

Deno.test("proxy example says where it listens and how to try it", async () => {
  await using proxy = await start("runtime", [9]);
  const all = /^listening on 127\.0\.0\.1:\d+, engine runtime\ntry it: curl http:\/\/127\.0\.0\.1:\d+\/\n/;
  await said(proxy, all);
});

for (
  const [args, problem] of some(
    2,
    [
      [[], "No server is given"],
      [["127.0.0.1"], 'A server is given as HOST:PORT, not as "127.0.0.1"'],
      [["a:65536"], 'A server is given as HOST:PORT, not as "a:65536"'],
      [["::1:80"], 'A server is given as HOST:PORT, not as "::1:80"'],
      [["--balance", "random", "a:1"], '--balance cannot be "random"'],
      [["--timeout", "0", "a:1"], '--timeout cannot be "0"'],
      [["--port", "http", "a:1"], '--port cannot be "http"'],
      [["--retries", "5", "a:1"], 'Unknown argument "--retries"'],
    ] as const,
  )
) {
  Deno.test(`proxy example refuses ${args.join(" ") || "nothing"} with one line and exit code 2`, async () => {
    const { code, stdout, stderr } = await run(["run", "--allow-net", EXAMPLE, ...args]);
    assertEquals([code, stdout], [2, ""]);
    assertStringIncludes(stderr, problem);
    assertEquals(stderr.trimEnd().split("\n").length, 1);
  });
}
