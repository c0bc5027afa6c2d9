/** A UDP socket on Deno's own operations. */

import { formatAddress } from "../internal/address.ts";

import { needsNative } from "../internal/engine.ts";
import { closedError, fromRuntimeError, notSupportedError } from "../internal/errors.ts";
import type { SocketOption } from "../internal/socket_option.ts";

import type { Wait } from "../internal/wait.ts";
import { type RuntimePollable, type Watcher, Watchers } from "../poll/pollable.ts";
import { type Readiness, whenReady } from "../poll/readiness.ts";
import { InterestBit, ReadyBit } from "../poll/selector.ts";
import type { DatagramBatch } from "./datagram_batch.ts";
import type { Datagram, MulticastOptions, UdpDriver } from "./driver.ts";

import { RuntimeReceiving } from "./runtime_receiving.ts";
import { needsLocal, RuntimeSending } from "./runtime_sending.ts";
import {
  nodeInterface,
  openTransport,
  type RuntimeBindOptions,
  type RuntimeTransport,
  setNodeMembership,
} from "./runtime_transport.ts";

/**
 * The number that sets a multicast TTL of 0. node:dgram refuses numbers below 1, although the kernel and Node.js accept
 * 0. NaN is not below 1, and is converted to 0 on its way to setsockopt(2).
 */
const HOPS_0 = NaN;
/** {@linkcode UdpDriver} over `Deno.listenDatagram` or `node:dgram`. */
export class RuntimeEndpoint implements UdpDriver, RuntimePollable {
  readonly engine = "runtime";
  readonly fd = undefined;
  readonly inode = undefined;
  readonly isPaused = false;
  readonly peer = undefined;
  readonly addr: Deno.NetAddr;
  readonly name: string;
  readonly #transport: RuntimeTransport;
  readonly #sending: RuntimeSending;
  readonly #receiving: RuntimeReceiving;
  readonly #watchers = new Watchers();
  #closed = false;
  #wantsRef = true;
  #isRef = true;

  private constructor(options: RuntimeBindOptions) {
    this.#transport = openTransport(options, (error) => this.#receiving.changed(error));
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
    this.#receiving = new RuntimeReceiving(this.#transport, this.name, this.#watchers, () => this.#updateRef());
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

  get pollable(): RuntimePollable {
    return this;
  }

  get lastSender(): Deno.NetAddr | undefined {
    return this.#receiving.lastSender;
  }

  get isOpen(): boolean {
    return !this.#closed;
  }

  watch(watcher: Watcher): () => void {
    return this.#watchers.add(watcher);
  }

  poll(interest: number): number {
    const ready = this.#receiving.poll(interest);
    return interest & InterestBit.WRITABLE && this.#sending.hasRoom ? ready | ReadyBit.WRITABLE : ready;
  }

  ready(interest: number, wait: Wait | undefined): Promise<Readiness> {
    if (this.#closed) return Promise.reject(this.#closedError("wait for", "epoll_wait"));
    return whenReady(this.#receiving, this.#sending, interest, wait, () => `wait for ${this.name}`);
  }

  recvFrom(p: Uint8Array, peek: boolean, wait: Wait | undefined): Promise<Datagram> {
    if (this.#closed) return Promise.reject(this.#closedError("receive on", "recvfrom"));
    return this.#receiving.recvFrom(p, peek, wait);
  }

  tryRecvFrom(p: Uint8Array, peek: boolean): Datagram | undefined {
    this.#checkOpen("receive on", "recvfrom");
    return this.#receiving.tryRecvFrom(p, peek);
  }

  sendTo(
    p: Uint8Array,
    to: Deno.NetAddr,
    localAddress: string | undefined,
    wait: Wait | undefined,
  ): Promise<number> {
    if (localAddress !== undefined && !this.#closed) return Promise.reject(needsLocal(`send from ${localAddress}`));
    return this.#sending.sendTo(p, to, wait);
  }

  trySendTo(p: Uint8Array, to: Deno.NetAddr, localAddress: string | undefined): number | undefined {
    if (localAddress !== undefined && !this.#closed) throw needsLocal(`send from ${localAddress}`);
    return this.#sending.trySendTo(p, to);
  }

  connect(): void {
    this.#checkOpen("connect", "connect");
    throw needsNative("connect a UDP endpoint");
  }

  disconnect(): void {
    this.#checkOpen("disconnect", "connect");
    throw needsNative("disconnect a UDP endpoint");
  }

  send(): Promise<number> {
    if (this.#closed) return Promise.reject(this.#closedError("send on", "sendto"));
    return Promise.reject(needsNative("send without an address"));
  }

  recvBatch(batch: DatagramBatch, wait: Wait | undefined): Promise<number> {
    if (this.#closed) return Promise.reject(this.#closedError("receive on", "recvfrom"));
    return this.#receiving.recvBatch(batch, wait);
  }

  tryRecvBatch(batch: DatagramBatch): number | undefined {
    this.#checkOpen("receive on", "recvfrom");
    return this.#receiving.tryRecvBatch(batch);
  }

  sendBatch(batch: DatagramBatch, start: number, end: number, wait: Wait | undefined): Promise<number> {
    return this.#sending.sendBatch(batch, start, end, wait);
  }

  trySendBatch(batch: DatagramBatch, start: number, end: number): number | undefined {
    return this.#sending.trySendBatch(batch, start, end);
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
    if (this.#transport.node === undefined && on) return this.#checkOpen("set SO_BROADCAST on", "setsockopt");
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
    this.#checkOpen(`get ${option} of`, "getsockopt");
    throw needsNative(`get ${option}`);
  }

  setOption(option: SocketOption): void {
    this.#checkOpen(`set ${option} on`, "setsockopt");
    throw needsNative(`set ${option}`);
  }

  drops(): number {
    this.#checkOpen("count the drops of", "getsockopt");
    return this.#transport.drops;
  }

  detach(): number {
    this.#checkOpen("detach", "fcntl");
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
    this.#receiving.close();
  }

  #set(action: string, set: (node: NonNullable<RuntimeTransport["node"]>) => void): void {
    this.#checkOpen(action, "setsockopt");
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
    const isNeeded = this.#sending.count > 0 || (this.#wantsRef && this.#receiving.isAwaited);
    const isRef = isNeeded || (this.#wantsRef && !this.#transport.isReceiving);
    if (isRef === this.#isRef) return;
    this.#isRef = isRef;
    this.#transport.ref(isRef);
  }

  #checkOpen(action: string, syscall: string): void {
    if (this.#closed) throw this.#closedError(action, syscall);
  }

  #closedError(action: string, syscall: string): Error {
    return closedError(`${action} ${this.name}`, "endpoint", syscall);
  }
}
