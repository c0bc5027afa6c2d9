/** A listening socket on Deno's own operations. */

import { setImmediate } from "node:timers";
import { formatAddress, type HostPort } from "../internal/address.ts";
import { Backoff, runtimeAcceptTrouble } from "../internal/backoff.ts";
import { needsNative } from "../internal/engine.ts";
import { closedError, closedMeanwhileError, codeOf, fromRuntimeError } from "../internal/errors.ts";
import { RefSwitch } from "../internal/ref_switch.ts";
import { CallQueue, PendingCall } from "../internal/call_queue.ts";
import type { Wait } from "../internal/wait.ts";
import { type RuntimePollable, type Watcher, Watchers } from "../poll/pollable.ts";
import { type Readiness, readinessOf, readyAtOnce } from "../poll/readiness.ts";
import { InterestBit, ReadyBit } from "../poll/selector.ts";
import type { ConnDriver, ListenerDriver } from "./driver.ts";
import { plainAddr, RuntimeConn } from "./runtime_conn.ts";

/** How to bind; checked. */
export interface RuntimeBindOptions extends HostPort {
  reusePort: boolean;
  onAcceptError: ((error: Error) => void) | undefined;
}

/** Connections that {@linkcode RuntimeListener.drain} accepts at most, while others keep connecting: Deno queues 511. */
const MOST_DRAINED = 4_096;
/** And how long it does so, in milliseconds. */
const LONGEST_DRAIN = 1_000;
/**
 * A look at the queue: milliseconds in which the runtime may have nothing to do, and turns of a loop that is busy, in
 * which the runtime (tokio) asks the kernel for news every 61st time only. Longer looks would never be without a client
 * that connects every few milliseconds.
 */
const REST = 2;
const TURNS_PER_LOOK = 61;
/** Looks in a row without a connection, after which the queue is taken to be empty. */
const QUIET_LOOKS = 2;

/** A call that waits for a connection: to take it, or to know that it is there. */
interface Accept extends PendingCall<ConnDriver | undefined> {
  readonly takes: boolean;
}

/** {@linkcode ListenerDriver} over a `Deno.TcpListener`. */
export class RuntimeListener implements ListenerDriver, RuntimePollable {
  readonly engine = "runtime";
  readonly fd = undefined;
  readonly inode = undefined;
  readonly addr: Deno.NetAddr;
  readonly #listener: Deno.TcpListener;
  readonly #name: string;
  readonly #onAcceptError: ((error: Error) => void) | undefined;
  readonly #waiting = new CallQueue<Accept>();
  readonly #watchers = new Watchers();
  readonly #backoff = new Backoff();
  /** An accept of Deno's is under way; it cannot be taken back. */
  #accepting = false;
  /** Connections that no call has asked for: one that came when no call waited any more, or those of a drained queue. */
  readonly #ahead: Deno.TcpConn[] = [];
  #paused = false;
  /** How many more the listener that drains accepts; settled once it has closed its socket. */
  #left = 0;
  #draining: PromiseWithResolvers<void> | undefined;
  /** Deno's listener is open. */
  #listening = true;
  #closed = false;
  #wantsRef = true;
  readonly #ref: RefSwitch;

  private constructor(listener: Deno.TcpListener, onAcceptError: ((error: Error) => void) | undefined) {
    this.#listener = listener;
    this.#ref = new RefSwitch(listener);
    this.#onAcceptError = onAcceptError;
    this.addr = plainAddr(listener.addr);
    this.#name = `TCP listener ${formatAddress(this.addr)}`;
  }

  static bind({ hostname, port, reusePort, onAcceptError }: RuntimeBindOptions): RuntimeListener {
    try {
      const options = { hostname, port, ...(reusePort ? { reusePort } : {}) };
      return new RuntimeListener(Deno.listen(options), onAcceptError);
    } catch (error) {
      throw fromRuntimeError(error, `bind TCP listener to ${formatAddress({ hostname, port })}`, "bind");
    }
  }

  get pollable(): RuntimePollable {
    return this;
  }

  get name(): string {
    return this.#name;
  }

  get isOpen(): boolean {
    return this.#listening && this.#draining === undefined;
  }

  get isPaused(): boolean {
    return this.#paused;
  }

  watch(watcher: Watcher): () => void {
    return this.#watchers.add(watcher);
  }

  /**
   * What is ready, as bits of `ReadyBit`; if nothing is, an accept begins that runs ahead. Who asks for nothing is told
   * nothing: what an accept can fail with is reported by `onAcceptError`.
   */
  poll(interest: number): number {
    if ((interest & InterestBit.READABLE) === 0) return 0;
    if (this.#paused || this.#waiting.first !== undefined) return 0;
    if (this.#ahead.length > 0) return ReadyBit.READABLE;
    if (this.#draining === undefined && !this.#accepting && !this.#backoff.waiting) {
      this.#acceptOne();
      this.#updateRef();
    }
    return 0;
  }

  accept(wait: Wait | undefined): Promise<ConnDriver> {
    if (this.#isOver) return Promise.reject(this.#closedError());
    return this.#wait(wait, "accept on", true) as Promise<ConnDriver>;
  }

  async ready(wait: Wait | undefined): Promise<Readiness> {
    if (this.#isOver) throw this.#closedError("wait for", "epoll_wait");
    const found = readinessOf(ReadyBit.READABLE, InterestBit.READABLE);
    if (!this.#paused && this.#ahead.length > 0 && this.#waiting.first === undefined) return await readyAtOnce(found);
    await this.#wait(wait, "wait for", false);
    return found;
  }

  #wait(wait: Wait | undefined, action: string, takes: boolean): Promise<ConnDriver | undefined> {
    const call = new PendingCall<ConnDriver | undefined>(wait, () => `${action} ${this.#name}`, () => {
      this.#waiting.compact();
      if (this.#waiting.first === undefined && this.#watchers.isEmpty) this.#stopBackoff();
      this.#updateRef();
    });
    this.#waiting.push(Object.assign(call, { takes }));
    this.#pump();
    this.#updateRef();
    return call.promise;
  }

  tryAccept(): ConnDriver | undefined {
    if (this.#isOver) throw this.#closedError();
    if (this.#paused || this.#waiting.first !== undefined) return undefined;
    const conn = this.#ahead.shift();
    if (!this.#accepting && this.#draining === undefined) this.#acceptOne();
    this.#updateRef();
    return conn === undefined ? undefined : new RuntimeConn(conn);
  }

  queue(): { length: number; limit: number } {
    if (!this.#listening) throw this.#closedError("see the accept queue of", "getsockopt");
    throw needsNative("see the accept queue");
  }

  pause(): void {
    if (this.#isClosed) throw this.#closedError("pause", "epoll_ctl");
    this.#paused = true;
    this.#stopBackoff();
  }

  resume(): void {
    if (this.#isClosed) throw this.#closedError("resume", "epoll_ctl");
    this.#paused = false;
    this.#pump();
    this.#watchers.changed();
  }

  detach(): number {
    if (!this.#listening) throw this.#closedError("detach", "fcntl");
    throw needsNative("detach the descriptor");
  }

  ref(): void {
    this.#wantsRef = true;
    this.#updateRef();
  }

  unref(): void {
    this.#wantsRef = false;
    this.#updateRef();
  }

  drain(): Promise<void> {
    if (this.#draining !== undefined) return this.#draining.promise;
    if (this.#closed) return Promise.resolve();
    this.#draining = Promise.withResolvers();
    this.#left = MOST_DRAINED;
    this.#backoff.cancel();
    this.#watchers.closing();
    this.#empty();
    return this.#draining.promise;
  }

  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    this.#backoff.cancel();
    for (const conn of this.#ahead.splice(0)) conn.close();
    this.#closeListener();
    this.#draining?.resolve();
    // Deno holds the port until an accept under way has ended; who awaits that may bind again.
    if (!this.#accepting) this.#wakeAll();
  }

  /** Closed, and not drained: what is called when a connection ends, after the last one too, must not fail then. */
  get #isClosed(): boolean {
    return this.#closed && this.#draining === undefined;
  }

  /** There is no connection to hand out, and there will be none. */
  get #isOver(): boolean {
    return this.#closed || (!this.#listening && !this.#accepting && this.#ahead.length === 0);
  }

  #closeListener(): void {
    if (!this.#listening) return;
    this.#watchers.closing();
    this.#listening = false;
    this.#listener.close();
  }

  /** Accepts one connection after the other, until none has come for a while. */
  async #empty(): Promise<void> {
    this.#pump();
    this.#updateRef();
    const latest = performance.now() + LONGEST_DRAIN;
    for (let quiet = 0; quiet < QUIET_LOOKS && this.#left > 0 && this.#listening;) {
      const before = this.#left;
      await this.#look();
      // A shortage is no empty queue.
      quiet = this.#left < before || this.#backoff.waiting ? 0 : quiet + 1;
      if (performance.now() > latest && !this.#backoff.waiting) break;
    }
    this.#closeListener();
    if (!this.#accepting) this.#ended();
  }

  /** Lets the runtime look for connections, and deliver them. */
  async #look(): Promise<void> {
    await new Promise<void>((resolve) => {
      const timer = setTimeout(resolve, REST);
      if (!this.#wantsRef) Deno.unrefTimer(timer as unknown as number);
    });
    for (let i = 0; i < TURNS_PER_LOOK && this.#listening; i++) await new Promise((resolve) => setImmediate(resolve));
  }

  /** The drained listener is closed, and no accept is under way. */
  #ended(): void {
    this.#pump();
    this.#draining?.resolve();
  }

  /** One that drains tries again also for connections that no call waits for. */
  #stopBackoff(): void {
    if (this.#draining === undefined) this.#backoff.cancel();
  }

  #wakeAll(): void {
    for (const waiter of this.#waiting.drain()) {
      {
        const [action, syscall] = waiter.takes
          ? ["accept on", "accept4"] as const
          : ["wait for", "epoll_wait"] as const;
        waiter.reject(closedMeanwhileError(`${action} ${this.#name}`, "listener", syscall));
      }
    }
  }

  #pump(): void {
    for (let waiter = this.#waiting.first; waiter !== undefined && !this.#paused; waiter = this.#waiting.first) {
      if (this.#ahead.length === 0) break;
      waiter.resolve(waiter.takes ? new RuntimeConn(this.#ahead.shift() as Deno.TcpConn) : undefined);
    }
    if (this.#isOver) return this.#wakeAll();
    if (this.#accepting || this.#backoff.waiting || !this.#listening) return;
    const wanted = this.#draining === undefined ? !this.#paused && this.#waiting.first !== undefined : this.#left > 0;
    if (wanted) this.#acceptOne();
  }

  async #acceptOne(): Promise<void> {
    this.#accepting = true;
    try {
      const conn = await this.#listener.accept();
      this.#backoff.reset();
      if (this.#closed) conn.close();
      else this.#ahead.push(conn);
      this.#left--;
    } catch (error) {
      if (this.#listening) this.#failed(error);
    } finally {
      this.#accepting = false;
    }
    if (this.#closed) return this.#wakeAll();
    if (!this.#listening) return this.#ended();
    this.#pump();
    this.#updateRef();
    this.#watchers.changed();
  }

  #failed(cause: unknown): void {
    const trouble = runtimeAcceptTrouble(codeOf(cause));
    if (trouble === "retry") return;
    const error = fromRuntimeError(cause, `accept on ${this.#name}`, "accept");
    const isWatched = this.#waiting.first === undefined && !this.#watchers.isEmpty;
    if (trouble === "wait" || isWatched) {
      const isWanted = !this.#paused && (this.#waiting.first !== undefined || isWatched);
      if (isWanted || this.#draining !== undefined) {
        this.#backoff.wait(() => {
          this.#pump();
          this.#watchers.changed();
        }, this.#wantsRef);
      }
      // In a turn of its own: a report that throws is the program's error, not the loop's.
      const report = this.#onAcceptError;
      if (report !== undefined) queueMicrotask(() => report(error));
    } else if (this.#draining !== undefined) {
      this.#left = 0;
    } else {
      this.#waiting.first?.reject(error);
    }
  }

  /** An accept that waits for nobody must not keep the process alive. */
  #updateRef(): void {
    if (!this.#listening) return;
    this.#ref.set(this.#wantsRef && (this.#waiting.first !== undefined || this.#draining !== undefined));
  }

  #closedError(action = "accept on", syscall = "accept4"): Error {
    return closedError(`${action} ${this.#name}`, "listener", syscall);
  }
}
