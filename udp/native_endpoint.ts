/** A UDP socket of the kernel's own. */

import { formatAddress, hostKind, type HostPort, parseIPv4 } from "../internal/address.ts";
import { Descriptor } from "../internal/descriptor.ts";
import { closedError, interruptedError, notSupportedError, socketError, SyscallError } from "../internal/errors.ts";
import { mayReachAll, refuseDenied, requireNet } from "../internal/permissions.ts";
import { resolveAll, resolveSync } from "../internal/resolve.ts";
import {
  addressOf,
  adoptUdp,
  getSocketOption,
  getSocketStruct,
  getUdpOption,
  MSG_NOSIGNAL,
  MSG_PEEK,
  MSG_TRUNC,
  pendingErrno,
  setSocketOption,
  setUdpOption,
  SOCK_CLOEXEC,
  SOCK_DGRAM,
  SOCK_NONBLOCK,
} from "../internal/socket.ts";
import { AF_INET, AF_INET6, encodeSockaddr, SOCKADDR_SIZE } from "../internal/sockaddr.ts";
import type { SocketOption } from "../internal/socket_option.ts";
import { atCaller } from "../internal/stack.ts";
import { EAGAIN, receiveFrom, syscall, syscallError, transmitTo } from "../internal/syscall.ts";
import { checkSameLength } from "../internal/validate.ts";
import { NativeSocket } from "../mux/native_socket.ts";
import type { Pollable } from "../mux/pollable.ts";
import type { Source } from "../mux/reactor.ts";
import { ReadyBit } from "../mux/selector.ts";
import { WaitingSide } from "../mux/waiting_side.ts";
import { type DatagramBatch, memoryOf } from "./datagram_batch.ts";
import type { Datagram, MulticastOptions, UdpDriver } from "./driver.ts";
import { kernelBatch } from "./native_batch.ts";
import { interfaceNumber, setMembership, setMulticastInterface } from "./native_multicast.ts";
import { UDP_GRO } from "./offload_batch.ts";
import { noAddress, type Peer, Peers } from "./peers.ts";

/** Where and how to bind; checked. */
export interface NativeBindOptions extends HostPort {
  /** Set before bind, in this order. */
  options: (readonly [SocketOption, number])[];
}

// asm-generic/socket.h, linux/sock_diag.h
const SO_MEMINFO = 55;
const SK_MEMINFO_VARS = 9;
const SK_MEMINFO_DROPS = 8;
const AF_UNSPEC = 0;

/** Datagrams of a batch that count as one call, so that timers wait for some 5 ms at most while nothing else does. */
const CALL_SIZE = 16;

const READ_SIDE = ReadyBit.READABLE | ReadyBit.READ_CLOSED | ReadyBit.ERROR;
const WRITE_SIDE = ReadyBit.WRITABLE | ReadyBit.WRITE_CLOSED | ReadyBit.ERROR;

const sender = new Uint8Array(SOCKADDR_SIZE);

/** {@linkcode UdpDriver} on a descriptor. */
export class NativeEndpoint implements UdpDriver, Source {
  readonly engine = "native";
  lastSender: Deno.NetAddr | undefined;
  readonly #socket: NativeSocket;
  readonly #receiving: WaitingSide;
  readonly #sending: WaitingSide;
  readonly #peers = new Peers();
  #addr: Deno.NetAddr;
  /** The address it was bound to before it was connected. */
  readonly #bound: string;
  #peer: Peer | undefined;
  /** Ends the look-ups of names, once there was one. */
  #closing: AbortController | undefined;
  /** `UDP_GRO` is set: what can be received are messages of many datagrams. */
  #joins = false;

  /** Takes over a bound, nonblocking, close-on-exec socket. */
  constructor(fd: number) {
    this.#addr = { transport: "udp", ...addressOf(fd, "getsockname") };
    this.#bound = this.#addr.hostname;
    this.#socket = new NativeSocket(fd, this, () => `UDP endpoint ${formatAddress(this.#addr)}`);
    this.#socket.leavesWhenBusy = true;
    this.#receiving = new WaitingSide(this.#socket);
    this.#sending = new WaitingSide(this.#socket);
  }

  static bind({ hostname, port, options }: NativeBindOptions): NativeEndpoint {
    const action = `bind UDP endpoint to ${formatAddress({ hostname, port })}`;
    try {
      requireNet({ hostname, port }, action);
      const local = resolveSync({ hostname, port });
      refuseDenied(local, action);
      const family = local.family === "IPv4" ? AF_INET : AF_INET6;
      const socket = new Descriptor(syscall("socket", family, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
      try {
        for (const [option, value] of options) {
          if (option === "IPV6_V6ONLY" && local.family === "IPv4") continue;
          setSocketOption(socket.fd, option, value);
        }
        syscall("bind", socket.fd, local.sockaddr, local.sockaddr.length);
        return socket.passTo((fd) => new NativeEndpoint(fd));
      } finally {
        socket.close();
      }
    } catch (error) {
      throw error instanceof SyscallError ? socketError(action, error) : error;
    }
  }

  /** Takes over a UDP socket that comes from elsewhere, once it is checked. */
  static adopt(fd: number): NativeEndpoint {
    adoptUdp(fd);
    const endpoint = new NativeEndpoint(fd);
    try {
      endpoint.#joins = getUdpOption(fd, UDP_GRO) !== 0;
    } catch { /* the kernel has none */ }
    try {
      const to = addressOf(fd, "getpeername");
      endpoint.#peer = endpoint.#peers.encode(to.hostname, to.port);
    } catch { /* not connected */ }
    return endpoint;
  }

  get addr(): Deno.NetAddr {
    return this.#addr;
  }

  get peer(): Deno.NetAddr | undefined {
    return this.#peer?.address;
  }

  get fd(): number | undefined {
    return this.#socket.isOpen ? this.#socket.fd : undefined;
  }

  get inode(): number | undefined {
    return this.#socket.inode;
  }

  get pollable(): Pollable {
    return this.#socket;
  }

  onReady(ready: number): void {
    if (ready & READ_SIDE) this.#receiving.onReady();
    if (ready & WRITE_SIDE) this.#sending.onReady();
  }

  recvFrom(p: Uint8Array, peek: boolean, signal: AbortSignal | undefined): Promise<Datagram> {
    if (!this.#socket.isOpen) return Promise.reject(this.#closedError("receive on"));
    const { length } = p;
    return this.#receiving.call(() => {
      checkSameLength(p, length);
      return this.#receive(p, peek);
    }, signal);
  }

  tryRecvFrom(p: Uint8Array, peek: boolean): Datagram | undefined {
    if (!this.#socket.isOpen) throw this.#closedError("receive on");
    return this.#receiving.tryCall(() => this.#receive(p, peek));
  }

  sendTo(p: Uint8Array, to: Deno.NetAddr, signal: AbortSignal | undefined): Promise<number> {
    if (!this.#socket.isOpen) return Promise.reject(this.#closedError("send on"));
    const peer = this.#peers.encode(to.hostname, to.port);
    if (peer === undefined) return this.#sendToName(p, to, signal);
    try {
      this.#permit(to);
    } catch (error) {
      return Promise.reject(error);
    }
    return this.#send(p, peer, signal);
  }

  trySendTo(p: Uint8Array, to: Deno.NetAddr): number | undefined {
    if (!this.#socket.isOpen) throw this.#closedError("send on");
    const peer = this.#peers.encode(to.hostname, to.port);
    if (peer === undefined && hostKind(to.hostname) === "name") {
      throw noAddress(to.hostname);
    }
    this.#permit(to);
    if (peer === undefined) throw socketError(this.#sendingTo(to), new SyscallError("if_nametoindex", "ENODEV"));
    return this.#sending.tryCall(() => this.#transmit(p, peer));
  }

  send(p: Uint8Array, signal: AbortSignal | undefined): Promise<number> {
    if (!this.#socket.isOpen) return Promise.reject(this.#closedError("send on"));
    return this.#send(p, undefined, signal);
  }

  connect(to: HostPort): void {
    const action = `connect ${this.#socket.name} to ${formatAddress(to)}`;
    if (!this.#socket.isOpen) throw closedError(action, "endpoint");
    requireNet(to, action);
    try {
      const resolved = resolveSync(to, this.#isIPv6 ? undefined : "IPv4");
      refuseDenied(resolved, action);
      syscall("connect", this.#socket.fd, resolved.sockaddr, resolved.sockaddr.length);
      this.#forgetPeer();
      this.#peer = this.#peers.encode(resolved.hostname, resolved.port);
    } catch (error) {
      throw error instanceof SyscallError ? socketError(action, error) : error;
    }
  }

  disconnect(): void {
    const nobody = new Uint8Array(16).fill(AF_UNSPEC, 0, 2);
    const { port } = this.#addr;
    this.#attempt("disconnect", (fd) => {
      syscall("connect", fd, nobody, nobody.length);
      this.#forgetPeer();
      if (this.#addr.port !== 0) return;
      // The kernel gives up a port that it had picked itself.
      const local = encodeSockaddr({ hostname: this.#bound, port });
      if (local !== undefined) syscall("bind", fd, local, local.length);
      this.#addr = { transport: "udp", ...addressOf(fd, "getsockname") };
    });
  }

  /** The socket is connected to another one than before, or to none. */
  #forgetPeer(): void {
    const { fd } = this.#socket;
    this.#peer = undefined;
    this.#addr = { transport: "udp", ...addressOf(fd, "getsockname") };
    // That the one before was not there (ICMP) would be told to a call that is about another.
    pendingErrno(fd);
  }

  recvBatch(batch: DatagramBatch, signal: AbortSignal | undefined): Promise<number> {
    if (!this.#socket.isOpen) return Promise.reject(this.#closedError("receive on"));
    return this.#receiving.call(() => this.#charge(this.#receiveBatch(batch)), signal);
  }

  tryRecvBatch(batch: DatagramBatch): number | undefined {
    if (!this.#socket.isOpen) throw this.#closedError("receive on");
    return this.#receiving.tryCall(() => this.#receiveBatch(batch));
  }

  async sendBatch(batch: DatagramBatch, count: number, signal: AbortSignal | undefined): Promise<number> {
    if (!this.#socket.isOpen) throw this.#closedError("send on");
    let failure: Error | undefined;
    for (let i = 0; i < count;) {
      const start = i;
      const sent = await this.#sending.call(() => this.#charge(this.#sendBatch(batch, start, count)), signal);
      // One that cannot be reached is no event for the others.
      if (typeof sent !== "number") failure ??= sent;
      i += typeof sent === "number" ? sent : 1;
    }
    if (failure !== undefined) throw failure;
    return count;
  }

  trySendBatch(batch: DatagramBatch, start: number, count: number): number | undefined {
    if (!this.#socket.isOpen) throw this.#closedError("send on");
    if (start === count) return 0;
    const sent = this.#sending.tryCall(() => this.#sendBatch(batch, start, count));
    if (sent instanceof Error) throw sent;
    return sent;
  }

  setMembership(options: MulticastOptions, join: boolean): void {
    this.#attempt(`${join ? "join" : "leave"} ${options.group} with`, (fd) => setMembership(fd, options, join));
  }

  setMulticastTtl(ttl: number): void {
    this.#setForBoth("IP_MULTICAST_TTL", "IPV6_MULTICAST_HOPS", ttl);
  }

  setMulticastLoopback(on: boolean): void {
    this.#setForBoth("IP_MULTICAST_LOOP", "IPV6_MULTICAST_LOOP", Number(on));
  }

  setMulticastInterface(name: string): void {
    this.#attempt(`set the multicast interface of`, (fd) => {
      if (this.#isIPv6 && parseIPv4(name) === undefined) {
        setSocketOption(fd, "IPV6_MULTICAST_IF", interfaceNumber(name));
      }
      setMulticastInterface(fd, name);
    });
  }

  setBroadcast(on: boolean): void {
    this.setOption("SO_BROADCAST", Number(on));
  }

  setTtl(ttl: number): void {
    this.#setForBoth("IP_TTL", "IPV6_UNICAST_HOPS", ttl);
  }

  /** An IPv6 socket sends to IPv4 peers by the options of IPv4. */
  #setForBoth(ipv4: SocketOption, ipv6: SocketOption, value: number): void {
    if (this.#isIPv6) this.setOption(ipv6, value);
    this.setOption(ipv4, value);
  }

  getOption(option: SocketOption): number {
    return this.#attempt(`get ${option} of`, (fd) => getSocketOption(fd, option));
  }

  setOption(option: SocketOption, value: number): void {
    this.#attempt(`set ${option} on`, (fd) => setSocketOption(fd, option, value));
  }

  drops(): number {
    const info = new Uint32Array(SK_MEMINFO_VARS);
    const bytes = new Uint8Array(info.buffer);
    this.#attempt("count the drops of", (fd) => getSocketStruct(fd, SO_MEMINFO, bytes));
    return info[SK_MEMINFO_DROPS] as number;
  }

  ref(): void {
    this.#receiving.ref(true);
  }

  unref(): void {
    this.#receiving.ref(false);
  }

  detach(): number {
    if (!this.#socket.isOpen) throw this.#closedError("detach");
    const fd = this.#socket.detach();
    this.#wake();
    return fd;
  }

  close(): void {
    if (!this.#socket.isOpen) return;
    this.#socket.close();
    this.#wake();
  }

  get #isIPv6(): boolean {
    return this.#addr.hostname.includes(":");
  }

  #wake(): void {
    this.#closing?.abort(interruptedError(`send on ${this.#socket.name}`, "endpoint"));
    this.#receiving.close(() => interruptedError(`receive on ${this.#socket.name}`, "endpoint"));
    this.#sending.close(() => interruptedError(`send on ${this.#socket.name}`, "endpoint"));
  }

  /** recvfrom(2); `undefined` if nothing is there. */
  #receive(p: Uint8Array, peek: boolean): Datagram | undefined {
    if (this.#joins) throw this.#joinsError();
    const n = receiveFrom(this.#socket.fd, p, peek ? MSG_TRUNC | MSG_PEEK : MSG_TRUNC, sender);
    if (n >= 0) {
      const { length } = p;
      const address = this.#peers.decode(sender);
      this.lastSender = address.port === 0 ? undefined : address;
      return { data: n < length ? p.subarray(0, n) : p, size: n, truncated: n > length, address };
    }
    this.#result(n, "recvfrom");
    return undefined;
  }

  /** recvmmsg(2); `undefined` if nothing is there. */
  #receiveBatch(batch: DatagramBatch): number | undefined {
    const memory = memoryOf(batch);
    if (memory.gro !== this.#joins) this.#join(memory.gro);
    return this.#result(kernelBatch(memory).receive(this.#socket.fd), "recvmmsg");
  }

  /** Sets `UDP_GRO`, before the first receive that asks for it. */
  #join(gro: boolean): void {
    if (!gro) throw this.#joinsError();
    try {
      setUdpOption(this.#socket.fd, UDP_GRO, 1);
      this.#joins = true;
    } catch (error) {
      // Linux before 5.0: datagrams come one by one.
      if (!(error instanceof SyscallError)) throw error;
      if (error.code !== "ENOPROTOOPT") throw socketError(`receive on ${this.#socket.name}`, error);
    }
  }

  /**
   * sendmmsg(2) of the datagrams from `start` to `end`; returns how many it took, why it cannot take the first, or
   * `undefined` if there is no room.
   */
  #sendBatch(batch: DatagramBatch, start: number, end: number): number | Error | undefined {
    if (end > batch.length) throw atCaller(new TypeError("The batch was changed while the call waited"));
    const memory = memoryOf(batch);
    // Each time, since what waits for room can be changed, and permissions too.
    const permitted = mayReachAll(this.#socket.reactor.moment) ? end : this.#permitBatch(batch, start, end);
    if (typeof permitted !== "number") return permitted;
    const n = kernelBatch(memory).send(this.#socket.fd, start, permitted);
    if (n >= 0 || n === -EAGAIN) return n >= 0 ? n : undefined;
    const to = memory.nameLengths[start] === 0 ? this.peer : batch.address(start);
    return socketError(this.#sendingTo(to), syscallError("sendmmsg", -n));
  }

  /** Counts a batch as the calls that it was made instead of, lest others wait for long; returns what it is given. */
  #charge<T extends number | Error | undefined>(datagrams: T): T {
    if (typeof datagrams === "number") this.#socket.reactor.charge(Math.ceil(datagrams / CALL_SIZE) - 1);
    return datagrams;
  }

  /** How far datagrams may be sent, or why not even the first. */
  #permitBatch(batch: DatagramBatch, start: number, end: number): number | Error {
    const { nameLengths } = memoryOf(batch);
    for (let i = start; i < end; i++) {
      try {
        if (nameLengths[i] !== 0) this.#permit(batch.address(i));
      } catch (error) {
        return i > start ? i : error as Error;
      }
    }
    return end;
  }

  #send(p: Uint8Array, peer: Peer | undefined, signal: AbortSignal | undefined): Promise<number> {
    const { length } = p;
    return this.#sending.call(() => {
      checkSameLength(p, length);
      return this.#transmit(p, peer);
    }, signal);
  }

  /** sendto(2), send(2); `undefined` if there is no room. */
  #transmit(p: Uint8Array, peer: Peer | undefined): number | undefined {
    const n = transmitTo(this.#socket.fd, p, MSG_NOSIGNAL, peer === undefined ? null : peer.sockaddr);
    if (n >= 0 || n === -EAGAIN) return n >= 0 ? n : undefined;
    throw socketError(this.#sendingTo(peer?.address ?? this.peer), syscallError("sendto", -n));
  }

  /** What a call returned; `undefined` if it would block. */
  #result(n: number, call: "recvfrom" | "recvmmsg"): number | undefined {
    if (n >= 0) return n;
    if (n === -EAGAIN) return undefined;
    const from = this.peer === undefined ? "" : ` from ${formatAddress(this.peer)}`;
    throw socketError(`receive on ${this.#socket.name}${from}`, syscallError(call, -n));
  }

  async #sendToName(p: Uint8Array, to: HostPort, signal: AbortSignal | undefined): Promise<number> {
    const action = this.#sendingTo(to);
    requireNet(to, action);
    try {
      const closed = (this.#closing ??= new AbortController()).signal;
      const resolved = await resolveAll(to, signal === undefined ? closed : AbortSignal.any([signal, closed]));
      const address = resolved.find(({ family }) => this.#isIPv6 || family === "IPv4");
      if (address === undefined) throw new SyscallError("sendto", "EAFNOSUPPORT");
      refuseDenied(address, action);
      const peer = this.#peers.encode(address.hostname, address.port);
      if (!this.#socket.isOpen) throw interruptedError(action, "endpoint");
      return await this.#send(p, peer, signal);
    } catch (error) {
      throw error instanceof SyscallError ? socketError(action, error) : error;
    }
  }

  #permit(to: HostPort): void {
    if (!mayReachAll(this.#socket.reactor.moment)) requireNet(to, this.#sendingTo(to));
  }

  #sendingTo(to: HostPort | undefined): string {
    return `send on ${this.#socket.name}${to === undefined ? "" : ` to ${formatAddress(to)}`}`;
  }

  #attempt<T>(action: string, call: (fd: number) => T): T {
    if (!this.#socket.isOpen) throw this.#closedError(action);
    return this.#socket.attempt(action, call);
  }

  #joinsError(): Error {
    const action = `receive on ${this.#socket.name} without gro`;
    return notSupportedError(action, "UDP_GRO is set, so that only a DatagramBatch with gro can receive");
  }

  #closedError(action: string): Error {
    return closedError(`${action} ${this.#socket.name}`, "endpoint");
  }
}
