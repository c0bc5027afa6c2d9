/** UdpEndpoint and DatagramBatch: one suite, both engines. */

import { DatagramBatch, type Engine, UdpEndpoint } from "@c10k/sockets/udp";
import { Multiplexer } from "@c10k/sockets/mux";
import { assertEquals, assertGreater, assertLess, assertMatch, assertRejects, assertThrows } from "@std/assert";
import { deadline, delay } from "@std/async";
import dns from "node:dns";
import { setImmediate } from "node:timers";
import { LOCAL, nativeTest, Two } from "./_udp.ts";
import {
  checksum,
  clientTest,
  decode,
  encode,
  ENGINES,
  engineTest,
  eventually,
  long,
  randomBytes,
  replaced,
  resolvedTo,
  ServerProcess,
  spendTurn,
} from "./_util.ts";

/** What macOS sends at most, unless `net.inet.udp.maxdgram` says more; elsewhere there is no such limit. */
const LARGEST = Deno.build.os === "darwin" ? 9_216 : Infinity;

engineTest("UdpEndpoint carries datagrams of 0, 1, 1,472 and 65,507 bytes, and refuses 65,508", async (engine) => {
  using two = new Two(engine);
  const p = new Uint8Array(65_535);
  for (const size of [0, 1, 1_472, Math.min(65_507, LARGEST)]) {
    const sent = randomBytes(size);
    assertEquals(await two.a.sendTo(sent, two.b.addr), size);
    const { data, truncated, address, size: told } = await two.b.recvFrom(p);
    assertEquals([told, truncated, address], [size, false, two.a.addr]);
    assertEquals(await checksum(data.slice()), await checksum(sent));
  }
  const error = await assertRejects(() => two.a.sendTo(new Uint8Array(65_508), two.b.addr), Error, "EMSGSIZE");
  assertEquals((error as Error & { code: string }).code, "EMSGSIZE");
  assertThrows(() => two.a.trySendTo(new Uint8Array(65_508), two.b.addr), Error, "message too long (EMSGSIZE)");
});

engineTest("UdpEndpoint carries 65,527 bytes over IPv6, which does not count its header", async (engine) => {
  using two = new Two(engine, "::1");
  const largest = Math.min(65_527, LARGEST);
  await two.a.sendTo(randomBytes(largest), two.b.addr);
  const { size, truncated } = await two.b.recvFrom(new Uint8Array(65_535));
  assertEquals([size, truncated], [largest, false]);
  await assertRejects(() => two.a.sendTo(new Uint8Array(65_528), two.b.addr), Error, "EMSGSIZE");
  // What is mapped from IPv4 goes over IPv4.
  using both = UdpEndpoint.bind({ hostname: "::", engine });
  const mapped = { hostname: "::ffff:127.0.0.1", port: two.b.addr.port };
  await assertRejects(() => both.sendTo(new Uint8Array(65_508), mapped), Error, "EMSGSIZE");
});

engineTest("sends leave in the order of the calls, also when nobody waits for them", async (engine) => {
  // Deno polls what is under way together from the last to the first.
  using two = new Two(engine);
  const p = new Uint8Array(9);
  assertEquals(two.b.tryRecvFrom(p), undefined);
  const sends = Array.from({ length: 100 }, (_, i) => two.a.sendTo(new Uint8Array([i]), two.b.addr));
  for (let i = 100; i < 200; i++) assertEquals(two.a.trySendTo(new Uint8Array([i]), two.b.addr), 1);
  for (let i = 0; i < 200; i++) assertEquals((await two.b.recvFrom(p)).data, new Uint8Array([i]));
  await Promise.all(sends);
});

for (const first of ["receives", "datagrams"] as const) {
  // More than may go ahead between two turns of the event loop (128), fewer than a socket holds by default.
  engineTest(`200 receives get 200 datagrams in the order of the calls: the ${first} come first`, async (engine) => {
    using two = new Two(engine);
    const receive = () => Array.from({ length: 200 }, () => two.b.recvFrom(new Uint8Array(1)));
    const send = () => {
      for (let i = 0; i < 200; i++) assertEquals(two.a.trySendTo(new Uint8Array([i]), two.b.addr), 1);
    };
    let receives: ReturnType<typeof receive> = [];
    if (first === "receives") receives = receive();
    send();
    if (first === "datagrams") receives = receive();
    const received = (await Promise.all(receives)).map(({ data }) => data[0]);
    assertEquals(received, Array.from({ length: 200 }, (_, i) => i));
  });
}

/** Whether an epoll instance of this process watches a descriptor. */
function isWatched(fd: number | undefined): boolean {
  return [...Deno.readDirSync("/proc/self/fdinfo")].some(({ name }) => {
    try {
      return new RegExp(`^tfd: +${fd} `, "m").test(Deno.readTextFileSync(`/proc/self/fdinfo/${name}`));
    } catch {
      return false; // the descriptor of this very listing
    }
  });
}

nativeTest("an endpoint is watched from its first wait until it is busy", async () => {
  using two = new Two("native");
  const { a, b } = two;
  const p = new Uint8Array(1);
  await a.sendTo(p, b.addr);
  await b.recvFrom(p);
  assertEquals(isWatched(b.fd), false);
  for (let round = 0; round < 3; round++) {
    // Answers that need not wait do not make one busy that waits for each question.
    for (let i = 0; i < 100; i++) {
      const waiting = b.recvFrom(p);
      await eventually(() => isWatched(b.fd) ? true : undefined);
      await a.sendTo(p, b.addr);
      await waiting;
      await b.sendTo(p, a.addr);
      assertEquals(isWatched(b.fd), true);
    }
    let rounds = 0;
    while (isWatched(b.fd) && rounds++ < 100) {
      for (let i = 0; i < 64; i++) {
        a.trySendTo(p, b.addr);
        await b.recvFrom(p);
      }
    }
    assertEquals(isWatched(b.fd), false);
  }
});

nativeTest(
  "an endpoint that was unref'd has its turn at once, also if others come to wait for theirs",
  async (engine) => {
    using sender = UdpEndpoint.bind({ hostname: LOCAL, engine });
    const endpoints = Array.from({ length: 100 }, () => UdpEndpoint.bind({ hostname: LOCAL, engine }));
    for (const endpoint of endpoints) {
      endpoint.unref();
      sender.trySendTo(new Uint8Array(1), endpoint.addr);
    }
    spendTurn();
    let turns = 0;
    const settled: number[] = [];
    const receiving: Promise<unknown>[] = [];
    for (const endpoint of endpoints) {
      receiving.push(endpoint.recvFrom(new Uint8Array(1)).then(() => settled.push(turns)));
      const until = performance.now() + 0.5;
      while (performance.now() < until) { /* the program has other work */ }
      await new Promise((resolve) => setImmediate(resolve));
      turns++;
    }
    // The endpoints do not keep the program alive.
    const alive = setTimeout(() => endpoints.forEach((endpoint) => endpoint.close()), 20_000);
    await Promise.all(receiving);
    clearTimeout(alive);
    for (const endpoint of endpoints) endpoint.close();
    // 0.5 ms each; while it waits for nothing else it would be looked at every 10 ms.
    assertLess(settled[0] ?? Infinity, 8);
  },
);

engineTest("an endpoint that is busy on one side wakes who waits on the other, and who waits later", async (engine) => {
  using two = new Two(engine);
  const { a, b } = two;
  const p = new Uint8Array(1);
  for (let round = 0; round < 3; round++) {
    const waiting = b.recvFrom(p);
    for (let i = 0; i < 200; i++) await b.sendTo(new Uint8Array(1), a.addr);
    await a.sendTo(new Uint8Array([round]), b.addr);
    assertEquals((await deadline(waiting, 20_000)).data, new Uint8Array([round]));
    for (let i = 0; i < 200; i++) {
      await a.sendTo(new Uint8Array([i]), b.addr);
      assertEquals((await b.recvFrom(p)).data, new Uint8Array([i]));
    }
  }
});

for (const [loops, size] of [[140, 1], [9, 1024]] as const) {
  long(engineTest)(`${loops} loops that send ${size} at a time leave others their turn`, async (engine) => {
    using sink = UdpEndpoint.bind({ hostname: LOCAL, engine });
    using busy = UdpEndpoint.bind({ hostname: LOCAL, engine });
    using two = new Two(engine);
    let isOver = false;
    const sending = Array.from({ length: loops }, async () => {
      const batch = new DatagramBatch({ capacity: size, datagramSize: 1 });
      for (let i = 0; i < size; i++) batch.set(i, new Uint8Array(1), sink.addr);
      while (!isOver) await (size === 1 ? busy.sendTo(new Uint8Array(1), sink.addr) : busy.sendBatch(batch));
    });
    await delay(5);
    const p = new Uint8Array(1);
    const receiving = (async () => {
      for (let i = 0; i < 20; i++) {
        two.a.trySendTo(new Uint8Array([i]), two.b.addr);
        assertEquals((await two.b.recvFrom(p)).data, new Uint8Array([i]));
      }
    })();
    try {
      await deadline(receiving, 20_000);
    } finally {
      isOver = true;
      await Promise.all(sending);
    }
  });
}

engineTest("UdpEndpoint.recvFrom() tells of a datagram that was cut, and its size", async (engine) => {
  using two = new Two(engine);
  await two.a.sendTo(encode("hello world"), two.b.addr);
  await two.a.sendTo(encode("next"), two.b.addr);
  const p = new Uint8Array(5);
  const cut = await two.b.recvFrom(p);
  assertEquals([decode(cut.data), cut.size, cut.truncated], ["hello", 11, true]);
  assertEquals(cut.data.buffer, p.buffer);
  assertEquals(decode((await two.b.recvFrom(p)).data), "next");
  await two.a.sendTo(encode("nothing fits"), two.b.addr);
  const nothing = await two.b.recvFrom(new Uint8Array(0));
  assertEquals([nothing.data.length, nothing.size, nothing.truncated], [0, 12, true]);
});

engineTest("UdpEndpoint.recvFrom() with peek leaves the datagram there", async (engine) => {
  using two = new Two(engine);
  await two.a.sendTo(encode("look"), two.b.addr);
  const p = new Uint8Array(10);
  for (let i = 0; i < 3; i++) assertEquals(decode((await two.b.recvFrom(p, { peek: true })).data), "look");
  assertEquals(decode((await two.b.recvFrom(p)).data), "look");
  assertEquals(two.b.tryRecvFrom(p), undefined);
});

long(engineTest)("one endpoint serves 500 peers, each of which gets its own answers only", async (engine) => {
  using server = UdpEndpoint.bind({ hostname: LOCAL, engine });
  const serving = (async () => {
    const p = new Uint8Array(64);
    for (let i = 0; i < 1_500; i++) {
      const { data, address } = await server.recvFrom(p);
      await server.sendTo(data, address);
    }
  })();
  const clients = Array.from({ length: 500 }, () => UdpEndpoint.bind({ hostname: LOCAL, engine }));
  for (let round = 0; round < 3; round++) {
    for (let from = 0; from < clients.length; from += 50) {
      await Promise.all(
        clients.slice(from, from + 50).map(async (client, i) => {
          const text = `${round} ${from + i}`;
          await client.sendTo(encode(text), server.addr);
          const { data, address } = await client.recvFrom(new Uint8Array(64));
          assertEquals([decode(data), address], [text, server.addr]);
        }),
      );
    }
  }
  await serving;
  for (const client of clients) client.close();
});

engineTest("a cancelled recvFrom() loses no datagram", async (engine) => {
  using two = new Two(engine);
  const p = new Uint8Array(10);
  for (const pause of [0, 5]) {
    const abort = new AbortController();
    const cancelled = two.b.recvFrom(p, { signal: abort.signal }).catch((error) => error);
    const waiting = two.b.recvFrom(p);
    await delay(pause);
    abort.abort("enough");
    assertEquals(await cancelled, "enough");
    await two.a.sendTo(encode("kept"), two.b.addr);
    assertEquals(decode((await waiting).data), "kept");
  }
  const late = two.b.recvFrom(p, { signal: AbortSignal.timeout(10) }).catch((error) => error.name);
  assertEquals(await late, "TimeoutError");
  await two.a.sendTo(encode("later"), two.b.addr);
  assertEquals(decode((await two.b.recvFrom(p)).data), "later");
  assertEquals(await two.b.recvFrom(p, { signal: AbortSignal.abort("no") }).catch((error) => error), "no");
});

engineTest("UdpEndpoint.tryRecvFrom() leaves the datagram to a receive that waits", async (engine) => {
  using two = new Two(engine);
  for (const options of [{}, { signal: new AbortController().signal }]) {
    const receiving = two.b.recvFrom(new Uint8Array(9), options);
    assertEquals(two.b.tryRecvFrom(new Uint8Array(9)), undefined);
    assertEquals(two.b.tryRecvBatch(new DatagramBatch()), undefined);
    await two.a.sendTo(encode("first"), two.b.addr);
    assertEquals(decode((await receiving).data), "first");
  }
});

engineTest("UdpEndpoint.close() wakes receives, ends loops, and refuses all later calls", async (engine) => {
  using two = new Two(engine);
  const { a } = two;
  const waiting = [a.recvFrom(new Uint8Array(1)), a.recvFrom(new Uint8Array(1)), a.recvBatch(new DatagramBatch())];
  const loop = (async () => {
    for await (const _ of two.b) { /* none */ }
    return "ended";
  })();
  await delay(5);
  a.close();
  a.close();
  two.b.close();
  for (const call of waiting) await assertRejects(() => call as Promise<unknown>, Deno.errors.BadResource, "EBADF");
  assertEquals(await loop, "ended");
  const p = new Uint8Array(1);
  await assertRejects(() => a.recvFrom(p), Deno.errors.BadResource, "closed");
  await assertRejects(() => a.sendTo(p, { hostname: LOCAL, port: 9 }), Deno.errors.BadResource);
  for (
    const call of [
      () => a.tryRecvFrom(p),
      () => a.trySendTo(p, { hostname: LOCAL, port: 9 }),
      () => a.tryRecvBatch(new DatagramBatch()),
      () => a.setBroadcast(),
      () => a.setTtl(3),
      () => a.drops(),
      () => a.detach(),
    ]
  ) assertThrows(call, Deno.errors.BadResource);
});

engineTest(
  "receives settle in the order of the calls: at close(), at a peek, and where one's buffer was taken away",
  async (engine) => {
    using two = new Two(engine);
    const { a, b } = two;
    const settled: string[] = [];
    const note = (name: string, call: Promise<unknown>) =>
      call.then(() => settled.push(name), (error) => settled.push(`${name} ${error.name}`));
    const taken = async (calls: Promise<unknown>[]) => {
      await Promise.all(calls);
      return settled.splice(0);
    };

    const peeks = [
      note("peek", b.recvFrom(new Uint8Array(9), { peek: true })),
      note("recv", b.recvFrom(new Uint8Array(9))),
    ];
    await a.sendTo(new Uint8Array(3), b.addr);
    assertEquals(await taken(peeks), ["peek", "recv"]);

    const p = new Uint8Array(9);
    const calls = [note("1", b.recvFrom(p)), note("2", b.recvFrom(new Uint8Array(9)))];
    structuredClone(p.buffer, { transfer: [p.buffer] });
    await a.sendTo(new Uint8Array(3), b.addr);
    assertEquals(await taken(calls), ["1 TypeError", "2"]);

    const waiting = ["1", "2", "3"].map((name) => note(name, b.recvFrom(new Uint8Array(9))));
    await delay(5);
    b.close();
    assertEquals(await taken(waiting), ["1 BadResource", "2 BadResource", "3 BadResource"]);
  },
);

engineTest("a loop over an endpoint gives each datagram memory of its own", async (engine) => {
  using two = new Two(engine);
  for (const text of ["one", "two", "three"]) await two.a.sendTo(encode(text), two.b.addr);
  const received: Uint8Array[] = [];
  for await (const [data, address] of two.b) {
    assertEquals(address, two.a.addr);
    if (received.push(data) === 3) break;
  }
  assertEquals(received.map(decode), ["one", "two", "three"]);
});

engineTest("UdpEndpoint speaks IPv6, and takes IPv4 peers on ::", async (engine) => {
  using two = new Two(engine, "::1");
  await two.a.sendTo(encode("six"), two.b.addr);
  const { data, address } = await two.b.recvFrom(new Uint8Array(10));
  assertEquals([decode(data), address], ["six", two.a.addr]);

  if (Deno.build.os === "windows") return; // it takes IPv6 only
  using both = UdpEndpoint.bind({ hostname: "::", engine });
  using four = UdpEndpoint.bind({ hostname: LOCAL, engine });
  await four.sendTo(encode("four"), { hostname: LOCAL, port: both.addr.port });
  const mapped = await both.recvFrom(new Uint8Array(10));
  assertEquals(mapped.address, { transport: "udp", hostname: "::ffff:127.0.0.1", port: four.addr.port });
  await both.sendTo(mapped.data, mapped.address);
  assertEquals(decode((await four.recvFrom(new Uint8Array(10))).data), "four");
});

/** An address on loopback that nobody is bound to. */
function nobody(engine: Engine, hostname = LOCAL): Deno.NetAddr {
  using gone = UdpEndpoint.bind({ hostname, engine });
  return gone.addr;
}

for (const hostname of [LOCAL, "::1"]) {
  engineTest(`a peer that is not there (ICMP port unreachable) ends no loop: ${hostname}`, async (engine) => {
    using two = new Two(engine, hostname);
    const gone = nobody(engine, hostname);
    const p = new Uint8Array(10);
    for (let i = 0; i < 20; i++) {
      await two.b.sendTo(encode("anybody?"), gone);
      two.b.trySendTo(encode("anybody?"), gone);
      await two.a.sendTo(encode("here"), two.b.addr);
      assertEquals(decode((await two.b.recvFrom(p)).data), "here");
    }
  });
}

engineTest("peers that are not there keep a server of batches and a loop from nobody else", async (engine) => {
  using server = UdpEndpoint.bind({ hostname: LOCAL, engine });
  using client = UdpEndpoint.bind({ hostname: LOCAL, engine });
  const serving = (async () => {
    const batch = new DatagramBatch();
    for (let served = 0; served < 60;) {
      served += await server.recvBatch(batch);
      await server.sendBatch(batch);
    }
  })();
  for (let i = 0; i < 20; i++) {
    for (let gone = 0; gone < 2; gone++) {
      using other = UdpEndpoint.bind({ hostname: LOCAL, engine });
      await other.sendTo(encode("and away"), server.addr);
    }
    await client.sendTo(new Uint8Array([i]), server.addr);
    assertEquals((await client.recvFrom(new Uint8Array(10))).data, new Uint8Array([i]));
  }
  await serving;
});

engineTest("what a trySendTo() failed at is told to the next one, and to no receive", async (engine) => {
  if (engine === "runtime" && "listenDatagram" in Deno) return; // which lets broadcasts out
  using two = new Two(engine);
  const nowhere = { hostname: "255.255.255.255", port: 9 };
  if (engine === "native") {
    assertThrows(() => two.b.trySendTo(encode("x"), nowhere), Deno.errors.PermissionDenied);
    return;
  }
  assertEquals(two.b.trySendTo(encode("x"), nowhere), 1);
  // Sends keep their order, so the one before has failed.
  await two.b.sendTo(encode("here"), two.a.addr);
  await two.a.sendTo(encode("here"), two.b.addr);
  assertEquals(decode((await two.b.recvFrom(new Uint8Array(10))).data), "here");
  assertThrows(() => two.b.trySendTo(encode("x"), two.a.addr), Error, "to 255.255.255.255:9");
  assertEquals(two.b.trySendTo(encode("x"), two.a.addr), 1);
});

engineTest("UdpEndpoint reads an address once, so that it sends where it has checked", async (engine) => {
  using two = new Two(engine);
  let reads = 0;
  const to = {
    hostname: LOCAL,
    get port() {
      return reads++ === 0 ? two.b.addr.port : 70_000;
    },
  };
  assertEquals(await two.a.sendTo(encode("once"), to), 4);
  assertEquals(decode((await two.b.recvFrom(new Uint8Array(10))).data), "once");
});

engineTest(
  "an empty buffer whose memory is gone takes its datagram, and the next call the next one",
  async (engine) => {
    const gone: [Uint8Array, () => void][] = [];
    const transferred = new ArrayBuffer(10);
    gone.push([new Uint8Array(transferred, 4, 0), () => void transferred.transfer()]);
    const shrunk = new ArrayBuffer(10, { maxByteLength: 20 });
    gone.push([new Uint8Array(shrunk, 8, 0), () => shrunk.resize(4)]);
    for (const [p, lose] of gone) {
      using two = new Two(engine);
      const [first, second] = [two.b.recvFrom(p), two.b.recvFrom(new Uint8Array(20))];
      lose();
      await two.a.sendTo(encode("first"), two.b.addr);
      const { size, truncated } = await first;
      assertEquals([size, truncated], [5, true]);
      await two.a.sendTo(encode("second"), two.b.addr);
      assertEquals(decode((await second).data), "second");
    }
  },
);

engineTest("UdpEndpoint.sendTo() goes where it is told, not to the last sender", async (engine) => {
  using two = new Two(engine);
  using third = UdpEndpoint.bind({ hostname: LOCAL, engine });
  await two.a.sendTo(encode("hello"), two.b.addr);
  const { address } = await two.b.recvFrom(new Uint8Array(20));
  await two.b.sendTo(encode("to another"), third.addr);
  assertEquals(decode((await third.recvFrom(new Uint8Array(20))).data), "to another");
  await two.b.sendTo(encode("back"), address);
  assertEquals(decode((await two.a.recvFrom(new Uint8Array(20))).data), "back");
});

engineTest("Multiplexer tells of the datagram after the one that a waiting call has taken", async (engine) => {
  using two = new Two(engine);
  using mux = new Multiplexer(engine === "runtime" ? { backend: "runtime" } : {});
  mux.register(two.b, { readable: true });
  const first = two.b.recvFrom(new Uint8Array(9));
  const wait = mux.wait({ timeout: 5_000 });
  await two.a.sendTo(new Uint8Array(1), two.b.addr);
  assertEquals((await first).size, 1);
  await two.a.sendTo(new Uint8Array(2), two.b.addr);
  assertEquals((await wait).length, 1);
  // The native one may have been told of the first.
  if (two.b.tryRecvFrom(new Uint8Array(9)) === undefined) {
    assertEquals([engine, (await mux.wait({ timeout: 5_000 })).length], ["native", 1]);
  }
  mux.unregister(two.b);
});

engineTest("a buffer that was transferred away is refused, and no datagram is lost", async (engine) => {
  using two = new Two(engine);
  const p = new Uint8Array(10);
  const waiting = two.b.recvFrom(p);
  structuredClone(p.buffer, { transfer: [p.buffer] });
  await two.a.sendTo(encode("kept"), two.b.addr);
  await assertRejects(() => waiting, TypeError, "transferred");
  assertEquals(decode((await two.b.recvFrom(new Uint8Array(10))).data), "kept");
  await assertRejects(() => two.b.recvFrom(p), TypeError, "p must not be detached");
  await assertRejects(() => two.a.sendTo(p, two.b.addr), TypeError, "p must not be detached");
  assertThrows(() => two.a.trySendTo(p, two.b.addr), TypeError, "p must not be detached");

  const resizable = new ArrayBuffer(8, { maxByteLength: 16 });
  const resized = two.b.recvFrom(new Uint8Array(resizable));
  resizable.resize(2);
  await two.a.sendTo(encode("kept too"), two.b.addr);
  await assertRejects(() => resized, TypeError, "resized");
  assertEquals(decode((await two.b.recvFrom(new Uint8Array(10))).data), "kept too");
});

engineTest("UdpEndpoint.sendTo() looks names up", async (engine) => {
  using two = new Two(engine);
  await two.a.sendTo(encode("by name"), { hostname: "localhost", port: two.b.addr.port });
  assertEquals(decode((await two.b.recvFrom(new Uint8Array(10))).data), "by name");
  await assertRejects(() => two.a.sendTo(encode("x"), { hostname: "nosuch.invalid", port: 9 }), Error);
});

engineTest("UdpEndpoint.trySendTo() takes no names, which would have to be looked up", (engine) => {
  using endpoint = UdpEndpoint.bind({ hostname: LOCAL, engine });
  const why = 'hostname must be an IP address here, received "localhost"';
  assertThrows(() => endpoint.trySendTo(encode("x"), { hostname: "localhost", port: 9 }), TypeError, why);
});

engineTest(
  "UdpEndpoint.close() ends a sendTo() that looks a name up, and a signal keeps nothing of one",
  async (engine) => {
    using two = new Two(engine);
    const { signal } = new AbortController();
    let listeners = 0;
    const { addEventListener, removeEventListener } = signal;
    signal.addEventListener = (...args: unknown[]) => (listeners++, addEventListener.apply(signal, args as never));
    signal.removeEventListener = (
      ...args: unknown[]
    ) => (listeners--, removeEventListener.apply(signal, args as never));
    await two.b.sendTo(encode("x"), { hostname: "localhost", port: two.a.addr.port }, { signal });
    assertEquals(listeners, 0);

    const sends = ["localhost", "localhost", "nosuch.invalid"].map((hostname) =>
      two.a.sendTo(encode("x"), { hostname, port: 9 })
    );
    two.a.close();
    for (const result of await Promise.allSettled(sends)) {
      // Deno.listenDatagram may have sent it all the same.
      if (result.status === "fulfilled") assertEquals([engine, "listenDatagram" in Deno], ["runtime", true]);
      else assertEquals([result.reason.name, result.reason.code], ["BadResource", "EBADF"]);
    }
  },
);

engineTest(
  "UdpEndpoint.trySendTo() has no room without end, and a multiplexer tells when it has again",
  async (engine) => {
    if (engine === "native") return; // whose bound is the kernel's send buffer
    using two = new Two(engine);
    using mux = new Multiplexer({ backend: "runtime" });
    let sent = 0;
    while (sent < 100_000 && two.a.trySendTo(new Uint8Array(9), two.b.addr) !== undefined) sent++;
    assertEquals(sent, 1_024);
    const batch = new DatagramBatch();
    batch.set(0, new Uint8Array(9), two.b.addr);
    assertEquals(two.a.trySendBatch(batch), undefined);
    mux.register(two.a, { writable: true });
    const [event] = await mux.wait({ timeout: 5_000 });
    assertEquals([event?.source, event?.writable], [two.a, true]);
    assertEquals(two.a.trySendTo(new Uint8Array(9), two.b.addr), 9);
    await two.a.sendTo(new Uint8Array(9), two.b.addr);
  },
);

nativeTest("UdpEndpoint.trySendTo() takes no names, and no zones of no interface", (engine) => {
  using two = new Two(engine, "::1");
  const p = new Uint8Array(1);
  const name = { hostname: "localhost", port: 9 };
  assertThrows(() => two.a.trySendTo(p, name), TypeError, 'must be an IP address here, received "localhost"');
  const zone = { hostname: "fe80::1%nosuch0", port: 9 };
  const why = `to [fe80::1%nosuch0]:9: no such device (ENODEV)`;
  assertThrows(() => two.a.trySendTo(p, zone), Error, why);
});

nativeTest(
  "UdpEndpoint.sendTo() takes of a name what its family can reach, and nothing once closed",
  async (engine) => {
    using two = new Two(engine);
    const p = new Uint8Array(1);
    {
      using _ = resolvedTo("::1", LOCAL);
      await two.a.sendTo(encode("by name"), { hostname: "both.test", port: two.b.addr.port });
      assertEquals(decode((await two.b.recvFrom(new Uint8Array(10))).data), "by name");
    }
    const six = { hostname: "six.test", port: 9 };
    using _ = resolvedTo("::1");
    const why = `Cannot send on UDP endpoint ${LOCAL}:${two.a.addr.port} to six.test:9`;
    await assertRejects(() => two.a.sendTo(p, six), Error, `${why}: address family not supported (EAFNOSUPPORT)`);
    // Closed when the answer is there already.
    using __ = replaced(dns, "lookup", (_: string, __: object, done: (error: null, found: object[]) => void) => {
      done(null, [{ address: LOCAL, family: 4 }]);
      two.a.close();
    });
    await assertRejects(() => two.a.sendTo(p, six), Deno.errors.BadResource, why);
  },
);

engineTest("UdpEndpoint.bind() on a port in use says so", (engine) => {
  using taken = UdpEndpoint.bind({ hostname: LOCAL, engine });
  const { port } = taken.addr;
  assertThrows(
    () => UdpEndpoint.bind({ hostname: LOCAL, port, engine }),
    Deno.errors.AddrInUse,
    `Cannot bind UDP endpoint to 127.0.0.1:${port}: address already in use (EADDRINUSE)`,
  );
});

engineTest("multicast reaches those who have joined, until they leave", async (engine) => {
  const group = "239.255.77.7";
  if (engine === "runtime" && "listenDatagram" in Deno) {
    using endpoint = UdpEndpoint.bind({ hostname: "0.0.0.0", engine });
    const wayOut = "on Deno.listenDatagram: run without --unstable-net, or with --allow-ffi";
    assertThrows(() => endpoint.joinMulticast({ group }), Deno.errors.NotSupported, wayOut);
    return;
  }
  using sender = UdpEndpoint.bind({ hostname: "0.0.0.0", engine });
  using receiver = UdpEndpoint.bind({ hostname: "0.0.0.0", reuseAddress: true, engine });
  receiver.joinMulticast({ group, interface: LOCAL });
  sender.setMulticastInterface(LOCAL);
  sender.setMulticastTtl(1);
  sender.setMulticastLoopback(true);
  const to = { hostname: group, port: receiver.addr.port };
  await sender.sendTo(encode("all"), to);
  assertEquals(decode((await receiver.recvFrom(new Uint8Array(10))).data), "all");
  receiver.leaveMulticast({ group, interface: LOCAL });
  await sender.sendTo(encode("nobody"), to);
  const late = await receiver.recvFrom(new Uint8Array(10), { signal: AbortSignal.timeout(30) }).catch((e) => e.name);
  assertEquals(late, "TimeoutError");
  assertThrows(() => receiver.joinMulticast({ group: "127.0.0.1" }), TypeError, "multicast address");
});

engineTest("multicast over IPv6 takes the interface by name, or as the zone of the group", (engine) => {
  if (engine === "runtime" && "listenDatagram" in Deno) return; // see above
  const group = "ff15::c10c";
  const name = Deno.build.os === "linux" ? "lo" : "lo0";
  using receiver = UdpEndpoint.bind({ hostname: "::", reuseAddress: true, engine });
  receiver.setMulticastInterface(name);
  receiver.joinMulticast({ group, interface: name });
  receiver.leaveMulticast({ group, interface: name });
  receiver.joinMulticast({ group: `ff12::c10c%${name}` });
  receiver.leaveMulticast({ group: "ff12::c10c", interface: name });
}, Deno.build.os === "windows"); // which has other names for it

engineTest("multicast over IPv4 takes the interface by address, and by name on the native engine", (engine) => {
  if (engine === "runtime" && "listenDatagram" in Deno) return; // see above
  using receiver = UdpEndpoint.bind({ engine });
  const byName = () => receiver.joinMulticast({ group: "239.255.77.8", interface: "lo" });
  if (engine === "native") byName();
  else assertThrows(byName, Deno.errors.NotSupported, "give one of its addresses");
  receiver.joinMulticast({ group: "239.255.77.9", interface: LOCAL });
});

engineTest(
  "multicast without an interface takes the one that the kernel chooses, and none that is not there",
  (engine) => {
    if (engine === "runtime" && "listenDatagram" in Deno) return; // see above
    using endpoint = UdpEndpoint.bind({ hostname: "0.0.0.0", engine });
    try {
      endpoint.joinMulticast({ group: "239.255.77.10" });
      endpoint.leaveMulticast({ group: "239.255.77.10" });
    } catch (error) {
      // Without a route to the group.
      assertEquals((error as Error & { code?: string }).code, "ENODEV");
    }
    if (engine === "runtime") return; // which takes no names
    const nowhere = { group: "239.255.77.10", interface: "nosuch0" };
    assertThrows(() => endpoint.joinMulticast(nowhere), Error, "Cannot join 239.255.77.10 with UDP endpoint");
    assertThrows(() => endpoint.setMulticastInterface("nosuch0"), Error, "no such device (ENODEV)");
  },
);

engineTest("broadcast needs to be allowed", async (engine) => {
  using receiver = UdpEndpoint.bind({ hostname: "0.0.0.0", engine });
  using sender = UdpEndpoint.bind({ hostname: LOCAL, engine });
  const to = { hostname: "127.255.255.255", port: receiver.addr.port };
  // node:dgram does not say why.
  const ErrorClass = engine === "native" ? Deno.errors.PermissionDenied : Error;
  if (!(engine === "runtime" && "listenDatagram" in Deno)) { // which lets broadcasts out always
    await assertRejects(() => sender.sendTo(encode("x"), to), ErrorClass);
  }
  sender.setBroadcast();
  await sender.sendTo(encode("all"), to);
  assertEquals(decode((await receiver.recvFrom(new Uint8Array(10))).data), "all");
}, Deno.build.os !== "linux"); // elsewhere the loopback interface has no broadcast address

engineTest("wrong types and numbers are refused before any system call", async (engine) => {
  using two = new Two(engine);
  // deno-lint-ignore no-explicit-any
  const any = (value: unknown) => value as any;
  for (const options of [{ port: 65_536 }, { port: -1 }, { port: 1.5 }]) {
    assertThrows(() => UdpEndpoint.bind({ ...options, engine }), RangeError);
  }
  for (const options of [{ port: "1" }, { hostname: 5 }, { broadcast: 1 }, { engine: "warp" }]) {
    assertThrows(() => UdpEndpoint.bind(any({ engine, ...options })), TypeError);
  }
  const p = new Uint8Array(1);
  for (const to of [undefined, null, {}, { hostname: LOCAL }, { port: 5 }, { hostname: "a b", port: 5 }]) {
    await assertRejects(() => two.a.sendTo(p, any(to)), TypeError);
  }
  await assertRejects(() => two.a.sendTo(p, { hostname: LOCAL, port: 0 }), RangeError);
  await assertRejects(() => two.a.sendTo(any("text"), two.b.addr), TypeError);
  await assertRejects(() => two.a.recvFrom(any([])), TypeError);
  await assertRejects(() => two.a.recvBatch(any({})), TypeError);
  await assertRejects(() => two.a.sendBatch(new DatagramBatch(), { end: 1 }), RangeError);
  await assertRejects(() => two.a.send(any("text")), TypeError, "p must be");
  const Endpoint = UdpEndpoint as unknown as new () => UdpEndpoint;
  assertThrows(() => new Endpoint(), TypeError, "Illegal constructor: use UdpEndpoint.bind");
});

engineTest("multicast options of a wrong kind are refused, and console.log() shows where an endpoint is", (engine) => {
  using endpoint = UdpEndpoint.bind({ hostname: LOCAL, engine });
  const wrong: [unknown, string][] = [
    [{ group: 1 }, "group must be a multicast address, received 1"],
    [{ group: "10.0.0.1" }, 'group must be a multicast address, received "10.0.0.1"'],
    [{ group: "239.1.1.1", source: "::1" }, 'source must be an IPv4 address, received "::1"'],
    [{ group: "ff02::1", source: "10.0.0.1" }, 'source must be an IPv6 address, received "10.0.0.1"'],
    [{ group: "239.1.1.1", interface: "" }, 'interface must be the name of an interface, received ""'],
  ];
  for (const [options, message] of wrong) {
    assertThrows(() => endpoint.joinMulticast(options as { group: string }), TypeError, message);
    assertThrows(() => endpoint.leaveMulticast(options as { group: string }), TypeError, message);
  }
  assertThrows(
    () => endpoint.setMulticastInterface(""),
    TypeError,
    'name must be the name of an interface, received ""',
  );
  assertMatch(Deno.inspect(endpoint), new RegExp(`UdpEndpoint .*port: ${endpoint.addr.port}.*"${engine}"`, "s"));
});

engineTest("Multiplexer tells of a datagram", async (engine) => {
  using two = new Two(engine);
  using mux = new Multiplexer({ backend: engine === "runtime" ? "runtime" : "epoll" });
  mux.register(two.b, { readable: true });
  assertEquals((await mux.wait({ timeout: 10 })).length, 0);
  await two.a.sendTo(encode("ready"), two.b.addr);
  const [event] = await mux.wait({ timeout: 5_000 });
  assertEquals(event?.source, two.b);
  assertEquals(decode(two.b.tryRecvFrom(new Uint8Array(10))?.data ?? new Uint8Array(0)), "ready");
  assertEquals(two.b.tryRecvFrom(new Uint8Array(10)), undefined);
});

nativeTest("UdpEndpoint.connect() talks to one peer, and hears that nobody listens", async (engine) => {
  using two = new Two(engine);
  using other = UdpEndpoint.bind({ hostname: LOCAL, engine });
  two.a.connect(two.b.addr);
  assertEquals(two.a.peer, two.b.addr);
  await other.sendTo(encode("stranger"), two.a.addr);
  await two.a.send(encode("hello"));
  const p = new Uint8Array(10);
  const { data, address } = await two.b.recvFrom(p);
  assertEquals(decode(data), "hello");
  await two.b.sendTo(encode("peer"), address);
  assertEquals(await two.a.recv(p), 4);
  assertEquals(decode(p.subarray(0, 4)), "peer");
  two.b.close();
  await two.a.send(encode("gone?"));
  const refused = `from ${LOCAL}:${two.b.addr.port}: connection refused (ECONNREFUSED)`;
  await assertRejects(() => two.a.recvFrom(p), Deno.errors.ConnectionRefused, refused);
  two.a.disconnect();
  assertEquals([two.a.peer, two.a.addr.hostname], [undefined, LOCAL]);
  await assertRejects(() => two.a.send(p), Error, "EDESTADDRREQ");
  await other.sendTo(encode("again"), two.a.addr);
  assertEquals(decode((await two.a.recvFrom(p)).data), "again");
});

nativeTest(
  "what a connected endpoint was not told yet (ICMP) is not told to who is about another peer",
  async (engine) => {
    using two = new Two(engine);
    for (const then of ["disconnect", "connect"] as const) {
      two.a.connect(nobody(engine));
      await two.a.send(encode("anybody?"));
      if (then === "connect") two.a.connect(two.b.addr);
      else two.a.disconnect();
      await two.a.sendTo(encode(then), two.b.addr);
      assertEquals(decode((await two.b.recvFrom(new Uint8Array(10))).data), then);
    }
  },
);

nativeTest("UdpEndpoint.connect() takes of a name what its family can reach, and disconnect() keeps port", (engine) => {
  using four = UdpEndpoint.bind({ hostname: "0.0.0.0", engine });
  const { addr } = four;
  four.connect({ hostname: "localhost", port: 9 });
  assertEquals([four.peer?.hostname, four.addr.port], [LOCAL, addr.port]);
  four.disconnect();
  four.disconnect();
  assertEquals(four.addr, addr);
  using six = UdpEndpoint.bind({ hostname: "::", engine });
  six.connect({ hostname: LOCAL, port: 9 });
  assertEquals(six.peer?.hostname, LOCAL);
});

nativeTest("what is set for an IPv6 endpoint holds for its IPv4 peers, too", (engine) => {
  using both = UdpEndpoint.bind({ hostname: "::", engine });
  both.setTtl(7);
  both.setMulticastTtl(8);
  both.setMulticastLoopback(false);
  const options = ["IP_TTL", "IPV6_UNICAST_HOPS", "IP_MULTICAST_TTL", "IPV6_MULTICAST_HOPS"] as const;
  assertEquals(options.map((option) => both.getOption(option)), [7, 7, 8, 8]);
  assertEquals([both.getOption("IP_MULTICAST_LOOP"), both.getOption("IPV6_MULTICAST_LOOP")], [0, 0]);
  both.joinMulticast({ group: "239.255.77.7", interface: "lo" });
  both.setMulticastInterface("lo");
});

engineTest("known peers are the same object, and cost no new one", async (engine) => {
  for (const hostname of [LOCAL, "::1"]) {
    using two = new Two(engine, hostname);
    using other = UdpEndpoint.bind({ hostname, engine });
    const p = new Uint8Array(10);
    const seen = new Set<unknown>();
    for (let i = 0; i < 10; i++) {
      const sender = i % 2 === 0 ? two.a : other;
      await sender.sendTo(encode("x"), two.b.addr);
      const { address } = await two.b.recvFrom(p);
      assertEquals(address, sender.addr);
      seen.add(address);
    }
    assertEquals(seen.size, 2);
  }
});

nativeTest("a flood faster than the reader is dropped by the kernel, and the numbers add up", async (engine) => {
  using sender = UdpEndpoint.bind({ hostname: LOCAL, engine });
  using receiver = UdpEndpoint.bind({ hostname: LOCAL, receiveBufferSize: 100_000, engine });
  const batch = new DatagramBatch();
  for (let i = 0; i < 64; i++) batch.set(i, new Uint8Array(1_000), receiver.addr);
  const into = new DatagramBatch({ capacity: 16 });
  const [rounds, rss] = [400, Deno.memoryUsage().rss];
  let received = 0;
  for (let round = 0; round < rounds; round++) {
    assertEquals(await sender.sendBatch(batch), 64);
    received += await receiver.recvBatch(into);
  }
  for (let n = receiver.tryRecvBatch(into); n !== undefined; n = receiver.tryRecvBatch(into)) received += n;
  assertGreater(received, rounds);
  assertGreater(receiver.drops(), rounds);
  assertEquals(received + receiver.drops(), rounds * 64);
  // 25 MB went through.
  assertLess(Deno.memoryUsage().rss - rss, 16 * 1024 * 1024);
});

nativeTest("UdpEndpoint.fromFd() takes over what detach() gave, and nothing else", async (engine) => {
  using two = new Two(engine);
  await two.a.sendTo(encode("unread"), two.b.addr);
  const { addr, inode } = two.b;
  using again = UdpEndpoint.fromFd(two.b.detach());
  assertEquals([again.addr, again.inode], [addr, inode]);
  assertEquals(decode((await again.recvFrom(new Uint8Array(10))).data), "unread");
  assertThrows(() => UdpEndpoint.fromFd(0), TypeError, "not a UDP socket");
  assertThrows(() => UdpEndpoint.fromFd(19_999), Deno.errors.BadResource);
});

/** Sends lines to a UDP port with a real client, and returns what came back. */
async function ask(command: string, args: string[], text: string): Promise<string> {
  const child = new Deno.Command(command, { args, stdin: "piped", stdout: "piped" }).spawn();
  const writer = child.stdin.getWriter();
  await writer.write(encode(text));
  const reader = child.stdout.getReader();
  const { value } = await reader.read();
  await writer.close();
  child.kill("SIGTERM");
  await reader.cancel();
  await child.status;
  return decode(value ?? new Uint8Array(0));
}

for (const engine of ENGINES) {
  const permissions = engine === "native" ? ["--allow-net", "--allow-ffi"] : ["--allow-net"];
  const start = () => ServerProcess.start([...permissions, "examples/udp_echo.ts", "--port", "0", "--engine", engine]);

  clientTest(["nc.openbsd", "socat"], `[${engine}] udp_echo example answers nc and socat`, async () => {
    await using server = await start();
    assertEquals(await ask("nc.openbsd", ["-u", LOCAL, String(server.port)], "hello nc\n"), "hello nc\n");
    assertEquals(await ask("socat", ["-", `UDP:${LOCAL}:${server.port}`], "hello socat\n"), "hello socat\n");
    await eventually(() => server.stdout.join("").includes("try it: nc -u") ? true : undefined);
    assertEquals(await server.stop("SIGTERM"), 0);
  });
}

nativeTest("a wait that the kernel refuses after a busy time rejects, and the next one may go on", async (engine) => {
  using two = new Two(engine);
  const { a, b } = two;
  const p = new Uint8Array(1);
  const waited = b.recvFrom(p);
  await a.sendTo(p, b.addr);
  await waited;
  for (let i = 0; i < 200; i++) {
    await a.sendTo(p, b.addr);
    await b.recvFrom(p);
  }
  // Its number is taken in the table of what is watched.
  using other = UdpEndpoint.fromFd(b.fd as number);
  const waiting = other.recvFrom(new Uint8Array(1));
  await eventually(() => isWatched(b.fd) ? true : undefined);
  await assertRejects(() => b.recvFrom(p), Deno.errors.AlreadyExists, "(EEXIST)");
  await a.sendTo(p, b.addr);
  await waiting;
  other.detach();
  const later = b.recvFrom(p);
  await a.sendTo(p, b.addr);
  assertEquals((await later).size, 1);
});

nativeTest("a registration that the kernel refuses rejects the receive, and disturbs no other", async (engine) => {
  using first = UdpEndpoint.bind({ hostname: LOCAL, engine });
  const waiting = first.recvFrom(new Uint8Array(9));
  const second = UdpEndpoint.fromFd(first.fd as number); // a second owner: a mistake, but not one that may spread
  await assertRejects(() => second.recvFrom(new Uint8Array(1)), Deno.errors.AlreadyExists, "(EEXIST)");
  second.detach();
  await first.sendTo(encode("fine"), first.addr);
  assertEquals((await waiting).size, 4);
});
