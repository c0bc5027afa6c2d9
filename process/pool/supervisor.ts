/** The children of a pool: started, replaced when they fail, renewed, and ended. */

import { atCaller } from "../../internal/stack.ts";
import { Timer } from "../../internal/timer.ts";
import { Unload, whenUnloaded } from "../../internal/unload.ts";
import type { TcpListener } from "../../tcp/tcp_listener.ts";
import { nextStart, reportDeath } from "./death_notice.ts";
import { PoolChild } from "./pool_child.ts";
import { duplicate } from "./listeners.ts";
import type { PoolSettings } from "./options.ts";
import type { Start } from "../message/pool_protocol.ts";
import type { Life, Restarts } from "./restarts.ts";

/** Keeps one child in each slot, as long as that works. */
export class Supervisor {
  readonly #settings: PoolSettings;
  readonly #restarts: Restarts;
  readonly #listeners: () => readonly TcpListener[];
  readonly #gaveUp: (error: Error) => void;
  /** By slot: who serves there now. */
  readonly #slots: (PoolChild | undefined)[] = [];
  /** How often a child was replaced, by slot. */
  readonly #replaced: number[] = [];
  /** Those that have no slot yet or no more, and those of one connection each. */
  readonly #others = new Set<PoolChild>();
  readonly #timers = new Set<Timer>();
  /** Which child an error is about. */
  readonly #dead = new WeakMap<Error, PoolChild>();
  #changed = Promise.withResolvers<void>();
  #isEnding = false;
  readonly #forget: () => void;

  /** `gaveUp` is told once children have failed too often; nothing is replaced any more then. */
  constructor(
    settings: PoolSettings,
    restarts: Restarts,
    listeners: () => readonly TcpListener[],
    gaveUp: (error: Error) => void,
  ) {
    this.#settings = settings;
    this.#restarts = restarts;
    this.#listeners = listeners;
    this.#gaveUp = gaveUp;
    this.#forget = whenUnloaded(Unload.END, () => this.end());
  }

  /** Resolves when a child has come, has gone, or has told of its connections. */
  get changed(): Promise<void> {
    return this.#changed.promise;
  }

  get isEnding(): boolean {
    return this.#isEnding;
  }

  /** Those that have a slot, and those that have none. */
  get all(): PoolChild[] {
    return [...this.#slots.filter((child) => child !== undefined), ...this.#others];
  }

  /** By slot, those that take connections. */
  get serving(): (PoolChild | undefined)[] {
    return this.#slots.map((child) => child?.isServing ? child : undefined);
  }

  /** How often a child in this place was replaced. */
  replaced(child: PoolChild): number {
    return this.#replaced[child.slot] ?? 0;
  }

  /** Starts a child in each slot; resolves once all of them serve. */
  async startAll(): Promise<void> {
    const slots = Array.from({ length: this.#settings.size }, (_, slot) => slot);
    await Promise.all(slots.map(async (slot) => {
      this.#slots[slot] = undefined;
      this.#install(await this.startChild(slot));
    }));
  }

  /** Starts a child for a slot, or for one connection; resolves once it serves. */
  async startChild(slot: number, once = false): Promise<PoolChild> {
    this.#checkOpen();
    const { kind, module, child: options, startTimeout } = this.#settings;
    const child = new PoolChild(slot, kind, module, options, startTimeout, {
      changed: (child) => {
        if (child.hasServed) this.#restarts.succeed();
        this.wake();
      },
      full: (child) => this.#look(child),
      leaving: (child) => this.#retire(child),
      ended: (child) => this.#ended(child),
    });
    this.#others.add(child);
    try {
      await child.ready;
      this.#checkOpen();
      child.check(this.#listeners());
      await this.#start(child, once);
    } catch (error) {
      child.kill();
      this.#others.delete(child);
      throw error;
    }
    return child;
  }

  /**
   * Replaces all children: the new ones serve before the old ones drain.
   *
   * @returns Once the old ones take no more connections.
   */
  async renew(): Promise<void> {
    const started = await Promise.allSettled([...this.#slots.keys()].map((slot) => this.startChild(slot)));
    const failure = started.find((result) => result.status === "rejected");
    const fresh = started.flatMap((result) => result.status === "fulfilled" ? [result.value] : []);
    if (failure !== undefined || this.#isEnding) {
      for (const child of fresh) this.drain(child);
      if (this.#isEnding) throw atCaller(new Deno.errors.BadResource("Cannot reload: the pool was closed meanwhile"));
      throw failure?.reason;
    }
    const old = fresh.map(({ slot }) => this.#slots[slot]).filter((child) => child !== undefined);
    for (const child of fresh) this.#install(child);
    for (const child of old) this.drain(child);
    await Promise.all(old.map(({ stopped }) => stopped));
  }

  /** Lets a child finish, and ends it after the grace; `last`: nobody else accepts from its listeners. */
  async drain(child: PoolChild, grace = this.#settings.grace, last = false): Promise<void> {
    if (child.state === "ended") return;
    this.#others.add(child);
    await child.drain(grace, last);
  }

  /** Asks for the room that open connections take; the children go on taking others. */
  finish(): void {
    for (const child of this.all) child.finish();
  }

  /**
   * A child has failed, which standard error is told.
   *
   * @returns Milliseconds to wait before the next one; `undefined` if the pool has given up.
   */
  fail(slot: number, failed: Life, error: unknown): number | undefined {
    const delay = this.#restarts.fail(slot, failed, this.all.filter(({ isServing }) => isServing));
    const dead = error instanceof Error ? this.#dead.get(error) : undefined;
    reportDeath(dead, error, delay === undefined ? "the pool gives up" : nextStart(delay));
    if (delay !== undefined) return delay;
    const message = error instanceof Error ? error.message : String(error);
    const failures = this.#restarts.failures(slot);
    const reason = `The pool has stopped, since ${failures} children in a row have failed, at last: ${message}`;
    this.end();
    this.#gaveUp(atCaller(new Error(reason, { cause: error })));
    return undefined;
  }

  /** Replaces nobody from now on. */
  end(): void {
    this.#isEnding = true;
    this.#forget();
    for (const timer of this.#timers) timer.cancel();
    this.wake();
  }

  /** Ends all children, which may finish their connections within the grace; `last`: no other program accepts. */
  async endAll(grace: number, last: boolean): Promise<void> {
    this.end();
    const children = this.all;
    this.#slots.length = 0;
    await Promise.all(children.map(async (child) => {
      if (child.state === "starting") child.kill();
      else this.drain(child, grace, last);
      await child.child.closed;
    }));
  }

  /** Makes the end come sooner, once {@linkcode Supervisor.endAll} was called. */
  hurry(grace: number): void {
    if (this.#isEnding) { for (const child of this.all) this.drain(child, grace); }
  }

  wake(): void {
    this.#changed.resolve();
    this.#changed = Promise.withResolvers();
  }

  #checkOpen(): void {
    if (!this.#isEnding) return;
    throw atCaller(new Deno.errors.BadResource("Cannot start a child: the pool was closed meanwhile"));
  }

  /** Puts a child that serves into its slot; it may have ended since. */
  #install(child: PoolChild): void {
    this.#others.delete(child);
    this.#slots[child.slot] = child;
    if (child.state === "ended") this.#ended(child);
    else if (child.state === "draining") this.#retire(child);
    else this.wake();
  }

  async #start(child: PoolChild, once: boolean): Promise<void> {
    const start = this.#startOf(child, once);
    const copies = start.mode === "accept" ? duplicate(this.#listenersOf(child.slot)) : [];
    try {
      await child.start(start, copies);
    } finally {
      // If it has ended meanwhile they are still here, and nobody would accept from them.
      for (const copy of copies) copy.close();
    }
  }

  #startOf({ slot, child: { id } }: PoolChild, once: boolean): Start {
    const { balance, maxConnections, size } = this.#settings;
    const shared = balance === "shared";
    if (!shared && balance !== "reuseport") {
      return { do: "start", id, mode: "hand-over", listeners: 0, limit: Infinity, shared, once };
    }
    // The rest that cannot be divided goes to the first ones.
    const rest = maxConnections === Infinity ? 0 : maxConnections % size;
    const limit = (maxConnections - rest) / size + (slot < rest ? 1 : 0);
    return { do: "start", id, mode: "accept", listeners: this.#listenersOf(slot).length, limit, shared, once };
  }

  /** With a socket for each child, more than children after a takeover, each child has its part of them. */
  #listenersOf(slot: number): readonly TcpListener[] {
    const { balance, size } = this.#settings;
    const listeners = this.#listeners();
    return balance === "reuseport" ? listeners.filter((_, i) => i % size === slot) : listeners;
  }

  /** Who was woken for a connection may not take it any more: the others look. */
  #look(child: PoolChild): void {
    if (this.#settings.balance !== "shared" || this.#isEnding) return;
    if (this.#listeners().every((listener) => listener.queue().length === 0)) return;
    for (const other of this.serving) if (other !== child) other?.look();
  }

  /** Somebody else has told a child to end: it drains, and another takes its place. */
  #retire(child: PoolChild): void {
    if (this.#isEnding || child.state === "ended") return;
    if (this.#slots[child.slot] === child) {
      this.#slots[child.slot] = undefined;
      this.#fill(child.slot, 0);
    }
    this.drain(child);
  }

  #ended(child: PoolChild): void {
    const { slot, failure } = child;
    if (failure !== undefined) this.#dead.set(failure, child);
    const wasAlone = this.#settings.per === "connection" && this.#others.has(child) && child.hasStarted;
    this.#others.delete(child);
    const wasCurrent = this.#slots[slot] === child;
    if (wasCurrent) this.#slots[slot] = undefined;
    this.wake();
    if (this.#isEnding) return;
    if (wasAlone && failure !== undefined) reportDeath(child, failure, "the next connection gets another one");
    if (!wasCurrent) return;
    this.#look(child);
    this.#replace(slot, child, failure);
  }

  /** Puts another child in the place of one that has failed, later each time. */
  #replace(slot: number, failed: Life, error: unknown): void {
    const delay = this.fail(slot, failed, error);
    if (delay !== undefined) this.#fill(slot, delay);
  }

  #fill(slot: number, delay: number): void {
    const timer = new Timer(delay, async () => {
      this.#timers.delete(timer);
      // A reload was faster, before or after.
      if (this.#slots[slot] !== undefined) return;
      const since = new Date();
      try {
        const child = await this.startChild(slot);
        if (this.#isEnding || this.#slots[slot] !== undefined) return void this.drain(child);
        this.#replaced[slot] = (this.#replaced[slot] ?? 0) + 1;
        this.#install(child);
      } catch (error) {
        if (!this.#isEnding && this.#slots[slot] === undefined) this.#replace(slot, { hasServed: false, since }, error);
      }
    });
    this.#timers.add(timer);
  }
}
