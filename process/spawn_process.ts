/** A child that is a process. */

import { chooseEngine } from "../internal/engine.ts";
import { constants } from "node:os";
import { fromRuntimeError, notSupportedError, socketError, SyscallError } from "../internal/errors.ts";
import { libc } from "../internal/libc.ts";
import { enterChild } from "../internal/ledger.ts";
import { atCaller } from "../internal/stack.ts";
import { lastErrno, syscallError } from "../internal/syscall.ts";
import { Timer } from "../internal/timer.ts";
import { Unload, whenUnloaded } from "../internal/unload.ts";
import { checkDuration, checkOptions, quote } from "../internal/validate.ts";
import {
  type Child,
  type ChildStatus,
  endedError,
  GRACE,
  newId,
  type ProcessOptions,
  type ShutdownOptions,
} from "./child.ts";
import { checkPermissions, permissionFlags } from "./child_permissions.ts";
import { dieWithParentModule } from "./die_with_parent.ts";
import { type Incoming, Link, type MessagesOptions, type SendOptions } from "./link.ts";
import { childName, moduleUrl, PARENT_VARIABLE } from "./names.ts";
import { refuseToServe } from "./pool_protocol.ts";
import { ProcessTransport, sealForProcess } from "./process_transport.ts";
import { awaitEnd } from "./posix_spawn.ts";
import { cString, UnixListener, type UnixSocket } from "./unix_socket.ts";

/** {@linkcode Child} as a process. */
export class ProcessChild implements Child {
  readonly id: number = newId();
  readonly kind = "process";
  readonly pid: number;
  readonly closed: Promise<ChildStatus>;
  readonly link: Link;
  readonly name: string;
  readonly #child: Deno.ChildProcess;
  #isEnding = false;

  constructor(module: string | URL, options: ProcessOptions) {
    checkProcessOptions(options);
    const url = moduleUrl(module);
    this.name = childName(this.kind, this.id, url, options.name);
    const action = `start ${this.name}`;
    chooseEngine("native", action);
    if (Deno.build.standalone) {
      throw notSupportedError(`${action} from a compiled program`, "run it with deno, or use threads");
    }
    const flags = permissionFlags(checkPermissions(options.permissions), action);
    this.link = new Link(this.name, sealForProcess);
    const control = new ControlSocket(action);
    try {
      this.#child = new Deno.Command(Deno.execPath(), {
        args: [
          "run",
          "--quiet",
          "--no-prompt",
          `--preload=${dieWithParentModule()}`,
          ...flags,
          ...(options.flags ?? []),
          url.href,
          ...(options.args ?? []),
        ],
        env: { ...options.env, [PARENT_VARIABLE]: control.path },
        ...(options.cwd === undefined ? {} : { cwd: options.cwd }),
        stdin: "null",
        stdout: options.stdout ?? "inherit",
        stderr: options.stderr ?? "inherit",
      }).spawn();
    } catch (error) {
      control.close();
      throw fromRuntimeError(error, action, "execve");
    }
    this.pid = this.#child.pid;
    // It ends with this process; with a program that is run again in the same one, it is ended.
    const forget = [
      enterChild(this.pid),
      whenUnloaded(Unload.END, () => this.kill()),
      whenUnloaded(Unload.AWAIT, () => awaitEnd(this.pid)),
    ];
    this.closed = this.#run(control);
    // Whoever is interested awaits it.
    this.closed.catch(() => {}).finally(() => forget.forEach((take) => take()));
  }

  send(message: unknown, options?: SendOptions): Promise<void> {
    return this.link.send(message, options);
  }

  messages(options?: MessagesOptions): AsyncIterableIterator<Incoming> {
    return this.link.messages(options);
  }

  async shutdown(options: ShutdownOptions = {}): Promise<ChildStatus> {
    checkOptions(options);
    const grace = checkDuration(options.grace ?? GRACE, "grace");
    this.#isEnding = true;
    if (this.link.transport === undefined) this.kill("SIGTERM");
    else this.link.post({ type: "shutdown" }).catch(() => {});
    const timer = new Timer(grace, () => this.kill());
    try {
      return await this.closed;
    } finally {
      timer.cancel();
    }
  }

  kill(signal: Deno.Signal = "SIGKILL"): void {
    try {
      this.#child.kill(signal);
    } catch (error) {
      // It has ended already.
      if (!(error instanceof TypeError) || !(signal in constants.signals)) throw error;
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.shutdown();
    this.link.discard();
  }

  async #run(control: ControlSocket): Promise<ChildStatus> {
    const ended = new AbortController();
    const received = this.#connect(control, ended.signal);
    const { success, code, signal } = await this.#child.status;
    ended.abort();
    // What it has sent before is still read.
    const error = await received;
    this.link.close(endedError(this.name, error));
    return { success, code, signal: signal ?? undefined, error };
  }

  /** Waits for the child to connect, then for its last packet. */
  async #connect(control: ControlSocket, ended: AbortSignal): Promise<Error | undefined> {
    let socket: UnixSocket | undefined;
    try {
      socket = await control.accept(this.pid, ended);
    } catch (error) {
      // It could not be reached, and would not know.
      this.kill();
      return error as Error;
    } finally {
      control.close();
    }
    if (socket === undefined) return undefined;
    if (this.#isEnding) {
      // It was sent SIGTERM, and takes its time.
      socket.close();
      return undefined;
    }
    const { promise, resolve } = Promise.withResolvers<Error | undefined>();
    this.link.attach(new ProcessTransport(socket, this.link, resolve));
    const error = await promise;
    this.link.close(endedError(this.name));
    // A child that says what nobody understands, or has cut the line, is of no use any more.
    this.kill();
    return error instanceof Deno.errors.ConnectionReset || error instanceof Deno.errors.Interrupted ? undefined : error;
  }
}

/** Where one child connects: a socket in a folder that only this user may enter. */
class ControlSocket {
  readonly path: string;
  readonly #folder: Uint8Array<ArrayBuffer>;
  readonly #listener: UnixListener;

  constructor(action: string) {
    const folder = cString(`/tmp/c10k-sockets-${Deno.pid}-XXXXXX`);
    // mkdtemp(3) makes it with mode 0700.
    if (libc.mkdtemp(folder) === null) throw socketError(action, syscallError("mkdtemp", lastErrno()));
    this.#folder = folder;
    this.path = `${new TextDecoder().decode(folder.subarray(0, -1))}/control`;
    try {
      this.#listener = new UnixListener(this.path).publish();
    } catch (error) {
      libc.rmdir(folder);
      throw error instanceof SyscallError ? socketError(action, error) : error;
    }
  }

  /**
   * The connection of the process `pid` of this user; all others are closed. With an `ended` process it is one that it
   * had made before.
   */
  async accept(pid: number, ended: AbortSignal): Promise<UnixSocket | undefined> {
    while (true) {
      const socket = await this.#next(ended);
      if (socket === undefined) return undefined;
      try {
        const peer = socket.peer;
        if (peer.pid === pid && peer.uid === libc.getuid()) return socket;
      } catch { /* it is gone already */ }
      socket.close();
    }
  }

  async #next(ended: AbortSignal): Promise<UnixSocket | undefined> {
    if (!ended.aborted) {
      try {
        return await this.#listener.accept(ended);
      } catch (error) {
        if (!ended.aborted) throw error;
      }
    }
    return this.#listener.tryAccept();
  }

  close(): void {
    this.#listener.close();
    libc.rmdir(this.#folder);
  }
}

function checkProcessOptions(options: ProcessOptions): void {
  checkOptions(options);
  for (const name of ["args", "flags"] as const) {
    const value: unknown = options[name];
    if (value !== undefined && !(Array.isArray(value) && value.every((item) => typeof item === "string"))) {
      throw atCaller(new TypeError(`${name} must be an array of strings, received ${quote(value)}`));
    }
  }
  // What a child may do is said in one place only, where it is checked.
  // Letters can stand together: -qA.
  const flag = options.flags?.find((flag) => /^(-[a-z]*[ARWNESIP]|--(allow|deny|ignore)-|--permission-set)/.test(flag));
  if (flag !== undefined) {
    throw atCaller(new TypeError(`flags must not hold permissions, use permissions: received ${quote(flag)}`));
  }
}

/**
 * Starts a module as a process of its own, running Deno.
 *
 * The module calls {@linkcode parent} to talk, or {@linkcode serve} in a pool.
 * The process ends when this one does, or the Worker that has started it,
 * however that comes about (`PR_SET_PDEATHSIG` of prctl(2)); without `--allow-ffi`
 * it does within a quarter of a second, if it returns to its event loop. Its descriptors are its own: a socket
 * is sent as a copy (`SCM_RIGHTS` of unix(7)), and what is not sent it never
 * has.
 *
 * Requires `--allow-run` for Deno itself (the path that `Deno.execPath()` tells), and the native engine: Linux and
 * `--allow-ffi`, here and there.
 *
 * @param module Where it is: a URL, or a path in the current folder.
 * @param options What it may do, its arguments and environment.
 * @returns The process, which starts meanwhile; messages wait for it.
 * @throws {Deno.errors.NotCapable} If the permission to run Deno is not given, or the child would get more than this program has.
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
 *     await conn.writeAll(new TextEncoder().encode("from " + Deno.pid));
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
