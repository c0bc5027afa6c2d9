/** The conformance suite of {@linkcode TcpConn}: the same on every engine. */

import { TcpConn, TcpListener } from "@c10k/sockets/tcp";
import { assert, assertEquals, assertLess, assertMatch, assertRejects, assertThrows } from "@std/assert";
import { delay } from "@std/async";
import net from "node:net";
import {
  checksum,
  decode,
  encode,
  engineTest,
  eventually,
  Pair,
  randomBytes,
  readExactly,
  readText,
  readToEnd,
} from "./_util.ts";

engineTest("TcpConn.connect() knows both addresses", async (engine) => {
  using pair = await Pair.open(engine);
  assertEquals(pair.client.remoteAddr, pair.listener.addr);
  assertEquals(pair.client.localAddr, pair.server.remoteAddr);
  assertEquals(pair.client.engine, engine);
});

engineTest("TcpConn.connect() takes a name with several addresses", async (engine) => {
  using listener = TcpListener.bind({ hostname: "127.0.0.1", port: 0, engine });
  using client = await TcpConn.connect({ hostname: "localhost", port: listener.addr.port, engine });
  using _server = await listener.accept();
  assertEquals(client.remoteAddr.hostname, "127.0.0.1");
});

engineTest("TcpConn.connect() with an aborted signal rejects with its reason", async (engine) => {
  using listener = TcpListener.bind({ hostname: "127.0.0.1", port: 0, engine });
  const options = { port: listener.addr.port, engine, signal: AbortSignal.abort("before") };
  assertEquals(await TcpConn.connect(options).catch((error) => error), "before");
});

engineTest("TcpConn.connect() cancelled or timed out while the server does not answer", async (engine) => {
  using full = Deno.listen({ hostname: "127.0.0.1", port: 0, tcpBacklog: 1 });
  const { port } = full.addr;
  const filling = new AbortController();
  const fillers = Array.from({ length: 8 }, () => TcpConn.connect({ port, engine, signal: filling.signal }));
  await delay(50);

  const reason = new Error("changed my mind");
  const abort = new AbortController();
  const cancelled = TcpConn.connect({ port, engine, signal: abort.signal });
  setTimeout(() => abort.abort(reason), 20);
  assertEquals(await cancelled.catch((error) => error), reason);

  const error = await assertRejects(
    () => TcpConn.connect({ port, engine, timeout: 50 }),
    Deno.errors.TimedOut,
    `Cannot connect TCP to 127.0.0.1:${port}: no connection within 50 ms (ETIMEDOUT)`,
  );
  assertEquals((error as Error & { code?: string }).code, "ETIMEDOUT");

  filling.abort();
  for (const filler of await Promise.allSettled(fillers)) if (filler.status === "fulfilled") filler.value.close();
  // A full accept queue drops SYNs on Linux; elsewhere it refuses them.
}, Deno.build.os !== "linux");

engineTest("TcpConn.connect() sets noDelay and keepAlive", async (engine) => {
  using listener = TcpListener.bind({ hostname: "127.0.0.1", port: 0, engine });
  using client = await TcpConn.connect({ port: listener.addr.port, noDelay: true, keepAlive: true, engine });
  client.setNoDelay();
  client.setNoDelay(false);
  client.setKeepAlive();
  client.setKeepAlive(false);
  using _server = await listener.accept();
});

engineTest("TcpConn.read() gives what has arrived, in pieces of the buffer's size", async (engine) => {
  using pair = await Pair.open(engine);
  await pair.client.writeAll(encode("abcdef"));
  const p = new Uint8Array(4);
  assertEquals(await pair.server.read(p), 4);
  assertEquals(decode(p), "abcd");
  assertEquals(await pair.server.read(p), 2);
  assertEquals(decode(p.subarray(0, 2)), "ef");
});

engineTest("TcpConn.read() and write() of nothing do not wait", async (engine) => {
  using pair = await Pair.open(engine);
  const nothing = new Uint8Array(0);
  assertEquals(await pair.server.read(nothing), 0);
  assertEquals(await pair.server.peek(nothing), 0);
  assertEquals(await pair.server.write(nothing), 0);
  await pair.server.writeAll(nothing);
  assertEquals(pair.server.tryRead(nothing), 0);
  assertEquals(pair.server.tryWrite(nothing), 0);
});

engineTest("TcpConn.read() serves concurrent calls in their order", async (engine) => {
  using pair = await Pair.open(engine);
  const buffers = Array.from({ length: 6 }, () => new Uint8Array(1));
  const { signal } = new AbortController();
  // With and without a signal they wait in one line.
  const reads = buffers.map((p, i) => i % 2 === 0 ? pair.server.read(p) : pair.server.read(p, { signal }));
  await pair.client.writeAll(encode("abcdef"));
  assertEquals(await Promise.all(reads), [1, 1, 1, 1, 1, 1]);
  assertEquals(buffers.map(decode).join(""), "abcdef");
});

engineTest("TcpConn.read() that is cancelled loses nothing and leaves the buffer alone", async (engine) => {
  using pair = await Pair.open(engine);
  const abandoned = new Uint8Array(16);
  const abort = new AbortController();
  const cancelled = pair.server.read(abandoned, { signal: abort.signal });
  await delay(5);
  const reason = { why: "any value will do" };
  abort.abort(reason);
  assertEquals(await cancelled.catch((error) => error), reason);

  await pair.client.writeAll(encode("all of it"));
  await delay(5);
  assertEquals(await readText(pair.server), "all of it");
  assertEquals(abandoned, new Uint8Array(16));
});

engineTest("TcpConn.read() cancelled again and again under load loses no byte", async (engine) => {
  using pair = await Pair.open(engine);
  const data = randomBytes(256 * 1024);
  const sending = (async () => {
    for (let at = 0; at < data.length; at += 1000) {
      await pair.client.writeAll(data.subarray(at, at + 1000));
      if (at % 10_000 === 0) await delay(0);
    }
    await pair.client.closeWrite();
  })();
  const received = new Uint8Array(data.length);
  let end = 0;
  let cancelled = 0;
  while (true) {
    const abort = new AbortController();
    setTimeout(() => abort.abort(), cancelled % 2);
    try {
      const n = await pair.server.read(received.subarray(end, end + 777), { signal: abort.signal });
      if (n === null || end === received.length) break;
      end += n;
    } catch (error) {
      if (!abort.signal.aborted) throw error;
      cancelled++;
    }
  }
  await sending;
  assertEquals(end, data.length);
  assertEquals(await checksum(received), await checksum(data));
});

engineTest("TcpConn.read() that is cancelled in the middle of the line keeps the others' order", async (engine) => {
  using pair = await Pair.open(engine);
  const abort = new AbortController();
  const first = new Uint8Array(1);
  const third = new Uint8Array(1);
  const reads = [pair.server.read(first), pair.server.read(new Uint8Array(1), { signal: abort.signal })];
  const last = pair.server.read(third);
  abort.abort("out");
  assertEquals(await reads[1]?.catch((error) => error), "out");
  await pair.client.writeAll(encode("ab"));
  await Promise.all([reads[0], last]);
  assertEquals(decode(first) + decode(third), "ab");
});

engineTest("TcpConn.peek() shows what the next read takes", async (engine) => {
  using pair = await Pair.open(engine);
  const p = new Uint8Array(3);
  const peeking = pair.server.peek(p);
  await pair.client.writeAll(encode("abcdef"));
  assertEquals(await peeking, 3);
  assertEquals(await pair.server.peek(p), 3);
  assertEquals(decode(p), "abc");
  assertEquals(await readText(pair.server), "abcdef");
  await pair.client.closeWrite();
  assertEquals(await pair.server.peek(p), null);
  assertEquals(await pair.server.read(p), null);
});

engineTest("TcpConn.peek() shows more once more has arrived", async (engine) => {
  using pair = await Pair.open(engine);
  await pair.client.writeAll(encode("abc"));
  const p = new Uint8Array(100_000);
  assertEquals(await pair.server.peek(p), 3);
  const more = randomBytes(90_000);
  await pair.client.writeAll(more);
  let n: number | null = 0;
  for (let i = 0; i < 1000 && n !== 90_003; i++) {
    n = await pair.server.peek(p);
    await delay(1);
  }
  assertEquals(n, 90_003);
  const all = await readExactly(pair.server, 90_003);
  assertEquals(await checksum(all.slice(3)), await checksum(more));
});

engineTest("TcpConn.tryRead() never waits, and sees data and end-of-file", async (engine) => {
  using pair = await Pair.open(engine);
  const p = new Uint8Array(4);
  assertEquals(pair.server.tryRead(p), undefined);
  await pair.client.writeAll(encode("abcdef"));
  assertEquals(await eventually(() => pair.server.tryRead(p)), 4);
  assertEquals(decode(p), "abcd");
  assertEquals(await eventually(() => pair.server.tryRead(p)), 2);
  assertEquals(pair.server.tryRead(p), undefined);
  await pair.client.closeWrite();
  assertEquals(await eventually(() => pair.server.tryRead(p)), null);
  assertEquals(pair.server.tryRead(p), null);
});

engineTest("TcpConn.tryRead() leaves the data to a read that came before", async (engine) => {
  using pair = await Pair.open(engine);
  const reading = readText(pair.server);
  assertEquals(pair.server.tryRead(new Uint8Array(9)), undefined);
  await pair.client.writeAll(encode("first"));
  assertEquals(await reading, "first");
});

engineTest("TcpConn.tryRead() leaves the data to a read that waits with a signal", async (engine) => {
  using pair = await Pair.open(engine);
  const reading = pair.server.read(new Uint8Array(9), { signal: new AbortController().signal });
  assertEquals(pair.server.tryRead(new Uint8Array(9)), undefined);
  await pair.client.writeAll(encode("first"));
  assertEquals(await reading, 5);
});

engineTest("TcpConn.tryWrite() leaves the room to a write that waits", async (engine) => {
  using pair = await Pair.open(engine);
  const size = 32 * 1024 * 1024;
  const writing = pair.client.writeAll(new Uint8Array(size));
  assertEquals(pair.client.tryWrite(encode("x")), undefined);
  await readExactly(pair.server, size);
  await writing;
  assertEquals(pair.client.tryWrite(encode("x")), 1);
  assertEquals(await readText(pair.server), "x");
});

engineTest("TcpConn.tryWrite() takes what there is room for, and all of it arrives", async (engine) => {
  using pair = await Pair.open(engine);
  const data = randomBytes(4 * 1024 * 1024);
  let at = 0;
  let refused = 0;
  const received = readExactly(pair.server, data.length);
  while (at < data.length) {
    const n = pair.client.tryWrite(data.subarray(at));
    if (n === undefined) {
      refused++;
      await delay(0);
    } else {
      at += n;
    }
  }
  assert(refused > 0);
  assertEquals(await checksum(await received), await checksum(data));
});

engineTest("TcpConn.tryWrite() before close() still arrives", async (engine) => {
  using pair = await Pair.open(engine);
  const data = randomBytes(60_000);
  assertEquals(pair.client.tryWrite(data), data.length);
  pair.client.close();
  assertEquals(await checksum(await readExactly(pair.server, data.length)), await checksum(data));
  assertEquals(await pair.server.read(new Uint8Array(1)), null);
});

engineTest("TcpConn.writeAll() keeps concurrent calls apart, and in their order", async (engine) => {
  using pair = await Pair.open(engine);
  const parts = Array.from({ length: 8 }, (_, i) => new Uint8Array(500_000).fill(i));
  const { signal } = new AbortController();
  const writes = parts.map((part, i) =>
    i % 3 === 1 ? pair.client.writeAll(part, { signal }) : pair.client.writeAll(part)
  );
  const received = await readExactly(pair.server, 8 * 500_000);
  await Promise.all(writes);
  for (let i = 0; i < 8; i++) {
    assert(received.subarray(i * 500_000, (i + 1) * 500_000).every((byte) => byte === i), `part ${i} is whole`);
  }
});

engineTest("TcpConn.writeAll() that is cancelled leaves the peer the beginning of the data", async (engine) => {
  using pair = await Pair.open(engine);
  const data = randomBytes(32 * 1024 * 1024);
  const abort = new AbortController();
  const cancelled = pair.client.writeAll(data, { signal: abort.signal });
  const abandoned = pair.client.writeAll(encode("never"), { signal: abort.signal });
  await delay(20);
  abort.abort("slow reader");
  assertEquals(await cancelled.catch((error) => error), "slow reader");
  assertEquals(await abandoned.catch((error) => error), "slow reader");
  // The caller may use its buffer again at once.
  const original = data.slice();
  data.fill(0);
  const after = Promise.all([pair.client.writeAll(encode("after")), pair.client.closeWrite()]);
  const received = new Uint8Array(data.length + 5);
  let end = 0;
  for (let n: number | null; (n = await pair.server.read(received.subarray(end))) !== null;) end += n;
  await after;
  assertEquals(decode(received.subarray(end - 5, end)), "after");
  assertLess(end, data.length);
  assertEquals(await checksum(received.slice(0, end - 5)), await checksum(original.slice(0, end - 5)));
});

engineTest("TcpConn.write() that is cancelled in the middle of the line keeps the others' order", async (engine) => {
  using pair = await Pair.open(engine);
  const abort = new AbortController();
  const bytes = Array.from({ length: 200 }, (_, i) => i);
  // More than the native engine does in one turn, so that some wait.
  const writes = bytes.map((i) => pair.client.write(new Uint8Array([i]), i === 190 ? abort : {}));
  abort.abort(new Error("stop"));
  await assertRejects(() => writes[190] as Promise<number>, Error, "stop");
  assertEquals([...await readExactly(pair.server, 199)], bytes.filter((i) => i !== 190));
  await Promise.allSettled(writes);
});

engineTest("TcpConn.write() returns what it wrote, and the rest can follow", async (engine) => {
  using pair = await Pair.open(engine);
  const data = randomBytes(8 * 1024 * 1024);
  const received = readExactly(pair.server, data.length);
  for (let at = 0; at < data.length;) {
    const n = await pair.client.write(data.subarray(at));
    assert(n > 0);
    at += n;
  }
  assertEquals(await checksum(await received), await checksum(data));
});

engineTest("TcpConn gives backpressure: a writer waits for a reader that does not read", async (engine) => {
  using pair = await Pair.open(engine);
  let written = 0;
  const chunk = new Uint8Array(64 * 1024);
  const writing = (async () => {
    while (true) {
      await pair.client.writeAll(chunk);
      written += chunk.length;
    }
  })();
  await delay(100);
  const before = written;
  await delay(100);
  assertEquals(written, before, "the writer waits");
  pair.client.close();
  await assertRejects(() => writing, Deno.errors.BadResource);
});

engineTest("TcpConn.closeWrite() sends FIN after what was written, and reading goes on", async (engine) => {
  using pair = await Pair.open(engine);
  const data = randomBytes(3 * 1024 * 1024);
  const writing = pair.client.writeAll(data);
  const closing = pair.client.closeWrite();
  assertEquals(await readToEnd(pair.server), data.length);
  await Promise.all([writing, closing]);
  await pair.client.closeWrite();
  await pair.server.writeAll(encode("still here"));
  assertEquals(await readText(pair.client), "still here");
});

engineTest("TcpConn.closeWrite() lets later writes fail with BrokenPipe", async (engine) => {
  using pair = await Pair.open(engine);
  await pair.client.closeWrite();
  const error = await assertRejects(() => pair.client.writeAll(encode("x")), Deno.errors.BrokenPipe, "(EPIPE)");
  assertEquals((error as Error & { code?: string }).code, "EPIPE");
  await assertRejects(() => pair.client.write(encode("x")), Deno.errors.BrokenPipe);
  assertThrows(() => pair.client.tryWrite(encode("x")), Deno.errors.BrokenPipe);
});

engineTest("TcpConn.shutdown('write') is closeWrite() without waiting", async (engine) => {
  using pair = await Pair.open(engine);
  await pair.client.writeAll(encode("last"));
  pair.client.shutdown("write");
  assertEquals(await readToEnd(pair.server), 4);
});

engineTest("TcpConn.read() gives null again and again at end-of-file, after all the data", async (engine) => {
  using pair = await Pair.open(engine);
  await pair.client.writeAll(encode("data"));
  pair.client.close();
  await delay(10);
  assertEquals(await readText(pair.server), "data");
  assertEquals(await readText(pair.server), null);
  assertEquals(await readText(pair.server), null);
  assertEquals(await pair.server.read(new Uint8Array(1), { signal: new AbortController().signal }), null);
});

engineTest("TcpConn.read() fails with ConnectionReset when the peer resets", async (engine) => {
  using listener = TcpListener.bind({ hostname: "127.0.0.1", port: 0, engine });
  const peer = net.connect(listener.addr.port, "127.0.0.1");
  using server = await listener.accept();
  const reading = assertRejects(
    () => server.read(new Uint8Array(1)),
    Deno.errors.ConnectionReset,
    `Cannot read from TCP connection with 127.0.0.1:${server.remoteAddr.port}: connection reset by peer (ECONNRESET)`,
  );
  await delay(5);
  // Before that there is nothing to reset, and the peer's socket would just be closed.
  if (peer.connecting) await new Promise((resolve) => peer.once("connect", resolve));
  peer.resetAndDestroy();
  const error = await reading;
  const { syscall, code, errno } = error.cause as { syscall: string; code: string; errno: number };
  assertEquals([syscall, code], ["recv", "ECONNRESET"]);
  assert(errno > 0);
  const late = await server.writeAll(encode("x")).catch((error) => error);
  const { BrokenPipe, ConnectionReset, ConnectionAborted } = Deno.errors;
  assert([BrokenPipe, ConnectionReset, ConnectionAborted].some((gone) => late instanceof gone), Deno.inspect(late));
});

engineTest("TcpConn.writeAll() fails when the peer has vanished", async (engine) => {
  using pair = await Pair.open(engine);
  await pair.client.writeAll(encode("unread"));
  await delay(5);
  pair.server.close(); // with unread data: RST
  const error = await (async () => {
    for (let i = 0; i < 1000; i++) await pair.client.writeAll(new Uint8Array(1000));
  })().catch((error) => error);
  const { BrokenPipe, ConnectionReset, ConnectionAborted } = Deno.errors;
  assert([BrokenPipe, ConnectionReset, ConnectionAborted].some((gone) => error instanceof gone), Deno.inspect(error));
});

engineTest("TcpConn.close() wakes all who wait with BadResource", async (engine) => {
  using pair = await Pair.open(engine);
  const { signal } = new AbortController();
  const big = new Uint8Array(32 * 1024 * 1024);
  const waiting = [
    pair.client.read(new Uint8Array(1)),
    pair.client.read(new Uint8Array(1), { signal }),
    pair.client.peek(new Uint8Array(1)),
    pair.client.writeAll(big),
    pair.client.write(big, { signal }),
    pair.client.closeWrite(),
  ];
  const settled = Promise.allSettled(waiting);
  await delay(20);
  pair.client.close();
  for (const result of await settled) {
    assert(result.status === "rejected");
    assert(result.reason instanceof Deno.errors.BadResource, Deno.inspect(result.reason));
    assert(result.reason.message.endsWith("connection was closed meanwhile (EBADF)"), result.reason.message);
  }
});

engineTest("TcpConn.close() is idempotent, and calls after it get BadResource", async (engine) => {
  using pair = await Pair.open(engine);
  const conn = pair.client;
  const with_ = `TCP connection with 127.0.0.1:${conn.remoteAddr.port}: connection is closed (EBADF)`;
  conn.close();
  conn.close();
  conn[Symbol.dispose]();
  conn.ref();
  conn.unref();
  const p = new Uint8Array(1);
  await assertRejects(() => conn.read(p), Deno.errors.BadResource, `Cannot read from ${with_}`);
  await assertRejects(() => conn.peek(p), Deno.errors.BadResource, `Cannot peek at ${with_}`);
  await assertRejects(() => conn.write(p), Deno.errors.BadResource, `Cannot write to ${with_}`);
  await assertRejects(() => conn.writeAll(p), Deno.errors.BadResource, `Cannot write to ${with_}`);
  await assertRejects(() => conn.closeWrite(), Deno.errors.BadResource);
  assertThrows(() => conn.tryRead(p), Deno.errors.BadResource);
  assertThrows(() => conn.tryWrite(p), Deno.errors.BadResource);
  assertThrows(() => conn.shutdown("write"), Deno.errors.BadResource);
  assertThrows(() => conn.setNoDelay(), Deno.errors.BadResource);
  assertThrows(() => conn.setKeepAlive(), Deno.errors.BadResource);
  assertEquals(conn.fd, undefined);
  assertEquals(conn.remoteAddr.hostname, "127.0.0.1");
});

engineTest("TcpConn.readable ends with the peer's FIN, and writable goes on", async (engine) => {
  using pair = await Pair.open(engine);
  await pair.client.writeAll(encode("question"));
  await pair.client.closeWrite();
  assertEquals(await new Response(pair.server.readable).text(), "question");
  const writer = pair.server.writable.getWriter();
  await writer.write(encode("answer"));
  await writer.close();
  assertEquals(await new Response(pair.client.readable).text(), "answer");
});

engineTest("TcpConn.writable sends FIN when it closes, and readable goes on", async (engine) => {
  using pair = await Pair.open(engine);
  await pair.client.writable.close();
  assertEquals(await readText(pair.server), null);
  await pair.server.writeAll(encode("late"));
  pair.server.shutdown("write");
  assertEquals(await new Response(pair.client.readable).text(), "late");
});

engineTest("TcpConn.readable and writable close the connection when both are done", async (engine) => {
  using pair = await Pair.open(engine);
  const echoing = pair.server.readable.pipeTo(pair.server.writable);
  await pair.client.writeAll(encode("echo"));
  await pair.client.closeWrite();
  assertEquals(await new Response(pair.client.readable).text(), "echo");
  await echoing;
  await assertRejects(() => pair.server.read(new Uint8Array(1)), Deno.errors.BadResource);
});

engineTest("TcpConn.writable that is aborted closes the connection", async (engine) => {
  using pair = await Pair.open(engine);
  await pair.client.writable.abort(new Error("source failed"));
  const end = await pair.server.read(new Uint8Array(1)).catch((error) => error);
  assert(end === null || end instanceof Deno.errors.ConnectionReset);
  await assertRejects(() => pair.client.read(new Uint8Array(1)), Deno.errors.BadResource);
});

engineTest("TcpConn.readable reads into the consumer's buffer, and nothing ahead of it", async (engine) => {
  using pair = await Pair.open(engine);
  await pair.client.writeAll(encode("abcdef"));
  const reader = pair.server.readable.getReader({ mode: "byob" });
  const { value } = await reader.read(new Uint8Array(2));
  assertEquals(decode(value as Uint8Array), "ab");
  reader.releaseLock();
  assertEquals(await readText(pair.server), "cdef");
});

engineTest("TcpConn.readable and writable pass on 4 MiB unchanged", async (engine) => {
  using pair = await Pair.open(engine);
  const data = randomBytes(4 * 1024 * 1024);
  const sending = new Blob([data]).stream().pipeTo(pair.client.writable);
  const received = await new Response(pair.server.readable).arrayBuffer();
  await sending;
  assertEquals(await checksum(received), await checksum(data));
});

engineTest("TcpConn and TcpListener show in console.log() where they are", async (engine) => {
  using pair = await Pair.open(engine);
  const { client, listener } = pair;
  const shown = `port: ${listener.addr.port}.*engine: "${engine}".*fd: ${client.fd}`;
  assertMatch(Deno.inspect(client), new RegExp(`^TcpConn {.*${client.localAddr.port}.*${shown}`, "s"));
  assertMatch(Deno.inspect(listener), new RegExp(`^TcpListener {.*${listener.addr.port}.*engine: "${engine}"`, "s"));
});

engineTest("TcpConn refuses what is no buffer, signal or side before it does anything", async (engine) => {
  using pair = await Pair.open(engine);
  const wrong = "text" as unknown as Uint8Array;
  await assertRejects(() => pair.client.read(wrong), TypeError, 'p must be a Uint8Array, received "text"');
  await assertRejects(() => pair.client.peek(wrong), TypeError);
  await assertRejects(() => pair.client.write(wrong), TypeError);
  await assertRejects(() => pair.client.writeAll(wrong), TypeError);
  assertThrows(() => pair.client.tryRead(wrong), TypeError);
  assertThrows(() => pair.client.tryWrite(wrong), TypeError);
  const signal = { aborted: false } as AbortSignal;
  await assertRejects(
    () => pair.client.read(new Uint8Array(1), { signal }),
    TypeError,
    "signal must be an AbortSignal",
  );
  await assertRejects(() => pair.listener.accept({ signal }), TypeError, "signal must be an AbortSignal");
  assertThrows(() => pair.client.shutdown("sideways" as "read"), TypeError, 'received "sideways"');
  assertThrows(() => pair.client.setNoDelay(1 as unknown as boolean), TypeError, "on must be a boolean, received 1");
  assertThrows(() => pair.client.setKeepAlive("yes" as unknown as boolean), TypeError);
  assertThrows(() => pair.client.setKeepAlive({ idle: 0 }), RangeError, "idle must be an integer from 1 to 32767");
  await pair.client.writeAll(encode("fine"));
  assertEquals(await readText(pair.server), "fine");
});

engineTest("TcpConn lives through 200 connections at once, each with its own data", async (engine) => {
  using listener = TcpListener.bind({ hostname: "127.0.0.1", port: 0, engine });
  const serving = (async () => {
    for await (const conn of listener) conn.readable.pipeTo(conn.writable);
  })();
  await Promise.all(Array.from({ length: 200 }, async () => {
    using conn = await TcpConn.connect({ port: listener.addr.port, engine });
    const data = randomBytes(20_000);
    const [received] = await Promise.all([
      readExactly(conn, data.length),
      conn.writeAll(data).then(() => conn.closeWrite()),
    ]);
    assertEquals(received, data);
    assertEquals(await conn.read(new Uint8Array(1)), null);
  }));
  listener.close();
  await serving;
});
