/** A UDP socket on Deno's own operations. */

import { formatAddress, type HostPort } from "../internal/address.ts";
import { needsNative } from "../internal/engine.ts";
import { closedError, fromRuntimeError, interruptedError, socketError, SyscallError } from "../internal/errors.ts";
import { encodeSockaddr } from "../internal/sockaddr.ts";
import type { SocketOption } from "../internal/socket_option.ts";
import { Waiter, WaiterQueue } from "../internal/waiters.ts";
import { type Pollable, type Watcher, Watchers } from "../mux/pollable.ts";
import { InterestBit, ReadyBit } from "../mux/selector.ts";
import { type DatagramBatch, memoryOf, NAME_SIZE, placeInOrder } from "./datagram_batch.ts";
import type { Datagram, MulticastOptions, UdpDriver } from "./driver.ts";
import { openTransport, type RuntimeBindOptions, type RuntimeTransport } from "./runtime_transport.ts";

/** Largest payload of a datagram over IPv4, in bytes (RFC 768). */
const LARGEST_PAYLOAD = 65_507;

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
  readonly addr: Deno.NetAddr;
  readonly name: string;
  readonly #transport: RuntimeTransport;
  readonly #waiting = new WaiterQueue<Receive>();
  readonly #watchers = new Watchers();
  /** Sends that are under way. */
  #sends = 0;
  #failure: Error | undefined;
  readonly #onSent = (n: number): number => {
    this.#sends--;
    if (this.#transport.isReceiving) this.#updateRef();
    return n;
  };
  #closed = false;
  #wantsRef = true;
  #isRef = true;

  private constructor(options: RuntimeBindOptions) {
    this.#transport = openTransport(options, (error) => this.#changed(error));
    this.addr = this.#transport.addr;
    this.name = `UDP endpoint ${formatAddress(this.addr)}`;
    this.#updateRef();
  }

  static bind(options: RuntimeBindOptions): RuntimeEndpoint {
    try {
      return new RuntimeEndpoint(options);
    } catch (error) {
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
    if (interest & InterestBit.READABLE && this.#waiting.first === undefined) {
      if (this.#transport.peek() !== undefined) ready |= ReadyBit.READABLE;
      if (this.#failure !== undefined) ready |= ReadyBit.READABLE | ReadyBit.ERROR;
    }
    return interest & InterestBit.WRITABLE ? ready | ReadyBit.WRITABLE : ready;
  }

  recvFrom(p: Uint8Array, peek: boolean, signal: AbortSignal | undefined): Promise<Datagram> {
    return this.#receive(() => this.#take(p, peek), signal);
  }

  tryRecvFrom(p: Uint8Array, peek: boolean): Datagram | undefined {
    this.#checkOpen("receive on");
    return this.#waiting.first === undefined ? this.#take(p, peek) : undefined;
  }

  sendTo(p: Uint8Array, to: HostPort, signal: AbortSignal | undefined): Promise<number> {
    if (this.#closed) return Promise.reject(this.#closedError("send on"));
    // Deno's own answer has no code, and node:dgram's is late.
    if (p.length > LARGEST_PAYLOAD) return Promise.reject(this.#tooLong(to));
    return signal === undefined ? this.#send(p, to) : this.#sendCopy(p.slice(), to, signal);
  }

  /** What Deno has begun cannot be taken back: it gets a copy. */
  async #sendCopy(p: Uint8Array, to: HostPort, signal: AbortSignal): Promise<number> {
    const { promise, reject } = Promise.withResolvers<never>();
    const abort = () => reject(signal.reason);
    signal.addEventListener("abort", abort);
    try {
      return await Promise.race([this.#send(p, to), promise]);
    } finally {
      signal.removeEventListener("abort", abort);
    }
  }

  trySendTo(p: Uint8Array, to: HostPort): number | undefined {
    this.#checkOpen("send on");
    if (p.length > LARGEST_PAYLOAD) throw this.#tooLong(to);
    this.#throwFailure();
    // A datagram may get lost anyway; what can be known is told by the next call.
    this.#send(p.slice(), to).catch((error) => this.#failure ??= error);
    return p.length;
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
    return this.#receive(() => this.#takeBatch(batch), signal);
  }

  tryRecvBatch(batch: DatagramBatch): number | undefined {
    this.#checkOpen("receive on");
    return this.#waiting.first === undefined ? this.#takeBatch(batch) : undefined;
  }

  async sendBatch(batch: DatagramBatch, count: number, signal: AbortSignal | undefined): Promise<number> {
    for (let i = 0; i < count; i++) await this.sendTo(batch.data(i), batch.address(i), signal);
    return count;
  }

  trySendBatch(batch: DatagramBatch, count: number): number | undefined {
    this.#checkOpen("send on");
    for (let i = 0; i < count; i++) this.trySendTo(batch.data(i), batch.address(i));
    return count;
  }

  setMembership({ group, source, interface: local }: MulticastOptions, join: boolean): void {
    const action = `${join ? "join" : "leave"} ${group} with`;
    if (source !== undefined) throw needsNative("join a group for one source");
    this.#set(action, (node) => join ? node.addMembership(group, local) : node.dropMembership(group, local));
  }

  setMulticastTtl(ttl: number): void {
    this.#set("set the multicast TTL of", (node) => node.setMulticastTTL(ttl));
  }

  setMulticastLoopback(on: boolean): void {
    this.#set("set multicast loopback of", (node) => node.setMulticastLoopback(on));
  }

  setMulticastInterface(name: string): void {
    this.#set("set the multicast interface of", (node) => node.setMulticastInterface(name));
  }

  setBroadcast(on: boolean): void {
    // Deno.listenDatagram lets broadcasts out always.
    if (this.#transport.node === undefined && on) return this.#checkOpen("set SO_BROADCAST on");
    this.#set("set SO_BROADCAST on", (node) => node.setBroadcast(on));
  }

  setTtl(ttl: number): void {
    this.#set("set the TTL of", (node) => node.setTTL(ttl));
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
    this.#transport.close();
    for (const call of this.#waiting.drain()) call.reject(interruptedError(`receive on ${this.name}`, "endpoint"));
  }

  #receive<T>(take: () => T | undefined, signal: AbortSignal | undefined): Promise<T> {
    if (this.#closed) return Promise.reject(this.#closedError("receive on"));
    if (this.#waiting.first === undefined) {
      try {
        const result = take();
        if (result !== undefined) return Promise.resolve(result);
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

  /** Something has arrived, or failed. */
  #changed(error?: unknown): void {
    if (this.#closed) return;
    // A peer's port that nobody listens on is no event for the others.
    if (error !== undefined) this.#failure ??= fromRuntimeError(error, `receive on ${this.name}`, "recvfrom");
    for (let call = this.#waiting.first; call !== undefined; call = this.#waiting.first) {
      try {
        const result = call.take();
        if (result === undefined) break;
        call.resolve(result);
      } catch (error) {
        call.reject(error);
      }
    }
    this.#updateRef();
    this.#watchers.changed();
  }

  #take(p: Uint8Array, peek: boolean): Datagram | undefined {
    this.#throwFailure();
    const arrived = peek ? this.#transport.peek() : this.#transport.take();
    if (arrived === undefined) return undefined;
    const { data, address } = arrived;
    const n = Math.min(data.length, p.length);
    p.set(n < data.length ? data.subarray(0, n) : data);
    return { data: n < p.length ? p.subarray(0, n) : p, size: data.length, truncated: n < data.length, address };
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
      const sockaddr = encodeSockaddr(address);
      memory.names.set(sockaddr ?? [], n * NAME_SIZE);
      memory.nameLengths[n] = sockaddr?.length ?? 0;
      memory.sizes[n] = data.length;
    }
    if (n === 0) return undefined;
    if (memory.gro) placeInOrder(memory);
    return memory.length = n;
  }

  #send(p: Uint8Array, to: HostPort): Promise<number> {
    this.#sends++;
    if (!this.#isRef) this.#updateRef();
    return this.#transport.send(p, to).then(this.#onSent, (error) => {
      this.#onSent(0);
      const action = this.#sending(to);
      throw this.#closed ? interruptedError(action, "endpoint") : fromRuntimeError(error, action, "sendto");
    });
  }

  #sending(to: HostPort): string {
    return `send on ${this.name} to ${formatAddress(to)}`;
  }

  #tooLong(to: HostPort): Error {
    return socketError(this.#sending(to), new SyscallError("sendto", "EMSGSIZE"));
  }

  #throwFailure(): void {
    const failure = this.#failure;
    this.#failure = undefined;
    if (failure !== undefined) throw failure;
  }

  #set(action: string, set: (node: NonNullable<RuntimeTransport["node"]>) => void): void {
    this.#checkOpen(action);
    const { node } = this.#transport;
    if (node === undefined) throw needsNative(`${action} an endpoint with --unstable-net`);
    try {
      set(node);
    } catch (error) {
      throw fromRuntimeError(error, `${action} ${this.name}`, "setsockopt");
    }
  }

  /** An endpoint that nobody waits for must not keep the process alive. */
  #updateRef(): void {
    if (this.#closed) return;
    const isNeeded = this.#sends > 0 || (this.#wantsRef && this.#waiting.first !== undefined);
    const isRef = isNeeded || (this.#wantsRef && !this.#transport.isReceiving);
    if (isRef === this.#isRef) return;
    this.#isRef = isRef;
    this.#transport.ref(isRef);
  }

  #checkOpen(action: string): void {
    if (this.#closed) throw this.#closedError(action);
  }

  #closedError(action: string): Error {
    return closedError(`${action} ${this.name}`, "endpoint");
  }
}
