/**
 * An echo server: everything that a client sends comes back. One program, and
 * all the ways in which a server can deal with many clients.
 *
 *     deno task example:echo --model epoll
 *     deno run --allow-net examples/echo.ts                                 # async
 *     deno run --allow-net examples/echo.ts udp                             # datagrams
 *     deno run --allow-net --allow-ffi examples/echo.ts --model select      # or poll, epoll; with udp, too
 *     deno run --allow-net --allow-read examples/echo.ts --model worker     # --allow-ffi hands over the sockets themselves
 *     deno run --allow-net --allow-ffi --allow-read --allow-run examples/echo.ts --model process-per-connection
 *
 * Ctrl-C or SIGTERM: no new connections, open ones may finish for 5 s or until
 * the next Ctrl-C.
 */

import { parseArgs } from "@std/cli";
import { startAsync } from "./echo_models/async.ts";
import { type EchoServer, type Listen, readListen, refuse, run } from "./echo_models/program.ts";

const USAGE = `Usage: echo.ts [udp] [--host 127.0.0.1] [--port 8080] [--engine auto|runtime|native] [--model MODEL]
  MODEL, and what serves the connections:
    async                    one thread, an async function for each of them (the default)
    iterative                one thread, one connection after the other
    select, poll, epoll      one thread that watches all of them
    worker, process          threads or processes, --size of them (as many as cores)
    worker-per-connection    a fresh thread for each; also --model worker --per connection
    process-per-connection   a fresh process for each; --size of them at most (100)
    ready                    as async, with one buffer for all connections
  udp: datagrams, which async, select, poll and epoll can serve`;

const MODELS = [
  "async",
  "iterative",
  ...["select", "poll", "epoll"] as const,
  ...["worker", "process", "worker-per-connection", "process-per-connection"] as const,
  "ready",
] as const;
type Model = typeof MODELS[number];

interface Flags {
  readonly listen: Listen;
  readonly model: Model;
  /** Threads or processes, at most. */
  readonly size: number;
  readonly isUdp: boolean;
}

function readFlags(args: string[]): Flags {
  const flags = parseArgs(args.filter((arg) => arg !== "--"), {
    string: ["host", "port", "engine", "model", "per", "size"],
    boolean: ["help"],
    default: { host: "127.0.0.1", port: "8080", engine: "auto", model: "async" },
    unknown: (arg) => arg === "udp" || refuse(`Unknown argument "${arg}"`),
  });
  if (flags.help) {
    console.log(USAGE);
    Deno.exit(0);
  }
  const listen = readListen(flags);
  const model = readModel(flags.model, flags.per);
  const isUdp = flags._.length > 0;
  if (isMux(model) && listen.engine === "runtime") {
    refuse(`--model ${model} watches the kernel's own sockets, which --engine runtime has none of`);
  }
  if (model.startsWith("process") && listen.engine === "runtime") {
    refuse(`--model ${model} hands the kernel's own sockets over, which --engine runtime has none of`);
  }
  if (isUdp && model !== "async" && !isMux(model)) {
    refuse(`--model ${model} deals with connections, which udp has none of: take async, select, poll or epoll`);
  }
  return { listen, model, isUdp, size: readSize(flags.size, model) };
}

function readModel(name: unknown, per: unknown): Model {
  const model = MODELS.find((model) => model === name);
  if (model === undefined) return refuse(`--model takes ${MODELS.join(", ")}, not "${name}"`);
  if (per === undefined) return model;
  if (per !== "pool" && per !== "connection") refuse(`--per takes pool or connection, not "${per}"`);
  if (model !== "worker" && model !== "process") refuse(`--per goes with --model worker or process, not with ${model}`);
  return per === "connection" ? `${model}-per-connection` : model;
}

function readSize(size: unknown, model: Model): number {
  if (size === undefined) return model.endsWith("-per-connection") ? 100 : Math.max(navigator.hardwareConcurrency, 1);
  if (!model.startsWith("worker") && !model.startsWith("process")) {
    refuse(`--size is a number of threads or processes, which --model ${model} has none of`);
  }
  const isCount = typeof size === "string" && /^[1-9]\d{0,4}$/.test(size) && Number(size) <= 10_000;
  return isCount ? Number(size) : refuse(`--size takes a number from 1 to 10000, not "${size}"`);
}

function isMux(model: Model): model is "select" | "poll" | "epoll" {
  return model === "select" || model === "poll" || model === "epoll";
}

/** Starts the server of a model. Each model is imported when it is chosen, so that no other costs time at the start. */
async function start({ listen, model, size, isUdp }: Flags): Promise<EchoServer> {
  if (isUdp) {
    const { startUdp } = await import("./udp_echo.ts");
    return startUdp(listen, isMux(model) ? model : undefined);
  }
  if (isMux(model)) {
    const { startMux } = await import("./mux_echo.ts");
    return startMux(listen, model);
  }
  if (model === "async" || model === "ready") return startAsync(listen, Infinity, model);
  if (model === "iterative") return startAsync(listen, 1);
  const { startPool } = await import("./echo_models/pool.ts");
  switch (model) {
    case "worker":
    case "process":
      return await startPool(listen, model, "pool", size);
    case "worker-per-connection":
      return await startPool(listen, "worker", "connection", size);
    case "process-per-connection":
      return await startPool(listen, "process", "connection", size);
  }
}

const flags = readFlags(Deno.args);
await run(() => start(flags), flags.isUdp ? "nc -u" : "nc");
