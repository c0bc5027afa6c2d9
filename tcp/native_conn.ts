/** A connection on the kernel's own socket. */

import { SHUT_RD } from "../internal/constants.ts";
import { formatAddress, type HostPort } from "../internal/address.ts";
import { closedError, SyscallError } from "../internal/errors.ts";
import {
  addressOf,
  getCongestion,
  getSocketOption,
  getTcpStruct,
  ioctlInteger,
  prepareTcp,
  setCongestion,
  setSocketOption,
} from "../internal/socket.ts";
import { type CompactAddress, decodeSockaddr, encodeSockaddr, expandAddress } from "../internal/sockaddr.ts";
import type { SocketOption } from "../internal/socket_option.ts";
import type { NativePollable } from "../poll/pollable.ts";
import type { EventHandler } from "../poll/reactor.ts";
import { LASTING, READ_SIDE, ReadyBit, WRITE_SIDE } from "../poll/selector.ts";
import type { ConnDriver, KeepAliveTimes } from "./driver.ts";
import { type Readiness, whenReady } from "../poll/readiness.ts";
import { atCaller } from "../internal/stack.ts";
import { NativeReader } from "./native_reader.ts";
import { PolledSocket } from "../poll/polled_socket.ts";
import { NativeWriter } from "./native_writer.ts";
import type { Wait } from "../internal/wait.ts";
import { decodeTcpInfo, TCP_INFO, TCP_INFO_SIZE, type TcpInfo } from "./tcp_info.ts";

// sys/socket.h, linux/sockios.h
const SHUT_RDWR = 2;
const SIOCINQ = 0x541b;
const SIOCOUTQ = 0x5411;

/** {@linkcode ConnDriver} on a descriptor. */
export class NativeConn implements ConnDriver, EventHandler {
  readonly #socket: PolledSocket;
  readonly #reader: NativeReader;
  readonly #writer: NativeWriter;
  #local: Deno.NetAddr | CompactAddress;
  #remote: Deno.NetAddr | CompactAddress;

  /**
   * Takes over a connected, nonblocking, close-on-exec socket.
   *
   * @param local Its address.
   * @param remote The peer's address; decoded when somebody looks.
   */
  constructor(fd: number, local: Deno.NetAddr | CompactAddress, remote: Deno.NetAddr | CompactAddress) {
    this.#local = local;
    this.#remote = remote;
    this.#socket = new PolledSocket(fd, this);
    this.#reader = new NativeReader(this.#socket);
    this.#writer = new NativeWriter(this.#socket);
  }

  /** Takes over a connected socket that comes from elsewhere, once it is checked. */
  static adopt(fd: number): NativeConn {
    prepareTcp(fd, "connected");
    const [local, remote] = [addressOf(fd, "getsockname"), addressOf(fd, "getpeername")];
    return new NativeConn(fd, { transport: "tcp", ...local }, { transport: "tcp", ...remote });
  }

  /**
   * The same for one that was sent here: if the peer has reset it on the way, the kernel knows the peer no more, and
   * reads and writes tell so.
   */
  static adoptSent(fd: number): NativeConn {
    prepareTcp(fd, "sent");
    const local = addressOf(fd, "getsockname");
    let remote: HostPort;
    try {
      remote = addressOf(fd, "getpeername");
    } catch (error) {
      if (!(error instanceof SyscallError && error.code === "ENOTCONN")) throw error;
      remote = { hostname: local.hostname.includes(":") ? "::" : "0.0.0.0", port: 0 };
    }
    return new NativeConn(fd, { transport: "tcp", ...local }, { transport: "tcp", ...remote });
  }

  get name(): string {
    return `TCP connection with ${formatAddress(this.remoteAddr)}`;
  }

  get localAddr(): Deno.NetAddr {
    return this.#local = netAddr(this.#local);
  }

  get remoteAddr(): Deno.NetAddr {
    return this.#remote = netAddr(this.#remote);
  }

  /** Both addresses as the kernel writes them; `undefined` if they cannot be told any more: a zone's interface is gone. */
  get sockaddrs(): [local: Uint8Array<ArrayBuffer>, remote: Uint8Array<ArrayBuffer>] | undefined {
    const [local, remote] = [sockaddr(this.#local), sockaddr(this.#remote)];
    return local === undefined || remote === undefined ? undefined : [local, remote];
  }

  get engine(): "native" {
    return "native";
  }

  get kind(): string {
    return "connection";
  }

  get fd(): number | undefined {
    return this.#socket.isOpen ? this.#socket.fd : undefined;
  }

  get pollable(): NativePollable {
    return this.#socket;
  }

  get inode(): number | undefined {
    return this.#socket.inode;
  }

  onReady(ready: number): void {
    this.#socket.told |= ready & (LASTING | ReadyBit.ERROR);
    if (ready & READ_SIDE) this.#reader.onReady();
    // What the reader woke runs later, so the socket is open still.
    if (ready & WRITE_SIDE) this.#writer.onReady();
  }

  read(p: Uint8Array, wait: Wait | undefined): Promise<number | null> {
    if (!this.#socket.isOpen) return Promise.reject(this.#closedError("read from", "recv"));
    return this.#reader.read(p, wait);
  }

  peek(p: Uint8Array, wait: Wait | undefined): Promise<number | null> {
    if (!this.#socket.isOpen) return Promise.reject(this.#closedError("peek at", "recv"));
    return this.#reader.peek(p, wait);
  }

  readChunk(): Promise<Uint8Array<ArrayBuffer> | null> {
    if (!this.#socket.isOpen) return Promise.reject(this.#closedError("read from", "recv"));
    return this.#reader.readChunk();
  }

  readFull(p: Uint8Array, wait: Wait | undefined): Promise<number | null> {
    if (!this.#socket.isOpen) return Promise.reject(this.#closedError("read from", "recv"));
    return this.#reader.readFull(p, wait);
  }

  ready(interest: number, wait: Wait | undefined): Promise<Readiness> {
    if (!this.#socket.isOpen) return Promise.reject(this.#closedError("wait for", "epoll_wait"));
    return whenReady(this.#reader, this.#writer, interest, wait, () => `wait for ${this.#socket.name}`);
  }

  tryRead(p: Uint8Array): number | null | undefined {
    if (!this.#socket.isOpen) throw this.#closedError("read from", "recv");
    return this.#reader.tryRead(p);
  }

  write(p: Uint8Array, wait: Wait | undefined): Promise<number> {
    if (!this.#socket.isOpen) return Promise.reject(this.#closedError("write to", "send"));
    return this.#writer.write(p, wait);
  }

  writeAll(p: Uint8Array, wait: Wait | undefined): Promise<void> {
    if (!this.#socket.isOpen) return Promise.reject(this.#closedError("write to", "send"));
    return this.#writer.writeAll(p, wait);
  }

  tryWrite(p: Uint8Array): number | undefined {
    if (!this.#socket.isOpen) throw this.#closedError("write to", "send");
    return this.#writer.tryWrite(p);
  }

  closeWrite(): Promise<void> {
    if (!this.#socket.isOpen) return Promise.reject(this.#closedError("close the write side of", "shutdown"));
    return this.#writer.end();
  }

  shutdown(how: "read" | "write" | "both"): void {
    if (!this.#socket.isOpen) throw this.#closedError("shut down", "shutdown");
    // A failure means that the connection is gone, which reads and writes tell.
    if (how === "write") this.#writer.end().catch(() => {});
    else this.#socket.shutdown(how === "read" ? SHUT_RD : SHUT_RDWR);
    if (how === "both") this.#writer.markEnded();
  }

  reset(): void {
    this.#attempt("reset", "setsockopt", (fd) => setSocketOption(fd, "SO_LINGER", 0));
    this.close();
  }

  setNoDelay(on: boolean): void {
    this.setOption("TCP_NODELAY", on ? 1 : 0);
  }

  setKeepAlive(on: boolean, times: KeepAliveTimes | undefined): void {
    if (times?.idle !== undefined) this.setOption("TCP_KEEPIDLE", times.idle);
    if (times?.interval !== undefined) this.setOption("TCP_KEEPINTVL", times.interval);
    if (times?.count !== undefined) this.setOption("TCP_KEEPCNT", times.count);
    this.setOption("SO_KEEPALIVE", on ? 1 : 0);
  }

  getOption(option: SocketOption): number {
    return this.#attempt(`get ${option} of`, "getsockopt", (fd) => getSocketOption(fd, option));
  }

  setOption(option: SocketOption, value: number): void {
    this.#attempt(`set ${option} on`, "setsockopt", (fd) => setSocketOption(fd, option, value));
  }

  getCongestion(): string {
    return this.#attempt("get TCP_CONGESTION of", "getsockopt", getCongestion);
  }

  setCongestion(name: string): void {
    this.#attempt("set TCP_CONGESTION on", "setsockopt", (fd) => setCongestion(fd, name));
  }

  info(): TcpInfo {
    const bytes = new Uint8Array(TCP_INFO_SIZE);
    return decodeTcpInfo(
      bytes,
      this.#attempt("get TCP_INFO of", "getsockopt", (fd) => getTcpStruct(fd, TCP_INFO, bytes)),
    );
  }

  queues(): { receive: number; send: number } {
    return this.#attempt("see the queues of", "ioctl", (fd) => ({
      receive: ioctlInteger(fd, SIOCINQ),
      send: ioctlInteger(fd, SIOCOUTQ),
    }));
  }

  ref(): void {
    this.#reader.ref(true);
  }

  unref(): void {
    this.#reader.ref(false);
  }

  get isWriting(): boolean {
    return this.#writer.isWaiting;
  }

  checkMove(): void {
    const { unread } = this.#reader;
    if (unread === 0) return;
    const why = `${unread} bytes were received for a readFull() and not read`;
    throw atCaller(new Deno.errors.Busy(`Cannot move ${this.#socket.name}: ${why}, read them first`));
  }

  detach(): number {
    if (!this.#socket.isOpen) throw this.#closedError("detach", "fcntl");
    this.checkMove();
    const fd = this.#socket.detach();
    this.#wake();
    return fd;
  }

  close(): void {
    if (!this.#socket.isOpen) return;
    this.#socket.close();
    this.#wake();
  }

  #wake(): void {
    this.#reader.close();
    this.#writer.close();
  }

  #attempt<T>(action: string, syscall: string, call: (fd: number) => T): T {
    if (!this.#socket.isOpen) throw this.#closedError(action, syscall);
    return this.#socket.attempt(action, call);
  }

  #closedError(action: string, syscall: string): Error {
    return closedError(`${action} ${this.#socket.name}`, "connection", syscall);
  }
}

function netAddr(address: Deno.NetAddr | CompactAddress): Deno.NetAddr {
  if (typeof address !== "number" && !(address instanceof Uint8Array)) return address;
  return { transport: "tcp", ...decodeSockaddr(expandAddress(address)) };
}

/** All connections of a listener have its address in common. */
const encoded = new WeakMap<Deno.NetAddr, Uint8Array<ArrayBuffer> | undefined>();

function sockaddr(address: Deno.NetAddr | CompactAddress): Uint8Array<ArrayBuffer> | undefined {
  if (typeof address === "number" || address instanceof Uint8Array) return expandAddress(address);
  if (!encoded.has(address)) encoded.set(address, encodeSockaddr(address));
  return encoded.get(address);
}
