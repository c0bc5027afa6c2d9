/** DatagramBatch, and batches sent and received: both engines. */

import { DatagramBatch, UdpEndpoint } from "@c10k/sockets/udp";
import { assert, assertEquals, assertRejects, assertThrows } from "@std/assert";
import fc from "fast-check";
import { namespaceTest } from "./_namespace.ts";
import { LOCAL, native, nativeTest, Two } from "./_udp.ts";
import { decode, encode, engineTest, randomBytes, runDeno } from "./_util.ts";

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
  await two.a.sendBatch(batch, 20);
  const echo = new DatagramBatch({ datagramSize: 64 });
  for (let n = 0; n < 20;) {
    n += await two.b.recvBatch(echo);
    await two.b.sendBatch(echo);
  }
  const p = new Uint8Array(64);
  for (let i = 0; i < 20; i++) assertEquals(decode((await two.a.recvFrom(p)).data), `message ${i}`);
});

Deno.test("DatagramBatch refuses what does not fit", () => {
  const batch = new DatagramBatch({ capacity: 2, datagramSize: 4 });
  const to = { hostname: LOCAL, port: 9 };
  assertThrows(() => batch.set(1, new Uint8Array(1), to), RangeError); // 0 comes first
  assertThrows(() => batch.set(0, new Uint8Array(5), to), RangeError, "at most 4 bytes");
  assertThrows(() => batch.set(0, new Uint8Array(1), { hostname: "localhost", port: 9 }), TypeError, "IP address");
  assertThrows(() => batch.data(0), RangeError);
  batch.set(0, new Uint8Array(4), to);
  batch.set(1, new Uint8Array(4), to);
  assertThrows(() => batch.set(2, new Uint8Array(4), to), RangeError);
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
    { numRuns: 60 },
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

nativeTest("a batch whose memory was transferred away is refused", async (engine) => {
  using two = new Two(engine);
  const batch = new DatagramBatch();
  batch.set(0, encode("x"), two.b.addr);
  structuredClone(batch.data(0).buffer, { transfer: [batch.data(0).buffer] });
  await assertRejects(() => two.a.sendBatch(batch), TypeError, "transferred");
  assertThrows(() => two.b.tryRecvBatch(batch), TypeError, "transferred");
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
  using again = UdpEndpoint.fromFd(two.b.detach());
  assertThrows(() => again.tryRecvFrom(p), Deno.errors.NotSupported, message);
  const batch = new DatagramBatch({ gro: true });
  assertEquals(again.tryRecvBatch(batch), 1);
  assertEquals(decode(batch.data(0)), "kept");
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
    const signal = AbortSignal.timeout(10_000);
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
        for (let tries = 0, received = 0; tries < 100 && received < 20; tries++) {
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
          if (received === 20) console.log(size, received);
        }
      }
      for (let i = 0; i < 3; i++) await endpoint.sendTo(new Uint8Array(9), to);
    }
    Deno.exit(0);`;
  const { stdout, stderr } = await run(source, script);
  assertEquals([stdout, stderr], ["5 20\n1200 20\n3000 20\n", ""]);
});

Deno.test({
  name: "[native] each datagram of a batch needs --allow-net for where it goes, on a connected endpoint too",
  ignore: !native,
  async fn() {
    const source = `
      import { DatagramBatch, UdpEndpoint } from "@c10k/sockets/udp";
      using endpoint = UdpEndpoint.bind({ hostname: "127.0.0.1", port: 0, engine: "native" });
      const batch = new DatagramBatch();
      const tell = async () => {
        try { console.log(await endpoint.sendBatch(batch)); } catch (error) { console.log(error.name); }
        try { console.log(endpoint.trySendBatch(batch)); } catch (error) { console.log(error.name); }
      };
      batch.set(0, new Uint8Array(3), { hostname: "127.0.0.1", port: 9 });
      await tell();
      endpoint.connect({ hostname: "127.0.0.1", port: 9 });
      batch.set(1, new Uint8Array(3), { hostname: "127.0.0.1", port: 10 });
      await tell();
      batch.set(1, new Uint8Array(3));
      console.log(await endpoint.sendBatch(batch));
      endpoint.close();`;
    const some = await runDeno(["--allow-net=127.0.0.1:0,127.0.0.1:9", "--allow-ffi"], source);
    assertEquals([some.stdout.replaceAll("Error", ""), some.stderr], ["1\n1\nNotCapable\nNotCapable\n2\n", ""]);
  },
});
