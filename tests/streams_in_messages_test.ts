/** Connections of the runtime engine, which go to a thread as their two streams: the bytes pass through here. */

import { spawnWorker } from "@c10k/sockets/process";
import { type Engine, TcpConn, TcpListener } from "@c10k/sockets/tcp";
import { UdpEndpoint } from "@c10k/sockets/udp";
import { assert, assertEquals, assertMatch, assertRejects, assertStringIncludes } from "@std/assert";
import { deadline } from "@std/async";
import { ACTOR, ask, checkEcho, ECHO, moduleOf, NATIVE, next, type TestChild } from "./_process.ts";
import {
  checksum,
  decode,
  encode,
  long,
  Pair,
  randomBytes,
  readExactly,
  readText,
  readToEnd,
  runDeno,
  withoutLeaks,
} from "./_util.ts";
import { sentReason, StreamSocket } from "../tcp/stream_socket.ts";
import { outcomes } from "./children/failures.ts";

/** On every OS: nothing here needs more than `--allow-net` and `--allow-read`. */
function runtimeTest(name: string, fn: () => Promise<void>): void {
  Deno.test(`[runtime] ${name}`, () => withoutLeaks(fn));
}

/** Starts a thread that `await using` kills. */
function start(module: string | URL): TestChild {
  const child = spawnWorker(module);
  return Object.assign(child, {
    async [Symbol.asyncDispose]() {
      child.kill();
      await child.closed;
    },
  });
}

runtimeTest("TcpConn sent to a thread is closed here and served there, with what was peeked at", async () => {
  using pair = await Pair.open("runtime");
  await using child = start(ACTOR);
  await pair.client.writeAll(encode("early"));
  assertEquals(await pair.server.peek(new Uint8Array(5)), 5);
  await ask(child, "serve", [pair.server]);
  await assertRejects(() => pair.server.read(new Uint8Array(1)), Deno.errors.BadResource);
  assertEquals(decode(await readExactly(pair.client, 5)), "early");
  await checkEcho(pair.client, "hello");
});

runtimeTest("TcpConn in a thread carries 4 MiB both ways at once, and each side ends for itself", async () => {
  using pair = await Pair.open("runtime");
  await using child = start(ACTOR);
  await ask(child, "serve", [pair.server]);
  const sent = randomBytes(4 * 1024 * 1024);
  const sending = pair.client.writeAll(sent).then(() => pair.client.closeWrite());
  const received = new Uint8Array(await new Response(pair.client.readable).arrayBuffer());
  await sending;
  assertEquals(await checksum(received), await checksum(sent));
});

runtimeTest("TcpConn in a thread has its addresses, and refuses what streams cannot do", async () => {
  using pair = await Pair.open("runtime");
  await using child = start(moduleOf(`
    const { value: { sockets: [conn] } } = await parent().messages().next();
    const calls = [() => conn.setNoDelay(), () => conn.setKeepAlive(), () => conn.detach(), () => conn.info()];
    const refused = calls.map((call) => {
      try { return call(); } catch (error) { return error.name + ": " + error.message; }
    });
    await parent().send([conn.engine, conn.localAddr, conn.remoteAddr, refused]);
  `));
  const { localAddr, remoteAddr } = pair.server;
  await child.send("look", { sockets: [pair.server] });
  const { message } = await next(child.messages());
  const [engine, local, remote, refused] = message as [string, Deno.NetAddr, Deno.NetAddr, string[]];
  assertEquals([engine, local, remote], ["runtime", localAddr, remoteAddr]);
  for (
    const [i, part] of [
      "Cannot set TCP_NODELAY on a connection that came from another thread: set it before the connection is sent",
      "Cannot set SO_KEEPALIVE on a connection that came from another thread: set it before the connection is sent",
      "Cannot detach the descriptor",
      "Cannot get TCP_INFO",
    ].entries()
  ) assertMatch(refused[i] as string, new RegExp(`^NotSupported: ${part}`));
});

runtimeTest("TcpConn comes back from a thread", async () => {
  using pair = await Pair.open("runtime");
  await using child = start(ECHO);
  const { sockets: [back] } = await ask(child, "back", [pair.server]);
  assert(back instanceof TcpConn);
  using conn = back;
  await pair.client.writeAll(encode("there and back"));
  assertEquals(await readText(conn), "there and back");
  await conn.writeAll(encode("again"));
  assertEquals(await readText(pair.client), "again");
});

runtimeTest("Child.kill() closes the connections whose bytes pass to the thread", async () => {
  using pair = await Pair.open("runtime");
  await using child = start(ACTOR);
  await ask(child, "serve", [pair.server]);
  await checkEcho(pair.client, "hello");
  child.kill();
  await child.closed;
  assertEquals(await deadline(readToEnd(pair.client).catch(() => 0), 5_000), 0);
});

runtimeTest(
  "Child.send() leaves a connection whole on which a call waits, and sockets that cannot be sent",
  async () => {
    using pair = await Pair.open("runtime");
    using endpoint = UdpEndpoint.bind({ hostname: "127.0.0.1", port: 0, engine: "runtime" });
    await using child = start(ECHO);
    await ask(child, "up");
    const waiting = pair.server.read(new Uint8Array(5));
    await assertRejects(() => child.send("x", { sockets: [pair.server] }), Deno.errors.Busy, "await it first");
    for (const socket of [pair.listener, endpoint]) {
      const error = await assertRejects(() => child.send("x", { sockets: [socket] }), Deno.errors.NotSupported);
      assertStringIncludes(error.message, "use --allow-ffi on Linux");
    }
    await pair.client.writeAll(encode("whole"));
    assertEquals(await waiting, 5);
    await assertRejects(() => child.send(() => {}, { sockets: [pair.server] }), DOMException, "could not be cloned");
    assert((await ask(child, "later")).message.message === "later");
  },
);

runtimeTest(
  "Child.send() refuses a listener where there is no native engine for the reason that it is of the runtime's",
  async () => {
    const source = `
    import { spawnWorker } from "@c10k/sockets/process";
    import { TcpListener } from "@c10k/sockets/tcp";
    const module = 'import { parent } from "' + import.meta.resolve("@c10k/sockets/process") +
      '"; await parent().send("up"); for await (const _ of parent().messages());';
    await using child = spawnWorker("data:application/typescript," + encodeURIComponent(module));
    await child.messages().next(); // sockets are checked in another place once there is a thread
    using listener = TcpListener.bind({ hostname: "127.0.0.1", port: 0 });
    console.log(await child.send("x", { sockets: [listener] }).catch((error) => error.name + " " + error.message));`;
    const { stdout, stderr } = await runDeno(["--allow-net", "--allow-read"], source);
    const why = "NotSupported Cannot send a socket of the runtime engine: it has connections only that can be moved, " +
      "and to a thread only; use --allow-ffi on Linux\n";
    assertEquals([stdout, stderr], [why, ""]);
  },
);

const RESET = "ConnectionReset ECONNRESET recv ECONNRESET Cannot read from TCP connection with the peer: " +
  "connection reset by peer (ECONNRESET)";
const RESET_WRITE = "ConnectionReset ECONNRESET send ECONNRESET Cannot write to TCP connection with the peer: " +
  "connection reset by peer (ECONNRESET)";
const BROKEN = "BrokenPipe EPIPE send EPIPE Cannot write to TCP connection with the peer: broken pipe (EPIPE)";
const CLOSED =
  "BrokenPipe EPIPE send EPIPE Cannot write to TCP connection with the peer: the write side is closed (EPIPE)";

/** What calls after a reset by the peer come to, one after the other. */
const AFTER_RESET: [call: string, outcome: string][][] = [
  [["read", RESET], ["read", "null"], ["write", BROKEN], ["closeWrite", "undefined"], ["peek", "null"]],
  [["peek", RESET], ["peek", "null"], ["writeAll", BROKEN], ["closeWrite", "undefined"]],
  [["read with a signal", RESET], ["writeAll with a signal", BROKEN], ["read with a signal", "null"]],
  [["tryRead", RESET], ["tryRead", "null"], ["closeWrite", "undefined"]],
  [["write", RESET_WRITE], ["write", BROKEN], ["read", "null"], ["closeWrite", "undefined"]],
  [["writeAll", RESET_WRITE], ["writeAll", BROKEN], ["peek", "null"], ["closeWrite", "undefined"]],
  [["writeAll with a signal", RESET_WRITE], ["closeWrite", "undefined"], ["tryRead", "null"]],
  [["closeWrite", "undefined"], ["read", RESET], ["write", CLOSED]],
  [["readable", RESET]],
];

long(Deno.test)({
  name: "a connection that its peer has reset tells the same in a thread, to which it came as streams, as elsewhere",
  ignore: !NATIVE,
  fn: () =>
    withoutLeaks(async () => {
      await using child = start(moduleOf(`
        import { outcomes } from "${import.meta.resolve("./children/failures.ts")}";
        for await (const { message, sockets: [conn] } of parent().messages()) {
          await parent().send(await outcomes(conn, message));
          conn.close();
        }
      `));
      await using between = start(ECHO);
      const inThread = async (conn: TcpConn, names: string[]) => {
        await child.send(names, { sockets: [conn] });
        return (await next(child.messages())).message;
      };
      type Way = [name: string, engine: Engine, tell: (conn: TcpConn, names: string[]) => Promise<unknown>];
      const ways: Way[] = [
        ["native", "native", outcomes],
        ["runtime", "runtime", outcomes],
        ["native in a thread", "native", inThread],
        ["streams in a thread", "runtime", inThread],
        ["streams that came back", "runtime", async (conn, names) => {
          const { sockets: [back] } = await ask(between, "back", [conn]);
          assert(back instanceof TcpConn);
          using _ = back;
          return await outcomes(back, names);
        }],
        ["streams by way of another thread", "runtime", async (conn, names) => {
          const { sockets: [back] } = await ask(between, "on", [conn]);
          return await inThread(back as TcpConn, names);
        }],
      ];
      for (const [way, engine, tell] of ways) {
        for (const calls of AFTER_RESET) {
          using listener = TcpListener.bind({ hostname: "127.0.0.1", port: 0, engine });
          using client = await TcpConn.connect({ hostname: "127.0.0.1", port: listener.addr.port, engine: "native" });
          using conn = await listener.accept();
          client.reset();
          const got = await tell(conn, calls.map(([call]) => call)) as string[];
          // Natively the name of the call stands in the message: peek at. Streams read ahead, and a read that meets the
          // reset leaves EPIPE for the first write, as a read that waits elsewhere does.
          const [first = "", ...rest] = got.map((line) => line.replace("peek at", "read from"));
          const isEither = way.startsWith("streams") && first.endsWith(BROKEN) && calls[0]?.[1] === RESET_WRITE;
          assertEquals(
            [way, isEither ? first.replace(BROKEN, RESET_WRITE) : first, ...rest],
            [way, ...calls.map(([call, outcome]) => `${call}: ${outcome}`)],
          );
        }
      }
    }),
});

Deno.test("StreamSocket tells once why its connection has failed, by the class of what it was told", async () => {
  const addr = { transport: "tcp", hostname: "127.0.0.1", port: 9 } as const;
  const open = (reason: unknown) =>
    new StreamSocket({
      readable: new ReadableStream({ start: (controller) => controller.error(reason) }),
      writable: new WritableStream({ start: (controller) => controller.error(reason) }),
      localAddr: addr,
      remoteAddr: addr,
    });
  const p = new Uint8Array(4);
  const cases: [unknown, new (message: string) => Error][] = [
    [sentReason(new TypeError("Cannot read: p was resized")), TypeError],
    [sentReason(new Deno.errors.Interrupted("Cannot read: it was closed")), Deno.errors.Interrupted],
    [sentReason(new RangeError("Cannot read: far")), Error],
    ["a text", Error],
    [undefined, Error],
  ];
  for (const [reason, ErrorClass] of cases) {
    for (const call of ["read", "closeWrite"] as const) {
      const socket = open(reason);
      const error = await assertRejects(() => socket[call](p), ErrorClass);
      assertEquals(Object.getPrototypeOf(error), ErrorClass.prototype, `${call} ${Deno.inspect(reason)}`);
      assert(!error.message.includes("Cannot"), error.message);
      assertEquals(await socket.read(p), null);
      await assertRejects(() => socket.closeWrite(), Error, "not connected");
    }
  }
});

Deno.test("StreamSocket.lose() fails the next call, whichever that is, and calls that wait", async () => {
  const addr = { transport: "tcp", hostname: "127.0.0.1", port: 9 } as const;
  const p = new Uint8Array(4);
  for (const when of ["before", "while it waits"]) {
    for (const call of ["read", "write", "closeWrite"] as const) {
      const writable = new WritableStream({ write: () => new Promise(() => {}), close: () => new Promise(() => {}) });
      const socket = new StreamSocket({ readable: new ReadableStream(), writable, localAddr: addr, remoteAddr: addr });
      if (when === "before") socket.lose();
      const result = socket[call](p);
      if (when !== "before") socket.lose();
      socket.lose();
      const error = await assertRejects(() => deadline<unknown>(result, 20_000), Error, "has ended");
      assertEquals((error as { code?: string }).code, "ECONNRESET", `${call} ${when}`);
      assertEquals(await socket.read(p), null);
      await assertRejects(() => socket.write(p), Deno.errors.BrokenPipe);
      await assertRejects(() => socket.closeWrite(), Deno.errors.NotConnected);
      socket[Symbol.dispose]();
      socket.lose();
    }
  }
});

Deno.test("StreamSocket keeps the chunk for the next read if the buffer is gone when it comes", async () => {
  const addr = { transport: "tcp", hostname: "127.0.0.1", port: 9 } as const;
  const { readable, writable } = new TransformStream<Uint8Array<ArrayBuffer>, Uint8Array<ArrayBuffer>>();
  const socket = new StreamSocket({ readable, writable: new WritableStream(), localAddr: addr, remoteAddr: addr });
  const p = new Uint8Array(4);
  const reading = socket.read(p);
  structuredClone(p.buffer, { transfer: [p.buffer] });
  const writing = writable.getWriter().write(encode("kept"));
  await assertRejects(() => reading, TypeError, "p was resized or transferred away while the call waited");
  const q = new Uint8Array(4);
  assertEquals([await socket.read(q), decode(q)], [4, "kept"]);
  await writing;
});

runtimeTest(
  "TcpConn that came back from a thread fails when that thread ends, and what has come before is read",
  async () => {
    const module = moduleOf(`
    for await (const { sockets } of parent().messages()) await parent().send("back", { sockets });`);
    for (const end of [(child: TestChild) => child.kill(), (child: TestChild) => void child.shutdown()]) {
      using pair = await Pair.open("runtime");
      using unread = await Pair.open("runtime");
      await using child = start(module);
      await child.send("take", { sockets: [pair.server] });
      using back = (await next(child.messages())).sockets[0] as TcpConn;
      await child.send("take", { sockets: [unread.server] });
      await pair.client.writeAll(encode("hello"));
      assertEquals(await readText(back, 3), "hel");
      end(child);
      await child.closed;
      assertEquals(await readText(back), "lo");
      const failure = await assertRejects(
        () => deadline(back.read(new Uint8Array(1)), 20_000),
        Deno.errors.ConnectionReset,
      );
      assertEquals((failure as { code?: string }).code, "ECONNRESET");
      await assertRejects(() => deadline(back.writeAll(encode("x")), 20_000), Deno.errors.BrokenPipe);
      // One that nobody has taken yet.
      for await (const { sockets } of child.messages()) {
        using late = sockets[0] as TcpConn;
        await assertRejects(() => deadline(late.read(new Uint8Array(1)), 20_000), Deno.errors.ConnectionReset);
      }
    }
  },
);

runtimeTest("calls of a TcpConn that wait for a thread end when it does", async () => {
  using pair = await Pair.open("runtime");
  await using child = start(moduleOf(`
    for await (const { sockets } of parent().messages()) {
      await parent().send("back", { sockets });
      for (const end = Date.now() + 1_000; Date.now() < end;); // takes no byte meanwhile
    }`));
  await child.send("take", { sockets: [pair.server] });
  using back = (await next(child.messages())).sockets[0] as TcpConn;
  const calls = [back.writeAll(encode("x")), back.read(new Uint8Array(1))];
  child.kill();
  // A write waits for the streams only, whose other end may have taken it.
  const ends = (await deadline(Promise.allSettled(calls), 20_000)).map(({ status }) => status);
  assertEquals(ends.at(-1), "rejected");
});
