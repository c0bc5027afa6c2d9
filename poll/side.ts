/**
 * One side of a polled socket: the calls that wait there, first come, first served, and what is known of its readiness.
 *
 * The socket is registered edge-triggered, so after an attempt that would block nothing is tried until the reactor
 * reports an event. Idle sockets are not watched: a call that does not wait asks the kernel. A call that is ready and
 * only waits for its turn (`Reactor.mayProceed`) is deferred and not registered, so that no failure of epoll_ctl(2) can
 * refuse it.
 */

import { CallQueue, PendingCall } from "../internal/call_queue.ts";
import { Deadline } from "../internal/deadline.ts";
import { closedMeanwhileError } from "../internal/errors.ts";
import { rejectAtAwait } from "../internal/stack.ts";
import { timedOutError, type Wait } from "../internal/wait.ts";
import { type Readiness, readinessOf, type ReadySide } from "./readiness.ts";
import { ReadyBit } from "./selector.ts";
import type { PolledSocket } from "./polled_socket.ts";

interface QueuedCall<Job> extends PendingCall<unknown> {
  job: Job | typeof READY;
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
/** A job that takes nothing: it is done once another would be worth a system call. */
const READY = Symbol();

/** What a call does, in the words of an error, and by which system call. */
export type Action = readonly [action: string, syscall: string];

const READYING: Action = ["wait for", "epoll_wait"];

/**
 * The calls of one side. A subclass says how a job is attempted.
 *
 * @typeParam Job What a call asks for.
 * @typeParam Result What it resolves to.
 */
export abstract class Side<Job, Result> implements ReadySide {
  protected readonly socket: PolledSocket;
  /** What it waits for, as bits of `InterestBit`. */
  protected abstract readonly interest: number;
  /** Whether an attempt is worth a system call. */
  protected isReady = true;
  /** The kernel has told so since the last attempt. */
  #isTold = false;
  /**
   * The call that waits while no other does, without a signal. This is the usual case, and all that it costs is a
   * promise. It is first in the queue.
   */
  #lone: Job | typeof READY | typeof NONE = NONE;
  #resolve: Resolve = NOTHING;
  #reject: Reject = NOTHING;
  /** Of the lone call; made when one has a time limit for the first time. */
  #deadline: Deadline | undefined;
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

  /** What a job does. */
  protected abstract actionOf(job: Job): Action;

  /** Whether a job is attempted only when the socket is ready. */
  protected needsReadiness(_job: Job): boolean {
    return true;
  }

  /** Whether an attempt would find something. The kernel is asked, unless it has told so, or will once it is registered. */
  protected isReadyNow(): boolean {
    if (this.isReady && !this.#isTold) this.isReady = this.socket.isRegistered && this.#look();
    return this.isReady;
  }

  #look(): boolean {
    return this.socket.readyNow(this.interest) !== 0;
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
    if (this.#isWaiting) return undefined;
    const result = this.#try(job) as R | undefined;
    if (result === undefined) this.isReady = false;
    return result;
  }

  /** Whether a call is known to be worth a system call, and may be made now. */
  get isKnownReady(): boolean {
    return !this.#isWaiting && this.isReadyNow();
  }

  /** Waits until a call is worth a system call, which may still find that it would block. */
  ready(wait: Wait | undefined): Promise<Readiness> {
    if (this.isKnownReady && this.socket.reactor.mayProceed()) return Promise.resolve(this.#tellReady());
    return this.#enter(READY, wait) as Promise<Readiness>;
  }

  /** Throws if `ready()` has nothing to wait for any more. */
  protected checkReady(): void {}

  #tellReady(): Readiness {
    this.checkReady();
    return readinessOf(this.interest | this.socket.told, this.interest);
  }

  #try(job: Job): Result | undefined {
    this.#isTold = false;
    try {
      return this.attempt(job);
    } catch (error) {
      // Whoever it was reported to has it now.
      this.socket.told &= ~ReadyBit.ERROR;
      throw error;
    }
  }

  /** Attempts a job, and waits for its turn and for as long as it would block. */
  protected call<R extends Result>(job: Job, wait: Wait | undefined): Promise<R> {
    if (this.mayAttempt) {
      try {
        const result = this.#try(job);
        if (result !== undefined) {
          this.socket.proceeded();
          return Promise.resolve(result as R);
        }
        this.isReady = false;
      } catch (error) {
        return Promise.reject(error);
      }
    }
    return this.wait(job, wait);
  }

  /** Waits for the turn of a job, and for as long as it would block. */
  protected wait<R extends Result>(job: Job, wait: Wait | undefined): Promise<R> {
    return this.#enter(job, wait) as Promise<R>;
  }

  #enter(job: Job | typeof READY, wait: Wait | undefined): Promise<unknown> {
    let promise: Promise<unknown>;
    const isFirst = !this.#isWaiting;
    if (isFirst && wait?.signal === undefined) {
      promise = new Promise(capture);
      this.#lone = job;
      this.#resolve = newResolve;
      this.#reject = newReject;
      newResolve = newReject = NOTHING;
      if (wait !== undefined) (this.#deadline ??= new Deadline(() => this.#onLoneTimeout())).set(wait.timeout);
    } else {
      const queue: CallQueue<QueuedCall<Job>> = this.#queue ??= new CallQueue();
      const pending = new PendingCall<unknown>(wait, () => this.#describe(job), () => this.#onCancel(call));
      const call = Object.assign(pending, { job }) as QueuedCall<Job>;
      queue.push(call);
      promise = call.promise;
    }
    if (isFirst) {
      this.#update();
      this.#serve();
    }
    return promise;
  }

  /** An event of the reactor: the socket is ready. */
  onReady(): void {
    this.isReady = true;
    this.#isTold = true;
    // One event pays for one call: the reactor limits how many it handles in a turn.
    if (this.#isWaiting) this.#serve(true);
  }

  /** Attempts what waits, after something other than the kernel has changed. */
  protected wake(): void {
    this.isReady = true;
    this.#isTold = false;
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

  /** Rejects all waiting calls, since the socket was closed. */
  close(): void {
    this.#rejectAll((job) => {
      return closedMeanwhileError(this.#describe(job), this.socket.kind, this.#actionOf(job)[1]);
    });
  }

  #rejectAll(error: (job: Job | typeof READY) => Error): void {
    const lone = this.#lone;
    if (lone !== NONE) this.#rejectLone(error(lone));
    for (const call of this.#queue?.drain() ?? []) call.reject(error(call.job));
    this.#update();
  }

  /** Rejects all waiting calls, since the kernel does not tell when one could go on. */
  #rejectWith(refusal: Error): void {
    this.#rejectAll(() => refusal);
  }

  /** Attempts the jobs of waiting calls in order, up to the first that would block; `isPaid` if the first counts as nothing. */
  #serve(isPaid = false): void {
    for (let isCounted = !isPaid;; isCounted = true) {
      const lone = this.#lone;
      const call = lone === NONE ? this.#queue?.first : undefined;
      if (lone === NONE && call === undefined) break;
      const job = lone === NONE ? (call as QueuedCall<Job>).job : lone;
      let refusal: Error | undefined;
      if (this.#isBlocked(job)) {
        refusal = this.register();
        if (refusal === undefined) break;
        // The kernel does not tell when it is ready: one last look.
      } else if (isCounted && !this.socket.reactor.mayProceed()) {
        this.#defer();
        break;
      }
      let result: Result | Readiness | undefined;
      try {
        if (job !== READY) result = this.#try(job);
        else if (refusal === undefined || this.#look()) result = this.#tellReady();
      } catch (error) {
        if (call !== undefined) call.reject(error);
        else this.#rejectLone(error);
        continue;
      }
      if (result === undefined) {
        this.isReady = false;
        if (refusal !== undefined) this.#rejectWith(refusal);
      } else if (call !== undefined) call.resolve(result);
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
    this.#deadline?.clear();
  }

  /** Whether a job has to wait for the kernel to tell that the socket is ready. */
  #isBlocked(job: Job | typeof READY): boolean {
    return job === READY ? !this.isReadyNow() : !this.isReady && this.needsReadiness(job);
  }

  #actionOf(job: Job | typeof READY): Action {
    return job === READY ? READYING : this.actionOf(job);
  }

  #describe(job: Job | typeof READY): string {
    return `${this.#actionOf(job)[0]} ${this.socket.name}`;
  }

  #onLoneTimeout(): void {
    const job = this.#lone as Job | typeof READY;
    this.#rejectLone(timedOutError(this.#describe(job), (this.#deadline as Deadline).duration));
    this.#left();
  }

  #onCancel(call: QueuedCall<Job>): void {
    // It may stand in the queue for a while, and must not keep a buffer.
    call.job = READY;
    this.#queue?.compact();
    this.#left();
  }

  /** Goes on after a call that waited was cancelled. */
  #left(): void {
    this.#update();
    // The job that is first now may not need readiness.
    if (this.#isWaiting) this.#serve();
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
  protected override readonly interest: number;
  readonly #action: Action;

  /** `action` and `syscall` are those of all its calls. */
  constructor(socket: PolledSocket, interest: number, action: string, syscall: string) {
    super(socket);
    this.interest = interest;
    this.#action = [action, syscall];
  }

  protected override actionOf(): Action {
    return this.#action;
  }

  protected override attempt(job: () => unknown): unknown {
    return job();
  }

  /** Makes a call that waits as long as it returns `undefined`. */
  run<R>(call: () => R | undefined, wait: Wait | undefined): Promise<R> {
    return this.call(call, wait);
  }

  /** Makes a call that does not wait. */
  tryRun<R>(call: () => R | undefined): R | undefined {
    return this.tryCall(call);
  }
}
