/**
 * Strings as the C library takes them: UTF-8 with a final zero. A zero inside
 * would end the string there, and `TextEncoder` replaces a lone surrogate: the
 * string that the kernel uses would not be the one that was checked.
 */

import { quote } from "./validate.ts";
import { atCaller } from "./stack.ts";

const encoder = new TextEncoder();

/** Returns whether a value is a string that reaches the kernel as it is: without zeros and lone surrogates. */
export function isText(value: unknown): value is string {
  return typeof value === "string" && !value.includes("\0") && value.isWellFormed();
}

/**
 * Checks a string that goes to the kernel.
 *
 * @param name What errors call it.
 * @throws {TypeError} If it is no string, or has a zero or a lone surrogate.
 */
export function checkText(value: unknown, name: string): string {
  if (isText(value)) return value;
  const what = typeof value === "string" ? "without zeros and lone surrogates, " : "";
  throw atCaller(new TypeError(`${name} must be a string, ${what}received ${quote(value)}`));
}

/**
 * Returns a string as the C library takes it.
 *
 * @throws {TypeError} If it has a zero or a lone surrogate.
 */
export function cString(text: string, name = "text"): Uint8Array<ArrayBuffer> {
  return encoder.encode(`${checkText(text, name)}\0`);
}
