/**
 * Errors and hang-ups of descriptors that select(2) is not asked to read: it has a set for reading, in which it reports
 * both, and one for writing, but none for these alone. So they are kept in an epoll of their own, whose descriptor is
 * in the set for reading.
 */

import { constants } from "node:os";
import { SyscallError } from "../internal/errors.ts";
import { EpollSelector } from "./epoll.ts";
import { InterestBit } from "./selector.ts";

const { EBADF, EEXIST, EPERM } = constants.errno;

/** How many are found at a time; the others are found by the next wait. */
const MOST_FOUND = 64;

/** Watches descriptors for errors and hang-ups alone. */
export class TroubleWatch {
  readonly #epoll = new EpollSelector(MOST_FOUND);
  /**
   * Those that were found, by generation. Each is found once and then asked for again: of one that somebody closes
   * behind our back epoll would report trouble for as long as a duplicate is open.
   */
  readonly #found = new Map<number, number>();
  /** Those that were registered: most never are, and need no system call. */
  readonly #watched = new Set<number>();

  /** What is readable when {@linkcode TroubleWatch.report} would find something. */
  get fd(): number {
    return this.#epoll.ownFd;
  }

  /** Begins to watch a descriptor, or to watch it anew. */
  watch(fd: number, generation: number): void {
    this.#found.delete(fd);
    this.#watched.add(fd);
    try {
      this.#epoll.register(fd, generation, InterestBit.ONESHOT);
    } catch (error) {
      if (!(error instanceof SyscallError)) throw error;
      if (error.errno === EEXIST) this.#epoll.modify(fd, generation, InterestBit.ONESHOT);
      // A file, which has neither errors nor hang-ups, and what is closed already.
      else if (error.errno !== EPERM && error.errno !== EBADF) throw error;
    }
  }

  /** Watches it no longer. */
  ignore(fd: number): void {
    if (!this.#watched.delete(fd)) return;
    this.#found.delete(fd);
    this.#epoll.unregister(fd);
  }

  /** Does not ask again for one that was found. */
  silence(fd: number): void {
    this.#found.delete(fd);
  }

  /** Asks again for those that were found: what still holds is found again by the next wait. */
  rearm(): void {
    for (const [fd, generation] of this.#found) {
      try {
        this.#epoll.modify(fd, generation, InterestBit.ONESHOT);
      } catch { /* it was closed without being unregistered */ }
    }
    this.#found.clear();
  }

  /** Calls `tell` with each descriptor that has trouble, up to a limit. */
  report(tell: (fd: number) => void): void {
    const count = this.#epoll.select(0);
    for (let i = 0; i < count; i++) {
      const fd = this.#epoll.fd(i);
      this.#found.set(fd, this.#epoll.generation(i));
      tell(fd);
    }
  }

  close(): void {
    this.#epoll.close();
    this.#found.clear();
    this.#watched.clear();
  }
}
