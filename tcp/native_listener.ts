/** A listening socket of the kernel's own. */

import { formatAddress } from "../internal/address.ts";
import { acceptTrouble, Backoff } from "../internal/backoff.ts";
import { whenDescriptorCloses } from "../internal/descriptor.ts";
import { closedError, socketError } from "../internal/errors.ts";
import { addressOf, adoptTcp, getTcpStruct, SOCK_CLOEXEC, SOCK_NONBLOCK } from "../internal/socket.ts";
import { SOCKADDR_SIZE } from "../internal/sockaddr.ts";
import { EAGAIN, syscallError, takeConnection } from "../internal/syscall.ts";
import { Waiter, WaiterQueue } from "../internal/waiters.ts";
import type { Pollable } from "../mux/pollable.ts";
import type { Source } from "../mux/reactor.ts";
import type { ConnDriver, ListenerDriver } from "./driver.ts";
import { NativeConn } from "./native_conn.ts";
import { NativeSocket } from "../mux/native_socket.ts";
import { decodeAcceptQueue, TCP_INFO, TCP_INFO_SIZE } from "./tcp_info.ts";

/** Connections in a row that may be gone before accept, until a pause is made. */
const MOST_RETRIES = 64;

const peer = new Uint8Array(SOCKADDR_SIZE);
const peerLength = new Uint32Array(1);
const peerLengthBytes = new Uint8Array(peerLength.buffer);

/** {@linkcode ListenerDriver} on a descriptor. */
export class NativeListener implements ListenerDriver, Source {
  readonly engine = "native";
  readonly addr: Deno.NetAddr;
  readonly #socket: NativeSocket;
  readonly #name: string;
  readonly #onAcceptError: ((error: Error) => void) | undefined;
  readonly #waiting = new WaiterQueue<Waiter<ConnDriver>>();
  readonly #backoff = new Backoff();
  /** Takes back the wish to be told of a closed descriptor. */
  #stopWatching: (() => void) | undefined;
  /** A connection may be there; not known before the first try. */
  #acceptable = true;
  #holds = false;
  #deferred = false;
  #paused = false;
  #ref = true;

  /** Takes over a listening, nonblocking, close-on-exec socket. */
  constructor(fd: number, onAcceptError?: (error: Error) => void) {
    this.addr = { transport: "tcp", ...addressOf(fd, "getsockname") };
    this.#name = `TCP listener ${formatAddress(this.addr)}`;
    this.#socket = new NativeSocket(fd, this, () => this.#name);
    this.#onAcceptError = onAcceptError;
  }

  /**
   * Takes over a listening socket that comes from elsewhere, once it is checked; `isShared` if others accept from it,
   * too.
   */
  static adopt(fd: number, isShared = false): NativeListener {
    adoptTcp(fd, "listening");
    const listener = new NativeListener(fd);
    listener.#socket.isShared = isShared;
    return listener;
  }

  get fd(): number | undefined {
    return this.#socket.isOpen ? this.#socket.fd : undefined;
  }

  get pollable(): Pollable {
    return this.#socket;
  }

  get inode(): number | undefined {
    return this.#socket.inode;
  }

  onReady(): void {
    this.#acceptable = true;
    this.#serve();
  }

  /** A call of {@linkcode NativeListener.accept} waits: if none does, what was asked for has been given. */
  get isAwaited(): boolean {
    return this.#waiting.first !== undefined;
  }

  accept(signal: AbortSignal | undefined): Promise<ConnDriver> {
    if (!this.#socket.isOpen) return Promise.reject(this.#closedError());
    if (!this.#holds && this.#mayTry() && this.#socket.reactor.mayProceed()) {
      try {
        const conn = this.#take();
        if (conn !== undefined) return Promise.resolve(conn);
      } catch (error) {
        return Promise.reject(error);
      }
    }
    const waiter = new Waiter<ConnDriver>(signal, () => {
      this.#waiting.compact();
      this.#updateHold();
    });
    this.#waiting.push(waiter);
    this.#updateHold();
    const refusal = this.#socket.register();
    if (refusal !== undefined) {
      waiter.reject(refusal);
      this.#updateHold();
    } else if (this.#mayTry()) this.#defer();
    return waiter.promise;
  }

  tryAccept(): ConnDriver | undefined {
    if (!this.#socket.isOpen) throw this.#closedError();
    // Those who wait came first. Nobody tells of news while nobody waits, so the kernel is asked.
    return this.#paused || this.#holds ? undefined : this.#take();
  }

  queue(): { length: number; limit: number } {
    if (!this.#socket.isOpen) throw this.#closedError("see the accept queue of");
    const bytes = new Uint8Array(TCP_INFO_SIZE);
    this.#socket.attempt("see the accept queue of", (fd) => getTcpStruct(fd, TCP_INFO, bytes));
    return decodeAcceptQueue(bytes);
  }

  pause(): void {
    if (!this.#socket.isOpen) throw this.#closedError("pause");
    this.#paused = this.#socket.isPaused = true;
    this.#stopBackoff();
  }

  resume(): void {
    if (!this.#socket.isOpen) throw this.#closedError("resume");
    this.#paused = this.#socket.isPaused = false;
    this.#serve();
  }

  ref(): void {
    this.#setRef(true);
  }

  unref(): void {
    this.#setRef(false);
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

  #wake(): void {
    for (const waiter of this.#waiting.drain()) waiter.reject(this.#closedError());
    this.#updateHold();
  }

  #mayTry(): boolean {
    return this.#acceptable && !this.#paused && !this.#backoff.waiting;
  }

  #serve(): void {
    for (let waiter = this.#waiting.first; waiter !== undefined && this.#mayTry(); waiter = this.#waiting.first) {
      if (!this.#socket.reactor.mayProceed()) {
        this.#defer();
        break;
      }
      try {
        const conn = this.#take();
        if (conn !== undefined) waiter.resolve(conn);
      } catch (error) {
        waiter.reject(error);
      }
    }
    this.#updateHold();
  }

  /** accept4(2); `undefined` if nothing is there, or there is no room for it now. */
  #take(): ConnDriver | undefined {
    for (let tries = 0;; tries++) {
      peerLength[0] = peer.length;
      const fd = takeConnection(this.#socket.fd, peer, peerLengthBytes, SOCK_NONBLOCK | SOCK_CLOEXEC);
      if (fd >= 0) {
        this.#backoff.reset();
        return new NativeConn(fd, this.#localAddr(fd), peer.slice(0, peerLength[0]));
      }
      if (fd === -EAGAIN) {
        this.#acceptable = false;
        return undefined;
      }
      const cause = syscallError("accept4", -fd);
      const trouble = acceptTrouble(cause.code);
      if (trouble === "retry" && tries < MOST_RETRIES) continue;
      const error = socketError(`accept on ${this.#name}`, cause);
      if (trouble === "fatal") throw error;
      this.#backOff(error);
      return undefined;
    }
  }

  /** A listener on one address hands out connections to it; on all addresses the kernel knows which it was. */
  #localAddr(fd: number): Deno.NetAddr {
    const { hostname } = this.addr;
    if (hostname !== "0.0.0.0" && hostname !== "::") return this.addr;
    return { transport: "tcp", ...addressOf(fd, "getsockname") };
  }

  /** Leaves connections in the kernel's queue until a descriptor is closed, or a pause is over. */
  #backOff(error: Error): void {
    const retry = () => {
      this.#stopBackoff();
      this.#serve();
    };
    if (!this.#backoff.waiting && this.#holds) {
      this.#backoff.wait(retry, this.#ref);
      this.#stopWatching = whenDescriptorCloses(retry);
    }
    const report = this.#onAcceptError;
    // In a turn of its own: a report that throws is the program's error, not the loop's.
    if (report !== undefined) queueMicrotask(() => report(error));
  }

  #stopBackoff(): void {
    this.#backoff.cancel();
    this.#stopWatching?.();
    this.#stopWatching = undefined;
  }

  /** Goes on after a turn of the event loop, because others have had none for long. */
  #defer(): void {
    if (this.#deferred) return;
    this.#deferred = true;
    this.#socket.reactor.defer(() => {
      this.#deferred = false;
      if (this.#socket.isOpen) this.#serve();
    });
  }

  #updateHold(): void {
    const holds = this.#waiting.first !== undefined;
    if (!holds) this.#stopBackoff();
    if (holds === this.#holds) return;
    this.#holds = holds;
    if (holds) this.#socket.reactor.hold(this.#ref);
    else this.#socket.reactor.release(this.#ref);
  }

  #setRef(on: boolean): void {
    if (on === this.#ref) return;
    if (this.#holds) this.#socket.reactor.release(this.#ref);
    this.#ref = on;
    if (this.#holds) this.#socket.reactor.hold(on);
  }

  #closedError(action = "accept on"): Error {
    return closedError(`${action} ${this.#name}`, "listener");
  }
}
