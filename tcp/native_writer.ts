/**
 * The sending side of a connection on the kernel's own socket. What send(2)
 * has taken is the kernel's; a call that is cancelled while it waits has sent
 * nothing since it last waited.
 */

import { sizeOf, viewOf } from "../internal/bytes.ts";
import { interruptedError, socketError, SyscallError } from "../internal/errors.ts";
import { MSG_NOSIGNAL } from "../internal/socket.ts";
import { atCaller } from "../internal/stack.ts";
import { EAGAIN, LARGEST_TRANSFER, syscallError, transmit } from "../internal/syscall.ts";
import { Waiter, WaiterQueue } from "../internal/waiters.ts";
import type { Reactor } from "../mux/reactor.ts";
import type { NativeSocket } from "../mux/native_socket.ts";

interface Job extends Waiter<number> {
  p: Uint8Array;
  readonly size: number;
  /** Write all of `p`, not just what fits. */
  readonly all: boolean;
  /** Shut down, write nothing. */
  readonly end: boolean;
}

// sys/socket.h
const SHUT_WR = 1;

const DONE = Promise.resolve();
const NOTHING = new Uint8Array(0);

/** Writes of one connection, in order. */
export class NativeWriter {
  readonly #socket: NativeSocket;
  readonly #reactor: Reactor;
  readonly #line = new WaiterQueue<Job>();
  #writable = true;
  #holds = false;
  #deferred = false;
  /** FIN was asked for; nothing can be written any more. */
  #ended: Promise<void> | undefined;

  constructor(socket: NativeSocket) {
    this.#socket = socket;
    this.#reactor = socket.reactor;
  }

  write(p: Uint8Array, signal: AbortSignal | undefined): Promise<number> {
    const size = sizeOf(p);
    if (size === 0 || this.#isFree()) {
      try {
        const n = this.#transmit(p, size);
        if (n !== undefined) return Promise.resolve(n);
      } catch (error) {
        return Promise.reject(error);
      }
    }
    return this.#wait(p, signal, false, false);
  }

  writeAll(p: Uint8Array, signal: AbortSignal | undefined): Promise<void> {
    let rest = p;
    const size = sizeOf(p);
    if (size === 0 || this.#isFree()) {
      try {
        const n = this.#transmit(p, size) ?? 0;
        if (n === size) return DONE;
        rest = viewOf(p, n);
      } catch (error) {
        return Promise.reject(error);
      }
    }
    return this.#wait(rest, signal, true, false).then(() => {});
  }

  tryWrite(p: Uint8Array): number | undefined {
    if (this.#ended !== undefined) throw this.#brokenPipe();
    const size = sizeOf(p);
    if (size > 0) {
      if (this.#holds) return undefined;
      // Nobody tells of room while nobody waits, so the kernel is asked.
      this.#writable = true;
    }
    return this.#transmit(p, size);
  }

  end(): Promise<void> {
    return this.#ended ??= this.#wait(NOTHING, undefined, false, true).then(() => {}, (error) => {
      // FIN was not sent, and can be asked for again.
      this.#ended = undefined;
      throw error;
    });
  }

  /** FIN was sent at once, before the writes in line: the kernel refuses these. */
  markEnded(): void {
    this.#ended ??= DONE;
  }

  /** The reactor tells of room, or of an error. */
  onReady(): void {
    this.#writable = true;
    if (this.#holds) this.#serve();
  }

  /** Wakes all who wait. */
  close(): void {
    for (const job of this.#line.drain()) job.reject(this.#interrupted(job.end));
    this.#updateHold();
  }

  #isFree(): boolean {
    return this.#writable && !this.#holds && this.#ended === undefined && this.#reactor.mayProceed();
  }

  #wait(p: Uint8Array, signal: AbortSignal | undefined, all: boolean, end: boolean): Promise<number> {
    if (this.#ended !== undefined) return Promise.reject(this.#brokenPipe());
    const waiter = new Waiter<number>(signal, () => {
      job.p = NOTHING;
      this.#line.compact();
      this.#updateHold();
      // Who is first now may need no room: FIN.
      if (this.#holds) this.#serve();
    });
    // With its end, which does not follow a buffer that is resized meanwhile.
    const job: Job = Object.assign(waiter, { p: viewOf(p), size: sizeOf(p), all, end });
    this.#line.push(job);
    const first = !this.#holds;
    this.#updateHold();
    if (first) this.#serve();
    return waiter.promise;
  }

  #updateHold(): void {
    const holds = this.#line.first !== undefined;
    if (holds === this.#holds) return;
    this.#holds = holds;
    if (holds) this.#reactor.hold(true);
    else this.#reactor.release(true);
  }

  /** Does what is in line, as far as there is room. */
  #serve(): void {
    for (let job = this.#line.first; job !== undefined; job = this.#line.first) {
      if (!job.end && !this.#writable) break;
      if (!this.#reactor.mayProceed()) {
        this.#defer();
        break;
      }
      try {
        if (job.end) {
          this.#socket.shutdown(SHUT_WR);
          job.resolve(0);
          continue;
        }
        const size = sizeOf(job.p);
        if (size === 0) throw atCaller(new TypeError("p was resized or transferred away while the write waited"));
        const n = this.#transmit(job.p, size);
        if (n === undefined) break;
        if (!job.all || n === size) job.resolve(job.all ? job.size : n);
        else job.p = viewOf(job.p, n);
      } catch (error) {
        job.reject(error);
      }
    }
    this.#updateHold();
    // What only waits for its turn need not be told of anything.
    if (this.#holds && !this.#deferred) this.#register();
  }

  /** Has the reactor tell of room. */
  #register(): void {
    const refusal = this.#socket.register();
    if (refusal === undefined) return;
    for (const job of this.#line.drain()) job.reject(refusal);
    this.#updateHold();
  }

  /** Goes on after a turn of the event loop, because others have had none for long. */
  #defer(): void {
    if (this.#deferred) return;
    this.#deferred = true;
    this.#reactor.defer(() => {
      this.#deferred = false;
      if (this.#holds) this.#serve();
    });
  }

  /** send(2) of `size` bytes; `undefined` if there is no room. Nothing needs no room, and waits for no other call. */
  #transmit(p: Uint8Array, size: number): number | undefined {
    if (size === 0) {
      if (this.#ended !== undefined) throw this.#brokenPipe();
      return 0;
    }
    const n = transmit(this.#socket.fd, p, MSG_NOSIGNAL);
    if (n >= 0) {
      if (n < Math.min(size, LARGEST_TRANSFER)) this.#writable = false;
      return n;
    }
    if (n === -EAGAIN) {
      this.#writable = false;
      return undefined;
    }
    throw socketError(`write to ${this.#socket.name}`, syscallError("send", -n));
  }

  #brokenPipe(): Error {
    return socketError(`write to ${this.#socket.name}`, new SyscallError("send", "EPIPE"), "the write side is closed");
  }

  #interrupted(end: boolean): Error {
    return interruptedError(`${end ? "close the write side of" : "write to"} ${this.#socket.name}`, "connection");
  }
}
