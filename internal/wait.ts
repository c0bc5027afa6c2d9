/** For how long a call waits, and what it ends with when that is over. */

import { Deadline } from "./deadline.ts";
import { again, atCaller } from "./stack.ts";
import { checkDuration, checkOptions, checkSignal } from "./validate.ts";

/**
 * For how long a call waits. The time is over some milliseconds late, and of more than a second up to 1 % late: it is
 * there to give up by, not to measure with.
 *
 * @example Hang up on who says nothing for a while
 * ```ts
 * import { TcpConn, TcpListener, type WaitOptions } from "@c10k/sockets/tcp";
 * import { assertRejects } from "@std/assert";
 *
 * using listener = TcpListener.bind({ hostname: "127.0.0.1", port: 0 });
 * using client = await TcpConn.connect({ port: listener.addr.port });
 * using server = await listener.accept();
 *
 * const options: WaitOptions = { timeout: 20 };
 * await assertRejects(() => server.read(new Uint8Array(9), options), Deno.errors.TimedOut);
 * ```
 */
export interface WaitOptions {
  /**
   * Cancels the call: it rejects with the signal's reason, and nothing is lost. `AbortSignal.timeout` of Deno aborts at
   * once if it is asked for 2^31 ms (some 24 days) or more.
   */
  signal?: AbortSignal;
  /**
   * Milliseconds that the call waits at most: then it rejects with `Deno.errors.TimedOut`, and nothing is lost. The error
   * has no `code`: one with the code `ETIMEDOUT` is the kernel's, which has given up the connection. It costs a small
   * part of what a signal does.
   *
   * @default {Infinity}
   */
  timeout?: number;
}

/** The same once it is checked; `undefined` in its place if a call waits for as long as it takes. */
export interface Wait {
  readonly signal: AbortSignal | undefined;
  /** Milliseconds, or `Infinity`. */
  readonly timeout: number;
}

/** Checks for how long a call waits, and throws the reason of a signal that is aborted already. */
export function checkWait(options: WaitOptions | undefined): Wait | undefined {
  if (options === undefined) return undefined;
  checkOptions(options);
  const { timeout: given = Infinity } = options;
  const timeout = checkDuration(given, "timeout");
  const signal = checkSignal(options);
  return timeout === Infinity ? waitFor(signal) : { signal, timeout };
}

/** The wait of a call that ends with a signal only. */
export function waitFor(signal: AbortSignal | undefined): Wait | undefined {
  return signal && { signal, timeout: Infinity };
}

/**
 * Makes a call that waits for several things in turn, all of which end with one signal.
 *
 * @param action What it does, with what it does that to: for the error once its time is over.
 */
export function waitForAll<T>(
  wait: Wait | undefined,
  action: () => string,
  call: (signal: AbortSignal | undefined) => Promise<T>,
): Promise<T> {
  return wait === undefined || wait.timeout === Infinity ? call(wait?.signal) : waitWithin(wait, action, call);
}

async function waitWithin<T>(
  wait: Wait,
  action: () => string,
  call: (signal: AbortSignal | undefined) => Promise<T>,
): Promise<T> {
  const over = new AbortController();
  const deadline = new Deadline(() => over.abort(timedOutError(action(), wait.timeout)));
  deadline.set(wait.timeout);
  try {
    return await call(wait.signal === undefined ? over.signal : AbortSignal.any([wait.signal, over.signal]));
  } catch (error) {
    throw error === over.signal.reason ? again(error) : error;
  } finally {
    deadline.clear();
  }
}

/** Returns the error for a call whose time is over. */
export function timedOutError(action: string, timeout: number): Error {
  return atCaller(new Deno.errors.TimedOut(`Cannot ${action}: timed out after ${timeout} ms`));
}
