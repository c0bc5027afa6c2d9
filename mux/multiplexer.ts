/** One interface to select, poll, epoll and the runtime. */

import { closedError, closedMeanwhileError, notSupportedError, socketError, SyscallError } from "../internal/errors.ts";
import { atCaller } from "../internal/stack.ts";
import { checkBoolean, checkDuration, checkInteger, checkOptions, quote } from "../internal/validate.ts";
import { checkWait, type WaitOptions } from "../internal/wait.ts";
import {
  copyOfInterest,
  type Interest,
  interestBits,
  lacking,
  type ReadyEvent,
  ReadyRecord,
  type Source,
} from "./interest.ts";
import { type Pollable, pollableOf } from "../poll/pollable.ts";
import { chooseBackend, makeSelector, usableBackends } from "./backends.ts";
import { RuntimeWakeup } from "./runtime.ts";
import { type Backend, InterestBit, type Selector } from "../poll/selector.ts";
import { WaitStrategy } from "../poll/wait_strategy.ts";
import {
  descriptorLink,
  type Identity,
  pollableOfIdentity,
  type Registration,
  Registrations,
} from "./registrations.ts";
import { shareWaker, type Waker } from "./waker.ts";
import { EventFd, type Wakeup } from "../poll/wakeup.ts";

/**
 * How a {@linkcode Multiplexer} works.
 *
 * @example poll, 16 events at a time
 * ```ts
 * import { Multiplexer, type MultiplexerOptions } from "@c10k/sockets/mux";
 *
 * const options: MultiplexerOptions = { backend: "poll", maxEvents: 16 };
 * using mux = new Multiplexer(options);
 * console.log(mux.backend);
 * ```
 */
export interface MultiplexerOptions {
  /**
   * What to learn of readiness from. `"auto"` is epoll where there is a native
   * engine, else the runtime.
   *
   * @default {"auto"}
   */
  backend?: "auto" | Backend;
  /**
   * How many events one wait returns at most, from 1 to 65536. When more
   * sources are ready, the next wait goes on with the others.
   *
   * @default {256}
   */
  maxEvents?: number;
  /**
   * Returns the same array from each wait, with one event for each registration that is written anew: valid until the
   * next wait, and no work for the garbage collector.
   *
   * @default {false}
   */
  reuseEvents?: boolean;
}

/**
 * What {@linkcode Multiplexer.registrations} lists.
 *
 * @example Close what is left
 * ```ts
 * import { Multiplexer, type MuxRegistration } from "@c10k/sockets/mux";
 * import { TcpListener } from "@c10k/sockets/tcp";
 *
 * using listener = TcpListener.bind({ hostname: "127.0.0.1", port: 0 });
 * using mux = new Multiplexer<string>();
 * mux.register(listener, { readable: true }, "clients");
 *
 * const all: MuxRegistration<string>[] = [...mux.registrations()];
 * console.log(all.length); // 1
 * ```
 */
export interface MuxRegistration<T = unknown> {
  /** What was registered. */
  readonly source: Source;
  /** What to be told of. */
  readonly interest: Interest;
  /** What was registered with it. */
  readonly data: T;
}

const SOURCE = "a socket of this library or an object with a descriptor, { fd }";
const DEFAULT_MAX_EVENTS = 256;
/** Longest single wait of `waitSync`, in milliseconds: a Worker can be terminated between two. */
const LONGEST_SYNC_WAIT = 1_000;

/**
 * Watches many sockets with one thread: select(2), poll(2), epoll(7), and on
 * the runtime engine Deno's own operations, behind one interface and with the
 * same answers.
 *
 * Register sources with what to be told of, wait, and do for each event what
 * does not block: `tryAccept`, `tryRead`, `tryWrite`, `tryRecvFrom`, `trySendTo`.
 *
 * | | epoll | poll | select | runtime |
 * |---|---|---|---|---|
 * | needs | Linux, `--allow-ffi` (or for libc's path) | the same | the same | nothing |
 * | sources | native sockets, any `{ fd }` but files | native sockets, any `{ fd }` | the same, descriptors below 1,024 | sockets of the runtime engine |
 * | cost of a wait grows with | what is ready | what is registered | the highest descriptor | what is ready |
 * | `readable`, `writable` | yes | yes | yes | yes |
 * | `readClosed` with `readable` | yes, not if `exclusive` | yes | yes | once the data before it is read |
 * | `error` | always | always | always | always, once a read or write has met it |
 * | `writeClosed` | always | always | always | always, once a read has met it |
 * | `priority` | yes | yes | yes | – |
 * | `trigger: "edge"` | yes | – | – | – |
 * | `oneshot` | yes | yes | yes | yes |
 * | `exclusive` | yes | – | – | – |
 * | `waitSync` | yes | yes | yes | – |
 * | `waker().fd` | yes | yes | yes | – |
 *
 * What a backend lacks throws `Deno.errors.NotSupported`.
 *
 * Errors and the end of both sides are reported whatever is asked for, also of a source that is paused
 * (`modify(source, {})`). The runtime tells of them only by a read, so its backend reads ahead: up to 16 KiB that
 * nobody has asked for. A paused source with more than that unread is not known to be reset until some of it is read.
 *
 * - **Level-triggered** (the default): an event comes as long as it is so; what
 *   you leave comes again. **Edge-triggered**: an event comes once for each
 *   arrival. Then read (or write, or accept) until the call returns
 *   `undefined`, or what is left stays until more arrives.
 * - **Spurious events** are possible: an event is a hint, and `tryRead` may
 *   return `undefined` all the same.
 * - When a source is closed or unregistered, the last event of it is emptied:
 *   all its flags turn false. When it is modified, the flags do that are not
 *   asked for any more. So a loop over events can close any source. Each wait
 *   returns new events, unless `reuseEvents` is set.
 * - A socket of this library unregisters itself when it is closed or
 *   detached. Unregister any other `{ fd }` before you close it, or epoll goes
 *   on reporting it as long as a duplicate of it is open. Plain descriptors are
 *   told apart by number: `{ fd: 0 }` is the same source as another `{ fd: 0 }`.
 * - A listener that is paused is not told of until it is resumed.
 * - A wait goes on although nothing is registered (any more), and keeps the
 *   process alive. One wait at a time; up to 16 multiplexers of a thread may
 *   wait without cost, those beyond look every 10 ms.
 * - While a wait is under way on poll, select or the runtime, a socket that is
 *   closed may hold its port for some microseconds more.
 * - A waiting call and `try…` can be mixed on one socket, but the waiting call
 *   gets what arrives first.
 *
 * Requires no permission on the runtime backend, `--allow-ffi` on the others.
 *
 * @example An echo server in one thread
 * ```ts
 * import { Multiplexer } from "@c10k/sockets/mux";
 * import { TcpConn, TcpListener } from "@c10k/sockets/tcp";
 *
 * using listener = TcpListener.bind({ hostname: "127.0.0.1", port: 0 });
 * using client = await TcpConn.connect({ port: listener.addr.port });
 * await client.writeAll(new TextEncoder().encode("hello"));
 *
 * using mux = new Multiplexer<TcpConn | undefined>();
 * mux.register(listener, { readable: true });
 * const p = new Uint8Array(16 * 1024);
 * let served = false;
 * while (!served) {
 *   for (const { data } of await mux.wait()) {
 *     const conn = data ?? listener.tryAccept();
 *     try {
 *       if (data === undefined) {
 *         if (conn !== undefined) mux.register(conn, { readable: true }, conn);
 *         continue;
 *       }
 *       const n = data.tryRead(p);
 *       if (typeof n === "number") data.tryWrite(p.subarray(0, n)); // examples/mux_echo.ts keeps what did not fit
 *       if (n !== undefined) served = true;
 *       if (n === null) data.close();
 *     } catch {
 *       conn?.close(); // its client has reset it: the others go on
 *     }
 *   }
 * }
 * for (const { data: conn } of mux.registrations()) conn?.close();
 * ```
 */
export class Multiplexer<T = unknown> {
  readonly #selector: Selector;
  readonly #strategy: WaitStrategy;
  readonly #wakeup: Wakeup;
  readonly #waker: Waker;
  /** The number that the wake-up is registered as. */
  readonly #wakeupFd: number;
  readonly #registrations: Registrations<T>;
  /** What the last wait returned. */
  #events: ReadyRecord<T>[] = [];
  /** A wait is under way. */
  #busy = false;
  #woken = false;
  /** Signals that only end a wait elsewhere, for this object to go on. */
  #interrupts = 0;
  #closed = false;

  /**
   * Makes a multiplexer: on epoll and select epoll_create1(2), and eventfd(2)
   * on all backends but the runtime.
   *
   * @param options The backend, and how many events a wait returns.
   * @throws {TypeError} If there is no such backend.
   * @throws {RangeError} If `maxEvents` is out of range, or on select one of its own two descriptors is 1,024 or more.
   * @throws {Deno.errors.NotSupported} If the backend cannot be used here.
   * @throws {Error} If no descriptor is left (EMFILE, ENFILE).
   */
  constructor(options: MultiplexerOptions = {}) {
    checkOptions(options);
    const { backend = "auto", maxEvents = DEFAULT_MAX_EVENTS, reuseEvents = false } = options;
    checkInteger(maxEvents, "maxEvents", 1, 65536);
    this.#registrations = new Registrations(checkBoolean(reuseEvents, "reuseEvents"));
    const chosen = chooseBackend(backend);
    let wakeup: Wakeup | undefined;
    let selector: Selector | undefined;
    try {
      wakeup = this.#wakeup = chosen === "runtime" ? new RuntimeWakeup() : new EventFd();
      this.#wakeupFd = chosen === "runtime" ? 0 : wakeup.fd;
      selector = this.#selector = makeSelector(chosen, maxEvents);
      const pollable = wakeup instanceof RuntimeWakeup ? wakeup : undefined;
      selector.register(this.#wakeupFd, this.#registrations.nextGeneration(), InterestBit.READABLE, pollable);
    } catch (error) {
      selector?.close();
      wakeup?.close();
      if (error instanceof SyscallError) throw socketError("make a multiplexer", error);
      throw error;
    }
    this.#strategy = new WaitStrategy(selector, () => !this.#closed);
    this.#waker = shareWaker(wakeup);
  }

  /**
   * Lists the backends that can be used here and now, the best one first.
   *
   * Requires no permission, and asks for none.
   *
   * @example The best one first
   * ```ts
   * import { Multiplexer } from "@c10k/sockets/mux";
   *
   * console.log(Multiplexer.backends()); // epoll, poll, select, runtime
   * ```
   */
  static backends(): Backend[] {
    return usableBackends();
  }

  /** What it learns of readiness from. */
  get backend(): Backend {
    return this.#selector.backend;
  }

  /** How many sources are registered. */
  get size(): number {
    return this.#registrations.size;
  }

  /**
   * Begins to watch a source: epoll_ctl(2) with `EPOLL_CTL_ADD`.
   *
   * @param source A socket of this library, or anything with a descriptor.
   * @param interest What to be told of.
   * @param data What its events carry, `undefined` if left out.
   * @throws {TypeError} If an argument has the wrong type.
   * @throws {RangeError} If select has no room for the descriptor.
   * @throws {Deno.errors.AlreadyExists} If the source is registered.
   * @throws {Deno.errors.BadResource} If the source or the multiplexer is closed.
   * @throws {Deno.errors.PermissionDenied} If epoll cannot watch it (a file).
   * @throws {Deno.errors.NotSupported} If the backend lacks an interest, or cannot watch sockets of that engine.
   *
   * @example A listener
   * ```ts
   * import { Multiplexer } from "@c10k/sockets/mux";
   * import { TcpListener } from "@c10k/sockets/tcp";
   *
   * using listener = TcpListener.bind({ hostname: "127.0.0.1", port: 0 });
   * using mux = new Multiplexer<string>();
   * mux.register(listener, { readable: true }, "clients");
   *
   * console.log(mux.size); // 1
   * ```
   */
  register(source: Source, interest: Interest, data?: T): void {
    this.#checkOpen("register with", "epoll_ctl");
    const identity = this.#identify(source, "register");
    const { name } = identity;
    const wanted = copyOfInterest(interest);
    const bits = this.#bitsOf(wanted);
    const link = identity.kind === "descriptor" ? descriptorLink(identity.fd) : undefined;
    const registrations = this.#registrations;
    const existing = identity.kind === "runtime" ? registrations.of(identity.pollable) : registrations.at(identity.fd);
    if (existing !== undefined) {
      // A plain descriptor may have been closed without being unregistered, and its number be another's by now.
      const isStale = existing.source !== source && existing.link !== undefined &&
        existing.link !== descriptorLink(existing.number);
      if (!isStale) throw this.#failed(`register ${name} with`, "EEXIST");
      this.#forget(existing);
    }
    const number = registrations.numberFor(identity);
    const generation = registrations.nextGeneration();
    try {
      const pollable = identity.kind === "runtime" ? identity.pollable : undefined;
      this.#selector.register(number, generation, bitsFor(identity, bits), pollable);
    } catch (error) {
      registrations.giveBack(number, identity);
      throw this.#refused(`register ${name} with`, error);
    }
    const registration: Registration<T> = {
      number,
      source,
      identity,
      record: new ReadyRecord(source, data as T),
      link,
      isDisarmed: false,
      interest: wanted,
      stop: () => {},
    };
    registrations.add(registration, generation, bits);
    const pollable = pollableOfIdentity(identity);
    if (pollable !== undefined) {
      registration.stop = pollable.watch({
        changed: () => this.#applyPause(registration),
        closing: () => this.#forget(registration),
      });
    }
    this.#interruptUnlessLive();
  }

  /**
   * Changes what to be told of, and rearms a `oneshot`: epoll_ctl(2) with
   * `EPOLL_CTL_MOD`.
   *
   * @param source What was registered.
   * @param interest What to be told of from now on.
   * @param data What its events carry from now on, if given.
   * @throws {Deno.errors.NotFound} If the source is not registered.
   * @throws {Deno.errors.BadResource} If the source or the multiplexer is closed.
   * @throws {Deno.errors.NotSupported} If the backend lacks an interest.
   *
   * @example Look away for a while
   * ```ts
   * import { Multiplexer } from "@c10k/sockets/mux";
   * import { TcpListener } from "@c10k/sockets/tcp";
   *
   * using listener = TcpListener.bind({ hostname: "127.0.0.1", port: 0 });
   * using mux = new Multiplexer<string>();
   * mux.register(listener, { readable: true }, "clients");
   *
   * mux.modify(listener, {}); // errors alone
   * mux.modify(listener, { readable: true });
   * ```
   */
  modify(source: Source, interest: Interest, data?: T): void {
    this.#checkOpen("modify in", "epoll_ctl");
    const identity = this.#identify(source, "modify");
    const wanted = copyOfInterest(interest);
    const bits = this.#bitsOf(wanted);
    const registration = this.#find(
      pollableOfIdentity(identity),
      identity.kind === "runtime" ? undefined : identity.fd,
    );
    if (registration === undefined) throw this.#failed(`modify ${identity.name} in`, "ENOENT");
    try {
      this.#change(registration, bits);
    } catch (error) {
      throw this.#refused(`modify ${identity.name} in`, error);
    }
    registration.isDisarmed = false;
    this.#registrations.setBits(registration.number, bits);
    registration.interest = wanted;
    if (data !== undefined) registration.record.data = data;
    registration.record.mask(bits);
    this.#interruptUnlessLive();
  }

  /**
   * Stops watching a source: epoll_ctl(2) with `EPOLL_CTL_DEL`. For a socket
   * that has been closed, which is unregistered already, it does nothing.
   *
   * @param source What was registered.
   * @throws {Deno.errors.NotFound} If the source is not registered.
   * @throws {Deno.errors.BadResource} If the multiplexer is closed.
   *
   * @example The source stays open
   * ```ts
   * import { Multiplexer } from "@c10k/sockets/mux";
   * import { TcpListener } from "@c10k/sockets/tcp";
   *
   * using listener = TcpListener.bind({ hostname: "127.0.0.1", port: 0 });
   * using mux = new Multiplexer<string>();
   * mux.register(listener, { readable: true }, "clients");
   *
   * mux.unregister(listener);
   * console.log(mux.size, listener.addr.port);
   * ```
   */
  unregister(source: Source): void {
    this.#checkOpen("unregister from", "epoll_ctl");
    const pollable = pollableIn(source);
    if (pollable?.isOpen === false) return;
    const { fd } = source;
    const registration = this.#find(pollable, fd);
    if (registration === undefined) {
      throw this.#failed(`unregister ${pollable?.name ?? `descriptor ${fd}`} from`, "ENOENT");
    }
    this.#forget(registration);
  }

  /**
   * Tells whether a source is registered.
   *
   * @param source What may be registered.
   *
   * @example Register once
   * ```ts
   * import { Multiplexer } from "@c10k/sockets/mux";
   * import { TcpListener } from "@c10k/sockets/tcp";
   *
   * using listener = TcpListener.bind({ hostname: "127.0.0.1", port: 0 });
   * using mux = new Multiplexer<string>();
   * mux.register(listener, { readable: true }, "clients");
   *
   * if (!mux.has(listener)) mux.register(listener, { readable: true }, "clients");
   * ```
   */
  has(source: Source): boolean {
    return this.#find(pollableIn(source), source.fd) !== undefined;
  }

  /**
   * Lists what is registered.
   *
   * @example What is watched, and for what
   * ```ts
   * import { Multiplexer } from "@c10k/sockets/mux";
   * import { TcpListener } from "@c10k/sockets/tcp";
   *
   * using listener = TcpListener.bind({ hostname: "127.0.0.1", port: 0 });
   * using mux = new Multiplexer<string>();
   * mux.register(listener, { readable: true }, "clients");
   *
   * for (const { interest, data } of mux.registrations()) console.log(data, interest.readable); // clients true
   * ```
   */
  *registrations(): IterableIterator<MuxRegistration<T>> {
    for (const { source, interest, record } of this.#registrations) {
      yield { source, interest, data: record.data };
    }
  }

  /**
   * Waits until something is ready, and lets the rest of the program go on
   * meanwhile: epoll_wait(2), poll(2), select(2).
   *
   * @param options For how long to wait; once a `timeout` is over nothing is thrown, and 0 only looks.
   * @returns The events; none if the time is over or somebody called {@linkcode Multiplexer.wake}.
   * @throws {Deno.errors.BadResource} If the multiplexer is closed, already or meanwhile.
   * @throws {Deno.errors.Busy} If another wait is under way.
   *
   * @example Events of 10 ms
   * ```ts
   * import { Multiplexer } from "@c10k/sockets/mux";
   * import { TcpListener } from "@c10k/sockets/tcp";
   *
   * using listener = TcpListener.bind({ hostname: "127.0.0.1", port: 0 });
   * using mux = new Multiplexer<string>();
   * mux.register(listener, { readable: true }, "clients");
   *
   * for (const { data } of await mux.wait({ timeout: 10 })) console.log(data);
   * ```
   */
  async wait(options?: WaitOptions): Promise<readonly ReadyEvent<T>[]> {
    const { signal, timeout = Infinity } = checkWait(options) ?? {};
    const end = performance.now() + timeout;
    this.#begin();
    try {
      const strategy = this.#strategy;
      if (strategy.isTurnDue) {
        await strategy.turn();
        if (this.#closed) throw this.#interrupted();
        signal?.throwIfAborted();
      }
      if (timeout === 0 || !strategy.isHot) {
        if (this.#look() || timeout === 0) return this.#events;
      }
      return await this.#waitLonger(end, signal);
    } catch (error) {
      throw waitError(error);
    } finally {
      this.#end();
    }
  }

  /**
   * Waits and blocks the thread, as in C: nothing else runs meanwhile, so this
   * is for a Worker that has nothing else to do.
   *
   * @param timeout Milliseconds after which it returns although nothing is ready; 0 only looks, by default there is no limit.
   * @returns The events.
   * @throws {Deno.errors.NotSupported} On the runtime backend.
   * @throws {Deno.errors.BadResource} If the multiplexer is closed.
   * @throws {Deno.errors.Busy} If another wait is under way.
   *
   * @example Only look
   * ```ts
   * import { Multiplexer } from "@c10k/sockets/mux";
   * import { TcpListener } from "@c10k/sockets/tcp";
   *
   * using listener = TcpListener.bind({ hostname: "127.0.0.1", port: 0 });
   * using mux = new Multiplexer<string>({ backend: "epoll" });
   * mux.register(listener, { readable: true }, "clients");
   *
   * console.log(mux.waitSync(0).length); // 0
   * ```
   */
  waitSync(timeout: number = Infinity): readonly ReadyEvent<T>[] {
    checkDuration(timeout, "timeout");
    if (this.#selector.finestWait === Infinity) {
      throw notSupportedError("block the thread on the runtime backend", "use wait, or run with --allow-ffi");
    }
    this.#begin();
    try {
      if (timeout === 0) {
        this.#look();
        return this.#events;
      }
      const end = performance.now() + timeout;
      // A wait that returns early (EINTR) is not over.
      for (let left = timeout; left > 0; left = end - performance.now()) {
        if (this.#collect(this.#selector.select(Math.min(left, LONGEST_SYNC_WAIT)))) break;
      }
      return this.#events;
    } catch (error) {
      throw waitError(error);
    } finally {
      this.#end();
    }
  }

  /**
   * Ends the wait that is under way, or else the next one, with no event
   * unless there is one anyway. Several calls before a wait end one.
   *
   * @throws {Deno.errors.BadResource} If the multiplexer is closed.
   *
   * @example End a wait from elsewhere in the program
   * ```ts
   * import { Multiplexer } from "@c10k/sockets/mux";
   * import { TcpListener } from "@c10k/sockets/tcp";
   *
   * using listener = TcpListener.bind({ hostname: "127.0.0.1", port: 0 });
   * using mux = new Multiplexer<string>();
   * mux.register(listener, { readable: true }, "clients");
   *
   * const waiting = mux.wait();
   * mux.wake();
   * console.log((await waiting).length); // 0
   * ```
   */
  wake(): void {
    this.#checkOpen("wake", "write");
    this.#wakeup.signal();
  }

  /**
   * Returns what wakes this multiplexer from elsewhere, always the same one.
   *
   * @throws {Deno.errors.BadResource} If the multiplexer is closed.
   *
   * @example A number for another thread
   * ```ts
   * import { Multiplexer } from "@c10k/sockets/mux";
   * import { TcpListener } from "@c10k/sockets/tcp";
   *
   * using listener = TcpListener.bind({ hostname: "127.0.0.1", port: 0 });
   * using mux = new Multiplexer<string>();
   * mux.register(listener, { readable: true }, "clients");
   *
   * console.log(mux.waker().fd); // undefined on the runtime backend
   * ```
   */
  waker(): Waker {
    this.#checkOpen("wake", "write");
    return this.#waker;
  }

  /**
   * Stops watching and waiting; a wait that is under way is woken with
   * `Deno.errors.BadResource`. The sources stay open. Calling it again does nothing.
   */
  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    this.#registrations.clear();
    if (!this.#busy) return this.#dispose();
    // The other thread, or the turn that the wait gives, comes back to it; #end() closes the descriptors.
    this.#interrupt();
    this.#strategy.awaitReturn();
  }

  /** Closes the multiplexer, at the end of a `using` block. */
  [Symbol.dispose](): void {
    this.close();
  }

  /** Waits again and again, until the multiplexer is closed. */
  async *[Symbol.asyncIterator](): AsyncIterableIterator<readonly ReadyEvent<T>[]> {
    while (!this.#closed) {
      let events: readonly ReadyEvent<T>[];
      try {
        events = await this.wait();
      } catch (error) {
        if (this.#closed) return;
        throw error;
      }
      yield events;
    }
  }

  /** What `console.log` shows. */
  [Symbol.for("Deno.customInspect")](inspect: typeof Deno.inspect, options: Deno.InspectOptions): string {
    return `Multiplexer ${inspect({ backend: this.backend, size: this.size }, options)}`;
  }

  /** Waits on this thread while that is promising, then elsewhere. */
  async #waitLonger(end: number, signal: AbortSignal | undefined): Promise<readonly ReadyEvent<T>[]> {
    const abort = () => this.#interrupt();
    signal?.addEventListener("abort", abort);
    try {
      while (true) {
        const left = end - performance.now();
        if (left <= 0) return this.#events;
        const here = this.#strategy.isHot;
        const n = here ? this.#strategy.here(left) : await this.#strategy.elsewhere(left);
        if (this.#closed) throw this.#interrupted();
        // What was found is told rather than lost, even if the signal came first.
        if (this.#collect(n)) return this.#events;
        if (here) await this.#strategy.turn();
        if (this.#closed) throw this.#interrupted();
        signal?.throwIfAborted();
      }
    } finally {
      signal?.removeEventListener("abort", abort);
    }
  }

  /** Looks without waiting; returns whether the wait is over. */
  #look(): boolean {
    const n = this.#selector.select(0);
    if (this.#collect(n)) return true;
    // An interrupt that nobody needs any more may have had the only place.
    return n > 0 && this.#collect(this.#selector.select(0));
  }

  /** Takes over what a wait has found; returns whether the wait is over. */
  #collect(count: number): boolean {
    const selector = this.#selector;
    const registrations = this.#registrations;
    const events = this.#events;
    let length = 0;
    for (let i = 0; i < count; i++) {
      const fd = selector.fd(i);
      if (fd === this.#wakeupFd) {
        this.#drain();
        continue;
      }
      const record = registrations.write(fd, selector.generation(i), selector.ready(i));
      if (record !== undefined) events[length++] = record;
    }
    const woken = this.#woken;
    this.#woken = false;
    return woken || length > 0;
  }

  #drain(): void {
    if (this.#wakeup.drain() > this.#interrupts) this.#woken = true;
    this.#interrupts = 0;
  }

  #begin(): void {
    this.#checkOpen("wait on", "epoll_wait");
    if (this.#busy) throw atCaller(new Deno.errors.Busy("Cannot wait on the multiplexer: another wait is under way"));
    this.#busy = true;
    if (this.#events.length === 0) return;
    if (this.#registrations.reusesEvents) this.#events.length = 0;
    else this.#events = [];
  }

  #end(): void {
    this.#busy = false;
    if (this.#closed) this.#dispose();
  }

  #dispose(): void {
    this.#selector.close();
    this.#wakeup.close();
  }

  /** Ends a wait elsewhere, for this object to look around. */
  #interrupt(): void {
    this.#interrupts++;
    this.#wakeup.signal();
  }

  /** A listener was paused or resumed. */
  #applyPause(registration: Registration<T>): void {
    if (registration.isDisarmed || this.backend === "runtime") return;
    this.#change(registration, this.#registrations.bitsAt(registration.number));
    this.#interruptUnlessLive();
  }

  #change({ number, identity }: Registration<T>, bits: number): void {
    this.#selector.modify(number, this.#registrations.generationAt(number), bitsFor(identity, bits));
  }

  #interruptUnlessLive(): void {
    if (!this.#selector.live && this.#strategy.isElsewhere) this.#interrupt();
  }

  #forget(registration: Registration<T>): void {
    this.#selector.unregister(registration.number);
    this.#registrations.remove(registration);
    this.#interruptUnlessLive();
  }

  /** Says what a source is, and refuses what this backend cannot watch. */
  #identify(source: Source, action: string): Identity {
    const pollable = pollableIn(source);
    if (pollable === undefined) {
      const { fd: number } = source;
      if (number === undefined) throw atCaller(new TypeError(`source must be ${SOURCE}, received ${quote(source)}`));
      const fd = checkInteger(number, "fd", 0, 2 ** 31 - 1);
      const name = `descriptor ${fd}`;
      if (this.backend === "runtime") {
        throw notSupportedError(`${action} ${name} on the runtime backend`, "use epoll, poll or select");
      }
      return { kind: "descriptor", fd, name };
    }
    const { name, engine } = pollable;
    if (!pollable.isOpen) {
      const preposition = action === "register" ? "with" : "in";
      throw closedError(`${action} ${name} ${preposition} the multiplexer`, "source", "epoll_ctl");
    }
    if ((engine === "runtime") !== (this.backend === "runtime")) {
      const backend = engine === "runtime" ? '"runtime"' : '"epoll", "poll" or "select"';
      throw notSupportedError(
        `${action} ${name} of the ${engine} engine on backend "${this.backend}"`,
        `make the multiplexer with backend ${backend}, or the socket with engine "${
          engine === "runtime" ? "native" : "runtime"
        }"`,
      );
    }
    return pollable.engine === "runtime"
      ? { kind: "runtime", pollable, name }
      : { kind: "native", pollable, fd: pollable.fd, name };
  }

  #find(pollable: Pollable | undefined, fd: number | undefined): Registration<T> | undefined {
    if (pollable !== undefined) return this.#registrations.of(pollable);
    // A plain { fd } stands for the descriptor, whichever object it was registered by.
    return typeof fd !== "number" || this.backend === "runtime" ? undefined : this.#registrations.at(fd);
  }

  #bitsOf(interest: Interest): number {
    const bits = interestBits(interest);
    const missing = lacking(bits, this.#selector.supports);
    if (missing.length === 0) return bits;
    const others = missing.length === 1 && missing[0] === "priority" ? '"epoll", "poll" or "select"' : '"epoll"';
    throw notSupportedError(
      `watch with ${missing.join(" and ")} on backend "${this.backend}"`,
      `use backend ${others}`,
    );
  }

  /** Returns the error for a registration that the kernel refuses. */
  #refused(action: string, error: unknown): unknown {
    if (!(error instanceof SyscallError)) return error;
    // epoll_ctl(2), EPERM.
    const detail = error.code === "EPERM" ? "epoll cannot watch a file, poll and select can" : undefined;
    return socketError(`${action} the multiplexer`, error, detail);
  }

  #failed(action: string, code: "EEXIST" | "ENOENT"): Error {
    const detail = code === "EEXIST" ? "it is registered already" : "it is not registered";
    return socketError(`${action} the multiplexer`, new SyscallError("epoll_ctl", code), detail);
  }

  #checkOpen(action: string, syscall: string): void {
    if (this.#closed) throw closedError(`${action} the multiplexer`, "multiplexer", syscall);
  }

  #interrupted(): Error {
    return closedMeanwhileError("wait on the multiplexer", "multiplexer", "epoll_wait");
  }
}

/** The kernel refuses to wait: memory is short, or somebody has closed a descriptor that is the multiplexer's own. */
function waitError(error: unknown): unknown {
  return error instanceof SyscallError ? socketError("wait on the multiplexer", error) : error;
}

/** What to ask a backend for: a listener that is paused accepts nothing. One of the runtime engine knows that itself. */
function bitsFor(identity: Identity, bits: number): number {
  return identity.kind === "native" && identity.pollable.isPaused ? bits & ~InterestBit.READABLE : bits;
}

/** What a source of this library is behind its class; `undefined` for a plain descriptor. */
function pollableIn(source: unknown): Pollable | undefined {
  if (typeof source !== "object" || source === null) {
    throw atCaller(new TypeError(`source must be ${SOURCE}, received ${quote(source)}`));
  }
  return pollableOf(source);
}
