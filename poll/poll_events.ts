/**
 * The events of poll(2), which are those of epoll(7) too: `poll.h` and
 * `sys/epoll.h` give them the same numbers.
 */

import { POLLIN } from "../internal/constants.ts";
import { InterestBit, ReadyBit } from "./selector.ts";

const POLLPRI = 0x2;
const POLLOUT = 0x4;
const POLLERR = 0x8;
const POLLHUP = 0x10;
const POLLRDHUP = 0x2000;

/** The descriptor is not open; poll(2) only. */
export const POLLNVAL = 0x20;

/** What to ask the kernel for. */
export function toEvents(interest: number): number {
  let events = 0;
  // The end of the peer's data makes a socket readable, so it is part of being interested in reading.
  if (interest & InterestBit.READABLE) events |= POLLIN | POLLRDHUP;
  if (interest & InterestBit.WRITABLE) events |= POLLOUT;
  if (interest & InterestBit.PRIORITY) events |= POLLPRI;
  return events;
}

/** What the kernel's answer means. */
export function toReady(events: number): number {
  // By far the most frequent ones.
  if (events === POLLIN) return ReadyBit.READABLE;
  if (events === POLLOUT) return ReadyBit.WRITABLE;
  let ready = 0;
  if (events & POLLIN) ready |= ReadyBit.READABLE;
  if (events & POLLOUT) ready |= ReadyBit.WRITABLE;
  if (events & POLLPRI) ready |= ReadyBit.PRIORITY;
  if (events & (POLLRDHUP | POLLHUP)) ready |= ReadyBit.READ_CLOSED;
  if (events & POLLHUP) ready |= ReadyBit.WRITE_CLOSED;
  if (events & POLLERR) ready |= ReadyBit.ERROR;
  return ready;
}

/** A timeout in whole milliseconds, as poll(2) and epoll_wait(2) take it: rounded up, -1 for no limit. */
export function wholeMilliseconds(timeout: number): number {
  if (timeout < 0 || timeout > 2 ** 31 - 1) return -1;
  return Math.ceil(timeout);
}

/** A timeout as a `struct timespec`, which is written anew only when it is another one. */
export class Timespec {
  readonly #words = new BigInt64Array(2);
  readonly bytes: Uint8Array<ArrayBuffer> = new Uint8Array(this.#words.buffer);
  #timeout = 0;

  /** Sets it to milliseconds, rounded up to nanoseconds, and returns its bytes. */
  set(timeout: number): Uint8Array<ArrayBuffer> {
    if (timeout !== this.#timeout) {
      this.#timeout = timeout;
      const seconds = Math.floor(timeout / 1000);
      this.#words[0] = BigInt(seconds);
      this.#words[1] = BigInt(Math.min(Math.ceil((timeout - seconds * 1000) * 1e6), 999_999_999));
    }
    return this.bytes;
  }
}
