/** What a run leaves behind: raw figures, tables and charts in one folder. */

import { drawCharts } from "./charts.ts";
import type { Machine } from "./machine.ts";
import { markdown } from "./report.ts";
import type { Row } from "./rounds.ts";
import { summarize } from "./summary.ts";

/** How a run was made. */
export interface Run {
  /** ISO 8601, UTC. */
  readonly date: string;
  readonly machine: Machine;
  readonly pinning: string;
  readonly rounds: number;
  /** Of a round, ms. */
  readonly duration: number;
  /** Rounds in which other programs took over 20 % of a core, and all rounds. */
  readonly disturbed: readonly [number, number];
}

/** The head of a report: what its figures depend on. */
export function heading({ machine, pinning, rounds, duration }: Run): string {
  return `Deno ${machine.deno}, ${machine.kernel}, ${machine.processor}, ${machine.cores} cores; ${pinning}\n` +
    `${rounds} rounds of ${duration} ms, medians; ratios are medians of the ratios per round`;
}

/** What a run says of the peace it had. */
export function peace({ disturbed: [disturbed, all] }: Run): string {
  return disturbed === 0 ? "" : `Other programs took over 20 % of a core in ${disturbed} of ${all} rounds`;
}

/** Every round as JSON, a line for each row. */
export function rawData(run: Run, rows: readonly Row[]): string {
  const lines = rows.map((row) => JSON.stringify({ ...row, work: row.work.name, summary: summarize(row, rows) }));
  const head = JSON.stringify(run, undefined, 2).replace(/\n\}$/, "");
  return `${head},\n  "rows": [\n    ${lines.join(",\n    ")}\n  ]\n}\n`;
}

/** Writes `results.json`, `summary.md` and the charts. */
export async function writeResults(
  folder: string,
  run: Run,
  rows: readonly Row[],
  title: (server: string) => string,
): Promise<void> {
  const charts = await drawCharts(folder, rows, title);
  await Deno.writeTextFile(`${folder}/results.json`, rawData(run, rows));
  const parts = [
    "# Results",
    `Made by \`deno task bench\` on ${run.date.slice(0, 10)}; every round stands in \`results.json\`.`,
    heading(run),
    peace(run),
    ...charts.map(({ file, text }) => `![${text}](${file})`),
    markdown(rows, title),
  ];
  await Deno.writeTextFile(`${folder}/summary.md`, parts.filter((part) => part !== "").join("\n\n") + "\n");
}
