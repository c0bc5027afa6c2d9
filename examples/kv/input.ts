/** The bytes of requests, until these have come whole. */

import { Buffer } from "node:buffer";
import { HangUp } from "./errors.ts";

/** Most memory that is taken ahead, in bytes. */
const LARGEST_STEP = 64 * 1024 * 1024;
/** Words of a request that may come before it is whole; their places take more memory than the shortest words do. */
const MOST_COUNT = 2 ** 22;
/** Words of a request for which the places stay allocated. */
const USUAL_COUNT = 1024;
const NOTHING = Buffer.alloc(0);

/**
 * What one client has sent and is not done with. It is looked at in the memory
 * that all clients read into; only of a request that has not come whole yet the
 * beginning is kept.
 */
export class Input {
  /** How many words of the request have come. */
  count = 0;
  /** Words of the request that have not. */
  protected lacks = 0;
  /** Length of the word that comes next, -1 before that is known. */
  protected length = -1;
  protected bytes = NOTHING;
  /** What is not looked at yet, from here … */
  protected at = 0;
  /** … to here. */
  protected end = 0;
  /** Where each word begins, and where it ends. */
  protected readonly starts: number[] = [];
  protected readonly ends: number[] = [];
  #isShared = true;

  /** Bytes of memory that this client has for itself. */
  get held(): number {
    // A place in each of two arrays, besides the bytes.
    return this.#isShared ? 0 : this.bytes.length + 16 * this.starts.length;
  }

  /** Goes on with what has been read, which may change after {@linkcode Requests.keep}. */
  add(bytes: Buffer<ArrayBuffer>, length: number): void {
    if (this.#isShared) {
      this.bytes = bytes;
      this.at = 0;
      this.end = length;
      return;
    }
    const end = this.end + length;
    if (end > this.bytes.length) {
      // As much again as there is, but no more than the word needs: what is announced is believed as it comes.
      const [larger, wanted] = [end + Math.min(end, LARGEST_STEP), this.at + Math.max(this.length, 0) + 2];
      this.#move(wanted > end ? Math.min(larger, wanted) : larger);
    }
    this.bytes.set(bytes.subarray(0, length), this.end);
    this.end += length;
  }

  /** Keeps what is left, before others read into the same memory. */
  keep(): void {
    if (this.at < this.end || this.lacks > 0) {
      if (this.count > MOST_COUNT) throw new HangUp("its request has too many words");
      if (this.#isShared || this.#first() > 0) this.#move(this.end);
      return;
    }
    this.#isShared = true;
    this.bytes = NOTHING;
    if (this.starts.length > USUAL_COUNT) this.starts.length = this.ends.length = 0;
  }

  /** Where the request begins that has not come whole. */
  #first(): number {
    return this.lacks > 0 && this.count > 0 ? this.starts[0] as number : this.at;
  }

  /** Moves what is left into memory of its own, with room up to where `end` is now. */
  #move(end: number): void {
    const first = this.#first();
    const bytes = Buffer.alloc(end - first);
    bytes.set(this.bytes.subarray(first, this.end));
    for (let i = 0; i < this.count; i++) {
      this.starts[i] = (this.starts[i] as number) - first;
      this.ends[i] = (this.ends[i] as number) - first;
    }
    this.bytes = bytes;
    this.#isShared = false;
    this.at -= first;
    this.end -= first;
  }
}
