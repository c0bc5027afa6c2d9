/**
 * The deadlines of calls that wait. All of an isolate share one timer of the runtime, which would cost a call as much as
 * its system call does, if each had its own.
 *
 * Deadlines of the same length stand in one list, so the first of a list is the next to pass, and none is searched for.
 * Setting one does not look at the clock: that is done once for all that are set before the microtask queue has come to
 * its end.
 */

import { LONGEST_STEP } from "./timer.ts";

/** Lengths are rounded up to so many binary digits, which bounds the number of lists. */
const DIGITS = 8;
/** Deadlines that expire in one turn of the event loop: each has an error to be made, and other work is to go on. */
const MOST_AT_A_TIME = 100;
/** Turns of the microtask queue in which who was served usually comes to wait again. */
const GRACE_TURNS = 16;

/** Deadlines of one length, in the order in which they were set. */
class List {
  first: Deadline | undefined;
  last: Deadline | undefined;
  /** The first for which the clock has not been looked at yet. */
  fresh: Deadline | undefined;

  constructor(readonly length: number) {}
}

const lists = new Map<number, List>();
/** The list that was used last. */
let latest = new List(0);
let latestDuration = NaN;

/** A program can put clocks of its own in their place, which would leave the deadlines of others behind. */
const { clearTimeout, setTimeout } = globalThis;

/** Deadlines that are set. */
let count = 0;
/** Lists for which the clock has to be looked at. */
let fresh: List[] = [];
let timer: ReturnType<typeof setTimeout> | undefined;
/** When it ends, as `performance.now()` counts. */
let timerEnd = Infinity;
let isEnding = false;

function listOf(duration: number): List {
  if (duration === latestDuration) return latest;
  const whole = Math.ceil(duration);
  const step = Math.max(2 ** (Math.floor(Math.log2(Math.max(whole, 1))) + 1 - DIGITS), 1);
  const length = Math.ceil(whole / step) * step;
  let list = lists.get(length);
  if (list === undefined) lists.set(length, list = new List(length));
  latestDuration = duration;
  return latest = list;
}

/** The end of one wait at a time. */
export class Deadline {
  /** In milliseconds, as it was set. */
  duration = Infinity;
  /** When it passes, as `performance.now()` counts. */
  due = 0;
  previous: Deadline | undefined;
  next: Deadline | undefined;
  readonly #onPassed: () => void;
  #list: List | undefined;

  /** `onPassed` is called once for each time that it is set and passes. */
  constructor(onPassed: () => void) {
    this.#onPassed = onPassed;
  }

  /** Begins to wait; it must not be set already. */
  set(duration: number): void {
    const list = this.#list = listOf(duration);
    this.duration = duration;
    this.previous = list.last;
    if (list.last === undefined) list.first = this;
    else list.last.next = this;
    list.last = this;
    count++;
    if (list.fresh !== undefined) return;
    list.fresh = this;
    if (fresh.push(list) === 1) queueMicrotask(look);
  }

  /** Waits no longer. */
  clear(): void {
    const list = this.#list;
    if (list === undefined) return;
    const { previous, next } = this;
    if (previous === undefined) list.first = next;
    else previous.next = next;
    if (next === undefined) list.last = previous;
    else next.previous = previous;
    if (list.fresh === this) list.fresh = next;
    this.#list = this.previous = this.next = undefined;
    if (--count === 0 && !isEnding) endLater();
  }

  pass(): void {
    this.clear();
    this.#onPassed();
  }
}

/** Looks at the clock for all deadlines that are new. */
function look(): void {
  const now = performance.now();
  const due = fresh;
  fresh = [];
  for (const list of due) {
    for (let deadline = list.fresh; deadline !== undefined; deadline = deadline.next) deadline.due = now + list.length;
    list.fresh = undefined;
    if (list.first !== undefined && list.first.due < timerEnd) startTimer(list.first.due, now);
  }
}

function startTimer(end: number, now: number): void {
  clearTimeout(timer);
  timerEnd = end;
  timer = setTimeout(onTimer, Math.min(Math.max(Math.ceil(end - now), 0), LONGEST_STEP));
  // A call that waits keeps the process alive by itself, if it is to.
  Deno.unrefTimer(timer as unknown as number);
}

function onTimer(): void {
  timer = undefined;
  timerEnd = Infinity;
  const now = performance.now();
  let next = Infinity;
  let left = MOST_AT_A_TIME;
  for (const list of lists.values()) {
    // What is called here may set others, for which the clock has not been looked at.
    for (let first = list.first; first !== undefined && first !== list.fresh; first = list.first) {
      if (first.due > now || left <= 0) {
        next = Math.min(next, first.due);
        break;
      }
      left--;
      first.pass();
    }
    if (list.first === undefined && list !== latest) lists.delete(list.length);
  }
  if (next < timerEnd) startTimer(next, now);
}

/** Stops the timer if nothing waits again soon: starting one anew for each call of a lone connection would cost more. */
async function endLater(): Promise<void> {
  isEnding = true;
  for (let i = 0; i < GRACE_TURNS; i++) await undefined;
  isEnding = false;
  if (count > 0) return;
  clearTimeout(timer);
  timer = undefined;
  timerEnd = Infinity;
  lists.clear();
  latestDuration = NaN;
}
