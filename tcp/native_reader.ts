/**
 * The receiving side of a connection on the kernel's own socket.
 *
 * Readiness is kept here: the socket is registered edge-triggered, so that
 * after "would block", or after less than was asked for, nothing is tried
 * until the reactor tells of more.
 */

import { sizeOf } from "../internal/bytes.ts";
import { interruptedError, socketError } from "../internal/errors.ts";
import { MSG_PEEK } from "../internal/socket.ts";
import { atCaller, rejectAtAwait } from "../internal/stack.ts";
import { EAGAIN, LARGEST_TRANSFER, receive, syscallError } from "../internal/syscall.ts";
import { Waiter, WaiterQueue } from "../internal/waiters.ts";
import type { Reactor } from "../mux/reactor.ts";
import { ReadyBit } from "../mux/selector.ts";
import type { NativeSocket } from "../mux/native_socket.ts";
import { chunkBuffer, takeChunk } from "./chunk.ts";

interface Read extends Waiter<number | null> {
  readonly p: Uint8Array;
  readonly flags: number;
}

/** A read that brings no buffer: memory is taken when there are bytes. */
interface ChunkRead extends Waiter<Uint8Array<ArrayBuffer> | null> {
  readonly p: undefined;
  readonly flags: 0;
}

type Resolve = (read: number | Uint8Array<ArrayBuffer> | null) => void;

/** In the place of a buffer: the call is a `readChunk`. */
const NO_BUFFER = new Uint8Array(0);

/** Reads of one connection, in order. */
export class NativeReader {
  readonly #socket: NativeSocket;
  readonly #reactor: Reactor;
  /** Something may be there; not known before the first try. */
  #readable = true;
  /** After less than was asked for there may still be more: a FIN or urgent data has been told already. */
  #mayHideMore = false;
  /** Somebody stands in `#line`. */
  #lineHolds = false;
  /**
   * The call that waits when nothing else is going on, without a signal: the
   * usual case, and all it costs is one promise.
   */
  #p: Uint8Array | undefined;
  #resolve!: Resolve;
  #reject!: (reason: unknown) => void;
  readonly #capture = (resolve: (read: never) => void, reject: (reason: unknown) => void): void => {
    this.#resolve = resolve as Resolve;
    this.#reject = reject;
  };
  /** All others. */
  readonly #line = new WaiterQueue<Read | ChunkRead>();
  #deferred = false;
  #ref = true;

  constructor(socket: NativeSocket) {
    this.#socket = socket;
    this.#reactor = socket.reactor;
  }

  read(p: Uint8Array, signal: AbortSignal | undefined): Promise<number | null> {
    if (sizeOf(p) === 0) return Promise.resolve(0);
    if (signal === undefined && this.#p === undefined && !this.#lineHolds) {
      if (this.#readable && this.#reactor.mayProceed()) {
        try {
          const n = this.#receive(p, 0);
          if (n !== undefined) return Promise.resolve(n);
        } catch (error) {
          return Promise.reject(error);
        }
      }
      const refusal = this.#socket.register();
      if (refusal !== undefined) return Promise.reject(refusal);
      this.#p = p;
      this.#reactor.hold(this.#ref);
      if (this.#readable) this.#defer();
      return new Promise(this.#capture);
    }
    return this.#wait(p, signal, 0);
  }

  peek(p: Uint8Array, signal: AbortSignal | undefined): Promise<number | null> {
    if (sizeOf(p) === 0) return Promise.resolve(0);
    return this.#wait(p, signal, MSG_PEEK);
  }

  /** Reads into new memory, and holds none while it waits. */
  readChunk(): Promise<Uint8Array<ArrayBuffer> | null> {
    if (this.#p !== undefined || this.#lineHolds) {
      const waiter = new Waiter<Uint8Array<ArrayBuffer> | null>(undefined, () => {});
      this.#enter(Object.assign(waiter, { p: undefined, flags: 0 } as const));
      return waiter.promise;
    }
    if (this.#readable && this.#reactor.mayProceed()) {
      try {
        const chunk = this.#receiveChunk();
        if (chunk !== undefined) return Promise.resolve(chunk);
      } catch (error) {
        return Promise.reject(error);
      }
    }
    const refusal = this.#socket.register();
    if (refusal !== undefined) return Promise.reject(refusal);
    this.#p = NO_BUFFER;
    this.#reactor.hold(this.#ref);
    if (this.#readable) this.#defer();
    return new Promise(this.#capture);
  }

  tryRead(p: Uint8Array): number | null | undefined {
    if (sizeOf(p) === 0) return 0;
    // Those who wait came first. Nobody tells of news while nobody waits, so the kernel is asked.
    if (this.#p !== undefined || this.#lineHolds) return undefined;
    return this.#receive(p, 0);
  }

  /** The reactor tells of news. */
  onReady(ready: number): void {
    if (ready & (ReadyBit.READ_CLOSED | ReadyBit.ERROR | ReadyBit.PRIORITY)) this.#mayHideMore = true;
    this.#readable = true;
    this.#serve();
  }

  ref(on: boolean): void {
    if (on === this.#ref) return;
    const holds = (this.#p === undefined ? 0 : 1) + (this.#lineHolds ? 1 : 0);
    for (let i = 0; i < holds; i++) this.#reactor.release(this.#ref);
    this.#ref = on;
    for (let i = 0; i < holds; i++) this.#reactor.hold(on);
  }

  /** Wakes all who wait. */
  close(): void {
    if (this.#p !== undefined) {
      this.#release();
      rejectAtAwait(this.#resolve, this.#reject, this.#interrupted(0));
    }
    for (const read of this.#line.drain()) read.reject(this.#interrupted(read.flags));
    this.#updateLineHold();
  }

  #wait(p: Uint8Array, signal: AbortSignal | undefined, flags: number): Promise<number | null> {
    const waiter = new Waiter<number | null>(signal, () => {
      this.#line.compact();
      this.#updateLineHold();
    });
    this.#enter(Object.assign(waiter, { p, flags }));
    return waiter.promise;
  }

  /** Puts a call at the end of the line, and serves it at once if it can be. */
  #enter(read: Read | ChunkRead): void {
    this.#line.push(read);
    this.#updateLineHold();
    this.#serve();
    const refusal = read.settled ? undefined : this.#socket.register();
    if (refusal === undefined) return;
    read.reject(refusal);
    this.#updateLineHold();
  }

  #release(): void {
    this.#p = undefined;
    this.#reactor.release(this.#ref);
  }

  #updateLineHold(): void {
    const holds = this.#line.first !== undefined;
    if (holds === this.#lineHolds) return;
    this.#lineHolds = holds;
    if (holds) this.#reactor.hold(this.#ref);
    else this.#reactor.release(this.#ref);
  }

  /** Goes on after a turn of the event loop, because others have had none for long. */
  #defer(): void {
    if (this.#deferred) return;
    this.#deferred = true;
    this.#reactor.defer(() => {
      this.#deferred = false;
      this.#serve();
    });
  }

  /** Serves those who wait from what is there. */
  #serve(): void {
    const p = this.#p;
    if (p !== undefined && this.#readable) {
      try {
        const n = p === NO_BUFFER ? this.#receiveChunk() : this.#receive(p, 0);
        if (n === undefined) return;
        this.#release();
        this.#resolve(n);
      } catch (error) {
        this.#release();
        rejectAtAwait(this.#resolve, this.#reject, error);
      }
    }
    if (this.#lineHolds) this.#serveLine();
  }

  #serveLine(): void {
    for (let read = this.#line.first; read !== undefined && this.#readable; read = this.#line.first) {
      if (!this.#reactor.mayProceed()) {
        this.#defer();
        break;
      }
      try {
        if (!this.#serveOne(read)) break;
      } catch (error) {
        read.reject(error);
      }
    }
    this.#updateLineHold();
  }

  /** Returns false if nothing is there. */
  #serveOne(read: Read | ChunkRead): boolean {
    if (read.p === undefined) {
      const chunk = this.#receiveChunk();
      if (chunk !== undefined) read.resolve(chunk);
      return chunk !== undefined;
    }
    const n = this.#receive(read.p, read.flags);
    if (n !== undefined) read.resolve(n);
    return n !== undefined;
  }

  #receiveChunk(): Uint8Array<ArrayBuffer> | null | undefined {
    const n = this.#receive(chunkBuffer(), 0);
    return typeof n === "number" ? takeChunk(n) : n;
  }

  /** recv(2); `undefined` if nothing is there. */
  #receive(p: Uint8Array, flags: number): number | null | undefined {
    const length = sizeOf(p);
    // Resized or transferred while the call waited: reading nothing would look like end-of-file.
    if (length === 0) throw atCaller(new TypeError("p was resized or transferred away while the read waited"));
    const n = receive(this.#socket.fd, p, flags);
    if (n > 0) {
      if (n < Math.min(length, LARGEST_TRANSFER) && flags === 0 && !this.#mayHideMore) this.#readable = false;
      return n;
    }
    if (n === 0) return null;
    if (n === -EAGAIN) {
      this.#readable = false;
      return undefined;
    }
    throw socketError(`${flags === 0 ? "read from" : "peek at"} ${this.#socket.name}`, syscallError("recv", -n));
  }

  #interrupted(flags: number): Error {
    return interruptedError(`${flags === 0 ? "read from" : "peek at"} ${this.#socket.name}`, "connection");
  }
}
