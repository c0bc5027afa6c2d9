/** epoll(7): the kernel keeps the list, and hands out what is ready. */

import { Descriptor } from "../internal/descriptor.ts";
import { ForeignMemory } from "../internal/foreign_memory.ts";
import { libc } from "../internal/libc.ts";
import { lastErrno, syscall, syscallError } from "../internal/syscall.ts";
import { constants } from "node:os";
import { Timespec, toEvents, toReady, wholeMilliseconds } from "./poll_events.ts";
import { InterestBit, type Selector } from "./selector.ts";

const { EINTR } = constants.errno;

// sys/epoll.h
const EPOLL_CLOEXEC = 0o2000000;
const EPOLL_CTL_ADD = 1;
const EPOLL_CTL_DEL = 2;
const EPOLL_CTL_MOD = 3;
// What is asked for and told is in poll_events.ts.
const EPOLLRDHUP = 0x2000;
const EPOLLEXCLUSIVE = 1 << 28;
const EPOLLONESHOT = 1 << 30;
const EPOLLET = 1 << 31;

/**
 * `struct epoll_event` as 32-bit words: the events, on aarch64 a word of
 * padding (on x86_64 the struct is packed), then the 64 bits of data, of which
 * the first word holds the descriptor and the second the generation.
 */
const WORDS = Deno.build.arch === "x86_64" ? 3 : 4;
const DATA = WORDS - 2;

/** {@linkcode Selector} on epoll. */
export class EpollSelector implements Selector {
  readonly backend = "epoll";
  readonly supports: number = InterestBit.READABLE | InterestBit.WRITABLE | InterestBit.PRIORITY | InterestBit.EDGE |
    InterestBit.ONESHOT | InterestBit.EXCLUSIVE;
  readonly live = true;
  readonly #epoll: Descriptor;
  readonly #maxEvents: number;
  readonly #events: Int32Array<ArrayBuffer>;
  readonly #eventBytes: Uint8Array<ArrayBuffer>;
  /** For waits elsewhere. */
  readonly #memory = new ForeignMemory();
  readonly #change = new Int32Array(WORDS);
  readonly #changeBytes = new Uint8Array(this.#change.buffer);
  /** For waits of less than a millisecond. */
  readonly #time = new Timespec();
  /** Who is registered as exclusive, which cannot be modified. */
  readonly #exclusive = new Set<number>();
  /** Whether waits of less than a millisecond are possible; ENOSYS or EPERM under some sandboxes. */
  #fine = libc.epoll_pwait2 !== null;

  constructor(maxEvents: number) {
    this.#epoll = new Descriptor(syscall("epoll_create1", EPOLL_CLOEXEC));
    this.#maxEvents = maxEvents;
    this.#events = new Int32Array(WORDS * maxEvents);
    this.#eventBytes = new Uint8Array(this.#events.buffer);
  }

  register(fd: number, generation: number, interest: number): void {
    this.#control(EPOLL_CTL_ADD, fd, generation, interest);
  }

  modify(fd: number, generation: number, interest: number): void {
    if ((interest & InterestBit.EXCLUSIVE) === 0 && !this.#exclusive.has(fd)) {
      return this.#control(EPOLL_CTL_MOD, fd, generation, interest);
    }
    // epoll_ctl(2): what is or becomes exclusive cannot be modified.
    this.unregister(fd);
    this.#control(EPOLL_CTL_ADD, fd, generation, interest);
  }

  unregister(fd: number): void {
    if (this.#exclusive.size > 0) this.#exclusive.delete(fd);
    // A descriptor that somebody closed behind our back is registered no more.
    libc.epoll_ctl(this.#epoll.fd, EPOLL_CTL_DEL, fd, this.#changeBytes);
  }

  select(timeout: number): number {
    if (timeout > 0 && timeout < 1 && this.#fine && libc.epoll_pwait2 !== null) {
      const time = this.#time.set(timeout);
      const n = libc.epoll_pwait2(this.#epoll.fd, this.#eventBytes, this.#maxEvents, time, null, 8);
      if (n >= 0) return n;
      if (lastErrno() === EINTR) return 0;
      this.#fine = false;
    }
    return this.#count(libc.epoll_wait(this.#epoll.fd, this.#eventBytes, this.#maxEvents, wholeMilliseconds(timeout)));
  }

  /** Its own descriptor, which is readable when there are events. */
  get ownFd(): number {
    return this.#epoll.fd;
  }

  get finestWait(): number {
    return this.#fine ? 0.001 : 1;
  }

  async selectElsewhere(timeout: number): Promise<number> {
    const { fd } = this.#epoll;
    const address = this.#memory.lend(this.#eventBytes.length);
    const n = await libc.epoll_wait_elsewhere(fd, address, this.#maxEvents, wholeMilliseconds(timeout));
    if (n > 0) {
      this.#memory.copyTo(n === this.#maxEvents ? this.#eventBytes : this.#eventBytes.subarray(0, n * WORDS * 4));
    }
    this.#memory.takeBack();
    // Its errno is another thread's: what is worse than EINTR is met here again.
    return n < 0 ? this.select(0) : n;
  }

  fd(index: number): number {
    return this.#events[index * WORDS + DATA] as number;
  }

  generation(index: number): number {
    return this.#events[index * WORDS + DATA + 1] as number;
  }

  ready(index: number): number {
    return toReady(this.#events[index * WORDS] as number);
  }

  close(): void {
    this.#epoll.close();
    this.#memory.free();
  }

  #control(operation: number, fd: number, generation: number, interest: number): void {
    this.#change[0] = toEpollEvents(interest);
    this.#change[DATA] = fd;
    this.#change[DATA + 1] = generation;
    syscall("epoll_ctl", this.#epoll.fd, operation, fd, this.#changeBytes);
    if (interest & InterestBit.EXCLUSIVE) this.#exclusive.add(fd);
  }

  #count(result: number): number {
    return result >= 0 ? result : this.#failed(lastErrno());
  }

  #failed(errno: number): number {
    if (errno === EINTR) return 0;
    throw syscallError("epoll_wait", errno);
  }
}

function toEpollEvents(interest: number): number {
  let events = toEvents(interest);
  if (interest & InterestBit.EDGE) events |= EPOLLET;
  if (interest & InterestBit.ONESHOT) events |= EPOLLONESHOT;
  // epoll_ctl(2): EPOLLEXCLUSIVE goes with IN, OUT, WAKEUP and ET only.
  if (interest & InterestBit.EXCLUSIVE) events = (events | EPOLLEXCLUSIVE) & ~EPOLLRDHUP;
  return events;
}
