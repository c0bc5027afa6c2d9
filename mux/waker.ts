/** How another thread ends a wait. */

import { F_DUPFD_CLOEXEC } from "../internal/constants.ts";
import { Descriptor } from "../internal/descriptor.ts";
import { chooseEngine } from "../internal/engine.ts";
import { closedError, socketError, SyscallError } from "../internal/errors.ts";
import { linkOf } from "../internal/socket.ts";
import { atCaller } from "../internal/stack.ts";
import { syscall } from "../internal/syscall.ts";
import { checkInteger } from "../internal/validate.ts";
import { EventFd, type Wakeup } from "../poll/wakeup.ts";

let construct: (wakeup: Wakeup) => Waker;

/**
 * Wakes a {@linkcode Multiplexer}, from another Worker too: post the number
 * {@linkcode Waker.fd} there and make a waker of it with {@linkcode Waker.fromFd}.
 *
 * @example From another thread
 * ```ts
 * import { Multiplexer, Waker } from "@c10k/sockets/mux";
 *
 * using mux = new Multiplexer();
 * const { fd } = mux.waker();
 * if (fd !== undefined) { // epoll, poll, select
 *   using waker = Waker.fromFd(fd); // in the Worker that got the number
 *   waker.wake();
 *   await mux.wait(); // returns at once, with no event
 * }
 * ```
 */
export class Waker {
  readonly #wakeup: Wakeup;
  /** Not shared with a multiplexer. */
  readonly #isOwner: boolean;

  static {
    construct = (wakeup) => new Waker(wakeup, false);
  }

  private constructor(wakeup: Wakeup, isOwner: boolean) {
    if (wakeup === undefined) {
      throw atCaller(new TypeError("Illegal constructor: use Multiplexer.waker or Waker.fromFd"));
    }
    this.#wakeup = wakeup;
    this.#isOwner = isOwner;
  }

  /**
   * Makes a waker from the number that another thread has posted: fcntl(2)
   * with `F_DUPFD_CLOEXEC`. It has a descriptor of its own, so it must be
   * closed, and it does no harm when the multiplexer is closed before it.
   *
   * Requires `--allow-ffi`.
   *
   * @param fd What {@linkcode Waker.fd} was there.
   * @returns The waker.
   * @throws {TypeError} If the descriptor is no eventfd, for example because the multiplexer was closed meanwhile.
   * @throws {Deno.errors.BadResource} If it is not open.
   * @throws {Deno.errors.NotSupported} If there is no native engine.
   *
   * @example In another thread
   * ```ts
   * import { Multiplexer, Waker } from "@c10k/sockets/mux";
   *
   * using mux = new Multiplexer({ backend: "epoll" });
   * using waker = Waker.fromFd(mux.waker().fd ?? -1); // in the Worker that got the number
   *
   * console.log(waker.fd !== mux.waker().fd); // true: a duplicate
   * ```
   */
  static fromFd(fd: number): Waker {
    checkInteger(fd, "fd", 0, 2 ** 31 - 1);
    chooseEngine("native", "make a waker from a descriptor");
    let own: Descriptor;
    try {
      own = new Descriptor(syscall("fcntl", fd, F_DUPFD_CLOEXEC, 0));
    } catch (error) {
      if (!(error instanceof SyscallError)) throw error;
      throw socketError(`make a waker from descriptor ${fd}`, error);
    }
    // Looked at only now: before it was ours, it could have become another's.
    if (!isEventFd(own.fd)) {
      own.close();
      throw atCaller(new TypeError(`Cannot make a waker from descriptor ${fd}: not an eventfd`));
    }
    return new Waker(new EventFd(own.detach()), true);
  }

  /** The eventfd to post to another thread; `undefined` on the runtime backend and once closed. */
  get fd(): number | undefined {
    return this.#wakeup.fd >= 0 ? this.#wakeup.fd : undefined;
  }

  /**
   * Ends the wait that is under way, or else the next one. Several calls
   * before a wait end one.
   *
   * @throws {Deno.errors.BadResource} If the waker, or the multiplexer whose own it is, is closed.
   *
   * @example End a wait
   * ```ts
   * import { Multiplexer, Waker } from "@c10k/sockets/mux";
   *
   * using mux = new Multiplexer({ backend: "epoll" });
   * using waker = Waker.fromFd(mux.waker().fd ?? -1); // in the Worker that got the number
   *
   * waker.wake();
   * await mux.wait();
   * ```
   */
  wake(): void {
    if (!this.#wakeup.isOpen) throw closedError("wake the multiplexer", "waker", "write");
    this.#wakeup.signal();
  }

  /** Closes a waker of {@linkcode Waker.fromFd}; the multiplexer's own is closed with the multiplexer. */
  close(): void {
    if (this.#isOwner) this.#wakeup.close();
  }

  /** Closes the waker, at the end of a `using` block. */
  [Symbol.dispose](): void {
    this.close();
  }
}

/** A waker that shares what belongs to a multiplexer. */
export function shareWaker(wakeup: Wakeup): Waker {
  return construct(wakeup);
}

function isEventFd(fd: number): boolean {
  try {
    return linkOf(fd) === "anon_inode:[eventfd]";
  } catch {
    return false; // without /proc it cannot be told
  }
}
