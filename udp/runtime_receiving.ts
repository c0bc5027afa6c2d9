/** The receiving side of a UDP socket on Deno's own operations. */

import { sizeOf, viewOf } from "../internal/bytes.ts";
import { CallQueue, PendingCall } from "../internal/call_queue.ts";
import { closedMeanwhileError, fromRuntimeError } from "../internal/errors.ts";
import { again } from "../internal/stack.ts";
import { checkSameLength } from "../internal/validate.ts";
import type { Wait } from "../internal/wait.ts";
import type { Watchers } from "../poll/pollable.ts";
import { type Readiness, readinessOf } from "../poll/readiness.ts";
import { InterestBit, ReadyBit } from "../poll/selector.ts";
import { type DatagramBatch, memoryOf, placeInOrder } from "./datagram_batch.ts";
import type { Datagram } from "./driver.ts";
import { NAME_SIZE } from "./peer_cache.ts";
import { isOfPeer } from "./runtime_reasons.ts";
import type { Arrived, Received, RuntimeTransport } from "./runtime_transport.ts";

/** Turns of the microtask queue from when a call that was put back is settled until who has made it is told. */
const PUT_BACK_TURNS = 4;

/** A call that waits; `take` does it if it can be done. */
interface Receive extends PendingCall<unknown> {
  readonly take: () => unknown;
}

/** Receives datagrams, one or many at a time, in the order of the calls. */
export class RuntimeReceiving {
  lastSender: Deno.NetAddr | undefined;
  readonly #name: string;
  readonly #transport: RuntimeTransport;
  readonly #watchers: Watchers;
  /** Decides anew whether the endpoint keeps the process alive. */
  readonly #updateRef: () => void;
  readonly #waiting = new CallQueue<Receive>();
  /** The last one that has lost a receive of its own. */
  #putBack: Receive | undefined;
  /** How the first call that waits takes its datagram, if it is not in the line but has a receive of its own. */
  #next: (() => unknown) | undefined;
  /** The same of a call that takes one datagram: the buffer, and its length. */
  #into: Uint8Array | undefined;
  #intoLength = 0;
  // Made once an endpoint, not once a datagram.
  // The call settles once these return, and the others are to settle after it.
  readonly #onInto = (received: Received): unknown => {
    const p = this.#into as Uint8Array;
    if (this.#closed || sizeOf(p) !== this.#intoLength) return this.#onNext(received);
    this.#into = undefined;
    const arrived = this.#transport.received?.(received) as Arrived;
    if (this.#waiting.first !== undefined || !this.#watchers.isEmpty) queueMicrotask(this.#afterNext);
    return this.#put(p, arrived);
  };
  readonly #onNext = (received: Received): unknown => {
    const take = this.#endNext();
    this.#transport.putBack?.(this.#transport.received?.(received) as Arrived);
    if (this.#closed) throw this.#interruptAllLater();
    try {
      return take();
    } finally {
      if (this.#waiting.first !== undefined || !this.#watchers.isEmpty) queueMicrotask(this.#afterNext);
      else if (this.#transport.isReceiving) this.#updateRef();
    }
  };
  readonly #onNextFailure = (error: unknown): unknown => {
    const take = this.#endNext();
    this.#transport.received?.(undefined);
    if (this.#closed) throw this.#interruptAllLater();
    if (isOfPeer(error)) return this.#receiveFirst(take);
    queueMicrotask(this.#afterNext);
    throw this.#receiveError(error);
  };
  readonly #afterNext = (): void => this.changed();
  #failure: Error | undefined;
  #closed = false;

  constructor(transport: RuntimeTransport, name: string, watchers: Watchers, updateRef: () => void) {
    this.#transport = transport;
    this.#name = name;
    this.#watchers = watchers;
    this.#updateRef = updateRef;
  }

  /** What is ready, as bits of `ReadyBit`. */
  poll(interest: number): number {
    let ready = 0;
    if (interest & InterestBit.READABLE && !this.isAwaited) {
      if (this.#try(() => this.#transport.peek()) !== undefined) ready |= ReadyBit.READABLE;
      if (this.#failure !== undefined) ready |= ReadyBit.READABLE;
    }
    // The socket's own: of a peer that cannot be reached only a connected one is told, and there is none here.
    return this.#failure === undefined ? ready : ready | ReadyBit.ERROR;
  }

  recvFrom(p: Uint8Array, peek: boolean, wait: Wait | undefined): Promise<Datagram> {
    const received = this.#begin(wait);
    if (received !== undefined && !peek) {
      this.#into = p;
      this.#intoLength = sizeOf(p);
      // A send that is done may have left it as it was.
      this.#updateRef();
      return received.then(this.#onInto, this.#onNextFailure) as Promise<Datagram>;
    }
    const length = sizeOf(p);
    return this.#receive(
      () => {
        checkSameLength(p, length);
        return this.#take(p, peek);
      },
      received,
      wait,
    );
  }

  tryRecvFrom(p: Uint8Array, peek: boolean): Datagram | undefined {
    return this.#try(() => this.#take(p, peek));
  }

  /** There is a datagram or a failure, and nobody waits for it. */
  get isKnownReady(): boolean {
    return !this.isAwaited && this.#isReady();
  }

  /** Waits for a datagram or a failure, and takes neither. */
  ready(wait: Wait | undefined): Promise<Readiness> {
    const found = () => readinessOf(ReadyBit.READABLE, InterestBit.READABLE);
    return this.#receive(() => this.#isReady() ? found() : undefined, undefined, wait);
  }

  #isReady(): boolean {
    return this.#failure !== undefined || this.#transport.peek() !== undefined;
  }

  recvBatch(batch: DatagramBatch, wait: Wait | undefined): Promise<number> {
    return this.#receive(() => this.#takeBatch(batch), this.#begin(wait), wait);
  }

  tryRecvBatch(batch: DatagramBatch): number | undefined {
    return this.#try(() => this.#takeBatch(batch));
  }

  /** Rejects the calls that wait; the transport is closed already. */
  close(): void {
    this.#closed = true;
    // In the order of the calls, and Deno wakes the next one.
    if (this.#next === undefined && this.#into === undefined) this.#interruptAll();
  }

  /** A call waits for what arrives. */
  get isAwaited(): boolean {
    return this.#into !== undefined || this.#next !== undefined || this.#waiting.first !== undefined;
  }

  #receive<T>(
    take: () => T | undefined,
    received: Promise<Received> | undefined,
    wait: Wait | undefined,
  ): Promise<T> {
    if (received !== undefined) {
      this.#next = take;
      this.#updateRef();
      return received.then(this.#onNext, this.#onNextFailure) as Promise<T>;
    }
    if (!this.isAwaited) {
      try {
        const result = take();
        if (result !== undefined) {
          // Reading a batch can begin the next receive, for which no call is pending.
          if (this.#transport.isReceiving) this.#updateRef();
          return Promise.resolve(result);
        }
      } catch (error) {
        return Promise.reject(error);
      }
    }
    const waiter = new PendingCall<T>(wait, () => `receive on ${this.#name}`, () => {
      this.#waiting.compact();
      this.#updateRef();
    });
    this.#waiting.push(Object.assign(waiter, { take }) as unknown as Receive);
    this.#updateRef();
    return waiter.promise;
  }

  /** Puts a call back that has lost its own receive, before all others: a promise for each receive would be a chain. */
  #receiveFirst(take: () => unknown): Promise<unknown> {
    const waiter = new PendingCall<unknown>(undefined, () => "", () => {});
    this.#putBack = Object.assign(waiter, { take }) as unknown as Receive;
    this.#waiting.unshift(this.#putBack);
    this.changed();
    return waiter.promise;
  }

  /** Begins a receive for one call alone, which cannot be cancelled: as a server's loop does all the time. */
  #begin(wait: Wait | undefined): Promise<Received> | undefined {
    if (wait !== undefined || this.#closed || this.isAwaited || this.#failure !== undefined) return undefined;
    return this.#transport.receive?.();
  }

  /** That receive is over; returns how its call takes what there is. */
  #endNext(): () => unknown {
    const [p, length, next] = [this.#into, this.#intoLength, this.#next];
    this.#into = this.#next = undefined;
    if (p === undefined) return next as () => unknown;
    return () => {
      checkSameLength(p, length);
      return this.#take(p, false);
    };
  }

  /** Takes without waiting; the receive that this starts is not to keep the process alive. */
  #try<T>(take: () => T | undefined): T | undefined {
    if (this.isAwaited) return undefined;
    const result = take();
    this.#updateRef();
    return result;
  }

  /** Something has arrived, or failed. */
  changed(error?: unknown): void {
    if (this.#closed) return;
    if (error !== undefined && !isOfPeer(error)) this.#failure ??= this.#receiveError(error);
    for (let call = this.#waiting.first; call !== undefined; call = this.#waiting.first) {
      try {
        const result = call.take();
        if (result === undefined) break;
        call.resolve(result);
      } catch (error) {
        call.reject(error);
      }
      if (call === this.#putBack) {
        this.#goOnLater();
        break;
      }
    }
    this.#updateRef();
    this.#watchers.changed();
  }

  /** Lets a call that was put back settle before those behind it. */
  async #goOnLater(): Promise<void> {
    this.#putBack = undefined;
    for (let i = 0; i < PUT_BACK_TURNS; i++) await undefined;
    this.changed();
  }

  #take(p: Uint8Array, peek: boolean): Datagram | undefined {
    this.#throwFailure();
    const arrived = peek ? this.#transport.peek() : this.#transport.take();
    return arrived === undefined ? undefined : this.#put(p, arrived);
  }

  #put(p: Uint8Array, { data, address }: Arrived): Datagram {
    const size = data.length;
    const n = Math.min(size, sizeOf(p));
    // An empty buffer may be of memory that is gone.
    const into = n === 0 && sizeOf(p) === 0 ? new Uint8Array(0) : viewOf(p, 0, n);
    if (n > 0) into.set(n < size ? data.subarray(0, n) : data);
    this.lastSender = address.port === 0 ? undefined : address;
    return { data: into, size, truncated: n < size, address };
  }

  #takeBatch(batch: DatagramBatch): number | undefined {
    this.#throwFailure();
    const memory = memoryOf(batch);
    let n = 0;
    for (; n < memory.capacity; n++) {
      const arrived = this.#transport.take();
      if (arrived === undefined) break;
      const { data, address } = arrived;
      memory.data.set(data.subarray(0, memory.datagramSize), n * memory.datagramSize);
      const sockaddr = memory.peers.encode(address.hostname, address.port)?.sockaddr;
      memory.names.set(sockaddr ?? [], n * NAME_SIZE);
      memory.nameLengths[n] = sockaddr?.length ?? 0;
      memory.sizes[n] = data.length;
      memory.info?.set(n, undefined);
    }
    if (n === 0) return undefined;
    if (memory.gro) placeInOrder(memory);
    return memory.length = n;
  }

  #throwFailure(): void {
    const failure = this.#failure;
    this.#failure = undefined;
    if (failure !== undefined) throw again(failure);
  }

  /** Wakes the line of a closed endpoint. */
  async #interruptAll(): Promise<void> {
    for (const call of this.#waiting.drain()) {
      call.reject(this.#interrupted());
      if (call === this.#putBack) { for (let i = 0; i < PUT_BACK_TURNS; i++) await undefined; }
    }
  }

  /** The same after the one that is told what this returns. */
  #interruptAllLater(): Error {
    queueMicrotask(() => this.#interruptAll());
    return this.#interrupted();
  }

  #interrupted(): Error {
    return closedMeanwhileError(`receive on ${this.#name}`, "endpoint", "recvfrom");
  }

  #receiveError(error: unknown): Error {
    return fromRuntimeError(error, `receive on ${this.#name}`, "recvfrom");
  }
}
