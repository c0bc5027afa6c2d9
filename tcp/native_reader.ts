/** The receiving side of a connection on the kernel's own socket. */

import { copyOf, setBytes, sizeOf, viewOf } from "../internal/bytes.ts";
import { socketError, unexpectedEof } from "../internal/errors.ts";
import { MSG_PEEK } from "../internal/socket.ts";
import { changedBufferError, checkSameLength } from "../internal/validate.ts";
import type { Wait } from "../internal/wait.ts";
import { EAGAIN, LARGEST_TRANSFER, receive, syscallError } from "../internal/syscall.ts";
import { InterestBit, ReadyBit } from "../poll/selector.ts";
import { type Action, Side } from "../poll/side.ts";
import { chunkBuffer, takeChunk } from "./chunk.ts";

/** A read that leaves the bytes where they are. */
class Peek {
  constructor(readonly p: Uint8Array) {}
}

/** A read that brings no buffer: memory is allocated when there are bytes. */
const CHUNK = Symbol();

/** A read that fills its buffer. */
class Fill {
  done = 0;
  readonly size: number;

  constructor(readonly p: Uint8Array) {
    this.size = sizeOf(p);
  }
}

/** What a call reads into. */
type Job = Uint8Array | Peek | Fill | typeof CHUNK;

const HIDES_MORE = ReadyBit.READ_CLOSED | ReadyBit.ERROR | ReadyBit.PRIORITY;

const READING: Action = ["read from", "recv"];
const PEEKING: Action = ["peek at", "recv"];

/** Reads of one connection, in order. */
export class NativeReader extends Side<Job, number | Uint8Array<ArrayBuffer> | null> {
  /** What a call has received and not delivered, since it has failed: the next one gets it. */
  #unread: Uint8Array<ArrayBuffer> | undefined;

  read(p: Uint8Array, wait: Wait | undefined): Promise<number | null> {
    return sizeOf(p) === 0 ? Promise.resolve(0) : this.call(p, wait);
  }

  peek(p: Uint8Array, wait: Wait | undefined): Promise<number | null> {
    return sizeOf(p) === 0 ? Promise.resolve(0) : this.call(new Peek(p), wait);
  }

  /** Reads as much as `p` has room for, or nothing; `null` if the peer has finished before. */
  readFull(p: Uint8Array, wait: Wait | undefined): Promise<number | null> {
    return sizeOf(p) === 0 ? Promise.resolve(0) : this.call(new Fill(p), wait);
  }

  /** Bytes that were received, and that no call has delivered. */
  get unread(): number {
    return this.#unread?.length ?? 0;
  }

  /** Reads into new memory, and holds none while it waits. */
  readChunk(): Promise<Uint8Array<ArrayBuffer> | null> {
    return this.call(CHUNK, undefined);
  }

  tryRead(p: Uint8Array): number | null | undefined {
    return sizeOf(p) === 0 ? 0 : this.tryCall<number | null>(p);
  }

  protected override get interest(): number {
    return InterestBit.READABLE;
  }

  protected override isReadyNow(): boolean {
    return this.#unread !== undefined || super.isReadyNow();
  }

  protected override actionOf(job: Job): Action {
    return job instanceof Peek ? PEEKING : READING;
  }

  protected override attempt(job: Job): number | Uint8Array<ArrayBuffer> | null | undefined {
    if (job === CHUNK) {
      const n = this.#receive(chunkBuffer(), 0);
      return typeof n === "number" ? takeChunk(n) : n;
    }
    if (job instanceof Peek) return this.#receive(job.p, MSG_PEEK);
    return job instanceof Fill ? this.#fill(job) : this.#receive(job, 0);
  }

  protected override needsReadiness(): boolean {
    return this.#unread === undefined;
  }

  protected override onCancelled(job: Job): void {
    if (job instanceof Fill) this.#giveBack(job);
  }

  /** Receives what is missing, as far as it is there. */
  #fill(job: Fill): number | null | undefined {
    try {
      while (job.done < job.size) {
        checkSameLength(job.p, job.size);
        const n = this.#receive(viewOf(job.p, job.done), 0);
        if (n === undefined || (n === null && job.done === 0)) return n;
        if (n === null) throw unexpectedEof(`read from ${this.socket.name}`, job.done, job.size);
        job.done += n;
        if (job.done < job.size && !this.isReady && this.#unread === undefined) return undefined;
      }
      return job.size;
    } catch (error) {
      this.#giveBack(job);
      throw error;
    }
  }

  /** Keeps what was received for a call that gets nothing. */
  #giveBack({ p, done }: Fill): void {
    // Of a buffer that is gone nothing can be kept.
    if (done > 0 && sizeOf(p) >= done) this.#unread = copyOf(viewOf(p, 0, done));
  }

  #takeUnread(unread: Uint8Array<ArrayBuffer>, p: Uint8Array, isPeek: boolean): number {
    const n = Math.min(unread.length, sizeOf(p));
    setBytes(p, unread.subarray(0, n));
    if (!isPeek) this.#unread = n < unread.length ? unread.subarray(n) : undefined;
    return n;
  }

  /** recv(2); `undefined` if nothing is there. */
  #receive(p: Uint8Array, flags: number): number | null | undefined {
    const length = sizeOf(p);
    // Resized or transferred while the call waited: reading nothing would look like end-of-file.
    if (length === 0) throw changedBufferError();
    if (this.#unread !== undefined) return this.#takeUnread(this.#unread, p, flags !== 0);
    const n = receive(this.socket.fd, p, flags);
    if (n > 0) {
      // Less than was asked for: nothing is left, so a second recv(2) would be in vain. But after a FIN, an error or urgent
      // data, of which the kernel has told already, there may be more.
      if (n < Math.min(length, LARGEST_TRANSFER) && flags === 0 && (this.socket.told & HIDES_MORE) === 0) {
        this.isReady = false;
      }
      return n;
    }
    if (n === 0) return null;
    if (n === -EAGAIN) {
      this.isReady = false;
      return undefined;
    }
    throw socketError(`${flags === 0 ? "read from" : "peek at"} ${this.socket.name}`, syscallError("recv", -n));
  }
}
