/** The receiving side of a connection on the kernel's own socket. */

import { setBytes, sizeOf, viewOf } from "../internal/bytes.ts";
import { socketError, unexpectedEof } from "../internal/errors.ts";
import { MSG_PEEK } from "../internal/socket.ts";
import { changedBufferError, checkSameLength } from "../internal/validate.ts";
import type { Wait } from "../internal/wait.ts";
import { EAGAIN, LARGEST_TRANSFER, receive, syscallError } from "../internal/syscall.ts";
import { InterestBit, ReadyBit } from "../poll/selector.ts";
import { type Action, Side } from "../poll/side.ts";
import { chunkBuffer, takeChunk } from "./chunk.ts";
import { UnreadBytes } from "./unread_bytes.ts";

/** A read that leaves the bytes where they are. */
class Peek {
  constructor(readonly p: Uint8Array) {}
}

/** A read that brings no buffer: memory is allocated when there are bytes. */
const CHUNK = Symbol();

/** A read that fills its buffer. */
class Fill {
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
  /**
   * A call that fills its buffer waits for the rest, or has failed since: what came is kept here, and not in that buffer,
   * which is its caller's. Made when that happens.
   */
  #unread: UnreadBytes | undefined;

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
    return this.#unread?.size ?? 0;
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
    return this.unread > 0 || super.isReadyNow();
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

  protected override needsReadiness(job: Job): boolean {
    return this.unread < (job instanceof Fill ? job.size : 1);
  }

  #fill({ p, size }: Fill): number | null | undefined {
    checkSameLength(p, size);
    if (this.#unread === undefined) {
      const n = this.#recv(p, 0);
      if (n === undefined || n === null || n === size) return n;
      this.#unread = new UnreadBytes();
      setBytes(this.#unread.room(size), viewOf(p, 0, n));
      this.#unread.add(n);
      if (!this.isReady) return undefined;
    }
    const unread = this.#unread;
    while (unread.size < size) {
      const n = this.#recv(viewOf(unread.room(size), 0, size - unread.size), 0);
      if (n === undefined) return undefined;
      if (n === null) throw unexpectedEof(`read from ${this.socket.name}`, unread.size, size);
      unread.add(n);
      if (!this.isReady && unread.size < size) return undefined;
    }
    return this.#takeUnread(unread, p, false);
  }

  #takeUnread(unread: UnreadBytes, p: Uint8Array, isPeek: boolean): number {
    const n = unread.copyTo(p, isPeek);
    if (unread.size === 0) this.#unread = undefined;
    return n;
  }

  #receive(p: Uint8Array, flags: number): number | null | undefined {
    // Resized or transferred while the call waited: reading nothing would look like end-of-file.
    if (sizeOf(p) === 0) throw changedBufferError();
    return this.#unread === undefined ? this.#recv(p, flags) : this.#takeUnread(this.#unread, p, flags !== 0);
  }

  /** recv(2); `undefined` if nothing is there. */
  #recv(p: Uint8Array, flags: number): number | null | undefined {
    const n = receive(this.socket.fd, p, flags);
    if (n > 0) {
      // Less than was asked for: nothing is left, so a second recv(2) would be in vain. But after a FIN, an error or urgent
      // data, of which the kernel has told already, there may be more.
      const isShort = n < Math.min(sizeOf(p), LARGEST_TRANSFER);
      if (isShort && flags === 0 && (this.socket.told & HIDES_MORE) === 0) this.isReady = false;
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
