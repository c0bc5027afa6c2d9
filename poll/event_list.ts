/** The events of one wait, for backends to which the kernel gives none that could be read as they stand. */

/** For each event the descriptor, the generation and what is ready. */
const WORDS = 3;

/** The part of a selector that is read by index. */
export class EventList {
  readonly #words: Int32Array<ArrayBuffer>;

  constructor(protected readonly maxEvents: number) {
    this.#words = new Int32Array(WORDS * maxEvents);
  }

  fd(index: number): number {
    return this.#words[index * WORDS] as number;
  }

  generation(index: number): number {
    return this.#words[index * WORDS + 1] as number;
  }

  ready(index: number): number {
    return this.#words[index * WORDS + 2] as number;
  }

  /** Writes an event. */
  protected setEvent(index: number, fd: number, generation: number, ready: number): void {
    this.#words[index * WORDS] = fd;
    this.#words[index * WORDS + 1] = generation;
    this.#words[index * WORDS + 2] = ready;
  }
}
