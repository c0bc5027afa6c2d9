/** DatagramBatch, and batches sent and received: both engines. */

import { DatagramBatch, UdpEndpoint } from "@c10k/sockets/udp";
import { assert, assertEquals, assertRejects, assertThrows } from "@std/assert";
import fc from "fast-check";
import { setImmediate } from "node:timers";
import { namespaceTest } from "./_namespace.ts";
import { kernel } from "./_kernel.ts";
import { LOCAL, native, nativeTest, Two } from "./_udp.ts";
import { decode, encode, engineTest, PATIENCE, randomBytes, sized, spendTurn } from "./_util.ts";
import {
  CONTROL,
  CONTROL_LENGTH,
  IOVEC,
  IOVEC_COUNT,
  IOVEC_LENGTH,
  NAME,
  NAME_LENGTH,
  pointerTo,
  setPointer,
} from "../internal/msghdr.ts";
import { encodeSockaddr } from "../internal/sockaddr.ts";
import { transmitMany } from "../internal/syscall.ts";
import { SOL_UDP, UDP_SEGMENT } from "../udp/offload_batch.ts";

engineTest("DatagramBatch carries many datagrams to many peers", async (engine) => {
  using sender = UdpEndpoint.bind({ hostname: LOCAL, engine });
  const receivers = Array.from({ length: 4 }, () => UdpEndpoint.bind({ hostname: LOCAL, engine }));
  const batch = new DatagramBatch({ capacity: 100, datagramSize: 100 });
  for (let i = 0; i < 100; i++) batch.set(i, new Uint8Array(i).fill(i), (receivers[i % 4] as UdpEndpoint).addr);
  assertEquals([batch.length, batch.capacity], [100, 100]);
  assertEquals(await sender.sendBatch(batch), 100);
  for (const [which, receiver] of receivers.entries()) {
    const received = new DatagramBatch({ capacity: 30, datagramSize: 50 });
    for (let i = which; i < 100;) {
      const n = await receiver.recvBatch(received);
      for (let at = 0; at < n; at++, i += 4) {
        assertEquals([received.size(at), received.truncated(at)], [i, i > 50]);
        assertEquals(received.data(at), new Uint8Array(Math.min(i, 50)).fill(i));
        assertEquals(received.address(at), sender.addr);
      }
    }
    receiver.close();
  }
});

engineTest("what a batch has received can be sent back as it stands", async (engine) => {
  using two = new Two(engine);
  const batch = new DatagramBatch();
  for (let i = 0; i < 20; i++) batch.set(i, encode(`message ${i}`), two.b.addr);
  await two.a.sendBatch(batch, { end: 20 });
  const echo = new DatagramBatch({ datagramSize: 64 });
  for (let n = 0; n < 20;) {
    n += await two.b.recvBatch(echo);
    await two.b.sendBatch(echo);
  }
  const p = new Uint8Array(64);
  for (let i = 0; i < 20; i++) assertEquals(decode((await two.a.recvFrom(p)).data), `message ${i}`);
});

engineTest("the event loop has its turn while large batches come and go", async (engine) => {
  using two = new Two(engine);
  const batch = new DatagramBatch({ capacity: 128, datagramSize: 1 });
  for (let i = 0; i < 128; i++) batch.set(i, new Uint8Array(1), two.b.addr);
  const received = new DatagramBatch({ capacity: 128, datagramSize: 1 });
  let since = 0;
  let most = 0;
  let isOver = false;
  const count = () => {
    since = 0;
    if (!isOver) setImmediate(count);
  };
  setImmediate(count);
  // Of single datagrams 128 calls are made between two turns, which would be 64 rounds of batches.
  for (let round = 0; round < 128; round++) {
    await two.a.sendBatch(batch);
    for (let n = 0; n < 128;) n += await two.b.recvBatch(received);
    most = Math.max(most, ++since);
  }
  isOver = true;
  assert(most <= 16, `${most} rounds without a turn`);
});

Deno.test("DatagramBatch refuses what does not fit", () => {
  const batch = new DatagramBatch({ capacity: 2, datagramSize: 4 });
  const zone = { hostname: "fe80::1%nosuch0", port: 9 };
  if (native) assertThrows(() => batch.set(0, new Uint8Array(1), zone), TypeError, "zone of no interface");
  const to = { hostname: LOCAL, port: 9 };
  assertThrows(() => batch.set(1, new Uint8Array(1), to), RangeError); // 0 comes first
  assertThrows(() => batch.set(0, new Uint8Array(5), to), RangeError, "at most 4 bytes");
  assertThrows(() => batch.set(0, new Uint8Array(1), { hostname: "localhost", port: 9 }), TypeError, "IP address");
  assertThrows(() => batch.data(0), RangeError);
  batch.set(0, new Uint8Array(4), to);
  batch.set(1, new Uint8Array(4), to);
  assertThrows(() => batch.set(2, new Uint8Array(4), to), RangeError);
  batch.set(1, new Uint8Array(4));
  assertThrows(() => batch.address(1), TypeError, "Datagram 1 has no address");
  for (const options of [{ capacity: 0 }, { capacity: 1025 }, { datagramSize: 0 }, { datagramSize: 65_536 }]) {
    assertThrows(() => new DatagramBatch(options), RangeError);
  }
});

/** A datagram of the model: how large, to which of the receivers, and how far into the random bytes. */
const datagrams = fc.array(
  fc.record({
    size: fc.oneof(fc.nat(1_400), fc.constantFrom(0, 1, 500, 500, 500)),
    to: fc.nat(2),
    from: fc.nat(1_000),
  }),
  { minLength: 1, maxLength: 60 },
);

engineTest("random batches arrive as they were sent, to whom they were sent", async (engine) => {
  const bytes = randomBytes(3_000);
  const shape = fc.record({
    capacity: fc.integer({ min: 1, max: 70 }),
    datagramSize: fc.integer({ min: 1, max: 1_500 }),
    gso: fc.boolean(),
    gro: fc.boolean(),
    hostname: fc.constantFrom(LOCAL, "::1"),
  });
  await fc.assert(
    fc.asyncProperty(datagrams, shape, async (list, { capacity, datagramSize, gso, gro, hostname }) => {
      using sender = UdpEndpoint.bind({ hostname, engine });
      const receivers = [0, 1, 2].map(() => UdpEndpoint.bind({ hostname, engine }));
      try {
        const into = new DatagramBatch({ capacity, datagramSize, gro });
        // An endpoint of node:dgram is told of datagrams from its first receive on; GRO is set by it.
        for (const receiver of receivers) assertEquals(receiver.tryRecvBatch(into), undefined);
        const out = new DatagramBatch({ capacity: 60, datagramSize: 1_400, gso });
        const payload = ({ from, size }: { from: number; size: number }) => bytes.subarray(from, from + size);
        for (const [i, datagram] of list.entries()) {
          out.set(i, payload(datagram), (receivers[datagram.to] as UdpEndpoint).addr);
        }
        assertEquals(await sender.sendBatch(out), list.length);
        for (const [to, receiver] of receivers.entries()) {
          const expected = list.filter((datagram) => datagram.to === to).map(payload);
          for (let at = 0; at < expected.length;) {
            const n = await receiver.recvBatch(into);
            assertEquals(into.length, n);
            assert(n >= 1 && at + n <= expected.length && n <= capacity * (gro ? 64 : 1));
            for (let i = 0; i < n; i++, at++) {
              const sent = expected[at] as Uint8Array;
              const room = gro && engine === "native" ? 65_536 : datagramSize;
              assertEquals(into.data(i), new Uint8Array(sent.subarray(0, room)));
              assertEquals([into.size(i), into.truncated(i)], [sent.length, sent.length > room]);
              assertEquals(into.address(i), sender.addr);
            }
          }
          assertEquals(receiver.tryRecvBatch(into), undefined);
        }
      } finally {
        for (const receiver of receivers) receiver.close();
      }
    }),
    { numRuns: sized(30, 60) },
  );
});

nativeTest("the smallest batches stay where they are", async (engine) => {
  // Arrays of at most 64 bytes lie in V8's own heap, which moves them.
  using two = new Two(engine);
  const small = Array.from({ length: 200 }, () => new DatagramBatch({ capacity: 1, datagramSize: 8 }));
  const sent = new DatagramBatch({ capacity: 1, datagramSize: 8 });
  for (const [i, batch] of small.entries()) {
    sent.length = 0;
    sent.set(0, new Uint8Array(8).fill(i), two.b.addr);
    await two.a.sendBatch(sent);
    await two.b.recvBatch(batch);
    const garbage = Array.from({ length: 2_000 }, () => new Uint8Array(32));
    assertEquals(garbage.length, 2_000);
  }
  for (const [i, batch] of small.entries()) {
    assertEquals(batch.data(0), new Uint8Array(8).fill(i));
    assertEquals(batch.address(0), two.a.addr);
  }
});

engineTest("a batch whose memory was transferred away is refused, and no datagram is lost", async (engine) => {
  using two = new Two(engine);
  const batch = new DatagramBatch();
  batch.set(0, encode("x"), two.b.addr);
  structuredClone(batch.data(0).buffer, { transfer: [batch.data(0).buffer] });
  await assertRejects(() => two.a.sendBatch(batch), TypeError, "transferred");
  assertThrows(() => two.b.tryRecvBatch(batch), TypeError, "transferred");
  const { signal } = new AbortController();
  await assertRejects(() => two.b.recvBatch(batch, { signal }), TypeError, "transferred");
  const waiting = two.b.recvBatch(new DatagramBatch());
  await two.a.sendTo(encode("kept"), two.b.addr);
  assertEquals(await waiting, 1);
});

nativeTest("a batch with gso goes down as few messages, and one with gro comes up as few", async (engine) => {
  using two = new Two(engine);
  const into = new DatagramBatch({ capacity: 4, gro: true });
  assertEquals(two.b.tryRecvBatch(into), undefined);
  const out = new DatagramBatch({ capacity: 200, gso: true });
  for (let i = 0; i < 200; i++) out.set(i, new Uint8Array(100).fill(i), two.b.addr);
  assertEquals(two.a.trySendBatch(out), 200);
  // Four messages of 64, 64, 64 and 8 datagrams.
  assertEquals(two.b.tryRecvBatch(into), 200);
  assertEquals([into.capacity, into.length], [4, 200]);
  for (let i = 0; i < 200; i++) assertEquals(into.data(i), new Uint8Array(100).fill(i));

  // What came together goes back together.
  const back = new DatagramBatch({ capacity: 4, gro: true });
  assertEquals(two.a.tryRecvBatch(back), undefined);
  assertEquals(await two.b.sendBatch(into), 200);
  let returned = 0;
  while (returned < 200) {
    const n = await two.a.recvBatch(back);
    for (let i = 0; i < n; i++) assertEquals(back.data(i)[0], returned++);
  }
});

nativeTest("an endpoint that has received with gro refuses what would get many datagrams as one", async (engine) => {
  using two = new Two(engine);
  two.b.tryRecvBatch(new DatagramBatch({ gro: true }));
  await two.a.sendTo(encode("kept"), two.b.addr);
  const p = new Uint8Array(10);
  const message = "UDP_GRO is set, so that only a DatagramBatch with gro can receive";
  assertThrows(() => two.b.tryRecvFrom(p), Deno.errors.NotSupported, message);
  await assertRejects(() => two.b.recvFrom(p), Deno.errors.NotSupported, message);
  await assertRejects(() => two.b.recvBatch(new DatagramBatch()), Deno.errors.NotSupported, message);
  const loop = async () => {
    for await (const [data] of two.b) decode(data);
  };
  await assertRejects(loop, Deno.errors.NotSupported, message);
  using again = UdpEndpoint.fromFd(two.b.detach());
  assertThrows(() => again.tryRecvFrom(p), Deno.errors.NotSupported, message);
  const batch = new DatagramBatch({ gro: true });
  assertEquals(again.tryRecvBatch(batch), 1);
  assertEquals(decode(batch.data(0)), "kept");
});

nativeTest("a batch with gro tells of a descriptor that was closed behind the library's back", (engine) => {
  const endpoint = UdpEndpoint.bind({ hostname: LOCAL, engine });
  kernel.close(endpoint.fd as number);
  try {
    const receive = () => endpoint.tryRecvBatch(new DatagramBatch({ gro: true }));
    assertThrows(receive, Deno.errors.BadResource, "Cannot receive on UDP endpoint");
  } finally {
    endpoint.detach();
  }
});

nativeTest("a batch with gso keeps apart what goes to IPv4 and to IPv6", async (engine) => {
  using sender = UdpEndpoint.bind({ hostname: "::", engine });
  using four = UdpEndpoint.bind({ hostname: LOCAL, engine });
  using six = UdpEndpoint.bind({ hostname: "::1", engine });
  const batch = new DatagramBatch({ gso: true });
  for (let i = 0; i < 8; i++) batch.set(i, new Uint8Array(9).fill(i), (i % 4 < 2 ? four : six).addr);
  assertEquals(await sender.sendBatch(batch), 8);
  const p = new Uint8Array(100);
  for (let i = 0; i < 8; i++) {
    assertEquals((await (i % 4 < 2 ? four : six).recvFrom(p)).data, new Uint8Array(9).fill(i));
  }
});

namespaceTest("datagrams with gso cross a cable, also those that are larger than its packets", async ({ run }) => {
  const script = `
    ip netns exec peer "$@" peer & peer=$!
    "$@" here; code=$?
    wait $peer; exit $code`;
  const source = `
    import { DatagramBatch, UdpEndpoint } from "@c10k/sockets/udp";
    const isPeer = Deno.args[0] === "peer";
    const endpoint = UdpEndpoint.bind({ hostname: isPeer ? "10.9.0.2" : "10.9.0.1", port: 7010 });
    const signal = AbortSignal.timeout(${PATIENCE});
    const batch = new DatagramBatch({ datagramSize: 4_000, gso: true, gro: true });
    if (isPeer) {
      while (true) {
        const n = await endpoint.recvBatch(batch, { signal });
        const sizes = Array.from({ length: n }, (_, i) => batch.size(i));
        await endpoint.sendBatch(batch);
        if (sizes.includes(9)) break;
      }
    } else {
      const to = { hostname: "10.9.0.2", port: 7010 };
      for (const size of [5, 1_200, 3_000]) {
        // The other side may not be up yet.
        for (let tries = 0, received = 0; tries < ${PATIENCE / 200} && received < 20; tries++) {
          batch.length = 0;
          for (let i = 0; i < 20; i++) batch.set(i, new Uint8Array(size).fill(i), to);
          await endpoint.sendBatch(batch);
          received = 0;
          while (received < 20) {
            const n = await endpoint.recvBatch(batch, { signal: AbortSignal.timeout(200) }).catch(() => 0);
            if (n === 0) break;
            for (let i = 0; i < n; i++) {
              const data = batch.data(i);
              if (data.length === size && data.every((byte) => byte === data[0])) received++;
            }
          }
          // More, with answers to what was sent while the other side started.
          if (received >= 20) console.log(size, 20);
        }
      }
      for (let i = 0; i < 3; i++) await endpoint.sendTo(new Uint8Array(9), to);
    }
    Deno.exit(0);`;
  const { stdout, stderr } = await run(source, script);
  assertEquals([stdout, stderr], ["5 20\n1200 20\n3000 20\n", ""]);
});

nativeTest("a batch with gro takes apart what another program has joined of 128 datagrams", async (engine) => {
  // The kernel joins 64 (UDP_GRO_CNT_MAX), but hands on as it is what a local sender has joined (UDP_MAX_SEGMENTS).
  using two = new Two(engine);
  const batch = new DatagramBatch({ capacity: 2, gro: true });
  assertEquals(two.b.tryRecvBatch(batch), undefined);
  for (const count of [65, 128]) {
    const sent = sendJoined(two.a.fd as number, two.b.addr, count, 100);
    if (sent < 0) continue; // Linux before 6.9
    assertEquals(await two.b.recvBatch(batch), count);
    for (let i = 0; i < count; i++) {
      assertEquals([batch.size(i), batch.data(i)[0], batch.address(i)], [100, i, two.a.addr]);
    }
  }
});

/** Sends `count` datagrams as one message, each filled with its number; returns what sendmmsg(2) returned. */
function sendJoined(fd: number, to: Deno.NetAddr, count: number, size: number): number {
  const bytes = (length: number) => new Uint8Array(new ArrayBuffer(length));
  const [data, name, header, vector, control] = [bytes(count * size), bytes(32), bytes(64), bytes(16), bytes(24)];
  for (let i = 0; i < count; i++) data.fill(i, i * size, (i + 1) * size);
  const sockaddr = encodeSockaddr(to) ?? bytes(0);
  name.set(sockaddr);
  const [words, vectorWords] = [new Uint32Array(header.buffer), new Uint32Array(vector.buffer)];
  setPointer(vectorWords, 0, pointerTo(data));
  vectorWords[IOVEC_LENGTH] = data.length;
  setPointer(words, NAME, pointerTo(name));
  words[NAME_LENGTH] = sockaddr.length;
  setPointer(words, IOVEC, pointerTo(vector));
  words[IOVEC_COUNT] = 1;
  setPointer(words, CONTROL, pointerTo(control));
  words[CONTROL_LENGTH] = control.length;
  // CMSG_LEN of 2 bytes.
  new Uint32Array(control.buffer).set([18, 0, SOL_UDP, UDP_SEGMENT, size]);
  const n = transmitMany(fd, header, 1, 0);
  // Till here the kernel knows them by their addresses alone.
  assert(data.length + name.length + vector.length + control.length > 0);
  return n;
}

engineTest("DatagramBatch.address() gives the same object for the same peer", async (engine) => {
  for (const hostname of [LOCAL, "::1"]) {
    using two = new Two(engine, hostname);
    const batch = new DatagramBatch();
    const seen = new Set<unknown>();
    for (let i = 0; i < 5; i++) {
      await two.a.sendTo(encode("x"), two.b.addr);
      await two.b.recvBatch(batch);
      assertEquals(batch.address(0), two.a.addr);
      seen.add(batch.address(0));
    }
    assertEquals(seen.size, 1);
  }
});

engineTest("UdpEndpoint.sendBatch() sends all but what cannot be sent, and then says what that was", async (engine) => {
  using two = new Two(engine);
  const batch = new DatagramBatch();
  // Nobody has an address of class E.
  const nowhere = { hostname: "255.255.255.255", port: 9 };
  for (let i = 0; i < 9; i++) batch.set(i, new Uint8Array([i]), i % 4 === 1 ? nowhere : two.b.addr);
  if (engine === "runtime" && "listenDatagram" in Deno) return; // which lets broadcasts out
  const error = await assertRejects(() => two.a.sendBatch(batch), Error, `${two.a.addr.port} to 255.255.255.255:9`);
  if (engine === "native") assert(error instanceof Deno.errors.PermissionDenied, error.message);
  const p = new Uint8Array(9);
  for (const i of [0, 2, 3, 4, 6, 7, 8]) assertEquals((await two.b.recvFrom(p)).data, new Uint8Array([i]));
});

engineTest(
  "UdpEndpoint.sendBatch() refuses a batch that is changed while it waits, and ends with its signal",
  async (engine) => {
    using two = new Two(engine);
    const batch = new DatagramBatch();
    for (let i = 0; i < 3; i++) batch.set(i, new Uint8Array([i]), two.a.addr);
    // So that the native engine has to wait, too.
    if (engine === "native") spendTurn();
    const changed = two.b.sendBatch(batch, { end: 3 });
    batch.length = 1;
    await assertRejects(() => changed, TypeError, "The batch was changed while the call waited");
    const abort = new AbortController();
    if (engine === "native") spendTurn();
    const cancelled = two.b.sendBatch(batch, { end: 1, signal: abort.signal });
    abort.abort(new Error("stop"));
    await assertRejects(() => cancelled, Error, "stop");
  },
);

engineTest(
  "UdpEndpoint.trySendBatch() stops before what has no address, and says so when asked to go on",
  async (engine) => {
    using two = new Two(engine);
    const batch = new DatagramBatch();
    batch.set(0, encode("sent"), two.b.addr);
    batch.set(1, encode("not sent"));
    assertEquals(two.a.trySendBatch(batch), 1);
    const why = engine === "native" ? "EDESTADDRREQ" : "Cannot send without an address on the runtime engine";
    assertThrows(() => two.a.trySendBatch(batch, { start: 1, end: 2 }), Error, why);
    assertEquals(decode((await two.b.recvFrom(new Uint8Array(10))).data), "sent");
  },
);

engineTest("UdpEndpoint.trySendBatch() goes on at `start`", async (engine) => {
  using two = new Two(engine);
  const batch = new DatagramBatch();
  for (let i = 0; i < 9; i++) batch.set(i, new Uint8Array([i]), two.b.addr);
  assertEquals([two.a.trySendBatch(batch, { end: 3 }), two.a.trySendBatch(batch, { start: 3, end: 5 })], [3, 2]);
  assertEquals([two.a.trySendBatch(batch, { start: 9, end: 9 }), two.a.trySendBatch(batch, { start: 5 })], [
    0,
    4,
  ]);
  assertThrows(
    () => two.a.trySendBatch(batch, { start: 4, end: 3 }),
    RangeError,
    "start must be an integer from 0 to 3",
  );
  const p = new Uint8Array(9);
  for (let i = 0; i < 9; i++) assertEquals((await two.b.recvFrom(p)).data, new Uint8Array([i]));
});

nativeTest(
  "UdpEndpoint.trySendBatch() stops before what cannot be sent, and says why when asked to go on",
  (engine) => {
    using two = new Two(engine);
    const batch = new DatagramBatch();
    for (let i = 0; i < 3; i++) {
      batch.set(
        i,
        encode("x"),
        i === 1 ? { hostname: "255.255.255.255", port: 9 } : two.b.addr,
      );
    }
    assertEquals(two.a.trySendBatch(batch), 1);
    assertThrows(() => two.a.trySendBatch(batch, { start: 1, end: 3 }), Deno.errors.PermissionDenied, "EACCES");
    assertEquals(two.a.trySendBatch(batch, { start: 2, end: 3 }), 1);
  },
);
