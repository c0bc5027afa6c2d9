/** The requests of RESP2, the protocol of Redis: arrays of words, or lines that a person types. */

import { ProtocolError, Refusal } from "./errors.ts";
import { Input } from "./input.ts";
import { latin1, nameCode, parseInteger, splitLine } from "./text.ts";
import type { Value } from "./store.ts";

/** Longest line, in bytes. */
const LONGEST_LINE = 64 * 1024;
/** Longest word: 512 MiB. */
const LONGEST_WORD = 2 ** 29;
/** Words of one request; they take memory only as they come. */
const MOST_WORDS = 2 ** 31 - 1;
/** Longest string that V8 makes, which is a little less. */
const LONGEST_TEXT = 2 ** 29 - 24;
/** Longest value that is kept as a string. */
const LONGEST_STRING = 128;

const [CR, LF, ASTERISK, DOLLAR, ZERO] = [13, 10, 42, 36, 48];

/** The requests of one client. */
export class Requests extends Input {
  /** Goes on to the next request; tells whether it has come whole. */
  next(): boolean {
    while (this.lacks === 0) {
      this.count = 0;
      if (this.at >= this.end) return false;
      if (this.bytes[this.at] !== ASTERISK) {
        if (!this.#nextLine()) return false;
        if (this.count > 0) return true;
        continue;
      }
      const words = this.#number(ASTERISK, "mbulk");
      if (words === undefined) return false;
      if (!(words <= MOST_WORDS)) throw new ProtocolError("invalid multibulk length");
      this.lacks = Math.max(words, 0);
    }
    for (; this.lacks > 0; this.lacks--) {
      if (this.length < 0 && !this.#nextLength()) return false;
      const end = this.at + this.length;
      if (end + 2 > this.end) return false;
      this.starts[this.count] = this.at;
      this.ends[this.count++] = end;
      this.at = end + 2;
      this.length = -1;
    }
    return true;
  }

  /** A word as a string of one character a byte. */
  text(index: number): string {
    const [start, end] = [this.starts[index] as number, this.ends[index] as number];
    if (end - start > LONGEST_TEXT) throw new Refusal("ERR string exceeds maximum allowed size (proto-max-bulk-len)");
    return latin1(this.bytes, start, end);
  }

  /** A word to be kept. */
  value(index: number): Value {
    const [start, end] = [this.starts[index] as number, this.ends[index] as number];
    return end - start <= LONGEST_STRING
      ? latin1(this.bytes, start, end)
      : new Uint8Array(this.bytes.subarray(start, end));
  }

  /** The first word as {@linkcode nameCode} gives it, without making a string. */
  get name(): number {
    const [start, end] = [this.starts[0] as number, this.ends[0] as number];
    return end - start > 10 ? 0 : nameCode(this.bytes, start, end);
  }

  #nextLength(): boolean {
    const length = this.at < this.end ? this.#number(DOLLAR, "bulk") : undefined;
    if (length === undefined) return false;
    if (!(length >= 0 && length <= LONGEST_WORD)) throw new ProtocolError("invalid bulk length");
    this.length = length;
    return true;
  }

  /** The number behind a sign, and goes on behind its line; `undefined` if that has not come whole, NaN if it is none. */
  #number(sign: number, what: string): number | undefined {
    const bytes = this.bytes;
    let [at, number] = [bytes[this.at] === CR ? this.at : this.at + 1, 0];
    for (; at < this.end && bytes[at] !== CR; at++) {
      const digit = (bytes[at] as number) - ZERO;
      number = digit >= 0 && digit <= 9 ? 10 * number + digit : NaN;
    }
    if (at >= this.end - 1) {
      if (at === this.end) this.#checkLength(`too big ${what} count string`);
      return undefined;
    }
    if (bytes[this.at] !== sign) {
      throw new ProtocolError(
        `expected '${String.fromCharCode(sign)}', got '${latin1(bytes, this.at, this.at + 1)}'`,
      );
    }
    // Nothing at all, a leading zero, a minus: rare, so looked at as text.
    if (!(number > 0) || bytes[this.at + 1] === ZERO) {
      number = Number(parseInteger(latin1(bytes, this.at + 1, at)) ?? NaN);
    }
    this.at = at + 2;
    return number;
  }

  /** A request as a person types it, which ends with its line; tells whether that has come whole. */
  #nextLine(): boolean {
    const bytes = this.bytes;
    const end = bytes.indexOf(LF, this.at);
    if (end < 0 || end >= this.end) {
      this.#checkLength("too big inline request");
      return false;
    }
    const words = splitLine(latin1(bytes, this.at, end > this.at && bytes[end - 1] === CR ? end - 1 : end));
    if (words === undefined) throw new ProtocolError("unbalanced quotes in request");
    // Quoted or not, words are no longer than what they were written as, so they take its place.
    let at = this.at;
    for (const word of words) {
      this.starts[this.count] = at;
      for (let i = 0; i < word.length; i++) bytes[at++] = word.charCodeAt(i);
      this.ends[this.count++] = at;
    }
    this.at = end + 1;
    return true;
  }

  #checkLength(problem: string): void {
    if (this.end - this.at > LONGEST_LINE) throw new ProtocolError(problem);
  }
}
