/** Why Deno could not send a signal to a program that it has started. */

import type { Os } from "../../internal/error_numbers.ts";
import { signalNumber } from "./signal.ts";

/**
 * Returns the reason: the program has `ended`; there is `no such signal`; or the system has the name and `cannot send`
 * it, as Windows, which ends programs and does nothing else to them. `undefined` if it is none of these.
 *
 * @param error What `kill` of Deno has thrown.
 * @param os The operating system that the error comes from.
 */
export function reasonOfFailedKill(
  error: unknown,
  signal: Deno.Signal,
  os: Os = Deno.build.os,
): "ended" | "no such signal" | "cannot send" | undefined {
  if (signalNumber(signal) === undefined) return "no such signal";
  const isUnknown = error instanceof TypeError && error.message.startsWith("Invalid signal");
  if (isUnknown) return os === "windows" ? "cannot send" : "no such signal";
  // ESRCH while SIGCHLD is ignored.
  if (error instanceof TypeError || error instanceof Deno.errors.NotFound) return "ended";
  // Windows says so of a process that is about to end.
  return os === "windows" && error instanceof Deno.errors.PermissionDenied ? "ended" : undefined;
}
