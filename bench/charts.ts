/** Charts of a run, as SVG: drawn by Vega from the figures that the table shows. */

import * as vega from "vega";
import { compile, type TopLevelSpec } from "vega-lite";
import type { Row } from "./rounds.ts";
import { summarize } from "./summary.ts";

/** Readable on a white and on a dark page, both of which show through. */
const GREY = "#888888";

/** Writes what can be drawn of `rows` into `folder`. */
export async function drawCharts(
  folder: string,
  rows: readonly Row[],
  title: (server: string) => string,
): Promise<void> {
  await Deno.mkdir(folder, { recursive: true });
  const growing = rows.filter((row) => row.work.kind === "growth");
  if (growing.length > 0) await write(`${folder}/cost-by-idle.svg`, costByIdle(growing, title));
}

async function write(path: string, spec: TopLevelSpec): Promise<void> {
  const view = new vega.View(vega.parse(compile(spec).spec), { renderer: "none" });
  await Deno.writeTextFile(path, await view.toSVG() + "\n");
  view.finalize();
}

/** Rates of 100 busy connections over how many idle ones there are beside. */
export function costByIdle(rows: readonly Row[], title: (server: string) => string): TopLevelSpec {
  const values = rows.flatMap((row) => {
    const figures = summarize(row, rows);
    if (figures === undefined) return [];
    const { value, least, most } = figures;
    // A logarithmic axis has no zero.
    return [{ server: title(row.server), idle: Math.max(row.work.idle, 10), echoes: value, least, most }];
  });
  const idle = [...new Set(values.map((value) => value.idle))];
  const x = {
    field: "idle",
    type: "quantitative" as const,
    scale: { type: "log" as const, domainMin: 10 },
    axis: {
      title: "idle connections beside 100 busy ones (logarithmic)",
      values: idle,
      labelExpr: "datum.value == 10 ? '0' : format(datum.value, ',')",
      labelAngle: -30,
      labelOverlap: false,
    },
  };
  const color = { field: "server", type: "nominal" as const, title: null, sort: null };
  return {
    $schema: "https://vega.github.io/schema/vega-lite/v6.json",
    width: 560,
    height: 300,
    background: "transparent",
    data: { values },
    layer: [
      {
        mark: { type: "errorband", opacity: 0.15 },
        encoding: {
          x,
          y: { field: "least", type: "quantitative", title: "" },
          y2: { field: "most" },
          color,
        },
      },
      {
        mark: { type: "line", point: true, strokeWidth: 2 },
        encoding: {
          x,
          y: {
            field: "echoes",
            type: "quantitative",
            axis: { title: "echoes per second, median and range of the rounds", format: ",d" },
            scale: { zero: true },
          },
          color,
        },
      },
    ],
    config: {
      axis: {
        labelColor: GREY,
        titleColor: GREY,
        gridColor: GREY,
        gridOpacity: 0.25,
        domainColor: GREY,
        tickColor: GREY,
        labelFontSize: 12,
        titleFontSize: 12,
        titleFontWeight: "normal",
      },
      legend: { labelColor: GREY, orient: "top", labelFontSize: 12, symbolOpacity: 1 },
      view: { stroke: null },
    },
  };
}
