/**
 * One reactor an isolate: it waits for all native sockets at once, in the way
 * of `wait_strategy.ts`, and wakes those whose call can go on. After events, what
 * they woke runs up to its own next wait before it looks again: looking too
 * early would wait before the answers are sent.
 *
 * **Fairness.** A call that need not wait goes ahead at once, {@linkcode BUDGET}
 * times between two turns of the event loop; then it, too, waits for a turn. A
 * batch counts as several. Those that wait for a turn are served in their order.
 *
 * Nothing is pending when nobody waits: the process can end.
 */

import { isUnloaded } from "../internal/unload.ts";
import { EpollSelector } from "./epoll.ts";
import { InterestBit } from "./selector.ts";
import { WaitStrategy } from "./wait_strategy.ts";
import { EventFd } from "./wakeup.ts";

/** Something that is registered with the reactor. */
export interface EventHandler {
  /** What errors call it; made up when there is one. */
  readonly name: string;
  /** What it is, for the errors of those who wait when it is closed. */
  readonly kind: string;
  /** Called with bits of `ReadyBit`: what was told is new since the last call. */
  onReady(ready: number): void;
}

/** Calls that may go ahead without waiting between two turns. */
const BUDGET = 128;
/** Turns of the microtask queue in which a woken handler gets to its next wait. */
const MICROTURNS = 12;
/** Events taken at a time: few enough that what was received is still in the cache when its handler runs. */
const MAX_EVENTS = 64;
/** How often sockets are looked at while only unreferenced calls wait, in milliseconds. */
const UNREF_POLL = 10;

const EDGE_TRIGGERED = InterestBit.READABLE | InterestBit.WRITABLE | InterestBit.PRIORITY | InterestBit.EDGE;
/** `EPOLLEXCLUSIVE` goes with few others. */
const SHARED = InterestBit.READABLE | InterestBit.EDGE | InterestBit.EXCLUSIVE;

class Reactor {
  readonly #selector: EpollSelector;
  readonly #wait: WaitStrategy;
  readonly #wakeup = new EventFd();
  /** By descriptor. */
  readonly #sources: (EventHandler | undefined)[] = [];
  readonly #generations: number[] = [];
  #deferred: (() => void)[] = [];
  #held = 0;
  #heldUnref = 0;
  #running = false;
  #budget = BUDGET;
  #turns = 0;
  /** The event loop has the thread, and others may run. */
  #isAway = false;
  #poll: ReturnType<typeof setTimeout> | undefined;

  constructor() {
    let selector: EpollSelector | undefined;
    try {
      this.#selector = selector = new EpollSelector(MAX_EVENTS);
      this.#wait = new WaitStrategy(selector, () => this.#held > 0);
      const onReady = () => void this.#wakeup.drain();
      this.register(this.#wakeup.fd, { name: "the wake-up of the reactor", kind: "eventfd", onReady });
    } catch (error) {
      // The table of descriptors is full; who tries again must not find it fuller.
      selector?.close();
      this.#wakeup.close();
      throw error;
    }
  }

  /**
   * Begins to tell `source` of what happens on `fd`; if it is `shared` with other threads or processes, the kernel
   * wakes one of them only.
   */
  register(fd: number, source: EventHandler, shared = false): void {
    const generation = ((this.#generations[fd] ?? 0) + 1) & 0x3fffffff;
    this.#selector.register(fd, generation, shared ? SHARED : EDGE_TRIGGERED);
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
      this.#heldUnref++;
      if (!this.#running) this.#pollLater();
    } else if (this.#held++ === 0 && !this.#running) {
      this.#run();
    }
  }

  /** A call has stopped waiting. */
  release(ref: boolean): void {
    if (!ref) {
      if (--this.#heldUnref === 0) this.#stopPolling();
    } else if (--this.#held === 0 && this.#wait.isElsewhere) {
      this.#wakeup.signal();
      this.#wait.awaitReturn();
    }
  }

  /**
   * A number that is another one after each turn of the event loop for what is
   * woken here, and each millisecond for the rest of the program.
   */
  get moment(): number {
    return this.#running && !this.#isAway ? this.#turns : -Date.now();
  }

  /** Whether it waits, or has not noticed yet that nobody needs that any more. */
  get isRunning(): boolean {
    return this.#running;
  }

  /** Whether a call may go ahead without waiting for a turn. */
  mayProceed(): boolean {
    return this.#budget-- > 0;
  }

  /** Counts a call as `calls` more, because it took as long; what is overdrawn is forgiven with the next turn. */
  charge(calls: number): void {
    this.#budget -= calls;
  }

  /** Calls `proceed` after a turn of the event loop; somebody must be waiting. */
  defer(proceed: () => void): void {
    this.#deferred.push(proceed);
    if (this.#wait.isElsewhere) this.#wakeup.signal();
    if (!this.#running && this.#deferred.length === 1) this.#pollSoon();
  }

  async #run(): Promise<void> {
    this.#running = true;
    this.#turns++;
    this.#stopPolling();
    // What else this turn begins to wait for is waited for together.
    await undefined;
    while (this.#held > 0) {
      if (this.#budget <= 0 || this.#deferred.length > 0) {
        await this.#turn();
        // The deferred calls may have been the last that waited.
        if (this.#held === 0) break;
      }
      const here = this.#wait.isHot && this.#deferred.length === 0;
      if (this.#dispatch(here ? this.#wait.here(Infinity) : this.#selector.select(0))) {
        await this.#letHandlersRun();
      } else if (here) {
        await this.#turn();
      } else if (this.#deferred.length === 0) {
        this.#isAway = true;
        const n = await this.#wait.elsewhere(Infinity);
        this.#turned();
        this.#dispatch(n);
        await this.#letHandlersRun();
      }
    }
    this.#running = false;
    if (this.#heldUnref > 0) this.#pollLater();
  }

  /** Lets what was woken get to its next wait, by a turn of the event loop if one is due. */
  async #letHandlersRun(): Promise<void> {
    if (this.#wait.isTurnDue) return await this.#turn();
    for (let i = 0; i < MICROTURNS; i++) await undefined;
  }

  async #turn(): Promise<void> {
    this.#isAway = true;
    await this.#wait.turn();
    this.#turned();
  }

  /** The event loop has had a turn: who was put off may go on, as far as the budget goes. */
  #turned(): void {
    this.#turns++;
    this.#isAway = false;
    this.#budget = BUDGET;
    const deferred = this.#deferred;
    if (deferred.length === 0) return;
    this.#deferred = [];
    let next = 0;
    while (next < deferred.length && this.#budget > 0) deferred[next++]?.();
    // For whom nothing was left comes before who has had some and asks for more.
    if (next < deferred.length) this.#deferred = [...deferred.slice(next), ...this.#deferred];
  }

  /** Tells the sources of the events that a wait has found; returns whether there were any. */
  #dispatch(count: number): boolean {
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
      if (isUnloaded()) return;
      this.#dispatch(this.#selector.select(0));
      this.#turned();
      if (this.#heldUnref > 0 && !this.#running) this.#pollLater();
    }, this.#deferred.length > 0 ? 0 : UNREF_POLL);
    Deno.unrefTimer(this.#poll as unknown as number);
  }

  /** The first of those who wait for a turn of the event loop, and for nothing else, brings the next look forward. */
  #pollSoon(): void {
    this.#stopPolling();
    this.#pollLater();
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
