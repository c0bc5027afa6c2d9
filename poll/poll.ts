/** poll(2): the program keeps the list, and the kernel walks through all of it at each wait. */

import { F_GETFD } from "../internal/constants.ts";
import { constants } from "node:os";
import { ForeignMemory } from "../internal/foreign_memory.ts";
import { libc } from "../internal/libc.ts";
import { lastErrno, syscall, syscallError } from "../internal/syscall.ts";
import { EventList } from "./event_list.ts";
import { POLLNVAL, Timespec, toEvents, toReady, wholeMilliseconds } from "./poll_events.ts";
import { InterestBit, type Selector } from "./selector.ts";

const { EINTR } = constants.errno;

/** `struct pollfd` (poll.h) as 32-bit words: the descriptor, then 16 bits of what is asked and 16 of the answer. */
const WORDS = 2;

/** The list that poll(2) gets, and what belongs to each line of it. */
interface List {
  readonly words: Int32Array<ArrayBuffer>;
  readonly bytes: Uint8Array<ArrayBuffer>;
  readonly generations: Int32Array<ArrayBuffer>;
  readonly interests: Int32Array<ArrayBuffer>;
  /** Which write a line is from: an answer to an earlier one says nothing about it. */
  readonly stamps: Int32Array<ArrayBuffer>;
  length: number;
}

function makeList(capacity: number, from?: List): List {
  const words = new Int32Array(WORDS * capacity);
  const generations = new Int32Array(capacity);
  const interests = new Int32Array(capacity);
  const stamps = new Int32Array(capacity);
  if (from !== undefined) {
    words.set(from.words);
    generations.set(from.generations);
    interests.set(from.interests);
    stamps.set(from.stamps);
  }
  return { words, bytes: new Uint8Array(words.buffer), generations, interests, stamps, length: from?.length ?? 0 };
}

const one = new Int32Array(WORDS);
const oneBytes = new Uint8Array(one.buffer);

/** What a descriptor is ready for now, as bits of `ReadyBit`; `interest` has bits of `InterestBit`. */
export function pollNow(fd: number, interest: number): number {
  while (true) {
    one[0] = fd;
    one[1] = toEvents(interest);
    const n = libc.poll(oneBytes, 1, 0);
    if (n >= 0) return n === 0 ? 0 : toReady((one[1] as number) >>> 16);
    const errno = lastErrno();
    // Without memory for a look the attempt itself is the next best.
    if (errno !== EINTR) return interest;
  }
}

/** {@linkcode Selector} on poll. */
export class PollSelector extends EventList implements Selector {
  readonly backend = "poll";
  readonly supports: number = InterestBit.READABLE | InterestBit.WRITABLE | InterestBit.PRIORITY | InterestBit.ONESHOT;
  readonly live = false;
  readonly finestWait = 0.001;
  readonly #time = new Timespec();
  /** The line of each descriptor, by its number. */
  readonly #lines: (number | undefined)[] = [];
  /** For waits elsewhere. */
  readonly #memory = new ForeignMemory();
  #list = makeList(64);
  /** A wait elsewhere uses the list: whoever changes it takes a copy first. */
  #isLent = false;
  #stamp = 0;
  /** Where the next walk through the list begins. */
  #next = 0;

  register(fd: number, generation: number, interest: number): void {
    if (this.#lines[fd] !== undefined) throw syscallError("poll", constants.errno.EEXIST);
    // poll(2) would only say so at the next wait.
    syscall("fcntl", fd, F_GETFD, 0);
    const { length } = this.#list;
    if (length === this.#list.generations.length) {
      this.#list = makeList(length * 2, this.#list);
      this.#isLent = false;
    }
    this.#ownList().length++;
    this.#lines[fd] = length;
    this.#write(length, fd, generation, interest);
  }

  modify(fd: number, generation: number, interest: number): void {
    const line = this.#lines[fd];
    if (line === undefined) throw syscallError("poll", constants.errno.ENOENT);
    this.#ownList();
    this.#write(line, fd, generation, interest);
  }

  unregister(fd: number): void {
    const line = this.#lines[fd];
    if (line === undefined) return;
    const { words, generations, interests, stamps, length } = this.#ownList();
    const last = length - 1;
    if (line !== last) {
      words.copyWithin(line * WORDS, last * WORDS, length * WORDS);
      generations[line] = generations[last] as number;
      interests[line] = interests[last] as number;
      stamps[line] = stamps[last] as number;
      this.#lines[descriptorAt(words, line)] = line;
    }
    this.#list.length = last;
    this.#lines[fd] = undefined;
  }

  select(timeout: number): number {
    const { bytes, length } = this.#list;
    const n = timeout > 0 && timeout < 1
      ? libc.ppoll(bytes, length, this.#time.set(timeout), null)
      : libc.poll(bytes, length, wholeMilliseconds(timeout));
    if (n >= 0) return this.#collect(this.#list, n);
    const errno = lastErrno();
    if (errno === EINTR) return 0;
    throw syscallError("poll", errno);
  }

  async selectElsewhere(timeout: number): Promise<number> {
    const list = this.#list;
    const lines = list.bytes.subarray(0, list.length * WORDS * 4);
    const address = this.#memory.lend(Math.max(lines.length, 1));
    this.#memory.copyFrom(lines);
    this.#isLent = true;
    const n = await libc.poll_elsewhere(address, list.length, wholeMilliseconds(timeout));
    if (n > 0) this.#memory.copyTo(lines);
    this.#memory.takeBack();
    if (list === this.#list) this.#isLent = false;
    // Its errno is another thread's: what is worse than EINTR is met here again.
    return n < 0 ? this.select(0) : this.#collect(list, n);
  }

  close(): void {
    this.#list.length = 0;
    this.#lines.length = 0;
    this.#memory.free();
  }

  #ownList(): List {
    if (this.#isLent) {
      this.#list = makeList(this.#list.generations.length, this.#list);
      this.#isLent = false;
    }
    return this.#list;
  }

  #write(line: number, fd: number, generation: number, interest: number): void {
    const { words, generations, interests, stamps } = this.#list;
    stamps[line] = this.#stamp = (this.#stamp + 1) | 0;
    words[line * WORDS] = fd;
    words[line * WORDS + 1] = toEvents(interest);
    generations[line] = generation;
    interests[line] = interest;
  }

  /** Walks through the list for the `found` lines that have an answer, from where the last walk ended. */
  #collect(list: List, found: number): number {
    const { words, generations, interests, stamps, length } = list;
    let count = 0;
    let line = this.#next < length ? this.#next : 0;
    for (let walked = 0; walked < length && found > 0 && count < this.maxEvents; walked++) {
      const answer = (words[line * WORDS + 1] as number) >>> 16;
      if (answer !== 0) {
        found--;
        const fd = descriptorAt(words, line);
        // Changed since the list was lent: what still holds, the next wait says again.
        const holds = list === this.#list || this.#isCurrent(fd, stamps[line] as number);
        if (holds && ((answer & POLLNVAL) !== 0 || (interests[line] as number) & InterestBit.ONESHOT)) {
          this.#silence(fd);
        }
        if (holds && (answer & POLLNVAL) === 0) {
          this.setEvent(count++, fd, generations[line] as number, toReady(answer));
        }
      }
      if (++line === length) line = 0;
    }
    this.#next = line;
    return count;
  }

  #isCurrent(fd: number, stamp: number): boolean {
    const line = this.#lines[fd];
    return line !== undefined && this.#list.stamps[line] === stamp;
  }

  /** Leaves a descriptor out of the waits until it is modified: poll(2) passes over negative ones. */
  #silence(fd: number): void {
    const line = this.#lines[fd] as number;
    const { words } = this.#list;
    words[line * WORDS] = ~fd;
    words[line * WORDS + 1] = 0;
  }
}

function descriptorAt(words: Int32Array, line: number): number {
  const fd = words[line * WORDS] as number;
  return fd < 0 ? ~fd : fd;
}
