/** `examples/echo.ts` and `examples/mux_echo.ts` with clients that nobody here wrote, and with clients that misbehave. */

import { Multiplexer } from "@c10k/sockets/mux";
import { type Engine, TcpConn, TcpListener } from "@c10k/sockets/tcp";
import { assert, assertEquals, assertLess, assertStringIncludes } from "@std/assert";
import { delay } from "@std/async";
import net from "node:net";
import {
  checksum,
  clientTest,
  decode,
  encode,
  ENGINES,
  eventually,
  randomBytes,
  readExactly,
  readText,
  run,
  ServerProcess,
} from "./_util.ts";

const EXAMPLE = "examples/echo.ts";

/** The echo server in one of its forms. */
interface Variant {
  readonly name: string;
  readonly engine: Engine;
  start(): Promise<ServerProcess>;
}

const VARIANTS: readonly Variant[] = [
  ...ENGINES.map((engine): Variant => ({ name: engine, engine, start: () => startEcho(engine) })),
  ...Multiplexer.backends().map((backend): Variant => {
    const engine = backend === "runtime" ? "runtime" : "native";
    const args = ["examples/mux_echo.ts", "--port", "0", "--backend", backend];
    return { name: `mux ${backend}`, engine, start: () => ServerProcess.start([...permissions(engine), ...args]) };
  }),
];

/** No more than an engine needs. */
function permissions(engine: string): string[] {
  return engine === "native" ? ["--allow-net", "--allow-ffi"] : ["--allow-net"];
}

/** Starts the example on an engine. */
function startEcho(engine: string = "runtime"): Promise<ServerProcess> {
  return ServerProcess.start([...permissions(engine), EXAMPLE, "--port", "0", "--engine", engine]);
}

/** Runs a client program, feeds it, and returns what it printed. */
async function feed(command: string, args: string[], input: Uint8Array): Promise<Uint8Array<ArrayBuffer>> {
  const child = new Deno.Command(command, { args, stdin: "piped", stdout: "piped" }).spawn();
  const feeding = (async () => {
    const writer = child.stdin.getWriter();
    await writer.write(input);
    await writer.close();
  })();
  const { code, stdout } = await child.output();
  await feeding;
  assertEquals(code, 0);
  return stdout;
}

for (const { name, engine, start } of VARIANTS) {
  clientTest(["socat"], `[${name}] echo example gives back 64 MiB unchanged`, async () => {
    await using server = await start();
    const data = randomBytes(64 * 1024 * 1024);
    const args = ["-t", "30", "-b", "65536", "-", `TCP:127.0.0.1:${server.port}`];
    const echoed = await feed("socat", args, data);
    assertEquals(echoed.length, data.length);
    assertEquals(await checksum(echoed), await checksum(data));
  });

  // Only OpenBSD's nc, of Debian's netcat-openbsd, has -N; macOS gives it another meaning.
  clientTest(
    [Deno.build.os === "linux" ? "nc.openbsd" : "netcat-openbsd"],
    `[${name}] echo example gives a client that shuts down its side all its echoes`,
    async () => {
      await using server = await start();
      const data = randomBytes(1024 * 1024);
      // -N: shutdown(2) after end-of-file on stdin; the server ends the connection.
      assertEquals(
        await checksum(await feed("nc.openbsd", ["-N", "127.0.0.1", String(server.port)], data)),
        await checksum(data),
      );
    },
  );

  Deno.test(`[${name}] echo example serves 200 clients at once, each with its own data`, async () => {
    await using server = await start();
    await Promise.all(Array.from({ length: 200 }, async (_, i) => {
      using conn = await TcpConn.connect({ port: server.port, engine });
      for (let round = 0; round < 10; round++) {
        const message = randomBytes(1 + (i * 37 + round * 991) % 5000);
        const [echoed] = await Promise.all([readExactly(conn, message.length), conn.writeAll(message)]);
        assertEquals(echoed, message);
      }
      await conn.closeWrite();
      assertEquals(await conn.read(new Uint8Array(1)), null);
    }));
  });

  Deno.test(`[${name}] echo example is not disturbed by clients that reset, vanish or never read`, async () => {
    await using server = await start();
    using steady = await TcpConn.connect({ port: server.port, engine });
    const echo = async () => {
      await steady.writeAll(encode("are you there?"));
      assertEquals(decode(await readExactly(steady, 14)), "are you there?");
    };
    await echo();

    // Reset in the middle of sending, and of receiving.
    for (let i = 0; i < 20; i++) {
      const socket = net.connect(server.port, "127.0.0.1");
      socket.on("error", () => {});
      await new Promise((resolve) => socket.once("connect", resolve));
      socket.write(new Uint8Array(i * 10_000));
      if (i % 2 === 0) await delay(2);
      const closed = new Promise((resolve) => socket.once("close", resolve));
      socket.resetAndDestroy();
      await closed;
      await echo();
    }
    // Gone in the middle of a write, with echoes unread.
    for (let i = 0; i < 20; i++) {
      const conn = await TcpConn.connect({ port: server.port, engine });
      const writing = conn.writeAll(new Uint8Array(1_000_000)).catch(() => {});
      await delay(1);
      conn.close();
      await writing;
      await echo();
    }
    assertEquals(server.stderr.join(""), "");
  });

  Deno.test({
    name: `[${name}] echo example gives slow readers backpressure, not memory`,
    ignore: Deno.build.os !== "linux", // the memory is read from /proc
    async fn() {
      await using server = await start();
      const flood = new Uint8Array(1024 * 1024);
      const conns: TcpConn[] = [];
      const writing: Promise<unknown>[] = [];
      const before = server.rss();
      let accepted = 0;
      for (let i = 0; i < 20; i++) {
        const conn = await TcpConn.connect({ port: server.port, engine });
        conns.push(conn);
        // 64 MiB each, 1.25 GiB together, and nobody reads an echo.
        writing.push(
          (async () => {
            for (let n = 0; n < 64; n++) {
              await conn.writeAll(flood);
              accepted++;
            }
          })().catch(() => {}),
        );
      }
      let last = -1;
      while (accepted !== last) {
        last = accepted;
        await delay(300);
      }
      const growth = (server.rss() - before) / 1024 / 1024;
      for (const conn of conns) conn.close();
      await Promise.all(writing);
      assertLess(accepted, 20 * 64, "the writers wait");
      assertLess(growth, 64, `the server grew by ${growth.toFixed(1)} MiB`);
    },
  });
}

Deno.test("echo example says where it listens and how to try it", async () => {
  await using server = await startEcho();
  // Its lines may come in pieces.
  const all = /listening on 127\.0\.0\.1:\d+\nengine runtime: .+\ntry it: nc 127\.0\.0\.1 \d+\n/;
  await eventually(() => all.test(server.stdout.join("")) ? true : undefined);
});

for (
  const [args, problem] of [
    [["--port", "http"], '--port takes a number from 0 to 65535, not "http"'],
    [["--port", "65536"], '--port takes a number from 0 to 65535, not "65536"'],
    [["--port=-1"], '--port takes a number from 0 to 65535, not "-1"'],
    [["--port"], '--port takes a number from 0 to 65535, not ""'],
    [["--engine", "warp"], '--engine takes auto, runtime or native, not "warp"'],
    [["--host", "a b"], 'hostname must be an IP address or a host name, received "a b"'],
    [["--backlog", "5"], 'Unknown argument "--backlog"'],
    [["extra"], 'Unknown argument "extra"'],
  ] as const
) {
  Deno.test(`echo example refuses ${args.join(" ")} with one line and exit code 2`, async () => {
    const { code, stdout, stderr } = await run(["run", "--allow-net", EXAMPLE, ...args]);
    assertEquals([code, stdout], [2, ""]);
    assertStringIncludes(stderr, problem);
    assertEquals(stderr.trimEnd().split("\n").length, 1);
  });
}

Deno.test("echo example on a port in use gives the error's message and exit code 1", async () => {
  using taken = TcpListener.bind({ hostname: "127.0.0.1", port: 0, engine: "runtime" });
  const { port } = taken.addr;
  const { code, stderr } = await run(["run", "--allow-net", EXAMPLE, "--port", String(port)]);
  const message = `Cannot bind TCP listener to 127.0.0.1:${port}: address already in use (EADDRINUSE)\n`;
  assertEquals([code, stderr], [1, message]);
});

for (const signal of Deno.build.os === "windows" ? [] : ["SIGINT", "SIGTERM"] as const) {
  Deno.test(`echo example on ${signal} stops accepting, lets connections finish and exits with 0`, async () => {
    await using server = await startEcho();
    using conn = await TcpConn.connect({ port: server.port });
    await conn.writeAll(encode("before"));
    assertEquals(await readText(conn), "before");
    const stopping = server.stop(signal);
    // Refused as soon as the listener is gone.
    while (await TcpConn.connect({ port: server.port }).then((late) => (late.close(), true), () => false)) {
      await delay(5);
    }
    await conn.writeAll(encode("after"));
    assertEquals(await readText(conn), "after");
    await conn.closeWrite();
    assertEquals(await readText(conn), null);
    assertEquals(await stopping, 0);
  });
}

Deno.test({
  name: "echo example on SIGTERM cuts connections that do not finish within 5 s",
  ignore: Deno.build.os === "windows",
  async fn() {
    await using server = await startEcho();
    using conn = await TcpConn.connect({ port: server.port });
    await conn.writeAll(encode("accepted?"));
    assertEquals(await readText(conn), "accepted?");
    const begin = performance.now();
    assertEquals(await server.stop("SIGTERM"), 0);
    const took = performance.now() - begin;
    assert(took > 4_500 && took < 8_000, `it took ${took} ms`);
    const end = await conn.read(new Uint8Array(1)).catch((error) => error);
    assert(end === null || end instanceof Deno.errors.ConnectionReset);
  },
});
