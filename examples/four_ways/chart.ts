/** The chart of a run, as SVG: drawn by Vega from the figures that the table shows. */

import * as vega from "vega";
import { compile, type TopLevelSpec } from "vega-lite";
import type { Figures } from "./measure.ts";
import type { Row } from "./table.ts";

/** Readable on a white and on a dark page, both of which show through. */
const GREY = "#888888";
const BLUE = "#4c8fd6";

/** The chart's text. */
export async function chart(rows: readonly Row[], caption: string): Promise<string> {
  const view = new vega.View(vega.parse(compile(specOf(rows, caption)).spec), { renderer: "none" });
  const svg = await view.toSVG();
  view.finalize();
  return `${svg}\n`;
}

/** What a panel shows of each way: a bar, and its figure beside it. */
interface Panel {
  readonly title: string;
  readonly isLog?: boolean;
  readonly of: (figures: Figures) => number | undefined;
  /** The part of the bar that is drawn in full; the rest is pale. */
  readonly part?: (figures: Figures) => number;
}

const PANELS: readonly Panel[] = [
  { title: "connections held (pale: got no answer)", of: ({ open }) => open, part: ({ answered }) => answered },
  { title: "echoes per second", of: ({ rate }) => rate },
  {
    title: "KiB per connection (logarithmic)",
    isLog: true,
    of: ({ memory }) => memory === undefined ? undefined : memory / 1024,
  },
];

function whole(value: number | undefined): string {
  return value === undefined ? "–" : value.toLocaleString("en-US", { maximumFractionDigits: 0 });
}

/** Three panels side by side, a line for each way. */
function specOf(rows: readonly Row[], caption: string): TopLevelSpec {
  const measured = rows.flatMap(({ way, figures }) => typeof figures === "string" ? [] : [{ way, figures }]);
  const panels = PANELS.map(({ title, isLog, of, part }, i) => {
    // A logarithmic axis has no zero: its bars begin at 1.
    const least = isLog ? 1 : 0;
    const values = measured.map(({ way, figures }) => {
      const value = of(figures);
      const full = part?.(figures) ?? value;
      const label = full === value ? whole(value) : `${whole(full)} of ${whole(value)}`;
      return {
        way: way.title,
        value: Math.max(value ?? least, least),
        full: Math.max(full ?? least, least),
        least,
        label,
      };
    });
    const most = Math.max(...values.map(({ value }) => value), 2);
    // Room for the figures at the bars' ends.
    const domainMax = isLog ? most ** 1.3 : most * (values.some(({ label }) => label.includes(" of ")) ? 1.8 : 1.3);
    const y = {
      field: "way",
      type: "nominal" as const,
      sort: null,
      axis: i === 0 ? { title: null, labelLimit: 200, ticks: false, domain: false } : null,
    };
    const x = {
      field: "value",
      type: "quantitative" as const,
      scale: { type: isLog ? "log" as const : "linear" as const, domainMin: least, domainMax, nice: false },
      axis: { title, format: isLog ? "~s" : ",d", tickCount: 4, grid: true },
    };
    return {
      width: 220,
      height: { step: 24 },
      data: { values },
      layer: [
        {
          mark: { type: "bar" as const, color: BLUE, opacity: 0.3, height: 14 },
          encoding: { y, x, x2: { field: "least" } },
        },
        {
          mark: { type: "bar" as const, color: BLUE, height: 14 },
          encoding: { y, x: { ...x, field: "full" }, x2: { field: "least" } },
        },
        {
          mark: { type: "text" as const, align: "left" as const, dx: 4, color: GREY, fontSize: 11 },
          encoding: { y, x, text: { field: "label" } },
        },
      ],
    };
  });
  return {
    $schema: "https://vega.github.io/schema/vega-lite/v6.json",
    background: "transparent",
    padding: 10,
    title: { text: caption, color: GREY, fontWeight: "normal", fontSize: 13, anchor: "start", offset: 14 },
    bounds: "flush",
    spacing: 40,
    hconcat: panels,
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
      view: { stroke: null },
    },
  };
}
