/** Buffers, options and addresses whose properties lie: what is read and written is what the memory is. */

import { Multiplexer } from "@c10k/sockets/mux";
import type { PoolOptions } from "@c10k/sockets/process";
import { TcpConn, TcpListener } from "@c10k/sockets/tcp";
import { assert, assertEquals, assertRejects, assertThrows } from "@std/assert";
import { LIARS, LyingGetters } from "./_liars.ts";
import { libc } from "../internal/libc.ts";
import { checkPermissions } from "../process/child/child_permissions.ts";
import { Link } from "../process/message/link.ts";
import { moduleUrl } from "../process/child/module_url.ts";
import { checkPoolOptions } from "../process/pool/options.ts";
import { ProcessTransport, sealForProcess } from "../process/message/process_transport.ts";
import { UnixSocket } from "../process/message/unix_socket.ts";
import { StreamSocket } from "../tcp/stream_socket.ts";
import { namespaceTest } from "./_namespace.ts";
import { ENGINES, engineTest, Pair, readExactly, readToEnd, replaced, withoutLeaks } from "./_util.ts";

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

engineTest(
  "TcpConn.tryWrite() and writes at once keep the bytes of buffers whose properties lie apart",
  async (engine) => {
    using pair = await Pair.open(engine);
    for (const [liar, make] of Object.entries(LIARS)) {
      const p = make(filled(), AT, SIZE);
      // On the runtime engine the second is gathered behind the first.
      assertEquals([pair.client.tryWrite(p), pair.client.tryWrite(p)], [SIZE, SIZE], liar);
      assertEquals([...await readExactly(pair.server, 2 * SIZE)], [...SENT, ...SENT], liar);
      await Promise.all([pair.client.writeAll(p), pair.client.writeAll(p, { signal: new AbortController().signal })]);
      assertEquals([...await readExactly(pair.server, 2 * SIZE)], [...SENT, ...SENT], liar);
    }
  },
);

engineTest("an option whose getter takes the buffer away is no way around its check", async (engine) => {
  using pair = await Pair.open(engine);
  for (const call of ["read", "peek", "write", "writeAll"] as const) {
    const p = new Uint8Array(SIZE);
    const options = {
      get signal() {
        p.buffer.transfer();
        return new AbortController().signal;
      },
    };
    await assertRejects(
      async () => void await pair.client[call](p, options),
      TypeError,
      "p must not be detached",
      call,
    );
  }
});

Deno.test("StreamSocket copies the bytes of a buffer whose properties lie, and no others", async () => {
  const addr = { transport: "tcp", hostname: "127.0.0.1", port: 1 } as const;
  for (const [liar, make] of Object.entries(LIARS)) {
    const written: Uint8Array[] = [];
    const more = new Uint8Array(3 * SIZE).fill(0xee);
    more.set(SENT);
    const socket = new StreamSocket({
      // An empty chunk is no end.
      readable: ReadableStream.from([new Uint8Array(0), more]) as ReadableStream<Uint8Array<ArrayBuffer>>,
      writable: new WritableStream({ write: (chunk) => void written.push(chunk) }),
      localAddr: addr,
      remoteAddr: addr,
    });
    const memory = new ArrayBuffer(64);
    assertEquals([await socket.read(make(memory, AT, SIZE)), received(memory)], [SIZE, NOTHING_AROUND], liar);
    const p = make(filled(), AT, SIZE);
    assertEquals(await socket.write(p), SIZE, liar);
    assertEquals(written.map((chunk) => [...chunk]), [[...SENT]], liar);
    socket[Symbol.dispose]();
  }
});

Deno.test({
  name: "a message to a process carries the bytes of a buffer whose properties lie, and no others",
  ignore: !ENGINES.includes("native"),
  fn: () =>
    withoutLeaks(async () => {
      const [near, far] = [new Link("a process", sealForProcess), new Link("the parent", sealForProcess)];
      const ends = UnixSocket.pair().map((fd, i) => {
        const { promise, resolve } = Promise.withResolvers<unknown>();
        const link = [near, far][i] as Link;
        link.attach(new ProcessTransport(new UnixSocket(fd, "the channel"), link, resolve));
        return promise;
      });
      const messages = far.messages();
      for (const [liar, make] of Object.entries(LIARS)) {
        const p = make(filled(), AT, SIZE);
        try {
          await near.send({ p });
        } catch (error) {
          // The serializer of V8 refuses some classes by their names.
          assert(error instanceof Error && /prototype|methods/.test(liar), `${liar}: ${error}`);
          continue;
        }
        const { value } = await messages.next();
        const { buffer, byteOffset, byteLength } = (value?.message as { p: Uint8Array }).p;
        assertEquals([...new Uint8Array(buffer, byteOffset, byteLength)], [...SENT], liar);
      }
      for (const link of [near, far]) link.close(new Error("the end"));
      await Promise.all(ends);
    }),
});

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
  assertEquals((await end) instanceof Deno.errors.BadResource, true);
  await assertRejects(() => pair.client.write(nothing), Deno.errors.BadResource);
  await assertRejects(() => pair.client.writeAll(nothing), Deno.errors.BadResource);
  await assertRejects(() => pair.client.read(nothing), Deno.errors.BadResource);
  await assertRejects(() => pair.client.peek(nothing), Deno.errors.BadResource);
  assertThrows(() => pair.client.tryRead(nothing), Deno.errors.BadResource);
  assertThrows(() => pair.client.tryWrite(nothing), Deno.errors.BadResource);
});

engineTest("write() and writeAll() of nothing fail after closeWrite(), as any other write", async (engine) => {
  using pair = await Pair.open(engine);
  await pair.client.closeWrite();
  const nothing = new Uint8Array(0);
  await assertRejects(() => pair.client.write(nothing), Deno.errors.BrokenPipe);
  await assertRejects(() => pair.client.writeAll(nothing), Deno.errors.BrokenPipe);
  assertThrows(() => pair.client.tryWrite(nothing), Deno.errors.BrokenPipe);
});

Deno.test({
  name: "[native] write() and writeAll() of nothing fail after shutdown(), as any other write",
  ignore: !ENGINES.includes("native"),
  fn: () =>
    withoutLeaks(async () => {
      for (const how of ["both", "write"] as const) {
        using pair = await Pair.open("native");
        pair.client.shutdown(how);
        for (const p of [new Uint8Array(0), new Uint8Array(1)]) {
          await assertRejects(() => pair.client.write(p), Deno.errors.BrokenPipe);
          await assertRejects(() => pair.client.writeAll(p), Deno.errors.BrokenPipe);
          assertThrows(() => pair.client.tryWrite(p), Deno.errors.BrokenPipe);
        }
        await pair.client.closeWrite();
      }
    }),
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

Deno.test("the options of a pool, its module and the permissions of a child are read once", () => {
  const given = {
    kind: "worker",
    module: "x.ts",
    size: 2,
    grace: 1,
    startTimeout: 2,
    maxConnections: 3,
    signals: false,
  };
  const settings = checkPoolOptions(
    onceOnly({ ...given, listen: onceOnly({ port: 7, engine: "runtime" }, NaN), restart: { limit: 1 } }, {
      evil: true,
    }) as unknown as PoolOptions,
  );
  assertEquals([settings.listen, settings.restart], [{ port: 7, engine: "runtime" }, { limit: 1 }]);
  const module = new URL("file:///a.ts");
  const found = moduleUrl(module);
  module.pathname = "/b.ts";
  assertEquals(found.href, "file:///a.ts");
  class Evil extends URL {
    override get href(): string {
      return "--allow-all";
    }
  }
  assertEquals(moduleUrl(new Evil("file:///a.ts")).href, "file:///a.ts");
  const permissions = onceOnly({ net: ["127.0.0.1:1"], env: false }, true);
  assertEquals(checkPermissions(permissions, "process"), { net: ["127.0.0.1:1"], env: false });
});

for (const backend of Multiplexer.backends()) {
  Deno.test(`[${backend}] Multiplexer reads an interest and a source once`, async () => {
    using pair = await Pair.open(backend === "runtime" ? "runtime" : "native");
    using mux = new Multiplexer({ backend });
    mux.register(pair.client, onceOnly({ readable: true }, "evil"));
    assertEquals([...mux.registrations()].map(({ interest }) => interest), [{ readable: true }]);
    mux.modify(pair.client, onceOnly({ writable: true }, "evil"));
    assertEquals([...mux.registrations()].map(({ interest }) => interest), [{ writable: true }]);
    for (const fd of ["length", "0", {}] as unknown as number[]) {
      assertEquals(mux.has({ fd }), false);
      assertThrows(() => mux.unregister({ fd }));
    }
    assertEquals(mux.size, 1);
  });
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

Deno.test({
  name: "TcpConn.connect() with localAddress goes on where the kernel does not know IP_BIND_ADDRESS_NO_PORT",
  ignore: !ENGINES.includes("native"),
  fn: () =>
    withoutLeaks(async () => {
      using listener = TcpListener.bind({ hostname: "127.0.0.1", port: 0, engine: "native" });
      const { setsockopt } = libc;
      let refused = 0;
      // Another number, that no kernel knows.
      using _ = replaced(libc, "setsockopt", (...args: Parameters<typeof setsockopt>) => {
        if (args[1] !== 0 || args[2] !== 24) return setsockopt(...args);
        refused++;
        return setsockopt(args[0], 0, 9_999, args[3], args[4]);
      });
      using conn = await TcpConn.connect({ port: listener.addr.port, localAddress: "127.0.0.1" });
      assertEquals([conn.localAddr.hostname, refused], ["127.0.0.1", 1]);
    }),
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
