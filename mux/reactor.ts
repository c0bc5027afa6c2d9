/**
 * One reactor an isolate: it waits for all native sockets at once, and wakes
 * those whose call can go on.
 *
 * **How it waits.** It looks (timeout 0). If nothing is ready and the last
 * waits were fruitful, it waits on this thread for at most {@linkcode SLICE}
 * with a turn of the event loop in between, for handing a wait to another
 * thread costs more than most answers take to come. Only then it hands the
 * wait over, so that an idle program uses no CPU. After events, what they woke
 * runs up to its own next wait before it looks again.
 *
 * **Fairness.** A call that need not wait goes ahead at once, {@linkcode BUDGET}
 * times between two turns of the event loop; then it, too, waits for a turn.
 * Turns come at least every {@linkcode TURN}, so timers and the rest of the
 * program are never starved.
 *
 * Nothing is pending when nobody waits: the process can end.
 */

import { setImmediate } from "node:timers";
import { Descriptor } from "../internal/descriptor.ts";
import { libc } from "../internal/libc.ts";
import { syscall } from "../internal/syscall.ts";
import { EpollSelector } from "./epoll.ts";
import { Interest } from "./selector.ts";

/** Something that is registered with the reactor. */
export interface Source {
  /** Called with bits of {@linkcode Ready}: what was told is new since the last call. */
  onReady(ready: number): void;
}

/** Longest wait on this thread, in milliseconds. */
const SLICE = 0.2;
/** How many fruitless slices are waited at most, after many fruitful ones. */
const HOTTEST = 4;
/** Longest time between two turns of the event loop, in milliseconds. */
const TURN = 0.5;
/** Calls that may go ahead without waiting between two turns. */
const BUDGET = 128;
/** Turns of the microtask queue in which a woken handler gets to its next wait. */
const MICROTURNS = 12;
/** Events taken at a time: few enough that what was received is still in the cache when its handler runs. */
const MAX_EVENTS = 64;
/**
 * Longest wait on the other thread, in milliseconds: when a Worker is
 * terminated its waiting thread ends no sooner.
 */
const LONGEST_WAIT = 30_000;
/** First and longest pause for the other thread to return, in microseconds; long only if it gets no processor. */
const FIRST_PAUSE = 25;
const LONGEST_PAUSE = 2_000;
/** How often sockets are looked at while only unreferenced calls wait, in milliseconds. */
const UNREF_POLL = 10;

const EDGE_TRIGGERED = Interest.READABLE | Interest.WRITABLE | Interest.PRIORITY | Interest.EDGE;

// sys/eventfd.h
const EFD_NONBLOCK = 0o4000;
const EFD_CLOEXEC = 0o2000000;

const ONE = new Uint8Array(new BigUint64Array([1n]).buffer);
const drained = new Uint8Array(8);

function turn(): Promise<void> {
  return new Promise((resolve) => setImmediate(resolve));
}

class Reactor {
  readonly #selector: EpollSelector;
  readonly #wakeup: Descriptor;
  /** By descriptor. */
  readonly #sources: (Source | undefined)[] = [];
  readonly #generations: number[] = [];
  #deferred: (() => void)[] = [];
  #waiting = 0;
  #waitingUnref = 0;
  #running = false;
  /** A wait is under way on another thread. */
  #elsewhere = false;
  #hot = 0;
  #budget = BUDGET;
  #lastTurn = 0;
  #poll: ReturnType<typeof setTimeout> | undefined;

  constructor() {
    this.#wakeup = new Descriptor(syscall("eventfd", 0, EFD_NONBLOCK | EFD_CLOEXEC));
    let selector: EpollSelector | undefined;
    try {
      this.#selector = selector = new EpollSelector(MAX_EVENTS);
      const { fd } = this.#wakeup;
      this.register(fd, { onReady: () => void libc.read(fd, drained, drained.length) });
    } catch (error) {
      // The table of descriptors is full; who tries again must not find it fuller.
      selector?.close();
      this.#wakeup.close();
      throw error;
    }
  }

  /** Begins to tell `source` of what happens on `fd`. */
  register(fd: number, source: Source): void {
    const generation = ((this.#generations[fd] ?? 0) + 1) & 0x3fffffff;
    this.#selector.register(fd, generation, EDGE_TRIGGERED);
    this.#generations[fd] = generation;
    this.#sources[fd] = source;
  }

  /** Ends it; to be called before `fd` is closed. */
  unregister(fd: number): void {
    this.#sources[fd] = undefined;
    this.#selector.unregister(fd);
  }

  /** A call begins to wait. */
  hold(ref: boolean): void {
    if (!ref) {
      this.#waitingUnref++;
      if (!this.#running) this.#pollLater();
    } else if (this.#waiting++ === 0 && !this.#running) {
      this.#run();
    }
  }

  /** A call has stopped waiting. */
  release(ref: boolean): void {
    if (!ref) {
      if (--this.#waitingUnref === 0) this.#stopPolling();
    } else if (--this.#waiting === 0 && this.#elsewhere) {
      this.#wake();
      setImmediate(() => this.#awaitReturn(FIRST_PAUSE));
    }
  }

  /** Whether a call may go ahead without waiting for a turn. */
  mayProceed(): boolean {
    return this.#budget-- > 0;
  }

  /** Calls `proceed` after a turn of the event loop; somebody must be waiting. */
  defer(proceed: () => void): void {
    this.#deferred.push(proceed);
    if (this.#elsewhere) this.#wake();
  }

  #wake(): void {
    libc.write(this.#wakeup.fd, ONE, ONE.length);
  }

  /**
   * Gives a wait that nobody needs any more the time to return from the other
   * thread, so that it is not found pending by who looks at once: the event
   * loop alone would turn several times in these microseconds.
   */
  #awaitReturn(pause: number): void {
    if (!this.#elsewhere || this.#waiting > 0) return;
    libc.usleep(pause);
    setImmediate(() => this.#awaitReturn(Math.min(pause * 2, LONGEST_PAUSE)));
  }

  async #run(): Promise<void> {
    this.#running = true;
    this.#stopPolling();
    // What else this turn begins to wait for is waited for together.
    await undefined;
    while (this.#waiting > 0) {
      if (this.#budget <= 0 || this.#deferred.length > 0) {
        await this.#turn();
        // The deferred calls may have been the last that waited.
        if (this.#waiting === 0) break;
      }
      if (this.#take(this.#selector.select(0))) {
        await this.#letHandlersRun();
      } else if (this.#deferred.length > 0) {
        continue;
      } else if (this.#hot > 0) {
        if (this.#take(this.#selector.select(SLICE))) {
          this.#hot = Math.min(this.#hot + 1, HOTTEST);
          await this.#letHandlersRun();
        } else {
          this.#hot--;
          await this.#turn();
        }
      } else {
        this.#elsewhere = true;
        const n = await this.#selector.selectElsewhere(LONGEST_WAIT);
        this.#elsewhere = false;
        this.#hot = this.#selector.canWaitFractions ? 1 : 0;
        this.#turned();
        this.#take(n);
        await this.#letHandlersRun();
      }
    }
    this.#running = false;
    if (this.#waitingUnref > 0) this.#pollLater();
  }

  /** Lets what was woken get to its next wait, by a turn of the event loop if one is due. */
  async #letHandlersRun(): Promise<void> {
    if (performance.now() - this.#lastTurn > TURN) return await this.#turn();
    for (let i = 0; i < MICROTURNS; i++) await undefined;
  }

  async #turn(): Promise<void> {
    await turn();
    this.#turned();
  }

  #turned(): void {
    this.#lastTurn = performance.now();
    this.#budget = BUDGET;
    const deferred = this.#deferred;
    if (deferred.length === 0) return;
    this.#deferred = [];
    for (const proceed of deferred) proceed();
  }

  /** Tells the sources of the events that a wait has found; returns whether there were any. */
  #take(count: number): boolean {
    const selector = this.#selector;
    for (let i = 0; i < count; i++) {
      const fd = selector.fd(i);
      // Closed by an earlier one of this batch, and perhaps opened anew.
      if (selector.generation(i) !== this.#generations[fd]) continue;
      this.#sources[fd]?.onReady(selector.ready(i));
    }
    return count > 0;
  }

  #pollLater(): void {
    if (this.#poll !== undefined) return;
    this.#poll = setTimeout(() => {
      this.#poll = undefined;
      this.#take(this.#selector.select(0));
      this.#budget = BUDGET;
      const deferred = this.#deferred;
      this.#deferred = [];
      for (const proceed of deferred) proceed();
      if (this.#waitingUnref > 0 && !this.#running) this.#pollLater();
    }, UNREF_POLL);
    Deno.unrefTimer(this.#poll as unknown as number);
  }

  #stopPolling(): void {
    clearTimeout(this.#poll);
    this.#poll = undefined;
  }
}

let instance: Reactor | undefined;

/** The isolate's reactor; the C library must be loaded. */
export function reactor(): Reactor {
  return instance ??= new Reactor();
}

export type { Reactor };
