/**
 * Lets a Worker keep the program alive, or not. The Web's Workers have no
 * method for that; Deno's have one for `node:worker_threads`, whose name is a
 * symbol. `Worker` of `node:worker_threads` itself would run a module with
 * other globals, and without the `permissions` that a thread can be given.
 */

import { notSupportedError } from "../../internal/errors.ts";

type Refer = (this: Worker, on: boolean) => void;

const INSPECT = Symbol.for("Deno.privateCustomInspect");

function findRefer(): Refer | undefined {
  const prototype = Worker.prototype as unknown as Record<symbol, unknown>;
  const found = Object.getOwnPropertySymbols(prototype).filter((symbol) => {
    const value = Object.getOwnPropertyDescriptor(prototype, symbol)?.value;
    return symbol !== INSPECT && typeof value === "function" && value.length === 1;
  });
  return found.length === 1 ? prototype[found[0] as symbol] as Refer : undefined;
}

/** Whether one Worker keeps the program alive. */
export class WorkerRef {
  readonly #worker: Worker;
  #on = true;

  constructor(worker: Worker) {
    this.#worker = worker;
  }

  /** @throws {Deno.errors.NotSupported} If this version of Deno has no such method. */
  set(on: boolean): void {
    if (on === this.#on) return;
    const refer = findRefer();
    // Deno counts: each call is to be made once.
    if (refer === undefined) {
      throw notSupportedError("unref a thread", "this version of Deno has no way to, use a process");
    }
    refer.call(this.#worker, on);
    this.#on = on;
  }
}
