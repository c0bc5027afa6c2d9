/** A listening socket of the kernel's own. */

import { formatAddress } from "../internal/address.ts";
import { closedError } from "../internal/errors.ts";
import { addressOf, getTcpStruct, prepareTcp } from "../internal/socket.ts";
import type { Wait } from "../internal/wait.ts";
import type { NativePollable } from "../poll/pollable.ts";
import { PolledSocket } from "../poll/polled_socket.ts";
import type { Readiness } from "../poll/readiness.ts";
import type { EventHandler } from "../poll/reactor.ts";
import type { ConnDriver, ListenerDriver } from "./driver.ts";
import { Acceptor } from "./native_acceptor.ts";
import { decodeAcceptQueue, TCP_INFO, TCP_INFO_SIZE } from "./tcp_info.ts";

/** {@linkcode ListenerDriver} on a descriptor. */
export class NativeListener implements ListenerDriver, EventHandler {
  readonly engine = "native";
  readonly kind = "listener";
  readonly addr: Deno.NetAddr;
  readonly #socket: PolledSocket;
  readonly #acceptor: Acceptor;

  /** Takes over a listening, nonblocking, close-on-exec socket. */
  constructor(fd: number, onAcceptError?: (error: Error) => void) {
    this.addr = { transport: "tcp", ...addressOf(fd, "getsockname") };
    this.#socket = new PolledSocket(fd, this);
    this.#acceptor = new Acceptor(this.#socket, this.addr, onAcceptError);
  }

  /**
   * Takes over a listening socket that comes from elsewhere, once it is checked; `isShared` if others accept from it,
   * too.
   */
  static adopt(fd: number, isShared = false): NativeListener {
    prepareTcp(fd, "listening");
    const listener = new NativeListener(fd);
    listener.#socket.isShared = isShared;
    return listener;
  }

  get name(): string {
    return `TCP listener ${formatAddress(this.addr)}`;
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

  onReady(): void {
    this.#acceptor.onReady();
  }

  /** A call of {@linkcode NativeListener.accept} waits: if none does, what was asked for has been given. */
  get isAwaited(): boolean {
    return this.#acceptor.isWaiting;
  }

  accept(wait: Wait | undefined): Promise<ConnDriver> {
    return this.#acceptor.accept(wait);
  }

  ready(wait: Wait | undefined): Promise<Readiness> {
    return this.#acceptor.ready(wait);
  }

  tryAccept(): ConnDriver | undefined {
    return this.#acceptor.tryAccept();
  }

  queue(): { length: number; limit: number } {
    if (!this.#socket.isOpen) throw this.#closedError("see the accept queue of", "getsockopt");
    const bytes = new Uint8Array(TCP_INFO_SIZE);
    this.#socket.attempt("see the accept queue of", (fd) => getTcpStruct(fd, TCP_INFO, bytes));
    return decodeAcceptQueue(bytes);
  }

  pause(): void {
    if (this.#acceptor.isClosed) throw this.#closedError("pause", "epoll_ctl");
    this.#acceptor.pause();
  }

  resume(): void {
    if (this.#acceptor.isClosed) throw this.#closedError("resume", "epoll_ctl");
    this.#acceptor.resume();
  }

  ref(): void {
    this.#acceptor.ref(true);
  }

  unref(): void {
    this.#acceptor.ref(false);
  }

  detach(): number {
    if (!this.#socket.isOpen) throw this.#closedError("detach", "fcntl");
    const fd = this.#socket.detach();
    this.#acceptor.onDetached();
    return fd;
  }

  drain(): Promise<void> {
    return this.#acceptor.drain();
  }

  close(): void {
    this.#socket.close();
    this.#acceptor.onClosed();
  }

  #closedError(action: string, syscall: string): Error {
    return closedError(`${action} ${this.#socket.name}`, "listener", syscall);
  }
}
