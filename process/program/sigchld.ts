/**
 * SIGCHLD, which a supervisor can leave ignored for the programs that it
 * starts. The kernel then keeps no status of a child that ends (waitid(2),
 * "Notes"): neither this library nor Deno can wait for it, and `kill` of Deno
 * fails with ESRCH.
 */

import { constants } from "node:os";
import { engineSupport } from "../../internal/engine.ts";
import { codeOf } from "../../internal/errors.ts";
import { syscall } from "../../internal/syscall.ts";

// signal.h, bits/sigaction.h of glibc: sa_handler at 0, sa_mask (128 bytes) at 8, sa_flags at 136.
const SIGACTION_SIZE = 152;
const FLAGS_AT = 136;
const SIG_DFL = 0n;
const SIG_IGN = 1n;
const SA_NOCLDWAIT = 2;

/**
 * Makes the kernel keep the status of children, before one is started:
 * sigaction(2). Without `--allow-ffi` nothing tells how the signal stands
 * (`/proc/self/status` needs `--allow-all`), and a listener for it would change
 * others: Deno then handles SIGHUP, which `nohup` had ignored.
 */
export function keepChildStatus(): void {
  if (engineSupport().engine === "native") restoreDefault();
}

/**
 * Handles the failed wait for a child of Deno's: the end of this one is known
 * and its status is lost, but those that follow have one.
 *
 * @returns Whether SIGCHLD was the reason.
 */
export function lostStatus(error: unknown): boolean {
  const isLost = codeOf(error) === "ECHILD";
  if (isLost) listenOnce();
  return isLost;
}

/** The error of a {@linkcode ChildStatus} without a status. */
export function lostStatusError(name: string, cause: unknown): Error {
  return new Error(`Cannot tell how ${name} has ended: its status is lost, since SIGCHLD was ignored (ECHILD)`, {
    cause,
  });
}

function restoreDefault(): void {
  const { SIGCHLD } = constants.signals;
  const bytes = new Uint8Array(SIGACTION_SIZE);
  syscall("sigaction", SIGCHLD, null, bytes);
  const action = new DataView(bytes.buffer);
  const flags = action.getInt32(FLAGS_AT, true);
  const ignores = action.getBigUint64(0, true) === SIG_IGN;
  if (!ignores && (flags & SA_NOCLDWAIT) === 0) return;
  if (ignores) action.setBigUint64(0, SIG_DFL, true);
  action.setInt32(FLAGS_AT, flags & ~SA_NOCLDWAIT, true);
  syscall("sigaction", SIGCHLD, bytes, null);
}

/** Deno puts a handler in the place of the signal's disposition for the first listener, and keeps it after the last. */
function listenOnce(): void {
  const listener = () => {};
  Deno.addSignalListener("SIGCHLD", listener);
  Deno.removeSignalListener("SIGCHLD", listener);
}
