/**
 * Timers whose length a caller chooses. The runtime keeps the length of a timer in 32 bits, and one of 2^31 ms or more
 * ends at once; here it is waited for in several steps. `Infinity` never ends.
 */

/** The longest time that one timer of the runtime can be set to, in milliseconds: some 24 days. */
export const LONGEST_STEP: number = 2 ** 31 - 1;

/** A timer that calls back once. */
export class Timer {
  readonly #callback: () => void;
  #left: number;
  #step: ReturnType<typeof setTimeout> | undefined;

  /** Begins to wait for `duration` milliseconds, rounded up; a timer of `Infinity` does not keep the process alive. */
  constructor(duration: number, callback: () => void) {
    this.#callback = callback;
    // A fraction would be cut off, and the timer end early.
    this.#left = Math.ceil(duration);
    if (this.#left !== Infinity) this.#wait();
  }

  /** Ends the timer, if it has not ended; the callback is not called. */
  cancel(): void {
    clearTimeout(this.#step);
    this.#step = undefined;
  }

  #wait(): void {
    const step = Math.min(this.#left, LONGEST_STEP);
    this.#left -= step;
    this.#step = setTimeout(() => this.#left > 0 ? this.#wait() : this.#callback(), step);
  }
}

/** Resolves after `duration` milliseconds; never, if that is `Infinity`. */
export function sleep(duration: number): Promise<void> {
  return new Promise((resolve) => void new Timer(duration, resolve));
}
