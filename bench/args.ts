/** The command line of the benchmark. */

import { parseArgs } from "@std/cli";
import { QUICK_SERVERS, SERVER_NAMES } from "./servers.ts";
import { QUICK_WORKS, WORKS } from "./works.ts";

/** What a run is to do. Durations are ms. */
export interface Plan {
  readonly works: readonly string[];
  /** `undefined`: each work has its own. */
  readonly servers: readonly string[] | undefined;
  readonly rounds: number;
  readonly duration: number;
  readonly warmup: number;
  readonly firstDuration: number;
  /** No round starts later than this after the beginning. */
  readonly budget: number;
  readonly pin: boolean;
  readonly json: string | undefined;
  /** A folder for the report with its charts. */
  readonly results: string | undefined;
}

/** A command line that says nothing sensible; the message is one line. */
export class UsageError extends Error {}

const WORK_NAMES = WORKS.map((work) => work.name);

/** Where the report of everything goes. */
const RESULTS = `${import.meta.dirname}/results`;

/** The text of `--help`. */
export const HELP = `deno task bench [flags]

  --quick            core rows only, within 60 s
  --only NAMES       works: ${WORK_NAMES.join(",")}
  --servers NAMES    servers: ${SERVER_NAMES.join(",")}
  --rounds N         interleaved rounds (11; quick: 4)
  --duration MS      measured time per round (500; quick: 350)
  --no-pin           do not pin the server and the load to a core each
  --json FILE        write the raw data
  --results FOLDER   write the report: raw data, tables as Markdown, charts as SVG
                     (everything: bench/results)`;

function names(
  flag: string,
  value: string,
  known: readonly string[],
): readonly string[] {
  const asked = value.split(",").map((name) => name.trim());
  for (const name of asked) {
    if (!known.includes(name)) {
      throw new UsageError(
        `--${flag}: unknown name "${name}", known are ${known.join(", ")}`,
      );
    }
  }
  // The table's order, not the command line's.
  return known.filter((name) => asked.includes(name));
}

function integer(
  flag: string,
  value: string,
  least: number,
  most: number,
): number {
  const number = Number(value);
  if (
    value.trim() === "" || !Number.isInteger(number) || number < least ||
    number > most
  ) {
    throw new UsageError(
      `--${flag}: "${value}" is no whole number from ${least} to ${most}`,
    );
  }
  return number;
}

/** Reads the command line; `"help"` when that was asked for. */
export function parsePlan(args: readonly string[]): Plan | "help" {
  const unknown: string[] = [];
  const flags = parseArgs(args, {
    boolean: ["quick", "help", "pin"],
    negatable: ["pin"],
    string: ["only", "servers", "rounds", "duration", "json", "results"],
    default: { pin: true },
    alias: { h: "help" },
    unknown: (arg) => {
      unknown.push(arg);
      return false;
    },
  });
  if (flags.help === true) return "help";
  if (unknown.length > 0) {
    throw new UsageError(`Unknown argument "${unknown[0]}", see --help`);
  }
  const text = (flag: string): string | undefined => {
    const value = flags[flag];
    if (value === undefined) return undefined;
    if (typeof value === "string" && value !== "") return value;
    throw new UsageError(`--${flag} takes one value`);
  };

  const quick = flags.quick === true;
  const only = text("only");
  const servers = text("servers");
  return {
    works: only === undefined ? (quick ? QUICK_WORKS : WORK_NAMES) : names("only", only, WORK_NAMES),
    servers: servers === undefined ? (quick ? QUICK_SERVERS : undefined) : names("servers", servers, SERVER_NAMES),
    rounds: integer("rounds", text("rounds") ?? (quick ? "4" : "11"), 1, 100),
    duration: integer(
      "duration",
      text("duration") ?? (quick ? "350" : "500"),
      50,
      60_000,
    ),
    warmup: quick ? 150 : 200,
    firstDuration: quick ? 350 : 2_000,
    budget: quick ? 50_000 : Infinity,
    pin: flags.pin === true,
    json: text("json"),
    results: text("results") ?? (quick || only !== undefined || servers !== undefined ? undefined : RESULTS),
  };
}
