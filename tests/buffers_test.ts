/** Buffers that callers pass: no byte outside of them is read or written, whatever they say about themselves. */

import type { TcpConn, WaitOptions } from "@c10k/sockets/tcp";
import { assert, assertEquals, assertRejects } from "@std/assert";
import { deadline } from "@std/async";
import { Link } from "../process/link.ts";
import { ProcessTransport } from "../process/process_transport.ts";
import { UnixSocket } from "../process/unix_socket.ts";
import { StreamSocket } from "../tcp/stream_socket.ts";
import { FOREIGN, MARGIN, memoryFor, NO_BYTES, ODD_ARRAYS, ODD_MEMORIES } from "./_buffers.ts";
import { ENGINES, engineTest, eventually, Pair, randomBytes, readExactly } from "./_util.ts";

const SIZE = 16;
const LIMIT = 10_000;

/** Every array in a usual memory, and a plain one in each other kind. */
function* oddArrays(
  size = SIZE,
  which = /./,
): Generator<{ name: string; memory: Uint8Array; p: Uint8Array; of: () => Uint8Array }> {
  for (const [name, make] of ODD_ARRAYS) {
    if (!which.test(name)) continue;
    const memory = memoryFor(size);
    yield { name, memory, p: make(memory, size), of: () => new Uint8Array(memory.buffer, MARGIN, size) };
  }
  const [, plain] = ODD_ARRAYS[0] as typeof ODD_ARRAYS[number];
  for (const [name, make] of ODD_MEMORIES) {
    if (!which.test(name)) continue;
    const memory = make(size);
    yield { name, memory, p: plain(memory, size), of: () => new Uint8Array(memory.buffer, MARGIN, size) };
  }
}

function assertUntouched(memory: Uint8Array, name: string): void {
  const around = [...memory.slice(0, MARGIN), ...memory.slice(-MARGIN)];
  assert(around.every((byte) => byte === FOREIGN), `${name}: bytes outside the buffer were written`);
}

const signal = () => ({ signal: new AbortController().signal });

const WRITES: readonly (readonly [name: string, write: (conn: TcpConn, p: Uint8Array) => unknown])[] = [
  ["write", (conn, p) => conn.write(p)],
  ["write with a signal", (conn, p) => conn.write(p, signal())],
  ["writeAll", (conn, p) => conn.writeAll(p)],
  ["writeAll with a signal", (conn, p) => conn.writeAll(p, signal())],
  ["two at once", (conn, p) => Promise.all([conn.writeAll(p), conn.writeAll(p, signal())])],
  ["tryWrite", (conn, p) => eventually(() => conn.tryWrite(p))],
  // The second is gathered behind the first on the runtime engine.
  ["tryWrite twice", (conn, p) => [conn.tryWrite(p), conn.tryWrite(p)]],
];

engineTest("TcpConn writes the bytes of a buffer and no other, whatever it says about itself", async (engine) => {
  using pair = await Pair.open(engine);
  for (const { name, p, of } of oddArrays()) {
    const bytes = randomBytes(SIZE);
    of().set(bytes);
    for (const [call, write] of WRITES) {
      const what = `${call} of ${name}`;
      const result = await deadline(Promise.resolve(write(pair.client, p)), LIMIT).catch((error) => {
        throw new Error(what, { cause: error });
      });
      if (call.includes("write ") || call === "write" || call === "tryWrite") assertEquals(result, SIZE, what);
      const times = call.startsWith("two") || call.endsWith("twice") ? 2 : 1;
      const received = await deadline(readExactly(pair.server, times * SIZE), LIMIT);
      assertEquals(received, new Uint8Array(Array(times).fill([...bytes]).flat()), what);
    }
    const writer = pair.client.writable.getWriter();
    await deadline(writer.write(p), LIMIT);
    writer.releaseLock();
    assertEquals(await deadline(readExactly(pair.server, SIZE), LIMIT), bytes, `a stream's chunk of ${name}`);
  }
  // Nothing else is on its way.
  await pair.client.writeAll(new Uint8Array([7]));
  assertEquals(await pair.server.read(new Uint8Array(9)), 1);
});

engineTest("TcpConn writes a large buffer whole that has to wait, whatever it says about itself", async (engine) => {
  // More than the kernel takes at once.
  const size = 6 * 1024 * 1024;
  for (const { name, p, of } of oddArrays(size, /longer$|empty|methods|each time|species$|resizable|shared$/)) {
    using pair = await Pair.open(engine);
    of().fill(5);
    const options: WaitOptions = name.includes("own") ? signal() : {};
    const writing = pair.client.writeAll(p, options);
    const received = deadline(readExactly(pair.server, size), LIMIT);
    await deadline(writing, LIMIT);
    assert((await received).every((byte) => byte === 5), name);
  }
});

const READS: readonly (readonly [name: string, read: (conn: TcpConn, p: Uint8Array) => unknown, waits: boolean])[] = [
  ["read", (conn, p) => conn.read(p), false],
  ["read that waits", (conn, p) => conn.read(p), true],
  ["read with a signal", (conn, p) => conn.read(p, signal()), false],
  ["read with a signal that waits", (conn, p) => conn.read(p, signal()), true],
  ["tryRead", (conn, p) => eventually(() => conn.tryRead(p)), false],
  ["peek", (conn, p) => conn.peek(p), false],
  ["peek that waits", (conn, p) => conn.peek(p), true],
];

engineTest("TcpConn reads into a buffer and nowhere else, whatever it says about itself", async (engine) => {
  using pair = await Pair.open(engine);
  // More than fits, so that what is not read stays for the next call.
  const bytes = randomBytes(3 * SIZE);
  for (const { name, memory, p, of } of oddArrays()) {
    for (const [call, read, waits] of READS) {
      const what = `${call} into ${name}`;
      of().fill(0);
      if (!waits) await pair.client.writeAll(bytes);
      const reading = Promise.resolve(read(pair.server, p));
      if (waits) await pair.client.writeAll(bytes);
      let n = await deadline(reading, LIMIT).catch((error) => {
        throw new Error(what, { cause: error });
      }) as number;
      assert(n >= 1 && n <= SIZE, `${what}: ${n} bytes`);
      assertEquals(of().subarray(0, n), bytes.subarray(0, n), what);
      assertEquals(of().subarray(n).every((byte) => byte === 0), true, what);
      assertUntouched(memory, what);
      if (call.startsWith("peek")) n = 0;
      assertEquals(await deadline(readExactly(pair.server, bytes.length - n), LIMIT), bytes.subarray(n), what);
    }
  }
});

engineTest("TcpConn refuses what is no Uint8Array, with a TypeError that names it", async (engine) => {
  using pair = await Pair.open(engine);
  const { client, server } = pair;
  for (const [name, value] of NO_BYTES) {
    const p = value as Uint8Array;
    const calls: readonly (() => unknown)[] = [
      () => server.read(p),
      () => server.peek(p),
      () => server.tryRead(p),
      () => client.write(p),
      () => client.writeAll(p),
      () => client.tryWrite(p),
    ];
    for (const call of calls) {
      // deno-lint-ignore require-await -- what is thrown at once is a rejection then
      await assertRejects(async () => call(), TypeError, "p must be a Uint8Array", `${call} with ${name}`);
    }
    const other = await Pair.open(engine);
    using _ = other;
    await assertRejects(() => other.client.writable.getWriter().write(p), TypeError, undefined, name);
  }
});

Deno.test("StreamSocket copies the bytes of a buffer and no other, whatever it says about itself", async () => {
  const addr = { transport: "tcp", hostname: "127.0.0.1", port: 1 } as const;
  const bytes = randomBytes(3 * SIZE);
  for (const { name, memory, p, of } of oddArrays()) {
    const written: Uint8Array[] = [];
    const socket = new StreamSocket({
      readable: ReadableStream.from([new Uint8Array(0), bytes]) as ReadableStream<Uint8Array<ArrayBuffer>>,
      writable: new WritableStream({ write: (chunk) => void written.push(chunk) }),
      localAddr: addr,
      remoteAddr: addr,
    });
    for (let at = 0; at < bytes.length; at += SIZE) {
      assertEquals(await socket.read(p), SIZE, name);
      assertEquals(of(), bytes.subarray(at, at + SIZE), name);
    }
    assertUntouched(memory, name);
    assertEquals(await socket.write(p), SIZE, name);
    of().fill(0);
    assertEquals(written, [bytes.subarray(2 * SIZE)], name);
    socket[Symbol.dispose]();
  }
});

Deno.test({
  name: "Link.send() to a process carries the bytes of a buffer and no other, whatever it says about itself",
  ignore: !ENGINES.includes("native"),
  async fn() {
    const [a, b] = UnixSocket.pair();
    const links = [new Link("a"), new Link("b")] as const;
    const ends = [a, b].map((fd, i) => {
      const { promise, resolve } = Promise.withResolvers<unknown>();
      const link = links[i] as Link;
      link.attach(new ProcessTransport(new UnixSocket(fd, "the channel"), link, resolve));
      return promise;
    });
    const messages = links[1].messages();
    for (const { name, p, of } of oddArrays()) {
      const bytes = randomBytes(SIZE);
      of().set(bytes);
      try {
        await links[0].send({ p });
      } catch (error) {
        // The serializer of V8 refuses classes that it does not know.
        assert(error instanceof Error && /class|prototype/.test(name), name);
        continue;
      }
      const { value } = await deadline(messages.next(), LIMIT);
      const received = (value?.message as { p: Uint8Array }).p;
      assertEquals(new Uint8Array(received.buffer, received.byteOffset, received.byteLength), bytes, name);
    }
    for (const link of links) link.close(new Error("the end"));
    await Promise.all(ends);
  },
});
