/** The table that a run ends with. */

import Table from "cli-table3";
import type { Figures } from "./measure.ts";
import type { Way } from "./ways.ts";

/** A way and what was measured of it, or why nothing was. */
export interface Row {
  readonly way: Way;
  readonly figures: Figures | string;
}

const HEAD = ["way", "connections", "echoes/s", "p50 ms", "p99 ms", "KiB/conn.", "CPU µs/echo", "ran out first"];

/** The table as text. */
export function table(rows: readonly Row[]): string {
  const view = new Table({
    head: HEAD,
    colAligns: HEAD.map((_, i) => i === 0 || i === HEAD.length - 1 ? "left" : "right"),
    style: { head: [], border: [], compact: true },
  });
  for (const { way, figures } of rows) {
    if (typeof figures === "string") {
      view.push([way.title, { colSpan: HEAD.length - 1, content: `missing: ${wrap(figures)}`, hAlign: "left" }]);
      continue;
    }
    const { open, rate, p50, p99, memory, cpu, ranOut, lost } = figures;
    view.push([
      way.title,
      decimal(open),
      decimal(rate),
      decimal(p50 / 1000, 2),
      decimal(p99 / 1000, 2),
      decimal(memory === undefined ? undefined : memory / 1024, 1),
      decimal(cpu, 1),
      wrap(lost > 0 ? `${ranOut}; clients lost meanwhile: ${decimal(lost)}` : ranOut),
    ]);
  }
  return view.toString();
}

function decimal(value: number | undefined, digits = 0): string {
  if (value === undefined) return "–";
  return value.toLocaleString("en-US", { minimumFractionDigits: digits, maximumFractionDigits: digits });
}

/** Reasons come from anywhere; a long one must not widen the table. */
function wrap(text: string): string {
  return text.match(/.{1,44}(\s|$)|\S{44}/g)?.map((line) => line.trim()).join("\n") ?? text;
}
