/** The test vocabulary: engines, pairs of connections, real clients, child processes. */

import { type Engine, engineSupport, TcpConn, TcpListener } from "@c10k/sockets/tcp";
import { assert } from "@std/assert";
import { delay } from "@std/async";
import dns from "node:dns";
import { fileURLToPath } from "node:url";
import { reactor } from "../poll/reactor.ts";

/** The engines that can be tested here. */
export const ENGINES: readonly Engine[] = engineSupport().engine === "native" ? ["runtime", "native"] : ["runtime"];

/** The repository's root, as a path. */
export const ROOT = new URL("../", import.meta.url);

/** Declares a test once for each engine, with the engine in its name. */
export function engineTest(name: string, fn: (engine: Engine) => Promise<void> | void, ignore = false): void {
  for (const engine of ENGINES) {
    Deno.test({ name: `[${engine}] ${name}`, ignore, fn: () => withoutLeaks(() => fn(engine)) });
  }
}

/** Declares a test with sockets of this process, which fails if it leaves some open. */
export function socketTest(name: string, fn: () => Promise<void>, ignore = false): void {
  Deno.test({ name, ignore, fn: () => withoutLeaks(fn) });
}

/** Runs a test and fails it if it leaves sockets open. */
export async function withoutLeaks(fn: () => Promise<void> | void): Promise<void> {
  const before = openDescriptors();
  await fn();
  // The reactor's other thread returns as soon as it gets a processor.
  if (ENGINES.includes("native")) {
    for (let i = 0; i < 2_000 && reactor().isRunning; i++) await delay(1);
  }
  await delay(2);
  // The runtime drops a socket at a turn of its loop after close(), and those of a Worker when its thread has ended:
  // one that is killed while it loads takes as long as that.
  for (let i = 0; i < 2_000 && openDescriptors() > before; i++) await delay(5);
  const left = openDescriptors() - before;
  assert(left <= 0, `the test left ${left} descriptors open`);
}

/** Sockets of this process, 0 where that cannot be told. */
export function openDescriptors(): number {
  if (Deno.build.os !== "linux") return 0;
  let count = 0;
  for (const { name } of Deno.readDirSync("/proc/self/fd")) {
    try {
      if (Deno.readLinkSync(`/proc/self/fd/${name}`).startsWith("socket:")) count++;
    } catch { /* the descriptor of this very listing */ }
  }
  return count;
}

/** A listener and both ends of one connection to it; `using` closes all three. */
export class Pair implements Disposable {
  private constructor(readonly listener: TcpListener, readonly client: TcpConn, readonly server: TcpConn) {}

  static async open(engine: Engine): Promise<Pair> {
    const listener = TcpListener.bind({ hostname: "127.0.0.1", port: 0, engine });
    const [client, server] = await Promise.all([
      TcpConn.connect({ port: listener.addr.port, engine }),
      listener.accept(),
    ]);
    return new Pair(listener, client, server);
  }

  [Symbol.dispose](): void {
    this.client.close();
    this.server.close();
    this.listener.close();
  }
}

/** Puts something else in the place of a property, until the end of a `using` block. */
export function replaced<T extends object, K extends keyof T>(object: T, key: K, value: unknown): Disposable {
  const before = Object.getOwnPropertyDescriptor(object, key);
  Object.defineProperty(object, key, { value, configurable: true, enumerable: true, writable: true });
  return {
    [Symbol.dispose]() {
      if (before === undefined) delete object[key];
      else Object.defineProperty(object, key, before);
    },
  };
}

/** Makes names resolve to addresses, for the native engine. */
export function resolvedTo(...addresses: string[]): Disposable {
  const found = addresses.map((address) => ({ address, family: address.includes(":") ? 6 : 4 }));
  return replaced(dns, "lookup", (_: string, __: object, done: (error: null, found: object[]) => void) => {
    done(null, found);
  });
}

/** Leaves the native engine nothing to do in this turn of the event loop: the calls that follow wait for the next. */
export function spendTurn(): void {
  while (reactor().mayProceed());
}

export function encode(text: string): Uint8Array<ArrayBuffer> {
  return new TextEncoder().encode(text);
}

export function decode(bytes: Uint8Array): string {
  return new TextDecoder().decode(bytes);
}

/** Reads once and returns the text, `null` at end-of-file. */
export async function readText(conn: TcpConn, size = 1024): Promise<string | null> {
  const p = new Uint8Array(size);
  const n = await conn.read(p);
  return n === null ? null : decode(p.subarray(0, n));
}

/** Reads exactly `size` bytes. */
export async function readExactly(conn: { read: TcpConn["read"] }, size: number): Promise<Uint8Array<ArrayBuffer>> {
  const p = new Uint8Array(size);
  for (let end = 0; end < size;) {
    const n = await conn.read(p.subarray(end));
    if (n === null) throw new Error(`end-of-file after ${end} of ${size} bytes`);
    end += n;
  }
  return p;
}

/** Reads to end-of-file and returns the number of bytes. */
export async function readToEnd(conn: TcpConn): Promise<number> {
  const p = new Uint8Array(64 * 1024);
  let total = 0;
  for (let n = await conn.read(p); n !== null; n = await conn.read(p)) total += n;
  return total;
}

/** Milliseconds for which a test waits for what must happen: 20 s, and longer on a machine that is said to be slow. */
export const PATIENCE: number = 20_000 * Number(Deno.env.get("TEST_PATIENCE") ?? 1);

/** Calls `poll` at turns of the event loop until it returns something, for at most {@linkcode PATIENCE} or so many ms. */
export async function eventually<T>(poll: () => T | undefined, most = PATIENCE): Promise<T> {
  for (const end = performance.now() + most; performance.now() < end;) {
    const value = poll();
    if (value !== undefined) return value;
    await delay(1);
  }
  throw new Error(`nothing happened within ${most / 1000} s`);
}

/** The number in the middle: one that is far off, on a busy machine, does not count. */
export function median(numbers: number[]): number {
  return numbers.toSorted((a, b) => a - b)[numbers.length >> 1] as number;
}

/**
 * How much is tested: `everyday` what fits into two minutes (`deno task test`), `rest` what that leaves out, at full size
 * (`deno task test:long`), `full` all of it at full size.
 */
const size = Deno.env.get("TEST_SIZE") ?? "everyday";

/** Whether tests have their full size. */
export const isFullSize = size !== "everyday";

/** Whether Deno measures coverage: until it has written what a thread has reached, that thread does not end. */
export const isMeasured: boolean = Deno.env.has("DENO_COVERAGE_DIR");

/** A number of repetitions, of bytes or of milliseconds: in the everyday run, and at full size. */
export function sized<T>(everyday: T, full: T): T {
  return isFullSize ? full : everyday;
}

/** Of several cases, so many for the everyday run, evenly spread. */
export function some<T>(count: number, all: readonly T[]): readonly T[] {
  return chosen(all, (i) => count >= all.length || (i * count) % all.length < count);
}

/** Of the variations of a test, one for the everyday run, always the same. */
export function oneOf<T>(name: string, all: readonly T[]): readonly T[] {
  return chosen(all, (i) => i === sumOf(name) % all.length);
}

/** Whether a test, of many that differ in what they are tried on, is to run: one of so many is for the everyday run. */
export function isChosen(name: string, of: number): boolean {
  return chosen([name], () => sumOf(name) % of === 0).length > 0;
}

function chosen<T>(all: readonly T[], isEveryday: (i: number) => boolean): readonly T[] {
  return size === "full" ? all : all.filter((_, i) => isEveryday(i) === (size === "everyday"));
}

function sumOf(name: string): number {
  return encode(name).reduce((sum, byte) => (sum * 31 + byte) % 65_521, 0);
}

/** Declares a test at full size only: `long(Deno.test)("…", async () => {…})`. */
export function long<D extends (...args: never[]) => void>(declare: D): D {
  return isFullSize ? declare : (() => {}) as unknown as D;
}

/**
 * The first of free ports in a row, for programs that cannot be told to let the kernel pick one. They lie below those
 * that the kernel picks: no other socket of the machine gets them before the program does.
 */
export function freePorts(count: number): number {
  for (let first = 10_000 + Math.floor(Math.random() * 20_000);; first += count) {
    const taken: TcpListener[] = [];
    try {
      for (let i = 0; i < count; i++) taken.push(TcpListener.bind({ hostname: "127.0.0.1", port: first + i }));
      return first;
    } catch (error) {
      if (!(error instanceof Deno.errors.AddrInUse)) throw error; // the next ones
    } finally {
      for (const listener of taken) listener.close();
    }
  }
}

/** One of them. */
export function freePort(): number {
  return freePorts(1);
}

/** Random bytes, however many. */
export function randomBytes(size: number): Uint8Array<ArrayBuffer> {
  const bytes = new Uint8Array(size);
  for (let at = 0; at < size; at += 65536) crypto.getRandomValues(bytes.subarray(at, Math.min(at + 65536, size)));
  return bytes;
}

/** SHA-256 in hexadecimal digits. */
export async function checksum(bytes: BufferSource): Promise<string> {
  return new Uint8Array(await crypto.subtle.digest("SHA-256", bytes)).toHex();
}

/** Whether a program stands in `PATH`. */
export function hasCommand(command: string): boolean {
  return (Deno.env.get("PATH") ?? "").split(Deno.build.os === "windows" ? ";" : ":").some((folder) => {
    try {
      return Deno.statSync(`${folder}/${command}`).isFile;
    } catch {
      return false;
    }
  });
}

/**
 * Declares a test that needs programs nobody here wrote. Where one is missing
 * the test is ignored, with the program in its name; with `CI=true` it fails.
 */
export function clientTest(commands: string[], name: string, fn: () => Promise<void>): void {
  const missing = commands.filter((command) => !hasCommand(command));
  Deno.test({
    name: `${name} (${missing.length > 0 ? "missing: " + missing.join(", ") : "with " + commands.join(", ")})`,
    ignore: missing.length > 0 && Deno.env.get("CI") !== "true",
    async fn() {
      if (missing.length > 0) throw new Error(`Cannot run the test: install ${missing.join(", ")}`);
      await fn();
    },
  });
}

/** What a finished program left behind. */
export interface Finished {
  code: number;
  stdout: string;
  stderr: string;
}

/** Runs a Deno program from text, in a process of its own, with the flags given and no prompt. */
export async function runDeno(flags: string[], source: string): Promise<Finished> {
  const file = await Deno.makeTempFile({ suffix: ".ts" });
  try {
    await Deno.writeTextFile(file, source);
    return await run(["run", "--no-prompt", "--frozen", "--config", configPath(), ...flags, file]);
  } finally {
    await Deno.remove(file);
  }
}

/** Runs a Deno program from text, with all permissions, in a process that may have `most` descriptors open. */
export async function runWithin(most: number, source: string): Promise<Finished> {
  const file = await Deno.makeTempFile({ suffix: ".ts" });
  try {
    await Deno.writeTextFile(file, source);
    const shell = `ulimit -n ${most}; exec "$0" run -q -A --no-prompt --frozen --config "$1" "$2"`;
    const { code, stdout, stderr } = await new Deno.Command("sh", {
      args: ["-c", shell, Deno.execPath(), configPath(), file],
      cwd: ROOT,
      env: { NO_COLOR: "1" },
      stdin: "null",
    }).output();
    return { code, stdout: decode(stdout), stderr: decode(stderr) };
  } finally {
    await Deno.remove(file);
  }
}

/** Runs `deno` with arguments in the repository's root. */
export async function run(args: string[]): Promise<Finished> {
  const { code, stdout, stderr } = await new Deno.Command(Deno.execPath(), {
    args,
    cwd: ROOT,
    env: { NO_COLOR: "1" },
    stdin: "null",
  }).output();
  return { code, stdout: decode(stdout), stderr: decode(stderr) };
}

function configPath(): string {
  return fileURLToPath(new URL("deno.json", ROOT));
}

/** A server program in a process of its own; `await using` ends it. */
export class ServerProcess implements AsyncDisposable {
  readonly stdout: string[] = [];
  readonly stderr: string[] = [];
  readonly #child: Deno.ChildProcess;
  readonly #reading: Promise<void>;
  #port = 0;

  private constructor(child: Deno.ChildProcess) {
    this.#child = child;
    this.#reading = Promise.all([this.#read(), this.#readErrors()]).then(() => {});
  }

  /** Starts `deno run` with arguments and waits until it says which port it listens on. */
  static async start(
    args: string[],
    env: Record<string, string> = {},
    cwd: string | URL = ROOT,
  ): Promise<ServerProcess> {
    const server = new ServerProcess(
      new Deno.Command(Deno.execPath(), {
        args: ["run", "--no-prompt", "--quiet", ...args],
        cwd,
        env: { NO_COLOR: "1", ...env },
        stdin: "null",
        stdout: "piped",
        stderr: "piped",
      }).spawn(),
    );
    await eventually(() => {
      if (server.stderr.length > 0) throw new Error(server.stderr.join(""));
      return server.#port > 0 ? true : undefined;
    });
    return server;
  }

  get port(): number {
    return this.#port;
  }

  get pid(): number {
    return this.#child.pid;
  }

  async #read(): Promise<void> {
    for await (const text of this.#child.stdout.pipeThrough(new TextDecoderStream())) {
      this.stdout.push(text);
      const port = /listening on .*:(\d+)/.exec(this.stdout.join(""))?.[1];
      if (port !== undefined) this.#port = Number(port);
    }
  }

  async #readErrors(): Promise<void> {
    for await (const text of this.#child.stderr.pipeThrough(new TextDecoderStream())) this.stderr.push(text);
  }

  /** Resident memory in bytes, from /proc. */
  rss(): number {
    return 1024 * Number(/VmRSS:\s+(\d+)/.exec(Deno.readTextFileSync(`/proc/${this.pid}/status`))?.[1]);
  }

  /** The exit code, once the program has ended by itself. */
  async ended(): Promise<number> {
    const { code } = await this.#child.status;
    await this.#reading;
    return code;
  }

  /** Sends a signal and returns the exit code. */
  async stop(signal: Deno.Signal = "SIGTERM"): Promise<number> {
    try {
      this.#child.kill(signal);
    } catch { /* it has ended already */ }
    return await this.ended();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.stop("SIGKILL");
  }
}
