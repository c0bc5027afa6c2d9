/** The tables that a run ends with. */

import Table from "cli-table3";
import type { Row } from "./rounds.ts";
import { ratio, summarize, type Summary } from "./summary.ts";
import type { Work } from "./works.ts";

const UNITS: Record<Work["kind"], { title: string; value: string; per: string }> = {
  echo: { title: "Echoes", value: "echoes/s", per: "CPU µs/echo" },
  churn: {
    title: "Connections opened, used once and closed",
    value: "connections/s",
    per: "CPU µs/conn.",
  },
  udp: { title: "UDP echoes: sockets × datagrams under way on each × size", value: "echoes/s", per: "CPU µs/echo" },
  sink: { title: "UDP one way: sockets that send × size", value: "datagrams/s", per: "CPU µs/datagram" },
  growth: {
    title: "100 busy connections among idle ones: echoes/s (× its own without idle ones)",
    value: "echoes/s",
    per: "CPU µs/echo",
  },
  idle: { title: "Idle connections", value: "RSS bytes/conn.", per: "CPU" },
};

/** All tables as text; `title` gives a server's name in them. */
export function report(
  rows: readonly Row[],
  title: (server: string) => string,
): string {
  const kinds = [...new Set(rows.map((row) => row.work.kind))];
  return kinds.map((kind) => {
    const some = rows.filter((row) => row.work.kind === kind);
    return kind === "growth" ? growth(some, title) : table(kind, some, title);
  }).join("\n\n");
}

/** A line for each number of idle connections, and for each server its rate, and that by its rate without any. */
function growth(rows: readonly Row[], title: (server: string) => string): string {
  const servers = [...new Set(rows.map((row) => row.server))];
  const works = [...new Set(rows.map((row) => row.work))];
  const view = new Table({
    head: ["idle", ...servers.map(title)],
    colAligns: ["right", ...servers.map(() => "right" as const)],
    style: { head: [], border: [], compact: true },
  });
  const notes: string[] = [];
  for (const work of works) {
    const cells = servers.map((server) => {
      const row = rows.find((row) => row.work === work && row.server === server);
      const figures = row === undefined ? undefined : summarize(row, rows);
      if (figures === undefined) {
        notes.push(`  ${title(server)}, ${decimal(work.idle, 0)} idle, missing: ${row?.missing ?? "not measured"}`);
        return "missing";
      }
      const alone = rows.find((row) => row.work.idle === 0 && row.server === server);
      const share = row === undefined || alone === undefined ? undefined : ratio(row.samples, alone.samples);
      return `${decimal(figures.value, 0)} (${decimal(share, 2)})`;
    });
    view.push([decimal(work.idle, 0), ...cells]);
  }
  return [UNITS.growth.title, view.toString(), ...notes].join("\n");
}

function table(
  kind: Work["kind"],
  rows: readonly Row[],
  title: (server: string) => string,
): string {
  const unit = UNITS[kind];
  const isUdp = kind === "udp" || kind === "sink";
  const times: readonly ("p50" | "p99")[] = kind === "idle" || kind === "sink" ? [] : ["p50", "p99"];
  const head = [
    "work",
    "server",
    `${unit.value} (min–max)`,
    isUdp ? "× C recvmmsg" : "× C",
    isUdp ? "× listenDatagram" : "× Deno.listen",
    ...(kind === "idle" ? [] : [unit.per]),
    ...times.map((time) => `${time} µs`),
    ...(kind === "sink" ? ["lost %"] : []),
  ];
  const view = new Table({
    head,
    colAligns: head.map((_, i) => i < 2 ? "left" : "right"),
    style: { head: [], border: [], compact: true },
  });
  const notes: string[] = [];
  for (const row of rows) {
    const name = title(row.server);
    const figures = summarize(row, rows);
    if (figures === undefined) {
      const content = `missing: ${row.missing ?? "not measured"}`;
      view.push([
        row.work.title,
        name,
        { colSpan: head.length - 2, content: wrap(content), hAlign: "left" },
      ]);
      continue;
    }
    view.push([
      row.work.title,
      name,
      spread(figures),
      decimal(figures.perC, 2),
      decimal(figures.perDeno, 2),
      ...(kind === "idle" ? [] : [decimal(figures.cpu, 2)]),
      ...times.map((time) => decimal(figures[time], 0)),
      ...(kind === "sink" ? [decimal((figures.loss ?? 0) * 100, 1)] : []),
    ]);
    notes.push(...remarks(figures, row.work, name));
  }
  return [unit.title, view.toString(), ...notes].join("\n");
}

function remarks(figures: Summary, work: Work, name: string): string[] {
  const remarks: string[] = [];
  if (figures.starved > 0 && work.kind === "sink") { /* the table says so */ }
  else if (figures.starved > 0 && work.kind === "udp") {
    remarks.push(`lost up to ${decimal(figures.starved, 0)} datagrams in a round`);
  } else if (figures.starved > 0) {
    remarks.push(
      `left ${figures.starved} of ${work.connections} connections without any answer in a round`,
    );
  }
  if (figures.loadBound) {
    remarks.push("could have done more, the load generator was at its limit");
  }
  if (figures.restless) {
    remarks.push("went on using CPU after its clients had left");
  }
  return remarks.map((remark) => `  ${name}, ${work.title}: ${remark}`);
}

function spread({ value, least, most }: Summary): string {
  return `${decimal(value, 0)} (${decimal(least, 0)}–${decimal(most, 0)})`;
}

function decimal(value: number | undefined, digits: number): string {
  if (value === undefined) return "–";
  return value.toLocaleString("en-US", {
    minimumFractionDigits: digits,
    maximumFractionDigits: digits,
  });
}

/** Reasons come from anywhere; a long one must not widen the table. */
function wrap(text: string): string {
  return text.match(/.{1,66}(\s|$)|\S{66}/g)?.map((s) => s.trim()).join("\n") ??
    text;
}
