/** A connection on Deno's own operations. */

import { needsNative } from "../internal/engine.ts";
import { closedError, fromRuntimeError, notSupportedError } from "../internal/errors.ts";
import type { ConnDriver, KeepAliveTimes } from "./driver.ts";
import { type RuntimePollable, type Watcher, Watchers } from "../poll/pollable.ts";
import { InterestBit, ReadyBit } from "../poll/selector.ts";
import { type Readiness, whenReady } from "../poll/readiness.ts";
import { RuntimeReader } from "./runtime_reader.ts";
import { RuntimeWriter } from "./runtime_writer.ts";
import { nameOf, type RuntimeSocket } from "./stream_socket.ts";
import type { SocketOption } from "../internal/socket_option.ts";
import { atCaller } from "../internal/stack.ts";
import type { Wait } from "../internal/wait.ts";
import type { TcpInfo } from "./tcp_info.ts";

/** {@linkcode ConnDriver} over a `Deno.TcpConn`. */
export class RuntimeConn implements ConnDriver, RuntimePollable {
  readonly fd = undefined;
  readonly inode = undefined;
  readonly #conn: RuntimeSocket;
  readonly #reader: RuntimeReader;
  readonly #writer: RuntimeWriter;
  #local: Deno.NetAddr | undefined;
  #remote: Deno.NetAddr | undefined;
  #watchers: Watchers | undefined;
  #closed = false;

  /** `from` is who had the connection before, with what was read ahead. */
  constructor(conn: RuntimeSocket, from?: RuntimeConn) {
    this.#conn = conn;
    this.#reader = from === undefined ? new RuntimeReader(conn) : from.#reader;
    this.#writer = from === undefined ? new RuntimeWriter(conn) : from.#writer;
  }

  get engine(): "runtime" {
    return "runtime";
  }

  get localAddr(): Deno.NetAddr {
    return this.#local ??= plainAddr(this.#conn.localAddr);
  }

  get remoteAddr(): Deno.NetAddr {
    return this.#remote ??= plainAddr(this.#conn.remoteAddr);
  }

  get pollable(): RuntimePollable {
    return this;
  }

  get name(): string {
    return nameOf(this.#conn);
  }

  get isOpen(): boolean {
    return !this.#closed;
  }

  get isPaused(): boolean {
    return false;
  }

  watch(watcher: Watcher): () => void {
    if (this.#watchers === undefined) {
      const watchers = this.#watchers = new Watchers();
      this.#reader.onChange = this.#writer.onChange = () => watchers.changed();
    }
    return this.#watchers.add(watcher);
  }

  poll(interest: number): number {
    const reads = (interest & InterestBit.READABLE) !== 0;
    const read = this.#reader.poll(!reads);
    const write = this.#writer.poll();
    let ready = (reads ? read : 0) | (interest & InterestBit.WRITABLE ? write : 0);
    // Down on both sides: reported whatever is asked for.
    const isOver = (read & ReadyBit.READ_CLOSED) !== 0 && (this.#writer.hasEnded || this.#reader.hasFailed);
    if ((read | write) & ReadyBit.ERROR) ready |= ReadyBit.ERROR | ReadyBit.READ_CLOSED | ReadyBit.WRITE_CLOSED;
    else if (isOver) ready |= ReadyBit.READ_CLOSED | ReadyBit.WRITE_CLOSED;
    return ready;
  }

  read(p: Uint8Array, wait: Wait | undefined): Promise<number | null> {
    if (this.#closed) return Promise.reject(this.#closedError("read from", "recv"));
    return this.#reader.read(p, wait);
  }

  peek(p: Uint8Array, wait: Wait | undefined): Promise<number | null> {
    if (this.#closed) return Promise.reject(this.#closedError("peek at", "recv"));
    return this.#reader.peek(p, wait);
  }

  readChunk(): Promise<Uint8Array<ArrayBuffer> | null> {
    if (this.#closed) return Promise.reject(this.#closedError("read from", "recv"));
    return this.#reader.readChunk();
  }

  readFull(p: Uint8Array, wait: Wait | undefined): Promise<number | null> {
    if (this.#closed) return Promise.reject(this.#closedError("read from", "recv"));
    return this.#reader.readFull(p, wait);
  }

  ready(interest: number, wait: Wait | undefined): Promise<Readiness> {
    if (this.#closed) return Promise.reject(this.#closedError("wait for", "epoll_wait"));
    return whenReady(this.#reader, this.#writer, interest, wait, () => `wait for ${this.name}`);
  }

  tryRead(p: Uint8Array): number | null | undefined {
    if (this.#closed) throw this.#closedError("read from", "recv");
    return this.#reader.tryRead(p);
  }

  write(p: Uint8Array, wait: Wait | undefined): Promise<number> {
    if (this.#closed) return Promise.reject(this.#closedError("write to", "send"));
    return this.#writer.write(p, wait);
  }

  writeAll(p: Uint8Array, wait: Wait | undefined): Promise<void> {
    if (this.#closed) return Promise.reject(this.#closedError("write to", "send"));
    return this.#writer.writeAll(p, wait);
  }

  tryWrite(p: Uint8Array): number | undefined {
    if (this.#closed) throw this.#closedError("write to", "send");
    return this.#writer.tryWrite(p);
  }

  closeWrite(): Promise<void> {
    if (this.#closed) return Promise.reject(this.#closedError("close the write side of", "shutdown"));
    return this.#writer.end();
  }

  shutdown(how: "read" | "write" | "both"): void {
    if (this.#closed) throw this.#closedError("shut down", "shutdown");
    if (how !== "write") throw needsNative(`shut down ${how === "read" ? "reading" : "both sides"}`);
    // A failure means that the connection is gone, which reads and writes tell.
    this.#writer.end().catch(() => {});
  }

  setNoDelay(on: boolean): void {
    this.#set("set TCP_NODELAY on", () => this.#conn.setNoDelay(on));
  }

  setKeepAlive(on: boolean, times: KeepAliveTimes | undefined): void {
    if (times !== undefined) throw needsNative("set keep-alive times");
    this.#set("set SO_KEEPALIVE on", () => this.#conn.setKeepAlive(on));
  }

  getOption(option: SocketOption): number {
    this.#checkOpen(`get ${option} of`, "getsockopt");
    throw needsNative(`get ${option}`);
  }

  setOption(option: SocketOption): void {
    this.#checkOpen(`set ${option} on`, "setsockopt");
    throw needsNative(`set ${option}`);
  }

  getCongestion(): string {
    this.#checkOpen("get TCP_CONGESTION of", "getsockopt");
    throw needsNative("get TCP_CONGESTION");
  }

  setCongestion(): void {
    this.#checkOpen("set TCP_CONGESTION on", "setsockopt");
    throw needsNative("set TCP_CONGESTION");
  }

  info(): TcpInfo {
    this.#checkOpen("get TCP_INFO of", "getsockopt");
    throw needsNative("get TCP_INFO");
  }

  queues(): { receive: number; send: number } {
    this.#checkOpen("see the queues of", "ioctl");
    throw needsNative("see the kernel's queues of a connection");
  }

  reset(): void {
    this.#checkOpen("reset", "setsockopt");
    throw needsNative("reset a connection");
  }

  detach(): number {
    this.#checkOpen("detach", "fcntl");
    throw needsNative("detach the descriptor");
  }

  get isWriting(): boolean {
    return this.#writer.isWaiting;
  }

  /** Throws if it cannot be moved now. */
  checkMove(): void {
    this.#checkOpen("move", "fcntl");
    if (this.#reader.isWaiting || this.#writer.isWaiting) {
      throw atCaller(
        new Deno.errors.Busy(`Cannot move ${this.name} while a call waits: await it first, or use --allow-ffi`),
      );
    }
  }

  /**
   * Leaves this object closed, and the connection open, with what was read ahead.
   *
   * @returns The connection.
   * @throws {Deno.errors.Busy} If a call waits, which cannot be taken back.
   */
  move(): RuntimeConn {
    this.checkMove();
    this.#watchers?.closing();
    this.#closed = true;
    this.#reader.onChange = this.#writer.onChange = undefined;
    this.#reader.ref(true);
    return new RuntimeConn(this.#conn, this);
  }

  ref(): void {
    if (!this.#closed) this.#reader.ref(true);
  }

  unref(): void {
    if (!this.#closed) this.#reader.ref(false);
  }

  close(): void {
    if (this.#closed) return;
    this.#watchers?.closing();
    this.#closed = true;
    this.#reader.close();
    // Deno's dispose is its close() that may be called twice.
    this.#writer.close(() => this.#conn[Symbol.dispose]());
  }

  #set(action: string, set: () => void): void {
    this.#checkOpen(action, "setsockopt");
    try {
      set();
    } catch (error) {
      if (error instanceof Error && error.message === "Unable to get resources") {
        // Deno lends the socket to a waiting write, and has no second handle for options.
        throw notSupportedError(`${action} ${this.name} while a write waits`, "await the write first");
      }
      if (error instanceof Deno.errors.NotSupported) throw error;
      throw fromRuntimeError(error, `${action} ${this.name}`, "setsockopt");
    }
  }

  #checkOpen(action: string, syscall: string): void {
    if (this.#closed) throw this.#closedError(action, syscall);
  }

  #closedError(action: string, syscall: string): Error {
    return closedError(`${action} ${this.name}`, "connection", syscall);
  }
}

/** A `Deno.NetAddr` of our own, without Deno's null prototype. */
export function plainAddr(addr: Deno.NetAddr): Deno.NetAddr {
  return { transport: "tcp", hostname: addr.hostname, port: addr.port };
}
