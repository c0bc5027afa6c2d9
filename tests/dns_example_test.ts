/** `examples/dns.ts` with dig, before dnsmasq and before an upstream that misbehaves. */

import { TcpConn, TcpListener } from "@c10k/sockets/tcp";
import { UdpEndpoint } from "@c10k/sockets/udp";
import { assert, assertEquals, assertMatch } from "@std/assert";
import { delay } from "@std/async";
// @ts-types="@types/dns-packet"
import dns, { type Answer, type DecodedPacket, type Packet } from "dns-packet";
import { Buffer } from "node:buffer";
import { Cache, entryOf } from "../examples/dns/cache.ts";
import {
  clientTest,
  decode,
  ENGINES,
  freePort,
  randomBytes,
  readExactly,
  run,
  ServerProcess,
  withoutLeaks,
} from "./_util.ts";

const EXAMPLE = "examples/dns.ts";
const LOCAL = "127.0.0.1";

function startDns(upstream: number, engine: string = ENGINES.at(-1) ?? "", ...args: string[]): Promise<ServerProcess> {
  const permissions = engine === "native" ? ["--allow-net", "--allow-ffi"] : ["--allow-net"];
  return ServerProcess.start([...permissions, EXAMPLE, "--port", "0", "--upstream", `${LOCAL}:${upstream}`, ...args]);
}

/** What dig prints. */
async function dig(port: number, ...args: string[]): Promise<string> {
  const base = [`@${LOCAL}`, "-p", `${port}`, "+tries=1", "+timeout=10", "+noidnout"];
  const { stdout, stderr } = await new Deno.Command("dig", { args: [...base, ...args], env: { HOME: "/nonexistent" } })
    .output();
  return decode(stdout) + decode(stderr);
}

/** The TTL of the first record that is told with this type. */
function ttl(output: string, type: string): number {
  return Number(new RegExp(`^[^;]\\S*\\s+(\\d+)\\s+IN\\s+${type}\\s`, "m").exec(output)?.[1]);
}

/** UDP and TCP on one port: what is free for the one may be taken for the other. */
function bindBoth(): [UdpEndpoint, TcpListener] {
  for (let attempt = 1;; attempt++) {
    const endpoint = UdpEndpoint.bind({ hostname: LOCAL });
    try {
      return [endpoint, TcpListener.bind({ hostname: LOCAL, port: endpoint.addr.port })];
    } catch (error) {
      endpoint.close();
      if (attempt === 10) throw error;
    }
  }
}

/** How an upstream answers a query; `undefined` for not at all. */
type Answering = (query: DecodedPacket, name: string, transport: "udp" | "tcp", times: number) => Packet | undefined;

/** An upstream made for the test; `await using` ends it. */
class TestUpstream implements AsyncDisposable {
  readonly port: number;
  /** How often each name has been asked for. */
  readonly asked = new Map<string, number>();
  readonly queries: DecodedPacket[] = [];
  readonly #endpoint: UdpEndpoint;
  readonly #listener: TcpListener;
  readonly #serving: Promise<unknown>;

  constructor(readonly answering: Answering) {
    [this.#endpoint, this.#listener] = bindBoth();
    this.port = this.#endpoint.addr.port;
    this.#serving = Promise.all([this.#serveUdp(), this.#serveTcp()]);
  }

  answer(bytes: Uint8Array, transport: "udp" | "tcp"): Buffer | undefined {
    const query = dns.decode(Buffer.from(bytes));
    const name = query.questions?.[0]?.name ?? "";
    const times = (this.asked.get(name) ?? 0) + 1;
    this.asked.set(name, times);
    this.queries.push(query);
    const reply = this.answering(query, name, transport, times);
    return reply === undefined ? undefined : dns.encode({
      type: "response",
      id: query.id,
      questions: query.questions,
      ...reply,
    });
  }

  async #serveUdp(): Promise<void> {
    for await (const [bytes, from] of this.#endpoint) {
      const reply = this.answer(bytes, "udp");
      if (reply === undefined) continue;
      // What nobody has asked for comes first, and is broken, another's, or for another question.
      const forged = Buffer.from(reply);
      forged.writeUInt16BE((reply.readUInt16BE(0) + 1) & 0xffff);
      const other = dns.encode({
        ...dns.decode(reply),
        questions: [{ name: "forged.test", type: "A" }],
        answers: [a("forged.test", 60, "6.6.6.6")],
      });
      for (const p of [randomBytes(30), forged, other, reply]) await this.#endpoint.sendTo(p, from);
    }
  }

  async #serveTcp(): Promise<void> {
    for await (const conn of this.#listener) {
      using _ = conn;
      const length = (await readExactly(conn, 2))[1] ?? 0;
      const reply = this.answer(await readExactly(conn, length), "tcp");
      if (reply !== undefined) {
        await conn.writeAll(Buffer.concat([Buffer.from([reply.length >> 8, reply.length & 255]), reply]));
      }
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#endpoint.close();
    this.#listener.close();
    await this.#serving;
  }
}

function a(name: string, ttl: number, data: string): Answer {
  return { name, type: "A", class: "IN", ttl, data };
}

function soa(ttl: number, minimum: number): Answer {
  const data = { mname: "ns.test", rname: "admin.test", serial: 1, refresh: 2, retry: 3, expire: 4, minimum };
  return { name: "test", type: "SOA", class: "IN", ttl, data };
}

const NXDOMAIN = 3;

/** Waits until something accepts on a port. To try whether it can be bound would be in the way of who is to bind it. */
async function listens(port: number): Promise<void> {
  for (const end = performance.now() + 20_000;; await delay(10)) {
    try {
      return (await TcpConn.connect({ port })).close();
    } catch (error) {
      if (!(error instanceof Deno.errors.ConnectionRefused) || performance.now() > end) throw error;
    }
  }
}

for (const engine of ENGINES) {
  clientTest(["dig", "dnsmasq"], `[${engine}] dns example forwards dig's questions to dnsmasq`, async () => {
    const upstream = freePort();
    const text = Array.from({ length: 10 }, (_, i) => `${i}`.repeat(200)).join(",");
    const dnsmasq = new Deno.Command("dnsmasq", {
      args: [
        ...["--keep-in-foreground", "--conf-file=/dev/null", "--no-resolv", "--no-hosts", "--pid-file="],
        ...[`--port=${upstream}`, `--listen-address=${LOCAL}`, "--bind-interfaces", "--user=", "--local-ttl=300"],
        ...["--host-record=one.test,192.0.2.1,2001:db8::1,90", "--cname=alias.test,one.test", "--local=/test/"],
        ...["--mx-host=test,mail.test,5", `--txt-record=long.test,${text}`, "--srv-host=_kv._tcp.test,one.test,6380"],
      ],
      stdin: "null",
      stdout: "null",
      stderr: "null",
    }).spawn();
    try {
      await listens(upstream);
      await using server = await startDns(upstream, engine);
      const answer = await dig(server.port, "one.test", "A");
      assertMatch(answer, /status: NOERROR/);
      assertMatch(answer, /flags: qr rd ra; QUERY: 1, ANSWER: 1/);
      assert(ttl(answer, "A") <= 90);
      const others = ["ONE.test", "AAAA", "alias.test", "A", "test", "MX", "_kv._tcp.test", "SRV"];
      assertEquals(
        await dig(server.port, "+short", ...others),
        "2001:db8::1\none.test.\n192.0.2.1\n5 mail.test.\n0 0 6380 one.test.\n",
      );
      // Too long for a datagram here and there: by TCP from upstream, and to the client.
      assertMatch(await dig(server.port, "long.test", "TXT", "+ignore"), /flags: qr tc rd ra; QUERY: 1, ANSWER: 0/);
      const long = await dig(server.port, "long.test", "TXT");
      assertMatch(long, /Truncated, retrying in TCP mode/);
      assertEquals(long.match(/"(\d)\1{199}"/g)?.length, 10);
      if (engine !== ENGINES[0]) return; // what follows is the same on all
      assertMatch(await dig(server.port, "one.test", "+edns=1", "+noednsnegotiation"), /status: BADVERS/);
      assertMatch(await dig(server.port, "test", "AXFR"), /Transfer failed/);
      assertMatch(await dig(server.port, "one.test", "+opcode=notify"), /status: NOTIMP/);
      assertMatch(await dig(server.port, "nosuch.test", "+noedns", "+tcp"), /status: NXDOMAIN/);
      assertEquals(server.stderr.join(""), "");
    } finally {
      await dnsmasq[Symbol.asyncDispose]();
    }
  });
}

clientTest(
  ["dig"],
  "dns example keeps answers as long as they hold, and tells how long that is still",
  () =>
    withoutLeaks(async () => {
      await using upstream = new TestUpstream((_, name) => {
        if (name === "short.test") return { answers: [a(name, 1, "192.0.2.1")] };
        if (name === "zero.test") return { answers: [a(name, 0, "192.0.2.1")] };
        if (name === "gone.test") return { flags: NXDOMAIN, authorities: [soa(500, 100)] };
        if (name === "empty.test") return { authorities: [soa(80, 100)] };
        if (name === "unknown.test") return { flags: NXDOMAIN };
        if (name === "broken.test") return { flags: 2 };
        return { answers: [a(name, 100, "192.0.2.7"), { ...a(name, 50, "192.0.2.8") }] };
      });
      await using server = await startDns(upstream.port);
      const ask = async (name: string) => await dig(server.port, name);
      for (
        const name of ["long.test", "gone.test", "empty.test", "short.test", "zero.test", "unknown.test", "broken.test"]
      ) {
        await ask(name);
      }
      await delay(1100); // what is 1 s old has gone, all else has 1 s less
      const long = await ask("long.test");
      assert(ttl(long, "A") < 100 && ttl(long, "A") > 50, long);
      assertMatch(long, /192\.0\.2\.7\n.*192\.0\.2\.8\n/);
      // RFC 2308: the SOA record's minimum, or its TTL if that is less.
      const gone = await ask("GONE.test");
      assertMatch(gone, /status: NXDOMAIN/);
      assert(ttl(gone, "SOA") < 100 && ttl(gone, "SOA") > 50, gone);
      const empty = await ask("empty.test");
      assert(ttl(empty, "SOA") < 80 && ttl(empty, "SOA") > 30, empty);
      const again = await dig(server.port, "short.test", "zero.test", "unknown.test", "broken.test");
      assertEquals(
        again.match(/status: \w+/g)?.join(),
        "status: NOERROR,status: NOERROR,status: NXDOMAIN,status: SERVFAIL",
      );
      assertEquals(Object.fromEntries(upstream.asked), {
        ...{ "long.test": 1, "gone.test": 1, "empty.test": 1 },
        ...{ "short.test": 2, "zero.test": 2, "unknown.test": 2, "broken.test": 2 },
      });
      // Signatures are another question.
      assertMatch(await dig(server.port, "long.test", "+dnssec"), /flags: do/);
      assertEquals(upstream.asked.get("long.test"), 2);
      const ids = new Set(upstream.queries.map((query) => query.id));
      assert(ids.size >= 10, `${ids.size} different ids in ${upstream.queries.length} queries`);
    }),
);

clientTest(
  ["dig"],
  "dns example asks again when an answer is lost, and says SERVFAIL when upstream is gone",
  () =>
    withoutLeaks(async () => {
      await using upstream = new TestUpstream((_, name, transport, times) => {
        if (name === "lost.test" && times === 1) return undefined;
        if (name === "silent.test") return undefined;
        // A large answer whose connection ends too soon.
        if (name === "cut.test") return transport === "udp" ? { flags: dns.TRUNCATED_RESPONSE } : undefined;
        return { answers: [a(name, 100, "192.0.2.7")] };
      });
      await using server = await startDns(upstream.port, undefined, "--timeout", "300");
      assertMatch(await dig(server.port, "lost.test"), /192\.0\.2\.7/);
      assertEquals(upstream.asked.get("lost.test"), 2);
      assertMatch(await dig(server.port, "silent.test"), /status: SERVFAIL/);
      assertEquals(upstream.asked.get("silent.test"), 2);
      assertMatch(await dig(server.port, "cut.test"), /status: SERVFAIL/);
      // Many who ask the same at the same time are one question.
      const questions = [{ name: "silent.test", type: "A" as const }];
      const ids = Array.from({ length: 8 }, (_, id) => id);
      using endpoint = UdpEndpoint.bind({ hostname: LOCAL });
      for (const id of ids) {
        await endpoint.sendTo(dns.encode({ type: "query", id, questions }), { hostname: LOCAL, port: server.port });
      }
      const replies: number[] = [];
      while (replies.length < ids.length) replies.push((await endpoint.recvFrom(new Uint8Array(512))).data[1] ?? 0);
      assertEquals(replies.toSorted(), ids);
      assertEquals(upstream.asked.get("silent.test"), 4);
      await upstream[Symbol.asyncDispose]();
      assertMatch(await dig(server.port, "other.test"), /status: SERVFAIL/);
      assertMatch(await dig(server.port, "lost.test"), /192\.0\.2\.7/); // it is known already
      assertMatch(server.stderr.join(""), /^no answer from upstream: .*\n/);
    }),
);

Deno.test("dns example goes on after packets that are none", () =>
  withoutLeaks(async () => {
    await using upstream = new TestUpstream((_, name) => ({ answers: [a(name, 100, "192.0.2.7")] }));
    await using server = await startDns(upstream.port);
    using endpoint = UdpEndpoint.bind({ hostname: LOCAL });
    const to = { hostname: LOCAL, port: server.port };
    const query = dns.encode({
      type: "query",
      id: 7,
      flags: dns.RECURSION_DESIRED,
      questions: [{ name: "x.test", type: "A" }],
    });
    const send = async (p: Uint8Array) => {
      await endpoint.sendTo(p, to);
      // Some are answered, with an error or even in earnest; none must cost the next one its answer.
      for (;;) {
        await endpoint.sendTo(query, to);
        const p = Buffer.alloc(4096);
        const { data } = await endpoint.recvFrom(p);
        if (data[0] === 0 && data[1] === 7 && data.length > query.length) break;
      }
    };
    for (let i = 0; i < 100; i++) {
      const p = i % 3 === 0 ? randomBytes(i) : Buffer.from(query);
      if (i % 3 === 1) randomBytes(1 + i % 7).forEach((byte, n) => p[(byte * 31 + n) % p.length] = byte);
      await send(i % 3 === 2 ? p.subarray(0, i % query.length) : p);
    }
    // A name with a dot in a part would become another name, and a reply is none to be answered.
    const dotted = Buffer.concat([query.subarray(0, 12), Buffer.from("\x03a.b\x04test\0\0\x01\0\x01", "latin1")]);
    dotted[1] = 9;
    // Answers to the others may still come to the first endpoint, under any number.
    using asking = UdpEndpoint.bind({ hostname: LOCAL });
    await asking.sendTo(dotted, to);
    const { data } = await asking.recvFrom(new Uint8Array(512));
    assertEquals([...data], [0, 9, 0x81, 1, 0, 0, 0, 0, 0, 0, 0, 0]);
    // Over TCP, too: several queries at once, then half of one.
    using conn = await TcpConn.connect({ port: server.port });
    const message = Buffer.concat([Buffer.from([0, query.length]), query]);
    await conn.writeAll(Buffer.concat([message, message, message.subarray(0, 9)]));
    for (let i = 0; i < 2; i++) {
      const length = (await readExactly(conn, 2))[1] ?? 0;
      assertEquals(dns.decode(Buffer.from(await readExactly(conn, length))).answers?.length, 1);
    }
    await conn.closeWrite();
    assertEquals(await conn.read(new Uint8Array(1)), null);
    assertEquals(server.stderr.join(""), "");
  }));

Deno.test("Cache keeps what was asked for last, and no more than it has room for", () => {
  const cache = new Cache(3);
  const entry = entryOf(
    dns.decode(
      dns.encode({
        type: "response",
        questions: [{ name: "x.test", type: "A" }],
        answers: [a("x.test", 60, "192.0.2.1")],
      }),
    ),
  );
  for (const key of ["a", "b", "c"]) cache.add(key, entry);
  cache.get("a");
  cache.add("d", entry);
  assertEquals(["a", "b", "c", "d"].map((key) => cache.get(key) !== undefined), [true, false, true, true]);
  cache.add("e", { ...entry, ttl: 0 });
  cache.add("f", { ...entry, since: performance.now() - 60_000 });
  assertEquals([cache.get("e"), cache.get("f"), cache.size], [undefined, undefined, 2]);
});

for (
  const [args, problem] of [[["--upstream", "[::1"], "--upstream takes"], [
    ["--timeout", "0"],
    "--timeout takes",
  ]] as const
) {
  Deno.test(`dns example refuses ${args.join(" ")} with one line and exit code 2`, async () => {
    const { code, stdout, stderr } = await run(["run", "--no-prompt", "--allow-net", EXAMPLE, ...args]);
    assertEquals([code, stdout, stderr.trimEnd().split("\n").length], [2, "", 1]);
    assertMatch(stderr, new RegExp(`^${problem}`));
  });
}
