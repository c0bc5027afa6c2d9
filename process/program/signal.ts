/** The names and numbers of signals: signal(7). */

import { constants } from "node:os";
import { atCaller } from "../../internal/stack.ts";
import { quote } from "../../internal/validate.ts";

const NUMBERS: ReadonlyMap<unknown, number> = new Map(Object.entries(constants.signals));

/** The number of a signal; `undefined` if there is no such signal. */
export function signalNumber(signal: unknown): number | undefined {
  return NUMBERS.get(signal);
}

/** The name of a signal; `undefined` if it has none. */
export function signalName(number: number): Deno.Signal | undefined {
  const found = [...NUMBERS].find(([, value]) => value === number);
  return found?.[0] as Deno.Signal | undefined;
}

/**
 * Checks the signal that a child is to be sent, of whichever kind, also if the child has ended already.
 *
 * @returns Its number.
 * @throws {TypeError} If there is no such signal.
 */
export function checkKillSignal(signal: unknown): number {
  const number = signalNumber(signal);
  if (number !== undefined) return number;
  throw atCaller(new TypeError(`signal must be the name of a signal, received ${quote(signal)}`));
}
