/**
 * The sending side of a connection on the kernel's own socket. What send(2)
 * has taken is the kernel's; a call that is cancelled while it waits has sent
 * nothing since it last waited.
 */

import { sizeOf, viewOf } from "../internal/bytes.ts";
import { socketError, SyscallError } from "../internal/errors.ts";
import { MSG_NOSIGNAL } from "../internal/socket.ts";
import { changedBufferError } from "../internal/validate.ts";
import type { Wait } from "../internal/wait.ts";
import { EAGAIN, LARGEST_TRANSFER, syscallError, transmit } from "../internal/syscall.ts";
import { InterestBit } from "../poll/selector.ts";
import { type Action, Side } from "../poll/side.ts";

/** A write that waits. */
interface Write {
  /** What is left to send, with its end, which does not follow a buffer that is resized meanwhile. */
  p: Uint8Array;
  readonly size: number;
  /** Write all of `p`, not just what fits. */
  readonly all: boolean;
}

/** Shut down, write nothing. */
const FIN = Symbol();

type Job = Write | typeof FIN;

// sys/socket.h
const SHUT_WR = 1;

const WRITING: Action = ["write to", "send"];
const FINISHING: Action = ["close the write side of", "shutdown"];

const DONE = Promise.resolve();

/** Writes of one connection, in order. */
export class NativeWriter extends Side<Job, number> {
  /** FIN was asked for; nothing can be written any more. */
  #ended: Promise<void> | undefined;

  write(p: Uint8Array, wait: Wait | undefined): Promise<number> {
    const size = sizeOf(p);
    if (size === 0 || this.#isFree()) {
      try {
        const n = this.#transmit(p, size);
        if (n !== undefined) return Promise.resolve(n);
      } catch (error) {
        return Promise.reject(error);
      }
    }
    return this.#enter(p, false, wait);
  }

  writeAll(p: Uint8Array, wait: Wait | undefined): Promise<void> {
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
    return this.#enter(rest, true, wait).then(() => {});
  }

  tryWrite(p: Uint8Array): number | undefined {
    if (this.#ended !== undefined) throw this.#brokenPipe();
    const size = sizeOf(p);
    return size > 0 && this.isWaiting ? undefined : this.#transmit(p, size);
  }

  end(): Promise<void> {
    return this.#ended ??= this.wait(FIN, undefined).then(() => {}, (error) => {
      // FIN was not sent, and can be asked for again.
      this.#ended = undefined;
      throw error;
    });
  }

  /** FIN was sent at once, before the waiting writes: the kernel refuses these. */
  markEnded(): void {
    this.#ended ??= DONE;
  }

  protected override get interest(): number {
    return InterestBit.WRITABLE;
  }

  protected override actionOf(job: Job): Action {
    return job === FIN ? FINISHING : WRITING;
  }

  protected override needsReadiness(job: Job): boolean {
    return job !== FIN;
  }

  protected override attempt(job: Job): number | undefined {
    if (job === FIN) {
      this.socket.shutdown(SHUT_WR);
      return 0;
    }
    while (true) {
      const size = sizeOf(job.p);
      if (size === 0) throw changedBufferError();
      const n = this.#transmit(job.p, size);
      if (n === size && job.all) return job.size;
      if (n === undefined || !job.all) return n;
      job.p = viewOf(job.p, n);
      if (!this.isReady) return undefined;
    }
  }

  #isFree(): boolean {
    return this.#ended === undefined && this.mayAttempt;
  }

  #enter(p: Uint8Array, all: boolean, wait: Wait | undefined): Promise<number> {
    if (this.#ended !== undefined) return Promise.reject(this.#brokenPipe());
    return this.wait({ p: viewOf(p), size: sizeOf(p), all }, wait);
  }

  /** send(2) of `size` bytes; `undefined` if there is no room. Nothing needs no room, and waits for no other call. */
  #transmit(p: Uint8Array, size: number): number | undefined {
    if (size === 0) {
      if (this.#ended !== undefined) throw this.#brokenPipe();
      return 0;
    }
    const n = transmit(this.socket.fd, p, MSG_NOSIGNAL);
    if (n >= 0) {
      // Idle sockets are not watched, so what an earlier call has found may be outdated.
      this.isReady = n === Math.min(size, LARGEST_TRANSFER);
      return n;
    }
    if (n === -EAGAIN) {
      this.isReady = false;
      return undefined;
    }
    throw socketError(`write to ${this.socket.name}`, syscallError("send", -n));
  }

  #brokenPipe(): Error {
    return socketError(`write to ${this.socket.name}`, new SyscallError("send", "EPIPE"), "the write side is closed");
  }
}
