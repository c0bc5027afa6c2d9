/** The servers that are compared, and how each is started. */

import { buildUdpYardstick, buildYardstick } from "./build.ts";
import { getAvailablePort } from "@std/net";
import { capture, Unavailable } from "./processes.ts";

/** A server's rows in the table. */
export interface Contestant {
  readonly name: string;
  readonly title: string;
  /** The command; rejects with `Unavailable` when there is none. */
  command(): Promise<readonly string[]>;
  /** Whether the program itself allocates a buffer per connection. */
  readonly ownBuffers: boolean;
}

const FOLDER = `${import.meta.dirname}/servers`;

function deno(permissions: readonly string[], script: string, ...args: string[]) {
  return [
    Deno.execPath(),
    "run",
    "--quiet",
    "--no-prompt",
    ...permissions,
    `${FOLDER}/${script}`,
    ...args,
  ];
}

/** Others are seen through their own eyes: a wrapper must not be measured. */
const EXEC_PATH = "console.log(process.execPath)";

async function bun(): Promise<string> {
  try {
    return await capture(["bun", "-e", EXEC_PATH], 10_000);
  } catch (error) {
    if (!(error instanceof Unavailable)) throw error;
  }
  try {
    return await capture(["npx", "-y", "bun@1", "-e", EXEC_PATH], 90_000);
  } catch (error) {
    if (!(error instanceof Unavailable)) throw error;
    throw new Unavailable(`no bun, and npx cannot get it: ${error.message}`);
  }
}

export const CONTESTANTS: readonly Contestant[] = [
  {
    name: "c",
    title: "C epoll",
    ownBuffers: false,
    command: async () => [await buildYardstick()],
  },
  {
    name: "deno",
    title: "Deno.listen",
    ownBuffers: true,
    command: () => Promise.resolve(deno(["--allow-net"], "deno_listen.ts")),
  },
  {
    name: "node",
    title: "Node net",
    ownBuffers: false,
    command: async () => [
      await capture(["node", "-e", EXEC_PATH], 10_000),
      `${FOLDER}/node_net.mjs`,
    ],
  },
  {
    name: "bun",
    title: "Bun",
    ownBuffers: false,
    command: async () => [await bun(), `${FOLDER}/bun_echo.ts`],
  },
  ours("ours-runtime", "ours runtime", "runtime", "read"),
  ours("ours-native", "ours native", "native", "read"),
  ours("ours-ready", "ours native, ready", "native", "ready"),
  ours("ours-ready-runtime", "ours runtime, ready", "runtime", "ready"),
  ours("ours-timeout", "ours native, timeout", "native", "timeout"),
  ours("ours-signal", "ours native, AbortSignal.timeout", "native", "signal"),
  {
    name: "deno-streams",
    title: "Deno.listen, streams",
    ownBuffers: false,
    command: () => Promise.resolve(deno(["--allow-net"], "streams.ts", "deno")),
  },
  ...(["runtime", "native"] as const).map((engine): Contestant => ({
    name: `streams-${engine}`,
    title: `ours ${engine}, streams`,
    ownBuffers: false,
    command: () => {
      const permissions = engine === "native" ? ["--allow-net", "--allow-ffi"] : ["--allow-net"];
      return Promise.resolve(deno(permissions, "streams.ts", engine));
    },
  })),
  ...(["epoll", "poll", "select"] as const).map((backend): Contestant => ({
    name: `mux-${backend}`,
    title: `mux ${backend}`,
    ownBuffers: false,
    command: () =>
      Promise.resolve(
        deno(["--allow-net", "--allow-ffi"], "ours_mux.ts", "--backend", backend),
      ),
  })),
  ...(["many", "one", "gro"] as const).map((calls): Contestant => ({
    name: `c-udp-${calls}`,
    title: { many: "C recvmmsg", one: "C recvfrom", gro: "C UDP_GRO" }[calls],
    ownBuffers: false,
    command: async () => [await buildUdpYardstick(), calls],
  })),
  {
    name: "deno-udp",
    title: "Deno.listenDatagram",
    ownBuffers: false,
    command: () => Promise.resolve(deno(["--allow-net", "--unstable-net"], "deno_datagram.ts")),
  },
  {
    name: "node-udp",
    title: "Node dgram",
    ownBuffers: false,
    command: async () => [await capture(["node", "-e", EXEC_PATH], 10_000), `${FOLDER}/node_dgram.mjs`],
  },
  {
    name: "bun-udp",
    title: "Bun udpSocket",
    ownBuffers: false,
    command: async () => [await bun(), `${FOLDER}/bun_udp.ts`],
  },
  ...([["one", "runtime"], ["one", "native"], ["many", "native"], ["gro", "native"]] as const).map((
    [calls, engine],
  ): Contestant => ({
    name: `ours-udp-${{ one: engine, many: "batch", gro: "gro" }[calls]}`,
    title: `ours ${{ one: engine, many: "batches", gro: "batches, gro" }[calls]}`,
    ownBuffers: false,
    command: () => {
      const permissions = engine === "native" ? ["--allow-net", "--allow-ffi"] : ["--allow-net", "--unstable-net"];
      return Promise.resolve(deno(permissions, "ours_udp.ts", calls, engine));
    },
  })),
  {
    name: "redis",
    title: "redis-server",
    ownBuffers: false,
    async command() {
      await capture(["redis-server", "--version"], 5_000);
      const port = getAvailablePort();
      const flags = `--port ${port} --bind 127.0.0.1 --save '' --appendonly no --dir /tmp --loglevel warning`;
      // It does not say where it listens as others do; the shell is gone before it begins.
      return ["sh", "-c", `echo listening 127.0.0.1:${port}; exec redis-server ${flags}`];
    },
  },
  ...(["epoll", "runtime"] as const).map((backend): Contestant => ({
    name: `kv-${backend}`,
    title: `ours kv, ${backend}`,
    ownBuffers: false,
    command: () => {
      const permissions = backend === "epoll" ? ["--allow-net", "--allow-ffi"] : ["--allow-net"];
      return Promise.resolve(deno(permissions, "../../examples/kv.ts", "--port", "0", "--backend", backend));
    },
  })),
  ...(["worker", "process"] as const).flatMap((kind) => [
    pool(`pool-${kind}`, `handed to a ${kind}`, { kind, balance: "round-robin", size: 1 }),
    pool(`shared-${kind}`, `accepted by a ${kind}`, { kind, balance: "shared", size: 1 }),
    pool(`each-${kind}`, `a ${kind} each`, { kind, per: "connection", size: 64 }),
    ...[1, 2].map((size) => pool(`${kind}-hash-${size}`, `${size} × ${kind}`, { kind, size, handler: "hash" })),
  ]),
];

/** An echo server on an engine of this library, which waits in one way. */
function ours(name: string, title: string, engine: "runtime" | "native", wait: string): Contestant {
  const permissions = engine === "native" ? ["--allow-net", "--allow-ffi"] : ["--allow-net"];
  const command = deno(permissions, "ours.ts", "--engine", engine, "--wait", wait);
  return { name, title, ownBuffers: wait !== "ready", command: () => Promise.resolve(command) };
}

/** A server that is a `Pool` with these options. */
function pool(name: string, title: string, options: Record<string, unknown>): Contestant {
  const permissions = ["--allow-net", "--allow-ffi", "--allow-read", "--allow-run"];
  const command = deno(permissions, "pool.ts", JSON.stringify(options));
  return { name, title, ownBuffers: false, command: () => Promise.resolve(command) };
}

export const SERVER_NAMES: readonly string[] = CONTESTANTS.map((c) => c.name);

/** The servers of `--quick`: what needs no network and has a target to meet. */
export const QUICK_SERVERS: readonly string[] = [
  "c",
  "deno",
  "ours-runtime",
  "ours-native",
  "ours-ready",
  "mux-epoll",
];
