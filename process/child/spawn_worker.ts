/** A child that is a thread. */

import { SIGKILL } from "../../internal/constants.ts";
import { engineSupport } from "../../internal/engine.ts";
import { openLedger } from "../../internal/ledger.ts";
import { newOwner, workerName } from "../../internal/owner.ts";
import { Unload, whenUnloaded } from "../../internal/unload.ts";
import { checkOptions } from "../../internal/validate.ts";
import {
  type Child,
  endedError,
  newId,
  type ProcessOptions,
  shutDown,
  type ShutdownOptions,
  type SpawnOptions,
} from "./child.ts";
import { checkKillSignal } from "../program/signal.ts";
import type { ChildStatus } from "../program/status.ts";
import { checkPermissions } from "./child_permissions.ts";
import { type Incoming, Link, type MessagesOptions, type SendOptions } from "../message/link.ts";
import { refuseToServe } from "../message/pool_protocol.ts";
import { childName, moduleUrl } from "./module_url.ts";
import { isThreadMessage, sealForThread, ThreadTransport, unpackThreadMessage } from "../message/thread_transport.ts";
import { startThread, type Thread } from "./thread.ts";
import { closeLeftOpen, closeLeftOpenLater, closeLeftOpenNow, whenThreadEnds } from "./thread_end.ts";
import { atCaller } from "../../internal/stack.ts";
import type { StreamSocket } from "../../tcp/stream_socket.ts";

/** What a Worker says first: messages can be sent to it now. */
export interface Hello {
  readonly hello: true;
  /** It may use the native engine. */
  readonly takesNative: boolean;
}

function isHello(data: unknown): data is Hello {
  const { hello, takesNative } = (data ?? {}) as { [K in keyof Hello]?: unknown };
  return hello === true && typeof takesNative === "boolean";
}

/** {@linkcode Child} as a Worker. */
export class WorkerChild implements Child {
  readonly id: number = newId();
  readonly kind = "worker";
  readonly closed: Promise<ChildStatus>;
  readonly link: Link;
  readonly name: string;
  readonly #thread: Thread;
  /** What it opens is known by, 0 where there are no descriptors. */
  readonly #owner: bigint;
  readonly #resolve: (status: ChildStatus) => void;
  /** Messages that have come. */
  #received = 0;
  /** Connections that it has sent here, whose bytes go through it. */
  readonly #flowing = new Set<StreamSocket>();
  #hasEnded = false;
  /** Takes back what is to be done when this program is unloaded. */
  readonly #forget: (() => void)[];

  constructor(module: string | URL, options: SpawnOptions) {
    checkOptions(options);
    const output = (["stdout", "stderr"] as const).find((name) => (options as ProcessOptions)[name] === "piped");
    if (output !== undefined) {
      const why = `${output} can be piped from processes only: a thread writes where this program does`;
      throw atCaller(new TypeError(why));
    }
    const url = moduleUrl(module);
    const permissions = checkPermissions(options.permissions, this.kind);
    this.name = childName(this.kind, this.id, url, options.name);
    this.link = new Link(this.name, sealForThread);
    ({ promise: this.closed, resolve: this.#resolve } = Promise.withResolvers<ChildStatus>());
    // Before there is anything of the thread that could be taken for an earlier run's.
    if (engineSupport().engine === "native") openLedger();
    this.#owner = engineSupport().engine === "native" ? newOwner() : 0n;
    try {
      this.#thread = startThread(url, workerName(this.name, this.#owner), permissions, {
        message: (data) => {
          try {
            this.#receive(data);
          } catch (error) {
            // Else it would end this program: a child says what nobody understands.
            this.#fail(error as Error);
          }
        },
        unreadable: () => this.#fail(new TypeError(`${this.name} has sent what cannot be cloned`)),
        error: (message) => {
          const error = new Error(`${this.name} has failed: ${message.replace(/^Uncaught /, "")}`);
          this.#end({ success: false, code: 1, signal: undefined, error });
        },
        exit: (code) => {
          const error = code === 0 ? undefined : new Error(`${this.name} has ended with the exit code ${code}`);
          this.#end({ success: code === 0, code: code === 0 ? 0 : 1, signal: undefined, error });
        },
      });
    } catch (error) {
      if (this.#owner !== 0n) closeLeftOpen(this.#owner);
      throw error;
    }
    this.#forget = [
      whenUnloaded(Unload.END, () => this.#thread.terminate()),
      whenUnloaded(Unload.AWAIT, () => this.#owner !== 0n && closeLeftOpenNow(this.#owner)),
    ];
  }

  send(message: unknown, options?: SendOptions): Promise<void> {
    return this.link.send(message, options);
  }

  messages(options?: MessagesOptions): AsyncIterableIterator<Incoming> {
    return this.link.messages(options);
  }

  shutdown(options?: ShutdownOptions): Promise<ChildStatus> {
    return shutDown(this, options, () => void this.link.post({ type: "shutdown" }).catch(() => {}));
  }

  kill(signal: Deno.Signal = "SIGKILL"): void {
    checkKillSignal(signal);
    this.#thread.terminate();
    this.#end({ success: false, code: 128 + SIGKILL, signal: "SIGKILL", error: undefined });
  }

  ref(): void {
    this.#thread.ref(true);
  }

  unref(): void {
    this.#thread.ref(false);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.shutdown();
    this.link.discard();
  }

  #receive(data: unknown): void {
    this.#received++;
    if (isHello(data)) {
      const takesNative = data.takesNative && this.#owner !== 0n;
      this.link.attach(new ThreadTransport(this.#thread, this.#owner, takesNative));
    } else if (!isThreadMessage(data)) throw atCaller(new TypeError("Cannot receive: not a message of this library"));
    else if (data.packet.type === "bye") {
      const { body } = data.packet;
      const error = body === undefined ? undefined : body instanceof Error ? body : new Error(String(body));
      this.#end({ success: error === undefined, code: error === undefined ? 0 : 1, signal: undefined, error });
    } else this.link.receive(data.packet, ...unpackThreadMessage(data, this.#owner, this.#flowing));
  }

  #fail(error: Error): void {
    this.#thread.terminate();
    this.#end({ success: false, code: 1, signal: undefined, error });
  }

  async #end(status: ChildStatus): Promise<void> {
    if (this.#hasEnded) return;
    this.#hasEnded = true;
    this.link.stopSending(endedError(this.name, status.error));
    const isOver = this.#owner === 0n || await whenThreadEnds(this.#owner);
    // What it has said before is on its way by another queue than its failure.
    for (let before = -1; before < this.#received;) {
      before = this.#received;
      await new Promise((resolve) => setTimeout(resolve));
    }
    this.#thread.terminate();
    for (const socket of this.#flowing) socket.lose();
    for (const forget of this.#forget) forget();
    this.link.end();
    if (!isOver) closeLeftOpenLater(this.#owner);
    else if (this.#owner !== 0n) closeLeftOpen(this.#owner);
    this.#resolve(status);
  }
}

/**
 * Starts a module as a thread: a Worker, which shares this process and its
 * table of descriptors, and nothing else.
 *
 * The module calls {@linkcode parent} to talk, or {@linkcode serve} in a pool.
 * It ends when its module has nothing left to do, as a process does: no loop
 * over `messages()`, no `serve()`, no timer and no socket waits there. What it
 * leaves open then, or when it fails or is killed, is closed.
 *
 * A module whose top level awaits a promise that never settles has not ended:
 * the thread goes on, and keeps this program alive unless `unref()` was called.
 * `kill()` ends it at once, `shutdown()` after the grace at the latest.
 *
 * With `permissions` of its own it is a Worker of the Web, which goes on until
 * it is asked to end or killed, and so does a thread to or from which a
 * connection of the runtime engine has gone.
 *
 * Requires `--allow-read` for a local module.
 *
 * @param module Where it is: a URL, or a path in the current folder.
 * @param options What it may do.
 * @returns The thread, which starts meanwhile; messages wait for it.
 * @throws {TypeError} If an option is of the wrong kind, or holds a permission that Deno cannot read.
 *
 * @example Hand a connection to a thread
 * ```ts
 * import { spawnWorker } from "@c10k/sockets/process";
 *
 * const source = `
 *   import { parent } from "${import.meta.resolve("@c10k/sockets/process")}";
 *   for await (const { message } of parent().messages()) await parent().send(2 * Number(message));
 * `;
 * const child = spawnWorker(`data:application/typescript,${encodeURIComponent(source)}`);
 * await child.send(21);
 * for await (const { message } of child.messages()) {
 *   console.log(message); // 42
 *   break;
 * }
 * await child.shutdown();
 * ```
 */
export function spawnWorker(module: string | URL, options: SpawnOptions = {}): Child {
  const child = new WorkerChild(module, options);
  refuseToServe(child.link);
  return child;
}
