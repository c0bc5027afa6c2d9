/** The receiving side of a UDP socket on Deno's own operations. */

import { sizeOf, viewOf } from "../internal/bytes.ts";
import { CallQueue, PendingCall } from "../internal/call_queue.ts";
import { closedMeanwhileError, fromRuntimeError } from "../internal/errors.ts";
import { again, wouldOvertake } from "../internal/stack.ts";
import { checkSameLength } from "../internal/validate.ts";
import type { Wait } from "../internal/wait.ts";
import type { Watchers } from "../poll/pollable.ts";
import { type Readiness, readinessOf, readyAtOnce } from "../poll/readiness.ts";
import { InterestBit, ReadyBit } from "../poll/selector.ts";
import { type DatagramBatch, memoryOf, placeInOrder } from "./datagram_batch.ts";
import type { Datagram } from "./driver.ts";
import { NAME_SIZE } from "./peer_cache.ts";
import type { Arrived, RuntimeTransport } from "./runtime_transport.ts";

/** A call in the line. */
class Receive extends PendingCall<unknown> {
  /** Takes what the call asks for; returns `undefined` if nothing has arrived. */
  readonly attempt: () => unknown;

  constructor(attempt: () => unknown, wait: Wait | undefined, action: () => string, onCancel: () => void) {
    super(wait, action, onCancel);
    this.attempt = attempt;
  }
}

/**
 * Receives datagrams, one or many at a time. All calls stand in one line and are settled from its front, so that they
 * settle in the order in which they were made.
 *
 * The promise of the first call is that of the transport's receive if possible: a server's loop waits so, and a promise
 * of its own for each datagram would cost it some 5 percent.
 */
export class RuntimeReceiving {
  lastSender: Deno.NetAddr | undefined;
  readonly #name: string;
  readonly #transport: RuntimeTransport;
  readonly #watchers: Watchers;
  /** Decides anew whether the endpoint keeps the process alive. */
  readonly #updateRef: () => void;
  /** What the first call in the line attempts, if its promise is `#received`. */
  #first: (() => unknown) | undefined;
  /** The promise of that call, until the line goes on after it. */
  #received: Promise<unknown> | undefined;
  /** All other calls in the line. */
  readonly #waiting = new CallQueue<Receive>();
  readonly #describe = (): string => `receive on ${this.#name}`;
  readonly #onCancel = (): void => {
    this.#waiting.compact();
    this.#updateRef();
  };
  readonly #goOn = (): void => {
    this.#received = undefined;
    if (this.#closed) return this.#interruptAll();
    this.#serve();
    this.#watchers.changed();
  };
  /** Why a receive has failed, for the next call. */
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
    const length = sizeOf(p);
    return this.#receive(() => {
      checkSameLength(p, length);
      return this.#take(p, peek);
    }, wait);
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
    if (this.isKnownReady) return readyAtOnce(found());
    return this.#receive(() => this.#isReady() ? found() : undefined, wait, "wait for");
  }

  #isReady(): boolean {
    return this.#failure !== undefined || this.#transport.peek() !== undefined;
  }

  recvBatch(batch: DatagramBatch, wait: Wait | undefined): Promise<number> {
    return this.#receive(() => this.#takeBatch(batch), wait);
  }

  tryRecvBatch(batch: DatagramBatch): number | undefined {
    return this.#try(() => this.#takeBatch(batch));
  }

  /** Rejects the calls that wait; the transport is closed already, and ends its receive. */
  close(): void {
    this.#closed = true;
    this.#goOnAfterFirst();
  }

  /** A call waits for what arrives. */
  get isAwaited(): boolean {
    return this.#received !== undefined || this.#waiting.first !== undefined;
  }

  /** Something has arrived, or failed; returns or throws what the receive of the transport comes to. */
  changed(error?: unknown): unknown {
    const first = this.#first;
    this.#first = undefined;
    if (this.#closed) {
      if (first !== undefined) throw this.#interrupted();
      return undefined;
    }
    if (error !== undefined) this.#failure ??= fromRuntimeError(error, this.#describe(), "recvfrom");
    try {
      return first?.();
    } finally {
      this.#goOnAfterFirst();
    }
  }

  #receive<T>(attempt: () => T | undefined, wait: Wait | undefined, action = "receive on"): Promise<T> {
    const isFirst = !this.isAwaited;
    if (isFirst && wait === undefined && this.#failure === undefined && !wouldOvertake()) {
      const received = this.#transport.receive();
      if (received !== undefined) {
        this.#first = attempt;
        this.#received = received;
        this.#updateRef();
        return received as Promise<T>;
      }
    }
    const call = new Receive(attempt, wait, () => `${action} ${this.#name}`, this.#onCancel);
    this.#waiting.push(call);
    if (isFirst) this.#serve();
    return call.promise as Promise<T>;
  }

  /** Goes on with the line: if calls wait behind the first one, once that one is settled. */
  #goOnAfterFirst(): void {
    if (this.#received === undefined || this.#waiting.first === undefined) this.#goOn();
    else this.#received.then(this.#goOn, this.#goOn);
  }

  /** Settles the calls in the line, up to the first for which nothing has arrived. */
  #serve(): void {
    for (let call = this.#waiting.first; call !== undefined; call = this.#waiting.first) {
      try {
        const result = call.attempt();
        if (result === undefined) break;
        call.resolve(result);
      } catch (error) {
        call.reject(error);
      }
    }
    this.#updateRef();
  }

  /** Takes without waiting; the receive that this starts is not to keep the process alive. */
  #try<T>(take: () => T | undefined): T | undefined {
    if (this.isAwaited) return undefined;
    const result = take();
    this.#updateRef();
    return result;
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

  #interruptAll(): void {
    for (const call of this.#waiting.drain()) call.reject(this.#interrupted());
  }

  #interrupted(): Error {
    return closedMeanwhileError(this.#describe(), "endpoint", "recvfrom");
  }
}
