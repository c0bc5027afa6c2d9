/**
 * How failures are told: Deno's error classes, the action and the address in
 * the message, the kernel's name in `code` and in the message's end, and a
 * {@linkcode SyscallError} as `cause`.
 */

import { type ErrorNumbers, errorNumbers, usualName } from "./error_numbers.ts";
import { atCaller } from "./stack.ts";

/**
 * What the kernel answered: which call failed, and how. The `cause` of every error with a `code`.
 *
 * @example What the kernel said
 * ```ts
 * import { SyscallError, TcpListener } from "@c10k/sockets/tcp";
 * import { assertEquals } from "@std/assert";
 *
 * using listener = TcpListener.bind({ hostname: "127.0.0.1", port: 0 });
 * try {
 *   TcpListener.bind(listener.addr);
 * } catch (error) {
 *   if (!(error instanceof Deno.errors.AddrInUse) || !(error.cause instanceof SyscallError)) throw error;
 *   assertEquals([error.cause.syscall, error.cause.code], ["bind", "EADDRINUSE"]);
 * }
 * ```
 */
export class SyscallError extends Error {
  /** Always `"SyscallError"`. */
  override readonly name = "SyscallError";
  /** The system call that failed, for example `"bind"`. */
  readonly syscall: string;
  /** The kernel's number for the error on this operating system, 0 if it is not known. */
  readonly errno: number;
  /** The kernel's name for the error, for example `"EADDRINUSE"`. */
  readonly code: string;

  /**
   * Makes the error for one failed call.
   *
   * @param syscall The system call that failed.
   * @param code The kernel's name for the error.
   * @param errno The kernel's number for the error, by default the one that belongs to `code`.
   */
  constructor(syscall: string, code: string, errno: number = errorNumbers.numberOf(code)) {
    super(`${syscall}: ${describe(code)} (${code})`);
    this.syscall = syscall;
    this.errno = errno;
    this.code = code;
  }
}

type ErrorClass = new (message?: string, options?: ErrorOptions) => Error;

const { errors } = Deno;

/** Kernel names, Deno's class for each (as the runtime itself maps them), and what they mean. */
const KERNEL_ERRORS: Readonly<Record<string, readonly [ErrorClass, string]>> = {
  EACCES: [errors.PermissionDenied, "permission denied"],
  EADDRINUSE: [errors.AddrInUse, "address already in use"],
  EADDRNOTAVAIL: [errors.AddrNotAvailable, "address not available"],
  EAFNOSUPPORT: [Error, "address family not supported"],
  EAGAIN: [errors.WouldBlock, "operation would block"],
  EAI_AGAIN: [Error, "temporary failure in name resolution"],
  EALREADY: [errors.Busy, "connection attempt already in progress"],
  EBADF: [errors.BadResource, "bad file descriptor"],
  ECONNABORTED: [errors.ConnectionAborted, "connection aborted"],
  ECONNREFUSED: [errors.ConnectionRefused, "connection refused"],
  ECONNRESET: [errors.ConnectionReset, "connection reset by peer"],
  EDESTADDRREQ: [Error, "destination address required"],
  EEXIST: [errors.AlreadyExists, "already exists"],
  EHOSTDOWN: [Error, "host is down"],
  EHOSTUNREACH: [Error, "no route to host"],
  EINTR: [errors.Interrupted, "interrupted"],
  EINVAL: [Error, "invalid argument"],
  EISCONN: [Error, "already connected"],
  EMFILE: [Error, "too many open files in this process"],
  EMSGSIZE: [Error, "message too long"],
  ENETDOWN: [Error, "network is down"],
  ENETRESET: [Error, "connection dropped by the network"],
  ENETUNREACH: [errors.NetworkUnreachable, "network is unreachable"],
  ENFILE: [Error, "too many open files in the system"],
  ENOBUFS: [Error, "no buffer space available"],
  ENODEV: [Error, "no such device"],
  ENOENT: [errors.NotFound, "not found"],
  ENOMEM: [Error, "out of memory"],
  ENOPROTOOPT: [Error, "option not available"],
  ENOSPC: [Error, "the limit on what may be watched is reached"],
  ENOTCONN: [errors.NotConnected, "not connected"],
  ENOTFOUND: [errors.NotFound, "host name not found"],
  ENOTSOCK: [Error, "not a socket"],
  EOPNOTSUPP: [errors.NotSupported, "operation not supported on this socket"],
  EPERM: [errors.PermissionDenied, "operation not permitted"],
  EPIPE: [errors.BrokenPipe, "broken pipe"],
  EPROTO: [Error, "protocol error"],
  EPROTONOSUPPORT: [Error, "protocol not supported"],
  ETIMEDOUT: [errors.TimedOut, "connection timed out"],
  UNKNOWN: [Error, "the runtime does not tell why"],
};

function describe(code: string): string {
  return KERNEL_ERRORS[code]?.[1] ?? "system call failed";
}

/**
 * Returns the error for a failed system call.
 *
 * @param action What was attempted, with the address: `bind TCP listener to 127.0.0.1:80`.
 * @param cause What the kernel answered.
 * @param detail What to say instead of the usual meaning of the code.
 */
export function socketError(action: string, cause: SyscallError, detail?: string): Error & { code: string } {
  const { code } = cause;
  const [ErrorClass, meaning] = KERNEL_ERRORS[code] ?? [Error, describe(code)];
  const error = new ErrorClass(`Cannot ${action}: ${detail ?? meaning} (${code})`, { cause });
  return Object.assign(atCaller(error), { code });
}

/**
 * Returns the error for a call on a socket that was closed before.
 *
 * @param syscall The system call that would have been made.
 */
export function closedError(action: string, what: string, syscall: string): Error {
  return socketError(action, new SyscallError(syscall, "EBADF"), `${what} is closed`);
}

/**
 * Returns the error that wakes a call which waited while its socket was closed; of the same class, so that who catches
 * one catches the other.
 *
 * @param syscall The system call that waited.
 */
export function closedMeanwhileError(action: string, what: string, syscall: string): Error {
  return socketError(action, new SyscallError(syscall, "EBADF"), `${what} was closed meanwhile`);
}

/** Returns the error for a peer that has finished after `done` bytes of `size`. */
export function unexpectedEof(action: string, done: number, size: number): Error {
  return atCaller(new Deno.errors.UnexpectedEof(`Cannot ${action}: end-of-file after ${done} of ${size} bytes`));
}

/** Returns the error for what an engine does not do; `wayOut` names what to do instead. */
export function notSupportedError(action: string, wayOut: string): Error {
  return atCaller(new Deno.errors.NotSupported(`Cannot ${action}: ${wayOut}`));
}

/** How the runtime begins the message of a failed look-up, in the words of the C library and without a number. */
const LOOKUP = "failed to lookup address information";
/** What the C libraries say of a name server that does not answer: glibc and macOS the one, musl the other. */
const NO_ANSWER = /temporary failure|try again/i;

/** Returns the operating system's number in an error that the runtime threw, `undefined` if there is none. */
function numberOf(error: Error): number | undefined {
  const number = /\(os error (\d+)\)/.exec(error.message)?.[1];
  return number === undefined ? undefined : Number(number);
}

/**
 * Returns the kernel's name in an error that the runtime threw, `undefined` if there is none. The number in the message
 * decides, if there is one: the words are the system's, in the language of its user, and the runtime has no code for
 * some numbers, or one that is not exact (`ENOENT` for a name that does not resolve, on Windows).
 *
 * @param error What the runtime threw.
 * @param numbers The numbers of the operating system that it comes from.
 */
export function codeOf(error: unknown, numbers: ErrorNumbers = errorNumbers): string | undefined {
  if (!(error instanceof Error)) return undefined;
  const number = numberOf(error);
  const name = number === undefined ? undefined : numbers.nameOf(number);
  if (name !== undefined) return name;
  const { code } = error as { code?: unknown };
  if (typeof code === "string") return usualName(code);
  if (!error.message.startsWith(LOOKUP)) return undefined;
  return NO_ANSWER.test(error.message) ? "EAI_AGAIN" : "ENOTFOUND";
}

/**
 * Tells an error of Deno's own operations in the words of this library.
 *
 * @param error What the runtime threw.
 * @param action What was attempted, with the address.
 * @param syscall The system call behind the operation.
 * @param numbers The numbers of the operating system that it comes from.
 */
export function fromRuntimeError(
  error: unknown,
  action: string,
  syscall: string,
  numbers: ErrorNumbers = errorNumbers,
): Error {
  const code = codeOf(error, numbers);
  if (code !== undefined) {
    const number = numberOf(error as Error) ?? numbers.numberOf(code);
    const lookup = code === "ENOTFOUND" || code === "EAI_AGAIN";
    return socketError(action, new SyscallError(lookup ? "getaddrinfo" : syscall, code, number));
  }
  if (!(error instanceof Error)) return atCaller(new Error(`Cannot ${action}: ${error}`, { cause: error }));
  // No kernel behind it (a permission that was not given, a resource that is gone): same class, our form.
  const ErrorClass = error.constructor as ErrorClass;
  const message = error.message.charAt(0).toLowerCase() + error.message.slice(1);
  return atCaller(new ErrorClass(`Cannot ${action}: ${message}`, { cause: error }));
}
