/**
 * The four ways to serve many clients, side by side: starts the same echo
 * server (`echo.ts`) in each of them, drives each with the same number of
 * clients, and ends with one table and a chart.
 *
 *     deno task example:four-ways
 *     deno task example:four-ways --clients 10000
 *
 * The task names `deno.bench.json`, which has the packages that draw the table and
 * the chart: no other example needs them, so no other example downloads them.
 *
 * Deno lets only `--allow-all` look at memory and processor time in /proc; the
 * servers get no more than each needs. Ctrl-C ends all of it.
 */

import { engineSupport } from "@c10k/sockets/tcp";
import { parseArgs } from "@std/cli";
import { killAll } from "./four_ways/echo_process.ts";
import { type Figures, measure, type Plan } from "./four_ways/measure.ts";
import { Estimate } from "./four_ways/estimate.ts";
import { count, foresee } from "./four_ways/ran_out.ts";
import { showProgress } from "./four_ways/progress.ts";
import { type Row, table, widthOf, wrap } from "./four_ways/table.ts";
import { type Way, WAYS } from "./four_ways/ways.ts";

const USAGE = `Usage: four_ways.ts [--clients 100] [--seconds 3] [--memory 2048] [--chart four-ways.svg] [--quick]
  --clients N    clients of each way, up to the 64000 that one address has ports for; 10000 is C10K
  --seconds S    how long each way is measured
  --opening S    how long its clients may take to connect (15, and 1 more for each 1,000 of them)
  --memory MIB   what a server may take; a way that would need more holds fewer clients
  --only MODEL   this way alone: ${[...new Set(WAYS.map((way) => way.model))].join(", ")}
  --chart FILE   where the chart goes
  --json FILE    the figures as JSON, too
  --quick        within about 40 s: 1 s for each way, and 4 s for its clients to connect`;

const WAIT =
  "p50 and p99 are of clients: what half of them, and 99 %, wait for an answer; who had none has waited all the time.";

/** Ends the program because of how it was called. */
function refuse(problem: string): never {
  console.error(`${problem} (--help shows how to call it)`);
  Deno.exit(2);
}

interface Flags extends Plan {
  readonly ways: readonly Way[];
  readonly chart: string;
  readonly json: string | undefined;
}

function readFlags(args: string[]): Flags {
  const flags = parseArgs(args.filter((arg) => arg !== "--"), {
    string: ["clients", "seconds", "opening", "memory", "only", "chart", "json"],
    boolean: ["quick", "help"],
    unknown: (arg) => refuse(`Unknown argument "${arg}"`),
  });
  if (flags.help) {
    console.log(USAGE);
    Deno.exit(0);
  }
  const number = (flag: string, otherwise: number, least: number, most: number) => {
    const text = flags[flag] ?? `${otherwise}`;
    const value = typeof text === "string" && /^\d+(\.\d+)?$/.test(text) ? Number(text) : NaN;
    return value >= least && value <= most
      ? value
      : refuse(`--${flag} takes a number from ${least} to ${most}, not "${text}"`);
  };
  const clients = number("clients", 100, 1, 64_000);
  if (!Number.isInteger(clients)) refuse(`--clients takes a whole number, not "${clients}"`);
  const ways = WAYS.filter(({ model }) => flags.only === undefined || model === flags.only);
  if (ways.length === 0) {
    refuse(`--only takes one of ${WAYS.map(({ model }) => model).join(", ")}, not "${flags.only}"`);
  }
  const file = (flag: string) => {
    const path = flags[flag];
    return path === undefined || typeof path === "string" && path !== "" ? path : refuse(`--${flag} takes a file`);
  };
  return {
    clients,
    ways,
    duration: number("seconds", flags.quick ? 1 : 3, 0.1, 60) * 1000,
    opening: number("opening", (flags.quick ? 4 : 15) + Math.floor(clients / 1000), 0.5, 600) * 1000,
    memory: number("memory", 2048, 16, 1_000_000) * 2 ** 20,
    chart: file("chart") ?? "four-ways.svg",
    json: file("json"),
  };
}

/** What was measured of a way, or why nothing was. */
async function tryWay(way: Way, plan: Plan, step: (part: number, text: string) => void): Promise<Figures | string> {
  const { engine, reason } = engineSupport();
  if (way.engine === "native" && engine !== "native") return reason ?? "there is no native engine";
  try {
    return await measure(way, plan, step);
  } catch (error) {
    return error instanceof Error ? error.message : String(error);
  }
}

const flags = readFlags(Deno.args);
for (const problem of foresee(flags.clients)) console.error(wrap(problem, widthOf(Deno.stderr)));
const rows: Row[] = [];
{
  using progress = showProgress(flags.ways.length, new Estimate(flags.ways, flags));
  for (const signal of ["SIGINT", ...(Deno.build.os === "windows" ? [] : ["SIGTERM"] as const)] as const) {
    Deno.addSignalListener(signal, () => {
      progress[Symbol.dispose](); // which shows the cursor again
      killAll();
      Deno.exit(130);
    });
  }
  for (const way of flags.ways) {
    const bar = progress.begin(way.title);
    const figures = await tryWay(way, flags, bar.step);
    rows.push({ way, figures });
    if (typeof figures === "string") bar.end(figures);
    else bar.end(`${count(figures.open)} open, ${count(figures.rate)} echoes/s`);
  }
}
const machine =
  `Deno ${Deno.version.deno}, ${Deno.build.os} ${Deno.osRelease()}, ${navigator.hardwareConcurrency} cores`;
const caption = `${count(flags.clients)} clients, each with one echo of 64 bytes under way; ${machine}`;
const width = widthOf(Deno.stdout);
console.log(table(rows, width));
console.log(wrap(`${caption}; ${flags.duration / 1000} s for each way, one run. ${WAIT}`, width));
// It brings Vega, which is large.
const { chart } = await import("./four_ways/chart.ts");
await Deno.writeTextFile(flags.chart, await chart(rows, caption));
console.log(`chart: ${flags.chart}`);
if (flags.json !== undefined) {
  const { clients, duration } = flags;
  const shown = rows.map(({ way: { title }, figures }) =>
    typeof figures === "string" ? { title, missing: figures } : { title, figures }
  );
  const run = { date: new Date().toISOString(), machine, clients, duration, rows: shown };
  await Deno.writeTextFile(flags.json, `${JSON.stringify(run, undefined, 2)}\n`);
}
Deno.exit(rows.some(({ figures }) => typeof figures !== "string") ? 0 : 1);
