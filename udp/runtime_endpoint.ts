/** A UDP socket on Deno's own operations. */

import { formatAddress } from "../internal/address.ts";
import { sizeOf, viewOf } from "../internal/bytes.ts";
import { needsNative } from "../internal/engine.ts";
import { closedError, fromRuntimeError, interruptedError, notSupportedError } from "../internal/errors.ts";
import type { SocketOption } from "../internal/socket_option.ts";
import { again } from "../internal/stack.ts";
import { checkSameLength } from "../internal/validate.ts";
import { Waiter, WaiterQueue } from "../internal/waiters.ts";
import { type Pollable, type Watcher, Watchers } from "../mux/pollable.ts";
import { InterestBit, ReadyBit } from "../mux/selector.ts";
import { type DatagramBatch, memoryOf, placeInOrder } from "./datagram_batch.ts";
import type { Datagram, MulticastOptions, UdpDriver } from "./driver.ts";
import { NAME_SIZE } from "./peers.ts";
import { isOfPeer } from "./runtime_reasons.ts";
import { needsLocal, RuntimeSending } from "./runtime_sending.ts";
import {
  type Arrived,
  nodeInterface,
  openTransport,
  type Received,
  type RuntimeBindOptions,
  type RuntimeTransport,
  setNodeMembership,
} from "./runtime_transport.ts";

/**
 * The number that sets a multicast TTL of 0. node:dgram refuses numbers below 1, although the kernel and Node.js accept
 * 0. NaN is not below 1, and is converted to 0 on its way to setsockopt(2).
 */
const HOPS_0 = NaN;
/** Turns of the microtask queue from when a call that was put back is settled until who has made it is told. */
const PUT_BACK_TURNS = 4;

/** A call that waits; `take` does it if it can be done. */
interface Receive extends Waiter<unknown> {
  readonly take: () => unknown;
}

/** {@linkcode UdpDriver} over `Deno.listenDatagram` or `node:dgram`. */
export class RuntimeEndpoint implements UdpDriver, Pollable {
  readonly engine = "runtime";
  readonly fd = undefined;
  readonly inode = undefined;
  readonly isPaused = false;
  readonly peer = undefined;
  lastSender: Deno.NetAddr | undefined;
  readonly addr: Deno.NetAddr;
  readonly name: string;
  readonly #transport: RuntimeTransport;
  readonly #sending: RuntimeSending;
  readonly #waiting = new WaiterQueue<Receive>();
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
  readonly #afterNext = (): void => this.#changed();
  readonly #watchers = new Watchers();
  #failure: Error | undefined;
  #closed = false;
  #wantsRef = true;
  #isRef = true;

  private constructor(options: RuntimeBindOptions) {
    this.#transport = openTransport(options, (error) => this.#changed(error));
    this.addr = this.#transport.addr;
    this.name = `UDP endpoint ${formatAddress(this.addr)}`;
    this.#sending = new RuntimeSending(this.#transport, this.name, options.ipv6Only, {
      begun: () => {
        if (!this.#isRef) this.#updateRef();
      },
      done: (wasFull) => {
        if (wasFull) this.#watchers.changed();
        if (this.#transport.isReceiving) this.#updateRef();
      },
    });
    this.#updateRef();
  }

  static bind(options: RuntimeBindOptions): RuntimeEndpoint {
    try {
      return new RuntimeEndpoint(options);
    } catch (error) {
      if (error instanceof Deno.errors.NotSupported) throw error;
      throw fromRuntimeError(error, `bind UDP endpoint to ${formatAddress(options)}`, "bind");
    }
  }

  get pollable(): Pollable {
    return this;
  }

  get isOpen(): boolean {
    return !this.#closed;
  }

  watch(watcher: Watcher): () => void {
    return this.#watchers.add(watcher);
  }

  poll(interest: number): number {
    let ready = 0;
    if (interest & InterestBit.READABLE && !this.#isAwaited) {
      if (this.#try(() => this.#transport.peek()) !== undefined) ready |= ReadyBit.READABLE;
      if (this.#failure !== undefined) ready |= ReadyBit.READABLE;
    }
    // The socket's own: of a peer that cannot be reached only a connected one is told, and there is none here.
    if (this.#failure !== undefined) ready |= ReadyBit.ERROR;
    return interest & InterestBit.WRITABLE && this.#sending.hasRoom ? ready | ReadyBit.WRITABLE : ready;
  }

  recvFrom(p: Uint8Array, peek: boolean, signal: AbortSignal | undefined): Promise<Datagram> {
    const received = this.#begin(signal);
    if (received !== undefined && !peek) {
      this.#into = p;
      this.#intoLength = sizeOf(p);
      // A send that is done may have left it as it was.
      if (this.#isRef !== this.#wantsRef) this.#updateRef();
      return received.then(this.#onInto, this.#onNextFailure) as Promise<Datagram>;
    }
    const length = sizeOf(p);
    return this.#receive(
      () => {
        checkSameLength(p, length);
        return this.#take(p, peek);
      },
      received,
      signal,
    );
  }

  tryRecvFrom(p: Uint8Array, peek: boolean): Datagram | undefined {
    this.#checkOpen("receive on");
    return this.#try(() => this.#take(p, peek));
  }

  sendTo(
    p: Uint8Array,
    to: Deno.NetAddr,
    localAddress: string | undefined,
    signal: AbortSignal | undefined,
  ): Promise<number> {
    if (localAddress !== undefined && !this.#closed) return Promise.reject(needsLocal(`send from ${localAddress}`));
    return this.#sending.sendTo(p, to, signal);
  }

  trySendTo(p: Uint8Array, to: Deno.NetAddr, localAddress: string | undefined): number | undefined {
    if (localAddress !== undefined && !this.#closed) throw needsLocal(`send from ${localAddress}`);
    return this.#sending.trySendTo(p, to);
  }

  connect(): void {
    this.#checkOpen("connect");
    throw needsNative("connect a UDP endpoint");
  }

  disconnect(): void {
    this.#checkOpen("disconnect");
    throw needsNative("disconnect a UDP endpoint");
  }

  send(): Promise<number> {
    if (this.#closed) return Promise.reject(this.#closedError("send on"));
    return Promise.reject(needsNative("send without an address"));
  }

  recvBatch(batch: DatagramBatch, signal: AbortSignal | undefined): Promise<number> {
    return this.#receive(() => this.#takeBatch(batch), this.#begin(signal), signal);
  }

  tryRecvBatch(batch: DatagramBatch): number | undefined {
    this.#checkOpen("receive on");
    return this.#try(() => this.#takeBatch(batch));
  }

  sendBatch(batch: DatagramBatch, count: number, signal: AbortSignal | undefined): Promise<number> {
    return this.#sending.sendBatch(batch, count, signal);
  }

  trySendBatch(batch: DatagramBatch, start: number, count: number): number | undefined {
    return this.#sending.trySendBatch(batch, start, count);
  }

  setMembership(options: MulticastOptions, join: boolean): void {
    const { group, source } = options;
    if (source !== undefined) throw needsNative(`${join ? "join" : "leave"} a group for one source`);
    this.#set(`${join ? "join" : "leave"} ${group} with`, (node) => setNodeMembership(node, options, join));
  }

  setMulticastTtl(ttl: number): void {
    this.#set("set the multicast TTL of", (node) => {
      // For IPv6 node:dgram does nothing, and reports success; 1 is the kernel's default.
      if (!this.#isIPv6) node.setMulticastTTL(ttl === 0 ? HOPS_0 : ttl);
      else if (ttl !== 1) throw needsNative("set the multicast TTL of an IPv6 endpoint");
    });
  }

  setMulticastLoopback(on: boolean): void {
    this.#set("set multicast loopback of", (node) => node.setMulticastLoopback(on));
  }

  setMulticastInterface(name: string): void {
    this.#set(
      "set the multicast interface of",
      (node) => node.setMulticastInterface(nodeInterface(name, this.#isIPv6)),
    );
  }

  setBroadcast(on: boolean): void {
    // Deno.listenDatagram lets broadcasts out always.
    if (this.#transport.node === undefined && on) return this.#checkOpen("set SO_BROADCAST on");
    this.#set("set SO_BROADCAST on", (node) => {
      node.setBroadcast(on);
      this.#sending.mayBroadcast = on;
    });
  }

  setTtl(ttl: number): void {
    this.#set("set the TTL of", (node) => {
      // node:dgram sets that of IPv4 only.
      if (this.#isIPv6) throw needsNative("set the TTL of an IPv6 endpoint");
      node.setTTL(ttl);
    });
  }

  getOption(option: SocketOption): number {
    this.#checkOpen(`get ${option} of`);
    throw needsNative(`get ${option}`);
  }

  setOption(option: SocketOption): void {
    this.#checkOpen(`set ${option} on`);
    throw needsNative(`set ${option}`);
  }

  drops(): number {
    this.#checkOpen("count the drops of");
    return this.#transport.drops;
  }

  detach(): number {
    this.#checkOpen("detach");
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
    this.#sending.close();
    this.#transport.close();
    // In the order of the calls, and Deno wakes the next one.
    if (this.#next === undefined && this.#into === undefined) this.#interruptAll();
  }

  /** A call waits for what arrives. */
  get #isAwaited(): boolean {
    return this.#into !== undefined || this.#next !== undefined || this.#waiting.first !== undefined;
  }

  #receive<T>(
    take: () => T | undefined,
    received: Promise<Received> | undefined,
    signal: AbortSignal | undefined,
  ): Promise<T> {
    if (this.#closed) return Promise.reject(this.#closedError("receive on"));
    if (received !== undefined) {
      this.#next = take;
      this.#updateRef();
      return received.then(this.#onNext, this.#onNextFailure) as Promise<T>;
    }
    if (!this.#isAwaited) {
      try {
        const result = take();
        if (result !== undefined) {
          // To take a batch may begin the next receive, for which nobody waits.
          if (this.#transport.isReceiving) this.#updateRef();
          return Promise.resolve(result);
        }
      } catch (error) {
        return Promise.reject(error);
      }
    }
    const waiter = new Waiter<T>(signal, () => {
      this.#waiting.compact();
      this.#updateRef();
    });
    this.#waiting.push(Object.assign(waiter, { take }) as unknown as Receive);
    this.#updateRef();
    return waiter.promise;
  }

  /** Puts a call back that has lost its own receive, before all others: a promise for each receive would be a chain. */
  #receiveFirst(take: () => unknown): Promise<unknown> {
    const waiter = new Waiter<unknown>(undefined, () => {});
    this.#putBack = Object.assign(waiter, { take }) as unknown as Receive;
    this.#waiting.unshift(this.#putBack);
    this.#changed();
    return waiter.promise;
  }

  /** Begins a receive for one call alone, which cannot be cancelled: as a server's loop does all the time. */
  #begin(signal: AbortSignal | undefined): Promise<Received> | undefined {
    if (signal !== undefined || this.#closed || this.#isAwaited || this.#failure !== undefined) return undefined;
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
    if (this.#isAwaited) return undefined;
    const result = take();
    this.#updateRef();
    return result;
  }

  /** Something has arrived, or failed. */
  #changed(error?: unknown): void {
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
    this.#changed();
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

  #set(action: string, set: (node: NonNullable<RuntimeTransport["node"]>) => void): void {
    this.#checkOpen(action);
    const { node } = this.#transport;
    if (node === undefined) {
      throw notSupportedError(
        `${action} ${this.name} on Deno.listenDatagram`,
        "run without --unstable-net, or with --allow-ffi",
      );
    }
    try {
      set(node);
    } catch (error) {
      throw error instanceof Deno.errors.NotSupported
        ? error
        : fromRuntimeError(error, `${action} ${this.name}`, "setsockopt");
    }
  }

  get #isIPv6(): boolean {
    return this.addr.hostname.includes(":");
  }

  /** An endpoint that nobody waits for must not keep the process alive. */
  #updateRef(): void {
    if (this.#closed) return;
    const isNeeded = this.#sending.count > 0 || (this.#wantsRef && this.#isAwaited);
    const isRef = isNeeded || (this.#wantsRef && !this.#transport.isReceiving);
    if (isRef === this.#isRef) return;
    this.#isRef = isRef;
    this.#transport.ref(isRef);
  }

  #checkOpen(action: string): void {
    if (this.#closed) throw this.#closedError(action);
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
    return interruptedError(`receive on ${this.name}`, "endpoint");
  }

  #receiveError(error: unknown): Error {
    return fromRuntimeError(error, `receive on ${this.name}`, "recvfrom");
  }

  #closedError(action: string): Error {
    return closedError(`${action} ${this.name}`, "endpoint");
  }
}
