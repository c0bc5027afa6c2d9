/**
 * The runtime engine of TCP over what Deno seldom gives: failures, and answers
 * that come late. Its operations are made up here.
 */

import { Multiplexer } from "@c10k/sockets/mux";
import { TcpConn, TcpListener } from "@c10k/sockets/tcp";
import { assert, assertEquals, assertRejects, assertThrows } from "@std/assert";
import { delay } from "@std/async";
import { RuntimeConn } from "../tcp/runtime_conn.ts";
import { type RuntimeSocket, StreamSocket } from "../tcp/stream_socket.ts";
import { wrapConn } from "../tcp/tcp_conn.ts";
import { decode, encode, eventually, Pair, replaced, withoutLeaks } from "./_util.ts";

const ADDR: Deno.NetAddr = { transport: "tcp", hostname: "127.0.0.1", port: 9 };
const NAME = "TCP connection with 127.0.0.1:9";

/** What the kernel would have said. */
function failure(code: string): Error {
  return Object.assign(new Error("made up"), { code });
}

/** A socket of Deno's that takes all and has nothing; `closed` counts how often it was closed. */
class FakeSocket implements RuntimeSocket {
  readonly localAddr: Deno.NetAddr = { ...ADDR, port: 40_000 };
  readonly remoteAddr = ADDR;
  closed = 0;
  read: RuntimeSocket["read"] = () => new Promise(() => {});
  write: RuntimeSocket["write"] = (p) => Promise.resolve(p.length);
  closeWrite: RuntimeSocket["closeWrite"] = () => Promise.resolve();
  setNoDelay(): void {}
  setKeepAlive(): void {}
  ref(): void {}
  unref(): void {}
  [Symbol.dispose](): void {
    this.closed++;
  }
}

/** A connection over a made up socket. */
function connOver(of: Partial<RuntimeSocket>): { conn: TcpConn; socket: FakeSocket } {
  const socket = Object.assign(new FakeSocket(), of);
  return { conn: wrapConn(new RuntimeConn(socket)), socket };
}

/** A listener whose accepts come to what is given, one after the other, and then wait. */
function listenerOver(
  outcomes: (Error | Promise<FakeSocket> | FakeSocket)[],
  onAcceptError?: (error: Error) => void,
): TcpListener {
  const closed = Promise.withResolvers<never>();
  closed.promise.catch(() => {});
  using _ = replaced(Deno, "listen", () => ({
    addr: ADDR,
    async accept() {
      const outcome = outcomes.shift() ?? closed.promise;
      if (outcome instanceof Error) throw outcome;
      return await outcome;
    },
    ref() {},
    unref() {},
    close: () => closed.reject(new Deno.errors.BadResource("Listener has been closed")),
  }));
  const options = onAcceptError === undefined ? {} : { onAcceptError };
  return TcpListener.bind({ hostname: "127.0.0.1", port: 0, engine: "runtime", ...options });
}

Deno.test("[runtime] TcpConn.setNoDelay() says why the kernel has refused", () => {
  const { conn } = connOver({
    setNoDelay() {
      throw failure("EINVAL");
    },
  });
  assertThrows(() => conn.setNoDelay(), Error, `Cannot set TCP_NODELAY on ${NAME}: invalid argument (EINVAL)`);
  conn.close();
});

Deno.test("[runtime] TcpListener.accept() outlives what is another's trouble, and tells of its own", async () => {
  const reported: unknown[] = [];
  const report = (error: Error) => void reported.push((error as Error & { code?: string }).code);
  // Gone before it was taken, no room for now.
  const outcomes = [failure("ECONNABORTED"), failure("EMFILE"), failure("ENOBUFS"), new FakeSocket()];
  using listener = listenerOver(outcomes, report);
  using _conn = await listener.accept();
  assertEquals(reported, ["EMFILE", "ENOBUFS"]);
  outcomes.push(failure("ENOTSOCK"), failure("ENOTSOCK"));
  const why = "Cannot accept on TCP listener 127.0.0.1:9: not a socket (ENOTSOCK)";
  await assertRejects(() => listener.accept(), Error, why);
  await assertRejects(
    async () => {
      for await (const conn of listener) conn.close();
    },
    Error,
    why,
  );
  assertEquals(reported.length, 2);
});

Deno.test("[runtime] Multiplexer outlives a failed accept for which nobody waits, which is reported", async () => {
  const reported: string[] = [];
  using listener = listenerOver([failure("ENOTSOCK"), new FakeSocket()], (error) => reported.push(error.message));
  using mux = new Multiplexer({ backend: "runtime" });
  mux.register(listener, { readable: true });
  const [event] = await mux.wait({ timeout: 5_000 });
  assertEquals([event?.source, event?.readable], [listener, true]);
  assertEquals(reported, ["Cannot accept on TCP listener 127.0.0.1:9: not a socket (ENOTSOCK)"]);
  using conn = listener.tryAccept();
  assert(conn !== undefined);
});

Deno.test("[runtime] TcpListener.close() closes the connection that Deno accepts at the same time", async () => {
  const accepted = Promise.withResolvers<FakeSocket>();
  const listener = listenerOver([accepted.promise]);
  const accepting = assertRejects(() => listener.accept(), Deno.errors.BadResource, "listener was closed meanwhile");
  listener.close();
  const socket = Object.assign(new FakeSocket(), { close: () => socket.closed++ });
  accepted.resolve(socket);
  await accepting;
  assertEquals(socket.closed, 1);
});

Deno.test("[runtime] TcpConn.connect() closes the connection that comes at the same time as the abort", async () => {
  const abort = new AbortController();
  const socket = new FakeSocket();
  using _ = replaced(Deno, "connect", () => {
    abort.abort(new Error("stop"));
    return Promise.resolve(socket);
  });
  const { signal } = abort;
  await assertRejects(() => TcpConn.connect({ port: 9, signal, engine: "runtime" }), Error, "stop");
  assertEquals(socket.closed, 1);
});

Deno.test("[runtime] TcpConn.read() cancelled as its data arrives does not unref Deno's read, which has completed", async () => {
  const operation = Promise.withResolvers<number>();
  let isComplete = false;
  let isHeld = false;
  const unrefs: string[] = [];
  const { conn } = connOver({
    // As Deno's own: it holds the operation until its promise is settled, and applies unref() to what it holds.
    async read() {
      isHeld = true;
      try {
        return await operation.promise;
      } finally {
        isHeld = false;
      }
    },
    unref: () => void unrefs.push(isHeld && isComplete ? "a completed operation" : "no completed operation"),
  });
  const abort = new AbortController();
  const reading = conn.read(new Uint8Array(8), { signal: abort.signal });
  // Deno before 2.9 counts an unref of that kind for ever, and ends a program in which one operation is pending.
  operation.resolve(3);
  isComplete = true;
  abort.abort(new Error("stop"));
  await assertRejects(() => reading, Error, "stop");
  await delay(0);
  assertEquals(unrefs.filter((of) => of === "a completed operation"), []);
  conn.close();
});

Deno.test("[runtime] TcpConn.setNoDelay() and setKeepAlive() say that a write waits, which has the socket", () =>
  withoutLeaks(async () => {
    using pair = await Pair.open("runtime");
    const writing = pair.client.writeAll(new Uint8Array(32 * 1024 * 1024));
    writing.catch(() => {});
    for (const set of [() => pair.client.setNoDelay(), () => pair.client.setKeepAlive()]) {
      // As soon as the kernel takes no more.
      const error = await eventually(() => {
        try {
          return set();
        } catch (error) {
          return error;
        }
      });
      const why = `${pair.listener.addr.port} while a write waits: await the write first`;
      assertThrows(
        () => {
          throw error;
        },
        Deno.errors.NotSupported,
        why,
      );
    }
    pair.client.close();
    await assertRejects(() => writing, Deno.errors.BadResource);
  }));

Deno.test("[runtime] TcpConn.closeWrite() takes a side that is gone for closed, and says what else went wrong", async () => {
  const gone = connOver({ closeWrite: () => Promise.reject(new Deno.errors.NotConnected("not connected")) });
  await gone.conn.closeWrite();
  const failed = connOver({ closeWrite: () => Promise.reject(failure("ENOBUFS")) });
  const why = `Cannot close the write side of ${NAME}: no buffer space available (ENOBUFS)`;
  await assertRejects(() => failed.conn.closeWrite(), Error, why);
  // Deno's answer comes after close().
  const closing = Promise.withResolvers<void>();
  const late = connOver({ closeWrite: () => closing.promise });
  const ending = late.conn.closeWrite();
  late.conn.close();
  closing.reject(new Deno.errors.BadResource("Bad resource ID"));
  await assertRejects(() => ending, Deno.errors.BadResource, `Cannot close the write side of ${NAME}`);
});

Deno.test("[runtime] TcpConn tells the next call why bytes were not sent for which nobody waits", async () => {
  const outcomes = [failure("ECONNRESET"), failure("EPIPE")];
  const { conn } = connOver({
    write: (p) => delay(0).then(() => outcomes.length > 0 ? Promise.reject(outcomes.shift()) : p.length),
  });
  using mux = new Multiplexer({ backend: "runtime" });
  assertEquals(conn.tryWrite(encode("lost")), 4);
  await delay(5);
  mux.register(conn, { writable: true });
  const [event] = await mux.wait({ timeout: 5_000 });
  assertEquals([event?.writable, event?.error], [true, true]);
  assertThrows(() => conn.tryWrite(encode("x")), Deno.errors.ConnectionReset, `Cannot write to ${NAME}`);
  // Of a write that was cancelled when its bytes were under way.
  const abort = new AbortController();
  const cancelled = conn.write(encode("lost"), abort);
  abort.abort(new Error("stop"));
  await assertRejects(() => cancelled, Error, "stop");
  await assertRejects(() => conn.write(encode("x")), Deno.errors.BrokenPipe, `Cannot write to ${NAME}`);
  assertEquals(await conn.write(encode("x")), 1);
  conn.close();
});

Deno.test("[runtime] Multiplexer tells nothing of a side on which a call waits", async () => {
  const [read, written] = [Promise.withResolvers<number>(), Promise.withResolvers<number>()];
  const { conn } = connOver({ read: () => read.promise, write: () => written.promise });
  using mux = new Multiplexer({ backend: "runtime" });
  mux.register(conn, { readable: true, writable: true });
  const reading = conn.read(new Uint8Array(5), { signal: new AbortController().signal });
  const writing = conn.write(new Uint8Array(5));
  assertEquals((await mux.wait({ timeout: 0 })).length, 0);
  written.resolve(5);
  const [event] = await mux.wait({ timeout: 5_000 });
  assertEquals([event?.readable, event?.writable], [false, true]);
  read.resolve(8);
  assertEquals([await reading, await writing], [5, 5]);
  const [rest] = await mux.wait({ timeout: 5_000 });
  assertEquals([rest?.readable, conn.tryRead(new Uint8Array(5))], [true, 3]);
  conn.close();
});

for (const way of ["read", "tryRead"] as const) {
  Deno.test(`[runtime] TcpConn.close() that still sends leaves what arrives to nobody: ${way}()`, async () => {
    const [read, written] = [Promise.withResolvers<number>(), Promise.withResolvers<number>()];
    let reads = 0;
    const { conn, socket } = connOver({ read: () => (reads++, read.promise), write: () => written.promise });
    assertEquals(conn.tryWrite(encode("last")), 4);
    const reading = way === "read" ? conn.read(new Uint8Array(5)) : undefined;
    if (way === "tryRead") assertEquals(conn.tryRead(new Uint8Array(5)), undefined);
    conn.close();
    if (reading !== undefined) await assertRejects(() => reading, Deno.errors.BadResource);
    read.resolve(5);
    await delay(0);
    assertEquals([reads, socket.closed], [1, 0]);
    assertThrows(() => conn.tryRead(new Uint8Array(5)), Deno.errors.BadResource);
    written.resolve(4);
    await delay(0);
    assertEquals([reads, socket.closed], [1, 1]);
  });
}

Deno.test("[runtime] StreamSocket closes its streams once, and is never what holds the process", async () => {
  const log: string[] = [];
  const socket = new StreamSocket({
    localAddr: ADDR,
    remoteAddr: ADDR,
    readable: new ReadableStream({ cancel: () => void log.push("cancel") }),
    writable: new WritableStream({ write: (p) => void log.push(decode(p)), close: () => void log.push("close") }),
  });
  socket.unref();
  socket.ref();
  await socket.write(encode("sent"));
  socket[Symbol.dispose]();
  socket[Symbol.dispose]();
  await delay(0);
  assertEquals(log, ["sent", "cancel", "close"]);
  assertThrows(() => socket.setNoDelay(), Deno.errors.NotSupported, "set TCP_NODELAY");
  assertThrows(() => socket.setKeepAlive(), Deno.errors.NotSupported, "set SO_KEEPALIVE");
});
