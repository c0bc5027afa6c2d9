/** The ways to serve many clients, in the order in which one learns of them. */

import { engineSupport } from "@c10k/sockets/tcp";

/** One way, and how `examples/echo.ts` is told to take it. */
export interface Way {
  readonly title: string;
  readonly model: string;
  /** `"any"`: native where there is one. */
  readonly engine: "native" | "runtime" | "any";
  /** What the server may do, beside `--allow-net`. */
  readonly permissions: readonly string[];
}

const FFI = "--allow-ffi";
const READ = "--allow-read";
const RUN = "--allow-run";

/** All ways. */
export const WAYS: readonly Way[] = [
  { title: "one after the other", model: "iterative", engine: "any", permissions: [FFI] },
  { title: "a process for each", model: "process-per-connection", engine: "native", permissions: [FFI, READ, RUN] },
  { title: "a thread for each", model: "worker-per-connection", engine: "any", permissions: [FFI, READ] },
  { title: "pool of processes", model: "process", engine: "native", permissions: [FFI, READ, RUN] },
  { title: "pool of threads", model: "worker", engine: "any", permissions: [FFI, READ] },
  { title: "select", model: "select", engine: "native", permissions: [FFI] },
  { title: "poll", model: "poll", engine: "native", permissions: [FFI] },
  { title: "epoll", model: "epoll", engine: "native", permissions: [FFI] },
  { title: "async, native", model: "async", engine: "native", permissions: [FFI] },
  { title: "async, runtime", model: "async", engine: "runtime", permissions: [] },
];

/** Threads or processes that there may be with one for each connection: `examples/echo.ts` takes no more. */
const MOST = 10_000;

/** The arguments of `deno` that start the server of a way. */
export function commandOf(way: Way, clients: number): string[] {
  const { model } = way;
  const module = new URL("./server.ts", import.meta.url).href;
  const engine = way.engine === "any" ? engineSupport().engine : way.engine;
  const permissions = way.permissions.filter((flag) => engine === "native" || flag !== FFI);
  const size = model.endsWith("-per-connection") ? ["--size", `${Math.min(clients, MOST)}`] : [];
  const flags = ["run", "--quiet", "--no-prompt", "--allow-net", ...permissions];
  return [...flags, module, "--port", "0", "--model", model, "--engine", engine, ...size];
}
