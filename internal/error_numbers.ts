/**
 * The names of the operating system's error numbers.
 *
 * The numbers differ between systems: ECONNREFUSED is 111 on Linux, 61 on macOS and 10061 on Windows. `node:os` has those
 * of the system that runs, but on Windows they are the C library's, and the system itself reports numbers of Windows
 * Sockets (`WSAECONNREFUSED`) or of the kernel (`ERROR_CONNECTION_REFUSED`).
 */

import { constants } from "node:os";
import "./deno_version.ts";

/** A system, as `Deno.build.os` names it. */
export type Os = typeof Deno.build.os;

/** Names that `node:os` lacks: asm-generic/errno.h of Linux, sys/errno.h of macOS. */
const MISSING: { readonly [os in Os]?: Readonly<Record<string, number>> } = {
  linux: {
    ENONET: 64,
    ESOCKTNOSUPPORT: 94,
    EPFNOSUPPORT: 96,
    ESHUTDOWN: 108,
    ETOOMANYREFS: 109,
    EHOSTDOWN: 112,
  },
  darwin: { ESOCKTNOSUPPORT: 44, EPFNOSUPPORT: 46, ESHUTDOWN: 58, ETOOMANYREFS: 59, EHOSTDOWN: 64 },
};

/** Numbers of the Windows kernel that operations on sockets end with, and of look-ups (winerror.h, winsock2.h). */
const WINDOWS: Readonly<Record<number, string>> = {
  2: "ENOENT", // ERROR_FILE_NOT_FOUND
  3: "ENOENT", // ERROR_PATH_NOT_FOUND
  4: "EMFILE", // ERROR_TOO_MANY_OPEN_FILES
  5: "EPERM", // ERROR_ACCESS_DENIED
  6: "EBADF", // ERROR_INVALID_HANDLE
  8: "ENOMEM", // ERROR_NOT_ENOUGH_MEMORY
  14: "ENOMEM", // ERROR_OUTOFMEMORY
  50: "EOPNOTSUPP", // ERROR_NOT_SUPPORTED
  64: "ECONNRESET", // ERROR_NETNAME_DELETED
  87: "EINVAL", // ERROR_INVALID_PARAMETER
  109: "EPIPE", // ERROR_BROKEN_PIPE
  121: "ETIMEDOUT", // ERROR_SEM_TIMEOUT
  232: "EPIPE", // ERROR_NO_DATA
  233: "EPIPE", // ERROR_PIPE_NOT_CONNECTED
  995: "ECANCELED", // ERROR_OPERATION_ABORTED
  1225: "ECONNREFUSED", // ERROR_CONNECTION_REFUSED
  1227: "EADDRINUSE", // ERROR_ADDRESS_ALREADY_ASSOCIATED
  1231: "ENETUNREACH", // ERROR_NETWORK_UNREACHABLE
  1232: "EHOSTUNREACH", // ERROR_HOST_UNREACHABLE
  1234: "ECONNREFUSED", // ERROR_PORT_UNREACHABLE
  1236: "ECONNABORTED", // ERROR_CONNECTION_ABORTED
  10058: "EPIPE", // WSAESHUTDOWN
  11001: "ENOTFOUND", // WSAHOST_NOT_FOUND
  11002: "EAI_AGAIN", // WSATRY_AGAIN
  11003: "ENOTFOUND", // WSANO_RECOVERY
  11004: "ENOTFOUND", // WSANO_DATA
};

/** Of two names for one error, or nearly so, the one that this library uses; Windows spells one in its own way. */
const SYNONYMS: Readonly<Record<string, string>> = {
  ECANCELLED: "ECANCELED",
  ENOTSUP: "EOPNOTSUPP",
  EWOULDBLOCK: "EAGAIN",
};

/** Returns the name that this library uses for an error. */
export function usualName(name: string): string {
  return SYNONYMS[name] ?? name;
}

/** The numbers of one system. */
export class ErrorNumbers {
  readonly #names = new Map<number, string>();
  readonly #numbers = new Map<string, number>();

  /**
   * @param os The system.
   * @param constants `constants.errno` of `node:os` on that system.
   */
  constructor(os: Os, constants: Readonly<Record<string, number>>) {
    for (const [name, number] of Object.entries({ ...constants, ...MISSING[os] })) {
      const known = os === "windows" ? /^WSA(E[A-Z]+)$/.exec(name)?.[1] : name;
      if (known !== undefined) this.#add(known, number);
    }
    if (os === "windows") {
      for (const [number, name] of Object.entries(WINDOWS)) this.#add(name, Number(number));
    }
    // A write to a connection that its peer is about to reset: a race in the kernel of macOS, of which libuv makes the
    // same. send(2) has no other use for this number.
    const { EPROTOTYPE } = constants;
    if (os === "darwin" && EPROTOTYPE !== undefined) this.#names.set(EPROTOTYPE, "ECONNRESET");
  }

  #add(name: string, number: number): void {
    this.#names.set(number, usualName(name));
    // Windows Sockets come first, whose numbers most errors of sockets have.
    if (!this.#numbers.has(name)) this.#numbers.set(name, number);
  }

  /** Returns the name of a number, `undefined` if it has none. */
  nameOf(number: number): string | undefined {
    return this.#names.get(number);
  }

  /** Returns the number of a name, 0 if it has none. */
  numberOf(name: string): number {
    return this.#numbers.get(name) ?? 0;
  }
}

/** Those of the system that this program runs on. */
export const errorNumbers: ErrorNumbers = new ErrorNumbers(Deno.build.os, { ...constants.errno });
