/** How to go on accepting when the kernel refuses for a while. */

import type { Os } from "./error_numbers.ts";

/** What one peer or one shortage can make `accept` fail with, and a server must survive. */
export type AcceptTrouble = "retry" | "wait" | "fatal";

/** First and longest pause after a shortage, in milliseconds. */
const FIRST_PAUSE = 5;
const LONGEST_PAUSE = 1_000;

/** Says what to do about an error of accept(2), by the kernel's name. */
export function acceptTrouble(code: string | undefined): AcceptTrouble {
  switch (code) {
    // The connection was gone before we took it; the manual page of accept(2)
    // says to treat errors already pending on the new socket like EAGAIN.
    case "ECONNABORTED":
    case "ECONNRESET":
    case "ENOTCONN":
    case "EPROTO":
    case "ENETDOWN":
    case "EHOSTDOWN":
    case "EHOSTUNREACH":
    case "ENONET":
    case "ENOPROTOOPT":
    case "EOPNOTSUPP":
    case "EPERM":
    case "ETIMEDOUT":
    case "ENETUNREACH":
    case "EINTR":
      return "retry";
    // No room: the connection stays in the kernel's queue until there is.
    case "EMFILE":
    case "ENFILE":
    case "ENOBUFS":
    case "ENOMEM":
      return "wait";
    default:
      return "fatal";
  }
}

/**
 * Says what to do about an error of the runtime's accept, by the kernel's name. The runtime asks for the addresses of a
 * connection before it returns it. If the peer has reset the connection by then, macOS refuses that with EINVAL, as
 * others do with ENOTCONN.
 *
 * @param os The operating system that the error comes from.
 */
export function runtimeAcceptTrouble(code: string | undefined, os: Os = Deno.build.os): AcceptTrouble {
  return os === "darwin" && code === "EINVAL" ? "retry" : acceptTrouble(code);
}

/** A timer whose pauses double from 5 ms to 1 s until something succeeds. */
export class Backoff {
  #pause = FIRST_PAUSE;
  #timer: ReturnType<typeof setTimeout> | undefined;

  get waiting(): boolean {
    return this.#timer !== undefined;
  }

  /** Calls `retry` after the next pause, which holds the process unless `ref` is false. */
  wait(retry: () => void, ref = true): void {
    this.#timer = setTimeout(() => {
      this.#timer = undefined;
      retry();
    }, this.#pause);
    if (!ref) Deno.unrefTimer(this.#timer as unknown as number);
    this.#pause = Math.min(this.#pause * 2, LONGEST_PAUSE);
  }

  /** Takes back a retry that is planned. */
  cancel(): void {
    clearTimeout(this.#timer);
    this.#timer = undefined;
  }

  /** Something succeeded: the next pause is short again. */
  reset(): void {
    this.#pause = FIRST_PAUSE;
  }
}
