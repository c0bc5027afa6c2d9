/** What all echo servers have in common: their command line, what they say, and how they stop. */

import type { EngineOption } from "@c10k/sockets/tcp";

/** How long open connections may go on after a signal, in milliseconds. */
export const GRACE = 5_000;

/** Where to listen, and on which engine. */
export interface Listen {
  readonly hostname: string;
  readonly port: number;
  readonly engine: EngineOption;
}

/** An echo server that runs. */
export interface EchoServer {
  readonly addr: Deno.NetAddr;
  /** What it works with, for people. */
  readonly how: string;
  /** How many clients it has just now. */
  open(): number;
  /** Takes no new ones, but who has connected already is served. */
  stop(): void | Promise<void>;
  /** When it was stopped and the last client has gone. */
  readonly finished: Promise<void>;
}

/** Ends the program because of how it was called. */
export function refuse(problem: string): never {
  console.error(`${problem} (--help shows how to call it)`);
  Deno.exit(2);
}

/** Ends the program because it cannot serve. */
export function fail(error: unknown): never {
  if (error instanceof TypeError || error instanceof RangeError) refuse(error.message);
  console.error(error instanceof Error ? error.message : error);
  Deno.exit(1);
}

/** Checks `--host`, `--port` and `--engine`. */
export function readListen({ host, port, engine }: Record<string, unknown>): Listen {
  if (typeof host !== "string" || host === "") refuse("--host takes an address or a name");
  if (typeof port !== "string" || !/^\d{1,5}$/.test(port) || Number(port) > 65535) {
    refuse(`--port takes a number from 0 to 65535, not "${port}"`);
  }
  if (engine !== "auto" && engine !== "runtime" && engine !== "native") {
    refuse(`--engine takes auto, runtime or native, not "${engine}"`);
  }
  return { hostname: host, port: Number(port), engine };
}

/**
 * Says where the server is, and serves until SIGINT (Ctrl-C) or SIGTERM: then
 * it takes no new clients, and open ones may finish for a while or until the
 * next signal.
 */
export async function run(start: () => EchoServer | Promise<EchoServer>, client = "nc"): Promise<never> {
  try {
    const server = await start();
    let stopped: number | undefined;
    const stop = async () => {
      if (stopped === undefined) {
        stopped = performance.now();
        // With the program end all its connections, and its threads and processes.
        setTimeout(() => Deno.exit(0), GRACE);
        await server.stop();
        if (server.open() > 0) console.log(`stopping: ${server.open()} open, Ctrl-C again to cut`);
      } else if (performance.now() - stopped > 500) {
        Deno.exit(0); // sooner it is the same Ctrl-C, which a task runner passes on a second time
      }
    };
    const signals: Deno.Signal[] = Deno.build.os === "windows" ? ["SIGINT", "SIGBREAK"] : ["SIGINT", "SIGTERM"];
    for (const signal of signals) Deno.addSignalListener(signal, stop);

    const { hostname, port } = server.addr;
    console.log(`listening on ${hostname.includes(":") ? `[${hostname}]` : hostname}:${port}`);
    console.log(server.how);
    console.log(`try it: ${client} ${hostname} ${port}`);
    await server.finished;
  } catch (error) {
    fail(error);
  }
  Deno.exit(0);
}
