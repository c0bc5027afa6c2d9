/**
 * One side of a polled socket: the calls that wait there, first come, first served, and what is known of its readiness.
 *
 * The socket is registered edge-triggered, so after an attempt that would block nothing is tried until the reactor
 * reports an event. Idle sockets are not watched: a call that does not wait asks the kernel. A call that is ready and
 * only waits for its turn (`Reactor.mayProceed`) is deferred and not registered, so that no failure of epoll_ctl(2) can
 * refuse it.
 */

import { CallQueue, PendingCall } from "../internal/call_queue.ts";
import { rejectAtAwait } from "../internal/stack.ts";
import type { PolledSocket } from "./polled_socket.ts";

interface QueuedCall<Job> extends PendingCall<unknown> {
  job: Job;
}

type Resolve = (result: unknown) => void;
type Reject = (reason: unknown) => void;

/** In the place of a resolving function, which keeps its promise, and that its result. */
const NOTHING = () => {};

let newResolve: Resolve = NOTHING;
let newReject: Reject = NOTHING;

/** The executor of all promises of lone calls: they share it, for each connection has such calls. */
function capture(resolve: (result: never) => void, reject: Reject): void {
  newResolve = resolve as Resolve;
  newReject = reject;
}

/** What `#lone` holds when there is no lone call. */
const NONE = Symbol();

/**
 * The calls of one side. A subclass says how a job is attempted.
 *
 * @typeParam Job What a call asks for.
 * @typeParam Result What it resolves to.
 */
export abstract class Side<Job, Result> {
  protected readonly socket: PolledSocket;
  /** Whether an attempt is worth a system call; not known before the first one. */
  protected isReady = true;
  /**
   * The call that waits while no other does, without a signal. This is the usual case, and all that it costs is a
   * promise. It is first in the queue.
   */
  #lone: Job | typeof NONE = NONE;
  #resolve: Resolve = NOTHING;
  #reject: Reject = NOTHING;
  /** All other calls; made when one of them waits for the first time. */
  #queue: CallQueue<QueuedCall<Job>> | undefined;
  #isWaiting = false;
  #isDeferred = false;
  #isReferenced = true;

  constructor(socket: PolledSocket) {
    this.socket = socket;
  }

  /**
   * Makes the system call for a job.
   *
   * @returns `undefined` if it would block.
   */
  protected abstract attempt(job: Job): Result | undefined;

  /** Whether a job is attempted only when the socket is ready. */
  protected needsReadiness(_job: Job): boolean {
    return true;
  }

  /** Asks the reactor for events; returns why it cannot. */
  protected register(): Error | undefined {
    return this.socket.register();
  }

  /** The last waiting call has been settled. */
  protected onIdle(): void {}

  /** Whether any call waits. */
  get isWaiting(): boolean {
    return this.#isWaiting;
  }

  /** Whether a call may be attempted before it waits. */
  protected get mayAttempt(): boolean {
    return !this.#isWaiting && this.isReady && this.socket.reactor.mayProceed();
  }

  /** Attempts a job without waiting; `undefined` if it would block, or if others wait. */
  protected tryCall<R extends Result>(job: Job): R | undefined {
    return this.#isWaiting ? undefined : this.attempt(job) as R | undefined;
  }

  /** Attempts a job, and waits for its turn and for as long as it would block. */
  protected call<R extends Result>(job: Job, signal: AbortSignal | undefined): Promise<R> {
    if (this.mayAttempt) {
      try {
        const result = this.attempt(job);
        if (result !== undefined) {
          this.socket.proceeded();
          return Promise.resolve(result as R);
        }
        this.isReady = false;
      } catch (error) {
        return Promise.reject(error);
      }
    }
    return this.wait(job, signal);
  }

  /** Waits for the turn of a job, and for as long as it would block. */
  protected wait<R extends Result>(job: Job, signal: AbortSignal | undefined): Promise<R> {
    let promise: Promise<unknown>;
    const isFirst = !this.#isWaiting;
    if (isFirst && signal === undefined) {
      promise = new Promise(capture);
      this.#lone = job;
      this.#resolve = newResolve;
      this.#reject = newReject;
      newResolve = newReject = NOTHING;
    } else {
      const queue: CallQueue<QueuedCall<Job>> = this.#queue ??= new CallQueue();
      const call: QueuedCall<Job> = Object.assign(new PendingCall<unknown>(signal, () => this.#onCancel(call)), {
        job,
      });
      queue.push(call);
      promise = call.promise;
    }
    if (isFirst) {
      this.#update();
      this.#serve();
    }
    return promise as Promise<R>;
  }

  /** An event of the reactor: the socket is ready. */
  onReady(): void {
    this.isReady = true;
    // One event pays for one call: the reactor limits how many it handles in a turn.
    if (this.#isWaiting) this.#serve(true);
  }

  /** Attempts what waits, after something other than the kernel has changed. */
  protected wake(): void {
    this.isReady = true;
    if (this.#isWaiting) this.#serve();
  }

  /** Lets waiting calls keep the process alive, or not. */
  ref(on: boolean): void {
    if (on === this.#isReferenced) return;
    if (this.#isWaiting) this.socket.release(this.#isReferenced);
    this.#isReferenced = on;
    if (this.#isWaiting) this.socket.hold(on);
  }

  protected get isReferenced(): boolean {
    return this.#isReferenced;
  }

  /** Rejects all waiting calls. */
  close(error: (job: Job) => Error): void {
    const lone = this.#lone;
    if (lone !== NONE) this.#rejectLone(error(lone));
    for (const call of this.#queue?.drain() ?? []) call.reject(error(call.job));
    this.#update();
  }

  /** Attempts the jobs of waiting calls in order, up to the first that would block; `isPaid` if the first counts as nothing. */
  #serve(isPaid = false): void {
    for (let isCounted = !isPaid;; isCounted = true) {
      const lone = this.#lone;
      const call = lone === NONE ? this.#queue?.first : undefined;
      if (lone === NONE && call === undefined) break;
      const job = lone === NONE ? (call as QueuedCall<Job>).job : lone;
      if (!this.isReady && this.needsReadiness(job)) {
        this.#watch();
        break;
      }
      if (isCounted && !this.socket.reactor.mayProceed()) {
        this.#defer();
        break;
      }
      let result: Result | undefined;
      try {
        result = this.attempt(job);
      } catch (error) {
        if (call !== undefined) call.reject(error);
        else this.#rejectLone(error);
        continue;
      }
      if (result === undefined) this.isReady = false;
      else if (call !== undefined) call.resolve(result);
      else {
        const resolve = this.#resolve;
        this.#forgetLone();
        resolve(result);
      }
    }
    this.#update();
  }

  #rejectLone(error: unknown): void {
    const [resolve, reject] = [this.#resolve, this.#reject];
    this.#forgetLone();
    rejectAtAwait(resolve, reject, error);
  }

  #forgetLone(): void {
    this.#lone = NONE;
    this.#resolve = this.#reject = NOTHING;
  }

  #onCancel(call: QueuedCall<Job>): void {
    // It may stand in the queue for a while, and must not keep a buffer.
    call.job = undefined as Job;
    this.#queue?.compact();
    this.#update();
    // The job that is first now may not need readiness.
    if (this.#isWaiting) this.#serve();
  }

  /** Asks for events; if that fails no call here can wait. */
  #watch(): void {
    const refusal = this.register();
    if (refusal !== undefined) this.close(() => refusal);
  }

  /** Continues after a turn of the event loop, which other calls have waited for. */
  #defer(): void {
    if (this.#isDeferred) return;
    this.#isDeferred = true;
    this.socket.reactor.defer(() => {
      this.#isDeferred = false;
      if (this.#isWaiting) this.#serve();
    });
  }

  /** Keeps the reactor running exactly while a call waits. */
  #update(): void {
    const isWaiting = this.#lone !== NONE || this.#queue?.first !== undefined;
    if (isWaiting === this.#isWaiting) return;
    this.#isWaiting = isWaiting;
    if (isWaiting) this.socket.hold(this.#isReferenced);
    else {
      this.socket.release(this.#isReferenced);
      this.onIdle();
    }
  }
}

/** A side whose jobs are functions, each with a result of its own type. */
export class FunctionSide extends Side<() => unknown, unknown> {
  protected override attempt(job: () => unknown): unknown {
    return job();
  }

  /** Makes a call that waits as long as it returns `undefined`. */
  run<R>(call: () => R | undefined, signal: AbortSignal | undefined): Promise<R> {
    return this.call(call, signal);
  }

  /** Makes a call that does not wait. */
  tryRun<R>(call: () => R | undefined): R | undefined {
    return this.tryCall(call);
  }
}
