/** A child that is a process. */

import { fileURLToPath } from "node:url";
import { isText } from "../../internal/c_string.ts";
import { chooseEngine } from "../../internal/engine.ts";
import { notSupportedError, socketError, SyscallError } from "../../internal/errors.ts";
import { enterChild } from "../../internal/ledger.ts";
import { Unload, whenUnloaded } from "../../internal/unload.ts";
import { checkOptions, quote } from "../../internal/validate.ts";
import { type Child, endedError, newId, type ProcessOptions, shutDown, type ShutdownOptions } from "./child.ts";
import type { ChildStatus } from "../program/status.ts";
import { checkPermissions, permissionFlags } from "./child_permissions.ts";
import { type CheckedFlag, checkFlags, requireFlags } from "./deno_flags.ts";
import { checkVariables } from "./deno_variables.ts";
import { dieWithParentModule } from "./die_with_parent.ts";
import { environmentWith } from "../../internal/environment.ts";
import { type Incoming, Link, type MessagesOptions, type SendOptions } from "../message/link.ts";
import { requireModule } from "./module_permission.ts";
import { childName, moduleUrl } from "./module_url.ts";
import { PARENT_FD, PARENT_VARIABLE } from "../../internal/parent_channel.ts";
import { refuseToServe } from "../message/pool_protocol.ts";
import { awaitEnd, openPidfd, signalPidfd, spawn } from "../program/posix_spawn.ts";
import { type OutputTo, ProcessFiles } from "./process_files.ts";
import { HELLO, ProcessTransport, sealForProcess } from "../message/process_transport.ts";
import { ProgramEnd } from "../program/program_end.ts";
import { requireRun } from "../program/run_permission.ts";
import type { ReceivedPacket } from "../message/scm.ts";
import { keepChildStatus } from "../program/sigchld.ts";
import { checkKillSignal } from "../program/signal.ts";
import type { UnixSocket } from "../message/unix_socket.ts";
import { atCaller } from "../../internal/stack.ts";

/** {@linkcode Child} as a process. */
export class ProcessChild implements Child {
  readonly id: number = newId();
  readonly kind = "process";
  readonly pid: number;
  readonly closed: Promise<ChildStatus>;
  readonly link: Link;
  readonly name: string;
  readonly #files: ProcessFiles;
  readonly #end: ProgramEnd;
  #isEnding = false;

  constructor(module: string | URL, options: ProcessOptions) {
    const { args, flags, env, cwd, stdout, stderr } = checkProcessOptions(options);
    const url = moduleUrl(module);
    this.name = childName(this.kind, this.id, url, options.name);
    const action = `start ${this.name}`;
    chooseEngine("native", action);
    if (Deno.build.standalone) {
      throw notSupportedError(`${action} from a compiled program`, "run it with deno, or use threads");
    }
    checkVariables(env);
    const permissions = permissionFlags(checkPermissions(options.permissions, this.kind), action);
    // Without the C library a process cannot use the socket.
    const hasSocket = permissions.some((flag) => flag.startsWith("--allow-ffi"));
    const environment = environmentWith(hasSocket ? { ...env, [PARENT_VARIABLE]: `${PARENT_FD}` } : env);
    const command = Deno.execPath();
    requireRun(command, environment, action);
    requireModule(url, action);
    const argv = [
      "run",
      "--no-prompt",
      `--preload=${dieWithParentModule(hasSocket)}`,
      ...permissions,
      ...requireFlags(flags, cwd, action),
      // Behind the caller's: one that takes a value takes this, and not the module.
      "--quiet",
      url.href,
      ...args,
    ];
    this.link = new Link(this.name, sealForProcess);
    let files: ProcessFiles | undefined;
    try {
      this.#files = files = new ProcessFiles(this.name, stdout, stderr, hasSocket);
      keepChildStatus();
      this.pid = spawn({ command, file: command, args: argv, environment, cwd }, files.list);
      this.#end = new ProgramEnd(openPidfd(this.pid), this.name);
      files.handedOver();
    } catch (error) {
      files?.close();
      throw error instanceof SyscallError ? socketError(action, error) : error;
    }
    // It ends with this process; with a program that is run again in the same one, it is ended.
    const forget = [
      enterChild(this.pid),
      whenUnloaded(Unload.END, () => this.kill()),
      whenUnloaded(Unload.AWAIT, () => awaitEnd(this.pid)),
    ];
    this.closed = this.#run();
    // Whoever is interested awaits it.
    this.closed.catch(() => {}).finally(() => forget.forEach((take) => take()));
  }

  get stdout(): ReadableStream<Uint8Array<ArrayBuffer>> | undefined {
    return this.#files.stdout?.readable;
  }

  get stderr(): ReadableStream<Uint8Array<ArrayBuffer>> | undefined {
    return this.#files.stderr?.readable;
  }

  ref(): void {
    this.#refer(true);
  }

  unref(): void {
    this.#refer(false);
  }

  send(message: unknown, options?: SendOptions): Promise<void> {
    return this.link.send(message, options);
  }

  messages(options?: MessagesOptions): AsyncIterableIterator<Incoming> {
    return this.link.messages(options);
  }

  shutdown(options?: ShutdownOptions): Promise<ChildStatus> {
    return shutDown(this, options, () => {
      this.#isEnding = true;
      if (this.link.transport === undefined) this.kill("SIGTERM");
      else this.link.post({ type: "shutdown" }).catch(() => {});
    });
  }

  kill(signal: Deno.Signal = "SIGKILL"): void {
    const number = checkKillSignal(signal);
    const { pidfd } = this.#end;
    if (pidfd !== undefined) signalPidfd(pidfd, number);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.shutdown();
    this.link.discard();
    this.#files.cancelOutputs();
  }

  #refer(on: boolean): void {
    this.#end.ref(on);
    this.#files.ref(on);
  }

  async #run(): Promise<ChildStatus> {
    const { socket } = this.#files;
    const received = socket === undefined ? undefined : this.#connect(socket);
    const status = await this.#end.wait();
    // Messages that it sent before its end are still read. A program that inherited the socket can keep it open.
    socket?.endReceiving();
    const error = await received;
    this.link.close(endedError(this.name, error));
    return { ...status, error: error ?? status.error };
  }

  /** Waits for the child to call `parent()`, then for its last packet. */
  async #connect(socket: UnixSocket): Promise<Error | undefined> {
    let first: ReceivedPacket;
    try {
      first = await socket.receive();
    } catch (error) {
      // It could not be heard, and would not know.
      socket.close();
      this.kill();
      return error as Error;
    }
    for (const descriptor of first.descriptors) descriptor.close();
    const isHello = first.data.length === HELLO.length && first.data[0] === HELLO[0];
    if (!isHello || this.#isEnding) {
      // It has ended; or it was sent SIGTERM, and takes its time.
      socket.close();
      if (isHello || first.data.length === 0) return undefined;
      this.kill();
      return atCaller(new TypeError("Cannot receive: not a message of this library"));
    }
    const { promise, resolve } = Promise.withResolvers<Error | undefined>();
    this.link.attach(new ProcessTransport(socket, this.link, resolve));
    const error = await promise;
    this.link.close(endedError(this.name));
    // A child that says what nobody understands, or has cut the line, is of no use any more.
    this.kill();
    return error instanceof Deno.errors.ConnectionReset || error instanceof Deno.errors.BadResource ? undefined : error;
  }
}

/** The options, checked: what is checked here is what is used. */
interface Checked {
  readonly args: readonly string[];
  readonly flags: readonly CheckedFlag[];
  readonly env: Record<string, string>;
  readonly cwd: string | undefined;
  readonly stdout: OutputTo;
  readonly stderr: OutputTo;
}

function checkProcessOptions(options: ProcessOptions): Checked {
  checkOptions(options);
  const { args, flags, env = {}, cwd, stdout, stderr }: { [K in keyof ProcessOptions]: unknown } = options;
  const variables: [string, unknown][] = typeof env === "object" && env !== null ? Object.entries(env) : [["", env]];
  if (!variables.every(isVariable)) {
    throw atCaller(new TypeError(`env must have strings without zeros and lone surrogates, received ${quote(env)}`));
  }
  if (cwd !== undefined && !(cwd instanceof URL) && !isText(cwd)) {
    throw atCaller(new TypeError(`cwd must be a path or a URL, received ${quote(cwd)}`));
  }
  return {
    args: texts("args", args),
    flags: checkFlags(texts("flags", flags)),
    env: Object.fromEntries(variables),
    cwd: cwd instanceof URL ? fileURLToPath(cwd) : cwd,
    stdout: outputTo("stdout", stdout),
    stderr: outputTo("stderr", stderr),
  };
}

function texts(name: string, value: unknown = []): string[] {
  const list: unknown[] = Array.isArray(value) ? [...value] : [undefined];
  if (list.every(isText)) return list;
  throw atCaller(
    new TypeError(
      `${name} must be an array of strings without zeros and lone surrogates, received ${quote(value)}`,
    ),
  );
}

function isVariable(variable: [string, unknown]): variable is [string, string] {
  return variable.every(isText) && variable[0] !== "" && !variable[0].includes("=");
}

function outputTo(name: "stdout" | "stderr", to: unknown = "inherit"): OutputTo {
  if (to === "inherit" || to === "null" || to === "piped") return to;
  throw atCaller(new TypeError(`${name} must be "inherit", "null" or "piped", received ${quote(to)}`));
}

/**
 * Starts a module as a process of its own, running Deno.
 *
 * The module calls {@linkcode parent} to talk, or {@linkcode serve} in a pool.
 * The process ends when this one does, or the Worker that has started it,
 * however that comes about (`PR_SET_PDEATHSIG` of prctl(2)); without `--allow-ffi`
 * it does within a quarter of a second, if it returns to its event loop. Its descriptors are its own: a socket
 * is sent as a copy (`SCM_RIGHTS` of unix(7)), and what is not sent it never
 * has. The two talk by a socketpair(2), which needs no file and no folder.
 *
 * It begins with no signal blocked, and none ignored but SIGHUP, SIGINT and SIGQUIT, if this program ignores them
 * (posix_spawn(3)). Since 2.9.2 Deno itself stops ignoring SIGHUP and SIGINT half a second after its start, as it
 * listens for SIGUSR1 then.
 *
 * Requires `--allow-run` for Deno itself (the path that `Deno.execPath()` tells), `--allow-read` for a local module and
 * `--allow-import` for a remote one, and the native engine: Linux and `--allow-ffi`, here and there. Deno asks for no
 * permission for what the module imports statically: a module that somebody else chooses is like a program that
 * somebody else chooses.
 *
 * @param module Where it is: a URL, or a path in the current folder.
 * @param options What it may do, its arguments and environment.
 * @returns The process, which starts meanwhile; messages wait for it.
 * @throws {TypeError} If an option is of the wrong kind, or holds a flag or a permission that cannot be given.
 * @throws {Deno.errors.NotCapable} If the permission to run Deno or to load the module is not given, or the child would
 * get or reach more than this program may.
 * @throws {Deno.errors.NotSupported} If there is no native engine.
 *
 * @example Two processes, one connection
 * ```ts
 * import { spawnProcess } from "@c10k/sockets/process";
 * import { TcpConn, TcpListener } from "@c10k/sockets/tcp";
 *
 * const source = `
 *   import { parent } from "${import.meta.resolve("@c10k/sockets/process")}";
 *   for await (const { sockets: [conn] } of parent().messages()) {
 *     await conn.writeAll(new TextEncoder().encode("from " + Deno.pid)).catch(console.error);
 *     conn.close();
 *   }
 * `;
 * const child = spawnProcess(`data:application/typescript,${encodeURIComponent(source)}`);
 *
 * using listener = TcpListener.bind({ hostname: "127.0.0.1", port: 0 });
 * using client = await TcpConn.connect({ port: listener.addr.port });
 * await child.send("serve this", { sockets: [await listener.accept()] });
 * console.log(await new Response(client.readable).text()); // from 12345
 * await child.shutdown();
 * ```
 */
export function spawnProcess(module: string | URL, options: ProcessOptions = {}): Child {
  const child = new ProcessChild(module, options);
  refuseToServe(child.link);
  return child;
}
