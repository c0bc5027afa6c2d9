/**
 * The receiving side of a connection on Deno's own operations.
 *
 * A read that Deno has begun cannot be taken back. So only a call that cannot
 * be cancelled reads straight into its caller's buffer; all others (with a
 * signal or a time limit, `peek`, `readFull`, `tryRead`) go through a buffer of
 * our own that runs ahead by one read, and what a cancelled call leaves there
 * belongs to the next one.
 */

import { plainOf, sizeOf, viewOf } from "../internal/bytes.ts";
import { closedMeanwhileError, codeOf, fromRuntimeError, unexpectedEof } from "../internal/errors.ts";
import { RefSwitch } from "../internal/ref_switch.ts";
import { again, rejectAtAwait } from "../internal/stack.ts";
import { CallQueue, PendingCall } from "../internal/call_queue.ts";
import { changedBufferError, checkSameLength } from "../internal/validate.ts";
import type { Wait } from "../internal/wait.ts";
import { type Readiness, readinessOf, readyAtOnce } from "../poll/readiness.ts";
import { InterestBit, ReadyBit } from "../poll/selector.ts";
import { CHUNK } from "./chunk.ts";
import { nameOf, type RuntimeSocket } from "./stream_socket.ts";
import { UnreadBytes } from "./unread_bytes.ts";

/** Smallest and largest read that runs ahead, in bytes. */
const MIN_AHEAD = 16 * 1024;
const MAX_AHEAD = 64 * 1024;

/** The smallest chunk of a stream, in bytes. */
const MIN_CHUNK = 4 * 1024;

const NOTHING = new Uint8Array(0);

/** What a call takes: what is there, a look at it, all that `p` has room for, or nothing. */
type Kind = "read" | "peek" | "full" | "ready";

/** What comes of it. */
type Result = number | null | Readiness;

interface Read extends PendingCall<Result> {
  readonly p: Uint8Array;
  readonly kind: Kind;
  /** Bytes of `p` when the call began. */
  readonly size: number;
  /** It cannot be taken back, and is no peek: Deno may write into `p` itself. */
  readonly direct: boolean;
}

/** Reads of one connection, in order. */
export class RuntimeReader {
  /** Told when what {@linkcode RuntimeReader.poll} says may be another thing. */
  onChange: (() => void) | undefined;
  readonly #conn: RuntimeSocket;
  readonly #waiting = new CallQueue<Read>();
  /** A read of Deno's is under way. */
  #busy = false;
  /** It is one that runs ahead. */
  #ahead = false;
  /** It is a caller's own, who waits. */
  #direct = false;
  #p: Uint8Array = NOTHING;
  #resolve!: (n: number | null) => void;
  #reject!: (reason: unknown) => void;
  // Made once a connection, not once a read.
  readonly #capture = (resolve: (n: number | null) => void, reject: (reason: unknown) => void): void => {
    this.#resolve = resolve;
    this.#reject = reject;
  };
  readonly #onRead = (n: number | null): void => {
    if (n === 0 && this.#direct && sizeOf(this.#p) > 0) {
      // Deno reads nothing into a buffer whose `length` is 0 at that moment, which an accessor can pretend.
      this.#conn.read(viewOf(this.#p)).then(this.#onRead, this.#onFailure);
      return;
    }
    this.#busy = false;
    if (!this.#direct) return;
    this.#direct = false;
    if (n === null) this.#finished = true;
    // Deno has written to the memory that was the buffer's.
    if (n !== null && n > sizeOf(this.#p)) rejectAtAwait(this.#resolve, this.#reject, changedBufferError());
    else this.#resolve(n);
    this.#pump();
    this.onChange?.();
  };
  readonly #onFailure = (error: unknown): void => {
    this.#busy = false;
    if (!this.#direct) return;
    this.#direct = false;
    // Memory that was given back cannot be written to.
    const isMoved = codeOf(error) === "EFAULT";
    this.#hasFailed ||= !isMoved;
    const failure = isMoved ? changedBufferError() : fromRuntimeError(error, `read from ${nameOf(this.#conn)}`, "recv");
    rejectAtAwait(this.#resolve, this.#reject, failure);
    this.#pump();
    this.onChange?.();
  };
  #closed = false;
  /** What was read ahead. */
  readonly #unread = new UnreadBytes();
  #finished = false;
  /** A read has failed, after which the connection is down on both sides. */
  #hasFailed = false;
  /** A read-ahead's failure, kept for the next call. */
  #failure: Error | undefined;
  /** Size of the next chunk of a stream, in bytes. */
  #chunkSize = MIN_CHUNK;
  #wantsRef = true;
  readonly #ref: RefSwitch;

  constructor(conn: RuntimeSocket) {
    this.#conn = conn;
    this.#ref = new RefSwitch(conn);
  }

  read(p: Uint8Array, wait: Wait | undefined): Promise<number | null> {
    if (sizeOf(p) === 0) return Promise.resolve(0);
    if (wait === undefined && !this.#busy && this.#unread.size === 0 && this.#isFresh()) {
      return this.#readDirect(p);
    }
    return this.#wait(p, wait, "read");
  }

  peek(p: Uint8Array, wait: Wait | undefined): Promise<number | null> {
    if (sizeOf(p) === 0) return Promise.resolve(0);
    return this.#wait(p, wait, "peek");
  }

  readFull(p: Uint8Array, wait: Wait | undefined): Promise<number | null> {
    if (sizeOf(p) === 0) return Promise.resolve(0);
    return this.#wait(p, wait, "full");
  }

  /** Waits for bytes, end-of-file or a failure; holds a buffer as small as that of an idle stream. */
  ready(wait: Wait | undefined): Promise<Readiness> {
    if (this.isKnownReady) return readyAtOnce(this.#readiness());
    return this.#wait(NOTHING, wait, "ready");
  }

  /** There is something to take, and nobody waits for it. */
  get isKnownReady(): boolean {
    return this.#waiting.first === undefined && this.#isReady;
  }

  get #isReady(): boolean {
    return this.#unread.size > 0 || this.#failure !== undefined || this.#finished;
  }

  /**
   * Reads into new memory. Deno needs the buffer before there are bytes, so its size follows those that came before:
   * an idle connection holds a small one.
   */
  async readChunk(): Promise<Uint8Array<ArrayBuffer> | null> {
    const size = this.#chunkSize;
    const p = new Uint8Array(size);
    const n = await this.read(p, undefined);
    if (n === null) return null;
    if (n === size) this.#chunkSize = Math.min(size * 4, CHUNK);
    else if (n <= size / 4) this.#chunkSize = Math.max(size / 4, MIN_CHUNK);
    return n < size / 2 ? p.slice(0, n) : p.subarray(0, n);
  }

  tryRead(p: Uint8Array): number | null | undefined {
    if (sizeOf(p) === 0) return 0;
    // Those who wait came first, and they wait because there is nothing.
    if (this.#waiting.first !== undefined) return undefined;
    const n = this.#take(p, "read");
    if (n === undefined && !this.#busy) this.#readAhead(sizeOf(p));
    return n;
  }

  /**
   * What is ready, as bits of `ReadyBit`; if nothing is, a read begins that runs ahead. If it is `forTrouble`, reads go
   * on as long as the buffer has room: nobody takes what arrives, and an error may be behind it.
   */
  poll(forTrouble = false): number {
    if (this.#waiting.first !== undefined) return 0;
    const unread = this.#unread.size;
    if (unread > 0 && !forTrouble) return ReadyBit.READABLE;
    if (this.#failure !== undefined) return ReadyBit.READABLE | ReadyBit.READ_CLOSED | ReadyBit.ERROR;
    if (this.#finished) return ReadyBit.READABLE | ReadyBit.READ_CLOSED;
    if (!this.#busy && unread < MIN_AHEAD) this.#readAhead(MIN_AHEAD);
    return unread > 0 ? ReadyBit.READABLE : 0;
  }

  /** A read has failed, after which the connection is down on both sides. */
  get hasFailed(): boolean {
    return this.#hasFailed;
  }

  /** A caller waits. */
  get isWaiting(): boolean {
    return this.#direct || this.#waiting.first !== undefined;
  }

  ref(on: boolean): void {
    this.#wantsRef = on;
    this.#updateRef();
  }

  close(): void {
    this.#closed = true;
    this.#unread.clear();
    if (this.#direct) {
      // Deno's own read ends with the connection, which close() may keep for what is still to be sent.
      this.#direct = false;
      rejectAtAwait(this.#resolve, this.#reject, this.#interrupted("read"));
    }
    for (const read of this.#waiting.drain()) read.reject(this.#interrupted(read.kind));
  }

  #isFresh(): boolean {
    return !this.#finished && this.#failure === undefined && this.#waiting.first === undefined;
  }

  #wait<R extends Result>(p: Uint8Array, wait: Wait | undefined, kind: Kind): Promise<R> {
    const waiter = new PendingCall<Result>(wait, () => this.#describe(kind), () => {
      this.#waiting.compact();
      this.#pump();
      this.#updateRef();
    });
    const read = Object.assign(waiter, { p, kind, size: sizeOf(p), direct: wait === undefined && kind === "read" });
    this.#waiting.push(read);
    this.#pump();
    this.#updateRef();
    return waiter.promise as Promise<R>;
  }

  /** Serves the line from what is there, and starts a read for its first if nothing is. */
  #pump(): void {
    for (let read = this.#waiting.first; read !== undefined; read = this.#waiting.first) {
      let n: number | null | undefined;
      try {
        n = read.kind === "full" ? this.#takeAll(read) : this.#take(read.p, read.kind);
      } catch (error) {
        read.reject(error);
        continue;
      }
      if (n !== undefined) {
        read.resolve(read.kind === "ready" ? this.#readiness() : n);
      } else if (this.#busy || this.#closed) {
        return;
      } else if (read.direct) {
        this.#waiting.shift();
        this.#readDirect(read.p).then((n) => read.resolve(n), (error) => read.reject(error));
        return;
      } else {
        if (read.kind === "ready") this.#readAhead(this.#chunkSize, MIN_CHUNK);
        else this.#readAhead(sizeOf(read.p));
        return;
      }
    }
  }

  /** Takes as much as there is room for once that is there; `undefined` until then. */
  #takeAll({ p, size }: Read): number | null | undefined {
    checkSameLength(p, size);
    const available = this.#unread.size;
    if (available >= size || available === 0) return this.#take(p, "read");
    if (this.#finished) throw unexpectedEof(`read from ${nameOf(this.#conn)}`, available, size);
    if (this.#failure !== undefined) throw this.#takeFailure();
    return undefined;
  }

  #takeFailure(): Error {
    const failure = this.#failure as Error;
    this.#failure = undefined;
    return again(failure);
  }

  /** Takes what was read ahead; `undefined` if that is nothing yet. */
  #take(p: Uint8Array, kind: Kind): number | null | undefined {
    if (kind === "ready") return this.#isReady ? 0 : undefined;
    const size = sizeOf(p);
    // Resized or transferred while the call waited: reading nothing would lose no byte, but tell the caller so.
    if (size === 0) throw changedBufferError();
    if (this.#unread.size > 0) {
      const n = this.#unread.copyTo(p, kind === "peek");
      // What one large message has needed is not kept for an idle connection.
      if (this.#unread.size === 0 && !this.#busy && this.#unread.capacity > MAX_AHEAD) this.#unread.clear();
      // The kernel shows more to the next peek as more arrives, so this does too.
      else if (n < size && !this.#busy && !this.#finished && this.#failure === undefined) this.#readAhead(size);
      return n;
    }
    if (this.#failure !== undefined) throw this.#takeFailure();
    return this.#finished ? null : undefined;
  }

  #readDirect(p: Uint8Array): Promise<number | null> {
    this.#busy = this.#direct = true;
    this.#p = p;
    this.#conn.read(plainOf(p)).then(this.#onRead, this.#onFailure);
    return new Promise(this.#capture);
  }

  /** Reads into the buffer, so that `wanted` bytes fit into it at least. */
  async #readAhead(wanted: number, least = MIN_AHEAD): Promise<void> {
    const room = this.#unread.room(Math.max(least, this.#unread.size > 0 ? wanted : Math.min(wanted, MAX_AHEAD)));
    this.#busy = this.#ahead = true;
    this.#updateRef();
    try {
      const n = await this.#conn.read(room);
      if (this.#closed) return;
      if (n === null) this.#finished = true;
      else this.#unread.add(n);
    } catch (error) {
      this.#hasFailed = true;
      if (!this.#closed) this.#failure = fromRuntimeError(error, `read from ${nameOf(this.#conn)}`, "recv");
    } finally {
      this.#busy = this.#ahead = false;
    }
    this.#pump();
    this.#updateRef();
    this.onChange?.();
  }

  #readiness(): Readiness {
    let ready: number = ReadyBit.READABLE;
    if (this.#finished || this.#failure !== undefined) ready |= ReadyBit.READ_CLOSED;
    if (this.#failure !== undefined) ready |= ReadyBit.ERROR | ReadyBit.WRITE_CLOSED;
    return readinessOf(ready, InterestBit.READABLE);
  }

  /** A read that runs ahead for nobody must not keep the process alive. */
  #updateRef(): void {
    if (this.#closed) return;
    this.#ref.set(this.#wantsRef && !(this.#ahead && this.#waiting.first === undefined));
  }

  #interrupted(kind: Kind): Error {
    return closedMeanwhileError(this.#describe(kind), "connection", kind === "ready" ? "epoll_wait" : "recv");
  }

  #describe(kind: Kind): string {
    return `${kind === "ready" ? "wait for" : kind === "peek" ? "peek at" : "read from"} ${nameOf(this.#conn)}`;
  }
}
