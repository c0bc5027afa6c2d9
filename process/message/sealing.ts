/**
 * A message is what it was when it was sent: it is cloned at the call, whether it goes at once or waits for the other
 * side. A value that cannot be cloned fails at the call.
 */

import { atCaller } from "../../internal/stack.ts";

/**
 * Returns a structured clone.
 *
 * @throws {DOMException} If there is none (`DataCloneError`); what a getter throws stays as it is.
 */
export function cloneOf(value: unknown): unknown {
  if (isPrimitive(value)) return value;
  try {
    return structuredClone(value);
  } catch (error) {
    throw error instanceof DOMException ? atCaller(error) : error;
  }
}

/** Nothing in it can change, or be refused; functions and symbols can be. */
function isPrimitive(value: unknown): boolean {
  return value === null || (typeof value !== "object" && typeof value !== "function" && typeof value !== "symbol");
}

/** A message in the bytes that a process gets, as the body of a packet. */
export class Sealed {
  constructor(readonly bytes: Uint8Array) {}
}
