/** A server under measurement: its process, port, CPU time and memory. */

import { reason, start, stop, Unavailable } from "./processes.ts";

const STARTING = 20_000;
const SETTLING = 2000;
// The kernel counts CPU time in ticks of 10 ms.
const QUIET = 60;

/** A running server. */
export class Server {
  readonly port: number;
  #child: Deno.ChildProcess;
  #stderr: { text: string };

  private constructor(
    child: Deno.ChildProcess,
    port: number,
    stderr: { text: string },
  ) {
    this.#child = child;
    this.port = port;
    this.#stderr = stderr;
  }

  /** Starts the command and waits for its line `listening HOST:PORT` or `listening on HOST:PORT`. */
  static async start(command: readonly string[]): Promise<Server> {
    const child = start(command, {
      stdin: "null",
      stdout: "piped",
      stderr: "piped",
      env: { NO_COLOR: "1" },
    });
    const stderr = { text: "" };
    const errors = collect(child.stderr, (text) => {
      stderr.text = (stderr.text + text).slice(0, 4096);
    });
    const timer = setTimeout(() => stop(child), STARTING);
    let stdout = "";
    const line = Promise.withResolvers<void>();
    // To the end: a server that says more must not meet a broken pipe.
    collect(child.stdout, (text) => {
      if (!stdout.includes("\n")) stdout += text;
      if (stdout.includes("\n")) line.resolve();
    }).finally(line.resolve);
    await line.promise;
    clearTimeout(timer);
    const port = /^listening (?:on )?\S+:(\d+)\n/.exec(stdout)?.[1];
    if (port !== undefined) return new Server(child, Number(port), stderr);
    await stop(child);
    await errors;
    throw new Unavailable(
      reason(stderr.text, `printed no "listening" line in ${STARTING} ms`),
    );
  }

  get pid(): number {
    return this.#child.pid;
  }

  /** What it has complained about, for a row that failed. */
  get complaint(): string {
    return reason(this.#stderr.text, "");
  }

  /** User and system time of all threads and children, in ms. */
  cpu(): number {
    return treeCpu(this.pid);
  }

  /** Resident memory in bytes. */
  rss(): number {
    const text = Deno.readTextFileSync(`/proc/${this.pid}/status`);
    return Number(/^VmRSS:\s+(\d+) kB/m.exec(text)?.[1]) * 1024;
  }

  /** Waits until it has cleaned up after its clients; false: it never rests. */
  async settle(): Promise<boolean> {
    const deadline = Date.now() + SETTLING;
    for (let before = this.cpu(); Date.now() < deadline;) {
      await new Promise((resolve) => setTimeout(resolve, QUIET));
      const now = this.cpu();
      if (now === before) return true;
      before = now;
    }
    return false;
  }

  stop(): Promise<void> {
    return stop(this.#child);
  }
}

/** With children that have ended and that run: as `process_cpu_us` of the load generator. */
function treeCpu(pid: number): number {
  const text = Deno.readTextFileSync(`/proc/${pid}/stat`);
  // After the program's name, which may hold spaces, comes field 3.
  const fields = text.slice(text.lastIndexOf(")") + 2).split(" ").slice(11, 15);
  let total = fields.reduce((sum, field) => sum + Number(field) * 10, 0);
  for (const { name } of Deno.readDirSync(`/proc/${pid}/task`)) {
    try {
      const children = Deno.readTextFileSync(`/proc/${pid}/task/${name}/children`).split(" ");
      for (const child of children.filter((child) => child !== "")) total += treeCpu(Number(child));
    } catch { /* it has ended meanwhile */ }
  }
  return total;
}

/** Reads text to the end. */
async function collect(
  stream: ReadableStream<Uint8Array>,
  take: (text: string) => void,
): Promise<void> {
  const decoder = new TextDecoder();
  for await (const bytes of stream) {
    take(decoder.decode(bytes, { stream: true }));
  }
}
