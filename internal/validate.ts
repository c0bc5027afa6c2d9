/**
 * Checks of what callers hand in, before any system call: a wrong type is a
 * `TypeError`, a number out of range a `RangeError`, and the message names the
 * option and quotes the value.
 */

import { hostKind } from "./address.ts";
import { isBytes, isInBounds, sizeOf } from "./bytes.ts";
import { SocketOption } from "./socket_option.ts";
import { atCaller } from "./stack.ts";

/** Returns a value as an error message quotes it. */
export function quote(value: unknown): string {
  try {
    return Deno.inspect(value, { depth: 0, strAbbreviateSize: 80, colors: false, breakLength: Infinity });
  } catch {
    return `a value of type ${typeof value}`; // it has an inspector of its own, which throws
  }
}

/** Checks an integer option. */
export function checkInteger(value: unknown, name: string, min: number, max: number): number {
  if (typeof value !== "number") {
    throw atCaller(new TypeError(`${name} must be a number, received ${quote(value)}`));
  }
  if (!Number.isInteger(value) || value < min || value > max) {
    throw atCaller(new RangeError(`${name} must be an integer from ${min} to ${max}, received ${value}`));
  }
  return value;
}

/** Checks a port; 0 lets the kernel choose, where that makes sense. */
export function checkPort(value: unknown, name = "port", min: 0 | 1 = 0): number {
  return checkInteger(value, name, min, 65535);
}

/** Checks a duration in milliseconds; fractions are allowed, `Infinity` means no limit. */
export function checkDuration(value: unknown, name: string): number {
  if (typeof value !== "number") {
    throw atCaller(new TypeError(`${name} must be a number of milliseconds, received ${quote(value)}`));
  }
  if (!(value >= 0)) throw atCaller(new RangeError(`${name} must be at least 0 ms, received ${value}`));
  return value;
}

/**
 * Checks a value that can be left out. Takes the value, not the options bag: a property must be read once, since a
 * getter can return something else the second time.
 *
 * @returns What `check` returns, or `undefined` if the value is left out.
 */
export function optional<T>(value: unknown, check: (value: unknown) => T): T | undefined {
  return value === undefined ? undefined : check(value);
}

/** Checks a flag. */
export function checkBoolean(value: unknown, name: string): boolean {
  if (typeof value !== "boolean") throw atCaller(new TypeError(`${name} must be a boolean, received ${quote(value)}`));
  return value;
}

/** Checks a host name or address, and takes the brackets off an IPv6 address. */
export function checkHostname(value: unknown, name = "hostname"): string {
  if (typeof value !== "string") throw atCaller(new TypeError(`${name} must be a string, received ${quote(value)}`));
  const hostname = value.startsWith("[") && value.endsWith("]") ? value.slice(1, -1) : value;
  if (hostKind(hostname) === undefined || (hostname !== value && hostKind(hostname) !== "IPv6")) {
    throw atCaller(new TypeError(`${name} must be an IP address or a host name, received ${quote(value)}`));
  }
  return hostname;
}

/** Checks a buffer. */
export function checkBytes(value: unknown, name = "p"): asserts value is Uint8Array {
  if (!isBytes(value)) throw atCaller(new TypeError(`${name} must be a Uint8Array, received ${quote(value)}`));
  // An array that is not there any more has the size 0.
  if (sizeOf(value) === 0 && !isInBounds(value)) {
    throw atCaller(new TypeError(`${name} must not be detached: its buffer was transferred away or made smaller`));
  }
}

/** Checks a buffer once more after a wait: an emptied one would lose a datagram, or send nothing. */
export function checkSameLength(p: Uint8Array, length: number): void {
  if (sizeOf(p) !== length) throw changedBufferError();
}

/** Returns the error for a buffer that the caller has changed while a call waited with it. */
export function changedBufferError(): Error {
  return atCaller(new TypeError("p was resized or transferred away while the call waited"));
}

/** Checks an options bag. */
export function checkOptions(value: unknown, name = "options"): void {
  if (typeof value !== "object" || value === null || Array.isArray(value)) {
    throw atCaller(
      new TypeError(`${name} must be an object, received ${Array.isArray(value) ? "an array" : quote(value)}`),
    );
  }
}

/** Returns the signal of an options bag, and throws its reason if it is aborted already. */
export function checkSignal(options: { signal?: AbortSignal | undefined } | undefined): AbortSignal | undefined {
  if (options === undefined) return undefined;
  checkOptions(options);
  if (options instanceof AbortSignal) throw atCaller(new TypeError("options must hold the signal: { signal }"));
  const { signal } = options;
  if (signal === undefined) return undefined;
  if (!(signal instanceof AbortSignal)) {
    throw atCaller(new TypeError(`signal must be an AbortSignal, received ${quote(signal)}`));
  }
  signal.throwIfAborted();
  return signal;
}

/** Checks the name of a socket option. */
export function checkSocketOption(value: unknown): SocketOption {
  if (typeof value === "string" && Object.hasOwn(SocketOption, value)) return value as SocketOption;
  throw atCaller(
    new TypeError(`option must be the name of a socket option such as "TCP_NODELAY", received ${quote(value)}`),
  );
}
