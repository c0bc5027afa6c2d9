/** What threads say of themselves: no name and no message of theirs is taken for an address, or for another's descriptor. */

import { spawnWorker } from "@c10k/sockets/process";
import { TcpConn, TcpListener } from "@c10k/sockets/tcp";
import { assert, assertEquals, assertInstanceOf, assertMatch } from "@std/assert";
import { deadline } from "@std/async";
import { freeOwner, newOwner, threadOf, workerName } from "../internal/owner.ts";
import { createShared, findShared } from "../internal/shared_memory.ts";
import { ask, ECHO, moduleOf, NATIVE, oneKindTest } from "./_process.ts";
import { ENGINES, long, oneOf, runDeno, some } from "./_util.ts";

/** Names as this library makes them, nearly, or not at all. */
const NAMES = [
  "",
  "c10k-sockets",
  "c10k-sockets ",
  "c10k-sockets demo",
  "c10k-sockets demo @10",
  "c10k-sockets demo @0",
  "c10k-sockets demo @",
  "c10k-sockets demo @8",
  "c10k-sockets demo @ffffffffffffffff",
  "c10k-sockets demo @fffffffffffffffff",
  "c10k-sockets demo @7fffffffffff",
  "c10k-sockets demo @7f0000001000",
  "c10k-sockets demo @1000000000",
  "c10k-sockets demo @0x10",
  "c10k-sockets demo @-1",
  "c10k-sockets demo @1e3",
  "c10k-sockets demo @10 @20",
  "c10k-sockets demo @10\n",
  "c10k-sockets demo\n @10",
  "c10k-sockets \0 @10",
  "c10k-sockets 😀 \ud800 @10",
  "c10k-sockets demo @１０",
  " c10k-sockets demo @10",
  "C10K-SOCKETS demo @10",
  "c10k-sockets worker 1 (x) @10",
  "c10k-sockets worker 1 (x) @0000000000000010",
  "c10k-sockets worker 1 (x) @ffffffffffffffff",
  `c10k-sockets ${"x".repeat(100_000)} @${"1".repeat(100_000)}`,
  "__proto__",
];

for (const engine of oneOf("names", ENGINES)) {
  Deno.test(`[${engine}] a Worker of any name loads the library and serves`, async () => {
    const worker = `
      import { TcpConn, TcpListener } from "@c10k/sockets/tcp";
      import { parent } from "@c10k/sockets/process";
      const engine = "${engine}";
      using listener = TcpListener.bind({ hostname: "127.0.0.1", port: 0, engine });
      using client = await TcpConn.connect({ port: listener.addr.port, engine });
      using server = await listener.accept();
      await client.writeAll(new Uint8Array([7]));
      const p = new Uint8Array(1);
      await server.read(p);
      // A name that only begins like one of the library's makes no child of it.
      const isChild = /^c10k-sockets worker 1 \\(x\\) @[0-9a-f]{16}$/.test(self.name);
      let said = "no parent";
      if (!isChild) try { parent(); said = "a parent"; } catch { /* as it should be */ }
      postMessage([p[0], said]);
    `;
    const { code, stdout, stderr } = await runDeno(
      ["--allow-net", "--allow-read", ...(engine === "native" ? ["--allow-ffi"] : [])],
      `
      import { spawnWorker } from "@c10k/sockets/process";
      const source = ${JSON.stringify(worker)}.replace(/"@c10k\\/sockets\\/(\\w+)"/g, (_, name) =>
        JSON.stringify(import.meta.resolve("@c10k/sockets/" + name)));
      const url = URL.createObjectURL(new Blob([source], { type: "text/javascript" }));
      // So that there is memory that a name might lead into.
      const child = spawnWorker("data:text/javascript,setInterval(() => {}, 1000)", { name: "x) @10" });
      const run = (name) => new Promise((resolve, reject) => {
        const worker = new Worker(url, { type: "module", name });
        worker.onerror = (event) => {
          event.preventDefault();
          reject(new Error(JSON.stringify(name).slice(0, 80) + ": " + event.message));
        };
        worker.onmessage = ({ data }) => {
          if (!Array.isArray(data)) return; // the end, which is told to a parent
          worker.terminate();
          resolve(JSON.stringify(data));
        };
      });
      await Promise.all(${JSON.stringify(some(5, NAMES))}.map(async (name) => {
        const said = await run(name);
        if (said !== '[7,"no parent"]') console.log(JSON.stringify(name).slice(0, 80), said);
      }));
      child.kill();
      await child.closed;
      console.log("alive");
      Deno.exit(0);`,
    );
    assertEquals([code, stdout, stderr], [0, "alive\n", ""]);
  });
}

oneKindTest("worker", "a child's own name can be anything", async () => {
  for (const name of ["x @10", "c10k-sockets worker 9 (y) @0000000000000010", ") @ffffffffffffffff", "a\nb", ""]) {
    await using child = spawnWorker(ECHO, { name });
    assertEquals((await ask(child, "hello")).message.message, "hello");
    const listener = TcpListener.bind({ hostname: "127.0.0.1", port: 0, engine: "native" });
    const { port } = listener.addr;
    const { sockets: [back] } = await ask(child, "back", [listener]);
    assertEquals((back as TcpListener).addr.port, port);
    back?.close();
  }
});

/** What a Worker of a name opens; it is held until `terminate()`. */
async function opener(name: string): Promise<{ worker: Worker; port: number }> {
  const source = `
    import { TcpListener } from "${import.meta.resolve("@c10k/sockets/tcp")}";
    const listener = TcpListener.bind({ hostname: "127.0.0.1", port: 0, engine: "native" });
    listener.accept();
    postMessage(listener.addr.port);
    onmessage = () => { listener.close(); self.close(); };`;
  const worker = new Worker(`data:text/javascript,${encodeURIComponent(source)}`, { type: "module", name });
  const port = await new Promise<number>((resolve, reject) => {
    worker.onmessage = ({ data }) => resolve(data);
    worker.onerror = ({ message }) => reject(new Error(message));
  });
  return { worker, port };
}

Deno.test({
  name: "[worker] a Worker with a copy of another one's name is nobody's, and keeps its own",
  ignore: !NATIVE,
  async fn() {
    const owner = newOwner();
    const name = workerName("worker 1 (x)", owner);
    const first = await opener(name);
    const thread = threadOf(owner);
    assert(thread > 0);
    const second = await opener(name);
    assertEquals(threadOf(owner), thread);
    for (const { worker, port } of [first, second]) {
      (await TcpConn.connect({ port, engine: "native" })).close();
      worker.postMessage("end");
    }
    freeOwner(owner);
    // A number that is not there any more leads nowhere.
    const third = await opener(name);
    assertEquals(threadOf(owner), 0);
    third.worker.postMessage("end");
  },
});

/** Numbers that a child has not given away: of this process, of nothing, and no numbers. */
function forgedNumbers(victim: number): unknown[] {
  return [0, 1, 2, victim, 999_999, -1, 2 ** 31, 2 ** 53, 1.5, NaN, Infinity];
}

oneKindTest(
  "worker",
  "a child that posts descriptors which it does not have is ended, and they stay open",
  async () => {
    using listener = TcpListener.bind({ hostname: "127.0.0.1", port: 0, engine: "native" });
    const kinds = ["conn", "listener", "udp"];
    await Promise.all(
      forgedNumbers(listener.fd as number).map(async (fd, i) => {
        const module = moduleOf(`
      parent();
      const sockets = [{ kind: "${kinds[i % kinds.length]}", fd: ${fd} }];
      postMessage({ packet: { type: "message", body: 1 }, sockets });
      setInterval(() => {}, 1000);`);
        await using child = spawnWorker(module);
        const { success, error } = await deadline(child.closed, 20_000);
        assertEquals([success, error?.message], [false, "Cannot receive: a descriptor is not the sender's to give"]);
      }),
    );
    // Everything is as it was.
    using client = await TcpConn.connect({ port: listener.addr.port, engine: "native" });
    using server = await listener.accept();
    await client.writeAll(new Uint8Array([1]));
    assertEquals(await server.read(new Uint8Array(1)), 1);
  },
);

const POSTED: [what: string, text: string][] = [
  ["a text", `"hello"`],
  ["nothing", "null"],
  ["undefined", "undefined"],
  ["a number", "1"],
  ["an array", "[]"],
  ["no packet", "{ sockets: [] }"],
  ["a packet of no type", "{ packet: {}, sockets: [] }"],
  ["a packet of a different type", `{ packet: { type: "toString" }, sockets: [] }`],
  ["no sockets", `{ packet: { type: "message" } }`],
  ["a socket of no kind", `{ packet: { type: "message" }, sockets: [{ fd: 1 }] }`],
  ["a control socket", `{ packet: { type: "message" }, sockets: [{ kind: "control", fd: 1 }] }`],
  ["streams that are none", `{ packet: { type: "message" }, sockets: [{ kind: "streams", conn: {} }] }`],
  ["streams of nothing", `{ packet: { type: "message" }, sockets: [{ kind: "streams", conn: null }] }`],
  ["sockets without end", `{ packet: { type: "message" }, sockets: new Array(1e6) }`],
  ["credit that is no number", `{ packet: { type: "credit", body: "1" }, sockets: [] }`],
  ["a greeting that is none", `{ hello: true }`],
];

long(oneKindTest)("worker", "a child that posts what is no message of the library is ended, and no other", async () => {
  await using good = spawnWorker(ECHO);
  await ask(good, "before");
  await Promise.all(POSTED.map(async ([what, text]) => {
    await using child = spawnWorker(moduleOf(`postMessage(${text}); setInterval(() => {}, 1000);`));
    const { success, error } = await deadline(child.closed, 20_000);
    assertEquals(success, false, what);
    assertInstanceOf(error, TypeError, what);
    assertMatch(error.message, /^Cannot receive: /, what);
  }));
  assertEquals((await ask(good, "after")).message.message, "after");
});

Deno.test({
  name: "findShared() finds what was made by its name and size, and nothing else",
  ignore: !NATIVE,
  fn() {
    const name = `c10k-test-${crypto.randomUUID()}`;
    assertEquals(findShared(name, 8192, () => true), undefined);
    const address = createShared(name, 8192);
    assertEquals(findShared(name, 8192, () => true), address);
    assertEquals(findShared(name, 4096, () => true), undefined);
    assertEquals(findShared(name, 8192, () => false), undefined);
    assertEquals(findShared(name.slice(1), 8192, () => true), undefined);
    assertEquals(findShared(`${name} (deleted)`, 8192, () => true), undefined);
    const other = createShared(name, 8192);
    const seen: bigint[] = [];
    findShared(name, 8192, (at) => {
      seen.push(at);
      return false;
    });
    assertEquals(seen.sort(), [address, other].sort());
    // It has no descriptor that anybody could close, or reach it by.
    for (const { name: fd } of Deno.readDirSync("/proc/self/fd")) {
      const link = attempt(() => Deno.readLinkSync(`/proc/self/fd/${fd}`));
      assert(!link.includes(name), link);
    }
  },
});

function attempt(call: () => string): string {
  try {
    return call();
  } catch {
    return "";
  }
}
