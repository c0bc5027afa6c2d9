/** A child that is a thread. */

import { newOwner, shareTable } from "../internal/owner.ts";
import { checkDuration, checkOptions } from "../internal/validate.ts";
import {
  type Child,
  type ChildStatus,
  endedError,
  GRACE,
  newId,
  type ShutdownOptions,
  type SpawnOptions,
} from "./child.ts";
import { checkPermissions } from "./child_permissions.ts";
import { type Incoming, Link, type SendOptions } from "./link.ts";
import { childName, moduleUrl, WORKER_MARK } from "./names.ts";
import { type Envelope, ThreadTransport, unpack } from "./thread_transport.ts";
import { closeLeftOpen } from "./threads.ts";

/** What a Worker says first. */
export interface Hello {
  readonly hello: { readonly thread: number };
}

/** What it is answered. */
export interface Welcome {
  readonly welcome: {
    readonly id: number;
    readonly owner: number;
    readonly table: Int32Array<SharedArrayBuffer>;
  };
}

const SIGKILL = 9;

/** {@linkcode Child} as a Worker. */
export class WorkerChild implements Child {
  readonly id: number = newId();
  readonly kind = "worker";
  readonly closed: Promise<ChildStatus>;
  readonly link: Link;
  readonly name: string;
  readonly #worker: Worker;
  readonly #owner = newOwner();
  readonly #resolve: (status: ChildStatus) => void;
  #thread = 0;
  #hasEnded = false;

  constructor(module: string | URL, options: SpawnOptions) {
    checkOptions(options);
    const url = moduleUrl(module);
    const permissions = checkPermissions(options.permissions);
    this.name = childName(this.kind, this.id, url, options.name);
    this.link = new Link(this.name);
    ({ promise: this.closed, resolve: this.#resolve } = Promise.withResolvers<ChildStatus>());
    const settings = {
      type: "module" as const,
      name: `${WORKER_MARK}${this.name}`,
      // Deno ends the program if this is given without --unstable-worker-options.
      ...(permissions === "inherit" ? {} : { deno: { permissions } }),
    };
    this.#worker = new Worker(url, settings as WorkerOptions);
    this.#worker.onmessage = ({ data }) => this.#receive(data);
    this.#worker.onerror = (event) => {
      // Else the error would end this program, too.
      event.preventDefault();
      const error = new Error(`${this.name} has failed: ${event.message.replace(/^Uncaught /, "")}`);
      this.#end({ success: false, code: 1, signal: undefined, error });
    };
    this.#worker.onmessageerror = () => {
      this.#fail(new TypeError(`${this.name} has sent what cannot be cloned`));
    };
  }

  send(message: unknown, options?: SendOptions): Promise<void> {
    return this.link.send(message, options);
  }

  messages(): AsyncIterableIterator<Incoming> {
    return this.link.messages();
  }

  async shutdown(options: ShutdownOptions = {}): Promise<ChildStatus> {
    checkOptions(options);
    const grace = checkDuration(options.grace ?? GRACE, "grace");
    this.link.post({ type: "shutdown" }).catch(() => {});
    const timer = grace === Infinity ? undefined : setTimeout(() => this.kill(), grace);
    try {
      return await this.closed;
    } finally {
      clearTimeout(timer);
    }
  }

  kill(): void {
    if (this.#hasEnded) return;
    this.#worker.terminate();
    this.#end({ success: false, code: 128 + SIGKILL, signal: "SIGKILL", error: undefined });
  }

  #receive(data: Hello | Envelope): void {
    if (this.#hasEnded) return;
    if ("hello" in data) {
      this.#thread = data.hello.thread;
      const welcome: Welcome = { welcome: { id: this.id, owner: this.#owner, table: shareTable() } };
      this.#worker.postMessage(welcome);
      this.link.attach(new ThreadTransport(this.#worker, () => this.#owner));
    } else if (data.packet.type === "bye") {
      const error = data.packet.body as Error | undefined;
      this.#end({ success: error === undefined, code: error === undefined ? 0 : 1, signal: undefined, error });
    } else {
      this.link.receive(data.packet, unpack(data), 0);
    }
  }

  #fail(error: Error): void {
    this.#worker.terminate();
    this.#end({ success: false, code: 1, signal: undefined, error });
  }

  async #end(status: ChildStatus): Promise<void> {
    if (this.#hasEnded) return;
    this.#hasEnded = true;
    this.link.close(endedError(this.name));
    await closeLeftOpen(this.#owner, this.#thread);
    this.#worker.terminate();
    this.#resolve(status);
  }
}

/**
 * Starts a module as a thread: a Worker, which shares this process and its
 * table of descriptors, and nothing else.
 *
 * The module calls {@linkcode parent} to talk, or {@linkcode serve} in a pool.
 * What the thread leaves open when it fails or is killed is closed.
 *
 * Requires `--allow-read` for a local module.
 *
 * @param module Where it is: a URL, or a path in the current folder.
 * @param options What it may do.
 * @returns The thread, which starts meanwhile; messages wait for it.
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
  return new WorkerChild(module, options);
}
