/** Buffers, options and addresses whose properties lie: what is read and written is what the memory is. */

import { TcpConn, TcpListener } from "@c10k/sockets/tcp";
import { assertEquals, assertRejects, assertThrows } from "@std/assert";
import { LIARS, LyingGetters } from "./_liars.ts";
import { namespaceTest } from "./_namespace.ts";
import { ENGINES, engineTest, Pair, readExactly, readToEnd } from "./_util.ts";

/** The bytes of a buffer in the middle of its memory, and what lies around it. */
const SIZE = 16;
const AT = 8;

const SENT = Uint8Array.from({ length: SIZE }, (_, i) => i + 1);

/** Memory with {@linkcode SENT} in the middle and 0xff around it. */
function filled(): ArrayBuffer {
  const memory = new Uint8Array(64).fill(0xff);
  memory.set(SENT, AT);
  return memory.buffer;
}

/** What a read must leave: the bytes in the middle, nothing around them. */
function received(memory: ArrayBuffer): number[][] {
  const all = [...new Uint8Array(memory)];
  return [all.slice(0, AT), all.slice(AT, AT + SIZE), all.slice(AT + SIZE)];
}

const NOTHING_AROUND = [Array(AT).fill(0), [...SENT], Array(64 - AT - SIZE).fill(0)];

const WRITES: Record<string, (conn: TcpConn, p: Uint8Array) => unknown> = {
  write: (conn, p) => conn.write(p),
  "write with a signal": (conn, p) => conn.write(p, { signal: new AbortController().signal }),
  writeAll: (conn, p) => conn.writeAll(p),
  "writeAll with a signal": (conn, p) => conn.writeAll(p, { signal: new AbortController().signal }),
  tryWrite: (conn, p) => conn.tryWrite(p),
  writable: async (conn, p) => {
    const writer = conn.writable.getWriter();
    await writer.write(p);
    writer.releaseLock();
  },
};

for (const [call, write] of Object.entries(WRITES)) {
  engineTest(`TcpConn: ${call} sends the bytes of a buffer whose properties lie, and no others`, async (engine) => {
    for (const [liar, make] of Object.entries(LIARS)) {
      using pair = await Pair.open(engine);
      await write(pair.client, make(filled(), AT, SIZE));
      await pair.client.closeWrite();
      const p = new Uint8Array(1000);
      let size = 0;
      for (let n = await pair.server.read(p); n !== null; n = await pair.server.read(p.subarray(size))) size += n;
      assertEquals([...p.subarray(0, size)], [...SENT], liar);
    }
  });
}

const READS: Record<string, (conn: TcpConn, p: Uint8Array) => unknown> = {
  read: (conn, p) => conn.read(p),
  "read with a signal": (conn, p) => conn.read(p, { signal: new AbortController().signal }),
  peek: (conn, p) => conn.peek(p),
  tryRead: async (conn, p) => {
    await conn.peek(new Uint8Array(SIZE)); // there is something, on the runtime engine read ahead
    return conn.tryRead(p);
  },
};

for (const [call, read] of Object.entries(READS)) {
  for (const waits of [false, true]) {
    const when = waits ? "that waits" : "that finds bytes";
    engineTest(`TcpConn: a ${call} ${when} fills the memory of a buffer whose properties lie`, async (engine) => {
      for (const [liar, make] of Object.entries(LIARS)) {
        using pair = await Pair.open(engine);
        const memory = new ArrayBuffer(64);
        const more = new Uint8Array(4096).fill(0xee);
        more.set(SENT);
        if (!waits) {
          await pair.server.writeAll(more);
          await pair.client.peek(new Uint8Array(SIZE));
        }
        const reading = read(pair.client, make(memory, AT, SIZE));
        if (waits) await pair.server.writeAll(more);
        assertEquals([await reading, received(memory)], [SIZE, NOTHING_AROUND], liar);
      }
    });
  }
}

engineTest("TcpConn.writeAll() that waits for room sends what lies behind a buffer's lies", async (engine) => {
  const large = 4 * 1024 * 1024;
  for (const lie of [0, 1, 2 ** 31, undefined]) {
    using pair = await Pair.open(engine);
    const p = new Uint8Array(large);
    Object.defineProperty(p, "length", { value: lie });
    Object.defineProperty(p, "byteLength", { value: lie });
    Object.defineProperty(p, "subarray", { value: () => new Uint8Array(7) });
    const writing = pair.client.writeAll(p).then(() => pair.client.closeWrite());
    assertEquals(await readToEnd(pair.server), large);
    await writing;
  }
});

engineTest("TcpConn refuses a Proxy and other kinds of arrays, before any system call", async (engine) => {
  using pair = await Pair.open(engine);
  const strangers = [
    new Proxy(new Uint8Array(8), {}),
    new Proxy(new LyingGetters(8), { getPrototypeOf: () => Uint8Array.prototype }),
    Object.create(Uint8Array.prototype),
    new Uint8ClampedArray(8),
    new Uint16Array(8),
    new DataView(new ArrayBuffer(8)),
    new ArrayBuffer(8),
    { length: 8, byteLength: 8, [Symbol.toStringTag]: "Uint8Array", __proto__: Uint8Array.prototype },
  ] as unknown as Uint8Array[];
  for (const stranger of strangers) {
    for (const call of ["read", "peek", "write", "writeAll"] as const) {
      await assertRejects(() => pair.client[call](stranger) as Promise<unknown>, TypeError, "p must be a Uint8Array");
    }
    for (const call of ["tryRead", "tryWrite"] as const) {
      assertThrows(() => pair.client[call](stranger), TypeError, "p must be a Uint8Array");
    }
  }
  await pair.client.writeAll(SENT);
  assertEquals(await readExactly(pair.server, SIZE), SENT);
});

engineTest(
  "TcpConn serves shared, resizable and length-tracking buffers by their memory of the moment",
  async (engine) => {
    using pair = await Pair.open(engine);
    const shared = new Uint8Array(new SharedArrayBuffer(64), AT, SIZE);
    shared.set(SENT);
    await pair.client.writeAll(shared);
    assertEquals(await readExactly(pair.server, SIZE), SENT);
    const memory = new ArrayBuffer(4, { maxByteLength: SIZE });
    const tracking = new Uint8Array(memory);
    memory.resize(SIZE);
    tracking.set(SENT);
    await pair.client.writeAll(tracking);
    assertEquals(await readExactly(pair.server, SIZE), SENT);
    const ends = new Uint8Array(memory, 4, 8);
    memory.resize(6);
    await assertRejects(() => pair.client.write(ends), TypeError, "p must not be detached");
    await assertRejects(() => pair.client.read(ends), TypeError, "p must not be detached");
  },
);

engineTest("write(), writeAll() and tryWrite() of nothing return at once on a full connection", async (engine) => {
  using pair = await Pair.open(engine);
  const nothing = new Uint8Array(0);
  const filling = pair.client.writeAll(new Uint8Array(32 * 1024 * 1024));
  const end = filling.catch((error) => error);
  await new Promise((resolve) => setTimeout(resolve, 20)); // some of it is in the kernel's queues
  assertEquals(await pair.client.write(nothing), 0);
  assertEquals(await pair.client.write(nothing, { signal: new AbortController().signal }), 0);
  await pair.client.writeAll(nothing);
  assertEquals(pair.client.tryWrite(nothing), 0);
  assertEquals(await pair.client.read(nothing), 0);
  assertEquals(await pair.client.peek(nothing), 0);
  assertEquals(pair.client.tryRead(nothing), 0);
  pair.client.close();
  assertEquals((await end) instanceof Deno.errors.Interrupted, true);
  await assertRejects(() => pair.client.write(nothing), Deno.errors.BadResource);
  await assertRejects(() => pair.client.writeAll(nothing), Deno.errors.BadResource);
});

engineTest("write() and writeAll() of nothing fail after closeWrite(), as any other write", async (engine) => {
  using pair = await Pair.open(engine);
  await pair.client.closeWrite();
  const nothing = new Uint8Array(0);
  await assertRejects(() => pair.client.write(nothing), Deno.errors.BrokenPipe);
  await assertRejects(() => pair.client.writeAll(nothing), Deno.errors.BrokenPipe);
  assertThrows(() => pair.client.tryWrite(nothing), Deno.errors.BrokenPipe);
});

/** An object whose properties are right when they are read first, and something else later. */
function onceOnly(options: Record<string, unknown>, later: unknown): Record<string, unknown> {
  const object = {};
  for (const [name, value] of Object.entries(options)) {
    let reads = 0;
    Object.defineProperty(object, name, { get: () => reads++ === 0 ? value : later, enumerable: true });
  }
  return object;
}

engineTest("options are read once: what was checked is what is used", async (engine) => {
  const native = { backlog: 16, ipv6Only: false, receiveBufferSize: 8192, sendBufferSize: 8192, deferAccept: 0 };
  const given = { hostname: "127.0.0.1", port: 0, engine, ...engine === "native" && native };
  using listener = TcpListener.bind(
    onceOnly(given, { evil: true }) as unknown as Parameters<typeof TcpListener.bind>[0],
  );
  const local = { localAddress: "127.0.0.1", localPort: 0, keepAlive: onceOnly({ idle: 9 }, "nine") };
  const options = { hostname: "127.0.0.1", port: listener.addr.port, engine, ...engine === "native" && local };
  using conn = await TcpConn.connect(
    onceOnly(options, "evil") as unknown as Parameters<typeof TcpConn.connect>[0],
  );
  using server = await listener.accept();
  assertEquals(server.remoteAddr, conn.localAddr);
});

Deno.test({
  name: "TcpConn.connect() takes brackets off localAddress, as off hostname",
  ignore: !ENGINES.includes("native"),
  async fn() {
    using listener = TcpListener.bind({ hostname: "[::1]", port: 0 });
    using conn = await TcpConn.connect({ hostname: "[::1]", port: listener.addr.port, localAddress: "[::1]" });
    assertEquals([conn.localAddr.hostname, conn.remoteAddr.hostname], ["::1", "::1"]);
  },
});

/** Four ephemeral ports. */
const FOUR_PORTS = `echo 45000 45003 > /proc/sys/net/ipv4/ip_local_port_range && exec "$@"`;

namespaceTest("TcpConn.connect() with localAddress uses an ephemeral port for several servers", async (namespace) => {
  if (!ENGINES.includes("native")) return;
  const { stdout, stderr } = await namespace.run(
    `
    import { TcpConn, TcpListener } from "@c10k/sockets/tcp";
    const found = [];
    for (const localAddress of ["127.0.0.1", "::1"]) {
      using one = TcpListener.bind({ hostname: localAddress, port: 7001 });
      using two = TcpListener.bind({ hostname: localAddress, port: 7002 });
      const attempts = Array.from({ length: 8 }, (_, i) =>
        TcpConn.connect({ hostname: localAddress, port: [one, two][i % 2].addr.port, localAddress }));
      const ends = await Promise.allSettled(attempts);
      found.push(...ends.map(({ reason }) => reason?.message ?? "connected"));
      ends.forEach(({ value }) => value?.reset());
    }
    console.log(JSON.stringify(found));
    `,
    FOUR_PORTS,
  );
  assertEquals([stderr, JSON.parse(stdout)], ["", Array(16).fill("connected")]);
});
