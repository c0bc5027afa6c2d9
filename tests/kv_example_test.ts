/** `examples/kv.ts` with Redis's own clients, and beside the real redis-server. */

import { Multiplexer } from "@c10k/sockets/mux";
import { TcpConn } from "@c10k/sockets/tcp";
import { assert, assertEquals, assertLess, assertStringIncludes } from "@std/assert";
import { delay } from "@std/async";
import fc from "fast-check";
import { Buffer } from "node:buffer";
import { Requests } from "../examples/kv/requests.ts";
import { Redis, words } from "./_redis.ts";
import { clientTest, decode, encode, eventually, long, randomBytes, readExactly, run, ServerProcess } from "./_util.ts";

const EXAMPLE = "examples/kv.ts";
const NATIVE = Multiplexer.backends()[0] === "epoll";
const RUNS = Number(Deno.env.get("KV_RUNS") ?? 60);

function startKv(backend = NATIVE ? "epoll" : "runtime", ...args: string[]): Promise<ServerProcess> {
  const permissions = backend === "runtime" ? ["--allow-net"] : ["--allow-net", "--allow-ffi"];
  return ServerProcess.start([...permissions, EXAMPLE, "--port", "0", "--backend", backend, ...args]);
}

/** Sends bytes, ends its side, and returns all that comes back. */
async function exchange(port: number, bytes: Uint8Array): Promise<string> {
  using conn = await TcpConn.connect({ port });
  const got: Uint8Array[] = [];
  const reading = (async () => {
    const p = new Uint8Array(64 * 1024);
    for (let n = await conn.read(p); n !== null; n = await conn.read(p)) got.push(p.slice(0, n));
  })().catch(() => {}); // a server that does not read everything resets
  await conn.writeAll(bytes).then(() => conn.closeWrite()).catch(() => {});
  await reading;
  return Buffer.concat(got).toString("latin1");
}

/** Sends a request and returns its reply, which is a line or a bulk. */
async function ask(conn: TcpConn, ...request: string[]): Promise<string> {
  await conn.writeAll(words(request));
  let line = "";
  while (!line.endsWith("\r\n")) line += decode(await readExactly(conn, 1));
  const length = line.startsWith("$") ? Number(line.slice(1)) : -1;
  return length < 0 ? line.trimEnd() : decode(await readExactly(conn, length + 2));
}

async function client(port: number, command: string, args: string[], input?: Uint8Array): Promise<Uint8Array> {
  const child = new Deno.Command(command, {
    args: ["-p", String(port), ...args],
    stdin: input === undefined ? "null" : "piped",
    stdout: "piped",
    stderr: "piped",
  }).spawn();
  if (input !== undefined) {
    const writer = child.stdin.getWriter();
    await writer.write(input).then(() => writer.close());
  }
  const { code, stdout, stderr } = await child.output();
  assertEquals([code, decode(stderr)], [0, ""]);
  return stdout;
}

/** What the two must answer alike, byte by byte. `~` ends a line. */
const CASES: readonly string[] = [
  ...["*abc~", "*-5~PING~", "*0~PING~", "*1~$abc~PING~", "*1~PING~", "*1~$-1~", "*1~$536870913~", "*2147483648~"],
  ...["*1048577~", "*~", "*1~$~", "*01~", "*1~$04~PING~", "*1~:4~PING~", "*1~$4~PINGxx*1~$4~PING~", "*2~$4~ECHO~"],
  ...["*1~$0~~", "$4~PING~", "*-9223372036854775809~", "*1~$99999999999999999999~", "PING~*1~!~PING~"],
  ...[
    "~",
    "  ~PING~",
    "ping  hi~",
    "PING a b~",
    'set "a b" "c\\x41\\n\\q"~get "a b"~',
    "get 'it\\'s'~",
    'get "x~PING~',
  ],
  ...["get 'x\"~", 'get "a"b~', "PING\n", "\n", 'get ""~', "get a\\b~", 'get a"b c"~'],
  ...["FOO a b c~", "foo~", `${"x".repeat(200)} ${"y".repeat(100)} ${"z".repeat(100)}~`, "get~", "get a b~", "set a~"],
  ...["set a b EX~", "set a b EX 0~", "set a b EX x~", "set a b PX -1~", "set a b NX XX~", "set a b foo~"],
  ...[
    "set a b EX 1 PX 1~",
    "set a b EX 9223372036854775807~",
    "set a b PX 9223372036854775807~",
    "set a b ex 10 nx~get a~",
  ],
  ...["set a b xx~get a~", "set a 1~set a 2 xx~get a~", "set a 1 nx nx~get a~", "set a b EX 99999999999999999999 bar~"],
  ...["incr a~incr a~decr a~get a~", "set a x~incr a~", "set a 9223372036854775807~incr a~decr a~", "set a 01~incr a~"],
  ...[
    "set a -9223372036854775808~decr a~incr a~",
    "set a -0~incr a~",
    'set a " 1"~incr a~',
    "set a 9223372036854775808~incr a~",
  ],
  ...['set a ""~incr a~', "incr~", "set a 5 EX 100~incr a~ttl a~set a 6~ttl a~", "set a 1 EX 100~expire a 200~ttl a~"],
  ...["expire a 10~", "expire a~", "set a 1~expire a x~", "set a 1~expire a 10 foo~", "set a 1~expire a -1~exists a~"],
  ...["expire a 9223372036854775807~", "expire a -9223372036854775808~", "ttl a~", "set a 1~ttl a~", "ttl~"],
  ...[
    "mset a 1 b 2~mget a b c~dbsize~",
    "mset a~",
    "mset a 1 b~",
    "mset a 1 a 2~get a~",
    "mget~",
    "exists a a~",
    "del~",
  ],
  ...["mset a 1 b 2~del a b c a~exists a b~", "flushdb foo~", "flushdb a b~", "flushdb ASYNC~", "dbsize x~", "echo~"],
  ...["echo hi~", "config get save~", "config get APPENDonly~", "config get maxmemory~", "config~", "config foo~"],
  ...["config get~", "config get nothing*~", "command foo~", "command docs foo~", "hello 9~", "PoSt / HTTP/1.1~PING~"],
  ...["Host: localhost~PING~", "PING~POST~"],
];

async function compare(real: Redis, kv: ServerProcess, bytes: Uint8Array): Promise<void> {
  const input = Buffer.concat([encode("FLUSHDB\r\n"), bytes]);
  const [expected, received] = await Promise.all([exchange(real.port, input), exchange(kv.port, input)]);
  assertEquals(received, expected, `to ${JSON.stringify(input.toString("latin1"))}`);
}

for (const backend of NATIVE ? ["epoll", "runtime"] : ["runtime"]) {
  clientTest(["redis-server"], `[${backend}] kv example replies byte by byte as Redis does`, async () => {
    await using real = await Redis.start();
    await using kv = await startKv(backend);
    for (const line of CASES) await compare(real, kv, encode(line.replaceAll("~", "\r\n")));
    for (const start of ["", "*", "*1\r\n$"]) {
      for (const size of [65535, 65536 - start.length, 65537]) {
        await compare(real, kv, encode(start + "1".repeat(size)));
      }
    }
  });
}

const key = fc.constantFrom("a", "b", "c", "\xff\0 key");
const value = fc.oneof(
  fc.integer({ min: -3, max: 3 }).map(String),
  fc.constantFrom("9223372036854775807", "-9223372036854775808", "", "\r\n", "+1", "1.5", "0x1", "-0", "x".repeat(200)),
  fc.uint8Array({ maxLength: 40 }).map((bytes) => Buffer.from(bytes).toString("latin1")),
);
const time = fc.constantFrom("100", "5000", "0", "-1", "abc", "9223372036854775807", "92233720368547758070", "");
const cased = (name: string) => fc.constantFrom(name, name.toLowerCase());
const command = fc.oneof(
  fc.tuple(fc.constantFrom("GET", "INCR", "DECR", "TTL", "get", "DEL", "EXISTS"), key).map((parts) => [...parts]),
  fc.tuple(
    cased("SET"),
    key,
    value,
    fc.array(fc.oneof(cased("NX"), cased("XX"), cased("EX"), cased("PX"), time), { maxLength: 4 }),
  )
    .map(([name, key, value, rest]) => [name, key, value, ...rest]),
  fc.tuple(cased("EXPIRE"), key, time).map((parts) => [...parts]),
  fc.tuple(fc.constantFrom("MGET", "DEL", "EXISTS"), fc.array(key, { maxLength: 4 })).map((
    [name, keys],
  ) => [name, ...keys]),
  fc.array(fc.tuple(key, value), { maxLength: 3 }).map((pairs) => ["MSET", ...pairs.flat()]),
  fc.tuple(fc.constantFrom("PING", "ECHO", "DBSIZE", "FLUSHDB", "NOSUCH", "a\r\nb"), fc.array(value, { maxLength: 2 }))
    .map(([name, rest]) => [name, ...rest]),
);
/** Bytes that are nearly requests, and lines that are nearly quoted. */
const garbage = fc.oneof(
  fc.array(fc.constantFrom("*", "$", "1", "2", "4", "-", "\r\n", "\r", "\n", "PING", "GET", " ", "a"), {
    maxLength: 12,
  }),
  fc.array(fc.constantFrom("get ", '"', "'", "\\", "\\x4", "41", "\\n", " ", "a", "\t", "\v", "\r\n"), {
    maxLength: 12,
  }),
).map((parts) => parts.join(""));

clientTest(["redis-server"], "kv example replies as Redis does to whatever comes", async () => {
  await using real = await Redis.start();
  await using kv = await startKv();
  await fc.assert(
    fc.asyncProperty(fc.array(command, { minLength: 1, maxLength: 40 }), async (commands) => {
      await compare(real, kv, Buffer.concat(commands.map(words)));
    }),
    { numRuns: RUNS },
  );
  await fc.assert(
    fc.asyncProperty(garbage, (text) => compare(real, kv, encode(text + "\r\n"))),
    { numRuns: 3 * RUNS },
  );
  assertEquals(kv.stderr.join(""), "");
});

Deno.test("Requests.next() finds the same words however the bytes come in pieces", () => {
  const word = fc.oneof(fc.uint8Array({ maxLength: 30 }), fc.uint8Array({ minLength: 100, maxLength: 300 }));
  const request = fc.array(word, { minLength: 1, maxLength: 8 });
  fc.assert(fc.property(
    fc.array(request, { maxLength: 12 }),
    fc.array(fc.integer({ min: 1, max: 500 }), { minLength: 1, maxLength: 20 }),
    (requests, sizes) => {
      const texts = requests.map((words) => words.map((word) => Buffer.from(word).toString("latin1")));
      const stream = Buffer.concat(texts.map(words));
      const buffer = Buffer.alloc(512);
      const parser = new Requests();
      const found: string[][] = [];
      for (let at = 0, i = 0; at < stream.length; i++) {
        const piece = stream.subarray(at, at + (sizes[i % sizes.length] ?? 1));
        buffer.fill(0).set(piece);
        parser.add(buffer, piece.length);
        while (parser.next()) found.push(Array.from({ length: parser.count }, (_, i) => parser.text(i)));
        parser.keep();
        at += piece.length;
      }
      assertEquals(found, texts);
      assertEquals(parser.held, 0);
    },
  ));
});

clientTest(["redis-cli"], "kv example serves redis-cli", async () => {
  await using kv = await startKv();
  const cli = async (...args: string[]) => decode(await client(kv.port, "redis-cli", args));
  assertEquals(await cli("set", "greeting", "hello", "EX", "100"), "OK\n");
  assertEquals(await cli("get", "greeting"), "hello\n");
  assertEquals(await cli("-2", "incr", "n"), "1\n");
  // Asks for RESP3, is told no, and goes on.
  const asks = await new Deno.Command("redis-cli", { args: ["-p", `${kv.port}`, "-3", "get", "greeting"] }).output();
  assertEquals([decode(asks.stdout), asks.code], ["hello\n", 0]);
  assertEquals(decode(asks.stderr), "HELLO 3 failed: NOPROTO unsupported protocol version\n");
  assertStringIncludes(await cli("info", "keyspace"), "db0:keys=2,expires=1");
  assertStringIncludes(await cli("info"), "connected_clients:1");
  assertEquals(await cli("command", "count"), "18\n");
  assertStringIncludes(await cli("command"), "flushdb");

  const data = randomBytes(3 * 1024 * 1024);
  assertEquals(decode(await client(kv.port, "redis-cli", ["-x", "set", "bytes"], data)), "OK\n");
  const got = await client(kv.port, "redis-cli", ["--raw", "get", "bytes"]);
  assert(Buffer.from(data).equals(got.subarray(0, -1)), "3 MiB come back as they were");

  const many = Array.from({ length: 20_000 }, (_, i) => `set key:${i} ${i}\r\n`).join("");
  assertStringIncludes(decode(await client(kv.port, "redis-cli", ["--pipe"], encode(many))), "replies: 20000");
  assertEquals(await cli("dbsize"), "20003\n");
  assertEquals(await cli("mget", "key:7", "key:19999"), "7\n19999\n");
});

long(clientTest)(["redis-benchmark"], "kv example serves redis-benchmark", async () => {
  await using kv = await startKv();
  const benchmark = async (...args: string[]) =>
    decode(await client(kv.port, "redis-benchmark", ["--csv", "-t", "set,get,incr,mset,ping", ...args]));
  for (const pipeline of ["1", "16"]) {
    const lines = (await benchmark("-P", pipeline, "-n", "2000", "-r", "500", "-c", "20")).trim().split("\n");
    assertEquals(lines.map((line) => line.split(",")[0]), [
      ...['"test"', '"PING_INLINE"', '"PING_MBULK"', '"SET"', '"GET"', '"INCR"', '"MSET (10 keys)"'],
    ]);
  }
  assertEquals(kv.stderr.join(""), "");
});

Deno.test("kv example removes keys that are due, whether asked for or not", async () => {
  await using kv = await startKv();
  using conn = await TcpConn.connect({ port: kv.port });
  assertEquals(await ask(conn, "SET", "asked", "x", "PX", "1"), "+OK");
  assertEquals(await ask(conn, "SET", "stays", "x", "EX", "100"), "+OK");
  while (await ask(conn, "GET", "asked") !== "$-1") await delay(1);
  const requests = Array.from({ length: 5_000 }, (_, i) => words(["SET", `key:${i}`, "x", "PX", "1"]));
  await conn.writeAll(Buffer.concat(requests));
  await readExactly(conn, 5 * requests.length);
  while (await ask(conn, "DBSIZE") !== ":1") await delay(10);
  assertEquals(await ask(conn, "EXISTS", "stays"), ":1");
});

Deno.test("kv example answers what came at once at once", async () => {
  await using kv = await startKv();
  using conn = await TcpConn.connect({ port: kv.port });
  await conn.writeAll(encode("PING\r\n".repeat(1000)));
  // One segment on loopback, if it is one write.
  const p = new Uint8Array(64 * 1024);
  assertEquals(await conn.read(p), 7000);
});

Deno.test({
  name: "kv example keeps little for clients that announce much, send slowly or fetch nothing",
  ignore: Deno.build.os !== "linux", // the memory is read from /proc
  async fn() {
    await using kv = await startKv();
    using steady = await TcpConn.connect({ port: kv.port });
    assertEquals(await ask(steady, "SET", "large", "x".repeat(1_000_000)), "+OK");
    const before = kv.rss();
    const conns: TcpConn[] = [];
    const fetched: Promise<unknown>[] = [];
    for (let i = 0; i < 20; i++) {
      const [announcing, slow, greedy] = await Promise.all([1, 2, 3].map(() => TcpConn.connect({ port: kv.port })));
      if (announcing === undefined || slow === undefined || greedy === undefined) throw new Error("not connected");
      conns.push(announcing, slow, greedy);
      await announcing.writeAll(encode("*2147483647\r\n$536870912\r\nthe beginning"));
      await slow.writeAll(encode("*2\r\n$3\r\nGE"));
      // 20 MB each, of which one reply and some is kept.
      fetched.push(greedy.writeAll(encode("GET large\r\n".repeat(20))));
    }
    await Promise.all(fetched);
    assertEquals(await ask(steady, "PING"), "+PONG");
    const growth = (kv.rss() - before) / 1024 / 1024;
    assertLess(growth, 120, `the server grew by ${growth.toFixed(1)} MiB`);

    // All of it comes once somebody reads.
    const [, slow, greedy] = conns;
    await slow?.writeAll(encode("T\r\n$5\r\nlarge\r\n"));
    const reply = "$1000000\r\n".length + 1_000_002;
    for (const [conn, count] of [[slow, 1], [greedy, 20]] as const) {
      if (conn === undefined) continue;
      for (let i = 0; i < count; i++) await readExactly(conn, reply);
    }
    for (const conn of conns) conn.close();
    await eventually(() => kv.stderr.length === 0 ? true : undefined);
    while (!(await ask(steady, "INFO", "memory")).includes("client_buffers:0\r\n")) await delay(5);
  },
});

Deno.test("kv example hangs up on who wants more memory than there is for all", async () => {
  await using kv = await startKv(undefined, "--buffers", "8");
  using steady = await TcpConn.connect({ port: kv.port });
  assertEquals(await ask(steady, "SET", "large", "x".repeat(1_000_000)), "+OK");
  for (
    const request of [words(["MGET", ...Array<string>(20).fill("large")]), words(["SET", "k", "x".repeat(9_000_000)])]
  ) {
    const begun = await exchange(kv.port, request);
    assertLess(begun.length, 1_000_000);
  }
  assertEquals(await ask(steady, "EXISTS", "k"), ":0");
  await eventually(() => kv.stderr.join("").match(/hung up on .*\n/g)?.length === 2 ? true : undefined);
});

for (
  const [args, problem] of [
    [["--port", "65536"], "port must be"],
    [["--buffers", "few"], "--buffers takes a number of MiB from 1"],
  ] as const
) {
  Deno.test(`kv example refuses ${args.join(" ")} with one line and exit code 2`, async () => {
    const { code, stdout, stderr } = await run(["run", "--no-prompt", "--allow-net", EXAMPLE, ...args]);
    assertEquals([code, stdout, stderr.trimEnd().split("\n").length], [2, "", 1]);
    assertStringIncludes(stderr, problem);
  });
}

Deno.test({
  name: "kv example ends on SIGTERM with exit code 0",
  ignore: Deno.build.os === "windows",
  async fn() {
    await using kv = await startKv();
    const line = /try it: redis-cli -h 127\.0\.0\.1 -p \d+ set greeting hello\n/;
    await eventually(() => line.test(kv.stdout.join("")) ? true : undefined);
    assertEquals(await kv.stop("SIGTERM"), 0);
  },
});
