/** What was received of a connection and is not delivered yet, on both engines. */

import { setBytes, sizeOf, viewOf } from "../internal/bytes.ts";

const NOTHING = new Uint8Array(0);

/** Bytes that no call has taken. */
export class UnreadBytes {
  #memory: Uint8Array<ArrayBuffer> = NOTHING;
  #start = 0;
  #end = 0;

  /** How many there are. */
  get size(): number {
    return this.#end - this.#start;
  }

  /** How many there is memory for. */
  get capacity(): number {
    return this.#memory.length;
  }

  /** Copies as many as `p` has room for, and takes them, unless it is a peek; returns how many. */
  copyTo(p: Uint8Array, isPeek: boolean): number {
    const n = Math.min(this.size, sizeOf(p));
    setBytes(p, viewOf(this.#memory, this.#start, this.#start + n));
    if (!isPeek) this.#start += n;
    return n;
  }

  /** Makes room for `size` bytes in all at least; returns what is free behind those that are there. */
  room(size: number): Uint8Array {
    const kept = viewOf(this.#memory, this.#start, this.#end);
    if (this.#memory.length < size) {
      this.#memory = new Uint8Array(size);
      this.#memory.set(kept);
    } else if (this.#start > 0) {
      this.#memory.copyWithin(0, this.#start, this.#end);
    }
    this.#start = 0;
    this.#end = kept.length;
    return viewOf(this.#memory, this.#end);
  }

  /** Counts the first `n` bytes of {@linkcode UnreadBytes.room} in, which have been written there. */
  add(n: number): void {
    this.#end += n;
  }

  /** Forgets them, and gives the memory back. */
  clear(): void {
    this.#memory = NOTHING;
    this.#start = this.#end = 0;
  }
}
