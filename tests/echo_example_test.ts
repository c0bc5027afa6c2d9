/** `examples/echo.ts` in all its models, with clients that nobody here wrote, and with clients that misbehave. */

import { type Engine, TcpConn, TcpListener } from "@c10k/sockets/tcp";
import { assert, assertEquals, assertLess, assertStringIncludes } from "@std/assert";
import { UdpEndpoint } from "@c10k/sockets/udp";
import { deadline, delay } from "@std/async";
import net from "node:net";
import {
  checksum,
  clientTest,
  decode,
  encode,
  ENGINES,
  eventually,
  isChosen,
  long,
  oneOf,
  randomBytes,
  readExactly,
  readText,
  ROOT,
  run,
  ServerProcess,
  some,
} from "./_util.ts";
import { descendants, isAlive } from "./_process.ts";

const EXAMPLE = "examples/echo.ts";

/** The echo server in one of its forms. */
interface Variant {
  readonly name: string;
  readonly engine: Engine;
  /** MiB to send through it: less where others tell the same already. */
  readonly size: number;
  /** Clients at once; starting a thread or a process for each takes its time. */
  readonly clients: number;
  /** Whether its memory can be seen in one process. */
  readonly isOne: boolean;
  start(): Promise<ServerProcess>;
}

/** What `--model` takes beside `async`. */
const MODELS = [
  "iterative",
  "ready",
  "epoll",
  "poll",
  "select",
  "worker",
  "process",
  "worker-per-connection",
  "process-per-connection",
] as const;

const NATIVE = ENGINES.includes("native");

const VARIANTS: readonly Variant[] = [
  ...ENGINES.map((engine): Variant => {
    return { name: engine, engine, size: 64, clients: 200, isOne: true, start: () => startEcho(engine) };
  }),
  {
    name: "mux runtime",
    engine: "runtime",
    size: 16,
    clients: 200,
    isOne: true,
    start: () => ServerProcess.start(["--allow-net", "examples/mux_echo.ts", "--port", "0", "--backend", "runtime"]),
  },
  ...MODELS.map((model): Variant => ({
    name: model,
    engine: NATIVE || model.startsWith("process") ? "native" : "runtime",
    size: model.includes("-") ? 4 : 16,
    clients: model === "iterative" ? 1 : model.includes("-") ? 3 : 200,
    isOne: !model.startsWith("process"),
    start: () => startModel(model),
  })).filter(({ name }) => NATIVE || /iterative|ready|worker/.test(name)),
];

/** No more than an engine needs. */
function permissions(engine: string): string[] {
  return engine === "native" ? ["--allow-net", "--allow-ffi"] : ["--allow-net"];
}

/** Starts the example on an engine. */
function startEcho(engine: string = "runtime"): Promise<ServerProcess> {
  return ServerProcess.start([...permissions(engine), EXAMPLE, "--port", "0", "--engine", engine]);
}

/** Starts the example with one of its models, and with no more than that needs, as it says at its head. */
function startModel(model: string, ...args: string[]): Promise<ServerProcess> {
  const flags = permissions(NATIVE && model !== "async" ? "native" : "runtime");
  if (model.startsWith("worker")) flags.push("--allow-read");
  if (model.startsWith("process")) flags.push("--allow-read", "--allow-run");
  return ServerProcess.start([...flags, EXAMPLE, ...args, "--port", "0", "--model", model]);
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

for (const { name, engine, size, clients, isOne, start } of VARIANTS) {
  if (isChosen(`unchanged ${name}`, 5)) {
    clientTest(["socat"], `[${name}] echo example gives back ${size} MiB unchanged`, async () => {
      await using server = await start();
      const data = randomBytes(size * 1024 * 1024);
      const args = ["-t", "30", "-b", "65536", "-", `TCP:127.0.0.1:${server.port}`];
      const echoed = await feed("socat", args, data);
      assertEquals(echoed.length, data.length);
      assertEquals(await checksum(echoed), await checksum(data));
    });
  }

  // Only OpenBSD's nc, of Debian's netcat-openbsd, has -N; macOS gives it another meaning.
  if (isChosen(`half-close ${name}`, 5)) {
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
  }

  if (isChosen(`at once ${name}`, 5)) {
    Deno.test(`[${name}] echo example serves ${clients} clients at once, each with its own data`, async () => {
      await using server = await start();
      await Promise.all(Array.from({ length: clients }, async (_, i) => {
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
  }

  if (clients < 20) continue;

  if (isChosen(`disturbed ${name}`, 5)) {
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
  }

  if (isChosen(`slow ${name}`, 5)) {
    Deno.test({
      name: `[${name}] echo example gives slow readers backpressure, not memory`,
      // The memory is read from /proc.
      ignore: Deno.build.os !== "linux" || !isOne,
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
}

Deno.test("echo example says where it listens and how to try it", async () => {
  await using server = await startEcho();
  // Its lines may come in pieces.
  const all = /listening on 127\.0\.0\.1:\d+\nengine runtime: .+\ntry it: nc 127\.0\.0\.1 \d+\n/;
  await eventually(() => all.test(server.stdout.join("")) ? true : undefined);
});

Deno.test("echo example refuses what makes no sense, with one line and exit code 2", async () => {
  const cases: [string, string][] = [
    ["--port http", '--port takes a number from 0 to 65535, not "http"'],
    ["--port 65536", '--port takes a number from 0 to 65535, not "65536"'],
    ["--port=-1", '--port takes a number from 0 to 65535, not "-1"'],
    ["--port", '--port takes a number from 0 to 65535, not ""'],
    ["--engine warp", '--engine takes auto, runtime or native, not "warp"'],
    ["--host a_b!", 'hostname must be an IP address or a host name, received "a_b!"'],
    ["--backlog 5", 'Unknown argument "--backlog"'],
    ["extra", 'Unknown argument "extra"'],
    ["--model fork", "--model takes async, iterative, select, poll, epoll, worker, process, worker-per-connection, "],
    ["--model select --engine runtime", "--model select watches the kernel's own sockets"],
    ["--model process --engine runtime", "--model process hands the kernel's own sockets over"],
    ["--model epoll --per connection", "--per goes with --model worker or process, not with epoll"],
    ["--model worker --per day", '--per takes pool or connection, not "day"'],
    ["--model worker --size 0", '--size takes a number from 1 to 10000, not "0"'],
    ["--size 3", "--size is a number of threads or processes, which --model async has none of"],
    ["udp --model worker", "--model worker deals with connections, which udp has none of"],
    ["udp --model epoll --engine runtime", "--model epoll watches the kernel's own sockets"],
  ];
  const check = async ([args, problem]: [string, string]) => {
    const { code, stdout, stderr } = await run(["run", "--allow-net", EXAMPLE, ...args.split(" ")]);
    assertStringIncludes(stderr, problem, args);
    assertEquals([code, stdout, stderr.trimEnd().split("\n").length], [2, "", 1], args);
  };
  while (cases.length > 0) await Promise.all(cases.splice(0, 4).map(check));
});

Deno.test("echo example says what a model needs that is not granted", async () => {
  for (const model of ["epoll", "process"]) {
    const { code, stdout, stderr } = await run(["run", "--no-prompt", "--allow-net", EXAMPLE, "--model", model]);
    assertEquals([code, stdout, stderr.trimEnd().split("\n").length], [1, "", 1]);
    assertStringIncludes(stderr, Deno.build.os === "linux" ? "--allow-ffi" : "Linux");
  }
});

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

for (const [model, ...per] of NATIVE ? oneOf("leave", [["process", "--per", "connection"], ["worker"]] as const) : []) {
  Deno.test(`echo example with --model ${model} ${per.join(" ")} on SIGTERM lets connections finish and leaves nobody behind`, async () => {
    await using server = await startModel(model, ...per);
    using conn = await TcpConn.connect({ port: server.port });
    await conn.writeAll(encode("before"));
    assertEquals(await readText(conn), "before");
    const children = descendants(server.pid);
    assertEquals(children.length, model === "process" ? 1 : 0);
    const stopping = server.stop("SIGTERM");
    while (await TcpConn.connect({ port: server.port }).then((late) => (late.close(), true), () => false)) {
      await delay(5);
    }
    await conn.writeAll(encode("after"));
    assertEquals(await readText(conn), "after");
    await conn.closeWrite();
    assertEquals(await readText(conn), null);
    assertEquals([await stopping, server.stderr.join("")], [0, ""]);
    assertEquals(children.filter(isAlive), []);
  });
}

Deno.test("[iterative] echo example serves the second client once the first has gone", async () => {
  await using server = await startModel("iterative");
  using first = await TcpConn.connect({ port: server.port });
  await first.writeAll(encode("first"));
  assertEquals(await readText(first), "first");
  // The kernel has accepted it, the program has not.
  using second = await TcpConn.connect({ port: server.port });
  await second.writeAll(encode("second"));
  const answer = readText(second);
  assertEquals(await Promise.race([answer, delay(100).then(() => "waits")]), "waits");
  await first.closeWrite();
  assertEquals(await answer, "second");
});

Deno.test({
  name: "[select] echo example turns away what does not fit into an fd_set, says so once and serves the others",
  ignore: !NATIVE,
  async fn() {
    await using server = await startModel("select");
    const conns: TcpConn[] = [];
    try {
      using first = await TcpConn.connect({ port: server.port });
      for (let i = 0; i < 1100; i++) conns.push(await TcpConn.connect({ port: server.port }));
      const end = conns.at(-1)?.read(new Uint8Array(1)).catch((error) => error);
      assert(await end === null || await end instanceof Deno.errors.ConnectionReset);
      await first.writeAll(encode("still here"));
      assertEquals(await readText(first), "still here");
      assertEquals(
        server.stderr.join(""),
        "select takes descriptors below 1024 (FD_SETSIZE), received 1024: use poll or epoll\n",
      );
    } finally {
      for (const conn of conns) conn.close();
    }
  },
});

long(Deno.test)({
  name: "echo example runs in another app, with only its imports changed and no more permissions than it says",
  ignore: !NATIVE,
  async fn() {
    const app = await Deno.makeTempDir();
    try {
      const links = [new URL(".", ROOT).pathname, new URL("tools/std/cli", ROOT).pathname];
      await Deno.writeTextFile(`${app}/deno.json`, JSON.stringify({ links }));
      await Deno.mkdir(`${app}/examples/echo_models`, { recursive: true });
      const models = ["async", "pool", "program"].map((name) => `echo_models/${name}.ts`);
      for (const file of ["echo.ts", "echo_child.ts", "mux_echo.ts", "udp_echo.ts", ...models]) {
        const text = await Deno.readTextFile(new URL(`examples/${file}`, ROOT));
        const changed = text.replaceAll(/ from "(@(?:c10k|std)\/)/g, ' from "jsr:$1');
        await Deno.writeTextFile(`${app}/examples/${file}`, changed);
      }
      const head = await Deno.readTextFile(new URL(EXAMPLE, ROOT));
      const commands = [...head.matchAll(/^ \* {5}deno run (.*?) *(?:#.*)?$/gm)].map(([, command = ""]) => command);
      assertEquals(commands.length, 5);
      for (const command of commands) {
        await using server = await ServerProcess.start([...command.split(" "), "--port", "0"], {}, app);
        if (command.includes(" udp")) continue; // it listens
        using conn = await TcpConn.connect({ port: server.port });
        await conn.writeAll(encode(command));
        assertEquals(await readText(conn), command);
      }
    } finally {
      await Deno.remove(app, { recursive: true });
    }
  },
});

const UDP: readonly [string, string[]][] = [
  ...ENGINES.map((engine) =>
    [`async, ${engine}`, [...permissions(engine), EXAMPLE, "udp", "--engine", engine]] as const
  ),
  ...(NATIVE ? ["select", "poll", "epoll"] : []).map((model) =>
    [model, [...permissions("native"), EXAMPLE, "udp", "--model", model]] as const
  ),
].map(([name, args]) => [name, [...args]]);

for (const [name, args] of some(2, UDP)) {
  clientTest(["socat"], `[udp ${name}] echo example sends datagrams back whole, each to its sender`, async () => {
    await using server = await ServerProcess.start([...args, "--port", "0"]);
    const socat = ["-b", "65536", "-t", "0.3", "-", `UDP:127.0.0.1:${server.port}`];
    assertEquals(decode(await feed("socat", socat, encode("hello socat"))), "hello socat");
    // What is under way at a time fits into the server's receive buffer: 20 × 1,400 bytes, then one large one.
    for (const [peers, sizes] of [[20, [0, 1, 1400]], [1, [65_507]]] as const) {
      await Promise.all(Array.from({ length: peers }, async () => {
        using endpoint = UdpEndpoint.bind({ hostname: "127.0.0.1" });
        const p = new Uint8Array(65_535);
        for (const size of sizes) {
          const message = randomBytes(size);
          await endpoint.sendTo(message, { hostname: "127.0.0.1", port: server.port });
          assertEquals((await deadline(endpoint.recvFrom(p), 10_000)).data, message);
        }
      }));
    }
    await eventually(() => server.stdout.join("").includes("try it: nc -u 127.0.0.1") ? true : undefined);
    assertEquals([await server.stop("SIGTERM"), server.stderr.join("")], [0, ""]);
  });
}

long(Deno.test)({
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
