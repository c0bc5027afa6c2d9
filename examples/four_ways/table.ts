/** The table that a run ends with, as wide as the terminal lets it be. */

import Table from "cli-table3";
import type { Figures } from "./measure.ts";
import type { Way } from "./ways.ts";

/** A way and what was measured of it, or why nothing was. */
export interface Row {
  readonly way: Way;
  readonly figures: Figures | string;
}

interface Column {
  readonly title: string;
  of(figures: Figures): string;
}

const COLUMNS: readonly Column[] = [
  { title: "open", of: ({ open }) => decimal(open) },
  { title: "answered", of: ({ answered }) => decimal(answered) },
  { title: "echoes/s", of: ({ rate }) => decimal(rate) },
  { title: "p50 ms", of: ({ p50, measured }) => wait(p50, measured) },
  { title: "p99 ms", of: ({ p99, measured }) => wait(p99, measured) },
  { title: "KiB/conn", of: ({ memory }) => decimal(memory === undefined ? undefined : memory / 1024, 1) },
  { title: "µs CPU", of: ({ cpu }) => decimal(cpu, 1) },
];
const LAST = "ran out first";

/** Characters of a line in the last column, where there is room for it; narrower than the least it stands below. */
const WIDEST = 46;
const LEAST = 24;

/** How the table is set: what is left out comes last. */
interface Layout {
  readonly columns: readonly Column[];
  /** Spaces on both sides of a cell. */
  readonly padding: 0 | 1;
  /** Characters of the last column, 0 if it stands below. */
  readonly last: number;
}

/** The table as text, with no line longer than `width`. */
export function table(rows: readonly Row[], width: number): string {
  const layouts: Layout[] = [];
  for (let last = WIDEST; last >= LEAST; last -= 2) layouts.push({ columns: COLUMNS, padding: 1, last });
  for (const padding of [1, 0] as const) layouts.push({ columns: COLUMNS, padding, last: 0 });
  for (let n = COLUMNS.length - 1; n > 1; n--) layouts.push({ columns: COLUMNS.slice(0, n), padding: 0, last: 0 });
  const texts = layouts.values().map((layout) => draw(rows, layout));
  const fits = (text: string) => text.split("\n").every((line) => line.length <= width);
  const text = texts.find(fits) ?? draw(rows, layouts.at(-1) as Layout);
  return text.includes(LAST) ? text : [text, ...reasonsOf(rows).map((reason) => wrap(reason, width))].join("\n");
}

function draw(rows: readonly Row[], { columns, padding, last }: Layout): string {
  const head = ["way", ...columns.map(({ title }) => title), ...(last > 0 ? [LAST] : [])];
  const view = new Table({
    head,
    colAligns: head.map((title) => title === "way" || title === LAST ? "left" : "right"),
    style: { head: [], border: [], compact: true, "padding-left": padding, "padding-right": padding },
  });
  for (const { way, figures } of rows) {
    const reason = last > 0 ? [wrap(reasonOf(figures), last)] : [];
    if (typeof figures !== "string") {
      view.push([way.title, ...columns.map(({ of }) => of(figures)), ...reason]);
    } else {
      const content = last > 0 ? reason[0] : "not measured";
      view.push([way.title, { colSpan: head.length - 1, content, hAlign: "left" }]);
    }
  }
  return view.toString();
}

/** What stands in the last column, if there is none. */
function reasonsOf(rows: readonly Row[]): string[] {
  const reasons = rows.map(({ way, figures }) => ({ title: way.title, reason: reasonOf(figures) }));
  return reasons.filter(({ reason }) => reason !== "nothing").map(({ title, reason }) => `${title}: ${reason}`);
}

function reasonOf(figures: Figures | string): string {
  if (typeof figures === "string") return `missing: ${figures}`;
  const { ranOut, lost } = figures;
  return lost > 0 ? `${ranOut}; clients lost meanwhile: ${decimal(lost)}` : ranOut;
}

/** Of a client that waits longer than it was watched, no more is known. */
function wait(us: number, measured: number): string {
  return us >= measured ? `>${decimal(measured / 1000)}` : decimal(us / 1000, us < 100_000 ? 2 : 1);
}

function decimal(value: number | undefined, digits = 0): string {
  if (value === undefined) return "–";
  return value.toLocaleString("en-US", { minimumFractionDigits: digits, maximumFractionDigits: digits });
}

/** Breaks a text into lines, between words where that can be. */
export function wrap(text: string, width: number): string {
  if (text.length <= width) return text;
  const pattern = new RegExp(`.{1,${width}}(?:\\s|$)|\\S{${width}}`, "g");
  return text.match(pattern)?.map((line) => line.trim()).join("\n") ?? text;
}

/** Columns of the terminal that standard output is; where it is none, there is room for all. */
export function widthOf(output: { isTerminal(): boolean }): number {
  return output.isTerminal() ? Deno.consoleSize().columns : Infinity;
}
