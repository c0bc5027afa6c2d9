/** UDP endpoints and buffers that lie about themselves, or are taken away while a call waits with them. */

import { Buffer } from "node:buffer";
import { DatagramBatch, type UdpEndpoint } from "@c10k/sockets/udp";
import { assertEquals, assertRejects, assertThrows } from "@std/assert";
import { deadline } from "@std/async";
import { LOCAL, native, Two } from "./_udp.ts";
import { engineTest, resolvedTo, runDeno, spendTurn } from "./_util.ts";

const SIZE = 16;

/** Claims 64 KiB in every way that code can be asked. */
class Odd extends Uint8Array<ArrayBuffer> {
  static get [Symbol.species](): Uint8ArrayConstructor {
    return function () {
      return new Uint8Array(65_536).fill(0xee);
    } as unknown as Uint8ArrayConstructor;
  }
  override get length(): number {
    return 65_536;
  }
  override get byteLength(): number {
    return 65_536;
  }
  override get byteOffset(): number {
    return 0;
  }
  override get buffer(): ArrayBuffer {
    return new ArrayBuffer(65_536);
  }
  override subarray(): Uint8Array<ArrayBuffer> {
    return new Uint8Array(65_536).fill(0xee);
  }
  override slice(): Uint8Array<ArrayBuffer> {
    return new Uint8Array(65_536).fill(0xee);
  }
  override set(): void {
    throw new Error("must not be called");
  }
}

/** Like {@linkcode Odd}, by properties of the object itself. */
function withOwnProperties(p: Uint8Array<ArrayBuffer>): Uint8Array<ArrayBuffer> {
  const big = new Uint8Array(65_536).fill(0xee);
  const lies = { length: 65_536, byteLength: 65_536, byteOffset: 0, buffer: big.buffer, constructor: Odd };
  for (const [name, value] of Object.entries(lies)) Object.defineProperty(p, name, { value });
  for (const name of ["subarray", "slice"]) Object.defineProperty(p, name, { value: () => big });
  return p;
}

/** Buffers of {@linkcode SIZE} bytes, with 8 bytes before and behind that nobody may touch, and what lies around. */
const BUFFERS: Record<string, () => { p: Uint8Array; all: Uint8Array }> = {
  "a plain one": () => part((memory) => new Uint8Array(memory, 8, SIZE)),
  "a subclass with getters and species": () => part((memory) => new Odd(memory, 8, SIZE)),
  "own properties": () => part((memory) => withOwnProperties(new Uint8Array(memory, 8, SIZE))),
  "no prototype": () => part((memory) => Object.setPrototypeOf(new Uint8Array(memory, 8, SIZE), null)),
  "a Buffer": () => part((memory) => Buffer.from(memory, 8, SIZE)),
  "shared memory": () => {
    const all = new Uint8Array(new SharedArrayBuffer(SIZE + 16));
    return { p: new Uint8Array(all.buffer, 8, SIZE), all };
  },
  "resizable memory": () => {
    const all = new Uint8Array(new ArrayBuffer(SIZE + 16, { maxByteLength: 4096 }));
    return { p: new Uint8Array(all.buffer, 8, SIZE), all };
  },
};

function part(make: (memory: ArrayBuffer) => Uint8Array): { p: Uint8Array; all: Uint8Array } {
  const all = new Uint8Array(SIZE + 16);
  return { p: make(all.buffer), all };
}

const SENT = Uint8Array.from({ length: SIZE }, (_, i) => i + 1);

engineTest("sends carry the bytes of their buffer alone, whatever its properties say", async (engine) => {
  using two = new Two(engine);
  const to = two.b.addr;
  const { signal } = new AbortController();
  const sends: Record<string, (p: Uint8Array) => unknown> = {
    "sendTo()": (p) => two.a.sendTo(p, to),
    "sendTo() with a signal": (p) => two.a.sendTo(p, to, { signal }),
    "sendTo() behind another": (p) => {
      const first = two.a.sendTo(SENT, to);
      return Promise.all([first, two.a.sendTo(p, to)]);
    },
    "sendTo() to a name": (p) => two.a.sendTo(p, { hostname: "localhost", port: to.port }),
    "trySendTo()": (p) => two.a.trySendTo(p, to),
    "DatagramBatch.set()": (p) => {
      const batch = new DatagramBatch({ datagramSize: SIZE });
      batch.set(0, p, to);
      return two.a.sendBatch(batch);
    },
  };
  if (engine === "native") {
    sends["send()"] = (p) => {
      two.a.connect(to);
      return two.a.send(p).finally(() => two.a.disconnect());
    };
  }
  const into = new Uint8Array(65_536);
  for (const [kind, make] of Object.entries(BUFFERS)) {
    for (const [call, send] of Object.entries(sends)) {
      const { p, all } = make();
      all.fill(0xaa);
      all.set(SENT, 8);
      const returned = await send(p);
      const count = Array.isArray(returned) ? returned.length : 1;
      if (typeof returned === "number" && call !== "DatagramBatch.set()") assertEquals(returned, SIZE);
      for (let i = 0; i < count; i++) {
        const { data } = await deadline(two.b.recvFrom(into), 5_000);
        assertEquals(data, SENT, `${call} with ${kind}`);
      }
    }
  }
});

engineTest("receives write to their buffer alone and return a plain view of it", async (engine) => {
  using two = new Two(engine);
  for (const [kind, make] of Object.entries(BUFFERS)) {
    for (const size of [0, 3, SIZE, 100]) {
      for (const call of ["recvFrom", "recvFrom with a signal", "peek", "tryRecvFrom", "recv"]) {
        const { p, all } = make();
        all.fill(0xaa);
        await two.a.sendTo(new Uint8Array(size).fill(7), two.b.addr);
        // Of what is there, lest the runtime engine has nothing yet to try.
        await two.b.recvFrom(new Uint8Array(1), { peek: true });
        const n = Math.min(size, SIZE);
        if (call === "recv") {
          assertEquals(await two.b.recv(p), size);
        } else {
          const datagram = call === "tryRecvFrom" ? two.b.tryRecvFrom(p) : await two.b.recvFrom(p, {
            ...call === "recvFrom with a signal" && { signal: new AbortController().signal },
            peek: call === "peek",
          });
          if (call === "peek") await two.b.recvFrom(new Uint8Array(0));
          if (datagram === undefined) throw new Error("nothing was there");
          const { data, truncated } = datagram;
          assertEquals([datagram.size, truncated], [size, size > SIZE], `${call} with ${kind}`);
          assertEquals([Object.getPrototypeOf(data), Object.getOwnPropertyNames(data).length], [
            Uint8Array.prototype,
            n,
          ]);
          assertEquals(
            [data.length, data.byteOffset, data.buffer === all.buffer],
            [n, 8, true],
            `${call} with ${kind}`,
          );
        }
        const expected = new Uint8Array(all.length).fill(0xaa);
        expected.fill(7, 8, 8 + n);
        assertEquals(new Uint8Array(all), expected, `${call} with ${kind}`);
      }
    }
  }
});

engineTest("a subclass of DatagramBatch cannot make an endpoint send what it does not hold", async (engine) => {
  using two = new Two(engine);
  class Lying extends DatagramBatch {
    override get length(): number {
      return 1_000;
    }
    override get capacity(): number {
      return 1_000;
    }
    override data(): Uint8Array<ArrayBuffer> {
      return new Uint8Array(60_000).fill(0xee);
    }
    override size(): number {
      return 60_000;
    }
    override address(): Deno.NetAddr {
      return { transport: "udp", hostname: LOCAL, port: 9 };
    }
  }
  for (const options of [{}, { gso: true }]) {
    const batch = new Lying({ capacity: 2, datagramSize: SIZE, ...options });
    batch.set(0, SENT, two.b.addr);
    assertEquals(await two.a.sendBatch(batch), 1);
    assertEquals(two.a.trySendBatch(batch), 1);
    await assertRejects(() => two.a.sendBatch(batch, { end: 2 }), RangeError, "end must be an integer from 0 to 1");
    assertThrows(() => two.a.trySendBatch(batch, { end: 2 }), RangeError, "end must be an integer from 0 to 1");
    const into = new Uint8Array(65_536);
    for (let i = 0; i < 2; i++) assertEquals((await two.b.recvFrom(into)).data, SENT);
    await two.a.sendTo(SENT, two.b.addr);
    assertEquals(await two.b.recvBatch(batch), 1);
  }
});

engineTest("proxies of buffers and batches are refused with a TypeError", async (engine) => {
  using two = new Two(engine);
  const p = new Proxy(new Uint8Array(SIZE), {});
  const b = new Proxy(new DatagramBatch(), {});
  const batch = new DatagramBatch();
  for (const call of [() => two.a.sendTo(p, two.b.addr), () => two.a.recvFrom(p), () => two.a.recv(p)]) {
    await assertRejects(call as () => Promise<unknown>, TypeError, "p must be a Uint8Array");
  }
  assertThrows(() => two.a.trySendTo(p, two.b.addr), TypeError, "p must be a Uint8Array");
  assertThrows(() => two.a.tryRecvFrom(p), TypeError, "p must be a Uint8Array");
  assertThrows(() => batch.set(0, p, two.b.addr), TypeError, "data must be a Uint8Array");
  await assertRejects(() => two.a.sendBatch(b), TypeError, "batch must be a DatagramBatch");
  await assertRejects(() => two.a.recvBatch(b), TypeError, "batch must be a DatagramBatch");
  assertThrows(() => two.a.trySendBatch(b), TypeError, "batch must be a DatagramBatch");
  assertThrows(() => two.a.tryRecvBatch(b), TypeError, "batch must be a DatagramBatch");
});

engineTest("getters of addresses and options that change a buffer change nothing that was checked", async (engine) => {
  using two = new Two(engine);
  const { port } = two.b.addr;
  const gone = () => {
    const p = new Uint8Array(SIZE);
    const lose = () => void p.buffer.transfer();
    return { p, lose };
  };
  {
    const { p, lose } = gone();
    await assertRejects(
      () =>
        two.a.sendTo(p, {
          get hostname() {
            return lose(), LOCAL;
          },
          port,
        }), // deno-fmt-ignore-line
      TypeError,
      "p must not be detached",
    );
  }
  {
    const { p, lose } = gone();
    await assertRejects(() =>
      two.a.sendTo(p, two.b.addr, {
        get signal() {
          return void lose();
        },
      } as never), TypeError); // deno-fmt-ignore-line
  }
  {
    const { p, lose } = gone();
    assertThrows(() =>
      two.a.trySendTo(p, {
        hostname: LOCAL,
        get port() {
          return lose(), port;
        },
      }), TypeError); // deno-fmt-ignore-line
  }
  {
    const { p, lose } = gone();
    await assertRejects(() =>
      two.a.recvFrom(p, {
        get peek() {
          return lose(), false;
        },
      }), TypeError); // deno-fmt-ignore-line
  }
  // A batch has room for each datagram's bytes, and for no more.
  const batch = new DatagramBatch({ capacity: 4, datagramSize: SIZE });
  batch.set(0, SENT, two.b.addr);
  batch.set(1, SENT, two.b.addr);
  const memory = new ArrayBuffer(SIZE, { maxByteLength: 2 * SIZE });
  const growing = {
    get hostname() {
      return memory.resize(2 * SIZE), LOCAL;
    },
    port,
  }; // deno-fmt-ignore-line
  assertThrows(() => batch.set(0, new Uint8Array(memory), growing), RangeError, "data must have at most 16 bytes");
  const shortening = {
    get hostname() {
      return batch.length = 0, LOCAL;
    },
    port,
  }; // deno-fmt-ignore-line
  assertThrows(() => batch.set(2, SENT, shortening), RangeError, "i must be an integer from 0 to 0");
  batch.length = 2;
  assertEquals([batch.data(0), batch.data(1)], [SENT, SENT]);
  two.a.trySendTo(new Uint8Array([99]), two.b.addr);
  assertEquals((await two.b.recvFrom(new Uint8Array(100))).data[0], 99);
});

/** Ways to take a buffer of 100 bytes away. */
const TAKEN: Record<string, (memory: ArrayBuffer) => void> = {
  "transferred": (memory) => void memory.transfer(),
  "transferred to another size": (memory) => void memory.transfer(10),
  "posted away": (memory) => void structuredClone(memory, { transfer: [memory] }),
  "shrunk": (memory) => memory.resize(10),
  "shrunk to nothing": (memory) => memory.resize(0),
  "grown": (memory) => memory.resize(200),
};

const WAITS: Record<string, (e: UdpEndpoint, p: Uint8Array, port: number, o: object) => Promise<unknown>> = {
  "for a name": (endpoint, p, port, options) => endpoint.sendTo(p, { hostname: "localhost", port }, options),
  "for two names": (endpoint, p, port, options) => {
    const first = endpoint.sendTo(p, { hostname: "localhost", port }, options);
    first.catch(() => {});
    const second = endpoint.sendTo(p, { hostname: "localhost", port }, options);
    return second.then(() => first, () => first);
  },
  "behind another": (endpoint, p, port, options) => {
    // Which the native engine lets go ahead, unless it has had its turn.
    if (endpoint.engine === "native") spendTurn();
    else void endpoint.sendTo(new Uint8Array([1]), { hostname: LOCAL, port });
    return endpoint.sendTo(p, { hostname: LOCAL, port }, options);
  },
};

engineTest("UdpEndpoint.sendTo() sends nothing of a buffer that is taken away while it waits", async (engine) => {
  using two = new Two(engine);
  const { port } = two.b.addr;
  const into = new Uint8Array(200);
  for (const [way, take] of Object.entries(TAKEN)) {
    for (const [wait, send] of Object.entries(WAITS)) {
      for (const signal of [undefined, new AbortController().signal]) {
        const memory = new ArrayBuffer(100, { maxByteLength: 200 });
        const sent = send(two.a, new Uint8Array(memory), port, { ...signal && { signal } });
        take(memory);
        const why = "p was resized or transferred away while the call waited";
        await assertRejects(() => deadline(sent, 5_000), TypeError, why, `${way}, ${wait}`);
        await two.a.sendTo(new Uint8Array([99]), two.b.addr);
        for (let n = 0; n !== 99;) {
          const { data } = await deadline(two.b.recvFrom(into), 5_000);
          assertEquals(data.length, 1, `${way}, ${wait}`);
          n = data[0] as number;
        }
      }
    }
  }
});

engineTest("UdpEndpoint.sendTo() sends what a buffer holds in the end that is as large as before", async (engine) => {
  using two = new Two(engine);
  const memory = new ArrayBuffer(100, { maxByteLength: 200 });
  const p = new Uint8Array(memory).fill(1);
  const sent = two.a.sendTo(p, { hostname: "localhost", port: two.b.addr.port });
  memory.resize(10);
  memory.resize(100);
  assertEquals(await sent, 100);
  const { data } = await two.b.recvFrom(new Uint8Array(200));
  assertEquals(data, new Uint8Array(100).fill(1, 0, 10));
});

engineTest("a datagram on its way to the runtime is safe from its buffer's end", async (engine) => {
  using two = new Two(engine);
  const into = new Uint8Array(200);
  for (const [way, take] of Object.entries(TAKEN)) {
    const memory = new ArrayBuffer(100, { maxByteLength: 200 });
    const sent = two.a.sendTo(new Uint8Array(memory).fill(7), two.b.addr);
    take(memory);
    assertEquals(await sent, 100, way);
    assertEquals((await two.b.recvFrom(into)).data, new Uint8Array(100).fill(7), way);
  }
});

engineTest("UdpEndpoint.sendTo() that waits for a name ends with its signal, or with its endpoint", async (engine) => {
  for (const end of ["signal", "endpoint", "both, and the buffer"]) {
    using two = new Two(engine);
    const abort = new AbortController();
    const p = new Uint8Array(9);
    const sent = two.a.sendTo(p, { hostname: "localhost", port: two.b.addr.port }, abort);
    if (end !== "endpoint") abort.abort(new Error("stop"));
    if (end !== "signal") two.a.close();
    if (end === "both, and the buffer") p.buffer.transfer();
    const error = await assertRejects(() => deadline(sent, 5_000), Error);
    assertEquals(end === "endpoint" ? error.name : error.message, end === "endpoint" ? "BadResource" : "stop");
  }
});

engineTest("UdpEndpoint.sendTo() sends an empty datagram whose memory is gone, also behind another", async (engine) => {
  using two = new Two(engine);
  const memory = new ArrayBuffer(8);
  const empty = new Uint8Array(memory, 4, 0);
  if (engine === "native") spendTurn();
  const sends = [two.a.sendTo(empty, two.b.addr), two.a.sendTo(empty, two.b.addr)];
  sends.push(two.a.sendTo(empty, { hostname: "localhost", port: two.b.addr.port }));
  memory.transfer();
  assertEquals(await Promise.all(sends), [0, 0, 0]);
  for (let i = 0; i < 3; i++) assertEquals((await two.b.recvFrom(new Uint8Array(9))).size, 0);
});

engineTest("a batch whose memory is transferred away while it waits is not sent", async (engine) => {
  using two = new Two(engine);
  const batch = new DatagramBatch({ capacity: 4, datagramSize: SIZE });
  for (let i = 0; i < 4; i++) batch.set(i, SENT, two.b.addr);
  if (engine === "native") spendTurn();
  const sent = two.a.sendBatch(batch);
  batch.data(0).buffer.transfer();
  await assertRejects(() => deadline(sent, 5_000), TypeError, "transferred");
  await two.a.sendTo(new Uint8Array(1), two.b.addr);
  // The runtime engine has handed on the first one.
  const sizes = [];
  while (sizes.at(-1) !== 1) sizes.push((await two.b.recvFrom(new Uint8Array(99))).size);
  assertEquals(
    sizes.slice(0, -1).every((size) => size === SIZE) && sizes.length <= (engine === "native" ? 1 : 2),
    true,
  );
});

engineTest("UdpEndpoint.sendTo() sends to a name's address that the endpoint can reach", async (engine) => {
  using two = new Two(engine);
  using _ = resolvedTo("::1", LOCAL);
  await two.a.sendTo(SENT, { hostname: "both.test", port: two.b.addr.port });
  assertEquals((await two.b.recvFrom(new Uint8Array(99))).data, SENT);
  using __ = resolvedTo("::1");
  const error = await assertRejects(() => two.a.sendTo(SENT, { hostname: "six.test", port: 9 }), Error);
  assertEquals((error as Error & { code: string }).code, "EAFNOSUPPORT");
});

engineTest("UdpEndpoint.joinMulticast() uses the options that it has checked", (engine) => {
  if (engine === "runtime" && "listenDatagram" in Deno) return; // which has no multicast here
  using two = new Two(engine, "0.0.0.0");
  let reads = 0;
  const options = {
    get group() {
      return reads++ === 0 ? "239.255.0.1" : "not an address";
    },
    interface: LOCAL,
  };
  two.a.joinMulticast(options);
  assertEquals(reads, 1);
  two.a.leaveMulticast({ group: "239.255.0.1", interface: LOCAL });
});

/** A program with `p`, 3 bytes, and `tell(call)`, which prints what a call returned or the name of what it threw. */
function program(body: string): string {
  return `
    import { DatagramBatch, UdpEndpoint } from "@c10k/sockets/udp";
    const p = new Uint8Array(3);
    const tell = async (call) => {
      try { console.log(await call()); } catch (error) { console.log(error.name); }
    };
    ${body}`;
}

for (const [name, flags] of [["native", ["--allow-ffi"]], ["runtime", []], ["runtime", ["--unstable-net"]]] as const) {
  Deno.test({
    name: `[${name}] no send outlives the permission that it has begun with [${flags}]`,
    ignore: name === "native" && !native,
    async fn() {
      const { stdout, stderr } = await runDeno(
        ["--allow-net", ...flags],
        program(`
          const endpoint = UdpEndpoint.bind({ hostname: "127.0.0.1", engine: "${name}" });
          const sends = [endpoint.sendTo(p, { hostname: "localhost", port: 9 })];
          sends.push(endpoint.sendTo(p, { hostname: "localhost", port: 9 }, { signal: new AbortController().signal }));
          Deno.permissions.revokeSync({ name: "net" });
          for (const { reason } of await Promise.allSettled(sends)) console.log(reason?.name);`),
      );
      assertEquals([stdout, stderr], ["NotCapable\nNotCapable\n", ""]);
    },
  });

  Deno.test({
    name: `[${name}] a subclass of DatagramBatch cannot lead around a permission [${flags}]`,
    ignore: name === "native" && !native,
    async fn() {
      const { stdout, stderr } = await runDeno(
        ["--allow-net=127.0.0.1:0,127.0.0.1:9", ...flags],
        program(`
          class Lying extends DatagramBatch {
            address() { return { transport: "udp", hostname: "127.0.0.1", port: 9 }; }
          }
          const endpoint = UdpEndpoint.bind({ hostname: "127.0.0.1", engine: "${name}" });
          const batch = new Lying();
          batch.set(0, p, { hostname: "127.0.0.1", port: 10 });
          await tell(() => endpoint.sendBatch(batch));`),
      );
      assertEquals([stdout, stderr], ["NotCapable\n", ""]);
    },
  });

  Deno.test({
    name:
      `[${name}] a name is sent to with the permission for the name, and refused where its address is denied [${flags}]`,
    ignore: name === "native" && !native,
    async fn() {
      const body = program(`
        const endpoint = UdpEndpoint.bind({ hostname: "127.0.0.1", engine: "${name}" });
        for (const hostname of ["localhost", "127.0.0.1"]) {
          await tell(() => endpoint.sendTo(p, { hostname, port: 9 }));
        }`);
      const run = async (...permissions: string[]) => {
        const { stdout, stderr } = await runDeno([...permissions, ...flags], body);
        return stdout.trim().split("\n").join(" ") + stderr;
      };
      assertEquals(
        [
          await run("--allow-net=127.0.0.1:0,localhost:9"),
          await run("--allow-net=127.0.0.1"),
          await run("--allow-net", "--deny-net=127.0.0.1:9"),
          await run("--allow-net", "--deny-net=localhost:9"),
        ],
        ["3 NotCapable", "NotCapable 3", "NotCapable NotCapable", "NotCapable 3"],
      );
    },
  });
}

Deno.test("[runtime] a buffer that is taken away while its send waits kills no program", async () => {
  const source = program(`
    const endpoint = UdpEndpoint.bind({ hostname: "127.0.0.1", engine: "runtime" });
    for (const options of [{}, { signal: new AbortController().signal }]) {
      const q = new Uint8Array(100);
      const sends = ["localhost", "127.0.0.1", "localhost", "127.0.0.1"].map((hostname) =>
        endpoint.sendTo(q, { hostname, port: 9 }, options));
      q.buffer.transfer();
      console.log((await Promise.allSettled(sends)).map(({ reason, value }) => reason?.name ?? value).join(" "));
    }
    await new Promise((resolve) => setTimeout(resolve, 50));
    endpoint.close();`);
  for (const flags of [[], ["--unstable-net"]]) {
    const { code, stdout, stderr } = await runDeno(["--allow-net", ...flags], source);
    const line = "TypeError 100 TypeError TypeError\n";
    assertEquals([code, stdout, stderr], [0, line + line, ""]);
  }
});
