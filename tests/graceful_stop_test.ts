/**
 * Servers of the examples and documents: peers that go away disturb no other, and when a server is told to end while
 * clients wait in the accept queue, every client that has connected gets its answer.
 */

import { TcpConn, TcpListener } from "@c10k/sockets/tcp";
import { UdpEndpoint } from "@c10k/sockets/udp";
import { type Balance, Pool, type PoolOptions } from "@c10k/sockets/process";
import { assert, assertEquals, assertMatch, assertRejects } from "@std/assert";
import { deadline } from "@std/async";
import { examplesIn } from "../tools/examples.ts";
import { haunt, hauntUdp } from "./_hostile.ts";
import { descendants } from "./_process.ts";
import {
  decode,
  encode,
  ENGINES,
  isMeasured,
  long,
  ROOT,
  runDeno,
  ServerProcess,
  some,
  withoutLeaks,
} from "./_util.ts";

const CLIENTS = 30;
/** Where each has a thread or process of its own, which takes its time to start. */
const FEW = 3;
const NET = "--allow-net";
const FFI = "--allow-ffi";

/** One way to start an example: what a client sends, and what it is answered. */
interface Case {
  readonly example: string;
  readonly flags: readonly string[];
  readonly args?: readonly string[];
  readonly request?: Uint8Array<ArrayBuffer>;
  readonly answer?: RegExp;
  readonly few?: boolean;
  /** A client waits for the answer before it finishes: one that chats leaves when it has. */
  readonly stays?: boolean;
}

/** A question of DNS for the address of "a.test", as TCP carries it. */
const QUERY = Uint8Array.from([
  ...[0, 24, 7, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0],
  ...[1, 97, 4, 116, 101, 115, 116, 0, 0, 1, 0, 1],
]);

/** An upstream of DNS that knows nothing of any name, and a server behind the proxy; `using` ends them. */
function startOthers(): Disposable & { readonly upstream: string; readonly server: string } {
  const upstream = UdpEndpoint.bind({ hostname: "127.0.0.1" });
  const server = TcpListener.bind({ hostname: "127.0.0.1", port: 0 });
  const answering = (async () => {
    for await (const [data, address] of upstream) {
      data.set([(data[2] as number) | 0x80, 0], 2);
      await upstream.sendTo(data, address);
    }
  })();
  const echoing = (async () => {
    for await (const conn of server) conn.readable.pipeTo(conn.writable).catch(() => conn.close());
  })();
  return {
    upstream: `127.0.0.1:${upstream.addr.port}`,
    server: `127.0.0.1:${server.addr.port}`,
    [Symbol.dispose]() {
      upstream.close();
      server.close();
      Promise.all([answering, echoing]);
    },
  };
}

function casesOf(engine: string, { upstream, server }: { upstream: string; server: string }): Case[] {
  const net = engine === "native" ? [NET, FFI] : [NET];
  const flags = [...net, "--allow-read"];
  const ping = { request: encode("PING\r\n"), answer: /^\+PONG\r\n$/ };
  const who = { request: encode("/who\n"), answer: /\* in lobby: .*\n[^]*\* in lobby: /, stays: true };
  const perConnection = ["--model", "worker-per-connection", "--size", "2"];
  const same: Case[] = [
    { example: "echo", flags: net },
    { example: "echo", flags: net, args: ["--model", "iterative"] },
    { example: "echo", flags, args: ["--model", "worker", "--size", "2"] },
    // The third client waits for a thread to end.
    ...(isMeasured ? [] : [{ example: "echo", flags, args: perConnection, few: true }]),
    { example: "proxy", flags: net, args: [server] },
    { example: "workers", flags, args: ["--threads", "2"] },
    { example: "inetd", flags: [...net, "--allow-run"], args: ["--max", "10"] },
    // deno-lint-ignore no-control-regex -- a DNS message is binary
    { example: "dns", flags: net, args: ["--upstream", upstream], request: QUERY, answer: /^\0.\x07\x07/s },
  ];
  if (engine === "runtime") {
    const args = ["--backend", "runtime"];
    return [
      ...same,
      { example: "mux_echo", flags: net, args },
      { example: "kv", flags: net, args, ...ping },
      { example: "chat", flags: net, args, ...who },
    ];
  }
  const processes = [...flags, "--allow-run"];
  const balances = ["shared", "reuseport", "round-robin", "least-connections"];
  return [
    ...same,
    ...["select", "poll", "epoll"].map((model) => ({ example: "echo", flags: net, args: ["--model", model] })),
    { example: "kv", flags: net, ...ping },
    { example: "chat", flags: net, ...who },
    ...balances.map((balance) => (
      { example: "processes", flags: processes, args: ["--size", "2", "--balance", balance] }
    )),
    { example: "processes", flags: processes, args: ["--size", "2", "--per", "connection"], few: true },
  ];
}

/** Connects, sends and reads to the end. */
async function ask(port: number, { request = encode("hello\n"), stays = false, answer = /^hello\n$/ }: Case) {
  const conn = await TcpConn.connect({ port });
  await conn.writeAll(request);
  if (!stays) await conn.closeWrite();
  const read = async () => {
    let text = "";
    try {
      const p = new Uint8Array(4096);
      for (let n = await conn.read(p); n !== null; n = await conn.read(p)) {
        text += decode(p.subarray(0, n));
        if (stays && answer.test(text)) break;
      }
    } catch (error) {
      text += (error as Error).message;
    }
    conn.close();
    return text;
  };
  return read;
}

/**
 * Lets peers reset their connections, and one ask; then lets clients connect while no process of the server runs, asks it
 * to end, and lets it run again.
 */
async function tryOut(one: Case): Promise<void> {
  const { example, flags, args = [], few = false, request = encode("hello\n"), answer = /^hello\n$/ } = one;
  await using server = await ServerProcess.start([...flags, `examples/${example}.ts`, "--port", "0", ...args]);
  if (!few) await haunt(server.port, request);
  if (example === "dns") await hauntUdp(server.port);
  const read = await ask(server.port, one);
  assertMatch(await deadline(read(), 30_000), answer, `${example} ${args.join(" ")}: ${server.stderr.join("")}`);
  server.stderr.length = 0; // what it has to say of them is its own affair
  const pids = [server.pid, ...(example === "inetd" ? [] : descendants(server.pid))];
  for (const pid of pids) Deno.kill(pid, "SIGSTOP");
  let asking: (() => Promise<string>)[];
  try {
    asking = await Promise.all(Array.from({ length: few ? FEW : CLIENTS }, () => ask(server.port, one)));
    Deno.kill(server.pid, "SIGTERM");
  } finally {
    for (const pid of pids) Deno.kill(pid, "SIGCONT");
  }
  const answers = await Promise.all(asking.map((read) => deadline(read(), 30_000)));
  const name = `${example} ${args.join(" ")}: ${server.stderr.join("")}`;
  assertEquals(answers.filter((text) => !answer.test(text)), [], name);
  assertMatch(answers[0] ?? "", answer);
  assertEquals(await server.ended(), 0, name);
  // cat(1) says what it thinks of peers that reset.
  if (example !== "inetd") assertEquals(server.stderr.join(""), "", name);
}

for (const engine of ENGINES) {
  Deno.test({
    name: `[${engine}] examples outlive peers that reset, and with SIGTERM answer every client that has connected`,
    ignore: Deno.build.os === "windows",
    fn: (t) =>
      withoutLeaks(async () => {
        using others = startOthers();
        for (const one of some(2, casesOf(engine, others))) {
          await t.step(`${one.example} ${one.args?.join(" ").replace(/\d{5}/, "PORT") ?? ""}`, () => tryOut(one));
        }
      }),
  });
}

/**
 * A child that answers one request, for which it has a second (half of one, lest the machine is busy); what is there already can take longer on a busy
 * machine, where it comes by way of another thread.
 */
const ASKED = `
  import { serve } from "${import.meta.resolve("@c10k/sockets/process")}";
  await serve(async (conn, { signal }) => {
    const p = new Uint8Array(100);
    const since = performance.now();
    const n = await conn.read(p, { signal }).catch((error) => {
      if (performance.now() - since < 500) throw error;
      return conn.read(p);
    });
    await new Promise((resolve) => setTimeout(resolve, 20));
    await conn.writeAll(p.subarray(0, n ?? 0));
  });
`;

/** Connects `count` clients with a request each. */
async function askAll(port: number, count: number): Promise<() => Promise<string[]>> {
  const asking = await Promise.all(Array.from({ length: count }, () => ask(port, { example: "", flags: [] })));
  return () => Promise.all(asking.map((read) => deadline(read(), 30_000)));
}

const POOLS: readonly Partial<PoolOptions>[] = [
  ...(ENGINES.includes("native") ? ["shared", "reuseport"] as const : []).map((balance) => ({ balance })),
  ...["round-robin", "least-connections"].map((balance) => ({ balance: balance as Balance })),
  { per: "connection", size: 3 },
];

for (const engine of ENGINES) {
  for (
    const one of some(
      2,
      POOLS.filter(({ balance }) => engine === "native" || !/shared|reuseport/.test(balance ?? "")),
    )
  ) {
    Deno.test(`[${engine}] Pool.close() serves all that are queued, with ${JSON.stringify(one)}`, () =>
      withoutLeaks(async () => {
        const module = `data:application/typescript,${encodeURIComponent(ASKED)}`;
        const listen = { hostname: "127.0.0.1", port: 0, engine };
        const common = { kind: "worker", module, size: 2, signals: false, grace: 20_000 } as const;
        // Most of them find no room when the pool closes.
        const pool = await Pool.start({ ...common, listen, maxConnections: 3, ...one });
        const answers = await askAll(pool.addr.port, 12);
        const closed = pool.close();
        assertEquals(await answers(), Array(12).fill("hello\n"));
        await closed;
        await assertRejects(() => TcpConn.connect({ port: pool.addr.port }), Deno.errors.ConnectionRefused);
      }));
  }
}

long(Deno.test)({
  name: "Pool.reload(), and another program that takes over, serve all that are queued",
  ignore: !ENGINES.includes("native"),
  async fn() {
    const module = `data:application/typescript,${encodeURIComponent(ASKED)}`;
    const folder = await Deno.makeTempDir();
    const options = {
      ...{ kind: "worker", module, size: 2, signals: false, maxConnections: 2 } as const,
      listen: { hostname: "127.0.0.1", port: 0 },
      control: `${folder}/control`,
    };
    const pool = await Pool.start(options);
    const { port } = pool.addr;
    let answers = await askAll(port, 12);
    await pool.reload();
    assertEquals(await answers(), Array(12).fill("hello\n"));
    answers = await askAll(port, 12);
    const next = await Pool.start(options);
    await pool.closed;
    assertEquals(await answers(), Array(12).fill("hello\n"));
    await next.close();
    await Deno.remove(folder, { recursive: true });
  },
});

/** Servers in documents, by their headings: each goes on after peers that reset, as its own client in the snippet finds. */
const SERVERS: readonly [path: string, title: string][] = [
  ["docs/four-ways.md", "8. One connection at a time"],
  ["docs/four-ways.md", "10. Threads"],
  ["docs/four-ways.md", "13. epoll"],
  ["docs/recipes.md", "Limit the number of connections"],
  ["docs/recipes.md", "Shut down gracefully"],
  ["docs/recipes.md", "Serve on all cores"],
  ["tcp/tcp_listener.ts", "Serve every client"],
  ["mux/multiplexer.ts", "An echo server in one thread"],
];

for (const [path, title] of some(2, SERVERS)) {
  Deno.test(`${path}: "${title}" outlives peers that reset`, async () => {
    const found = examplesIn(path, await Deno.readTextFile(new URL(path, ROOT))).find((one) => one.title === title);
    assert(found !== undefined, "there is no such example");
    const haunted = new URL("./_hostile.ts", import.meta.url);
    for (
      const flags of ENGINES.map((engine) => engine === "native" ? ["--allow-all"] : ["--allow-all", "--deny-ffi"])
    ) {
      if (flags.length > 1 && path === "docs/four-ways.md" && !title.startsWith("8.")) continue;
      const source = `import { hauntListeners } from "${haunted}";\nhauntListeners();\n${found.code}`;
      const { code, stderr } = await runDeno([...flags, "--no-check"], source);
      assertEquals([code, stderr], [0, ""], flags.join(" "));
    }
  });
}
