/**
 * Memory of the C library's, for calls that go on when this thread's JavaScript is gone: a wait on another thread
 * writes its answer when it returns, which may be after a Worker was terminated or a program was run again. The memory of
 * a buffer would be another's by then.
 */

import { libc } from "./libc.ts";
import { Unload, whenUnloaded } from "./unload.ts";

/** A block of memory that grows, and is used by one call at a time. */
export class ForeignMemory {
  #address = 0n;
  #size = 0;
  #isLent = false;
  #isFreed = false;
  #stop: () => void = () => {};

  /** Returns the address of `size` bytes at least, for a call; it is not freed before {@linkcode takeBack}. */
  lend(size: number): bigint {
    if (this.#size < size) {
      if (this.#address === 0n) this.#stop = whenUnloaded(Unload.FREE, () => this.free());
      else libc.free(this.#address);
      this.#address = libc.calloc(1, size);
      this.#size = this.#address === 0n ? 0 : size;
      if (this.#size === 0) throw new RangeError(`Cannot allocate ${size} bytes`);
    }
    this.#isLent = true;
    return this.#address;
  }

  /** The call has returned. */
  takeBack(): void {
    this.#isLent = false;
    if (this.#isFreed) this.free();
  }

  /** Copies the first bytes to a buffer. */
  copyTo(bytes: Uint8Array<ArrayBuffer>): void {
    libc.memcpy_from(bytes, this.#address, bytes.length);
  }

  /** Copies bytes to its beginning, or somewhere behind. */
  copyFrom(bytes: Uint8Array<ArrayBuffer>, at = 0): void {
    libc.memcpy_to(this.#address + BigInt(at), bytes, bytes.length);
  }

  /** Frees it, or has that done once the call has returned; if it never does, the memory stays. */
  free(): void {
    this.#isFreed = true;
    if (this.#isLent || this.#address === 0n) return;
    libc.free(this.#address);
    this.#address = 0n;
    this.#size = 0;
    this.#stop();
  }
}
