/** The receiving side of a connection on the kernel's own socket. */

import { sizeOf } from "../internal/bytes.ts";
import { interruptedError, socketError } from "../internal/errors.ts";
import { MSG_PEEK } from "../internal/socket.ts";
import { atCaller } from "../internal/stack.ts";
import { EAGAIN, LARGEST_TRANSFER, receive, syscallError } from "../internal/syscall.ts";
import { ReadyBit } from "../poll/selector.ts";
import { Side } from "../poll/side.ts";
import { chunkBuffer, takeChunk } from "./chunk.ts";

/** A read that leaves the bytes where they are. */
class Peek {
  constructor(readonly p: Uint8Array) {}
}

/** A read that brings no buffer: memory is allocated when there are bytes. */
const CHUNK = Symbol();

/** What a call reads into. */
type Job = Uint8Array | Peek | typeof CHUNK;

/** Reads of one connection, in order. */
export class NativeReader extends Side<Job, number | Uint8Array<ArrayBuffer> | null> {
  /** After less than was asked for there may still be more: a FIN or urgent data has been reported already. */
  #mayHideMore = false;

  read(p: Uint8Array, signal: AbortSignal | undefined): Promise<number | null> {
    return sizeOf(p) === 0 ? Promise.resolve(0) : this.call(p, signal);
  }

  peek(p: Uint8Array, signal: AbortSignal | undefined): Promise<number | null> {
    return sizeOf(p) === 0 ? Promise.resolve(0) : this.call(new Peek(p), signal);
  }

  /** Reads into new memory, and holds none while it waits. */
  readChunk(): Promise<Uint8Array<ArrayBuffer> | null> {
    return this.call(CHUNK, undefined);
  }

  tryRead(p: Uint8Array): number | null | undefined {
    return sizeOf(p) === 0 ? 0 : this.tryCall<number | null>(p);
  }

  /** An event of the reactor, with its bits of `ReadyBit`. */
  override onReady(ready: number = ReadyBit.READABLE): void {
    if (ready & (ReadyBit.READ_CLOSED | ReadyBit.ERROR | ReadyBit.PRIORITY)) this.#mayHideMore = true;
    super.onReady();
  }

  /** Rejects all waiting calls: the connection is closed. */
  interrupt(): void {
    this.close((job) =>
      interruptedError(`${job instanceof Peek ? "peek at" : "read from"} ${this.socket.name}`, "connection", "recv")
    );
  }

  protected override attempt(job: Job): number | Uint8Array<ArrayBuffer> | null | undefined {
    if (job === CHUNK) {
      const n = this.#receive(chunkBuffer(), 0);
      return typeof n === "number" ? takeChunk(n) : n;
    }
    return job instanceof Peek ? this.#receive(job.p, MSG_PEEK) : this.#receive(job, 0);
  }

  /** recv(2); `undefined` if nothing is there. */
  #receive(p: Uint8Array, flags: number): number | null | undefined {
    const length = sizeOf(p);
    // Resized or transferred while the call waited: reading nothing would look like end-of-file.
    if (length === 0) throw atCaller(new TypeError("p was resized or transferred away while the read waited"));
    const n = receive(this.socket.fd, p, flags);
    if (n > 0) {
      // Less than was asked for: nothing is left, so a second recv(2) would be in vain.
      if (n < Math.min(length, LARGEST_TRANSFER) && flags === 0 && !this.#mayHideMore) this.isReady = false;
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
