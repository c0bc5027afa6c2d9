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
  readonly #resolve: (value: T) => void;
  readonly #reject: (reason: unknown) => void;
  readonly #signal: AbortSignal | undefined;
  #onAbort: (() => void) | undefined;
  #deadline: Deadline | undefined;

  /**
   * @param wait For how long it waits.
   * @param action What it does, with what it does that to: for the error once its time is over.
   * @param onCancel Called when it has left the line before its turn.
   */
  constructor(wait: Wait | undefined, action: () => string, onCancel: () => void) {
    ({ promise: this.promise, resolve: this.#resolve, reject: this.#reject } = Promise.withResolvers<T>());
    this.#signal = wait?.signal;
    if (wait !== undefined) this.#limit(wait, action, onCancel);
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

  // Closures in the constructor would cost a call without limit a context.
  #limit({ signal, timeout }: Wait, action: () => string, onCancel: () => void): void {
    const leave = (reason: unknown): void => {
      this.reject(reason);
      onCancel();
    };
    if (signal !== undefined) {
      const onAbort = this.#onAbort = () => this.settled || leave(signal.reason);
      signal.addEventListener("abort", onAbort);
      // A getter of the options, or what came before this wait, has aborted it since it was checked.
      if (signal.aborted) queueMicrotask(onAbort);
    }
    if (timeout !== Infinity) {
      this.#deadline = new Deadline(() => leave(timedOutError(action(), timeout)));
      this.#deadline.set(timeout);
    }
  }

  #settle(): void {
    this.settled = true;
    if (this.#onAbort !== undefined) this.#signal?.removeEventListener("abort", this.#onAbort);
    this.#deadline?.clear();
  }
}

/**
 * Waiting calls, first in, first out. Any of them may leave early.
 *
 * The first one stands outside the array: mostly it is the only one, and an array that is emptied and filled for each
 * message costs more than the message's promise.
 */
export class CallQueue<W extends { readonly settled: boolean }> {
  #first: W | undefined;
  #rest: W[] = [];
  #head = 0;
  #left = 0;

  /** The first that still waits, `undefined` if nobody does. */
  get first(): W | undefined {
    while (this.#first !== undefined && this.#first.settled) this.#advance();
    return this.#first;
  }

  /** Takes the first out of the line. */
  shift(): W | undefined {
    const first = this.first;
    this.#advance();
    return first;
  }

  push(item: W): void {
    if (this.first === undefined) {
      this.#first = item;
      return;
    }
    // Keeps the dead front from growing with a line that never runs empty.
    if (this.#head > 1024 && this.#head * 2 > this.#rest.length) {
      this.#rest.splice(0, this.#head);
      this.#head = 0;
    }
    this.#rest.push(item);
  }

  /** To be called when one has left: behind one who stays, those who left would pile up. */
  compact(): void {
    if (++this.#left < 64 || this.#left * 2 < this.#rest.length) return;
    this.#rest = this.#rest.slice(this.#head).filter((item) => !item.settled);
    this.#head = 0;
    this.#left = 0;
  }

  /** Empties the line, and returns those who still waited. */
  drain(): W[] {
    const waiting: W[] = [];
    for (let item = this.shift(); item !== undefined; item = this.shift()) waiting.push(item);
    return waiting;
  }

  /** The next one is the first. */
  #advance(): void {
    this.#first = this.#rest[this.#head];
    if (this.#first !== undefined) this.#head++;
    else if (this.#head > 0) this.#rest.length = this.#head = 0;
  }
}
