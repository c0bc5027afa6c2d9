/** A UDP socket of the kernel's own. */

import { formatAddress, type HostPort, parseIPv4 } from "../internal/address.ts";
import { sizeOf, viewOf } from "../internal/bytes.ts";
import { Descriptor } from "../internal/descriptor.ts";
import { closedError, notSupportedError, socketError, SyscallError } from "../internal/errors.ts";
import { refuseDenied, requireNet } from "../internal/permissions.ts";
import { resolveSync } from "../internal/resolve.ts";
import {
  addressOf,
  getSocketOption,
  getSocketStruct,
  getUdpOption,
  MSG_PEEK,
  MSG_TRUNC,
  pendingErrno,
  prepareUdp,
  setSocketOption,
  setUdpOption,
  SOCK_CLOEXEC,
  SOCK_DGRAM,
  SOCK_NONBLOCK,
} from "../internal/socket.ts";
import { AF_INET, AF_INET6, encodeSockaddr, SOCKADDR_SIZE } from "../internal/sockaddr.ts";
import type { SocketOption } from "../internal/socket_option.ts";
import { EAGAIN, receiveFrom, syscall, syscallError } from "../internal/syscall.ts";
import { checkSameLength } from "../internal/validate.ts";
import { PolledSocket } from "../poll/polled_socket.ts";
import type { Wait } from "../internal/wait.ts";
import type { NativePollable } from "../poll/pollable.ts";
import { type Readiness, whenReady } from "../poll/readiness.ts";
import type { EventHandler } from "../poll/reactor.ts";
import { InterestBit, READ_SIDE, ReadyBit, WRITE_SIDE } from "../poll/selector.ts";
import { FunctionSide } from "../poll/side.ts";
import { type DatagramBatch, hostOf, keepInfo, memoryOf } from "./datagram_batch.ts";
import type { Datagram, MulticastOptions, UdpDriver } from "./driver.ts";
import { chargeBatch, kernelBatch } from "./kernel_batch.ts";
import { message } from "./native_message.ts";
import { type NativeSender, NativeSending } from "./native_sending.ts";
import { interfaceNumber, setMembership, setMulticastInterface } from "./native_multicast.ts";
import { UDP_GRO } from "./offload_batch.ts";
import { hasPacketInfo, setPacketInfo } from "./packet_info.ts";
import { type Peer, Peers } from "./peer_cache.ts";

/** Where and how to bind; checked. */
export interface NativeBindOptions extends HostPort {
  /** Set before bind, in this order. */
  options: (readonly [SocketOption, number])[];
  packetInfo: boolean;
}

// asm-generic/socket.h, linux/sock_diag.h
const SO_MEMINFO = 55;
const SK_MEMINFO_VARS = 9;
const SK_MEMINFO_DROPS = 8;
const AF_UNSPEC = 0;

const sender = new Uint8Array(SOCKADDR_SIZE);

/** {@linkcode UdpDriver} on a descriptor. */
export class NativeEndpoint implements UdpDriver, NativeSender, EventHandler {
  readonly engine = "native";
  readonly kind = "endpoint";
  lastSender: Deno.NetAddr | undefined;
  readonly #socket: PolledSocket;
  readonly #receiving: FunctionSide;
  readonly #sending: NativeSending;
  readonly #peers = new Peers();
  #addr: Deno.NetAddr;
  /** The address it was bound to before it was connected. */
  readonly bound: string;
  #peer: Peer | undefined;
  /** `UDP_GRO` is set: what can be received are messages of many datagrams. */
  #joins = false;
  /** `IP_PKTINFO` or `IPV6_RECVPKTINFO` is set: the kernel tells where datagrams were sent to. */
  #hasInfo = false;

  /** Takes over a bound, nonblocking, close-on-exec socket. */
  constructor(fd: number) {
    this.#addr = { transport: "udp", ...addressOf(fd, "getsockname") };
    this.bound = this.#addr.hostname;
    this.#socket = new PolledSocket(fd, this);
    this.#socket.leavesWhenBusy = true;
    this.#receiving = new FunctionSide(this.#socket, InterestBit.READABLE, "receive on", "recvfrom");
    this.#sending = new NativeSending(this, this.#socket, this.#peers);
  }

  static bind({ hostname, port, options, packetInfo }: NativeBindOptions): NativeEndpoint {
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
        if (packetInfo) setPacketInfo(socket.fd, local.family === "IPv6");
        syscall("bind", socket.fd, local.sockaddr, local.sockaddr.length);
        return socket.passTo((fd) => {
          const endpoint = new NativeEndpoint(fd);
          endpoint.#hasInfo = packetInfo;
          return endpoint;
        });
      } finally {
        socket.close();
      }
    } catch (error) {
      throw error instanceof SyscallError ? socketError(action, error) : error;
    }
  }

  /** Takes over a UDP socket that comes from elsewhere, once it is checked. */
  static adopt(fd: number): NativeEndpoint {
    prepareUdp(fd);
    const hasInfo = hasPacketInfo(fd, addressOf(fd, "getsockname").hostname.includes(":"));
    const endpoint = new NativeEndpoint(fd);
    endpoint.#hasInfo = hasInfo;
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

  get peerInfo(): Peer | undefined {
    return this.#peer;
  }

  get fd(): number | undefined {
    return this.#socket.isOpen ? this.#socket.fd : undefined;
  }

  get inode(): number | undefined {
    return this.#socket.inode;
  }

  get name(): string {
    return `UDP endpoint ${formatAddress(this.#addr)}`;
  }

  get pollable(): NativePollable {
    return this.#socket;
  }

  onReady(ready: number): void {
    this.#socket.told |= ready & ReadyBit.ERROR;
    if (ready & READ_SIDE) this.#receiving.onReady();
    if (ready & WRITE_SIDE) this.#sending.side.onReady();
  }

  ready(interest: number, wait: Wait | undefined): Promise<Readiness> {
    if (!this.#socket.isOpen) return Promise.reject(this.#closedError("wait for", "epoll_wait"));
    return whenReady(this.#receiving, this.#sending.side, interest, wait, () => `wait for ${this.#socket.name}`);
  }

  recvFrom(p: Uint8Array, peek: boolean, wait: Wait | undefined): Promise<Datagram> {
    if (!this.#socket.isOpen) return Promise.reject(this.#closedError("receive on", "recvfrom"));
    const length = sizeOf(p);
    let waits = false;
    const received = this.#receiving.run(() => {
      if (waits) checkSameLength(p, length);
      return this.#receive(p, length, peek);
    }, wait);
    waits = true;
    return received;
  }

  tryRecvFrom(p: Uint8Array, peek: boolean): Datagram | undefined {
    if (!this.#socket.isOpen) throw this.#closedError("receive on", "recvfrom");
    return this.#receiving.tryRun(() => this.#receive(p, sizeOf(p), peek));
  }

  sendTo(
    p: Uint8Array,
    to: Deno.NetAddr,
    localAddress: string | undefined,
    wait: Wait | undefined,
  ): Promise<number> {
    return this.#sending.sendTo(p, to, localAddress, wait);
  }

  trySendTo(p: Uint8Array, to: Deno.NetAddr, localAddress: string | undefined): number | undefined {
    return this.#sending.trySendTo(p, to, localAddress);
  }

  send(p: Uint8Array, wait: Wait | undefined): Promise<number> {
    return this.#sending.send(p, wait);
  }

  sendBatch(batch: DatagramBatch, start: number, end: number, wait: Wait | undefined): Promise<number> {
    return this.#sending.sendBatch(batch, start, end, wait);
  }

  trySendBatch(batch: DatagramBatch, start: number, end: number): number | undefined {
    return this.#sending.trySendBatch(batch, start, end);
  }

  connect(to: HostPort): void {
    const action = `connect ${this.#socket.name} to ${formatAddress(to)}`;
    if (!this.#socket.isOpen) throw closedError(action, "endpoint", "connect");
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
    this.#attempt("disconnect", "connect", (fd) => {
      syscall("connect", fd, nobody, nobody.length);
      this.#forgetPeer();
      if (this.#addr.port !== 0) return;
      // The kernel gives up a port that it had picked itself.
      const local = encodeSockaddr({ hostname: this.bound, port });
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

  recvBatch(batch: DatagramBatch, wait: Wait | undefined): Promise<number> {
    if (!this.#socket.isOpen) return Promise.reject(this.#closedError("receive on", "recvfrom"));
    return this.#receiving.run(() => chargeBatch(this.#socket, this.#receiveBatch(batch)), wait);
  }

  tryRecvBatch(batch: DatagramBatch): number | undefined {
    if (!this.#socket.isOpen) throw this.#closedError("receive on", "recvfrom");
    return this.#receiving.tryRun(() => this.#receiveBatch(batch));
  }

  setMembership(options: MulticastOptions, join: boolean): void {
    this.#attempt(
      `${join ? "join" : "leave"} ${options.group} with`,
      "setsockopt",
      (fd) => setMembership(fd, options, join),
    );
  }

  setMulticastTtl(ttl: number): void {
    this.#setForBoth("IP_MULTICAST_TTL", "IPV6_MULTICAST_HOPS", ttl);
  }

  setMulticastLoopback(on: boolean): void {
    this.#setForBoth("IP_MULTICAST_LOOP", "IPV6_MULTICAST_LOOP", Number(on));
  }

  setMulticastInterface(name: string): void {
    this.#attempt(`set the multicast interface of`, "setsockopt", (fd) => {
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
    return this.#attempt(`get ${option} of`, "getsockopt", (fd) => getSocketOption(fd, option));
  }

  setOption(option: SocketOption, value: number): void {
    this.#attempt(`set ${option} on`, "setsockopt", (fd) => setSocketOption(fd, option, value));
  }

  drops(): number {
    const info = new Uint32Array(SK_MEMINFO_VARS);
    const bytes = new Uint8Array(info.buffer);
    this.#attempt("count the drops of", "getsockopt", (fd) => getSocketStruct(fd, SO_MEMINFO, bytes));
    return info[SK_MEMINFO_DROPS] as number;
  }

  ref(): void {
    this.#receiving.ref(true);
  }

  unref(): void {
    this.#receiving.ref(false);
  }

  detach(): number {
    if (!this.#socket.isOpen) throw this.#closedError("detach", "fcntl");
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
    this.#receiving.close();
    this.#sending.close();
  }

  /** recvfrom(2); `undefined` if nothing is there. */
  #receive(p: Uint8Array, length: number, peek: boolean): Datagram | undefined {
    if (this.#joins) throw this.#joinsError();
    if (this.#hasInfo) return this.#receiveWithInfo(p, length, peek);
    const n = receiveFrom(this.#socket.fd, p, peek ? MSG_TRUNC | MSG_PEEK : MSG_TRUNC, sender);
    if (n >= 0) {
      const address = this.#peers.decode(sender);
      this.lastSender = address.port === 0 ? undefined : address;
      // An empty buffer may be of memory that is gone.
      const data = length === 0 ? new Uint8Array(0) : viewOf(p, 0, n < length ? n : length);
      return { data, size: n, truncated: n > length, address };
    }
    this.#result(n, "recvfrom");
    return undefined;
  }

  /** recvmsg(2); `undefined` if nothing is there. */
  #receiveWithInfo(p: Uint8Array, length: number, peek: boolean): Datagram | undefined {
    const received = message();
    const n = received.receive(this.#socket.fd, p, peek ? MSG_TRUNC | MSG_PEEK : MSG_TRUNC);
    if (n < 0) {
      this.#result(n, "recvmsg");
      return undefined;
    }
    const address = this.#peers.decode(received.name);
    this.lastSender = address.port === 0 ? undefined : address;
    const data = length === 0 ? new Uint8Array(0) : viewOf(p, 0, n < length ? n : length);
    const localAddress = hostOf(this.#peers, received.info.locals, 0);
    const destination = hostOf(this.#peers, received.info.destinations, 0);
    return { data, size: n, truncated: n > length, address, localAddress, destination };
  }

  /** recvmmsg(2); `undefined` if nothing is there. */
  #receiveBatch(batch: DatagramBatch): number | undefined {
    const memory = memoryOf(batch);
    if (this.#hasInfo) keepInfo(memory);
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

  /** What a call returned; `undefined` if it would block. */
  #result(n: number, call: "recvfrom" | "recvmsg" | "recvmmsg"): number | undefined {
    if (n >= 0) return n;
    if (n === -EAGAIN) return undefined;
    const from = this.peer === undefined ? "" : ` from ${formatAddress(this.peer)}`;
    throw socketError(`receive on ${this.#socket.name}${from}`, syscallError(call, -n));
  }

  #attempt<T>(action: string, syscall: string, call: (fd: number) => T): T {
    if (!this.#socket.isOpen) throw this.#closedError(action, syscall);
    return this.#socket.attempt(action, call);
  }

  #joinsError(): Error {
    const action = `receive on ${this.#socket.name} without gro`;
    return notSupportedError(action, "UDP_GRO is set, so that only a DatagramBatch with gro can receive");
  }

  #closedError(action: string, syscall: string): Error {
    return closedError(`${action} ${this.#socket.name}`, "endpoint", syscall);
  }
}
