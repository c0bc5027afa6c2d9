/**
 * What programs do that they should not: the documented error each time, no
 * byte lost that another call could still have, and no memory that the kernel
 * writes to after it was given back.
 */

import { Multiplexer, Waker } from "@c10k/sockets/mux";
import { TcpConn, TcpListener, TcpSocket } from "@c10k/sockets/tcp";
import { DatagramBatch, UdpEndpoint } from "@c10k/sockets/udp";
import { assert, assertEquals, assertRejects, assertThrows } from "@std/assert";
import { deadline, delay } from "@std/async";
import { kernel } from "./_kernel.ts";
import { ENGINES, engineTest, eventually, Pair, run, withoutLeaks } from "./_util.ts";

const HOST = "127.0.0.1";
const native = ENGINES.includes("native");

/** What a call came to: "nothing", the error's class, or what it returned. */
async function outcome(call: () => unknown): Promise<string> {
  try {
    const result = await call();
    return result === undefined ? "nothing" : String(result);
  } catch (error) {
    return (error as Error).name;
  }
}

type Calls<T> =
  readonly (readonly [call: string, make: (object: T) => unknown, expected: string | readonly string[]])[];

async function checkCalls<T>(object: T, calls: Calls<T>, when: string): Promise<void> {
  for (const [call, make, expected] of calls) {
    const actual = await deadline(outcome(() => make(object)), 5_000).catch(() => "waits for ever");
    assert([expected].flat().includes(actual), `${call} ${when}: ${actual}, not ${expected}`);
  }
}

const p = () => new Uint8Array(4);
const GONE = "BadResource";
/** What the runtime engine does not have is refused as such, closed or not. */
const GONE_OR_NOT_THERE = [GONE, "NotSupported"];

const CONN: Calls<TcpConn> = [
  ["close()", (conn) => conn.close(), "nothing"],
  ["[Symbol.dispose]()", (conn) => conn[Symbol.dispose](), "nothing"],
  ["ref()", (conn) => conn.ref(), "nothing"],
  ["unref()", (conn) => conn.unref(), "nothing"],
  ["fd", (conn) => conn.fd, "nothing"],
  ["localAddr", (conn) => conn.localAddr.hostname, HOST],
  ["read()", (conn) => conn.read(p()), GONE],
  ["peek()", (conn) => conn.peek(p()), GONE],
  ["write()", (conn) => conn.write(p()), GONE],
  ["writeAll()", (conn) => conn.writeAll(p()), GONE],
  ["tryRead()", (conn) => conn.tryRead(p()), GONE],
  ["tryWrite()", (conn) => conn.tryWrite(p()), GONE],
  ["closeWrite()", (conn) => conn.closeWrite(), GONE],
  ["shutdown()", (conn) => conn.shutdown("both"), GONE_OR_NOT_THERE],
  ["reset()", (conn) => conn.reset(), GONE_OR_NOT_THERE],
  ["setNoDelay()", (conn) => conn.setNoDelay(), GONE],
  ["setKeepAlive()", (conn) => conn.setKeepAlive(), GONE],
  ["getOption()", (conn) => conn.getOption("SO_RCVBUF"), GONE_OR_NOT_THERE],
  ["setOption()", (conn) => conn.setOption("SO_RCVBUF", 1), GONE_OR_NOT_THERE],
  ["info()", (conn) => conn.info(), GONE_OR_NOT_THERE],
  ["queues()", (conn) => conn.queues(), GONE_OR_NOT_THERE],
  ["detach()", (conn) => conn.detach(), GONE_OR_NOT_THERE],
  ["readable", (conn) => conn.readable.getReader().read(), GONE],
  ["writable", (conn) => conn.writable.getWriter().write(p()), GONE],
];

const LISTENER: Calls<TcpListener> = [
  ["close()", (listener) => listener.close(), "nothing"],
  ["[Symbol.dispose]()", (listener) => listener[Symbol.dispose](), "nothing"],
  ["ref()", (listener) => listener.ref(), "nothing"],
  ["unref()", (listener) => listener.unref(), "nothing"],
  ["fd", (listener) => listener.fd, "nothing"],
  ["addr", (listener) => listener.addr.hostname, HOST],
  ["accept()", (listener) => listener.accept(), GONE],
  ["tryAccept()", (listener) => listener.tryAccept(), GONE],
  ["queue()", (listener) => listener.queue(), GONE_OR_NOT_THERE],
  ["pause()", (listener) => listener.pause(), GONE],
  ["resume()", (listener) => listener.resume(), GONE],
  ["detach()", (listener) => listener.detach(), GONE_OR_NOT_THERE],
  ["a loop", async (listener) => {
    for await (const _ of listener) return "a connection";
    return "ends";
  }, "ends"],
];

const TO = { hostname: HOST, port: 9 };

function batch(): DatagramBatch {
  const one = new DatagramBatch();
  one.set(0, p(), TO);
  return one;
}

const ENDPOINT: Calls<UdpEndpoint> = [
  ["close()", (endpoint) => endpoint.close(), "nothing"],
  ["[Symbol.dispose]()", (endpoint) => endpoint[Symbol.dispose](), "nothing"],
  ["ref()", (endpoint) => endpoint.ref(), "nothing"],
  ["unref()", (endpoint) => endpoint.unref(), "nothing"],
  ["fd", (endpoint) => endpoint.fd, "nothing"],
  ["addr", (endpoint) => endpoint.addr.hostname, HOST],
  ["recvFrom()", (endpoint) => endpoint.recvFrom(p()), GONE],
  ["tryRecvFrom()", (endpoint) => endpoint.tryRecvFrom(p()), GONE],
  ["sendTo()", (endpoint) => endpoint.sendTo(p(), TO), GONE],
  ["trySendTo()", (endpoint) => endpoint.trySendTo(p(), TO), GONE],
  ["recvBatch()", (endpoint) => endpoint.recvBatch(new DatagramBatch()), GONE],
  ["tryRecvBatch()", (endpoint) => endpoint.tryRecvBatch(new DatagramBatch()), GONE],
  ["sendBatch()", (endpoint) => endpoint.sendBatch(batch()), GONE],
  ["trySendBatch()", (endpoint) => endpoint.trySendBatch(batch()), GONE],
  ["connect()", (endpoint) => endpoint.connect(TO), GONE_OR_NOT_THERE],
  ["send()", (endpoint) => endpoint.send(p()), GONE_OR_NOT_THERE],
  ["setBroadcast()", (endpoint) => endpoint.setBroadcast(), GONE],
  ["joinMulticast()", (endpoint) => endpoint.joinMulticast({ group: "239.1.2.3" }), GONE],
  ["getOption()", (endpoint) => endpoint.getOption("SO_RCVBUF"), GONE_OR_NOT_THERE],
  ["detach()", (endpoint) => endpoint.detach(), GONE_OR_NOT_THERE],
];

engineTest("every call on what was closed, closed twice or given away is refused, or does nothing", async (engine) => {
  using pair = await Pair.open(engine);
  pair.client.close();
  await checkCalls(pair.client, CONN, "after close()");
  using listener = TcpListener.bind({ hostname: HOST, port: 0, engine });
  listener.close();
  await checkCalls(listener, LISTENER, "after close()");
  using endpoint = UdpEndpoint.bind({ hostname: HOST, engine });
  endpoint.close();
  await checkCalls(endpoint, ENDPOINT, "after close()");
  if (engine === "runtime") return;
  using conn = TcpConn.fromFd(pair.server.detach());
  await checkCalls(pair.server, CONN, "after detach()");
  using other = TcpListener.fromFd(pair.listener.detach());
  await checkCalls(pair.listener, LISTENER, "after detach()");
  const bound = UdpEndpoint.bind({ hostname: HOST, engine });
  using taken = UdpEndpoint.fromFd(bound.detach());
  await checkCalls(bound, ENDPOINT, "after detach()");
  // Nothing of that has touched who has them now.
  for (const { fd } of [conn, other, taken]) assert(fd !== undefined && kernel.fcntl(fd, 1, 0) >= 0);
});

for (const backend of Multiplexer.backends()) {
  const engine = backend === "runtime" ? "runtime" : "native";

  Deno.test(`[${backend}] a multiplexer refuses what is registered twice, not at all, or closed`, () =>
    withoutLeaks(async () => {
      using pair = await Pair.open(engine);
      const mux = new Multiplexer({ backend });
      const readable = { readable: true };
      mux.register(pair.server, readable);
      assertThrows(() => mux.register(pair.server, readable), Deno.errors.AlreadyExists);
      assertThrows(() => mux.modify(pair.client, readable), Deno.errors.NotFound);
      assertThrows(() => mux.unregister(pair.client), Deno.errors.NotFound);
      mux.unregister(pair.server);
      assertThrows(() => mux.unregister(pair.server), Deno.errors.NotFound);
      assertThrows(() => mux.modify(pair.server, readable), Deno.errors.NotFound);
      pair.client.close();
      assertThrows(() => mux.register(pair.client, readable), Deno.errors.BadResource);
      mux.unregister(pair.client); // unregistered already
      const waker = mux.waker();
      const waiting = mux.wait();
      waiting.catch(() => {});
      await assertRejects(() => mux.wait(), Deno.errors.Busy);
      mux.close();
      mux.close();
      await assertRejects(() => waiting, Deno.errors.BadResource);
      const calls: Calls<Multiplexer> = [
        ["register()", () => mux.register(pair.server, readable), GONE],
        ["modify()", () => mux.modify(pair.server, readable), GONE],
        ["unregister()", () => mux.unregister(pair.server), GONE],
        ["wait()", () => mux.wait(), GONE],
        ["waitSync()", () => mux.waitSync(0), GONE_OR_NOT_THERE],
        ["wake()", () => mux.wake(), GONE],
        ["waker()", () => mux.waker(), GONE],
        ["the waker's wake()", () => waker.wake(), GONE],
        ["the waker's fd", () => waker.fd, "nothing"],
        ["has()", () => mux.has(pair.server), "false"],
        ["size", () => mux.size, "0"],
      ];
      await checkCalls(mux, calls, "after close()");
    }));

  Deno.test(`[${backend}] a multiplexer is closed, and its sources, in the midst of its own events`, () =>
    withoutLeaks(async () => {
      using first = await Pair.open(engine);
      using second = await Pair.open(engine);
      const mux = new Multiplexer({ backend });
      for (const { server } of [first, second]) mux.register(server, { readable: true });
      for (const { client } of [first, second]) await client.writeAll(p());
      let batches = 0;
      // In a loop over it, which then ends.
      for await (const events of mux) {
        batches++;
        for (const { source } of events) {
          (source as TcpConn).close();
          if (mux.size === 0) mux.close();
        }
      }
      assert(batches >= 1 && mux.size === 0);
      // From an abort listener, a promise's callback and a waker, while a wait is under way.
      for (const way of ["abort", "promise", "wake"]) {
        const mux = new Multiplexer({ backend });
        const abort = new AbortController();
        abort.signal.addEventListener("abort", () => mux.close());
        const waiting = mux.wait({ signal: abort.signal });
        waiting.catch(() => {});
        if (way === "promise") Promise.resolve().then(() => mux.close());
        await delay(1);
        if (way === "abort") abort.abort(new Error("stop"));
        if (way === "wake") {
          mux.wake();
          mux.close();
        }
        await assertRejects(() => waiting, way === "abort" ? Error : Deno.errors.BadResource);
        mux.close();
      }
    }));
}

engineTest("a value whose own inspector throws is refused as any other", async (engine) => {
  const hostile = {
    [Symbol.for("Deno.customInspect")]() {
      throw new Error("boom");
    },
  };
  const value = hostile as unknown as number;
  const message = "port must be a number, received a value of type object";
  assertThrows(() => TcpListener.bind({ port: value, engine }), TypeError, message);
  assertThrows(() => UdpEndpoint.bind({ port: value, engine }), TypeError, message);
  await assertRejects(() => TcpConn.connect({ port: value, engine }), TypeError, message);
});

engineTest("a connection is closed from inside what waits for it", async (engine) => {
  const ways: Record<string, (conn: TcpConn, abort: AbortController) => void> = {
    "an abort listener": (conn, abort) => {
      abort.signal.addEventListener("abort", () => conn.close());
      abort.abort(new Error("stop"));
    },
    "the same turn": (conn) => conn.close(),
    "a promise's callback": (conn) => void Promise.resolve().then(() => conn.close()),
    "a timer": (conn) => void setTimeout(() => conn.close(), 1),
  };
  for (const [way, close] of Object.entries(ways)) {
    using pair = await Pair.open(engine);
    const abort = new AbortController();
    const { client } = pair;
    const calls = [
      client.read(p(), { signal: abort.signal }),
      client.peek(p()),
      client.read(p()),
      client.write(new Uint8Array(8 << 20), { signal: abort.signal }),
      client.writeAll(new Uint8Array(8 << 20)),
    ];
    close(client, abort);
    for (const result of await deadline(Promise.allSettled(calls), 5_000)) {
      if (result.status === "fulfilled") continue;
      const { name, message } = result.reason;
      assert(name === "BadResource" || message === "stop", `${way}: ${name}: ${message}`);
    }
    assertEquals(await deadline(pair.server.readable.pipeTo(new WritableStream()).catch(() => {}), 5_000), undefined);
  }
  // By whoever is told of a read, with others behind it in line.
  using pair = await Pair.open(engine);
  const first = pair.server.read(new Uint8Array(1)).then((n) => {
    pair.server.close();
    return n;
  });
  const second = pair.server.read(new Uint8Array(1));
  second.catch(() => {});
  await pair.client.writeAll(new Uint8Array(1));
  assertEquals(await first, 1);
  await assertRejects(() => second, Deno.errors.BadResource);
});

engineTest("a listener is closed from inside its own loop, an abort listener, and a handler", async (engine) => {
  for (const way of ["loop", "abort", "callback"]) {
    using listener = TcpListener.bind({ hostname: HOST, port: 0, engine });
    using _client = await TcpConn.connect({ port: listener.addr.port, engine });
    const abort = new AbortController();
    if (way === "loop") {
      for await (const conn of listener) {
        conn.close();
        listener.close();
      }
      continue;
    }
    using conn = await listener.accept();
    const waiting = [listener.accept({ signal: abort.signal }), listener.accept()];
    if (way === "abort") {
      abort.signal.addEventListener("abort", () => listener.close());
      abort.abort(new Error("stop"));
    } else {
      conn.close();
      Promise.resolve().then(() => listener.close());
    }
    for (const result of await deadline(Promise.allSettled(waiting), 5_000)) {
      assert(result.status === "rejected");
      assert(result.reason instanceof Deno.errors.BadResource || result.reason.message === "stop", way);
    }
  }
});

/** Buffers of all sorts, each with what is seen of it. */
const BUFFERS: readonly (readonly [name: string, make: (bytes: number) => Uint8Array])[] = [
  ["in V8's own heap", (bytes) => new Uint8Array(bytes)],
  ["in an ArrayBuffer", (bytes) => new Uint8Array(new ArrayBuffer(bytes))],
  ["in the middle of an ArrayBuffer", (bytes) => new Uint8Array(new ArrayBuffer(bytes + 200), 100, bytes)],
  ["resizable", (bytes) => new Uint8Array(new ArrayBuffer(bytes, { maxByteLength: bytes + 4096 }))],
  ["shared", (bytes) => new Uint8Array(new SharedArrayBuffer(bytes + 64), 32, bytes)],
  ["shared and growable", (bytes) => new Uint8Array(new SharedArrayBuffer(bytes, { maxByteLength: bytes + 4096 }))],
];

engineTest("every sort of buffer is read into and written from, within its bounds", async (engine) => {
  using pair = await Pair.open(engine);
  using a = UdpEndpoint.bind({ hostname: HOST, engine });
  using b = UdpEndpoint.bind({ hostname: HOST, engine });
  for (const [name, make] of BUFFERS) {
    for (const size of [1, 64, 65, 1_000]) {
      const out = make(size).fill(size & 0xff);
      const into = make(size);
      const around = () => new Uint8Array(into.buffer).reduce((sum, byte) => sum + byte, 0);
      const outcomes: string[] = [];
      const check = async (call: string, make: () => Promise<unknown>) => {
        into.fill(0);
        try {
          await deadline(make(), 5_000);
          assertEquals([into.every((byte) => byte === (size & 0xff)), around()], [true, size * (size & 0xff)]);
          outcomes.push("done");
        } catch (error) {
          if (!(error instanceof TypeError)) throw new Error(`${call} ${name}, ${size}`, { cause: error });
          outcomes.push("refused");
        }
      };
      await check("write and read", async () => {
        await pair.client.writeAll(out);
        for (let at = 0; at < size;) at += await pair.server.read(into.subarray(at)) as number;
      });
      await check("tryWrite and peek", async () => {
        assertEquals(await eventually(() => pair.client.tryWrite(out)), size);
        assertEquals(await pair.server.peek(into), size);
        await pair.server.read(new Uint8Array(size));
      });
      await check("sendTo and recvFrom", async () => {
        await a.sendTo(out, b.addr);
        assertEquals((await b.recvFrom(into)).size, size);
      });
      assert(outcomes.every((one) => one === "done"), `${name}, ${size} bytes: ${outcomes}`);
    }
  }
});

/** Ways to take a buffer away from a call that waits with it. */
const TAKEN: readonly (readonly [name: string, make: () => Uint8Array<ArrayBuffer>, take: (p: Uint8Array) => void])[] =
  [
    ["transferred", () => new Uint8Array(16), (p) => void (p.buffer as ArrayBuffer).transfer()],
    [
      "posted away",
      () => new Uint8Array(1_000),
      (p) => void structuredClone(p, { transfer: [p.buffer as ArrayBuffer] }),
    ],
    [
      "shrunk to nothing",
      () => new Uint8Array(new ArrayBuffer(16, { maxByteLength: 64 })),
      (p) => (p.buffer as ArrayBuffer).resize(0),
    ],
    [
      "shrunk under a view of fixed length",
      () => new Uint8Array(new ArrayBuffer(100_000, { maxByteLength: 200_000 }), 50_000, 16),
      (p) => (p.buffer as ArrayBuffer).resize(8),
    ],
  ];

engineTest(
  "a buffer that is taken away while a read waits is refused, and nothing is written elsewhere",
  async (engine) => {
    for (const [name, make, take] of TAKEN) {
      using pair = await Pair.open(engine);
      const p = make();
      const reading = pair.server.read(p);
      reading.catch(() => {});
      await delay(1);
      take(p);
      await pair.client.writeAll(new Uint8Array(3).fill(7));
      await assertRejects(() => deadline(reading, 5_000), TypeError, "p was resized or transferred away", name);
      // With a signal the runtime engine, too, has not begun to write there.
      const other = make();
      const cancellable = pair.server.read(other, { signal: new AbortController().signal });
      const late = cancellable.catch((error) => error.name);
      if (engine === "native") {
        assertEquals([await late, [...other.subarray(0, 3)]], [3, [7, 7, 7]], name);
      } else {
        await pair.client.writeAll(new Uint8Array(1));
        await late;
      }
      using fresh = await Pair.open(engine);
      const third = make();
      const again = fresh.server.read(third, { signal: new AbortController().signal });
      again.catch(() => {});
      await delay(1);
      take(third);
      await fresh.client.writeAll(new Uint8Array(2));
      await assertRejects(() => deadline(again, 5_000), TypeError, "p was resized or transferred away", name);
      assertEquals(await fresh.server.read(new Uint8Array(9)), 2, name);
    }
  },
);

engineTest("a buffer that is taken away while it is being written is no success", async (engine) => {
  const size = 8 * 1024 * 1024;
  const ways: readonly (readonly [string, (buffer: ArrayBuffer) => void])[] = [
    ["transferred", (buffer) => void buffer.transfer()],
    ["shrunk", (buffer) => buffer.resize(size - 1_000)],
    ["shrunk to nothing", (buffer) => buffer.resize(0)],
  ];
  for (const [name, take] of ways) {
    for (const signal of [undefined, new AbortController().signal]) {
      using pair = await Pair.open(engine);
      const buffer = new ArrayBuffer(size, { maxByteLength: size });
      const writing = pair.client.writeAll(new Uint8Array(buffer).fill(7), { ...signal && { signal } });
      writing.catch(() => {});
      await delay(1);
      take(buffer);
      const received = pair.server.readable.pipeTo(
        new WritableStream({
          write(chunk: Uint8Array) {
            if (chunk.some((byte) => byte !== 7)) throw new Error("bytes that nobody wrote");
          },
        }),
      );
      received.catch(() => {});
      await assertRejects(() => deadline(writing, 10_000), TypeError, "p was resized or transferred away", name);
      pair.client.close();
      await deadline(received, 10_000);
    }
  }
});

engineTest("a buffer that was gone before the call is refused, or holds nothing", async (engine) => {
  using pair = await Pair.open(engine);
  using endpoint = UdpEndpoint.bind({ hostname: HOST, engine });
  const gone = new Uint8Array(8);
  gone.buffer.transfer();
  for (
    const call of [
      () => pair.client.read(gone),
      () => pair.client.peek(gone),
      () => pair.client.writeAll(gone),
      () => pair.client.tryRead(gone),
      () => pair.client.tryWrite(gone),
      () => endpoint.sendTo(gone, endpoint.addr),
      () => endpoint.tryRecvFrom(gone),
    ]
  ) assert(["TypeError", "0", "nothing"].includes(await outcome(call)), String(call));
});

// --- descriptors

function nativeTest(name: string, fn: () => Promise<void>): void {
  Deno.test({ name: `[native] ${name}`, ignore: !native, fn: () => withoutLeaks(fn) });
}

nativeTest(
  "a descriptor that was closed behind the library's back is told of, and nobody else is disturbed",
  async () => {
    using healthy = await Pair.open("native");
    const reading = healthy.server.read(p());
    using pair = await Pair.open("native");
    using endpoint = UdpEndpoint.bind({ hostname: HOST, engine: "native" });
    const waiting = [pair.client.read(p()), pair.listener.accept(), endpoint.recvFrom(p())];
    await delay(1);
    const numbers = [pair.client.fd, pair.listener.fd, endpoint.fd] as number[];
    for (const fd of numbers) kernel.close(fd);
    for (
      const call of [
        () => pair.client.write(p()),
        () => pair.client.tryRead(p()),
        () => pair.client.getOption("SO_RCVBUF"),
        () => pair.client.info(),
        () => pair.listener.queue(),
        () => endpoint.trySendTo(p(), TO),
        () => endpoint.getOption("SO_RCVBUF"),
      ]
    ) assert([GONE, "nothing"].includes(await outcome(call)), String(call));
    await assertRejects(() => pair.client.closeWrite(), Deno.errors.BadResource, "Cannot shut down");
    // What waits is woken by close() at the latest, as always.
    pair.client.close();
    pair.listener.close();
    endpoint.close();
    for (const result of await deadline(Promise.allSettled<unknown>(waiting), 5_000)) {
      assertEquals(result.status, "rejected");
    }
    await healthy.client.writeAll(p());
    assertEquals(await deadline(reading, 5_000), 4);
  },
);

nativeTest("a descriptor with two owners is closed once for both, and says so", async () => {
  using pair = await Pair.open("native");
  const second = TcpConn.fromFd(pair.client.fd as number);
  // The kernel registers a descriptor once only.
  const one = pair.client.read(p());
  one.catch(() => {});
  const two = second.read(p());
  two.catch(() => {});
  second.close();
  assert(["AlreadyExists", "BadResource"].includes(await outcome(() => deadline(two, 5_000))));
  assertEquals(await outcome(() => pair.client.write(p())), GONE);
  pair.client.close();
  await assertRejects(() => one, Deno.errors.BadResource);
});

nativeTest("a listener with two owners tells the second one that the first one waits", async () => {
  using listener = TcpListener.bind({ hostname: HOST, port: 0, engine: "native" });
  const accepting = listener.accept();
  const second = TcpListener.fromFd(listener.fd as number);
  await assertRejects(() => second.accept(), Deno.errors.AlreadyExists, "Cannot wait for TCP listener");
  second.detach();
  using _client = await TcpConn.connect({ port: listener.addr.port, engine: "native" });
  (await accepting).close();
});

nativeTest("a multiplexer whose own descriptor was closed says so in the library's words", async () => {
  using endpoint = UdpEndpoint.bind({ hostname: HOST, engine: "native" });
  const numbers = () => [...Deno.readDirSync("/proc/self/fd")].map(({ name }) => name);
  const before = new Set(numbers());
  const mux = new Multiplexer({ backend: "epoll" });
  const epoll = numbers().find((fd) => {
    return !before.has(fd) && Deno.readLinkSync(`/proc/self/fd/${fd}`).includes("eventpoll");
  });
  kernel.close(Number(epoll));
  const message = "Cannot wait on the multiplexer: bad file descriptor (EBADF)";
  // The first with epoll_pwait2(2), the others with epoll_wait(2).
  assertThrows(() => mux.waitSync(0.5), Deno.errors.BadResource, message);
  await assertRejects(() => mux.wait({ timeout: 5 }), Deno.errors.BadResource, message);
  assertThrows(() => mux.waitSync(5), Deno.errors.BadResource, message);
  assertThrows(() => mux.register(endpoint, { readable: true }), Deno.errors.BadResource);
  mux.close();
});

nativeTest("numbers that are no descriptors of that kind are refused, whatever they are", async () => {
  using pair = await Pair.open("native");
  using endpoint = UdpEndpoint.bind({ hostname: HOST, engine: "native" });
  using socket = TcpSocket.open("IPv4");
  assert(socket !== undefined);
  const fds = [pair.client.fd, pair.listener.fd, endpoint.fd, 0, 1, 2, 1_000_000, 2 ** 31 - 1] as number[];
  const right: Record<string, number | undefined> = {
    TcpConn: pair.client.fd,
    TcpListener: pair.listener.fd,
    UdpEndpoint: endpoint.fd,
  };
  for (const [name, { fromFd }] of Object.entries({ TcpConn, TcpListener, UdpEndpoint })) {
    for (const fd of fds) {
      if (fd === right[name]) continue;
      assert(["TypeError", GONE].includes(await outcome(() => fromFd(fd))), `${name}.fromFd(${fd})`);
    }
    for (const fd of [-1, 2 ** 31, 0.5, NaN]) assertThrows(() => fromFd(fd), RangeError);
    for (const fd of ["3", null, undefined, 3n]) assertThrows(() => fromFd(fd as unknown as number), TypeError);
  }
  assertThrows(() => Waker.fromFd(pair.client.fd as number), TypeError);
  // All are as they were.
  await pair.client.writeAll(p());
  assertEquals(await pair.server.read(p()), 4);
});

// --- memory

nativeTest("the garbage collector moves nothing that the kernel writes to", async () => {
  const source = `
    import { Multiplexer } from "${import.meta.resolve("@c10k/sockets/mux")}";
    import { UdpEndpoint } from "${import.meta.resolve("@c10k/sockets/udp")}";
    const a = UdpEndpoint.bind({ hostname: "127.0.0.1" });
    const litter = () => { let kept = []; for (let i = 0; i < 2000; i++) kept.push(new Uint8Array(32).fill(255)); gc(); kept = []; gc(); };
    for (const backend of ["epoll", "poll", "select"]) {
      for (let round = 0; round < 8; round++) {
        const b = UdpEndpoint.bind({ hostname: "127.0.0.1" });
        // The smallest lists, which V8 would keep in its own heap.
        const mux = new Multiplexer({ backend, maxEvents: 1 });
        mux.register(b, { readable: true });
        await new Promise((resolve) => setTimeout(resolve, 1));
        const waiting = mux.wait();
        await new Promise((resolve) => setTimeout(resolve, 2));
        litter();
        await a.sendTo(new Uint8Array([1, 2, 3]), b.addr);
        const events = await waiting;
        if (events.length !== 1 || events[0].source !== b) throw new Error(backend);
        mux.close();
        b.tryRecvFrom(new Uint8Array(1));
        const p = new Uint8Array(8);
        const receiving = b.recvFrom(p);
        litter();
        await a.sendTo(new Uint8Array([1, 2, 3]), b.addr);
        const { data } = await receiving;
        if (data.join() !== "1,2,3" || p.join() !== "1,2,3,0,0,0,0,0") throw new Error(p.join());
        b.close();
      }
    }
    a.close();
    console.log("done");`;
  const args = ["run", "--no-prompt", "--no-lock", "--no-check", "--quiet", "--allow-all", "--v8-flags=--expose-gc"];
  const { code, stdout, stderr } = await run([...args, `data:text/javascript,${encodeURIComponent(source)}`]);
  assertEquals([code, stdout, stderr], [0, "done\n", ""]);
});

/** The numbers of epoll_wait, or epoll_pwait, by machine (asm/unistd_64.h, asm-generic/unistd.h). */
const EPOLL_WAIT = Deno.build.arch === "x86_64" ? [232, 281] : [22];

/** How many events the test below asks for; the runtime's own threads ask for 1,024. */
const MOST_EVENTS = 65_536;

/** Where the threads of this process that wait for so many want their events: `/proc/self/task/…/syscall` of proc(5). */
function eventsAt(): number[] {
  return [...Deno.readDirSync("/proc/self/task")].flatMap(({ name }) => {
    try {
      const [call, , events, most] = Deno.readTextFileSync(`/proc/self/task/${name}/syscall`).split(" ");
      return EPOLL_WAIT.includes(Number(call)) && Number(most) === MOST_EVENTS ? [Number(events)] : [];
    } catch {
      return []; // it has ended
    }
  });
}

function isMapped(address: number): boolean {
  return Deno.readTextFileSync("/proc/self/maps").split("\n").some((line) => {
    const [from, to] = line.split(" ", 1)[0]?.split("-").map((text) => parseInt(text, 16)) ?? [];
    return from !== undefined && to !== undefined && from <= address && address < to;
  });
}

Deno.test({
  name: "[native] a Worker that is terminated while it waits leaves the kernel no memory that was given back",
  ignore: !native,
  async fn() {
    const source = `
      import { Multiplexer } from "${import.meta.resolve("@c10k/sockets/mux")}";
      import { UdpEndpoint } from "${import.meta.resolve("@c10k/sockets/udp")}";
      // So large that the C library gives it pages of its own, which it unmaps when they are freed.
      const mux = new Multiplexer({ backend: "epoll", maxEvents: ${MOST_EVENTS} });
      const endpoint = UdpEndpoint.bind({ hostname: "127.0.0.1", engine: "native" });
      mux.register(endpoint, { readable: true });
      const fd = endpoint.fd;
      mux.wait().catch(() => {});
      self.postMessage({ port: endpoint.addr.port, fd });`;
    const before = new Set(eventsAt());
    const worker = new Worker(`data:text/javascript,${encodeURIComponent(source)}`, { type: "module" });
    const { port, fd } = await new Promise<{ port: number; fd: number }>((resolve, reject) => {
      worker.onmessage = ({ data }) => resolve(data);
      worker.onerror = ({ message }) => reject(new Error(message));
    });
    const mine = () => eventsAt().filter((address) => !before.has(address) && isMapped(address));
    const [events] = await eventually(() => mine().length > 0 ? mine() : undefined);
    worker.terminate();
    // While the call is under way, its memory is there.
    for (let i = 0; i < 20; i++) {
      await delay(10);
      if (eventsAt().includes(events as number)) assert(isMapped(events as number), "the memory was given back");
    }
    // The wait ends with news, which are written to it.
    using sender = UdpEndpoint.bind({ hostname: HOST, engine: "native" });
    await sender.sendTo(p(), { hostname: HOST, port });
    await eventually(() => eventsAt().includes(events as number) ? undefined : true);
    // Nobody else closes what a Worker that the library has not started leaves open.
    kernel.close(fd);
  },
});
