/** The keys of kv, their values and when they end. */

/**
 * Bytes. Short ones are strings of one character a byte, which take a third of
 * the memory that an array does and are quicker to make.
 */
export type Value = string | Uint8Array;

/** No room for another key. */
export class StoreFull extends Error {}

/** V8 has room for 2^24 in a `Map`, and throws in the midst of growing beyond. */
const MOST_KEYS = 16_000_000;

/** Keys, values and deadlines. Deadlines are milliseconds since 1970. */
export class Store {
  /** What time it is, for all that happens in one turn. */
  now: number = Date.now();
  #values = new Map<string, Value>();
  #deadlines = new Map<string, number>();
  /** Where {@linkcode Store.sweep} has come to; what is added meanwhile it comes to as well. */
  #sweeping = this.#deadlines.entries();

  /** How many keys there are, with those that are due and not yet removed. */
  get size(): number {
    return this.#values.size;
  }

  /** How many of them have a deadline. */
  get expiring(): number {
    return this.#deadlines.size;
  }

  get(key: string): Value | undefined {
    if (this.#deadlines.size > 0) this.#removeIfDue(key);
    return this.#values.get(key);
  }

  has(key: string): boolean {
    if (this.#deadlines.size > 0) this.#removeIfDue(key);
    return this.#values.has(key);
  }

  /** Sets a key that has no deadline from now on, or this one. */
  set(key: string, value: Value, deadline?: number): void {
    this.update(key, value);
    if (deadline !== undefined) this.#deadlines.set(key, deadline);
    else if (this.#deadlines.size > 0) this.#deadlines.delete(key);
  }

  /** Sets a key and leaves its deadline. */
  update(key: string, value: Value): void {
    if (this.#values.size >= MOST_KEYS && !this.#values.has(key)) throw new StoreFull();
    this.#values.set(key, value);
  }

  /** Removes a key; tells whether it was there. */
  delete(key: string): boolean {
    if (this.#deadlines.size > 0) {
      this.#removeIfDue(key);
      this.#deadlines.delete(key);
    }
    return this.#values.delete(key);
  }

  /** Gives a key a deadline; tells whether it is there. */
  expire(key: string, deadline: number): boolean {
    if (!this.has(key)) return false;
    if (deadline <= this.now) this.delete(key);
    else this.#deadlines.set(key, deadline);
    return true;
  }

  /** When a key that is there ends, `undefined` for never. */
  deadline(key: string): number | undefined {
    return this.#deadlines.get(key);
  }

  clear(): void {
    // New ones, since to clear millions of keys would take its time here; the garbage collector takes it beside.
    this.#values = new Map();
    this.#deadlines = new Map();
    this.#sweeping = this.#deadlines.entries();
  }

  /**
   * Removes keys that nobody asks for any more: looks at the next few of those
   * with a deadline. Returns whether so many were due that it should go on
   * soon.
   */
  sweep(most: number): boolean {
    let due = 0;
    for (let i = Math.min(most, this.#deadlines.size); i > 0; i--) {
      const { value, done } = this.#sweeping.next();
      if (done) this.#sweeping = this.#deadlines.entries();
      else if (value[1] <= this.now) {
        due++;
        this.#remove(value[0]);
      }
    }
    return due > most / 4;
  }

  #removeIfDue(key: string): void {
    const deadline = this.#deadlines.get(key);
    if (deadline !== undefined && deadline <= this.now) this.#remove(key);
  }

  #remove(key: string): void {
    this.#values.delete(key);
    this.#deadlines.delete(key);
  }
}
