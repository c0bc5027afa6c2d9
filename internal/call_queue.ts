/**
 * The calls that wait on one side of a socket, first come, first served.
 *
 * A call that is cancelled, or whose time is over, leaves the line and rejects;
 * what arrives later goes to the next one in line.
 */

import { Deadline } from "./deadline.ts";
import { inOrder, rejectAtAwait, wouldOvertake } from "./stack.ts";
import { timedOutError, type Wait } from "./wait.ts";

/** One waiting call. */
export class PendingCall<T> {
  readonly promise: Promise<T>;
  /** Settled already: resolved, rejected or cancelled. */
  settled = false;
  #resolve!: (value: T) => void;
  #reject!: (reason: unknown) => void;
  readonly #signal: AbortSignal | undefined;
  #onAbort: (() => void) | undefined;
  #deadline: Deadline | undefined;

  /**
   * @param wait For how long it waits.
   * @param action What it does, with what it does that to: for the error once its time is over.
   * @param onCancel Called when it has left the line before its turn.
   */
  constructor(wait: Wait | undefined, action: () => string, onCancel: () => void) {
    this.promise = new Promise((resolve, reject) => {
      this.#resolve = resolve;
      this.#reject = reject;
    });
    const signal = this.#signal = wait?.signal;
    if (wait === undefined) return;
    const leave = (reason: unknown): void => {
      this.reject(reason);
      onCancel();
    };
    if (signal !== undefined) {
      this.#onAbort = () => leave(signal.reason);
      signal.addEventListener("abort", this.#onAbort);
    }
    if (wait.timeout !== Infinity) {
      this.#deadline = new Deadline(() => leave(timedOutError(action(), wait.timeout)));
      this.#deadline.set(wait.timeout);
    }
  }

  resolve(value: T): void {
    this.#settle();
    if (wouldOvertake()) inOrder(() => this.#resolve(value));
    else this.#resolve(value);
  }

  reject(reason: unknown): void {
    this.#settle();
    rejectAtAwait(this.#resolve, this.#reject, reason);
  }

  #settle(): void {
    this.settled = true;
    if (this.#onAbort !== undefined) this.#signal?.removeEventListener("abort", this.#onAbort);
    this.#deadline?.clear();
  }
}

/** A first-in, first-out line of waiters, any of whom may leave early. */
export class CallQueue<W extends { readonly settled: boolean }> {
  #items: W[] = [];
  #head = 0;
  #left = 0;

  /** The first that still waits, `undefined` if nobody does. */
  get first(): W | undefined {
    // Asked for every message; setting the length of an array is not free, even to what it is.
    if (this.#items.length === 0) return undefined;
    while (this.#head < this.#items.length) {
      const item = this.#items[this.#head] as W;
      if (!item.settled) return item;
      this.#head++;
    }
    this.#items.length = 0;
    this.#head = 0;
    return undefined;
  }

  /** Takes the first out of the line. */
  shift(): W | undefined {
    const first = this.first;
    if (first !== undefined) this.#head++;
    return first;
  }

  push(item: W): void {
    // Keeps the dead front from growing with a line that never runs empty.
    if (this.#head > 1024 && this.#head * 2 > this.#items.length) {
      this.#items.splice(0, this.#head);
      this.#head = 0;
    }
    this.#items.push(item);
  }

  /** Puts one before all others. */
  unshift(item: W): void {
    this.#items.splice(this.#head, 0, item);
  }

  /** To be called when one has left: behind one who stays, those who left would pile up. */
  compact(): void {
    if (++this.#left < 64 || this.#left * 2 < this.#items.length) return;
    this.#items = this.#items.slice(this.#head).filter((item) => !item.settled);
    this.#head = 0;
    this.#left = 0;
  }

  /** Empties the line, and returns those who still waited. */
  drain(): W[] {
    const waiting = this.#items.slice(this.#head).filter((item) => !item.settled);
    this.#items.length = 0;
    this.#head = 0;
    return waiting;
  }
}
