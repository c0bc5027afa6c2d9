/**
 * The calls that wait on one side of a native socket, and its readiness: the
 * socket is registered edge-triggered, so that after "would block" nothing is
 * tried until the reactor tells of more.
 */

import { Waiter, WaiterQueue } from "../internal/waiters.ts";
import type { NativeSocket } from "./native_socket.ts";

interface Call extends Waiter<unknown> {
  readonly attempt: () => unknown;
}

/** One side of a native socket whose calls are done whole or not at all. */
export class WaitingSide {
  readonly #socket: NativeSocket;
  readonly #line = new WaiterQueue<Call>();
  #ready = true;
  #holds = false;
  #deferred = false;
  #ref = true;

  constructor(socket: NativeSocket) {
    this.#socket = socket;
  }

  /** Makes a call that does not wait; `attempt` returns `undefined` if it would block. */
  tryCall<T>(attempt: () => T | undefined): T | undefined {
    // Those who wait came first. Nobody tells of news while nobody waits, so the kernel is asked.
    return this.#holds ? undefined : attempt();
  }

  /** Makes a call, and waits for its turn and for as long as it would block. */
  call<T>(attempt: () => T | undefined, signal: AbortSignal | undefined): Promise<T> {
    if (!this.#holds && this.#ready && this.#socket.reactor.mayProceed()) {
      try {
        const result = attempt();
        if (result !== undefined) {
          this.#socket.proceeded();
          return Promise.resolve(result);
        }
        this.#ready = false;
      } catch (error) {
        return Promise.reject(error);
      }
    }
    const waiter = new Waiter<T>(signal, () => {
      this.#line.compact();
      this.#updateHold();
    });
    this.#line.push(Object.assign(waiter, { attempt }) as unknown as Call);
    this.#updateHold();
    // What only waits for its turn need not be told of anything.
    if (this.#ready) this.#defer();
    else this.#register();
    return waiter.promise;
  }

  /** The reactor tells of news. */
  onReady(): void {
    this.#ready = true;
    if (this.#holds) this.#serve();
  }

  ref(on: boolean): void {
    if (on === this.#ref) return;
    if (this.#holds) this.#socket.release(this.#ref);
    this.#ref = on;
    if (this.#holds) this.#socket.hold(on);
  }

  /** Has the reactor tell of news. */
  #register(): void {
    const refusal = this.#socket.register();
    if (refusal !== undefined) this.close(() => refusal);
  }

  /** Wakes all who wait. */
  close(error: () => Error): void {
    for (const call of this.#line.drain()) call.reject(error());
    this.#updateHold();
  }

  #serve(): void {
    for (let call = this.#line.first; call !== undefined && this.#ready; call = this.#line.first) {
      if (!this.#socket.reactor.mayProceed()) {
        this.#defer();
        break;
      }
      try {
        const result = call.attempt();
        if (result !== undefined) call.resolve(result);
        else {
          this.#ready = false;
          this.#register();
        }
      } catch (error) {
        call.reject(error);
      }
    }
    this.#updateHold();
  }

  /** Goes on after a turn of the event loop, because others have had none for long. */
  #defer(): void {
    if (this.#deferred) return;
    this.#deferred = true;
    this.#socket.reactor.defer(() => {
      this.#deferred = false;
      if (this.#holds) this.#serve();
    });
  }

  #updateHold(): void {
    const holds = this.#line.first !== undefined;
    if (holds === this.#holds) return;
    this.#holds = holds;
    if (holds) this.#socket.hold(this.#ref);
    else this.#socket.release(this.#ref);
  }
}
