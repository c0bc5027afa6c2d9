/**
 * How to wait, shared by the reactor and {@linkcode Multiplexer.wait}.
 *
 * Handing a wait to another thread costs more than most answers take to come.
 * So while waits are fruitful ("hot") one is made on this thread, for at most
 * {@linkcode SLICE}, with a turn of the event loop after each that was not.
 * After a few such it is handed over, so that an idle program uses no CPU.
 *
 * The event loop gets a turn every {@linkcode TURN} at least, so timers are
 * never starved. That does not do for the other I/O of the program: as long as
 * the loop has something to do at once, the runtime (tokio) asks the kernel
 * for news only every 61st turn. So every {@linkcode IO_TURN} the loop is given
 * a moment with nothing to do.
 */

import { setImmediate } from "node:timers";
import { libc } from "../internal/libc.ts";
import { isUnloaded, Unload, whenUnloaded } from "../internal/unload.ts";
import type { Selector } from "./selector.ts";

/** Longest wait on this thread, in milliseconds. */
const SLICE = 0.2;
/** How many fruitless slices are waited at most, after many fruitful ones. */
const HOTTEST = 4;
/** Longest time between two turns of the event loop, in milliseconds. */
const TURN = 0.5;
/** Longest time between two looks of the runtime for I/O, in milliseconds. */
const IO_TURN = 5;
/** Turns without a rest after which the runtime looks for I/O (tokio's event interval). */
const TURNS_PER_LOOK = 61;
/**
 * Longest wait elsewhere, in milliseconds: when a Worker is terminated its
 * waiting thread ends no sooner.
 */
const LONGEST_WAIT = 30_000;
/**
 * Waits that may be elsewhere at a time, and how often those beyond look, in
 * milliseconds: an isolate has 32 threads for that, and other work for them.
 */
const MOST_ELSEWHERE = 16;
const LOOK_INTERVAL = 10;
/** First and longest pause for the other thread to return, in microseconds; long only if it gets no processor. */
const FIRST_PAUSE = 25;
const LONGEST_PAUSE = 2_000;

function turn(): Promise<void> {
  return new Promise((resolve) => setImmediate(resolve));
}

/** What nobody may go on after. */
function never(): Promise<never> {
  return new Promise(() => {});
}

/** Waits of this isolate that are elsewhere. */
let elsewhere = 0;
/** Whether they are given the time to return before the program is unloaded. */
let settles = false;

/** The waits on one selector. */
export class WaitStrategy {
  readonly #selector: Selector;
  readonly #isNeeded: () => boolean;
  #hot = 0;
  #lastTurn = 0;
  /** When the event loop last had nothing to do. */
  #lastRest = 0;
  #isElsewhere = false;

  /** `isNeeded` tells whether anybody waits. */
  constructor(selector: Selector, isNeeded: () => boolean) {
    this.#selector = selector;
    this.#isNeeded = isNeeded;
  }

  /** Whether to wait on this thread first. */
  get isHot(): boolean {
    return this.#hot > 0;
  }

  /** A wait is under way on another thread. */
  get isElsewhere(): boolean {
    return this.#isElsewhere;
  }

  get isTurnDue(): boolean {
    return performance.now() - this.#lastTurn > TURN;
  }

  /** Gives the event loop a turn; the last one, if the program was unloaded. */
  async turn(): Promise<void> {
    await turn();
    // When nobody needs a wait any more, the loop comes to rest by itself.
    if (performance.now() - this.#lastRest > IO_TURN && this.#isNeeded()) await this.#rest();
    if (isUnloaded()) await never();
    this.#lastTurn = performance.now();
  }

  /** Waits on this thread, but not for long; returns the number of events. */
  here(limit: number): number {
    const n = this.#selector.select(Math.min(limit, SLICE));
    if (n === 0) this.#hot--;
    else if (this.#hot < HOTTEST) this.#hot++;
    return n;
  }

  /** Waits on another thread, which is a turn of the event loop too; resolves to the number of events. */
  async elsewhere(limit: number): Promise<number> {
    const n = await this.#goElsewhere(limit);
    // Its descriptors are closed.
    return isUnloaded() ? await never() : n;
  }

  async #goElsewhere(limit: number): Promise<number> {
    this.#isElsewhere = true;
    elsewhere++;
    if (!settles && this.#selector.finestWait !== Infinity) {
      settles = true;
      // One that takes longer does no harm, but holds a thread until its wait is over.
      whenUnloaded(Unload.SETTLE, () => elsewhere > 0 && libc.usleep(LONGEST_PAUSE));
    }
    try {
      if (elsewhere <= MOST_ELSEWHERE || this.#selector.finestWait === Infinity) {
        return await this.#selector.selectElsewhere(Math.min(limit, LONGEST_WAIT));
      }
      await new Promise((resolve) => setTimeout(resolve, Math.min(limit, LOOK_INTERVAL)));
      return this.#selector.select(0);
    } finally {
      elsewhere--;
      this.#isElsewhere = false;
      this.#lastTurn = this.#lastRest = performance.now();
      this.#hot = this.#selector.finestWait <= SLICE ? 1 : 0;
    }
  }

  /** Lets the runtime look for I/O. */
  async #rest(): Promise<void> {
    if (this.#selector.finestWait === Infinity) {
      for (let i = 0; i < TURNS_PER_LOOK; i++) await turn();
    } else {
      // The shortest thing that another thread can do; meanwhile this one has nothing to do.
      this.#isElsewhere = true;
      try {
        await libc.sched_yield_elsewhere();
      } finally {
        this.#isElsewhere = false;
      }
    }
    this.#lastRest = performance.now();
  }

  /**
   * Gives a wait that nobody needs any more the time to return from the other
   * thread, so that it is not found pending by who looks at once: the event
   * loop alone would turn several times in these microseconds.
   */
  awaitReturn(): void {
    const pause = (duration: number) => {
      if (!this.#isElsewhere || this.#isNeeded()) return;
      libc.usleep(duration);
      setImmediate(() => pause(Math.min(duration * 2, LONGEST_PAUSE)));
    };
    if (this.#selector.finestWait !== Infinity) setImmediate(() => pause(FIRST_PAUSE));
  }
}
