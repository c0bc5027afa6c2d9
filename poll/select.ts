/**
 * select(2): three sets of bits, one bit a descriptor, which the kernel walks
 * through and overwrites with its answer; then the program walks through them.
 *
 * It does not tell an end-of-file or an error from data, so the few that are
 * ready are looked at once more, with poll(2). It reports an error or a hang-up
 * as something to read, so those that are not to be read are watched apart
 * (trouble_watch.ts).
 */

import { F_GETFD } from "../internal/constants.ts";
import { constants } from "node:os";
import { ForeignMemory } from "../internal/foreign_memory.ts";
import { libc } from "../internal/libc.ts";
import { atCaller } from "../internal/stack.ts";
import { lastErrno, syscall, syscallError } from "../internal/syscall.ts";
import { EventList } from "./event_list.ts";
import { POLLNVAL, toEvents, toReady } from "./poll_events.ts";
import { InterestBit, type Selector } from "./selector.ts";
import { TroubleWatch } from "./trouble_watch.ts";

const { EBADF, EEXIST, EINTR, ENOENT } = constants.errno;

/** How many descriptors an `fd_set` has room for (sys/select.h). */
export const FD_SETSIZE = 1024;

/** 32-bit words of an `fd_set`; on little-endian machines they are the same as its longs. */
const WORDS = FD_SETSIZE / 32;

/** What each set asks for, in their order. */
const SETS = [InterestBit.READABLE, InterestBit.WRITABLE, InterestBit.PRIORITY];

/** The sets for reading, for writing, and for what is exceptional. */
class Sets {
  readonly words = new Int32Array(3 * WORDS);
  readonly bytes: Uint8Array<ArrayBuffer> = new Uint8Array(this.words.buffer);
  readonly read: Uint8Array<ArrayBuffer> = new Uint8Array(this.words.buffer, 0, WORDS * 4);
  readonly write: Uint8Array<ArrayBuffer> = new Uint8Array(this.words.buffer, WORDS * 4, WORDS * 4);
  readonly except: Uint8Array<ArrayBuffer> = new Uint8Array(this.words.buffer, WORDS * 8, WORDS * 4);
}

/** {@linkcode Selector} on select. */
export class SelectSelector extends EventList implements Selector {
  readonly backend = "select";
  readonly supports: number = InterestBit.READABLE | InterestBit.WRITABLE | InterestBit.PRIORITY | InterestBit.ONESHOT;
  readonly live = false;
  readonly finestWait = 0.001;
  readonly #asked = new Sets();
  readonly #answer = new Sets();
  readonly #answerElsewhere = new Sets();
  readonly #generationsElsewhere = new Int32Array(FD_SETSIZE);
  /** By descriptor; 0 means that it is not registered. */
  readonly #generations = new Int32Array(FD_SETSIZE);
  readonly #interests = new Int32Array(FD_SETSIZE);
  /** Those that are not to be read. */
  readonly #trouble = new TroubleWatch();
  /** For waits elsewhere. */
  readonly #memory = new ForeignMemory();
  /** `struct timeval`, which the kernel overwrites too. */
  readonly #time = new BigInt64Array(2);
  readonly #timeBytes = new Uint8Array(this.#time.buffer);
  /** `struct pollfd`s for the second look. */
  readonly #ready: Int32Array<ArrayBuffer>;
  readonly #readyBytes: Uint8Array<ArrayBuffer>;
  /** One more than the highest descriptor. */
  #end = 0;
  /** Where the next walk through the answer begins. */
  #next = 0;

  constructor(maxEvents: number) {
    super(maxEvents);
    this.#ready = new Int32Array(2 * maxEvents);
    this.#readyBytes = new Uint8Array(this.#ready.buffer);
    const { fd } = this.#trouble;
    if (fd >= FD_SETSIZE) {
      this.#trouble.close();
      throw noRoom(fd);
    }
    this.#ask(fd, InterestBit.READABLE);
    this.#end = fd + 1;
  }

  register(fd: number, generation: number, interest: number): void {
    if (fd >= FD_SETSIZE) throw noRoom(fd);
    if (this.#generations[fd] !== 0) throw syscallError("select", EEXIST);
    syscall("fcntl", fd, F_GETFD, 0);
    this.#write(fd, generation, interest);
    this.#end = Math.max(this.#end, fd + 1);
  }

  modify(fd: number, generation: number, interest: number): void {
    if (fd >= FD_SETSIZE || this.#generations[fd] === 0) throw syscallError("select", ENOENT);
    this.#write(fd, generation, interest);
  }

  unregister(fd: number): void {
    if (fd >= FD_SETSIZE) return;
    this.#generations[fd] = 0;
    this.#ask(fd, 0);
    this.#trouble.ignore(fd);
    const least = this.#trouble.fd + 1;
    while (this.#end > least && this.#generations[this.#end - 1] === 0) this.#end--;
  }

  select(timeout: number): number {
    this.#trouble.rearm();
    const answer = this.#answer;
    answer.words.set(this.#asked.words);
    const time = this.#timeout(timeout);
    const n = libc.select(this.#end, answer.read, answer.write, answer.except, time);
    if (n >= 0) return this.#collect(answer, this.#generations, n);
    const errno = lastErrno();
    if (errno === EBADF) {
      this.#forgetClosed();
      return 0;
    }
    if (errno === EINTR) return 0;
    throw syscallError("select", errno);
  }

  async selectElsewhere(timeout: number): Promise<number> {
    this.#trouble.rearm();
    const answer = this.#answerElsewhere;
    answer.words.set(this.#asked.words);
    this.#generationsElsewhere.set(this.#generations);
    const time = this.#timeout(timeout);
    const read = this.#memory.lend(answer.bytes.length + this.#timeBytes.length);
    const [write, except, end] = [1n, 2n, 3n].map((n) => read + n * BigInt(WORDS * 4)) as [bigint, bigint, bigint];
    this.#memory.copyFrom(answer.bytes);
    if (time !== null) this.#memory.copyFrom(time, answer.bytes.length);
    const n = await libc.select_elsewhere(this.#end, read, write, except, time === null ? 0n : end);
    if (n > 0) this.#memory.copyTo(answer.bytes);
    this.#memory.takeBack();
    // Its errno is another thread's: what is worse than EINTR is met here again.
    return n < 0 ? this.select(0) : this.#collect(answer, this.#generationsElsewhere, n);
  }

  close(): void {
    this.#generations.fill(0);
    this.#asked.words.fill(0);
    this.#end = 0;
    this.#trouble.close();
    this.#memory.free();
  }

  #write(fd: number, generation: number, interest: number): void {
    if (interest & InterestBit.READABLE) this.#trouble.ignore(fd);
    else this.#trouble.watch(fd, generation);
    this.#generations[fd] = generation;
    this.#interests[fd] = interest;
    this.#ask(fd, interest);
  }

  #ask(fd: number, interest: number): void {
    const { words } = this.#asked;
    const bit = 1 << (fd & 31);
    for (let set = 0, at = fd >>> 5; set < SETS.length; set++, at += WORDS) {
      const word = words[at] as number;
      words[at] = interest & (SETS[set] as number) ? word | bit : word & ~bit;
    }
  }

  #timeout(timeout: number): Uint8Array<ArrayBuffer> | null {
    if (timeout < 0 || timeout > 2 ** 31 * 1000) return null;
    const seconds = Math.floor(timeout / 1000);
    this.#time[0] = BigInt(seconds);
    this.#time[1] = BigInt(Math.min(Math.ceil((timeout - seconds * 1000) * 1000), 999_999));
    return this.#timeBytes;
  }

  /** Walks through the answer, from where the last walk ended, and has a second look at what it finds. */
  #collect({ words }: Sets, generations: Int32Array, found: number): number {
    if (found <= 0) return 0;
    const trouble = this.#trouble.fd;
    const at = trouble >>> 5;
    const bit = 1 << (trouble & 31);
    if ((words[at] as number) & bit) {
      words[at] = (words[at] as number) & ~bit;
      this.#trouble.report((fd) => words[fd >>> 5] = (words[fd >>> 5] as number) | (1 << (fd & 31)));
    }
    const ready = this.#ready;
    const end = this.#end;
    let count = 0;
    let fd = this.#next < end ? this.#next : 0;
    for (let walked = 0; walked < end && count < this.maxEvents; walked++) {
      const at = fd >>> 5;
      const any = (words[at] as number) | (words[WORDS + at] as number) | (words[2 * WORDS + at] as number);
      // What has been unregistered meanwhile is no more to be looked at, let alone to be told of.
      if ((any >>> (fd & 31)) & 1 && generations[fd] === this.#generations[fd]) {
        ready[count * 2] = fd;
        ready[count * 2 + 1] = toEvents(this.#interests[fd] as number);
        count++;
      }
      if (++fd === end) fd = 0;
    }
    this.#next = fd;
    return count === 0 ? 0 : this.#classify(count);
  }

  #classify(looked: number): number {
    if (libc.poll(this.#readyBytes, looked, 0) < 0) return 0;
    let count = 0;
    for (let i = 0; i < looked; i++) {
      const fd = this.#ready[i * 2] as number;
      const answer = (this.#ready[i * 2 + 1] as number) >>> 16;
      if (answer === 0 || answer & POLLNVAL) continue;
      if ((this.#interests[fd] as number) & InterestBit.ONESHOT) {
        this.#ask(fd, 0);
        this.#trouble.silence(fd);
      }
      this.setEvent(count++, fd, this.#generations[fd] as number, toReady(answer));
    }
    return count;
  }

  /** One descriptor that was closed behind our back makes select(2) fail for all. */
  #forgetClosed(): void {
    for (let fd = 0; fd < this.#end; fd++) {
      if (this.#generations[fd] !== 0 && libc.fcntl(fd, F_GETFD, 0) < 0) this.#ask(fd, 0);
    }
  }
}

function noRoom(fd: number): RangeError {
  return atCaller(
    new RangeError(`select takes descriptors below ${FD_SETSIZE} (FD_SETSIZE), received ${fd}: use poll or epoll`),
  );
}
