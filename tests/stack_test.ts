/** The stack of an error begins at the line that has called the library. */

import { Multiplexer } from "@c10k/sockets/mux";
import { Pool, spawnFor, spawnWorker } from "@c10k/sockets/process";
import { type Engine, SyscallError, TcpConn, TcpListener, TcpSocket } from "@c10k/sockets/tcp";
import { DatagramBatch, UdpEndpoint } from "@c10k/sockets/udp";
import { assert, assertEquals, assertInstanceOf, assertMatch, assertStringIncludes } from "@std/assert";
import { NATIVE, spawn } from "./_process.ts";
import { engineTest, Pair, replaced, runDeno } from "./_util.ts";

const FILE = import.meta.url;

// deno-lint-ignore no-explicit-any -- what the types refuse
const any = (value: unknown) => value as any;

/** The lines of a stack that are frames. */
function frames(error: unknown): string[] {
  assertInstanceOf(error, Error);
  return (error.stack ?? "").split("\n").filter((line) => /^\s+at /.test(line));
}

/** What a call throws, or its promise rejects with. */
async function failure(call: () => unknown): Promise<unknown> {
  try {
    await call();
  } catch (error) {
    return error;
  }
  throw new Error("it did not fail");
}

function soon(action: () => void): void {
  setTimeout(action, 2);
}

const P = new Uint8Array(16);

interface Context {
  readonly engine: Engine;
  readonly pair: Pair;
  readonly closed: Pair;
  readonly mux: Multiplexer;
}

/** Calls that fail before they return. */
const AT_ONCE: Record<string, (context: Context) => unknown> = {
  "bind to an address in use": ({ pair, engine }) => TcpListener.bind({ ...pair.listener.addr, engine }),
  "bind with a wrong port": () => TcpListener.bind({ port: any("x") }),
  "bind with a port out of range": () => TcpListener.bind({ port: 70_000 }),
  "bind with a wrong host name": () => TcpListener.bind({ hostname: "", port: 0 }),
  "bind with a wrong engine": () => TcpListener.bind({ port: 0, engine: any("x") }),
  "bind an endpoint to an address that is not here": ({ engine }) =>
    UdpEndpoint.bind({ hostname: "192.0.2.1", engine }),
  "a constructor": () => new (any(TcpConn))(),
  "tryRead on a closed connection": ({ closed }) => closed.client.tryRead(P),
  "tryRead without a buffer": ({ pair }) => pair.client.tryRead(any("x")),
  "tryWrite on a closed connection": ({ closed }) => closed.client.tryWrite(P),
  "tryAccept on a closed listener": ({ closed }) => closed.listener.tryAccept(),
  "getOption without such an option": ({ pair }) => pair.client.getOption(any("X")),
  "setOption with what the kernel refuses": ({ pair }) => pair.client.setOption("TCP_KEEPCNT", -1),
  "shutdown of what is no side": ({ pair }) => pair.client.shutdown(any("x")),
  "register twice": ({ pair, mux }) => {
    mux.register(pair.client, {});
    mux.register(pair.client, {});
  },
  "register with a wrong interest": ({ pair, mux }) => mux.register(pair.server, { readable: any("x") }),
  "modify what is not registered": ({ pair, mux }) => mux.modify(pair.listener, {}),
  "a multiplexer on no backend": () => new Multiplexer({ backend: any("x") }),
  "a socket of no family": () => TcpSocket.open(any("x")),
  "a batch of no size": () => new DatagramBatch({ capacity: -1 }),
  "spawnFor without a connection": () => spawnFor(any(5), "true"),
  "spawnFor of no program": ({ pair }) => spawnFor(pair.server, "/there/is/none"),
  "spawnWorker without a module": () => spawnWorker(any(5)),
};

/** Calls whose promise is rejected, some of them later. */
const LATER: Record<string, (context: Context) => Promise<unknown>> = {
  "Pool.start with a module that does not serve": () =>
    Pool.start({ kind: "worker", module: "data:application/javascript,", size: 1, listen: { port: 0 } }),
  "read without a buffer": ({ pair }) => pair.client.read(any("x")),
  "read of a closed connection": ({ closed }) => closed.client.read(P),
  "write to a closed connection": ({ closed }) => closed.client.write(P),
  "writeAll after closeWrite": async ({ pair }) => {
    await pair.client.closeWrite();
    await pair.client.writeAll(P);
  },
  "read while the connection is closed": ({ pair }) => {
    soon(() => pair.client.close());
    return pair.client.read(P);
  },
  "read with a signal while the connection is closed": ({ pair }) => {
    soon(() => pair.client.close());
    return pair.client.read(P, { signal: new AbortController().signal });
  },
  "peek while the connection is closed": ({ pair }) => {
    soon(() => pair.client.close());
    return pair.client.peek(P);
  },
  "writeAll while the connection is closed": ({ pair }) => {
    soon(() => pair.client.close());
    return pair.client.writeAll(new Uint8Array(32 * 1024 * 1024));
  },
  "connect to nobody": async ({ closed, engine }) => await TcpConn.connect({ port: closed.listener.addr.port, engine }),
  "connect to a name that there is not": async ({ engine }) =>
    await TcpConn.connect({ hostname: "nowhere.invalid", port: 9, engine }),
  "connect with a wrong port": async () => await TcpConn.connect({ port: any("x") }),
  "accept on a closed listener": ({ closed }) => closed.listener.accept(),
  "accept while the listener is closed": ({ pair }) => {
    soon(() => pair.listener.close());
    return pair.listener.accept();
  },
  "sendTo of too much": async ({ engine }) => {
    using endpoint = UdpEndpoint.bind({ hostname: "127.0.0.1", engine });
    await endpoint.sendTo(new Uint8Array(100_000), { hostname: "127.0.0.1", port: 9 });
  },
  "recvFrom while the endpoint is closed": async ({ engine }) => {
    using endpoint = UdpEndpoint.bind({ hostname: "127.0.0.1", engine });
    soon(() => endpoint.close());
    await endpoint.recvFrom(P);
  },
  "recvFrom with a signal while the endpoint is closed": async ({ engine }) => {
    using endpoint = UdpEndpoint.bind({ hostname: "127.0.0.1", engine });
    soon(() => endpoint.close());
    await endpoint.recvFrom(P, { signal: new AbortController().signal });
  },
  "wait while the multiplexer is closed": ({ mux }) => {
    soon(() => mux.close());
    return mux.wait();
  },
  "wait with a wrong timeout": ({ mux }) => mux.wait({ timeout: -1 }),
  "Pool.start without options": () => Pool.start(any({})),
  "a read in Promise.all": ({ pair }) => {
    soon(() => pair.client.close());
    return Promise.all([pair.client.read(P), pair.server.read(P).catch(() => {})]);
  },
};

engineTest("errors have stacks that begin at the caller", async (engine) => {
  for (const [name, call] of Object.entries({ ...AT_ONCE, ...LATER })) {
    using pair = await Pair.open(engine);
    using closed = await Pair.open(engine);
    closed[Symbol.dispose]();
    using mux = new Multiplexer({ backend: engine === "native" ? "epoll" : "runtime" });
    const error = await failure(async () => await call({ engine, pair, closed, mux }));
    const [first] = frames(error);
    assertStringIncludes(first ?? "no frame", FILE, `${name}: ${Deno.inspect(error)}`);
    // What the kernel said is told by the library.
    if (error instanceof Error && error.cause instanceof SyscallError) {
      assert(!frames(error.cause)[0]?.includes("/tests/"), name);
    }
  }
});

Deno.test({
  name: "a connection that is reset while a read waits rejects with a stack that begins where it is awaited",
  ignore: !NATIVE,
  async fn() {
    using pair = await Pair.open("native");
    async function readOnce(): Promise<void> {
      await pair.client.read(P);
    }
    async function caller(): Promise<void> {
      await readOnce();
    }
    soon(() => pair.server.reset());
    const error = await failure(caller);
    assertInstanceOf(error, Deno.errors.ConnectionReset);
    const [first = "", second = ""] = frames(error);
    assertMatch(first, /at async readOnce \(/);
    assertMatch(second, /at async caller \(/);
  },
});

Deno.test({
  name: "a message that cannot be cloned, and one to a child that has ended, reject with the caller's line first",
  ignore: !NATIVE,
  async fn() {
    const child = spawnWorker("data:text/javascript,setInterval(() => {}, 1000)");
    const uncloneable = await failure(() => child.send(() => {}));
    const waiting = failure(() => child.send("x"));
    child.kill();
    const errors = [uncloneable, await waiting, await failure(() => child.send("x"))];
    await child.closed;
    for (const error of errors) assertStringIncludes(frames(error)[0] ?? "no frame", FILE);
  },
});

/** A module of a pool, which fails in the way that its file says from some time on. */
const CHANGING = `
  import { serve } from "${import.meta.resolve("@c10k/sockets/process")}";
  const how = Deno.readTextFileSync(new URL("how", import.meta.url));
  if (how === "fails") throw new Error("failed as told");
  if (how === "waits") await new Promise((resolve) => setTimeout(resolve, 60_000));
  await serve(how === "dies" ? () => reportError(new Error("failed as told")) : (conn) => conn.close());
`;

for (const kind of ["worker", "process"] as const) {
  Deno.test({
    name: `[${kind}] a pool and a child reject with a stack that begins where the call is awaited`,
    ignore: !NATIVE,
    async fn() {
      const folder = await Deno.makeTempDir();
      const say = (how: string) => Deno.writeTextFileSync(`${folder}/how`, how);
      try {
        Deno.writeTextFileSync(`${folder}/child.js`, CHANGING);
        say("serves");
        const start = (startTimeout: number) =>
          Pool.start({
            kind,
            module: `${folder}/child.js`,
            size: 1,
            listen: { hostname: "127.0.0.1", port: 0 },
            startTimeout,
            restart: { delay: 1, limit: 1 },
            ...(kind === "process" ? { stderr: "null" } : {}),
          });
        const child = spawn(kind, "data:text/javascript,setInterval(() => {}, 1000)");
        let pool = await start(60_000);
        say("fails");
        const errors: Record<string, unknown> = {
          "reload of a module that fails": await failure(() => pool.reload()),
          "a reload that follows one": await failure(async () => {
            pool.reload().catch(() => {});
            await pool.reload();
          }),
          "a close with a wrong grace": await failure(() => pool.close({ grace: -1 })),
          "a shutdown with a wrong grace": await failure(() => child.shutdown({ grace: -1 })),
        };
        say("waits");
        errors["a reload while the pool closes"] = await failure(() => {
          setTimeout(() => pool.close(), 100);
          return pool.reload();
        });
        errors["a reload of a closed pool"] = await failure(() => pool.reload());
        say("dies");
        pool = await start(10_000);
        say("fails");
        errors["the end of a pool that gives up"] = await failure(async () => {
          const visit = async () => (await TcpConn.connect({ port: pool.addr.port })).close();
          soon(() => visit().catch(() => {}));
          await pool.closed;
        });
        child.kill();
        await child.closed;
        for (const [name, error] of Object.entries(errors)) {
          assertStringIncludes(frames(error)[0] ?? "no frame", FILE, `${name}: ${Deno.inspect(error)}`);
        }
      } finally {
        await Deno.remove(folder, { recursive: true });
      }
    },
  });
}

Deno.test("a stack is as long as Error.stackTraceLimit says, can be replaced, and is cloned with its error", async () => {
  const bind = () => TcpListener.bind({ port: any("x") });
  const deep = (n: number): unknown => n === 0 ? bind() : deep(n - 1);
  const { stackTraceLimit } = Error;
  try {
    for (const limit of [1, 3, 25]) {
      Error.stackTraceLimit = limit;
      const error = await failure(() => deep(40));
      assertEquals([frames(error).length, Error.stackTraceLimit], [limit, limit]);
      assertMatch((error as Error).stack ?? "", /^TypeError: port must be a number, received "x"\n {4}at bind \(/);
    }
    for (const none of [0, undefined]) {
      Error.stackTraceLimit = any(none);
      assertEquals(frames(await failure(bind)), []);
    }
  } finally {
    Error.stackTraceLimit = stackTraceLimit;
  }
  const error = await failure(bind) as Error;
  assertEquals(structuredClone(error).stack, error.stack);
  assertEquals([Object.keys(error), JSON.stringify(error)], [[], "{}"]);
  error.stack = "mine";
  assertEquals(error.stack, "mine");
});

Deno.test({
  name: "a program that ends with an error of the library shows the caller's line first",
  ignore: !NATIVE,
  async fn() {
    for (const engine of ["runtime", "native"]) {
      for (
        const [call, at] of [
          ["TcpListener.bind(listener.addr);", "at fail ("],
          ["await TcpConn.connect({ port: 1, engine });", "at async fail ("],
          ["setTimeout(() => listener.close()); await listener.accept();", "at async fail ("],
        ]
      ) {
        const { code, stderr } = await runDeno(
          ["--allow-net", "--allow-ffi", "--quiet", "--no-check"],
          `import { TcpConn, TcpListener } from "@c10k/sockets/tcp";
           const engine = "${engine}";
           const listener = TcpListener.bind({ hostname: "127.0.0.1", port: 0, engine });
           async function fail() { ${call} }
           await fail();`,
        );
        assertEquals(code, 1);
        const [first = ""] = stderr.split("\n").filter((line) => line.trim().startsWith("at "));
        assertStringIncludes(first, at as string, stderr);
      }
    }
  },
});

Deno.test({
  name: "errors reach a program that has frozen Error",
  ignore: !NATIVE,
  async fn() {
    const { code, stdout, stderr } = await runDeno(
      ["--allow-net", "--allow-ffi", "--quiet", "--no-check"],
      `import { TcpConn, TcpListener } from "@c10k/sockets/tcp";
       Object.freeze(Error);
       for (const engine of ["runtime", "native"]) {
         using listener = TcpListener.bind({ hostname: "127.0.0.1", port: 0, engine });
         using client = await TcpConn.connect({ port: listener.addr.port, engine });
         using server = await listener.accept();
         const reading = client.read(new Uint8Array(1)).catch((error) => error.name);
         client.close();
         console.log(await reading, await server.read(new Uint8Array(1)));
         try { TcpListener.bind({ ...listener.addr, engine }); } catch (error) { console.log(error.name); }
       }`,
    );
    assertEquals([code, stderr, stdout], [0, "", "BadResource null\nAddrInUse\n".repeat(2)]);
  },
});

Deno.test("errors keep their message where a program has put something else in the place of captureStackTrace()", async () => {
  const bind = () => TcpListener.bind({ port: any("x") });
  const error = await (async () => {
    using _ = replaced(Error, "captureStackTrace", () => {
      throw new Error("not here");
    });
    return await failure(bind);
  })();
  assertInstanceOf(error, TypeError);
  assertEquals(error.message, 'port must be a number, received "x"');
});
