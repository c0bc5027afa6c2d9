/** How far one way is: its phases take their parts of a bar, which never stands still. */

/** Is told how far it is, from 0 to 1, and what it does. */
export type Step = (part: number, text: string) => void;

/** Where a phase begins and ends. */
type Span = readonly [from: number, to: number];

/** How often the bar moves, in ms. */
const INTERVAL = 100;

/** The bar of one way; `using` stops it. */
export class Phases implements Disposable {
  readonly #step: Step;
  #timer: ReturnType<typeof setInterval> | undefined;

  constructor(step: Step) {
    this.#step = step;
  }

  /** Begins a phase of which nothing is heard: it takes so many ms, more or less, and the bar is not full before. */
  begin([from, to]: Span, expected: number, text: string): void {
    clearInterval(this.#timer);
    const began = performance.now();
    // Late in its time it slows down: it never stops, and never is full before the phase ends.
    const move = () => {
      const time = (performance.now() - began) / expected;
      this.#step(from + (to - from) * (time < 0.8 ? time : 1 - 0.2 * 0.8 / time), text);
    };
    move();
    this.#timer = setInterval(move, INTERVAL);
  }

  /** A phase that is known to be so far, from 0 to 1. */
  at([from, to]: Span, part: number, text: string): void {
    clearInterval(this.#timer);
    this.#step(from + (to - from) * part, text);
  }

  [Symbol.dispose](): void {
    clearInterval(this.#timer);
  }
}
