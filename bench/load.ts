/** Runs the load generator and reads what it says. */

import { reason, start, stop, Unavailable } from "./processes.ts";
import type { Work } from "./works.ts";

/** How long idle connections are held at most, in ms. */
const HOLD = 600_000;

/** What the generator calls the kinds of work. */
const MODES: Record<Exclude<Work["kind"], "kv">, string> = {
  echo: "echo",
  growth: "echo",
  churn: "churn",
  handover: "first",
  hash: "echo",
  idle: "idle",
  udp: "udp",
  sink: "flood",
};

/** The line that the generator prints at the end. */
interface Result {
  readonly seconds: number;
  readonly count: number;
  readonly p50_us: number;
  readonly p99_us: number;
  readonly starved: number;
  readonly sent: number;
  readonly server_cpu_us: number;
  readonly load_cpu_us: number;
  readonly machine_cpu_us: number;
}

/** What one round of traffic showed. */
export interface Traffic {
  /** Echoes or connections per second. */
  readonly value: number;
  /** The server's CPU time per echo or connection, its children's included, µs. */
  readonly cpu: number;
  readonly p50: number;
  readonly p99: number;
  /** Connections without a single answer; for UDP datagrams that were lost. */
  readonly starved: number;
  /** Share of what was sent one way that was lost. */
  readonly loss?: number;
  /** Shares of one core. */
  readonly serverBusy: number;
  readonly loadBusy: number;
  /** Everything else that ran meanwhile, or was taken by a hypervisor. */
  readonly othersBusy: number;
}

/** What the generator itself can be told to do. */
export type GeneratorWork = Work & { readonly kind: keyof typeof MODES };

/** Echo or churn for the given time, ms. */
export async function runTraffic(
  load: readonly string[],
  work: GeneratorWork,
  server: { readonly port: number; readonly pid: number },
  time: { readonly warmup: number; readonly duration: number },
): Promise<Traffic> {
  const child = start([
    ...load,
    MODES[work.kind],
    ...["--port", `${server.port}`, "--pid", `${server.pid}`],
    ...["--connections", `${work.connections}`, "--size", `${work.size}`],
    ...["--gso", work.gso === true ? "1" : "0"],
    ...["--warmup", `${time.warmup}`, "--duration", `${time.duration * (work.longer ?? 1)}`],
  ], { stdin: "null", stdout: "piped", stderr: "piped" });
  const { success, stdout, stderr } = await child.output();
  if (!success) {
    throw new Unavailable(
      reason(new TextDecoder().decode(stderr), "the load generator failed"),
    );
  }
  const r: Result = JSON.parse(new TextDecoder().decode(stdout));
  if (r.count === 0) throw new Unavailable("no answer in the measured time");
  return {
    value: r.count / r.seconds,
    cpu: r.server_cpu_us / r.count,
    p50: r.p50_us,
    p99: r.p99_us,
    starved: r.starved,
    ...(r.sent > 0 ? { loss: r.starved / r.sent } : {}),
    serverBusy: r.server_cpu_us / r.seconds / 1e6,
    loadBusy: r.load_cpu_us / r.seconds / 1e6,
    othersBusy: (r.machine_cpu_us - r.server_cpu_us - r.load_cpu_us) /
      r.seconds / 1e6,
  };
}

/** Connections that do nothing, held by a process of their own. */
export class IdleConnections implements AsyncDisposable {
  readonly #child: Deno.ChildProcess;
  readonly #stdout: ReadableStreamDefaultReader<Uint8Array>;
  readonly #failure: Promise<string>;

  private constructor(child: Deno.ChildProcess) {
    this.#child = child;
    this.#stdout = child.stdout.getReader();
    this.#failure = new Response(child.stderr).text();
  }

  /** Opens them, and waits until each has had an answer. */
  static async open(load: readonly string[], connections: number, port: number): Promise<IdleConnections> {
    const child = start(
      [...load, "idle", "--port", `${port}`, "--connections", `${connections}`, "--hold", `${HOLD}`],
      { stdin: "piped", stdout: "piped", stderr: "piped" },
    );
    const idle = new IdleConnections(child);
    const { value } = await idle.#stdout.read();
    if (value !== undefined) return idle;
    await idle[Symbol.asyncDispose]();
    throw new Unavailable(reason(await idle.#failure, "the load generator failed"));
  }

  /** Closes them; rejects if the server has done so before. */
  async close(): Promise<void> {
    await this.#child.stdin.close();
    const { success } = await this.#child.status;
    if (!success) throw new Unavailable(reason(await this.#failure, "the idle connections failed"));
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await stop(this.#child);
    await this.#stdout.cancel();
    await this.#child.stdin.close().catch(() => {});
  }
}
