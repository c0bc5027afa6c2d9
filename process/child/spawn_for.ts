/** Any program serves a connection, as inetd has it: on its standard input and output. */

import { F_GETFL, F_SETFL, O_NONBLOCK } from "../../internal/constants.ts";
import { resolve } from "node:path/posix";
import { isText } from "../../internal/c_string.ts";
import { fromRuntimeError, notSupportedError, socketError, SyscallError } from "../../internal/errors.ts";
import { atCaller } from "../../internal/stack.ts";
import { syscall } from "../../internal/syscall.ts";
import { checkOptions, quote } from "../../internal/validate.ts";
import { RuntimeConn } from "../../tcp/runtime_conn.ts";
import { driverOf, TcpConn } from "../../tcp/tcp_conn.ts";
import { type Child, newId, shutDown, type ShutdownOptions } from "./child.ts";
import { type ChildStatus, LOST } from "../program/status.ts";
import { environmentWith } from "../../internal/environment.ts";
import { reasonOfFailedKill } from "../program/failed_kill.ts";
import type { Incoming } from "../message/link.ts";
import { giveAway } from "../message/socket_transfer.ts";
import { openNull, openPidfd, type Program, signalPidfd, spawn } from "../program/posix_spawn.ts";
import { ProgramEnd } from "../program/program_end.ts";
import { findProgram, hasRelativeFolders } from "../program/program_file.ts";
import { requireRun } from "../program/run_permission.ts";
import { checkKillSignal } from "../program/signal.ts";
import { keepChildStatus, lostStatus, lostStatusError } from "../program/sigchld.ts";

const IS_WINDOWS = Deno.build.os === "windows";

/**
 * How {@linkcode spawnFor} starts a program.
 *
 * @example A program with arguments
 * ```ts
 * import { spawnFor, type SpawnForOptions } from "@c10k/sockets/process";
 * import { TcpConn, TcpListener } from "@c10k/sockets/tcp";
 *
 * using listener = TcpListener.bind({ hostname: "127.0.0.1", port: 0 });
 * using client = await TcpConn.connect({ port: listener.addr.port });
 * const options: SpawnForOptions = { args: ["-u"], stderr: "null" };
 * const child = spawnFor(await listener.accept(), "date", options);
 * console.log(await new Response(client.readable).text());
 * await child.closed;
 * ```
 */
export interface SpawnForOptions {
  /** The program's arguments, without its name. */
  args?: string[];
  /** More variables for its environment. */
  env?: Record<string, string>;
  /** Its current folder, by default this program's. `link/..` is the folder that `link` lies in, wherever that leads. */
  cwd?: string;
  /**
   * Where its standard error goes.
   *
   * @default {"inherit"}
   */
  stderr?: "inherit" | "null";
}

/** What both ways to start a program have in common. */
abstract class ProgramChild implements Child {
  readonly id: number = newId();
  readonly kind = "process";
  abstract readonly pid: number;
  abstract readonly closed: Promise<ChildStatus>;
  /** What errors call it. */
  readonly command: string;

  constructor(command: string) {
    this.command = command;
  }

  abstract kill(signal?: Deno.Signal): void;
  abstract ref(): void;
  abstract unref(): void;

  send(): Promise<void> {
    const what = `send a message to ${this.command}`;
    return Promise.reject(notSupportedError(what, "it reads the connection, and nothing else"));
  }

  async *messages(): AsyncIterableIterator<Incoming> {
    await this.closed;
    yield* [];
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.shutdown();
  }

  shutdown(options?: ShutdownOptions): Promise<ChildStatus> {
    return shutDown(this, options, () => this.kill("SIGTERM"));
  }
}

/** The program has the socket itself. */
class NativeProgram extends ProgramChild {
  readonly pid: number;
  readonly closed: Promise<ChildStatus>;
  readonly #end: ProgramEnd;

  constructor(conn: TcpConn, program: Program, stderr: "inherit" | "null", action: string) {
    super(program.command);
    const { fd } = conn;
    if (fd === undefined) throw atCaller(new Deno.errors.BadResource(`Cannot ${action}: the connection is closed`));
    driverOf(conn).checkMove();
    const error = stderr === "null" ? openNull() : undefined;
    // A program expects calls that wait. The flag is the socket's own, whoever has a copy of its descriptor.
    const flags = syscall("fcntl", fd, F_GETFL, 0);
    syscall("fcntl", fd, F_SETFL, flags & ~O_NONBLOCK);
    try {
      keepChildStatus();
      this.pid = spawn(program, [fd, fd, ...(error === undefined ? [] : [error.fd])]);
      this.#end = new ProgramEnd(openPidfd(this.pid), program.command, true);
      giveAway([conn]);
      this.closed = this.#end.wait();
    } catch (error) {
      syscall("fcntl", fd, F_SETFL, flags);
      throw error instanceof SyscallError ? startError(action, socketError(action, error)) : error;
    } finally {
      error?.close();
    }
  }

  kill(signal: Deno.Signal = "SIGKILL"): void {
    const number = checkKillSignal(signal);
    const { pidfd } = this.#end;
    if (pidfd !== undefined) signalPidfd(pidfd, number);
  }

  ref(): void {
    this.#end.ref(true);
  }

  unref(): void {
    this.#end.ref(false);
  }
}

/** The bytes go through this program, both ways. */
class RelayedProgram extends ProgramChild {
  readonly pid: number;
  readonly closed: Promise<ChildStatus>;
  readonly #child: Deno.ChildProcess;
  readonly #conn: RuntimeConn;
  readonly #output: ReadableStreamDefaultReader<Uint8Array<ArrayBuffer>>;
  /** It was ended from here. Windows has no signals that its status could report. */
  #wasKilled = false;

  constructor(driver: RuntimeConn, { command, args, cwd, env, stderr }: Checked, action: string) {
    super(command);
    driver.checkMove();
    keepChildStatus();
    // A path as Deno checks it, whatever the links in it lead to.
    const isPath = command.includes("/") && !IS_WINDOWS;
    try {
      this.#child = new Deno.Command(isPath ? resolve(cwd ?? "", command) : command, {
        args: [...args],
        env,
        ...(cwd === undefined ? {} : { cwd }),
        stdin: "piped",
        stdout: "piped",
        stderr,
      }).spawn();
    } catch (error) {
      throw startError(action, fromRuntimeError(error, action, "execve"));
    }
    this.pid = this.#child.pid;
    this.#output = this.#child.stdout.getReader();
    this.#conn = driver.move();
    this.closed = this.#relay(this.#conn);
  }

  kill(signal: Deno.Signal = "SIGKILL"): void {
    checkKillSignal(signal);
    try {
      this.#child.kill(signal);
      this.#wasKilled = true;
    } catch (error) {
      const reason = reasonOfFailedKill(error, signal);
      if (reason === "ended") return;
      if (reason !== "cannot send") throw error;
      throw notSupportedError(`send ${signal} to ${this.command} on Windows`, "SIGTERM and SIGKILL end it");
    }
  }

  ref(): void {
    this.#child.ref();
    this.#conn.ref();
  }

  unref(): void {
    this.#child.unref();
    this.#conn.unref();
  }

  async #relay(conn: RuntimeConn): Promise<ChildStatus> {
    const input = this.#feed(conn);
    const output = this.#drain(conn);
    const status = await this.#status();
    // What it has started may write to the same pipe, and goes on with the connection, unless the end was forced.
    const isForced = status.signal === "SIGKILL" || (IS_WINDOWS && this.#wasKilled && !status.success);
    if (isForced) {
      // Also of a peer that reads nothing.
      conn.close();
      await this.#output.cancel();
    }
    await output;
    // What it has not read nobody will.
    conn.close();
    await input;
    return status;
  }

  async #status(): Promise<ChildStatus> {
    try {
      const { success, code, signal } = await this.#child.status;
      return { success, code, signal: signal ?? undefined, error: undefined };
    } catch (error) {
      if (!lostStatus(error)) throw error;
      return { ...LOST, error: lostStatusError(this.command, error) };
    }
  }

  async #feed(conn: RuntimeConn): Promise<void> {
    const writer = this.#child.stdin.getWriter();
    const p = new Uint8Array(64 * 1024);
    try {
      for (let n = await conn.read(p, undefined); n !== null; n = await conn.read(p, undefined)) {
        await writer.write(p.slice(0, n));
      }
      await writer.close();
    } catch {
      // The peer is gone, or the program reads no more: each hears of it as it would from a socket.
      await writer.abort().catch(() => {});
    }
  }

  async #drain(conn: RuntimeConn): Promise<void> {
    const reader = this.#output;
    try {
      for (let chunk = await reader.read(); !chunk.done; chunk = await reader.read()) {
        await conn.writeAll(chunk.value, undefined);
      }
      await conn.closeWrite();
    } catch {
      // Its next write ends a program whose peer is gone.
      await reader.cancel().catch(() => {});
    }
  }
}

/**
 * Refuses a name whose file depends on folders of `PATH` that are relative, for a program in another folder.
 *
 * @throws {Deno.errors.NotCapable} If this program may not start any.
 */
function checkSearch({ command, cwd, environment }: Program, action: string): void {
  if (cwd === undefined || command.includes("/") || !hasRelativeFolders(environment)) return;
  const { state, partial } = Deno.permissions.querySync({ name: "run" });
  if (state === "granted" && !partial) return;
  throw atCaller(
    new Deno.errors.NotCapable(
      `Cannot ${action}: requires --allow-run without a list, for PATH has relative folders and cwd is given`,
    ),
  );
}

/** What is in the way of a file or of the folder: it is not there, as Deno says of all of them. */
const IN_THE_WAY = ["ENOTDIR", "ELOOP", "ENAMETOOLONG"];

function startError(action: string, error: Error & { code?: string }): Error {
  const { code = "" } = error;
  if (!IN_THE_WAY.includes(code)) return error;
  const notFound = new Deno.errors.NotFound(`Cannot ${action}: not found (${code})`, { cause: error.cause });
  return Object.assign(atCaller(notFound), { code });
}

function isVariable(variable: [string, unknown]): variable is [string, string] {
  return variable.every(isText) && variable[0] !== "" && !variable[0].includes("=");
}

/** The options, checked: what is checked here is what is used. */
interface Checked extends Pick<Program, "command" | "args" | "cwd"> {
  readonly env: Record<string, string>;
  readonly stderr: "inherit" | "null";
}

function checkProgram(command: unknown, options: SpawnForOptions): Checked {
  if (!isText(command) || command === "") {
    throw atCaller(new TypeError(`command must be the name or path of a program, received ${quote(command)}`));
  }
  const { args = [], env = {}, cwd, stderr = "inherit" }: { [K in keyof SpawnForOptions]: unknown } = options;
  const list: unknown[] = Array.isArray(args) ? [...args] : [undefined];
  if (!list.every(isText)) {
    throw atCaller(
      new TypeError(`args must be an array of strings without zeros and lone surrogates, received ${quote(args)}`),
    );
  }
  const variables: [string, unknown][] = typeof env === "object" && env !== null ? Object.entries(env) : [["", env]];
  if (!variables.every(isVariable)) {
    throw atCaller(new TypeError(`env must have strings without zeros and lone surrogates, received ${quote(env)}`));
  }
  if (cwd !== undefined && (!isText(cwd) || cwd === "")) {
    throw atCaller(new TypeError(`cwd must be a path, received ${quote(cwd)}`));
  }
  if (stderr !== "inherit" && stderr !== "null") {
    throw atCaller(new TypeError(`stderr must be "inherit" or "null", received ${quote(stderr)}`));
  }
  return { command, args: list, cwd, env: Object.fromEntries(variables), stderr };
}

/**
 * Lets a program serve a connection on its standard input and output, as inetd
 * does with `nowait`: `cat` is an echo server, and a shell script whatever it
 * says. The connection is the program's from then on, and closed here.
 *
 * On the native engine the program gets the socket itself (posix_spawn(3),
 * dup2(2)), in blocking mode, with what is unread in it. On the runtime engine
 * the bytes go through this program: end-of-file of the peer closes the
 * program's input, and the end of its output closes the write side. Signals
 * that whoever started this program has blocked (sigprocmask(2)) stay blocked
 * there, as in any child of Deno's; on the native engine none is.
 *
 * A command with a slash is a path, a relative one in `cwd`. Any other is
 * looked for in the `PATH` that the program gets, as Deno does it: `~` is the
 * home folder, and a relative folder one of this program's. (Name none with
 * `cwd` on the runtime engine: Deno looks in the one folder and starts in the
 * other.) The file that is found is the one that the permission is asked for
 * and that is started. It goes on if this one ends, as it may with inetd, but
 * for Ctrl-C, which a terminal sends to both. It takes no messages: `send`
 * rejects.
 *
 * Requires `--allow-run` for the program.
 *
 * @param conn The connection. It stays open here if the program cannot be started.
 * @param command The program: a name or a path.
 * @param options Its arguments, environment and current folder.
 * @returns The program's process.
 * @throws {TypeError} If an argument has the wrong type.
 * @throws {Deno.errors.NotFound} If there is no such program, or no such folder.
 * @throws {Deno.errors.PermissionDenied} If it may not be executed.
 * @throws {Deno.errors.NotCapable} If the permission is not given.
 * @throws {Deno.errors.BadResource} If the connection is closed.
 * @throws {Deno.errors.Busy} If a call waits on a connection of the runtime engine.
 *
 * @example Sort what a client sends
 * ```ts
 * import { spawnFor } from "@c10k/sockets/process";
 * import { TcpConn, TcpListener } from "@c10k/sockets/tcp";
 * import { assertEquals } from "@std/assert";
 *
 * using listener = TcpListener.bind({ hostname: "127.0.0.1", port: 0 });
 * using client = await TcpConn.connect({ port: listener.addr.port });
 * const child = spawnFor(await listener.accept(), "sort");
 *
 * await client.writeAll(new TextEncoder().encode("pear\napple\n"));
 * await client.closeWrite();
 * assertEquals(await new Response(client.readable).text(), "apple\npear\n");
 * assertEquals((await child.closed).code, 0);
 * ```
 */
export function spawnFor(conn: TcpConn, command: string, options: SpawnForOptions = {}): Child {
  if (!(conn instanceof TcpConn)) throw atCaller(new TypeError(`conn must be a TcpConn, received ${quote(conn)}`));
  checkOptions(options);
  const program = checkProgram(command, options);
  const action = `start ${command}${program.cwd === undefined ? "" : ` in ${program.cwd}`}`;
  const driver = driverOf(conn);
  if (driver instanceof RuntimeConn) {
    return new RelayedProgram(driver, program, action);
  }
  const environment = environmentWith(program.env);
  const { args, stderr } = program;
  // As Deno takes it: without "..", whatever links lead to.
  const cwd = program.cwd === undefined ? undefined : resolve(program.cwd);
  const file = findProgram(command, cwd, environment, action);
  const started: Program = { command, file, args, environment, cwd };
  checkSearch(started, action);
  requireRun(file, environment, action);
  return new NativeProgram(conn, started, stderr, action);
}
