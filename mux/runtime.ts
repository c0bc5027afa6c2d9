/**
 * Readiness over Deno's own operations, which know completion only: a read,
 * accept or receive runs ahead by one, and a socket is ready when that has
 * something for the next `try…`.
 */

import { LONGEST_STEP } from "../internal/timer.ts";
import { type RuntimePollable, Watchers } from "../poll/pollable.ts";
import { InterestBit, ReadyBit, type Selector } from "../poll/selector.ts";
import type { Wakeup } from "../poll/wakeup.ts";
import { atCaller } from "../internal/stack.ts";

interface Entry {
  readonly fd: number;
  readonly pollable: RuntimePollable;
  generation: number;
  interest: number;
  /** Stands in the line of those that may be ready. */
  queued: boolean;
  /** Told once, and not to be told of until it is modified. */
  silent: boolean;
  stop: () => void;
}

/** {@linkcode Selector} on sockets of the runtime engine, whose numbers are just names. */
export class RuntimeSelector implements Selector {
  readonly backend = "runtime";
  readonly supports: number = InterestBit.READABLE | InterestBit.WRITABLE | InterestBit.ONESHOT;
  readonly live = true;
  readonly finestWait = Infinity;
  readonly #maxEvents: number;
  readonly #entries: (Entry | undefined)[] = [];
  /** Who may be ready: asked at the next wait, first come, first served. */
  #line: Entry[] = [];
  #head = 0;
  /** How many of them have been unregistered. */
  #left = 0;
  readonly #events: Entry[] = [];
  readonly #ready: number[] = [];
  /** Ends the wait that is under way. */
  #end: (() => void) | undefined;

  constructor(maxEvents: number) {
    this.#maxEvents = maxEvents;
  }

  register(fd: number, generation: number, interest: number, pollable?: RuntimePollable): void {
    if (pollable === undefined) throw atCaller(new TypeError("nothing to ask"));
    const entry: Entry = { fd, pollable, generation, interest, queued: false, silent: false, stop: () => {} };
    entry.stop = pollable.watch({ changed: () => this.#queue(entry), closing: () => {} });
    this.#entries[fd] = entry;
    this.#queue(entry);
  }

  modify(fd: number, generation: number, interest: number): void {
    const entry = this.#entries[fd];
    if (entry === undefined) return;
    entry.generation = generation;
    entry.interest = interest;
    entry.silent = false;
    this.#queue(entry);
  }

  unregister(fd: number): void {
    const entry = this.#entries[fd];
    if (entry === undefined) return;
    entry.stop();
    this.#entries[fd] = undefined;
    // Those who left would pile up in the line until the next wait.
    if (entry.queued && ++this.#left > 64 && this.#left * 2 > this.#line.length - this.#head) {
      this.#line = this.#line.slice(this.#head).filter((entry) => this.#entries[entry.fd] === entry);
      this.#head = this.#left = 0;
    }
  }

  select(): number {
    let count = 0;
    // Who is ready goes back to the end of the line; nobody is asked twice.
    for (let left = this.#line.length - this.#head; left > 0 && count < this.#maxEvents; left--) {
      const entry = this.#line[this.#head++] as Entry;
      entry.queued = false;
      if (entry.silent || this.#entries[entry.fd] !== entry) continue;
      const ready = entry.pollable.poll(entry.interest) & reportable(entry.interest);
      if (ready === 0) continue;
      this.#events[count] = entry;
      this.#ready[count] = ready;
      count++;
      if (entry.interest & InterestBit.ONESHOT) entry.silent = true;
      else this.#queue(entry);
    }
    if (this.#head === this.#line.length) {
      this.#line.length = this.#head = this.#left = 0;
    } else if (this.#head > 1024) {
      this.#line = this.#line.slice(this.#head);
      this.#head = 0;
    }
    this.#events.length = count;
    return count;
  }

  async selectElsewhere(timeout: number): Promise<number> {
    if (this.#head === this.#line.length) {
      await new Promise<void>((resolve) => {
        // What runs ahead does not keep the process alive, but this does.
        // A longer wait than a timer can be set to returns early.
        const timer = setTimeout(resolve, timeout < 0 ? LONGEST_STEP : Math.min(Math.ceil(timeout), LONGEST_STEP));
        this.#end = () => {
          clearTimeout(timer);
          resolve();
        };
      });
      this.#end = undefined;
    }
    return this.select();
  }

  fd(index: number): number {
    return (this.#events[index] as Entry).fd;
  }

  generation(index: number): number {
    return (this.#events[index] as Entry).generation;
  }

  ready(index: number): number {
    return this.#ready[index] as number;
  }

  close(): void {
    for (const entry of this.#entries) entry?.stop();
    this.#entries.length = 0;
    this.#line = [];
    this.#head = 0;
    this.#events.length = 0;
  }

  #queue(entry: Entry): void {
    if (entry.queued || entry.silent) return;
    entry.queued = true;
    this.#line.push(entry);
    this.#end?.();
  }
}

/** What is reported for an interest: errors and the end of both sides always, as the kernel's backends have it. */
function reportable(interest: number): number {
  let bits = ReadyBit.ERROR | ReadyBit.WRITE_CLOSED | ReadyBit.READ_CLOSED;
  if (interest & InterestBit.READABLE) bits |= ReadyBit.READABLE;
  if (interest & InterestBit.WRITABLE) bits |= ReadyBit.WRITABLE;
  return bits;
}

/** {@linkcode Wakeup} without a descriptor, within one thread. */
export class RuntimeWakeup implements Wakeup, RuntimePollable {
  readonly engine = "runtime";
  readonly name = "wake-up";
  isOpen = true;
  readonly isPaused = false;
  readonly fd = -1;
  readonly #watchers = new Watchers();
  #count = 0;

  signal(): void {
    this.#count++;
    this.#watchers.changed();
  }

  drain(): number {
    const count = this.#count;
    this.#count = 0;
    return count;
  }

  watch(watcher: Parameters<Watchers["add"]>[0]): () => void {
    return this.#watchers.add(watcher);
  }

  poll(): number {
    return this.#count > 0 ? ReadyBit.READABLE : 0;
  }

  close(): void {
    this.isOpen = false;
  }
}
