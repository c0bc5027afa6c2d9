/** How children of both kinds end, by themselves and by others, and what is left of them: nothing. */

import { Multiplexer } from "@c10k/sockets/mux";
import { type ChildStatus, spawnProcess, spawnWorker } from "@c10k/sockets/process";
import { TcpConn, TcpListener } from "@c10k/sockets/tcp";
import { UdpEndpoint } from "@c10k/sockets/udp";
import { assert, assertEquals, assertInstanceOf, assertMatch, assertRejects, assertStrictEquals } from "@std/assert";
import { deadline, delay } from "@std/async";
import { closeLeftOpenLater, whenThreadEnds } from "../process/child/thread_end.ts";
import { untilRefused } from "./_pool.ts";
import {
  ask,
  assertDescriptors,
  childTest,
  descendants,
  descriptorLinks,
  ECHO,
  internetSockets,
  isAlive,
  isPending,
  letRead,
  moduleOf,
  NATIVE,
  next,
  oneKindTest,
  outcome,
  runStarved,
  spawn,
  type TestChild,
  warmUp,
  withoutOrphans,
} from "./_process.ts";
import { endOwner, freeOwner, newOwner, threadOf, WORKER_MARK, workerName } from "../internal/owner.ts";
import { encode, eventually, isMeasured, long, Pair, readText, ROOT, runDeno, sized } from "./_util.ts";

/** Modules that end by themselves before they have talked: status code of a process, of a thread, a thread's error. */
const EARLY_ENDS: [string, string | URL, number, number, RegExp | undefined][] = [
  ["that throws", moduleOf(`throw new Error("boom")`), 1, 1, /boom/],
  ["that rejects", moduleOf(`await Promise.reject(new TypeError("boom"))`), 1, 1, /TypeError: boom/],
  ["that throws what is no error", moduleOf(`throw "boom"`), 1, 1, /boom/],
  ["with a syntax error", moduleOf(`const = 1`), 1, 1, /SyntaxError/],
  ["that is missing", new URL("./children/missing.js", import.meta.url), 1, 1, /missing\.js/],
  ["that calls Deno.exit(3)", moduleOf(`Deno.exit(3)`), 3, 1, /3/],
  ["that calls Deno.exit(0)", moduleOf(`Deno.exit(0)`), 0, 0, undefined],
];

for (const [what, module, code, threadCode, text] of EARLY_ENDS) {
  childTest(`a module ${what} ends the child, and messages stay here with their sockets`, async (kind) => {
    using pair = await Pair.open("native");
    await using child = spawn(kind, module, { stderr: "null", name: "faulty" });
    const sends = [child.send("early"), child.send("with a socket", { sockets: [pair.server] })];
    const outcomes = Promise.all(sends.map(outcome));
    const status = await deadline(child.closed, 10_000);
    const expected = kind === "process" ? code : threadCode;
    assertEquals([status.success, status.code, status.signal], [expected === 0, expected, undefined]);
    if (kind === "process" || text === undefined) assertEquals(status.error, undefined);
    else {
      assertInstanceOf(status.error, Error);
      assertMatch(status.error.message, /^worker \d+ \(faulty\) has /);
      assertMatch(status.error.message, text);
    }
    assertEquals(await outcomes, ["BrokenPipe", "BrokenPipe"]);
    const after = await assertRejects(() => child.send("late"), Deno.errors.BrokenPipe);
    assertStrictEquals(after.cause, status.error);
    await pair.client.writeAll(encode("whole"));
    assertEquals(await readText(pair.server), "whole");
  });
}

oneKindTest("worker", "a Worker that closes itself before it has called parent() has ended well", async (kind) => {
  await using child = spawn(kind, moduleOf(`self.close()`));
  const sending = outcome(child.send("early"));
  assertEquals(await deadline(child.closed, 10_000), { success: true, code: 0, signal: undefined, error: undefined });
  assertEquals(await sending, "BrokenPipe");
});

/** What ends a child that has talked: status code of a process, of a thread, a thread's error. */
const LATE_ENDS: [string, string, number, number, RegExp | undefined][] = [
  ["an unhandled rejection", `Promise.reject(new Error("boom"))`, 1, 1, /boom/],
  ["an exception in a timer", `setTimeout(() => { throw new Error("boom"); })`, 1, 1, /boom/],
  ["reportError()", `reportError(new Error("boom"))`, 1, 1, /boom/],
  ["Deno.exit(3)", `Deno.exit(3)`, 3, 1, /3/],
  ["self.close()", `"DedicatedWorkerGlobalScope" in globalThis ? self.close() : Deno.exit()`, 0, 0, undefined],
];

for (const [what, text, code, threadCode, error] of LATE_ENDS) {
  childTest(`${what} ends a child, and with it the sockets of messages that nobody has read`, async (kind) => {
    using pair = await Pair.open("native");
    using second = await Pair.open("native");
    await using child = spawn(
      kind,
      // The first message makes it fail, and is the last that it reads.
      moduleOf(`
        addEventListener("error", () => {});
        const [first] = [parent().messages()];
        const { value: { sockets } } = await first.next();
        await parent().send("goes");
        const endpoint = UdpEndpoint.bind({ hostname: "127.0.0.1", port: 0 });
        await parent().send(endpoint.addr);
        await endpoint.recvFrom(new Uint8Array(1));
        ${text};
        await new Promise((resolve) => setTimeout(resolve, 60_000));
      `),
      { stderr: "null" },
    );
    const inbox = child.messages();
    await child.send("taken", { sockets: [pair.server] });
    assertEquals((await next(inbox)).message, "goes");
    const { message: addr } = await next(inbox);
    await child.send("never read", { sockets: [second.server] });
    await letRead(addr);
    const status = await deadline(child.closed, 10_000);
    const expected = kind === "process" ? code : threadCode;
    assertEquals([status.success, status.code, status.signal], [expected === 0, expected, undefined]);
    if (kind === "worker" && error !== undefined) assertMatch(status.error?.message ?? "", error);
    else assertEquals(status.error, undefined);
    for (const { client } of [pair, second]) {
      assertEquals(await deadline(readText(client).catch(() => null), 5_000), null);
    }
    await assertRejects(() => child.send("after the end"), Deno.errors.BrokenPipe, "it has ended");
    assertEquals((await inbox.next()).done, true);
  });
}

/** Modules that have nothing left to do, what they say before, and whether that is well. */
const ENDS: readonly (readonly [what: string, text: string, said: unknown[], success: boolean])[] = [
  ["has no statement", ``, [], true],
  ["has sent a message", `await parent().send(1);`, [1], true],
  [
    "leaves its loop over messages",
    `for await (const { message } of parent().messages()) { await parent().send(message); break; }`,
    [
      "hello",
    ],
    true,
  ],
  ["has a timer that ends", `parent(); setTimeout(() => parent().send("late"), 100);`, ["late"], true],
  ["has an unreferenced timer", `parent(); Deno.unrefTimer(setInterval(() => {}, 1000));`, [], true],
  [
    "leaves sockets open on which nobody waits",
    `
    TcpListener.bind({ hostname: "127.0.0.1", port: 0 });
    await parent().send("bound");`,
    ["bound"],
    true,
  ],
  [
    "reads a connection of Deno's to its end",
    `
    const listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
    const conn = await Deno.connect({ hostname: "127.0.0.1", port: listener.addr.port });
    setTimeout(() => conn.close(), 100);
    await (await listener.accept()).read(new Uint8Array(1));
    listener.close();
    await parent().send("read");`,
    ["read"],
    true,
  ],
  [
    "waits for room",
    `(async () => { for (let i = 0; i < 600; i++) await parent().send(i); })();`,
    Array.from(
      { length: 600 },
      (_, i) => i,
    ),
    true,
  ],
  ["sets an exit code", `Deno.exitCode = 4;`, [], false],
];

/** Of children that end by themselves. */
const endTest: typeof childTest = (name, fn) =>
  childTest(name, (kind) => kind === "worker" && isMeasured ? Promise.resolve() : fn(kind));

endTest("a child ends when its module has nothing left to do, and all that it has said is read", async (kind) => {
  for (const [what, text, said, success] of ENDS) {
    await using child = spawn(kind, moduleOf(text));
    if (what.includes("loop")) await child.send("hello");
    // Messages that wait to be read hold nothing up.
    if (what.includes("room")) await delay(500);
    const heard: unknown[] = [];
    const reading = (async () => {
      for await (const { message } of child.messages()) heard.push(message);
    })();
    const status = await deadline(child.closed, 20_000).catch((error) => error.name);
    await deadline(reading, 20_000);
    assertEquals([heard, status.success], [said, success], `a module that ${what}`);
  }
});

endTest("a child ends when its module has ended, also if that does not import this library", async (kind) => {
  for (
    const [text, success] of [["1;", true], ["self.close();", true], ["Deno.exit(0);", true], [
      "Deno.exit(3);",
      false,
    ]] as const
  ) {
    await using child = spawn(kind, `data:text/javascript,${text}`);
    assertEquals((await deadline(child.closed, 20_000)).success, success, text);
    assertEquals(await deadline(child.messages().next(), 20_000), { value: undefined, done: true });
  }
});

long(childTest)("a child goes on while something there is waited for", async (kind) => {
  const waits = {
    "a message": `parent().messages().next();`,
    "a timer": `parent(); setInterval(() => {}, 1000);`,
    "a connection": `TcpListener.bind({ hostname: "127.0.0.1", port: 0 }).accept();`,
    "a connection of Deno's": `Deno.listen({ hostname: "127.0.0.1", port: 0 }).accept();`,
    "a datagram": `UdpEndpoint.bind({ hostname: "127.0.0.1", port: 0 }).recvFrom(new Uint8Array(1));`,
  };
  const children = Object.values(waits).map((text) => spawn(kind, moduleOf(text)));
  await delay(1_500);
  for (const [i, child] of children.entries()) {
    assertEquals(await isPending(child.closed), true, `a child that waits for ${Object.keys(waits)[i]}`);
    await child[Symbol.asyncDispose]();
  }
});

childTest("Child.closed of a child that has ended leaves what it has said before to be read", async (kind) => {
  using pair = await Pair.open("native");
  await using child = spawn(
    kind,
    moduleOf(`
      const { value: { sockets } } = await parent().messages().next();
      await parent().send("one");
      await parent().send("two", { sockets });
      "DedicatedWorkerGlobalScope" in globalThis ? self.close() : Deno.exit();
    `),
  );
  await child.send("go", { sockets: [pair.server] });
  assertEquals((await child.closed).success, true);
  const inbox = child.messages();
  assertEquals((await next(inbox)).message, "one");
  const { message, sockets: [back] } = await next(inbox);
  assertEquals(message, "two");
  assert(back instanceof TcpConn);
  using conn = back;
  await pair.client.writeAll(encode("whole"));
  assertEquals(await readText(conn), "whole");
  assertEquals(await inbox.next(), { value: undefined, done: true });
});

oneKindTest("process", "a child that ends before its parent has looked is heard", async (kind) => {
  const children = Array.from({ length: 3 }, () => spawn(kind, moduleOf(`await parent().send("short");`)));
  // This program does nothing until they have ended.
  const isOver = (pid: number) => /^State:\s+Z/m.test(Deno.readTextFileSync(`/proc/${pid}/status`));
  while (!children.every(({ pid }) => isOver(pid as number)));
  for (const child of children) assertEquals((await next(child.messages())).message, "short");
});

childTest("Child.kill() closes the sockets of the child, and its epoll and eventfd", async (kind) => {
  await warmUp();
  const before = descriptorLinks().length;
  using client = UdpEndpoint.bind({ hostname: "127.0.0.1", port: 0, engine: "native" });
  const child = spawn(
    kind,
    moduleOf(`
      const early = UdpEndpoint.bind({ hostname: "127.0.0.1", port: 0 });
      const port = parent();
      const listener = TcpListener.bind({ hostname: "127.0.0.1", port: 0 });
      const endpoint = UdpEndpoint.bind({ hostname: "127.0.0.1", port: 0 });
      const client = await TcpConn.connect({ port: listener.addr.port });
      const server = await listener.accept();
      const p = new Uint8Array(9);
      for (const call of [listener.accept(), endpoint.recvFrom(p), server.read(p), early.recvFrom(p)]) call.catch(() => {});
      await port.send([listener.addr.port, endpoint.addr.port, early.addr.port]);
    `),
  );
  const { message: [port, ...udpPorts] } = await next(child.messages());
  using conn = await TcpConn.connect({ port, engine: "native" });
  child.kill();
  assertEquals(await child.closed, { success: false, code: 137, signal: "SIGKILL", error: undefined });
  assertEquals(await readText(conn).catch(() => null), null);
  await assertRejects(() => TcpConn.connect({ port, engine: "native" }), Deno.errors.ConnectionRefused);
  for (const udpPort of udpPorts) UdpEndpoint.bind({ hostname: "127.0.0.1", port: udpPort, engine: "native" }).close();
  conn.close();
  client.close();
  await assertDescriptors(before);
});

childTest("a child that fails at once leaves nothing of what it has opened", async (kind) => {
  await warmUp();
  const before = descriptorLinks().length;
  using probe = TcpListener.bind({ hostname: "127.0.0.1", port: 0, engine: "native" });
  const { port } = probe.addr;
  probe.close();
  const text = `TcpListener.bind({ hostname: "127.0.0.1", port: ${port} }).accept(); throw new Error("boom")`;
  const child = spawn(kind, moduleOf(text), { stderr: "null" });
  assertEquals((await child.closed).code, 1);
  // The port is free for the next one.
  TcpListener.bind({ hostname: "127.0.0.1", port, engine: "native" }).close();
  await assertDescriptors(before);
});

childTest("await using ends a child in peace, and closes the sockets that nobody has taken from it", async (kind) => {
  using pair = await Pair.open("native");
  using second = await Pair.open("native");
  let closed: Promise<ChildStatus>;
  {
    await using child = kind === "worker" ? spawnWorker(ECHO) : spawnProcess(ECHO);
    closed = child.closed;
    await ask(child, "up");
    await child.send("back", { sockets: [pair.server] });
    await child.send("again", { sockets: [second.server] });
  }
  assertEquals((await closed).success, true);
  for (const { client } of [pair, second]) assertEquals(await readText(client).catch(() => null), null);
});

oneKindTest("worker", "threads that are ended in every way leave no descriptors", async (kind) => {
  await warmUp();
  const end = (text: string) => `await parent().send("up"); ${text}; for await (const _ of parent().messages());`;
  const ways = [
    end(``),
    end(`setTimeout(() => { throw new Error("boom"); })`),
    end(`setTimeout(() => self.close())`),
    end(`TcpListener.bind({ hostname: "127.0.0.1", port: 0 }).accept(); setTimeout(() => Deno.exit(3))`),
    // Before it has said anything.
    `TcpListener.bind({ hostname: "127.0.0.1", port: 0 }).accept(); throw new Error("boom")`,
  ];
  const start = async (text: string) => {
    const child = spawn(kind, moduleOf(text));
    if (text === ways[0]) await next(child.messages());
    if (text === ways[0]) child.kill();
    await child.closed;
  };
  // Deno itself keeps some for its first one.
  await start(ways[0] as string);
  const before = descriptorLinks().length;
  await Promise.all(ways.map(start));
  await assertDescriptors(before);
});

long(oneKindTest)("worker", "a thread that is killed at any moment of its start leaves nothing", async (kind) => {
  using probe = TcpListener.bind({ hostname: "127.0.0.1", port: 0, engine: "native" });
  const { port } = probe.addr;
  probe.close();
  for (let i = 0; i < 10; i++) {
    const child = spawn(kind, moduleOf(`TcpListener.bind({ hostname: "127.0.0.1", port: ${port} }).accept()`));
    await delay(i * i);
    child.kill();
    await child.closed;
    TcpListener.bind({ hostname: "127.0.0.1", port, engine: "native" }).close();
  }
});

long(oneKindTest)(
  "worker",
  "processes that a thread has started end with it, at any moment of their start",
  async (kind) => {
    const endless = "data:text/javascript,setInterval(() => {}, 1000)";
    for (const permissions of ["inherit", "none"]) {
      for (let i = 0; i < sized(6, 15); i++) {
        const child = spawn(
          kind,
          moduleOf(`
        const { spawnProcess } = await import("${import.meta.resolve("@c10k/sockets/process")}");
        spawnProcess("${endless}", { permissions: "${permissions}" });
        await parent().send("started");
        setInterval(() => {}, 1000);`),
        );
        await child.messages().next();
        await delay(i * i);
        child.kill();
        await child.closed;
        await eventually(() => descendants(Deno.pid).length === 0 ? true : undefined);
      }
    }
  },
);

long(oneKindTest)("worker", "processes of a thread that is killed and runs on end at the kill", async (kind) => {
  const folder = await Deno.makeTempDir();
  const fifo = `${folder}/fifo`;
  try {
    await new Deno.Command("mkfifo", { args: [fifo] }).output();
    await using child = spawn(
      kind,
      moduleOf(`
      const { spawnProcess } = await import("${import.meta.resolve("@c10k/sockets/process")}");
      for (const permissions of ["inherit", "none"]) {
        spawnProcess("data:text/javascript,setInterval(() => {}, 1000)", { permissions });
      }
      await parent().send("started");
      // In a system call, which nothing ends: it waits until the other end is opened.
      setTimeout(() => Deno.openSync("${fifo}"));`),
    );
    await child.messages().next();
    await eventually(() => descendants(Deno.pid).length === 2 ? true : undefined);
    child.kill();
    await child.closed;
    await eventually(() => descendants(Deno.pid).length === 0 ? true : undefined);
    // The thread is still there, and ends now. To open both ends waits for nobody, where the thread never got as far.
    (await Deno.open(fifo, { read: true, write: true })).close();
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
});

/** What a Worker of that name comes to that opens a listener, an endpoint and a copy of `fd`. */
async function openedAs(name: string, fd: number): Promise<string[]> {
  const source = `
    import { Waker } from "${import.meta.resolve("@c10k/sockets/mux")}";
    import { TcpListener } from "${import.meta.resolve("@c10k/sockets/tcp")}";
    import { UdpEndpoint } from "${import.meta.resolve("@c10k/sockets/udp")}";
    const local = { hostname: "127.0.0.1", port: 0, engine: "native" };
    const outcomes = [() => TcpListener.bind(local), () => UdpEndpoint.bind(local), () => Waker.fromFd(${fd})].map((open) => {
      try { open().close(); return "opened"; } catch (error) { return error.name; }
    });
    postMessage(outcomes);
    onmessage = () => self.close();`;
  const worker = new Worker(`data:text/javascript,${encodeURIComponent(source)}`, { type: "module", name });
  return await new Promise((resolve, reject) => {
    worker.onmessage = ({ data }) => {
      worker.postMessage("end");
      resolve(data);
    };
    worker.onerror = ({ message }) => reject(new Error(message));
  });
}

long(Deno.test)({
  name: "[worker] a thread that was ended before it had opened anything can open nothing, and leaves nothing",
  ignore: !NATIVE,
  async fn() {
    await warmUp();
    using mux = new Multiplexer({ backend: "epoll" });
    const fd = mux.waker().fd as number;
    // A Worker without a record belongs to nobody, and opens what it likes.
    assertEquals(await openedAs(`${WORKER_MARK}without a record`, fd), ["opened", "opened", "opened"]);
    const before = descriptorLinks().length;
    // By hand what kill() does, in the moment that it seldom meets: the thread begins, and has not looked yet.
    const owner = newOwner();
    endOwner(owner);
    const name = workerName("ended", owner);
    assertEquals(await openedAs(name, fd), ["Interrupted", "Interrupted", "Interrupted"]);
    await assertDescriptors(before);
    const thread = threadOf(owner);
    assert(thread > 0, "it has said which thread it is");
    await eventually(() =>
      [...Deno.readDirSync("/proc/self/task")].every(({ name }) => name !== `${thread}`) || undefined
    );
    freeOwner(owner);
  },
});

/** What keeps a thread from its event loop for good. */
const STUCK = {
  "an endless loop": `while (true);`,
  "Atomics.wait()": `Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0);`,
  "waitSync() in a loop": `const mux = new Multiplexer(); while (true) try { mux.waitSync(1); } catch {}`,
  // Its numbers are reused all the time, and none may be hit that is another thread's by then.
  "opening and closing sockets": `
    while (true) try { TcpListener.bind({ hostname: "127.0.0.1", port: 0 }).close(); } catch {}`,
};

// In a process of its own, since such threads stay.
long(Deno.test)({
  name: "[worker] Child.kill() of a thread that never returns to its event loop closes its sockets, and no other's",
  ignore: !NATIVE,
  async fn() {
    const modules = Object.values(STUCK).map((text) =>
      moduleOf(`
        import { Multiplexer } from "${import.meta.resolve("@c10k/sockets/mux")}";
        const listener = TcpListener.bind({ hostname: "127.0.0.1", port: 0 });
        const endpoint = UdpEndpoint.bind({ hostname: "127.0.0.1", port: 0 });
        await parent().send([listener.addr.port, endpoint.addr.port]);
        const conn = await listener.accept();
        await conn.write(new Uint8Array(1));
        listener.accept();
        setTimeout(() => { ${text} });
      `)
    );
    const { code, stdout, stderr } = await runDeno(
      ["--allow-all"],
      `
      import { spawnWorker } from "@c10k/sockets/process";
      import { TcpConn, TcpListener } from "@c10k/sockets/tcp";
      import { UdpEndpoint } from "@c10k/sockets/udp";
      const stuck = await Promise.all(${JSON.stringify(modules)}.map(async (module) => {
        const child = spawnWorker(module);
        const { value } = await child.messages().next();
        const [tcp, udp] = value.message;
        const conn = await TcpConn.connect({ port: tcp });
        await conn.read(new Uint8Array(1));
        return { child, tcp, udp, conn };
      }));
      await new Promise((resolve) => setTimeout(resolve, 50));
      for (const { child } of stuck) child.kill();
      // What is opened meanwhile is nobody else's.
      const listener = TcpListener.bind({ hostname: "127.0.0.1", port: 0 });
      const ours = await Promise.all(Array.from({ length: 20 }, async () => {
        const client = await TcpConn.connect({ port: listener.addr.port });
        return [client, await listener.accept()];
      }));
      for (const { child } of stuck) console.log((await child.closed).signal);
      for (const { tcp, udp, conn } of stuck) {
        console.log(await conn.read(new Uint8Array(1)).catch((error) => error.code));
        TcpListener.bind({ hostname: "127.0.0.1", port: tcp }).close();
        UdpEndpoint.bind({ hostname: "127.0.0.1", port: udp }).close();
      }
      // The threads go on, and what they open is closed.
      await new Promise((resolve) => setTimeout(resolve, 250));
      for (const [client, server] of ours) {
        await client.writeAll(new Uint8Array(3));
        if (await server.read(new Uint8Array(9)) !== 3) throw new Error("somebody else's socket was closed");
      }
      const { port } = listener.addr;
      const [again] = await Promise.all([listener.accept(), TcpConn.connect({ port })]);
      console.log(again.localAddr.port === port, [...Deno.readDirSync("/proc/self/fd")].length < 300);
      Deno.exit(0);`,
    );
    const lines = stdout.trim().split("\n");
    const count = Object.keys(STUCK).length;
    assertEquals([code, stderr], [0, ""]);
    assertEquals(lines.slice(0, count), Array.from({ length: count }, () => "SIGKILL"));
    // A reset, or the end of the stream.
    assertEquals(lines.slice(count, 2 * count).filter((line) => line !== "null" && line !== "ECONNRESET"), []);
    assertEquals(lines.slice(2 * count), ["true true"]);
  },
});

childTest("Child.kill() may come twice, and at once; after the end nothing can be sent", async (kind) => {
  const child = spawn(kind, ECHO);
  child.kill();
  child.kill();
  const status = await child.closed;
  assertEquals(status, { success: false, code: 137, signal: "SIGKILL", error: undefined });
  assertStrictEquals(await child.closed, status);
  child.kill();
  assertStrictEquals(await child.shutdown(), status);
  await assertRejects(() => child.send("after the end"), Deno.errors.BrokenPipe, "Cannot send to");
  assertEquals(await child.messages().next(), { value: undefined, done: true });
  assertEquals(child.kind, kind);
  assertEquals(typeof child.pid, kind === "process" ? "number" : "undefined");
});

oneKindTest("process", "Child.kill() sends another signal, which a process may take its own way", async (kind) => {
  await using child = spawn(
    kind,
    moduleOf(`
      Deno.addSignalListener("SIGUSR1", () => void parent().send("SIGUSR1"));
      await parent().send("ready");
      for await (const _ of parent().messages());
    `),
  );
  const inbox = child.messages();
  await next(inbox);
  child.kill("SIGUSR1");
  assertEquals((await next(inbox)).message, "SIGUSR1");
  child.kill("SIGTERM");
  assertEquals(await child.closed, { success: false, code: 143, signal: "SIGTERM", error: undefined });
});

childTest("Child.shutdown() ends the child's loop over messages, after those that were sent before", async (kind) => {
  const child = spawn(
    kind,
    moduleOf(`
      let count = 0;
      for await (const _ of parent().messages()) count++;
      await parent().send({ count, aborted: parent().signal.aborted, reason: parent().signal.reason.name });
    `),
  );
  const inbox = child.messages();
  for (let i = 0; i < 10; i++) await child.send(i);
  const [first, second] = [child.shutdown(), child.shutdown()];
  assertEquals((await next(inbox)).message, { count: 10, aborted: true, reason: "Interrupted" });
  const status = await deadline(first, 10_000);
  assertEquals(status, { success: true, code: 0, signal: undefined, error: undefined });
  assertStrictEquals(await second, status);
  assertEquals((await inbox.next()).done, true);
});

childTest("ParentPort.waitUntil() lets something be finished after the parent has asked for the end", async (kind) => {
  const child = spawn(
    kind,
    moduleOf(`
      const asked = new Promise((resolve) => parent().signal.addEventListener("abort", resolve));
      parent().waitUntil(asked.then(async () => {
        await new Promise((resolve) => setTimeout(resolve, 50));
        await parent().send("finished");
      }));
      await parent().send("ready");
      for await (const _ of parent().messages());
    `),
  );
  const inbox = child.messages();
  await next(inbox);
  const ending = child.shutdown();
  assertEquals((await next(inbox)).message, "finished");
  assertEquals((await deadline(ending, 10_000)).success, true);
});

childTest("Child.shutdown() kills the child when the grace is over", async (kind) => {
  const child = spawn(
    kind,
    moduleOf(`
      parent().waitUntil(new Promise(() => setInterval(() => {}, 1000)));
      await parent().send("ready");
      for await (const _ of parent().messages());
    `),
  );
  await next(child.messages());
  const begin = performance.now();
  const status = await child.shutdown({ grace: 100 });
  assertEquals(status, { success: false, code: 137, signal: "SIGKILL", error: undefined });
  const took = performance.now() - begin;
  assert(took >= 95 && took < 5_000, `${took} ms`);
  await assertRejects(() => child.shutdown({ grace: -1 }), RangeError);
});

childTest("Child.shutdown() of a child that has only just been started ends it", async (kind) => {
  const child = spawn(kind, ECHO);
  const { signal } = await deadline(child.shutdown(), 10_000);
  assertEquals(signal, kind === "process" ? "SIGTERM" : undefined);
});

long(oneKindTest)(
  "process",
  "spawnProcess() lets a child inherit no socket, also of those opened meanwhile",
  async (kind) => {
    const pairs: Pair[] = [];
    const children: TestChild[] = [];
    try {
      const count = sized(4, 20);
      for (let i = 0; i < count; i++) {
        const opening = Promise.all([Pair.open("native"), Pair.open("native")]);
        children.push(spawn(kind, ECHO));
        pairs.push(...await opening);
      }
      await Promise.all(children.map((child) => ask(child, "up")));
      const ours = descriptorLinks();
      assert(ours.filter((link) => link.startsWith("socket:")).length >= count * 6);
      const internet = internetSockets();
      for (const { pid } of children) {
        const sockets = descriptorLinks(pid as number).filter((link) => link.startsWith("socket:"));
        assert(sockets.length > 0);
        assertEquals(sockets.filter((link) => ours.includes(link) || internet.has(link)), []);
      }
    } finally {
      for (const pair of pairs) pair[Symbol.dispose]();
      await Promise.all(children.map((child) => child[Symbol.asyncDispose]()));
    }
  },
);

Deno.test({
  name: "spawnProcess() children end with a parent that is killed: idle, busy, silent and without permissions",
  ignore: !NATIVE,
  fn: () =>
    withoutOrphans(async () => {
      const program = new Deno.Command(Deno.execPath(), {
        args: ["run", "--quiet", "--no-prompt", "-A", new URL("children/parent_program.ts", import.meta.url).href],
        cwd: ROOT,
        stdin: "null",
        stdout: "piped",
        stderr: "inherit",
      }).spawn();
      const reader = program.stdout.pipeThrough(new TextDecoderStream()).getReader();
      const { value } = await deadline(reader.read(), 20_000);
      const pids = (value ?? "").trim().split(" ").map(Number);
      try {
        assertEquals([pids.length, ...pids.map(isAlive)], [4, true, true, true, true]);
        const begin = performance.now();
        program.kill("SIGKILL");
        await eventually(() => pids.some(isAlive) ? undefined : true);
        const took = performance.now() - begin;
        assert(took < 1_000, `${took} ms`);
      } finally {
        for (const pid of pids) if (isAlive(pid)) Deno.kill(pid, "SIGKILL");
        await program.status;
        await reader.cancel();
      }
    }),
});

oneKindTest("worker", "a thread that sends what Deno cannot receive is ended, and its parent goes on", async (kind) => {
  await using good = spawn(kind, ECHO);
  await using bad = spawn(
    kind,
    moduleOf(`
      import { createHistogram } from "node:perf_hooks";
      // Of its classes Deno clones this one, and knows it nowhere but where it has been made.
      await parent().send(createHistogram());
      for await (const _ of parent().messages());
    `),
  );
  const { success, code, signal, error } = await deadline(bad.closed, 10_000);
  assertEquals([success, code, signal], [false, 1, undefined]);
  assertInstanceOf(error, TypeError);
  assertMatch(error.message, /^worker \d+ .* has sent what cannot be cloned$/);
  assertEquals((await ask(good, "hello")).message.message, "hello");
});

long(Deno.test)({
  name: "spawnProcess() says that descriptors have run out, and leaves no process; one that was started before goes on",
  ignore: !NATIVE,
  async fn() {
    const { stdout, stderr } = await runStarved(`
      import { spawnProcess } from "@c10k/sockets/process";
      const early = spawnProcess(${JSON.stringify(ECHO)});
      fill();
      // It has its socket already.
      await early.send("hello");
      console.log((await early.messages().next()).value.message.message);
      const names = new Set();
      for (let freed = 0; freed < 8; freed++) {
        try {
          const late = spawnProcess(${JSON.stringify(ECHO)}, { stdout: "piped", stderr: "piped" });
          late.kill();
          await late.closed;
          await Promise.all([late.stdout.cancel(), late.stderr.cancel()]);
        } catch (error) { names.add(error.code + " " + error.message.replace(/process \\d+/, "process")); }
        held.pop().close();
      }
      console.log([...names].join());
      free();
      await early.shutdown();`);
    const why = "EMFILE Cannot start process (echo.ts): too many open files in this process (EMFILE)";
    assertEquals([stdout, stderr], [`hello\n${why}\n`, ""]);
  },
});

long(Deno.test)({
  name: "[worker] Child.kill() ends a thread also when descriptors have run out",
  ignore: !NATIVE,
  async fn() {
    const waiting = moduleOf(`
      TcpListener.bind({ hostname: "127.0.0.1", port: 0 }).accept();
      await parent().send("here");
    `);
    const { code, stdout } = await runStarved(`
      import { spawnWorker } from "@c10k/sockets/process";
      const child = spawnWorker(${JSON.stringify(waiting)});
      await child.messages().next();
      fill();
      child.kill();
      console.log((await child.closed).signal);`);
    assertEquals([code, stdout], [0, "SIGKILL\n"]);
  },
});

long(oneKindTest)(
  "worker",
  "what a thread has open is closed while it runs, and the rest when it has ended, if nobody waits for that",
  async () => {
    const owner = newOwner();
    const module = moduleOf(`
    const listener = TcpListener.bind({ hostname: "127.0.0.1", port: 0 });
    postMessage(listener.addr.port);
    listener.accept().catch(() => {});
  `);
    // As spawnWorker() does it.
    const worker = new Worker(module, { type: "module", name: `${WORKER_MARK}late @${owner.toString(16)}` });
    const port = await new Promise<number>((resolve) => worker.onmessage = ({ data }) => resolve(data));
    closeLeftOpenLater(owner);
    // It runs, and its socket is closed.
    await untilRefused(port);
    worker.terminate();
    await whenThreadEnds(owner);
    await eventually(() => threadOf(owner) === 0 ? true : undefined);
  },
);

childTest("Child.kill() and shutdown() end a child whose module awaits for ever at its top level", async (kind) => {
  // Without a timer a process ends with Deno's own error: nothing could settle the promise any more.
  const module = "data:text/javascript,setInterval(() => {}, 1e6); await new Promise(() => {});";
  for (const end of [(child: TestChild) => child.kill(), (child: TestChild) => void child.shutdown({ grace: 10 })]) {
    await using child = spawn(kind, module);
    end(child);
    const { success, signal } = await deadline(child.closed, 10_000);
    assertEquals([success, signal !== undefined], [false, true]);
  }
});
