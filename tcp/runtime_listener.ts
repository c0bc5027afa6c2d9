/** A listening socket on Deno's own operations. */

import { formatAddress, type HostPort } from "../internal/address.ts";
import { acceptTrouble, Backoff } from "../internal/backoff.ts";
import { needsNative } from "../internal/engine.ts";
import { closedError, codeOf, fromRuntimeError } from "../internal/errors.ts";
import { Waiter, WaiterQueue } from "../internal/waiters.ts";
import { type Pollable, type Watcher, Watchers } from "../mux/pollable.ts";
import { InterestBit, ReadyBit } from "../mux/selector.ts";
import type { ConnDriver, ListenerDriver } from "./driver.ts";
import { plainAddr, RuntimeConn } from "./runtime_conn.ts";

/** How to bind; checked. */
export interface RuntimeBindOptions extends HostPort {
  reusePort: boolean;
  onAcceptError: ((error: Error) => void) | undefined;
}

/** {@linkcode ListenerDriver} over a `Deno.TcpListener`. */
export class RuntimeListener implements ListenerDriver, Pollable {
  readonly engine = "runtime";
  readonly fd = undefined;
  readonly inode = undefined;
  readonly addr: Deno.NetAddr;
  readonly #listener: Deno.TcpListener;
  readonly #name: string;
  readonly #onAcceptError: ((error: Error) => void) | undefined;
  readonly #waiting = new WaiterQueue<Waiter<ConnDriver>>();
  readonly #watchers = new Watchers();
  readonly #backoff = new Backoff();
  /** An accept of Deno's is under way; it cannot be taken back. */
  #accepting = false;
  /** A connection that came when nobody waited any more. */
  #ahead: Deno.TcpConn | undefined;
  #paused = false;
  #closed = false;
  #wantsRef = true;
  #isRef = true;

  private constructor(listener: Deno.TcpListener, onAcceptError: ((error: Error) => void) | undefined) {
    this.#listener = listener;
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

  get pollable(): Pollable {
    return this;
  }

  get name(): string {
    return this.#name;
  }

  get isOpen(): boolean {
    return !this.#closed;
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
    if (this.#ahead !== undefined) return ReadyBit.READABLE;
    if (!this.#accepting && !this.#backoff.waiting) {
      this.#acceptOne();
      this.#updateRef();
    }
    return 0;
  }

  accept(signal: AbortSignal | undefined): Promise<ConnDriver> {
    if (this.#closed) return Promise.reject(this.#closedError());
    const waiter = new Waiter<ConnDriver>(signal, () => {
      this.#waiting.compact();
      if (this.#waiting.first === undefined && this.#watchers.isEmpty) this.#backoff.cancel();
      this.#updateRef();
    });
    this.#waiting.push(waiter);
    this.#pump();
    this.#updateRef();
    return waiter.promise;
  }

  tryAccept(): ConnDriver | undefined {
    if (this.#closed) throw this.#closedError();
    if (this.#paused || this.#waiting.first !== undefined) return undefined;
    const conn = this.#ahead;
    this.#ahead = undefined;
    if (!this.#accepting) this.#acceptOne();
    this.#updateRef();
    return conn === undefined ? undefined : new RuntimeConn(conn);
  }

  queue(): { length: number; limit: number } {
    if (this.#closed) throw this.#closedError("see the accept queue of");
    throw needsNative("see the accept queue");
  }

  pause(): void {
    if (this.#closed) throw this.#closedError("pause");
    this.#paused = true;
    this.#backoff.cancel();
  }

  resume(): void {
    if (this.#closed) throw this.#closedError("resume");
    this.#paused = false;
    this.#pump();
    this.#watchers.changed();
  }

  detach(): number {
    if (this.#closed) throw this.#closedError("detach");
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

  close(): void {
    if (this.#closed) return;
    this.#watchers.closing();
    this.#closed = true;
    this.#backoff.cancel();
    this.#ahead?.close();
    this.#ahead = undefined;
    this.#listener.close();
    // Deno holds the port until an accept under way has ended; who awaits that may bind again.
    if (!this.#accepting) this.#wakeAll();
  }

  #wakeAll(): void {
    for (const waiter of this.#waiting.drain()) waiter.reject(this.#closedError());
  }

  #pump(): void {
    if (this.#paused) return;
    let waiter = this.#waiting.first;
    if (waiter !== undefined && this.#ahead !== undefined) {
      const conn = this.#ahead;
      this.#ahead = undefined;
      waiter.resolve(new RuntimeConn(conn));
      waiter = this.#waiting.first;
    }
    if (waiter !== undefined && !this.#accepting && !this.#backoff.waiting) this.#acceptOne();
  }

  async #acceptOne(): Promise<void> {
    this.#accepting = true;
    try {
      const conn = await this.#listener.accept();
      this.#backoff.reset();
      if (this.#closed) conn.close();
      else this.#ahead = conn;
    } catch (error) {
      if (!this.#closed) this.#failed(error);
    } finally {
      this.#accepting = false;
    }
    if (this.#closed) return this.#wakeAll();
    this.#pump();
    this.#updateRef();
    this.#watchers.changed();
  }

  #failed(cause: unknown): void {
    const trouble = acceptTrouble(codeOf(cause));
    if (trouble === "retry") return;
    const error = fromRuntimeError(cause, `accept on ${this.#name}`, "accept");
    const isWatched = this.#waiting.first === undefined && !this.#watchers.isEmpty;
    if (trouble === "wait" || isWatched) {
      if (!this.#paused && (this.#waiting.first !== undefined || isWatched)) {
        this.#backoff.wait(() => {
          this.#pump();
          this.#watchers.changed();
        }, this.#wantsRef);
      }
      // In a turn of its own: a report that throws is the program's error, not the loop's.
      const report = this.#onAcceptError;
      if (report !== undefined) queueMicrotask(() => report(error));
    } else {
      this.#waiting.first?.reject(error);
    }
  }

  /** An accept that waits for nobody must not keep the process alive. */
  #updateRef(): void {
    if (this.#closed) return;
    const isRef = this.#wantsRef && this.#waiting.first !== undefined;
    if (isRef === this.#isRef) return;
    this.#isRef = isRef;
    if (isRef) this.#listener.ref();
    else this.#listener.unref();
  }

  #closedError(action = "accept on"): Error {
    return closedError(`${action} ${this.#name}`, "listener");
  }
}
