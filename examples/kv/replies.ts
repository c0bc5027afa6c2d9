/** The replies of RESP2, as bytes. */

import { HangUp } from "./errors.ts";
import type { Value } from "./store.ts";

/** Memory that stays, enough for what one read of requests usually asks for. */
const USUAL = 64 * 1024;
/** Up to this length the views of it are made once. */
const SHORT = 1024;

/** The replies that go into one write. */
export class Replies {
  /** Most bytes. */
  limit = Infinity;
  length = 0;
  readonly #usual = new Uint8Array(USUAL);
  readonly #views: Uint8Array<ArrayBuffer>[] = [];
  #bytes = this.#usual;

  /** What there is to send; valid until the next reply. */
  get bytes(): Uint8Array<ArrayBuffer> {
    const { length } = this;
    if (length > SHORT || this.#bytes.length > USUAL) return this.#bytes.subarray(0, length);
    return this.#views[length] ??= this.#bytes.subarray(0, length);
  }

  /** Takes everything from `start` on, to be kept, and leaves nothing here. */
  take(start: number): Uint8Array<ArrayBuffer> {
    const isLarge = this.#bytes.length > USUAL;
    const rest = isLarge ? this.#bytes.subarray(start, this.length) : this.#bytes.slice(start, this.length);
    this.#bytes = this.#usual;
    this.length = 0;
    return rest;
  }

  /** Everything is sent. */
  clear(): void {
    this.length = 0;
    this.#bytes = this.#usual;
  }

  /** Text as it stands, in ASCII. */
  raw(text: string): void {
    this.#reserve(text.length);
    this.#append(text);
  }

  error(message: string): void {
    // An error is one line, whatever the client has sent that it quotes.
    const line = message.replace(/[\r\n]/g, " ");
    this.#reserve(line.length + 3);
    this.#append("-");
    this.#append(line);
    this.#append("\r\n");
  }

  integer(number: number | bigint): void {
    this.#head(":", number);
  }

  /** The head of an array, whose parts follow. */
  array(length: number): void {
    this.#head("*", length);
  }

  /** Bytes of any kind, or nothing. */
  bulk(value: Value | undefined): void {
    if (value === undefined) return this.raw("$-1\r\n");
    this.#head("$", value.length);
    this.#reserve(value.length + 2);
    if (typeof value === "string") this.#append(value);
    else {
      this.#bytes.set(value, this.length);
      this.length += value.length;
    }
    this.#append("\r\n");
  }

  #head(sign: string, number: number | bigint): void {
    this.#reserve(24);
    this.#append(sign);
    this.#append(String(number));
    this.#append("\r\n");
  }

  /** Text of one byte a character, once there is room. */
  #append(text: string): void {
    const bytes = this.#bytes;
    let at = this.length;
    for (let i = 0; i < text.length; i++) bytes[at++] = text.charCodeAt(i);
    this.length = at;
  }

  #reserve(count: number): void {
    const length = this.length + count;
    if (length <= this.#bytes.length) return;
    if (length > this.limit) throw new HangUp("its replies take too much memory");
    const bytes = new Uint8Array(Math.min(Math.max(length, 2 * this.#bytes.length), Math.max(length, this.limit)));
    bytes.set(this.bytes);
    this.#bytes = bytes;
  }
}
