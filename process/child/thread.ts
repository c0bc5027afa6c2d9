/**
 * A thread, seen from the one that starts it. There are two ways to start one:
 *
 * - `Worker` of `node:worker_threads` ends when nothing keeps its event loop
 *   alive, as a process does, and says so.
 * - The Web's `Worker` goes on until it closes itself or is terminated. It alone takes
 *   permissions, so it is used for threads that get less than this program has.
 */

import { SHARE_ENV, Worker as NodeWorker } from "node:worker_threads";
import type { SpawnOptions } from "./child.ts";
import { nodeEntry, webEntry } from "./thread_entry.ts";
import { WorkerRef } from "./worker_ref.ts";

/** What is heard of a thread. */
export interface ThreadEvents {
  message(data: unknown): void;
  /** It has sent what cannot be received. */
  unreadable(): void;
  /** It has failed. */
  error(message: string): void;
  /** It has ended; not every thread tells. */
  exit(code: number): void;
}

/** A running thread. */
export interface Thread {
  postMessage(message: unknown, transfer: Transferable[]): void;
  /** Ends it, and hears nothing of it any more. */
  terminate(): void;
  /** Lets it keep this program alive, or not. */
  ref(on: boolean): void;
}

/** Starts a module as a thread; `name` is what it finds as `globalThis.name`. */
export function startThread(
  module: URL,
  name: string,
  permissions: NonNullable<SpawnOptions["permissions"]>,
  events: ThreadEvents,
): Thread {
  return permissions === "inherit"
    ? new NodeThread(module, name, events)
    : new WebThread(module, name, permissions, events);
}

class NodeThread implements Thread {
  readonly #worker: NodeWorker;

  constructor(module: URL, name: string, events: ThreadEvents) {
    this.#worker = new NodeWorker(nodeEntry(module), {
      name,
      // A copy of the environment would need the permission to read all of it.
      env: SHARE_ENV,
    });
    this.#worker.on("message", events.message);
    this.#worker.on("messageerror", events.unreadable);
    this.#worker.on("error", (error: unknown) => events.error(describe(error)));
    this.#worker.on("exit", events.exit);
  }

  postMessage(message: unknown, transfer: Transferable[]): void {
    this.#worker.postMessage(message, transfer as never);
  }

  terminate(): void {
    this.#worker.removeAllListeners();
    // Else what it fails with while it ends would be thrown here.
    this.#worker.on("error", () => {});
    this.#worker.terminate();
  }

  ref(on: boolean): void {
    if (on) this.#worker.ref();
    else this.#worker.unref();
  }
}

/** What a thread has thrown arrives as an error of the same class if that is one of the language's. */
function describe(error: unknown): string {
  if (!(error instanceof Error)) return String(error);
  // What was no error has its text in the message, in the runtime's words.
  return /^(Uncaught |\(in promise\) )/.test(error.message) ? error.message : `${error.name}: ${error.message}`;
}

class WebThread implements Thread {
  readonly #worker: Worker;
  readonly #ref: WorkerRef;

  constructor(module: URL, name: string, permissions: unknown, { message, unreadable, error }: ThreadEvents) {
    // Deno ends the program if permissions are given without --unstable-worker-options.
    this.#worker = new Worker(webEntry(module), { type: "module", name, deno: { permissions } } as WorkerOptions);
    this.#ref = new WorkerRef(this.#worker);
    this.#worker.onmessage = ({ data }) => message(data);
    this.#worker.onmessageerror = unreadable;
    this.#worker.onerror = (event) => {
      // Else the error would end this program, too.
      event.preventDefault();
      error(event.message);
    };
  }

  postMessage(message: unknown, transfer: Transferable[]): void {
    this.#worker.postMessage(message, transfer);
  }

  terminate(): void {
    this.#worker.terminate();
    this.#worker.onmessage = null;
  }

  ref(on: boolean): void {
    this.#ref.set(on);
  }
}
