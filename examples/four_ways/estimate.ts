/** How long all ways will take: from what each does, and from how long those before have taken. */

import type { Plan } from "./measure.ts";
import type { Way } from "./ways.ts";

/** What starting and ending the processes of a way take, in ms. */
const AROUND = 1_500;
/** Clients that a server in one thread, or in a few, greets in a second. */
const GREETED = 2_500;
/** A thread or process for each client: what starting one takes, in ms, and about how much memory, in bytes. */
const START = 120;
const HEAVY = 14 * 2 ** 20;
/** How long the clients wait for a server that serves one of them only, in ms. */
const PATIENCE = 3_000;

/** What a way takes, in ms. */
export function expected({ model }: Way, { clients, duration, opening, memory }: Plan): number {
  const served = model.endsWith("-per-connection")
    ? Math.min(clients, memory / HEAVY) * START
    : model === "iterative"
    ? PATIENCE
    : clients / GREETED * 1000;
  return AROUND + Math.min(served, opening) + duration * 1.25;
}

/** The time of a run. */
export class Estimate {
  readonly #parts: readonly number[];
  readonly #begun = performance.now();
  #done = 0;
  /** When the way that runs has begun. */
  #since = this.#begun;

  constructor(ways: readonly Way[], plan: Plan) {
    this.#parts = ways.map((way) => expected(way, plan));
  }

  /** A way is done. */
  next(): void {
    this.#done++;
    this.#since = performance.now();
  }

  /** ms so far. */
  elapsed(): number {
    return performance.now() - this.#begun;
  }

  /** ms that are left, as fast as this machine is. */
  left(): number {
    const before = sum(this.#parts.slice(0, this.#done));
    const pace = before === 0 ? 1 : Math.min(Math.max((this.#since - this.#begun) / before, 0.3), 5);
    const [current = 0, ...later] = this.#parts.slice(this.#done);
    return Math.max(current * pace - (performance.now() - this.#since), 0) + sum(later) * pace;
  }

  /** How much is done, from 0 to 1. */
  part(): number {
    return this.elapsed() / (this.elapsed() + this.left() + 1);
  }
}

function sum(values: readonly number[]): number {
  return values.reduce((sum, value) => sum + value, 0);
}
