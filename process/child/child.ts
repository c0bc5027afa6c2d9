/** What a parent sees of a child: the same for threads and processes. */

import { atCaller } from "../../internal/stack.ts";
import { Timer } from "../../internal/timer.ts";
import { checkDuration, checkOptions } from "../../internal/validate.ts";
import type { ChildStatus } from "../program/status.ts";
import type { Incoming, MessagesOptions, SendOptions } from "../message/link.ts";

/**
 * What a child may do: at most what this program may.
 *
 * A process that calls `parent()` or `serve()` needs `ffi: "inherit"`.
 *
 * @example One port, and nothing else
 * ```ts
 * import { type ChildPermissions, spawnProcess } from "@c10k/sockets/process";
 *
 * const permissions: ChildPermissions = { net: ["127.0.0.1:8080"] };
 * const child = spawnProcess("data:application/javascript,", { permissions });
 * console.log((await child.closed).success); // true
 * ```
 */
export interface ChildPermissions {
  /** Environment variables: all, some or none. */
  env?: "inherit" | boolean | string[];
  /** Libraries. */
  ffi?: "inherit" | boolean | string[];
  /** Where modules may be imported from. */
  import?: "inherit" | boolean | string[];
  /** Hosts, such as `127.0.0.1:8080`. */
  net?: "inherit" | boolean | string[];
  /** Files and folders to read. */
  read?: "inherit" | boolean | string[];
  /** Programs. */
  run?: "inherit" | boolean | string[];
  /** Information on the system. */
  sys?: "inherit" | boolean | string[];
  /** Files and folders to write. */
  write?: "inherit" | boolean | string[];
}

/**
 * How a child is started, of either kind.
 *
 * @example A name for errors
 * ```ts
 * import { type SpawnOptions, spawnWorker } from "@c10k/sockets/process";
 *
 * const source = `
 *   import { parent } from "${import.meta.resolve("@c10k/sockets/process")}";
 *   for await (const { message } of parent().messages()) await parent().send("got " + message);
 * `;
 * const module = `data:application/typescript,${encodeURIComponent(source)}`; // or a file's URL
 *
 * const options: SpawnOptions = { name: "resolver" };
 * await spawnWorker(module, options).shutdown();
 * ```
 */
export interface SpawnOptions {
  /**
   * What it may do. `"inherit"` is what this program may, `"none"` nothing, and
   * an object names the kinds that it gets; a kind that is left out it does not
   * get. More than this program may is refused.
   *
   * Deno tells whether something is granted, not what all is. So a process
   * inherits the kinds that are granted whole, and the C library; of
   * `--allow-net=127.0.0.1` or of what a `--deny` flag limits it gets what an
   * object names: `{ ffi: "inherit", net: ["127.0.0.1:8080"] }`. Of a kind that
   * is not granted whole it gets what stands for itself: an address with its
   * port, a path that leads nowhere else and has nothing in it that is denied, a
   * program (by the path that its name means here), a variable. A host name, or
   * a host without a port, it gets together with the `--deny` flags of this
   * program, and not at all where these are not known for certain: with
   * permissions of a configuration (`-P`), or once `process.title` was set.
   * Ranges (`10.0.0.0/8`), patterns (`*.example.com`, `AWS_*`) and addresses in
   * disguise (`127.1`) are refused.
   *
   * Without `import` it may import from Deno's default hosts, as far as this
   * program may.
   *
   * For a thread anything but `"inherit"` needs `--unstable-worker-options`,
   * without which Deno ends the program.
   *
   * @default {"inherit"}
   */
  permissions?: "inherit" | "none" | ChildPermissions;
  /** What the child is called in errors, by default the module's file name. */
  name?: string;
}

/**
 * How {@linkcode spawnProcess} starts a process.
 *
 * @example Arguments and environment
 * ```ts
 * import { type ProcessOptions, spawnProcess } from "@c10k/sockets/process";
 *
 * const options: ProcessOptions = { args: ["--verbose"], env: { ROLE: "child" }, stdout: "null" };
 * const child = spawnProcess(`data:application/javascript,console.log(Deno.args)`, options);
 * console.log((await child.closed).code); // 0
 * ```
 */
export interface ProcessOptions extends SpawnOptions {
  /** What `Deno.args` is there. */
  args?: string[];
  /**
   * More variables for its environment. Refused are those that say to Deno what its flags say, such as `DENO_V8_FLAGS`,
   * `DENO_DIR` and `NODE_OPTIONS`, unless this program has the same.
   */
  env?: Record<string, string>;
  /** Its current folder, by default this program's. */
  cwd?: string | URL;
  /**
   * More flags of `deno run`, such as `--config=deno.json` or `--unstable-net`, each with its value in the same string.
   *
   * Allowed are flags that grant nothing and run nothing instead of the module: `--cached-only`, `--check`, `--no-check`,
   * `--conditions`, `--ext`, `--frozen`, `--location`, `--log-level`, `--no-code-cache`, `--no-config`, `--no-lock`,
   * `--no-npm`, `--no-remote`, `--no-prompt`, `--node-modules-dir` (`none` or `manual`), `--quiet`, `--reload`, `--seed`,
   * `--use-env-proxy`, `--vendor=false`, `--unstable-…`, and of `--v8-flags` those for memory and compilation, such as
   * `--max-old-space-size`, `--stack-size` and `--expose-gc`.
   *
   * Flags with a file or an address need the permission for it here: `--config`, `--cert`, `--require` and a local
   * `--preload` or `--import-map` to read it, `--lock` to read it and, without `--frozen`, to write it, `--coverage` and
   * `--cpu-prof-dir` to write there, and `--inspect`, `--inspect-brk` and `--inspect-wait` with an address and a port
   * (`--inspect=127.0.0.1:9229`) to listen there. A relative path is one in `cwd`.
   */
  flags?: string[];
  /**
   * Where its standard output goes: where this program's goes, nowhere, or to {@linkcode Child.stdout}.
   *
   * @default {"inherit"}
   */
  stdout?: "inherit" | "null" | "piped";
  /**
   * Where its standard error goes: where this program's goes, nowhere, or to {@linkcode Child.stderr}.
   *
   * @default {"inherit"}
   */
  stderr?: "inherit" | "null" | "piped";
}

/**
 * How long a child may take to end.
 *
 * @example Give it a second
 * ```ts
 * import { type ShutdownOptions, spawnWorker } from "@c10k/sockets/process";
 *
 * const source = `
 *   import { parent } from "${import.meta.resolve("@c10k/sockets/process")}";
 *   for await (const { message } of parent().messages()) await parent().send("got " + message);
 * `;
 * const module = `data:application/typescript,${encodeURIComponent(source)}`; // or a file's URL
 *
 * const options: ShutdownOptions = { grace: 1_000 };
 * await spawnWorker(module).shutdown(options);
 * ```
 */
export interface ShutdownOptions {
  /**
   * Milliseconds until it is killed.
   *
   * @default {10000}
   */
  grace?: number;
}

/**
 * A thread or a process that was started here.
 *
 * @example Ask and answer
 * ```ts
 * import { type Child, spawnWorker } from "@c10k/sockets/process";
 *
 * const source = `
 *   import { parent } from "${import.meta.resolve("@c10k/sockets/process")}";
 *   for await (const { message } of parent().messages()) await parent().send("got " + message);
 * `;
 * const module = `data:application/typescript,${encodeURIComponent(source)}`; // or a file's URL
 *
 * const child: Child = spawnWorker(module);
 * await child.send("this");
 * for await (const { message } of child.messages()) {
 *   console.log(message); // got this
 *   break;
 * }
 * await child.shutdown();
 * ```
 */
export interface Child {
  /** A number of its own, from 1. */
  readonly id: number;
  /** What it is. */
  readonly kind: "worker" | "process";
  /** Its process; `undefined` for a thread. */
  readonly pid?: number;
  /**
   * Sends a message: a structured clone, with sockets if any. The clone is made at the call, so the message may be
   * changed right after; it waits here while 256 messages are unread there. A view is cloned with its whole buffer, of
   * which `slice()` copies a part.
   *
   * Objects of the host do not leave their process: a Blob, a File, a key, a DOMException, shared memory and modules of
   * WebAssembly go to threads, and are refused where the child is a process.
   *
   * @param message What to send.
   * @param options Sockets to send away, and a signal to stop waiting.
   * @throws {Deno.errors.BrokenPipe} If the child has ended; the sockets are still whole here.
   * @throws {Deno.errors.BadResource} If a socket is closed.
   * @throws {Deno.errors.NotSupported} If a socket cannot be moved.
   * @throws {DOMException} If the message cannot be cloned (`DataCloneError`), before anything waits.
   * @throws {RangeError} If it has more than 256 MiB, to a process.
   */
  send(message: unknown, options?: SendOptions): Promise<void>;
  /**
   * Messages of the child, until it has ended. Each goes to one loop only.
   *
   * @param options A signal to stop waiting.
   */
  messages(options?: MessagesOptions): AsyncIterableIterator<Incoming>;
  /** How it has ended, once it has. */
  readonly closed: Promise<ChildStatus>;
  /**
   * What a process writes to its standard output, with `stdout: "piped"`; else `undefined`.
   *
   * Nothing is read ahead: once the pipe is full, which is after 64 KiB, the process waits in its next write, as with
   * `Deno.Command`. So read it to its end, or cancel it, which also closes its descriptor; writing fails there then.
   * It can be read after the end of the process. Disposing of the child cancels it, unless it is being read.
   *
   * @example The output of a process
   * ```ts
   * import { spawnProcess } from "@c10k/sockets/process";
   *
   * const child = spawnProcess(`data:application/javascript,console.log("hello")`, { stdout: "piped" });
   * console.log(await new Response(child.stdout).text()); // hello
   * console.log((await child.closed).code); // 0
   * ```
   */
  readonly stdout?: ReadableStream<Uint8Array<ArrayBuffer>> | undefined;
  /**
   * What a process writes to its standard error, with `stderr: "piped"`, as {@linkcode Child.stdout}.
   */
  readonly stderr?: ReadableStream<Uint8Array<ArrayBuffer>> | undefined;
  /**
   * Lets the child keep this program alive while it runs, which it does unless {@linkcode Child.unref} was called.
   */
  ref(): void;
  /**
   * Lets this program end although the child runs: neither it nor its messages and output keep the program alive. An
   * idle child then ends with the program. The program also ends while it awaits what only the child can settle.
   *
   * @example A helper that keeps nothing alive
   * ```ts
   * import { spawnWorker } from "@c10k/sockets/process";
   *
   * const source = `
   *   import { parent } from "${import.meta.resolve("@c10k/sockets/process")}";
   *   for await (const { message } of parent().messages()) await parent().send("got " + message);
   * `;
   * const helper = spawnWorker(`data:application/typescript,${encodeURIComponent(source)}`); // or a file's URL
   * helper.unref();
   *
   * helper.ref(); // while an answer is waited for
   * await helper.send("this");
   * console.log((await helper.messages().next()).value?.message); // got this
   * helper.unref();
   * ```
   */
  unref(): void;
  /**
   * Asks the child to end: its loops over `messages()` end, and so does what
   * `serve` waits for. After the grace it is killed.
   *
   * @param options How long it may take.
   */
  shutdown(options?: ShutdownOptions): Promise<ChildStatus>;
  /**
   * Ends the child at once, or sends a process another signal; a thread ends by any. What a thread
   * has said and was not received is lost with it. A child that has ended already stays as it is.
   *
   * A thread that never returns to its event loop cannot be ended: Deno has no
   * means to. After two seconds it counts as ended, and its native sockets are
   * closed, though it goes on. What it has opened on the runtime engine stays
   * open, and the program ends by `Deno.exit()` only.
   *
   * On Windows `"SIGTERM"` and `"SIGKILL"` both end a program at once, and other signals cannot be sent.
   *
   * @param signal The signal, by default `"SIGKILL"`.
   * @throws {TypeError} If there is no such signal.
   * @throws {Deno.errors.NotSupported} If the operating system cannot send it.
   */
  kill(signal?: Deno.Signal): void;
  /** Asks it to end, at the end of an `await using` block, and closes the sockets of messages that nobody has taken. */
  [Symbol.asyncDispose](): Promise<void>;
}

let children = 0;

/** A number for a new child. */
export function newId(): number {
  return ++children;
}

/** Why nothing can be sent to a child; `cause` is what it has failed with. */
export function endedError(name: string, cause?: Error): Error {
  return atCaller(
    new Deno.errors.BrokenPipe(`Cannot send to ${name}: it has ended`, cause === undefined ? {} : { cause }),
  );
}

/** Default of {@linkcode ShutdownOptions.grace}, in milliseconds. */
export const GRACE = 10_000;

/** Asks a child to end, and kills it if it has not ended within its grace: {@linkcode Child.shutdown}. */
export async function shutDown(
  child: Pick<Child, "kill" | "closed">,
  options: ShutdownOptions = {},
  ask: () => void,
): Promise<ChildStatus> {
  checkOptions(options);
  const grace = checkDuration(options.grace ?? GRACE, "grace");
  ask();
  const timer = new Timer(grace, () => child.kill());
  try {
    return await child.closed;
  } finally {
    timer.cancel();
  }
}
