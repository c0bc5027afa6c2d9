/** The connections of a listening socket of the kernel's own: accept4(2), and what to do when it fails. */

import { type AcceptTrouble, acceptTrouble, Backoff } from "../internal/backoff.ts";
import { Descriptor, whenDescriptorCloses } from "../internal/descriptor.ts";
import { closedError, closedMeanwhileError, socketError } from "../internal/errors.ts";
import { addressOf, SOCK_CLOEXEC, SOCK_NONBLOCK } from "../internal/socket.ts";
import { type CompactAddress, compactAddress, SOCKADDR_SIZE } from "../internal/sockaddr.ts";
import type { Wait } from "../internal/wait.ts";
import { EAGAIN, syscallError, takeConnection } from "../internal/syscall.ts";
import type { PolledSocket } from "../poll/polled_socket.ts";
import type { Readiness } from "../poll/readiness.ts";
import { InterestBit } from "../poll/selector.ts";
import { type Action, Side } from "../poll/side.ts";
import { NativeConn } from "./native_conn.ts";

/** Connections in a row that may be gone before accept, until a pause is made. */
const MOST_RETRIES = 64;
/** Connections that {@linkcode Acceptor.drain} accepts at a time, while others keep connecting. */
const MOST_DRAINED = 65_536;

/** What to do about an error of accept4(2), by errno as a negative number. */
function troubleOf(errno: number): AcceptTrouble {
  return acceptTrouble(syscallError("accept4", -errno).code);
}

const ACCEPTING: Action = ["accept on", "accept4"];

const peer = new Uint8Array(SOCKADDR_SIZE);
const peerLength = new Uint32Array(1);
const peerLengthBytes = new Uint8Array(peerLength.buffer);

/** What a call asks for: a connection, or one that is there now. */
type Job = "accept" | "tryAccept";

/** Accepts connections, one for each call. */
export class Acceptor extends Side<Job, NativeConn> {
  readonly #addr: Deno.NetAddr;
  readonly #onAcceptError: ((error: Error) => void) | undefined;
  readonly #backoff = new Backoff();
  /** Connections that were in the queue when the listener drained, and that no call has asked for yet. */
  readonly #ahead: NativeConn[] = [];
  /** Settled once the listener that drains has closed its descriptor. */
  #draining: PromiseWithResolvers<void> | undefined;
  /** Stops waiting for a descriptor to be closed. */
  #stopWatching: (() => void) | undefined;
  #isPaused = false;

  constructor(socket: PolledSocket, addr: Deno.NetAddr, onAcceptError: ((error: Error) => void) | undefined) {
    super(socket);
    this.#addr = addr;
    this.#onAcceptError = onAcceptError;
  }

  /** Closed, and not drained: what is called when a connection ends, after the last one too, must not fail then. */
  get isClosed(): boolean {
    return !this.socket.isOpen && this.#draining === undefined;
  }

  /** There is no connection to hand out, and there will be none. */
  get #isOver(): boolean {
    return !this.socket.isOpen && this.#ahead.length === 0;
  }

  accept(wait: Wait | undefined): Promise<NativeConn> {
    return this.#isOver ? Promise.reject(this.#closedError()) : this.call("accept", wait);
  }

  /** Waits for a connection. */
  override ready(wait: Wait | undefined): Promise<Readiness> {
    return this.#isOver ? Promise.reject(this.#closedError("wait for", "epoll_wait")) : super.ready(wait);
  }

  tryAccept(): NativeConn | undefined {
    if (this.#isOver) throw this.#closedError();
    return this.tryCall("tryAccept");
  }

  pause(): void {
    this.#isPaused = this.socket.isPaused = true;
    if (this.#draining === undefined) this.#stopBackoff();
  }

  resume(): void {
    this.#isPaused = this.socket.isPaused = false;
    this.wake();
  }

  /**
   * Accepts all that is in the queue, for the calls to come, and closes the descriptor; resolves then, and at once if it
   * is closed.
   */
  drain(): Promise<void> {
    if (this.#draining !== undefined) return this.#draining.promise;
    if (!this.socket.isOpen) return Promise.resolve();
    this.#draining = Promise.withResolvers();
    this.#stopBackoff();
    this.socket.leave();
    this.#empty(this.#draining);
    return this.#draining.promise;
  }

  /** The descriptor was given away: what was accepted ahead is still handed out. */
  onDetached(): void {
    this.#draining?.resolve();
    this.#stopBackoff();
    if (this.#isOver) this.close();
  }

  /** The descriptor was closed. */
  onClosed(): void {
    for (const conn of this.#ahead.splice(0)) conn.close();
    this.onDetached();
  }

  protected override get interest(): number {
    return InterestBit.READABLE;
  }

  protected override isReadyNow(): boolean {
    // Of a closed one it is known at once that nothing comes.
    if (this.#isOver) return true;
    if (this.#isPaused) return false;
    if (this.#draining !== undefined) return this.#ahead.length > 0;
    return !this.#backoff.waiting && super.isReadyNow();
  }

  protected override checkReady(): void {
    if (this.#isOver) throw closedMeanwhileError(`wait for ${this.socket.name}`, this.socket.kind, "epoll_wait");
  }

  protected override actionOf(): Action {
    return ACCEPTING;
  }

  protected override register(): Error | undefined {
    // These wake their calls themselves: when it has drained, at resume(), or after a pause.
    const wakesItself = this.#draining !== undefined || this.#isPaused || this.#backoff.waiting;
    return wakesItself ? undefined : super.register();
  }

  protected override onIdle(): void {
    // One that drains tries again also for connections that no call waits for.
    if (this.#draining === undefined) this.#stopBackoff();
  }

  /** The next connection; `undefined` if nothing is there, or there is no room for it now. */
  protected override attempt(job: Job): NativeConn | undefined {
    // Also while it is paused: no connection will come any more for a call that has waited.
    if (this.#isOver) throw closedMeanwhileError(`accept on ${this.socket.name}`, this.socket.kind, "accept4");
    if (this.#isPaused) return undefined;
    if (this.#draining !== undefined) return this.#ahead.shift();
    if (this.#backoff.waiting) return undefined;
    for (let tries = 0;; tries++) {
      const fd = this.#accept();
      if (fd >= 0) {
        this.#backoff.reset();
        return this.#connOf(fd, compactAddress(peer, peerLength[0] as number));
      }
      if (fd === -EAGAIN) return undefined;
      const trouble = troubleOf(fd);
      if (trouble === "retry" && tries < MOST_RETRIES) continue;
      const error = this.#acceptError(fd);
      if (trouble === "fatal") throw error;
      // The connections stay in the kernel's queue until a descriptor is closed, or a pause is over.
      this.#retryLater(() => this.wake(), job === "accept");
      this.#report(error);
      return undefined;
    }
  }

  /**
   * Accepts all connections in the queue, and closes the descriptor right after the accept4(2) that found none: with the
   * last descriptor of a listening socket the kernel resets what is in its queue. The objects are made afterwards, so
   * that only microseconds lie between the two calls.
   */
  #empty(draining: PromiseWithResolvers<void>): void {
    const accepted: [fd: number, peer: CompactAddress][] = [];
    let shortage: Error | undefined;
    for (let left = MOST_DRAINED; left > 0 && shortage === undefined; left--) {
      const fd = this.#accept();
      const trouble = fd >= 0 ? undefined : troubleOf(fd);
      if (fd >= 0) accepted.push([fd, compactAddress(peer, peerLength[0] as number)]);
      else if (trouble === "wait") shortage = this.#acceptError(fd);
      else if (trouble === "fatal") break; // EAGAIN, for one
    }
    if (shortage === undefined) this.socket.close();
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
    this.wake();
  }

  /** accept4(2): the descriptor, or errno as a negative number. */
  #accept(): number {
    peerLength[0] = peer.length;
    return takeConnection(this.socket.fd, peer, peerLengthBytes, SOCK_NONBLOCK | SOCK_CLOEXEC);
  }

  #acceptError(errno: number): Error {
    return socketError(`accept on ${this.socket.name}`, syscallError("accept4", -errno));
  }

  #connOf(fd: number, address: CompactAddress): NativeConn {
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
    const { hostname } = this.#addr;
    if (hostname !== "0.0.0.0" && hostname !== "::") return this.#addr;
    return { transport: "tcp", ...addressOf(fd, "getsockname") };
  }

  /** Tries again when a descriptor is closed, or a pause is over. */
  #retryLater(again: () => void, isAwaited = true): void {
    const retry = () => {
      this.#stopBackoff();
      again();
    };
    this.#backoff.wait(retry, isAwaited && this.isReferenced);
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
    // No event was lost, but none comes for what has stayed in the queue.
    this.isReady = true;
  }

  #closedError(action = "accept on", syscall = "accept4"): Error {
    return closedError(`${action} ${this.socket.name}`, "listener", syscall);
  }
}
