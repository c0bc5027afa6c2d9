/** Programs that nobody here wrote, and how a test talks with them. */

import { assertEquals } from "@std/assert";
import { deadline } from "@std/async";
import { PATIENCE, ROOT } from "./_util.ts";

/** A program in a process of its own, with what it has printed so far; `await using` ends it. */
export class Program implements AsyncDisposable {
  readonly #stdout: string[] = [];
  readonly #stderr: string[] = [];
  readonly #child: Deno.ChildProcess;
  readonly #stdin: WritableStreamDefaultWriter<Uint8Array>;
  readonly #reading: Promise<unknown>;
  #changed = Promise.withResolvers<void>();
  #isOver = false;

  constructor(command: string, args: string[]) {
    const options = {
      args,
      cwd: ROOT,
      env: { NO_COLOR: "1" },
      stdin: "piped",
      stdout: "piped",
      stderr: "piped",
    } as const;
    this.#child = new Deno.Command(command, options).spawn();
    this.#stdin = this.#child.stdin.getWriter();
    this.#reading = Promise.all([
      this.#read(this.#child.stdout, this.#stdout),
      this.#read(this.#child.stderr, this.#stderr),
    ]).finally(() => {
      this.#isOver = true;
      this.#changed.resolve();
    });
  }

  get pid(): number {
    return this.#child.pid;
  }

  get stdout(): string {
    return this.#stdout.join("");
  }

  get stderr(): string {
    return this.#stderr.join("");
  }

  /** Writes a text to its standard input. */
  async say(text: string): Promise<void> {
    await this.#stdin.write(new TextEncoder().encode(text));
  }

  /** Ends its standard input; again does nothing. */
  async endInput(): Promise<void> {
    await this.#stdin.close().catch(() => {});
  }

  /** Waits until it has printed what matches, lately and on either stream; fails if it ends or takes 20 s without. */
  async until(pattern: RegExp): Promise<RegExpExecArray> {
    const timer = setTimeout(() => this.#changed.reject(new Error("it took too long")), PATIENCE);
    try {
      while (true) {
        const match = pattern.exec(latest(this.#stdout)) ?? pattern.exec(latest(this.#stderr));
        if (match !== null) return match;
        if (this.#isOver) throw new Error("it has ended");
        await this.#changed.promise;
      }
    } catch (error) {
      const problem = error instanceof Error ? error.message : error;
      throw new Error(`${problem}: no ${pattern} in\n${latest(this.#stdout)}\n${latest(this.#stderr)}`);
    } finally {
      clearTimeout(timer);
    }
  }

  /** The exit code, once it has ended by itself after the end of its input; fails if that takes more than 20 s. */
  async ended(): Promise<number> {
    await this.endInput();
    const { code } = await deadline(this.#child.status, PATIENCE);
    await this.#reading;
    return code;
  }

  /** Sends a signal and returns the exit code. */
  async stop(signal: Deno.Signal = "SIGTERM"): Promise<number> {
    this.kill(signal);
    return await this.ended();
  }

  kill(signal: Deno.Signal): void {
    try {
      this.#child.kill(signal);
    } catch { /* it has ended already */ }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.stop("SIGKILL");
  }

  async #read(stream: ReadableStream<Uint8Array>, texts: string[]): Promise<void> {
    const decoder = new TextDecoder();
    for await (const bytes of stream) {
      texts.push(decoder.decode(bytes, { stream: true }));
      const changed = this.#changed;
      this.#changed = Promise.withResolvers();
      changed.resolve();
    }
  }
}

/** What was printed last: all of it, when that is much, would be searched again and again. */
function latest(texts: string[]): string {
  return texts.slice(-100).join("");
}

/** Runs a program on bytes, and returns the bytes that it printed. */
export async function pipe(
  command: string,
  args: string[],
  input?: Uint8Array,
  code = 0,
): Promise<Uint8Array<ArrayBuffer>> {
  const child = new Deno.Command(command, { args, cwd: ROOT, stdin: "piped", stdout: "piped", stderr: "piped" })
    .spawn();
  const feeding = (async () => {
    const writer = child.stdin.getWriter();
    // A program that has ended before the end of its input is judged by its exit code.
    if (input !== undefined) await writer.write(input).catch(() => {});
    await writer.close().catch(() => {});
  })();
  const output = await child.output();
  await feeding;
  assertEquals(output.code, code, `${command} ${args.join(" ")}: ${new TextDecoder().decode(output.stderr)}`);
  return output.stdout;
}
