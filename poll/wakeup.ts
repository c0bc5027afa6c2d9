/** What ends a wait from outside: eventfd(2), a descriptor that counts. */

import { Descriptor } from "../internal/descriptor.ts";
import { libc } from "../internal/libc.ts";
import { syscall } from "../internal/syscall.ts";
import { Unload, whenUnloaded } from "../internal/unload.ts";

// sys/eventfd.h
const EFD_NONBLOCK = 0o4000;
const EFD_CLOEXEC = 0o2000000;

const ONE = new Uint8Array(new BigUint64Array([1n]).buffer);
const counter = new Uint32Array(2);
const counterBytes = new Uint8Array(counter.buffer);

/** Ends the wait that is under way, or else the next one. */
export interface Wakeup {
  /** What to register as readable, -1 if it is no descriptor. */
  readonly fd: number;
  readonly isOpen: boolean;
  signal(): void;
  /** Takes back all signals, and returns how many there were. */
  drain(): number;
  close(): void;
}

/** {@linkcode Wakeup} as a descriptor, which any thread may write to. */
export class EventFd implements Wakeup {
  readonly #descriptor: Descriptor;
  readonly #forget: () => void;

  /** Makes a new one, or takes over `fd`. */
  constructor(fd: number = syscall("eventfd", 0, EFD_NONBLOCK | EFD_CLOEXEC)) {
    this.#descriptor = new Descriptor(fd);
    this.#forget = whenUnloaded(Unload.WAKE, () => this.signal());
  }

  get fd(): number {
    return this.#descriptor.fd;
  }

  get isOpen(): boolean {
    return this.#descriptor.isOpen;
  }

  signal(): void {
    // A full counter (EAGAIN) is a signal, too.
    libc.write(this.fd, ONE, ONE.length);
  }

  drain(): number {
    return libc.read(this.fd, counterBytes, counterBytes.length) === counterBytes.length ? counter[0] as number : 0;
  }

  close(): void {
    this.#forget();
    this.#descriptor.close();
  }
}
