/**
 * Bytes and texts that nobody in his senses sends, to everything that reads
 * what others have written: `--cases` of them in all, from a seed. No crash, no
 * hang, no descriptor and no memory that is not given back.
 */

import { TcpListener } from "@c10k/sockets/tcp";
import { UdpEndpoint } from "@c10k/sockets/udp";
import { assert, assertEquals, assertLess, assertThrows } from "@std/assert";
import { deadline, delay } from "@std/async";
import fc from "fast-check";
import { Buffer } from "node:buffer";
import { isIPv4, isIPv6 } from "node:net";
import { serialize, setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";
import { Cache } from "../../examples/dns/cache.ts";
import { Forwarder } from "../../examples/dns/forwarder.ts";
import { parse } from "../../examples/dns/message.ts";
import type { Upstream } from "../../examples/dns/upstream.ts";
import { ProtocolError } from "../../examples/kv/errors.ts";
import { Requests } from "../../examples/kv/requests.ts";
import {
  formatAddress,
  formatIPv4,
  formatIPv6,
  hostKind,
  parseAddress,
  parseIPv4,
  parseIPv6,
} from "../../internal/address.ts";
import { cString, isText } from "../../internal/c_string.ts";
import { Descriptor } from "../../internal/descriptor.ts";
import { decodeSockaddr, encodeSockaddr } from "../../internal/sockaddr.ts";
import { checkHostname } from "../../internal/validate.ts";
import { Link } from "../../process/message/link.ts";
import { ProcessTransport } from "../../process/message/process_transport.ts";
import { sendPacket } from "../../process/message/scm.ts";
import { UnixSocket } from "../../process/message/unix_socket.ts";
import { ControlServer, takeOver } from "../../process/pool/upgrade.ts";
import { kernel } from "../_kernel.ts";
import { descriptorLinks } from "../_process.ts";
import { LIARS } from "../_liars.ts";
import { ENGINES, Pair, readExactly, withoutLeaks } from "../_util.ts";
import { CASES, SEED } from "./_options.ts";

const native = ENGINES.includes("native");
const HOST = "127.0.0.1";
// fcntl.h
const F_DUPFD_CLOEXEC = 1030;
/** Memory that may be kept, in bytes: compiled code, and what the allocator does not give back. */
const SLACK = 64 * 1024 * 1024;

setFlagsFromString("--expose-gc");
const collectGarbage: () => void = runInNewContext("gc");

let cases = 0;

/** V8 collects when it likes, which can be a gigabyte later, and of that the allocator keeps what is in pieces. */
function collectNowAndThen(): void {
  if (++cases % 2_000 === 0) collectGarbage();
}
fc.configureGlobal({ afterEach: collectNowAndThen });

/** Bytes that are in use. */
function inUse(): number {
  collectGarbage();
  const { rss, heapTotal, heapUsed } = Deno.memoryUsage();
  return heapUsed + Math.max(rss - heapTotal, 0);
}

/** Declares a test with its part of all cases. */
function hostileTest(name: string, part: number, run: (runs: number) => Promise<void> | void, ignore = false): void {
  const runs = Math.max(Math.floor(CASES * part), 1);
  Deno.test({
    name: `hostile input: ${name}, ${runs} cases, seed ${SEED}`,
    ignore,
    // It keeps something of each operation, which would look like growth.
    sanitizeOps: false,
    async fn() {
      // fast-check keeps 170 MB for the first thousand.
      await withoutLeaks(() => run(Math.min(runs, 1_000)));
      const before = inUse();
      await withoutLeaks(() => run(runs));
      const growth = inUse() - before;
      assertLess(growth, SLACK, `memory: ${growth} bytes more than ${before}`);
    },
  });
}

function settings(numRuns: number): fc.Parameters<unknown> {
  // The limit of time is fast-check's own: a timer for each case would outlive it.
  return { numRuns, seed: SEED, timeout: 20_000, endOnFailure: true };
}

const ADDRESS_PARTS = fc.constantFrom(
  ..."0 1 9 255 256 00 f ffff fffff . : :: [ ] % / 0x7f eth0 %lo -1 1e3 \u0660 \0 127.0.0.1 ::1 ::ffff: a.example - _"
    .split(" "),
  " ",
  "\n",
);
const ADDRESS_TEXT = fc.oneof(
  fc.string({ unit: "binary", maxLength: 60 }),
  fc.array(ADDRESS_PARTS, { maxLength: 12 }).map((parts) => parts.join("")),
  fc.ipV4(),
  fc.ipV6(),
);

/** Whether a call succeeds; it may refuse with a `TypeError` or a `RangeError` only. */
function succeeds(call: () => unknown): boolean {
  try {
    call();
    return true;
  } catch (error) {
    assert(error instanceof TypeError || error instanceof RangeError, String(error));
    return false;
  }
}

hostileTest("addresses as text", 0.309, (runs) => {
  fc.assert(
    fc.property(ADDRESS_TEXT, (text) => {
      const [v4, v6] = [parseIPv4(text), parseIPv6(text)];
      assertEquals(v4 !== undefined, isIPv4(text));
      assertEquals(v6 !== undefined, isIPv6(text) && !text.includes("%"));
      if (v4 !== undefined) assertEquals(formatIPv4(v4), text);
      if (v6 !== undefined) assertEquals(parseIPv6(formatIPv6(v6)), v6);
      const kind = hostKind(text);
      if (kind !== undefined) assert(!/[\0\s/]/.test(text));
      const isHost = succeeds(() => checkHostname(text));
      if (isHost) assert(kind !== undefined || text.startsWith("["));
      for (const with_ of [text, `${text}:80`, `[${text}]:80`]) {
        if (!succeeds(() => parseAddress(with_))) continue;
        const address = parseAddress(with_);
        assertEquals(parseAddress(formatAddress(address)), address);
      }
      // Before any system call, which would fail in its own way.
      if (!isHost) {
        for (const engine of ENGINES) assert(!succeeds(() => TcpListener.bind({ hostname: text, port: 0, engine })));
      }
    }),
    settings(runs),
  );
});

hostileTest("socket addresses from the kernel's side", 0.2, (runs) => {
  const bytes = fc.oneof(
    fc.uint8Array({ maxLength: 64 }),
    fc.tuple(fc.constantFrom(2, 10), fc.uint8Array({ minLength: 26, maxLength: 26 })).map(([family, rest]) =>
      new Uint8Array([family, 0, ...rest])
    ),
  );
  fc.assert(
    fc.property(bytes, (bytes) => {
      // Interfaces have small numbers; others are told as numbers.
      const sockaddr = new Uint8Array(bytes);
      if (!succeeds(() => decodeSockaddr(sockaddr))) return;
      const { hostname, port } = decodeSockaddr(sockaddr);
      assert(hostKind(hostname) === "IPv4" || hostKind(hostname) === "IPv6");
      assert(Number.isInteger(port) && port >= 0 && port <= 65_535);
      const again = encodeSockaddr({ hostname, port });
      if (again !== undefined) assertEquals(decodeSockaddr(again), { hostname, port });
    }),
    settings(runs),
  );
}, !native);

// --- between processes

const SMALL = { maxDepth: 2, maxKeys: 4, withBigInt: true, withDate: true, withTypedArray: true } as const;
const TYPE = fc.oneof(fc.constantFrom("message", "credit", "shutdown", "pool", "bye"), fc.string());
const BODY = fc.oneof(
  fc.anything(SMALL),
  fc.constantFrom(NaN, -1, 0, 1, 257, 2 ** 53, "x", null),
  fc.record({ ask: fc.constantFrom("listeners", "x", null), tell: fc.constantFrom("listeners", "draining", 3) }),
);
const KIND = fc.oneof(fc.constantFrom("conn", "listener", "udp"), fc.anything(SMALL));
const ENVELOPE = fc.oneof(
  {
    weight: 4,
    arbitrary: fc.record({ packet: fc.record({ type: TYPE, body: BODY }), kinds: fc.array(KIND, { maxLength: 4 }) }),
  },
  { weight: 1, arbitrary: fc.record({ packet: fc.anything(SMALL), kinds: fc.anything(SMALL) }) },
  { weight: 1, arbitrary: fc.anything(SMALL) },
  // An array that claims four billion places, in a few bytes.
  { weight: 1, arbitrary: fc.constant({ packet: { type: "message" }, kinds: new Array(2 ** 32 - 1) }) },
);

function serialized(value: unknown): Uint8Array {
  try {
    return serialize(value);
  } catch {
    return serialize(null); // it cannot be cloned
  }
}

/** Of a sound message some bytes are others. */
const DAMAGED = fc.tuple(
  ENVELOPE.map(serialized),
  fc.array(fc.tuple(fc.nat(400), fc.nat(255)), { minLength: 1, maxLength: 5 }),
).map(([bytes, changes]) => {
  const copy = new Uint8Array(bytes);
  for (const [at, byte] of changes) if (copy.length > 0) copy[at % copy.length] = byte;
  return copy;
});

const PACKET = fc.record({
  first: fc.oneof(fc.constantFrom(0, 1, 1, 1, 2), fc.nat(255)),
  bytes: fc.oneof(ENVELOPE.map(serialized), DAMAGED, fc.uint8Array({ maxLength: 200 })),
  descriptors: fc.nat(6),
  isEmpty: fc.integer({ min: 0, max: 20 }).map((n) => n === 0),
});
const PACKETS = fc.array(PACKET, { minLength: 1, maxLength: 4 });

/** What an attacker sends: raw packets, with descriptors that nobody has asked for. */
function attack(
  fd: number,
  packets: readonly (typeof PACKET extends fc.Arbitrary<infer T> ? T : never)[],
  own: number[],
): void {
  for (const { first, bytes, descriptors, isEmpty } of packets) {
    const data = isEmpty ? new Uint8Array(0) : new Uint8Array([first, ...bytes]);
    sendPacket(fd, data, Array.from({ length: descriptors }, (_, i) => own[i % own.length] as number));
  }
}

async function withSockets(run: (fds: number[]) => Promise<void>): Promise<void> {
  using listener = TcpListener.bind({ hostname: HOST, port: 0, engine: "native" });
  using endpoint = UdpEndpoint.bind({ hostname: HOST, engine: "native" });
  await run([listener.fd as number, endpoint.fd as number, 0]);
}

/** Sockets of all kinds, once those that are closed are gone. */
async function openNow(most: number): Promise<number> {
  for (let tries = 0;; tries++) {
    const { length } = descriptorLinks();
    if (length <= most || tries === 200) return length;
    await delay(5);
  }
}

hostileTest("messages of a child, with surplus descriptors", 0.1, (runs) =>
  withSockets(async (own) => {
    const before = descriptorLinks().length;
    await fc.assert(
      fc.asyncProperty(PACKETS, async (packets) => {
        const [a, b] = UnixSocket.pair();
        const attacker = new Descriptor(b);
        const link = new Link("the child");
        link.onPacket = (_, sockets) => {
          for (const socket of sockets) socket.close();
        };
        const { promise, resolve } = Promise.withResolvers<Error | undefined>();
        const transport = new ProcessTransport(new UnixSocket(a, "the channel"), link, resolve);
        link.attach(transport);
        attack(attacker.fd, packets, own);
        attacker.close();
        const error = await promise;
        assert(error === undefined || error instanceof Error);
        link.close(error ?? new Error("it has ended"));
        link.discard();
      }),
      settings(runs),
    );
    assertEquals(await openNow(before), before);
  }), !native);

/** Connects to a path as any program can; the raw descriptor. */
function rawConnection(path: string): Descriptor {
  const [AF_UNIX, SEQPACKET_NONBLOCK_CLOEXEC] = [1, 5 | 0o4000 | 0o2000000];
  const socket = new Descriptor(kernel.socket(AF_UNIX, SEQPACKET_NONBLOCK_CLOEXEC, 0));
  const sockaddr = new Uint8Array([AF_UNIX, 0, ...cString(path)]);
  assertEquals(kernel.connect(socket.fd, sockaddr, sockaddr.length), 0);
  return socket;
}

hostileTest("programs that connect to a control socket", 0.05, (runs) =>
  withSockets(async (own) => {
    const folder = await Deno.makeTempDir();
    const path = `${folder}/control`;
    using listener = TcpListener.bind({ hostname: HOST, port: 0, engine: "native" });
    const before = descriptorLinks().length;
    // Copies, as a pool gives; the server closes them once they are sent.
    const copies = () => [TcpListener.fromFd(kernel.fcntl(listener.fd as number, F_DUPFD_CLOEXEC, 0))];
    const server = new ControlServer(path, copies, () => {});
    server.publish();
    try {
      await fc.assert(
        fc.asyncProperty(PACKETS, async (packets) => {
          const attacker = rawConnection(path);
          attack(attacker.fd, packets, own);
          attacker.close();
          await delay(0);
        }),
        settings(runs),
      );
      // It still answers who asks properly.
      const takeover = await deadline(takeOver(path), 10_000);
      assertEquals(takeover?.listeners.map(({ addr }) => addr.port), [listener.addr.port]);
      for (const one of takeover?.listeners ?? []) one.close();
      takeover?.close();
    } finally {
      server.close();
      assertEquals(await openNow(before), before);
      await Deno.remove(folder, { recursive: true });
    }
  }), !native);

let instance = 0;

// A module for each case, which is never forgotten: there cannot be many.
hostileTest("what a service manager says in its variables", 0.001, async (runs) => {
  const number = fc.oneof(
    fc.integer().map(String),
    fc.constantFrom("0", "1", "2", "1048577", "99999999999", ""),
    fc.string(),
  );
  const names = ["LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"];
  const saved = names.map((name) => Deno.env.get(name));
  try {
    await fc.assert(
      fc.asyncProperty(
        fc.oneof(fc.constant(String(Deno.pid)), number),
        number,
        fc.option(fc.string(), { nil: undefined }),
        async (...values) => {
          names.forEach((name, i) => {
            const value = values[i]?.replaceAll("\0", "");
            if (value === undefined) Deno.env.delete(name);
            else Deno.env.set(name, value);
          });
          // What it has read it remembers, so each case has an instance of its own.
          const { listenFds } = await import(`../../process/inspect/listen_fds.ts?${instance++}`);
          try {
            assertEquals(listenFds(), []);
          } catch (error) {
            const { InvalidData, NotSupported } = Deno.errors;
            assert(error instanceof InvalidData || error instanceof NotSupported, String(error));
          }
        },
      ),
      settings(runs),
    );
  } finally {
    names.forEach((name, i) => saved[i] === undefined ? Deno.env.delete(name) : Deno.env.set(name, saved[i]));
  }
}, !native);

hostileTest("paths of sockets", 0.04, (runs) => {
  fc.assert(
    fc.property(fc.string({ unit: "binary", maxLength: 300 }), (path) => {
      if (isText(path)) assertEquals(cString(path).indexOf(0), cString(path).length - 1);
      else assertThrows(() => cString(path), TypeError, "without zeros");
      // In a folder that is not there: none of them is made.
      try {
        UnixSocket.connect(`/nonexistent/${path}`, "nobody").close();
        assert(false, "connected");
      } catch (error) {
        assert(error instanceof Error && error.name !== "AssertionError", String(error));
      }
    }),
    settings(runs),
  );
}, !native);

// --- the examples that speak a protocol

const RESP = fc.oneof(
  fc.uint8Array({ maxLength: 200 }),
  fc.array(
    fc.constantFrom(..."* $ 0 1 2 3 - + 12 4294967296 GET SET a ' \" \\x".split(" "), "\r\n", "\r\n", "\r", "\n", " "),
    { maxLength: 40 },
  ).map((parts) => new TextEncoder().encode(parts.join(""))),
);

/** The requests in what a client has sent, in pieces; with how it ends. */
function requestsOf(bytes: Uint8Array, pieces: readonly number[]): string[] {
  const requests = new Requests();
  const shared = Buffer.alloc(256);
  const found: string[] = [];
  try {
    for (let at = 0, i = 0; at < bytes.length; i++) {
      const length = Math.min(1 + (pieces[i % pieces.length] ?? 0), bytes.length - at, shared.length);
      shared.set(bytes.subarray(at, at + length));
      at += length;
      requests.add(shared, length);
      while (requests.next()) {
        found.push(JSON.stringify(Array.from({ length: requests.count }, (_, word) => requests.text(word))));
      }
      requests.keep();
      // Others read into the same memory.
      shared.fill(255);
      assertLess(requests.held, 1024 * 1024);
    }
  } catch (error) {
    assert(error instanceof ProtocolError, String(error));
    found.push(error.message);
  }
  return found;
}

hostileTest("RESP (example:kv), whole and in pieces", 0.15, (runs) => {
  fc.assert(
    fc.property(RESP, fc.array(fc.nat(20), { minLength: 1, maxLength: 8 }), (bytes, pieces) => {
      assertEquals(requestsOf(bytes, pieces), requestsOf(bytes, [255]));
    }),
    settings(runs),
  );
});

const NAME = fc.constantFrom(
  "\x00",
  "\x01a\x00",
  "\x03www\x07example\x00",
  "\xc0\x0c",
  "\xc0\x00",
  "\xff",
  "\x3f" + "a".repeat(63),
);
const DNS = fc.oneof(
  fc.uint8Array({ maxLength: 200 }),
  fc.record({
    head: fc.uint8Array({ minLength: 4, maxLength: 4 }),
    counts: fc.array(fc.constantFrom(0, 0, 1, 2, 65_535), { minLength: 4, maxLength: 4 }),
    rest: fc.array(fc.oneof(NAME.map((name) => Buffer.from(name, "latin1")), fc.uint8Array({ maxLength: 24 })), {
      maxLength: 6,
    }),
  }).map(({ head, counts, rest }) =>
    new Uint8Array(Buffer.concat([head, ...counts.map((n) => Buffer.from([n >> 8, n & 255])), ...rest]))
  ),
);

hostileTest("DNS (example:dns), queries and answers", 0.15, async (runs) => {
  let answer: Uint8Array = new Uint8Array(0);
  const upstream: Pick<Upstream, "ask"> = {
    ask() {
      const packet = parse(answer);
      return packet === undefined ? Promise.reject(new Error("no packet")) : Promise.resolve(packet);
    },
  };
  const cache = new Cache(100);
  const forwarder = new Forwarder(upstream as Upstream, cache, () => {});
  await fc.assert(
    fc.asyncProperty(DNS, DNS, fc.constantFrom("udp" as const, "tcp" as const), async (query, reply, transport) => {
      answer = reply;
      // The callers drop what cannot be answered.
      const bytes = await forwarder.reply(query, transport).catch(() => undefined);
      if (bytes === undefined) return;
      assertLess(bytes.length, transport === "udp" ? 1_233 : 65_536);
      assertEquals([...bytes.subarray(0, 2)], [...query.subarray(0, 2)]);
      assert((bytes[2] as number) & 0x80, "a reply");
      assertLess(cache.size, 101);
    }),
    settings(runs),
  );
});

const VIEW = fc.record({
  liar: fc.constantFrom(...Object.values(LIARS)),
  bytes: fc.uint8Array({ minLength: 1, maxLength: 200 }),
  before: fc.nat(40),
  after: fc.nat(40),
  lies: fc.dictionary(
    fc.constantFrom("length", "byteLength", "byteOffset", "buffer", "subarray", "slice", "set", "constructor"),
    fc.oneof(fc.integer(), fc.double(), fc.anything(SMALL)),
  ),
  call: fc.constantFrom("write", "writeAll", "tryWrite", "datagram"),
});

for (const engine of ENGINES) {
  hostileTest(`[${engine}] buffers whose properties lie`, 0.05, async (runs) => {
    using pair = await Pair.open(engine);
    using endpoint = UdpEndpoint.bind({ hostname: HOST, port: 0, engine });
    await fc.assert(
      fc.asyncProperty(VIEW, async ({ liar, bytes, before, after, lies, call }) => {
        // A liar that cannot be given another lie keeps its own.
        const lie = (p: Uint8Array) => {
          for (const [name, value] of Object.entries(lies)) Reflect.defineProperty(p, name, { value });
          return p;
        };
        const size = bytes.length;
        const sent = new Uint8Array(before + size + after);
        sent.set(bytes, before);
        const memory = new Uint8Array(before + size + after);
        const p = lie(liar(sent.buffer, before, size));
        const into = lie(liar(memory.buffer, before, size));
        if (call === "datagram") {
          await endpoint.sendTo(p, endpoint.addr);
          assertEquals((await endpoint.recvFrom(into)).size, size);
        } else {
          const written = await pair.client[call](p);
          assertEquals(written ?? size, size);
          await pair.server.peek(new Uint8Array(size));
          const n = await pair.server.read(into) ?? 0;
          memory.set(await readExactly(pair.server, size - n), before + n);
        }
        const expected = new Uint8Array(before + size + after);
        expected.set(bytes, before);
        assertEquals(memory, expected);
      }),
      settings(runs),
    );
  });
}
