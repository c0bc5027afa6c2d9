/**
 * The sending side of a connection on Deno's own operations.
 *
 * A write that Deno has begun cannot be taken back either. So a call that can
 * be cancelled (with a signal or a time limit) and `tryWrite` hand Deno a copy, and once such
 * a copy is on its way all of it is sent, even if its caller gave up: the
 * stream of bytes stays whole.
 */

import { copyOf, plainOf, sizeOf, viewOf } from "../internal/bytes.ts";
import { closedMeanwhileError, codeOf, fromRuntimeError, socketError, SyscallError } from "../internal/errors.ts";
import { again } from "../internal/stack.ts";
import { CallQueue, PendingCall } from "../internal/call_queue.ts";
import { changedBufferError, checkSameLength } from "../internal/validate.ts";
import type { Wait } from "../internal/wait.ts";
import { type Readiness, readinessOf, readyAtOnce } from "../poll/readiness.ts";
import { InterestBit, ReadyBit } from "../poll/selector.ts";
import { nameOf, type RuntimeSocket } from "./stream_socket.ts";

/** The largest copy that is on its way at a time, and that waits behind it, in bytes. */
const CHUNK = 64 * 1024;

/** How long `close()` goes on sending what `tryWrite` took, in milliseconds. */
const LINGER = 5_000;

/** What shutdown(2) reports of a connection that is gone already. */
const LOST = [Deno.errors.NotConnected, Deno.errors.ConnectionReset, Deno.errors.ConnectionAborted];

const NOTHING = new Uint8Array(0);

/** What a call does: write what fits or all, send FIN, or wait until there is room. */
type Kind = "part" | "all" | "end" | "ready";

/** What each does, in the words of an error, and by which system call. */
const ACTIONS: Readonly<Record<Kind, readonly [action: string, syscall: string]>> = {
  part: ["write to", "send"],
  all: ["write to", "send"],
  end: ["close the write side of", "shutdown"],
  ready: ["wait for", "epoll_wait"],
};

interface Job extends PendingCall<number> {
  p: Uint8Array;
  readonly size: number;
  readonly kind: Kind;
  readonly copies: boolean;
}

/** Writes of one connection, in order. */
export class RuntimeWriter {
  /** Told when what {@linkcode RuntimeWriter.poll} says may be another thing. */
  onChange: (() => void) | undefined;
  readonly #conn: RuntimeSocket;
  readonly #waiting = new CallQueue<Job>();
  #busy = false;
  #closed = false;
  /** FIN was asked for; nothing can be written any more. */
  #ended: Promise<void> | undefined;
  #hasEnded = false;
  /** What went wrong with bytes that nobody waits for, kept for the next call. */
  #failure: Error | undefined;
  /** Bytes that `tryWrite` took and Deno has not sent yet. */
  #sending: Promise<void> | undefined;
  /** What it took meanwhile: `#gathered` from 0 to `#size`. */
  #gathered: Uint8Array = NOTHING;
  #size = 0;

  /** Settles the write that Deno is busy with; there is one at a time. */
  #resolve: (n: number) => void = () => {};
  #reject: (reason: unknown) => void = () => {};
  readonly #capture = (resolve: (n: number) => void, reject: (reason: unknown) => void): void => {
    this.#resolve = resolve;
    this.#reject = reject;
  };
  readonly #onWritten = (n: number): void => this.#resolve(n);
  readonly #onFailure = (error: unknown): void => this.#reject(error);

  constructor(conn: RuntimeSocket) {
    this.#conn = conn;
  }

  write(p: Uint8Array, wait: Wait | undefined): Promise<number> {
    if (sizeOf(p) === 0) return this.writeAll(p, wait).then(() => 0);
    if (this.#isFree(wait)) return this.#writeDirect(p);
    return this.#wait(p, wait, "part");
  }

  async writeAll(p: Uint8Array, wait: Wait | undefined): Promise<void> {
    const size = sizeOf(p);
    // Nothing needs no room, and waits for no other call: send(2) returns 0 at once.
    if (size === 0) return this.#checkWrite();
    if (!this.#isFree(wait)) {
      await this.#wait(p, wait, "all");
      return;
    }
    // As #push does, with one promise less in the common case that nothing else is going on.
    this.#busy = true;
    try {
      let sent = await this.#give(plainOf(p));
      while (sent < size) {
        checkSameLength(p, size);
        sent += await this.#give(viewOf(p, sent));
      }
    } catch (error) {
      throw this.#failed(error);
    } finally {
      this.#next();
    }
  }

  tryWrite(p: Uint8Array): number | undefined {
    this.#checkWrite();
    const size = sizeOf(p);
    if (size === 0) return 0;
    if ((this.#busy && this.#sending === undefined) || this.#waiting.first !== undefined) return undefined;
    if (this.#sending !== undefined) return this.#gather(p, size);
    const copy = copyOf(p, Math.min(size, CHUNK));
    this.#busy = true;
    this.#sending = this.#sendAlone(copy);
    return copy.length;
  }

  /** Takes what fits behind the copy that is on its way. */
  #gather(p: Uint8Array, size: number): number | undefined {
    const n = Math.min(size, CHUNK - this.#size);
    if (n === 0) return undefined;
    if (this.#gathered.length < this.#size + n) {
      const larger = new Uint8Array(Math.min(Math.max(2 * (this.#size + n), 4096), CHUNK));
      larger.set(viewOf(this.#gathered, 0, this.#size));
      this.#gathered = larger;
    }
    this.#gathered.set(n === size ? p : viewOf(p, 0, n), this.#size);
    this.#size += n;
    return n;
  }

  /** What is ready, as bits of `ReadyBit`. */
  poll(): number {
    if (this.#failure !== undefined) return ReadyBit.WRITABLE | ReadyBit.ERROR;
    if ((this.#busy && this.#sending === undefined) || this.#waiting.first !== undefined) return 0;
    return this.#size < CHUNK ? ReadyBit.WRITABLE : 0;
  }

  /** There is room, and nobody waits for it. */
  get isKnownReady(): boolean {
    return this.poll() !== 0;
  }

  /** Waits until there is room, or a failure to be told. */
  async ready(wait: Wait | undefined): Promise<Readiness> {
    if (this.isKnownReady) return await readyAtOnce(this.#readiness());
    await this.#wait(NOTHING, wait, "ready");
    return this.#readiness();
  }

  #readiness(): Readiness {
    return readinessOf(ReadyBit.WRITABLE | this.poll(), InterestBit.WRITABLE);
  }

  /** FIN was sent. */
  get hasEnded(): boolean {
    return this.#hasEnded;
  }

  /** A caller waits. */
  get isWaiting(): boolean {
    return (this.#busy && this.#sending === undefined) || this.#waiting.first !== undefined;
  }

  end(): Promise<void> {
    return this.#ended ??= this.#wait(NOTHING, undefined, "end").then(() => {});
  }

  /** Refuses further writes at once, wakes those that wait, and closes the connection when that loses nothing. */
  close(close: () => void): void {
    this.#closed = true;
    for (const job of this.#waiting.drain()) job.reject(this.#interrupted(job.kind));
    if (this.#sending === undefined) {
      close();
      // Deno before 2.9 leaves a write pending forever when its connection is closed.
      this.#reject(this.#interrupted("part"));
      return;
    }
    // What tryWrite took is sent after close(), as the kernel does with what is in its buffer.
    const timer = setTimeout(close, LINGER);
    this.#sending.then(() => {
      clearTimeout(timer);
      close();
    });
  }

  /** Has Deno write what fits; `close()` ends the wait. */
  #give(p: Uint8Array): Promise<number> {
    this.#conn.write(p).then(this.#onWritten, this.#onFailure);
    return new Promise(this.#capture);
  }

  #isFree(wait: Wait | undefined): boolean {
    return wait === undefined && !this.#busy && this.#ended === undefined && this.#failure === undefined &&
      this.#waiting.first === undefined;
  }

  #wait(p: Uint8Array, wait: Wait | undefined, kind: Kind): Promise<number> {
    if (kind !== "ready" && this.#ended !== undefined) return Promise.reject(this.#brokenPipe());
    const waiter = new PendingCall<number>(wait, () => `${ACTIONS[kind][0]} ${nameOf(this.#conn)}`, () => {
      job.p = NOTHING;
      this.#waiting.compact();
    });
    const job: Job = Object.assign(waiter, { p, size: sizeOf(p), kind, copies: wait !== undefined });
    this.#waiting.push(job);
    if (!this.#busy) this.#next();
    return waiter.promise;
  }

  /** Begins the next job in line, if there is one; whoever is busy calls this when done. */
  #next(): void {
    this.#busy = false;
    const job = this.#closed ? undefined : this.#waiting.shift();
    if (job !== undefined) this.#run(job);
    else this.onChange?.();
  }

  async #run(job: Job): Promise<void> {
    this.#busy = true;
    try {
      const n = job.kind === "ready" ? 0 : await this.#do(job);
      if (!job.settled) job.resolve(n);
    } catch (error) {
      if (!job.settled) job.reject(error);
      else this.#failure = error as Error;
    }
    this.#next();
  }

  async #do(job: Job): Promise<number> {
    this.#throwFailure();
    if (job.kind === "end") {
      await this.#shutdown();
      this.#hasEnded = true;
      return 0;
    }
    if (!job.settled) checkSameLength(job.p, job.size);
    return job.copies ? await this.#writeCopies(job) : await this.#push(job.p, job.kind === "all");
  }

  /** Throws if nothing can be written any more, not even nothing. */
  #checkWrite(): void {
    this.#throwFailure();
    if (this.#ended !== undefined) throw this.#brokenPipe();
  }

  async #writeDirect(p: Uint8Array): Promise<number> {
    this.#busy = true;
    try {
      return await this.#push(p, false);
    } finally {
      this.#next();
    }
  }

  async #writeCopies(job: Job): Promise<number> {
    const { size } = job;
    let sent = 0;
    do {
      if (!job.settled) checkSameLength(job.p, size);
      const copy = copyOf(viewOf(job.p, sent, Math.min(sent + CHUNK, size)));
      await this.#push(copy, true);
      sent += copy.length;
      if (job.settled || job.kind !== "all" || sent >= size) return sent;
      if (this.#closed) throw this.#interrupted(job.kind);
    } while (true);
  }

  /** Sends what nobody waits for. */
  async #sendAlone(copy: Uint8Array): Promise<void> {
    try {
      await this.#push(copy, true);
      while (this.#size > 0) {
        const next = viewOf(this.#gathered, 0, this.#size);
        this.#gathered = NOTHING;
        this.#size = 0;
        this.onChange?.();
        await this.#push(next, true);
      }
    } catch (error) {
      this.#failure = error as Error;
      this.#size = 0;
    } finally {
      this.#sending = undefined;
      this.#next();
    }
  }

  /** Writes what fits, or all. */
  async #push(p: Uint8Array, all: boolean): Promise<number> {
    const size = sizeOf(p);
    let sent = 0;
    try {
      do {
        checkSameLength(p, size);
        sent += await this.#give(sent === 0 ? plainOf(p) : viewOf(p, sent));
      } while (all && sent < size);
    } catch (error) {
      throw this.#failed(error);
    }
    return sent;
  }

  async #shutdown(): Promise<void> {
    try {
      await this.#conn.closeWrite();
    } catch (error) {
      if (this.#closed) throw this.#interrupted("end");
      // A connection that the peer has reset has no side left to close: ENOTCONN, or on Windows what it was lost by.
      if (!LOST.some((ErrorClass) => error instanceof ErrorClass)) {
        throw fromRuntimeError(error, `close the write side of ${nameOf(this.#conn)}`, "shutdown");
      }
    }
  }

  #throwFailure(): void {
    const failure = this.#failure;
    this.#failure = undefined;
    if (failure !== undefined) throw again(failure);
  }

  #failed(error: unknown): Error {
    if (codeOf(error) === "EFAULT") return changedBufferError();
    return this.#closed ? this.#interrupted("part") : fromRuntimeError(error, `write to ${nameOf(this.#conn)}`, "send");
  }

  #brokenPipe(): Error {
    return socketError(
      `write to ${nameOf(this.#conn)}`,
      new SyscallError("send", "EPIPE"),
      "the write side is closed",
    );
  }

  #interrupted(kind: Kind): Error {
    const [action, syscall] = ACTIONS[kind];
    return closedMeanwhileError(`${action} ${nameOf(this.#conn)}`, "connection", syscall);
  }
}
