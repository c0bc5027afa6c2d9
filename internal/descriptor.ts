/**
 * One owner a descriptor. A socket holds a {@linkcode Descriptor} and never
 * calls close(2) itself.
 */

import { libc } from "./libc.ts";
import { enter, isKept, leave } from "./ledger.ts";
import { disown, mayClose, mayCloseRefused, own } from "./owner.ts";
import { Unload, whenUnloaded } from "./unload.ts";

const waitingForRoom = new Set<() => void>();

/** Who is to close a descriptor of this thread's, by its number. */
const holders: (Descriptor | undefined)[] = [];

let closesAtUnload = false;

/** What this program leaves open must not outlive it, as it would in a process that runs it again. */
function closeAll(): void {
  for (const holder of holders.splice(0)) {
    try {
      if (holder !== undefined && !isKept(holder.fd)) holder.close();
    } catch { /* the others are closed still */ }
  }
}

/**
 * Calls `retry` once when a descriptor of this isolate has been closed, for
 * those who found the table full.
 *
 * @returns A function that takes the wish back.
 */
export function whenDescriptorCloses(retry: () => void): () => void {
  waitingForRoom.add(retry);
  return () => waitingForRoom.delete(retry);
}

/** A descriptor and the right to close it. */
export class Descriptor {
  #fd: number;

  /** Takes over `fd`. */
  constructor(fd: number) {
    this.#fd = fd;
    try {
      own(fd);
    } catch (error) {
      if (mayCloseRefused(fd)) libc.close(fd);
      throw error;
    }
    // A number has one holder: the last one.
    holders[fd] = this;
    enter(fd);
    if (closesAtUnload) return;
    closesAtUnload = true;
    whenUnloaded(Unload.CLOSE, closeAll);
  }

  /** The number, -1 once it was closed or given away: the kernel may hand it out again at once. */
  get fd(): number {
    return this.#fd;
  }

  get isOpen(): boolean {
    return this.#fd >= 0;
  }

  /** Stays open when the program is unloaded, until its process has ended. */
  outlive(): void {
    if (holders[this.#fd] !== this) return;
    holders[this.#fd] = undefined;
    leave(this.#fd);
  }

  /** Gives the number away. */
  detach(): number {
    const fd = this.#fd;
    this.#fd = -1;
    if (fd >= 0) {
      holders[fd] = undefined;
      leave(fd);
      disown(fd);
    }
    return fd;
  }

  /** Gives the number to what `take` makes of it, its owner from then on; it stays here if that throws. */
  passTo<T>(take: (fd: number) => T): T {
    const taken = take(this.#fd);
    // No longer ours, but still this thread's.
    this.#fd = -1;
    return taken;
  }

  /** Closes the descriptor, if it is open: close(2). */
  close(): void {
    if (this.#fd < 0) return;
    // Marked first. Never tried again: on Linux the number is free even if close(2) fails.
    const fd = this.detach();
    if (mayClose(fd)) libc.close(fd);
    // It stays open, for the thread that has started this one.
    else enter(fd);
    if (waitingForRoom.size === 0) return;
    const retries = [...waitingForRoom];
    waitingForRoom.clear();
    for (const retry of retries) queueMicrotask(retry);
  }
}
