/**
 * How long the tests of this folder run: a minute, with seeds that are others
 * each time, but in CI, where a change is judged and not luck; longer when
 * asked, as in `deno task test:faults --seeds 200 --cases 1000000`.
 */

import { parseArgs } from "@std/cli";

const given = parseArgs(Deno.args, { string: ["seeds", "seed", "cases"] });

function whole(name: "seeds" | "seed" | "cases", otherwise: number): number {
  const value = Number(given[name] ?? otherwise);
  if (!Number.isSafeInteger(value) || value < 0) throw new RangeError(`--${name} must be a whole number`);
  return value;
}

/** The first seed, `--seed`: to repeat a run that failed. */
export const SEED: number = whole(
  "seed",
  Deno.env.get("CI") === "true" ? 1 : Math.floor(Date.now() / 1000) % 1_000_000,
);

/** How many seeds, `--seeds`, for tests that run once for each. */
export function seeds(otherwise: number): number[] {
  return Array.from({ length: whole("seeds", otherwise) }, (_, i) => SEED + i);
}

/** How many cases all tests of hostile input have together, `--cases`. */
export const CASES: number = whole("cases", 20_000);
