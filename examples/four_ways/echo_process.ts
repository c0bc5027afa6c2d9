/** The server of one way, as a process. */

import { CAN_LOOK, processTree } from "./process_tree.ts";
import { commandOf, type Way } from "./ways.ts";

/** Milliseconds that it has to say where it listens, and to end. */
const START_TIME = 20_000;
const END_TIME = 3_000;

const running = new Set<Deno.ChildProcess>();

/** Ends all servers at once, and the processes that they have started and are starting. */
export function killAll(): void {
  for (const child of running) {
    const pids = CAN_LOOK ? processTree(child.pid) : [];
    kill(child);
    for (const pid of pids) kill({ kill: (signal) => Deno.kill(pid, signal) });
  }
}

function kill(child: Pick<Deno.ChildProcess, "kill">, signal: Deno.Signal = "SIGKILL"): void {
  try {
    child.kill(signal);
  } catch { /* it has ended */ }
}

/** An echo server that runs; `await using` ends it. */
export class EchoProcess implements AsyncDisposable {
  readonly pid: number;
  readonly #child: Deno.ChildProcess;
  readonly #port = Promise.withResolvers<number>();
  readonly #output: Promise<unknown>;
  /** What it has written to standard error. */
  complaints = "";
  hasEnded = false;
  /** When it has ended. */
  readonly ended: Promise<void>;
  port = 0;

  private constructor(child: Deno.ChildProcess) {
    this.#child = child;
    this.pid = child.pid;
    running.add(child);
    this.#output = Promise.all([this.#readPort(), this.#readComplaints()]);
    this.ended = child.status.then(({ code }) => {
      running.delete(child);
      this.hasEnded = true;
      this.#port.reject(new Error(this.firstComplaint ?? `the server has ended with code ${code}`));
    });
  }

  /** Starts the server of a way, and resolves once it listens. */
  static async start(way: Way, clients: number): Promise<EchoProcess> {
    const server = new EchoProcess(
      new Deno.Command(Deno.execPath(), {
        args: commandOf(way, clients),
        env: { NO_COLOR: "1" },
        stdin: "piped",
        stdout: "piped",
        stderr: "piped",
      }).spawn(),
    );
    const timer = setTimeout(() => kill(server.#child), START_TIME);
    try {
      server.port = await server.#port.promise;
      return server;
    } catch (error) {
      await server[Symbol.asyncDispose]();
      throw error;
    } finally {
      clearTimeout(timer);
    }
  }

  get firstComplaint(): string | undefined {
    return this.complaints.split("\n").find((line) => line.trim() !== "");
  }

  async #readPort(): Promise<void> {
    let text = "";
    for await (const part of this.#child.stdout.pipeThrough(new TextDecoderStream())) {
      text += part;
      const port = /listening on .*:(\d+)\n/.exec(text)?.[1];
      if (port !== undefined) this.#port.resolve(Number(port));
    }
  }

  async #readComplaints(): Promise<void> {
    for await (const part of this.#child.stderr.pipeThrough(new TextDecoderStream())) {
      if (this.complaints.length < 10_000) this.complaints += part;
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    kill(this.#child, "SIGTERM");
    const timer = setTimeout(() => kill(this.#child), END_TIME);
    await this.#child.status;
    clearTimeout(timer);
    await this.#child.stdin.close().catch(() => {});
    // Its children hold the same pipes until they have ended.
    await this.#output.catch(() => {});
  }
}
