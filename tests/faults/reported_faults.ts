/**
 * Calls that fail for reasons of the kernel's own, and programs that go on:
 * run by `syscall_reported_test.ts` in a process with `libc.ts`. Each seed is
 * a round of traffic of all kinds, in which
 *
 * - a call that fails says so in the library's words, with the kernel's name;
 * - a call that fails has done nothing, so that it can be made again;
 * - every byte and datagram that was taken arrives once, in order;
 * - nothing is left open.
 */

import { type Backend, Multiplexer } from "@c10k/sockets/mux";
import { TcpConn, TcpListener } from "@c10k/sockets/tcp";
import { DatagramBatch, UdpEndpoint } from "@c10k/sockets/udp";
import { assert, assertEquals, assertMatch } from "@std/assert";
import { deadline, delay } from "@std/async";
import { descriptorLinks } from "../_process.ts";
import { seeds } from "./_options.ts";
import { setFaults } from "./libc.ts";

const HOST = "127.0.0.1";
const CODES = new Set(
  "EADDRINUSE EADDRNOTAVAIL EAGAIN ECONNREFUSED ECONNRESET EMFILE ENETUNREACH ENFILE ENOBUFS ENOMEM ENOSPC ENOTCONN EPERM EPIPE ETIMEDOUT"
    .split(" "),
);

/** A refusal as it must be; throws what is none. */
function expectRefusal(error: unknown): void {
  if (!(error instanceof Error) || !("code" in error)) throw error;
  if (!CODES.has(error.code as string)) throw error;
  assertMatch(error.message, new RegExp(`^Cannot .* \\(${error.code}\\)$`));
  const { cause } = error as { cause?: { name?: string; code?: string; syscall?: string } };
  assertEquals([cause?.name, cause?.code], ["SyscallError", error.code]);
}

/** Makes a call again until it does not fail. */
async function insist<T>(call: () => T | Promise<T>): Promise<T> {
  let cause: unknown;
  for (let tries = 0; tries < 1_000; tries++) {
    try {
      return await call();
    } catch (error) {
      expectRefusal(error);
      cause = error;
    }
  }
  throw new Error("the call failed 1,000 times", { cause });
}

/** Numbers from a seed; what the faults draw does not disturb them. */
function numbers(seed: number): (below: number) => number {
  let state = (seed * 2654435761) >>> 0;
  return (below) => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return (state >>> 8) % below;
  };
}

function byteAt(position: number, key: number): number {
  return (position * 31 + key + (position >>> 8)) & 0xff;
}

async function writeSide(conn: TcpConn, size: number, key: number, random: (below: number) => number): Promise<void> {
  for (let at = 0; at < size;) {
    const p = new Uint8Array(Math.min(1 + random(random(4) === 0 ? 200_000 : 5_000), size - at));
    for (let i = 0; i < p.length; i++) p[i] = byteAt(at + i, key);
    at += random(3) > 0
      ? await insist(() => conn.write(p))
      : await insist(() => conn.tryWrite(p)) ?? await insist(() => conn.write(p));
  }
  await insist(() => conn.closeWrite());
}

async function readSide(conn: TcpConn, key: number, random: (below: number) => number): Promise<number> {
  const p = new Uint8Array(70_000);
  const { signal } = new AbortController();
  for (let at = 0;;) {
    const part = p.subarray(0, 1 + random(random(4) === 0 ? 70_000 : 3_000));
    const way = random(4);
    if (way === 0) {
      const seen = await insist(() => conn.peek(part));
      for (let i = 0; i < (seen ?? 0); i++) assertEquals(part[i], byteAt(at + i, key));
    }
    const tried = way === 1 ? await insist(() => conn.tryRead(part)) : undefined;
    const n = tried === undefined ? await insist(() => conn.read(part, way === 2 ? { signal } : {})) : tried;
    if (n === null) return at;
    for (let i = 0; i < n; i++) if (part[i] !== byteAt(at + i, key)) throw new Error(`byte ${at + i} is another`);
    at += n;
  }
}

async function streams(random: (below: number) => number): Promise<void> {
  using listener = await insist(() => TcpListener.bind({ hostname: HOST, port: 0, engine: "native" }));
  await Promise.all(Array.from({ length: 3 }, async (_, key) => {
    using client = await insist(() => TcpConn.connect({ port: listener.addr.port, noDelay: true, engine: "native" }));
    await insist(() => client.setOption("SO_SNDBUF", 20_000));
    client.tryWrite(new Uint8Array(0));
    const size = 1 + random(150_000);
    const [, received] = await Promise.all([
      writeSide(client, size, key, random),
      (async () => {
        while (true) {
          using server = await insist(() => listener.accept());
          // Any of the three: which one it is, its first byte says.
          const first = new Uint8Array(1);
          // An attempt that failed once hands had been shaken has left an empty one.
          if (await insist(() => server.peek(first)) === null) continue;
          const its = first[0] as number;
          assert(its < 3);
          return await readSide(server, its, random);
        }
      })(),
    ]);
    return { size, received };
  })).then((sizes) => {
    const sum = (name: "size" | "received") => sizes.reduce((sum, one) => sum + one[name], 0);
    assertEquals(sum("received"), sum("size"));
  });
}

async function datagrams(random: (below: number) => number): Promise<void> {
  using a = await insist(() => UdpEndpoint.bind({ hostname: HOST, engine: "native" }));
  using b = await insist(() => UdpEndpoint.bind({ hostname: HOST, engine: "native" }));
  const p = new Uint8Array(64);
  for (let i = 0; i < 40; i++) {
    const size = random(64);
    const sent = await insist(() => a.sendTo(new Uint8Array(size).fill(i), b.addr));
    const { data, address } = await insist(() => b.recvFrom(p));
    assertEquals([sent, data.length, address.port], [size, size, a.addr.port]);
    assert(data.every((byte) => byte === i));
  }
  const out = new DatagramBatch({ capacity: 16, datagramSize: 8 });
  const into = new DatagramBatch({ capacity: 16, datagramSize: 8 });
  for (let i = 0; i < 16; i++) out.set(i, new Uint8Array([i]), b.addr);
  for (let round = 0; round < 5; round++) {
    const told = await a.sendBatch(out).catch(expectRefusal);
    const got: number[] = [];
    while (got.length < (told ?? 1)) {
      const n = told === undefined ? await tryBatch(b, into) : await insist(() => b.recvBatch(into));
      if (n === undefined) break;
      for (let i = 0; i < n; i++) got.push(into.data(i)[0] as number);
    }
    if (told !== undefined) assertEquals(got, Array.from({ length: 16 }, (_, i) => i));
    while (told === undefined) {
      const n = await tryBatch(b, into);
      if (n === undefined) break;
      for (let i = 0; i < n; i++) got.push(into.data(i)[0] as number);
    }
    // Each once and in order; what could not be sent keeps back no other.
    assert(got.every((number, i) => i === 0 || number > (got[i - 1] as number)), got.join());
  }
}

/** What is there; a try that would block is made again, because it may be a fault. */
async function tryBatch(endpoint: UdpEndpoint, into: DatagramBatch): Promise<number | undefined> {
  for (let tries = 0; tries < 20; tries++) {
    const n = await insist(() => endpoint.tryRecvBatch(into));
    if (n !== undefined) return n;
  }
  return undefined;
}

async function readiness(backend: Backend, random: (below: number) => number): Promise<void> {
  using mux = await insist(() => new Multiplexer<number>({ backend, maxEvents: 1 + random(8) }));
  using a = await insist(() => UdpEndpoint.bind({ hostname: HOST, engine: "native" }));
  const endpoints: UdpEndpoint[] = [];
  try {
    for (let i = 0; i < 5; i++) {
      const one = await insist(() => UdpEndpoint.bind({ hostname: HOST, engine: "native" }));
      endpoints.push(one);
      await insist(() => mux.register(one, { readable: true }, i));
      assertEquals(mux.size, i + 1);
    }
    const p = new Uint8Array(8);
    for (let round = 0; round < 5; round++) {
      const owed = new Set(endpoints.keys());
      for (const one of endpoints) await insist(() => a.sendTo(new Uint8Array([round]), one.addr));
      while (owed.size > 0) {
        const wait = random(4) === 0 ? () => mux.waitSync(5) : () => mux.wait({ timeout: 1_000 });
        for (const { data } of [...await insist(wait)]) {
          const datagram = await insist(() => endpoints[data]?.tryRecvFrom(p));
          if (datagram === undefined) continue;
          assertEquals([datagram.data[0], owed.delete(data)], [round, true]);
        }
      }
    }
  } finally {
    for (const one of endpoints) one.close();
  }
}

/** Descriptors of the kinds that this library makes, once those that are closed are gone. */
async function openNow(most: number): Promise<number> {
  for (let tries = 0;; tries++) {
    const { length } = descriptorLinks();
    if (length <= most || tries === 200) return length;
    await delay(5);
  }
}

Deno.test("a reactor that cannot be made leaves nothing behind, and is made later", async () => {
  const before = descriptorLinks().length;
  setFaults({ seed: 1, unnoticed: 0, reported: 4 });
  (await insist(() => UdpEndpoint.bind({ hostname: HOST, engine: "native" }))).close();
  setFaults(undefined);
  // epoll and eventfd, for good.
  assertEquals(await openNow(before + 2), before + 2);
});

for (const seed of seeds(20)) {
  Deno.test(`traffic in which calls fail, seed ${seed}`, async () => {
    const before = descriptorLinks().length;
    const random = numbers(seed);
    setFaults({ seed, unnoticed: 4 + random(20), reported: 10 + random(40) });
    try {
      const backends: Backend[] = ["epoll", "poll", "select"];
      await deadline(
        Promise.all([
          streams(random),
          datagrams(random),
          ...backends.map((backend) => readiness(backend, random)),
        ]),
        20_000,
      );
    } finally {
      setFaults(undefined);
    }
    assertEquals(await openNow(before), before);
  });
}
