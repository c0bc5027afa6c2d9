/** A listening socket of the kernel's own. */

import { formatAddress } from "../internal/address.ts";
import { type AcceptTrouble, acceptTrouble, Backoff } from "../internal/backoff.ts";
import { Descriptor, whenDescriptorCloses } from "../internal/descriptor.ts";
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
/** Connections that {@linkcode NativeListener.drain} accepts at a time, while others keep connecting. */
const MOST_DRAINED = 65_536;

/** What to do about an error of accept4(2), by errno as a negative number. */
function troubleOf(errno: number): AcceptTrouble {
  return acceptTrouble(syscallError("accept4", -errno).code);
}

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
  /** Connections that were in the queue when the listener drained, and that no call has asked for yet. */
  readonly #ahead: ConnDriver[] = [];
  /** Settled once the listener that drains has closed its descriptor. */
  #draining: PromiseWithResolvers<void> | undefined;
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
    if (this.#isOver) return Promise.reject(this.#closedError());
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
    const refusal = this.#draining === undefined ? this.#socket.register() : undefined;
    if (refusal !== undefined) {
      waiter.reject(refusal);
      this.#updateHold();
    } else if (this.#mayTry()) this.#defer();
    return waiter.promise;
  }

  tryAccept(): ConnDriver | undefined {
    if (this.#isOver) throw this.#closedError();
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
    if (this.#isClosed) throw this.#closedError("pause");
    this.#paused = this.#socket.isPaused = true;
    if (this.#draining === undefined) this.#stopBackoff();
  }

  resume(): void {
    if (this.#isClosed) throw this.#closedError("resume");
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
    this.#draining?.resolve();
    this.#stopBackoff();
    if (this.#isOver) this.#wake();
    return fd;
  }

  drain(): Promise<void> {
    if (this.#draining !== undefined) return this.#draining.promise;
    if (!this.#socket.isOpen) return Promise.resolve();
    this.#draining = Promise.withResolvers();
    this.#stopBackoff();
    this.#socket.leave();
    this.#empty(this.#draining);
    return this.#draining.promise;
  }

  close(): void {
    this.#socket.close();
    for (const conn of this.#ahead.splice(0)) conn.close();
    this.#draining?.resolve();
    this.#stopBackoff();
    this.#wake();
  }

  /** Closed, and not drained: what is called when a connection ends, after the last one too, must not fail then. */
  get #isClosed(): boolean {
    return !this.#socket.isOpen && this.#draining === undefined;
  }

  /** There is no connection to hand out, and there will be none. */
  get #isOver(): boolean {
    return !this.#socket.isOpen && this.#ahead.length === 0;
  }

  #wake(): void {
    for (const waiter of this.#waiting.drain()) waiter.reject(this.#closedError());
    this.#updateHold();
  }

  #mayTry(): boolean {
    if (this.#paused) return false;
    return this.#ahead.length > 0 || (this.#draining === undefined && this.#acceptable && !this.#backoff.waiting);
  }

  /**
   * Accepts all connections in the queue, and closes the descriptor right after the accept4(2) that found none: with the
   * last descriptor of a listening socket the kernel resets what is in its queue. The objects are made afterwards, so
   * that only microseconds lie between the two calls.
   */
  #empty(draining: PromiseWithResolvers<void>): void {
    const accepted: [fd: number, peer: Uint8Array<ArrayBuffer>][] = [];
    let shortage: Error | undefined;
    for (let left = MOST_DRAINED; left > 0 && shortage === undefined; left--) {
      const fd = this.#accept();
      const trouble = fd >= 0 ? undefined : troubleOf(fd);
      if (fd >= 0) accepted.push([fd, peer.slice(0, peerLength[0])]);
      else if (trouble === "wait") shortage = this.#acceptError(fd);
      else if (trouble === "fatal") break; // EAGAIN, for one
    }
    if (shortage === undefined) this.#socket.close();
    for (const [fd, address] of accepted) {
      try {
        this.#ahead.push(this.#connOf(fd, address));
      } catch (error) {
        this.#report(error as Error);
      }
    }
    if (shortage === undefined) draining.resolve();
    else {
      // The rest stays in the queue until a descriptor is closed.
      this.#report(shortage);
      this.#retryLater(() => this.#empty(draining));
    }
    this.#serve();
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
    if (this.#isOver) this.#wake();
    else this.#updateHold();
  }

  /** accept4(2): the descriptor, or errno as a negative number. */
  #accept(): number {
    peerLength[0] = peer.length;
    return takeConnection(this.#socket.fd, peer, peerLengthBytes, SOCK_NONBLOCK | SOCK_CLOEXEC);
  }

  #acceptError(errno: number): Error {
    return socketError(`accept on ${this.#name}`, syscallError("accept4", -errno));
  }

  /** The next connection; `undefined` if nothing is there, or there is no room for it now. */
  #take(): ConnDriver | undefined {
    if (this.#draining !== undefined) return this.#ahead.shift();
    for (let tries = 0;; tries++) {
      const fd = this.#accept();
      if (fd >= 0) {
        this.#backoff.reset();
        return this.#connOf(fd, peer.slice(0, peerLength[0]));
      }
      if (fd === -EAGAIN) {
        this.#acceptable = false;
        return undefined;
      }
      const trouble = troubleOf(fd);
      if (trouble === "retry" && tries < MOST_RETRIES) continue;
      const error = this.#acceptError(fd);
      if (trouble === "fatal") throw error;
      this.#backOff(error);
      return undefined;
    }
  }

  #connOf(fd: number, address: Uint8Array<ArrayBuffer>): NativeConn {
    let local: Deno.NetAddr;
    try {
      local = this.#localAddr(fd);
    } catch (error) {
      new Descriptor(fd).close();
      throw error;
    }
    return new NativeConn(fd, local, address);
  }

  /** A listener on one address hands out connections to it; on all addresses the kernel knows which it was. */
  #localAddr(fd: number): Deno.NetAddr {
    const { hostname } = this.addr;
    if (hostname !== "0.0.0.0" && hostname !== "::") return this.addr;
    return { transport: "tcp", ...addressOf(fd, "getsockname") };
  }

  /** Leaves connections in the kernel's queue until a descriptor is closed, or a pause is over. */
  #backOff(error: Error): void {
    if (!this.#backoff.waiting && this.#holds) this.#retryLater(() => this.#serve());
    this.#report(error);
  }

  /** Tries again when a descriptor is closed, or a pause is over. */
  #retryLater(again: () => void): void {
    const retry = () => {
      this.#stopBackoff();
      again();
    };
    this.#backoff.wait(retry, this.#ref);
    this.#stopWatching = whenDescriptorCloses(retry);
  }

  #report(error: Error): void {
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
      this.#serve();
    });
  }

  #updateHold(): void {
    const holds = this.#waiting.first !== undefined;
    // One that drains tries again also for connections that no call waits for.
    if (!holds && this.#draining === undefined) this.#stopBackoff();
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
