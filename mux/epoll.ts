/** epoll(7): the kernel keeps the list, and hands out what is ready. */

import { Descriptor } from "../internal/descriptor.ts";
import { libc } from "../internal/libc.ts";
import { lastErrno, syscall, syscallError } from "../internal/syscall.ts";
import { constants } from "node:os";
import { Interest, Ready, type Selector } from "./selector.ts";

const { EINTR } = constants.errno;

// sys/epoll.h
const EPOLL_CLOEXEC = 0o2000000;
const EPOLL_CTL_ADD = 1;
const EPOLL_CTL_DEL = 2;
const EPOLL_CTL_MOD = 3;
const EPOLLIN = 0x1;
const EPOLLPRI = 0x2;
const EPOLLOUT = 0x4;
const EPOLLERR = 0x8;
const EPOLLHUP = 0x10;
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
  readonly #epoll: Descriptor;
  readonly #maxEvents: number;
  readonly #events: Int32Array<ArrayBuffer>;
  readonly #eventBytes: Uint8Array<ArrayBuffer>;
  readonly #change = new Int32Array(WORDS);
  readonly #changeBytes = new Uint8Array(this.#change.buffer);
  /** `struct timespec` for waits of less than a millisecond. */
  readonly #time = new BigInt64Array(2);
  readonly #timeBytes = new Uint8Array(this.#time.buffer);

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
    this.#control(EPOLL_CTL_MOD, fd, generation, interest);
  }

  unregister(fd: number): void {
    // A descriptor that somebody closed behind our back is registered no more.
    libc.epoll_ctl(this.#epoll.fd, EPOLL_CTL_DEL, fd, this.#changeBytes);
  }

  select(timeout: number): number {
    if (timeout > 0 && timeout < 1 && this.#fine && libc.epoll_pwait2 !== null) {
      this.#time[1] = BigInt(Math.ceil(timeout * 1e6));
      const n = libc.epoll_pwait2(this.#epoll.fd, this.#eventBytes, this.#maxEvents, this.#timeBytes, null, 8);
      if (n >= 0) return n;
      if (lastErrno() === EINTR) return 0;
      this.#fine = false;
    }
    return this.#count(libc.epoll_wait(this.#epoll.fd, this.#eventBytes, this.#maxEvents, milliseconds(timeout)));
  }

  /** Whether {@linkcode EpollSelector.select} can wait for less than a millisecond. */
  get canWaitFractions(): boolean {
    return this.#fine;
  }

  async selectElsewhere(timeout: number): Promise<number> {
    const { fd } = this.#epoll;
    const n = await libc.epoll_wait_elsewhere(fd, this.#eventBytes, this.#maxEvents, milliseconds(timeout));
    // Its errno is another thread's. EINTR is a spurious wake-up; what is worse, the next wait here will say.
    return Math.max(n, 0);
  }

  fd(index: number): number {
    return this.#events[index * WORDS + DATA] as number;
  }

  generation(index: number): number {
    return this.#events[index * WORDS + DATA + 1] as number;
  }

  ready(index: number): number {
    const events = this.#events[index * WORDS] as number;
    let ready = 0;
    if (events & EPOLLIN) ready |= Ready.READABLE;
    if (events & EPOLLOUT) ready |= Ready.WRITABLE;
    if (events & EPOLLPRI) ready |= Ready.PRIORITY;
    if (events & (EPOLLRDHUP | EPOLLHUP)) ready |= Ready.READ_CLOSED;
    if (events & EPOLLHUP) ready |= Ready.WRITE_CLOSED;
    if (events & EPOLLERR) ready |= Ready.ERROR;
    return ready;
  }

  close(): void {
    this.#epoll.close();
  }

  #control(operation: number, fd: number, generation: number, interest: number): void {
    this.#change[0] = toEvents(interest);
    this.#change[DATA] = fd;
    this.#change[DATA + 1] = generation;
    syscall("epoll_ctl", this.#epoll.fd, operation, fd, this.#changeBytes);
  }

  #count(result: number): number {
    return result >= 0 ? result : this.#failed(lastErrno());
  }

  #failed(errno: number): number {
    if (errno === EINTR) return 0;
    throw syscallError("epoll_wait", errno);
  }
}

function toEvents(interest: number): number {
  let events = 0;
  // The end of the peer's data makes a socket readable, so it is part of being interested in reading.
  if (interest & Interest.READABLE) events |= EPOLLIN | EPOLLRDHUP;
  if (interest & Interest.WRITABLE) events |= EPOLLOUT;
  if (interest & Interest.PRIORITY) events |= EPOLLPRI;
  if (interest & Interest.EDGE) events |= EPOLLET;
  if (interest & Interest.ONESHOT) events |= EPOLLONESHOT;
  // epoll_ctl(2): EPOLLEXCLUSIVE goes with IN, OUT, WAKEUP and ET only.
  if (interest & Interest.EXCLUSIVE) events = (events | EPOLLEXCLUSIVE) & ~EPOLLRDHUP;
  return events;
}

function milliseconds(timeout: number): number {
  if (timeout < 0 || timeout > 2 ** 31 - 1) return -1;
  return Math.ceil(timeout);
}
