/** Charts of a run, as SVG: drawn by Vega from the figures that the table shows. */

import * as vega from "vega";
import { compile, type TopLevelSpec } from "vega-lite";
import type { Row } from "./rounds.ts";
import { summarize } from "./summary.ts";
import type { Work } from "./works.ts";

/** Readable on a white and on a dark page, both of which show through. */
const GREY = "#888888";

/** A chart and the file that it goes to. */
interface Chart {
  readonly file: string;
  readonly text: string;
  readonly spec: TopLevelSpec;
}

/**
 * Writes what can be drawn of `rows` into `folder`.
 *
 * @returns The files' names, each with what it shows.
 */
export async function drawCharts(
  folder: string,
  rows: readonly Row[],
  title: (server: string) => string,
): Promise<{ file: string; text: string }[]> {
  await Deno.mkdir(folder, { recursive: true });
  const charts = [
    tcpByConnections(rows, title),
    bars(rows, title, "udp", "udp.svg", "UDP echoes per second, median and range of the rounds"),
    bars(rows, title, "idle", "memory.svg", "bytes of resident memory per idle connection"),
    bars(rows, title, "handover", "hand-over.svg", "connections per second, median and range of the rounds"),
    bars(rows, title, "kv", "kv.svg", "requests per second, median and range of the rounds"),
    costByIdle(rows, title),
  ].filter((chart) => chart !== undefined);
  for (const { file, spec } of charts) {
    const view = new vega.View(vega.parse(compile(spec).spec), { renderer: "none" });
    await Deno.writeTextFile(`${folder}/${file}`, await view.toSVG() + "\n");
    view.finalize();
  }
  return charts.map(({ file, text }) => ({ file, text }));
}

/** What a chart shows of a row; nothing of one that is missing. */
function figuresOf(rows: readonly Row[], title: (server: string) => string) {
  return rows.flatMap((row) => {
    const figures = summarize(row, rows);
    if (figures === undefined) return [];
    const { value, least, most } = figures;
    return [{ server: title(row.server), work: row.work, value, least, most }];
  });
}

const SERIES = { field: "server", type: "nominal" as const, title: null, sort: null };

const LOOK = {
  $schema: "https://vega.github.io/schema/vega-lite/v6.json",
  background: "transparent",
  config: {
    axis: {
      labelColor: GREY,
      titleColor: GREY,
      gridColor: GREY,
      gridOpacity: 0.25,
      domainColor: GREY,
      tickColor: GREY,
      labelFontSize: 12,
      labelLimit: 240,
      titleFontSize: 12,
      titleFontWeight: "normal" as const,
    },
    header: { labelColor: GREY, labelFontSize: 12 },
    legend: { labelColor: GREY, orient: "top" as const, labelFontSize: 12, symbolOpacity: 1 },
    view: { stroke: null },
  },
};

/** Rates of all TCP servers over the number of connections. */
function tcpByConnections(rows: readonly Row[], title: (server: string) => string): Chart | undefined {
  const small = rows.filter(({ work }) => work.kind === "echo" && work.size === 64);
  const values = figuresOf(small, title).map(({ work, ...rest }) => ({ ...rest, connections: work.connections }));
  const counts = [...new Set(values.map((value) => value.connections))];
  if (counts.length < 2) return undefined;
  const x = {
    field: "connections",
    type: "quantitative" as const,
    scale: { type: "log" as const, nice: false },
    axis: {
      title: "connections, one message of 64 bytes under way on each (logarithmic)",
      values: counts,
      format: ",d",
    },
  };
  return {
    file: "tcp-by-connections.svg",
    text: "TCP echoes per second by connections",
    spec: { ...LOOK, width: 600, height: 320, data: { values }, layer: lines(x, "value", "echoes per second, median") },
  };
}

/** A line for each server, and the range of its rounds. */
function lines<X extends { field: string }>(x: X, field: string, text: string) {
  return [
    {
      mark: { type: "errorband" as const, opacity: 0.12 },
      encoding: {
        x,
        y: { field: "least", type: "quantitative" as const, title: "" },
        y2: { field: "most" },
        color: SERIES,
      },
    },
    {
      mark: { type: "line" as const, point: true, strokeWidth: 2 },
      encoding: {
        x,
        y: {
          field,
          type: "quantitative" as const,
          axis: { title: text, format: ",d" },
          scale: { zero: true },
        },
        color: SERIES,
      },
    },
  ];
}

/** A bar for each server at each work of a kind, with the range of its rounds. */
function bars(
  rows: readonly Row[],
  title: (server: string) => string,
  kind: Work["kind"],
  file: string,
  text: string,
): Chart | undefined {
  const some = rows.filter(({ work }) => work.kind === kind);
  const values = figuresOf(some, title).map(({ work, ...rest }) => ({ ...rest, work: work.title }));
  if (values.length === 0) return undefined;
  const y = { field: "server", type: "nominal" as const, title: null, sort: null };
  return {
    file,
    text,
    spec: {
      ...LOOK,
      data: { values },
      // Not every server takes part in every work.
      resolve: { scale: { y: "independent" } },
      facet: { row: { field: "work", title: null, sort: null, header: { labelAngle: 0, labelAlign: "left" } } },
      spec: {
        width: 480,
        layer: [
          {
            mark: { type: "bar", height: { band: 0.7 } },
            encoding: {
              y,
              x: { field: "value", type: "quantitative", axis: { title: text, format: ",d" } },
              color: { ...SERIES, legend: null },
            },
          },
          {
            mark: { type: "rule", color: GREY },
            encoding: { y, x: { field: "least", type: "quantitative" }, x2: { field: "most" } },
          },
        ],
      },
    },
  };
}

/** Rates of 100 busy connections over how many idle ones there are beside. */
function costByIdle(rows: readonly Row[], title: (server: string) => string): Chart | undefined {
  const growing = rows.filter(({ work }) => work.kind === "growth");
  if (growing.length === 0) return undefined;
  const values = figuresOf(growing, title).map(({ work, ...rest }) => ({
    ...rest,
    // A logarithmic axis has no zero.
    idle: Math.max(work.idle, 10),
  }));
  const x = {
    field: "idle",
    type: "quantitative" as const,
    scale: { type: "log" as const, domainMin: 10 },
    axis: {
      title: "idle connections beside 100 busy ones (logarithmic)",
      values: [...new Set(values.map((value) => value.idle))],
      labelExpr: "datum.value == 10 ? '0' : format(datum.value, ',')",
      labelAngle: -30,
      labelOverlap: false,
    },
  };
  const text = "echoes per second, median and range of the rounds";
  return {
    file: "cost-by-idle.svg",
    text: "Echoes per second by idle connections",
    spec: { ...LOOK, width: 600, height: 320, data: { values }, layer: lines(x, "value", text) },
  };
}
