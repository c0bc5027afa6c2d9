/** Messages between parents and children: what they carry, flow control, cancellation, what is refused. */

import { type Child, parent, spawnProcess, spawnWorker } from "@c10k/sockets/process";
import { engineSupport, TcpConn, TcpListener } from "@c10k/sockets/tcp";
import {
  assert,
  assertEquals,
  assertInstanceOf,
  assertMatch,
  assertRejects,
  assertStrictEquals,
  assertStringIncludes,
  assertThrows,
} from "@std/assert";
import { deadline } from "@std/async";
import {
  ACTOR,
  ask,
  checkEcho,
  childTest,
  ECHO,
  isPending,
  LATE_READER,
  letRead,
  moduleOf,
  next,
  oneKindTest,
  outcome,
  spawn,
  WINDOW,
  withoutOrphans,
} from "./_process.ts";
import { encode, Pair, readText } from "./_util.ts";

childTest("Child.send() and messages() carry what structuredClone does", async (kind) => {
  await using child = spawn(kind, ECHO);
  const circular: { self?: unknown; list: unknown[] } = { list: [] };
  circular.self = circular;
  circular.list.push(circular);
  const values: unknown[] = [
    undefined,
    null,
    -0,
    NaN,
    2n ** 200n,
    "text \u{1F600} \ud800",
    new Date(86_400_000),
    new Map<unknown, unknown>([["a", new Map([[1, new Set([1, "2"])]])], [{ key: true }, 2n]]),
    [1, , 3],
    /a+b/gi,
    { a: undefined, b: [{ c: [] }] },
    new Uint8Array([1, 2, 255]),
    new Float64Array([0.5, -0, Infinity]),
    new BigInt64Array([-1n, 2n]),
    new Uint16Array(new Uint16Array([1, 2, 3, 4]).buffer, 2, 2),
    new Uint8Array([7, 8, 9]).buffer,
    new Uint8Array(0),
  ];
  for (const value of values) {
    const { message, sockets, lost } = await ask(child, value);
    assertEquals(message.message, value);
    assertEquals(Object.prototype.toString.call(message.message), Object.prototype.toString.call(value));
    assertEquals([sockets, message.lost, lost], [[], 0, 0]);
  }
  const { message: { message: same } } = await ask(child, circular);
  assertStrictEquals(same.self, same);
  assertStrictEquals(same.list[0], same);

  const cause = new TypeError("the cause");
  const { message: { message: error } } = await ask(child, new RangeError("the error", { cause }));
  assertInstanceOf(error, RangeError);
  assertEquals(error.message, "the error");
  assertInstanceOf(error.cause, TypeError);

  const long = "0123456789abcdef".repeat(5 * 1024 * 1024 / 16);
  assert((await ask(child, long)).message.message === long);
});

childTest("Child.send() and messages() keep the order of 1,000 both ways at the same time", async (kind) => {
  await using child = spawn(
    kind,
    moduleOf(`
      const sending = (async () => {
        for (let i = 0; i < 1000; i++) await parent().send({ i, text: "x".repeat(i) });
      })();
      const seen = [];
      for await (const { message } of parent().messages()) {
        seen.push(message.i);
        if (seen.length === 1000) break;
      }
      await sending;
      await parent().send(seen);
    `),
  );
  const inbox = child.messages();
  const sent = Array.from({ length: 1000 }, (_, i) => child.send({ i, text: "y".repeat(1000 - i) }));
  const expected = Array.from({ length: 1000 }, (_, i) => i);
  const seen: number[] = [];
  while (seen.length < 1000) {
    const { message: { i, text } } = await next(inbox);
    assertEquals(text.length, i);
    seen.push(i);
  }
  await Promise.all(sent);
  assertEquals(seen, expected);
  assertEquals((await next(inbox)).message, expected);
});

childTest("Child.send() waits while 256 messages are unread, and can be cancelled", async (kind) => {
  using pair = await Pair.open("native");
  await using child = spawn(kind, LATE_READER);
  const { message: addr } = await next(child.messages());
  await Promise.all(Array.from({ length: WINDOW }, (_, i) => child.send(i)));

  const abort = new AbortController();
  const reason = new Error("no longer");
  const cancelled = [
    child.send("cancelled", { sockets: [pair.server], signal: abort.signal }),
    ...Array.from({ length: 100 }, () => child.send("x".repeat(1 << 20), abort)),
  ];
  const goesOn = child.send("goes on");
  assert(await isPending(Promise.race([...cancelled, goesOn])));
  abort.abort(reason);
  for (const promise of cancelled) assertStrictEquals(await promise.catch((error) => error), reason);
  assertStrictEquals(await child.send("too late", { signal: abort.signal }).catch((error) => error), reason);
  await pair.client.writeAll(encode("whole"));
  assertEquals(await readText(pair.server), "whole");
  assert(await isPending(goesOn));

  // What was let through is all that the child holds: not one more.
  await letRead(addr);
  await goesOn;
  await child.send("last");
  const { message: seen } = await next(child.messages());
  assertEquals(seen, [...Array(WINDOW).keys(), "goes on"]);
});

childTest("Child.messages() can be cancelled, and what comes later is for the next loop", async (kind) => {
  await using child = spawn(kind, ECHO);
  await ask(child, "up");
  const reason = new Error("no longer");
  const abort = new AbortController();
  const waiting = child.messages(abort).next();
  assert(await isPending(waiting));
  abort.abort(reason);
  assertStrictEquals(await waiting.catch((error) => error), reason);
  assertStrictEquals(assertThrows(() => child.messages(abort)), reason);
  assertThrows(() => child.messages({ signal: 5 } as never), TypeError, "signal");
  assertEquals((await ask(child, "later")).message.message, "later");
});

childTest("Child.kill() lets the sends that wait reject, with their sockets whole", async (kind) => {
  using pair = await Pair.open("native");
  await using child = spawn(kind, LATE_READER);
  await next(child.messages());
  await Promise.all(Array.from({ length: WINDOW }, (_, i) => child.send(i)));
  const waiting = [child.send("waits"), child.send("waits", { sockets: [pair.server] })];
  const outcomes = Promise.all(waiting.map(outcome));
  child.kill();
  assertEquals(await outcomes, ["BrokenPipe", "BrokenPipe"]);
  await pair.client.writeAll(encode("whole"));
  assertEquals(await readText(pair.server), "whole");
});

oneKindTest("process", "Child.send() that waits for a stopped process is cancelled before it is sent", async (kind) => {
  using pair = await Pair.open("native");
  await using child = spawn(kind, LATE_READER);
  const { message: addr } = await next(child.messages());
  child.kill("SIGSTOP");
  // More than the socket between them holds.
  const abort = new AbortController();
  const size = 50_000;
  const sends = Array.from({ length: 60 }, (_, i) => child.send(`${i}`.padEnd(size), abort));
  const withSocket = child.send("cancelled", { sockets: [pair.server], signal: abort.signal });
  const settled: string[] = [];
  for (const [i, send] of sends.entries()) send.then(() => settled[i] = "sent", () => settled[i] = "cancelled");
  assert(await isPending(withSocket));
  abort.abort(new Error("no longer"));
  await assertRejects(() => withSocket, Error, "no longer");
  await Promise.allSettled(sends);
  const sent = settled.flatMap((how, i) => how === "sent" ? `${i}`.padEnd(size) : []);
  assert(sent.length > 0 && sent.length < 60);
  child.kill("SIGCONT");
  await letRead(addr);
  await child.send("last");
  const { message: seen } = await next(child.messages());
  assertEquals(seen.length, sent.length);
  assert(sent.every((text, i) => seen[i] === text));
  await pair.client.writeAll(encode("whole"));
  assertEquals(await readText(pair.server), "whole");
});

oneKindTest(
  "process",
  "Child.send() that is cancelled half-way sends nothing, and what follows is whole",
  async (kind) => {
    using pair = await Pair.open("native");
    await using child = spawn(kind, LATE_READER);
    const { message: addr } = await next(child.messages());
    child.kill("SIGSTOP");
    const abort = new AbortController();
    const half = child.send("h".repeat(1 << 20), { sockets: [pair.server], signal: abort.signal });
    assert(await isPending(half));
    abort.abort(new Error("no longer"));
    await assertRejects(() => half, Error, "no longer");
    const following = child.send("following");
    child.kill("SIGCONT");
    await following;
    await letRead(addr);
    await child.send("last");
    assertEquals((await next(child.messages())).message, ["following"]);
    await pair.client.writeAll(encode("whole"));
    assertEquals(await readText(pair.server), "whole");
  },
);

oneKindTest("process", "Child.kill() lets the sends to a stopped process reject with BrokenPipe", async (kind) => {
  using pair = await Pair.open("native");
  await using child = spawn(kind, LATE_READER);
  await next(child.messages());
  child.kill("SIGSTOP");
  const outcomes = Promise.all(Array.from({ length: 60 }, () => outcome(child.send("x".repeat(50_000)))));
  const last = child.send("last", { sockets: [pair.server] });
  assert(await isPending(last));
  child.kill();
  await assertRejects(() => last, Deno.errors.BrokenPipe, "it has ended");
  assertEquals([...new Set(await outcomes)].sort(), ["BrokenPipe", "done"]);
  assertEquals(typeof pair.server.fd, "number");
});

childTest("Child.send() refuses what cannot be sent, and leaves the sockets whole", async (kind) => {
  using pair = await Pair.open("native");
  using closed = await Pair.open("native");
  closed.server.close();
  const { server, client } = pair;
  await using child = spawn(kind, ECHO);
  const inbox = child.messages();
  const failing = {
    get value() {
      throw new URIError("mine");
    },
  };
  const refusals: [unknown, unknown, new (message: string) => Error, string][] = [
    ["x", { sockets: "sockets" }, TypeError, "sockets must be an array"],
    // As postMessage() has it.
    ["x", [server], TypeError, "options must be an object, received an array"],
    ["x", { sockets: server }, TypeError, "sockets must be an array"],
    ["x", { sockets: [server, server] }, TypeError, "each socket once"],
    ["x", { sockets: [server, {}] }, TypeError, "must hold TcpConn"],
    ["x", { sockets: [server, undefined] }, TypeError, "must hold TcpConn"],
    ["x", { sockets: [server, 5] }, TypeError, "must hold TcpConn"],
    ["x", { sockets: [server, closed.server] }, Deno.errors.BadResource, "a socket is closed"],
    ["x", { sockets: [server], signal: "signal" }, TypeError, "signal"],
    ["x", "options", TypeError, "options"],
    [() => {}, { sockets: [server] }, DOMException, "could not be cloned"],
    [{ a: [Symbol("s")] }, { sockets: [server] }, DOMException, "could not be cloned"],
    [() => {}, {}, DOMException, "could not be cloned"],
    ["x", { sockets: new Array(16_385) }, RangeError, "at most 16384 sockets, has 16385"],
    // What a getter throws stays as it is.
    [failing, { sockets: [server] }, URIError, "mine"],
    [failing, {}, URIError, "mine"],
  ];
  // Before the child is there, and after.
  for (const when of ["early", "later"]) {
    const calls = refusals.map(([message, options]) => child.send(message, options as object));
    const checks = calls.map((call, i) => {
      const [, , type, text] = refusals[i] as typeof refusals[number];
      return assertRejects(() => call, type, text);
    });
    await Promise.all(checks);
    const { message } = await ask(child, when);
    assertEquals(message.message, when);
  }
  await client.writeAll(encode("whole"));
  assertEquals(await readText(server), "whole");
  // Of two messages with the same socket one gets it.
  const [first, second] = [child.send("first", { sockets: [server] }), child.send("second", { sockets: [server] })];
  await first;
  await assertRejects(() => second, Deno.errors.BadResource, "a socket is closed");
  const { message, sockets } = await next(inbox);
  assertEquals([message.message, sockets.length], ["first", 1]);
  for (const socket of sockets) socket.close();
});

childTest("Child.send() of a socket that is closed while the message waits is refused", async (kind) => {
  using pair = await Pair.open("native");
  await using child = spawn(kind, ECHO);
  // The child is not there yet.
  const sending = child.send("x", { sockets: [pair.server] });
  pair.server.close();
  await assertRejects(() => sending, Deno.errors.BadResource, "a socket is closed");
  assertEquals((await ask(child, "next")).message.message, "next");
});

childTest("Child.send() of a socket wakes the calls that wait on it, as close() does", async (kind) => {
  using pair = await Pair.open("native");
  await using child = spawn(kind, ACTOR);
  const calls = [pair.server.read(new Uint8Array(9)), pair.listener.accept()];
  const outcomes = Promise.all(calls.map(outcome));
  await ask(child, "serve", [pair.server, pair.listener]);
  for (const name of await outcomes) assertMatch(name, /^(BadResource|Interrupted)$/);
  await checkEcho(pair.client, "hello");
});

oneKindTest("process", "Child.send() refuses sockets of the runtime engine", async (kind) => {
  using listener = TcpListener.bind({ hostname: "127.0.0.1", port: 0, engine: "runtime" });
  await using child = spawn(kind, ECHO);
  await ask(child, "ready");
  const error = await assertRejects(() => child.send("x", { sockets: [listener] }), Deno.errors.NotSupported);
  assertStringIncludes(error.message, "runtime engine");
  using client = await TcpConn.connect({ port: listener.addr.port, engine: "runtime" });
  using server = await listener.accept();
  await server.writeAll(encode("whole"));
  assertEquals(await readText(client), "whole");
});

for (const [name, start] of [["spawnWorker", spawnWorker], ["spawnProcess", spawnProcess]] as const) {
  Deno.test({
    name: `${name}() refuses wrong types before it starts anything`,
    ignore: engineSupport().engine !== "native",
    fn: () =>
      withoutOrphans(() => {
        const call = start as (module: unknown, options?: unknown) => Child;
        for (const module of [undefined, null, 5, {}, ["x"]]) {
          assertThrows(() => call(module), TypeError, "module must be a string or a URL");
        }
        assertThrows(() => call(ECHO, "options"), TypeError, "options");
        assertThrows(() => call(ECHO, { name: 5 }), TypeError, "name must be a string");
        assertThrows(() => call(ECHO, { permissions: "all" }), TypeError, 'permissions must be "inherit", "none"');
        assertThrows(() => call(ECHO, { permissions: 5 }), TypeError, "permissions");
        assertThrows(() => call(ECHO, { permissions: { nett: true } }), TypeError, "permissions must name");
        assertThrows(() => call(ECHO, { permissions: { net: "all" } }), TypeError, "permissions.net must be");
        assertThrows(() => call(ECHO, { permissions: { net: [5] } }), TypeError, "permissions.net must be");
        if (start === spawnProcess) {
          assertThrows(() => call(ECHO, { args: "x" }), TypeError, "args must be an array of strings");
          assertThrows(() => call(ECHO, { flags: [5] }), TypeError, "flags must be an array of strings");
          for (
            const flag of [
              "-A",
              "-qA",
              "-Aq",
              "--ignore-env=X",
              "--allow-all",
              "--allow-net=x",
              "--deny-net",
              "-R",
              "-N=x",
              "--permission-set",
            ]
          ) {
            assertThrows(() => call(ECHO, { flags: [flag] }), TypeError, "use permissions");
          }
          assertThrows(() => call(ECHO, { permissions: { net: ["a,b"] } }), TypeError, "comma");
        }
        return Promise.resolve();
      }),
  });
}

Deno.test("parent() throws where there is none", async () => {
  assertThrows(() => parent(), Error, "this program was not started by spawnWorker or spawnProcess");
  const worker = new Worker(
    moduleOf(`try { parent(); postMessage("reached"); } catch (error) { postMessage(error.message); }`),
    { type: "module" },
  );
  const { data } = await new Promise<MessageEvent<string>>((resolve) => worker.onmessage = resolve);
  worker.terminate();
  assertStringIncludes(data, "this program was not started by spawnWorker or spawnProcess");
});

/** A message whose parts can all be changed later; `change()` does. As text, for a child has the same. */
const CHANGEABLE = `
  function changeable() {
    const message = {
      n: 1,
      deep: { list: [1, [2]] },
      map: new Map([["key", { n: 1 }]]),
      set: new Set([1]),
      date: new Date(1),
      bytes: new Uint8Array([1, 2, 3]),
      memory: new Uint8Array([4]).buffer,
      error: new TypeError("one"),
    };
    const change = () => {
      message.n = 2;
      message.deep.list.push(3);
      message.deep.list[1][0] = 3;
      message.map.set("key", { n: 2 }).set("more", { n: 3 });
      message.set.clear();
      message.date.setTime(2);
      message.bytes.fill(9);
      new Uint8Array(message.memory)[0] = 9;
      message.memory.transfer();
      message.error.message = "two";
      message.more = () => {};
    };
    return { message, change };
  }`;

interface Changeable {
  message: { error: Error };
  change(): void;
}

const changeable = new Function(`${CHANGEABLE}; return changeable();`) as () => Changeable;

function checkUnchanged(message: Changeable["message"]): void {
  const { error, ...rest } = message;
  const { error: was, ...expected } = changeable().message;
  assertEquals(rest, expected);
  assertEquals([error.name, error.message], [was.name, was.message]);
}

childTest("Child.send() delivers what the message was when it was called, however long it waits", async (kind) => {
  await using child = spawn(kind, LATE_READER);
  const inbox = child.messages();
  const bytes = new Uint8Array(1);
  const sends: Promise<void>[] = [];
  const sendBoth = () => {
    bytes[0] = sends.length;
    sends.push(child.send(bytes));
    bytes[0] = 255;
    const { message, change } = changeable();
    sends.push(child.send(message));
    change();
  };
  // Before the child is there, once it is, and while more are unread there than may be.
  sendBoth();
  const { message: addr } = await next(inbox);
  sendBoth();
  const many = Array.from({ length: WINDOW }, (_, i) => child.send(i));
  sendBoth();
  assert(await isPending(sends.at(-1) as Promise<void>));
  const last = child.send("last");
  await letRead(addr);
  await Promise.all([...sends, ...many, last]);
  const { message: seen } = await next(inbox);
  assertEquals(seen.splice(4, WINDOW), Array.from({ length: WINDOW }, (_, i) => i));
  assertEquals(seen.length, 6);
  for (const [i, message] of seen.entries()) {
    if (i % 2 === 0) assertEquals(message, new Uint8Array([i]));
    else checkUnchanged(message);
  }
});

childTest("ParentPort.send() delivers what the message was when it was called, however long it waits", async (kind) => {
  await using child = spawn(
    kind,
    moduleOf(`
      ${CHANGEABLE}
      const bytes = new Uint8Array(1);
      const sends = [];
      for (let i = 0; i < 2 * ${WINDOW}; i++) {
        bytes[0] = i;
        sends.push(parent().send(bytes));
        const { message, change } = changeable();
        sends.push(parent().send(message));
        change();
      }
      await Promise.all(sends);
      for await (const _ of parent().messages());`),
  );
  const inbox = child.messages();
  for (let i = 0; i < 2 * WINDOW; i++) {
    assertEquals((await next(inbox)).message, new Uint8Array([i & 255]));
    checkUnchanged((await next(inbox)).message);
  }
});

childTest("Child.send() takes the sockets that the array held when it was called", async (kind) => {
  using pair = await Pair.open("native");
  await using child = spawn(kind, ECHO);
  const sockets = [pair.server];
  const sending = child.send("one", { sockets });
  sockets.push(pair.client);
  await sending;
  sockets.length = 0;
  const { sockets: back } = await next(child.messages());
  assertEquals([back.length, typeof pair.client.fd], [1, "number"]);
  for (const socket of back) socket.close();
});

childTest("Child.send() calls each getter of a message once, before it returns", async (kind) => {
  using pair = await Pair.open("native");
  await using child = spawn(kind, LATE_READER);
  const inbox = child.messages();
  const calls: string[] = [];
  const message = (name: string) => ({
    get name() {
      calls.push(name);
      return calls.length;
    },
  });
  const sends = [child.send(message("early")), child.send(message("early with a socket"), { sockets: [pair.server] })];
  assertEquals(calls, ["early", "early with a socket"]);
  const { message: addr } = await next(inbox);
  sends.push(child.send(message("at once")), child.send(message("and a socket"), { sockets: [pair.client] }));
  assertEquals(calls.slice(2), ["at once", "and a socket"]);
  for (let i = 0; i < WINDOW; i++) sends.push(child.send({ name: 0 }));
  sends.push(child.send(message("behind a full window")));
  assertEquals(calls.slice(4), ["behind a full window"]);
  sends.push(child.send("last"));
  await letRead(addr);
  await Promise.all(sends);
  const { message: seen } = await next(inbox);
  assertEquals(seen.map(({ name }: { name: number }) => name).filter((name: number) => name > 0), [1, 2, 3, 4, 5]);
  assertEquals(calls.length, 5);
});

/** What cannot be cloned, to neither kind of child. */
const NO_CLONES: [what: string, make: () => unknown][] = [
  ["a function", () => () => {}],
  ["a symbol", () => Symbol("s")],
  ["a promise", () => Promise.resolve()],
  ["a weak map", () => new WeakMap()],
  ["a proxy", () => new Proxy({}, {})],
  ["a stream", () => new ReadableStream()],
  ["a port", () => {
    const { port1, port2 } = new MessageChannel();
    port2.close();
    return port1;
  }],
  ["an address", () => new URL("http://localhost")],
  ["what holds one of these", () => ({ a: [new Map([[1, { b: () => {} }]])] })],
  ["memory that was transferred away", () => {
    const memory = new ArrayBuffer(8);
    memory.transfer();
    return memory;
  }],
];

childTest("Child.send() refuses what cannot be cloned at once, and disturbs no other message", async (kind) => {
  await using child = spawn(kind, LATE_READER);
  const inbox = child.messages();
  const ofProcesses: typeof NO_CLONES = kind === "worker" ? [] : [
    ["shared memory", () => new SharedArrayBuffer(8)],
    ["a module", () => new WebAssembly.Module(new Uint8Array([0, 97, 115, 109, 1, 0, 0, 0]))],
  ];
  const sends: Promise<void>[] = [];
  const refuse = async () => {
    for (const [what, make] of [...NO_CLONES, ...ofProcesses]) {
      sends.push(child.send(what));
      // The child reads nothing: whatever waits would wait.
      const value = make();
      const refusal = await deadline(child.send(value).catch((error) => error), 5_000);
      if (value instanceof MessagePort) value.close();
      assertInstanceOf(refusal, DOMException, what);
      assertEquals(refusal.name, "DataCloneError", what);
    }
  };
  await refuse();
  const { message: addr } = await next(inbox);
  await refuse();
  for (let i = 0; i < WINDOW; i++) sends.push(child.send("many"));
  await refuse();
  sends.push(child.send("last"));
  await letRead(addr);
  await Promise.all(sends);
  const names = [...NO_CLONES, ...ofProcesses].map(([what]) => what);
  const { message: seen } = await next(inbox);
  assertEquals(seen.filter((what: string) => what !== "many"), [...names, ...names, ...names]);
});

oneKindTest("process", "Child.send() refuses a message that is too large at once, also behind others", async (kind) => {
  await using child = spawn(kind, LATE_READER);
  const large = new Uint8Array(256 * 1024 * 1024);
  const sends = Array.from({ length: WINDOW + 1 }, (_, i) => child.send(i));
  await assertRejects(() => child.send(large), RangeError, "message must have at most 268435456 bytes");
  await using _ = { [Symbol.asyncDispose]: async () => void await Promise.allSettled(sends) };
  child.kill();
});

childTest("Child.send() of a message whose getter ends the child, or aborts the call, rejects", async (kind) => {
  await using child = spawn(kind, ECHO);
  const controller = new AbortController();
  const aborting = {
    get value() {
      controller.abort(new RangeError("mine"));
      return 1;
    },
  };
  await assertRejects(() => child.send(aborting, { signal: controller.signal }), RangeError, "mine");
  assertEquals((await ask(child, "next")).message.message, "next");
  const killing = {
    get value() {
      child.kill();
      return 1;
    },
  };
  await Promise.race([
    assertRejects(() => child.send(killing).then(() => child.closed).then(() => child.send(1)), Deno.errors.BrokenPipe),
    child.closed.then(() => {}),
  ]);
  await assertRejects(() => child.send("x"), Deno.errors.BrokenPipe);
});
