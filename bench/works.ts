/** The works that servers are measured at. */

/** One work: a number of connections and what they do. */
export interface Work {
  readonly name: string;
  readonly title: string;
  readonly kind: "echo" | "churn" | "idle" | "growth" | "udp" | "sink" | "kv" | "handover" | "hash";
  readonly connections: number;
  readonly size: number;
  /** Connections that another process holds open meanwhile and that do nothing. */
  readonly idle: number;
  /** Said to the server. */
  readonly args?: readonly string[];
  /** Said to redis-benchmark. */
  readonly load?: readonly string[];
  /** The load sends many datagrams as one message (`UDP_SEGMENT`). */
  readonly gso?: boolean;
  /** Its rounds last so many times as long as others. */
  readonly longer?: number;
  /** The server may use all cores. */
  readonly isSpread?: boolean;
  /** Who takes part when nobody is named. */
  readonly servers: readonly string[];
  /** The rows of C and of Deno that the others are compared with. */
  readonly yardsticks: { readonly c: string; readonly deno: string };
}

const TCP = { c: "c", deno: "deno" };

const ALL = ["c", "deno", "node", "bun", "ours-runtime", "ours-native", "ours-ready", "mux-epoll"];
/** What a time limit for each read costs. */
const BY_WAIT = [...ALL, "ours-timeout", "ours-signal"];
/** Those that differ in what a connection that does nothing costs. */
const BY_BACKEND = ["c", "bun", "ours-native", "ours-ready", "mux-epoll", "mux-poll", "mux-select"];

function echo(connections: number, size: number, name: string): Work {
  const bytes = size < 1024 ? `${size} B` : `${size / 1024} KiB`;
  const title = `${connections} × ${bytes}`;
  return { name, title, kind: "echo", connections, size, idle: 0, servers: ALL, yardsticks: TCP };
}

const UDP = [
  "c-udp-many",
  "c-udp-one",
  "deno-udp",
  "node-udp",
  "bun-udp",
  "ours-udp-runtime",
  "ours-udp-native",
  "ours-udp-batch",
];

function udp(size: number): Work {
  return {
    name: `udp16x${size}`,
    title: `16 × 16 × ${size} B`,
    kind: "udp",
    connections: 16,
    size,
    idle: 0,
    servers: UDP,
    yardsticks: { c: "c-udp-many", deno: "deno-udp" },
  };
}

function sink(size: number, gso: boolean): Work {
  return {
    ...udp(size),
    name: `sink${size}${gso ? "gso" : ""}`,
    title: `4 × ${size} B${gso ? " as UDP_SEGMENT" : ""}`,
    kind: "sink",
    connections: 4,
    args: ["--sink"],
    gso,
    servers: gso ? [...UDP, "c-udp-gro", "ours-udp-gro"] : UDP,
  };
}

/** Requests in Redis's protocol, so many under way on each connection. */
function kv(command: "get" | "set", pipeline: number): Work {
  return {
    name: `kv-${command}${pipeline === 1 ? "" : pipeline}`,
    title: `${command.toUpperCase()}${pipeline === 1 ? "" : `, ${pipeline} at a time`}`,
    kind: "kv",
    connections: 50,
    size: 3,
    idle: 0,
    load: ["-t", command, "-P", `${pipeline}`],
    servers: ["redis", "kv-epoll", "kv-runtime"],
    yardsticks: { c: "redis", deno: "redis" },
  };
}

/** Connections that are opened, used once and closed, so many at a time, by servers that hand them on. */
function handover(connections: number, servers: readonly string[]): Work {
  return {
    name: `handover${connections}`,
    title: connections === 1 ? "one at a time" : `${connections} at a time`,
    kind: "handover",
    connections,
    size: 64,
    idle: 0,
    servers: ["ours-native", ...servers],
    yardsticks: { c: "ours-native", deno: "ours-native" },
  };
}

const HANDED = ["pool-worker", "pool-process"];

function among(idle: number): Work {
  const title = `100 among ${idle.toLocaleString("en-US")}`;
  return {
    name: `among${idle}`,
    title,
    kind: "growth",
    connections: 100,
    size: 64,
    idle,
    servers: BY_BACKEND,
    yardsticks: TCP,
  };
}

export const WORKS: readonly Work[] = [
  echo(1, 64, "1x64"),
  echo(4, 64, "4x64"),
  echo(16, 64, "16x64"),
  { ...echo(100, 64, "100x64"), servers: BY_WAIT },
  echo(1000, 64, "1000x64"),
  echo(5000, 64, "5000x64"),
  echo(50, 16 * 1024, "50x16k"),
  { name: "churn", title: "churn", kind: "churn", connections: 64, size: 64, idle: 0, servers: ALL, yardsticks: TCP },
  {
    name: "idle",
    title: "10000 idle",
    kind: "idle",
    connections: 10_000,
    size: 64,
    idle: 0,
    servers: [...ALL, "ours-ready-runtime"],
    yardsticks: TCP,
  },
  {
    name: "idle-streams",
    title: "10000 idle, streams",
    kind: "idle",
    connections: 10_000,
    size: 64,
    idle: 0,
    servers: ["deno-streams", "streams-runtime", "streams-native"],
    yardsticks: { c: "deno-streams", deno: "deno-streams" },
  },
  udp(64),
  udp(1200),
  sink(64, false),
  sink(1200, false),
  sink(1200, true),
  kv("get", 1),
  kv("set", 1),
  kv("get", 16),
  kv("set", 16),
  handover(1, HANDED),
  handover(64, [...HANDED, "shared-worker", "shared-process"]),
  { ...handover(1, ["each-worker", "each-process"]), name: "handover-each", title: "a child for each", longer: 6 },
  {
    name: "hash",
    title: "8 × 64 B",
    kind: "hash",
    connections: 8,
    size: 64,
    idle: 0,
    isSpread: true,
    servers: ["worker-hash-1", "worker-hash-2", "process-hash-1", "process-hash-2"],
    yardsticks: { c: "worker-hash-1", deno: "process-hash-1" },
  },
  ...[0, 100, 500, 900, 5_000, 10_000, 19_000].map(among),
];

/** The works of `--quick`. */
export const QUICK_WORKS: readonly string[] = ["100x64", "50x16k", "churn"];
