/** The line on standard error about a child of a pool that has ended unasked. */

import type { PoolChild } from "./pool_child.ts";

/** Characters of an error that the line quotes. */
const LONGEST_REASON = 500;

/** What a terminal or a log would take for more than text: an error may quote what a client has sent. */
// deno-lint-ignore no-control-regex -- exactly these are meant
const CONTROLS = /[\x00-\x1f\x7f-\x9f\u2028\u2029]+/g;

/**
 * Writes the line.
 *
 * @param child The child that has ended; `undefined` if one could not be started at all.
 * @param error Why.
 * @param next What comes next, for example "the next one starts at once".
 */
export function reportDeath(child: PoolChild | undefined, error: unknown, next: string): void {
  // It was asked for, by somebody else.
  if (child?.signal === "SIGTERM") return;
  const what = child === undefined ? `cannot start a child: ${textOf(error)}` : describe(child, error);
  try {
    console.error(`Pool: ${what}; ${next}`);
  } catch { /* there is no standard error, or no room for it: the pool goes on */ }
}

/** Says when the next child starts, in `delay` milliseconds. */
export function nextStart(delay: number): string {
  if (delay === Infinity) return "no other one starts in its place";
  if (delay < 1) return "the next one starts at once";
  return `the next one starts in ${delay < 1_000 ? `${Math.ceil(delay)} ms` : `${(delay / 1_000).toFixed(1)} s`}`;
}

function describe({ child: { name, pid } }: PoolChild, error: unknown): string {
  const who = pid === undefined ? name : `${name}, pid ${pid},`;
  const how = textOf(error).replace(name, "").trim();
  const cause = error instanceof Error && error.cause !== undefined ? textOf(error.cause) : "";
  // What a thread says of itself is the whole story.
  const end = cause.startsWith(`${name} has ended`) ? cause.slice(name.length).trim() : how;
  const why = cause.startsWith(`${name} has ended`) ? "" : cause.replace(`${name} has failed: `, "");
  return `${who} ${end}${why === "" ? "" : `: ${why}`}`;
}

/** The message of an error as one line of text. */
function textOf(error: unknown): string {
  let text: string;
  try {
    text = error instanceof Error ? error.message : String(error);
  } catch {
    text = "an error that cannot be shown";
  }
  const line = text.replaceAll(CONTROLS, " ");
  return line.length > LONGEST_REASON ? `${line.slice(0, LONGEST_REASON)}…` : line;
}
