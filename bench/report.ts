/** The tables that a run ends with, for a terminal and as Markdown. */

import Table from "cli-table3";
import { markdownTable } from "markdown-table";
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
  kv: {
    title: "GET and SET by redis-benchmark, 100,000 keys, values of 3 bytes, 50 connections",
    value: "requests/s",
    per: "CPU µs/request",
  },
  handover: {
    title: "Connections handed on: opened, used once and closed; p50 and p99 from connect to the answer",
    value: "connections/s",
    per: "CPU µs/conn.",
  },
  hash: {
    title: "SHA-256 of 1 MiB for each message, all cores",
    value: "requests/s",
    per: "CPU µs/request",
  },
  idle: { title: "Idle connections", value: "RSS bytes/conn.", per: "CPU" },
};

/** Whom others are compared with, where that is not C and Deno.listen. */
const YARDSTICKS: Partial<Record<Work["kind"], readonly string[]>> = {
  udp: ["× C recvmmsg", "× listenDatagram"],
  sink: ["× C recvmmsg", "× listenDatagram"],
  kv: ["× redis-server"],
  handover: ["× in one thread"],
  hash: ["× 1 worker", "× 1 process"],
};

/** A table before it is drawn. */
export interface View {
  readonly title: string;
  readonly head: readonly string[];
  /** A cell, or the reason why the rest of the row is missing. */
  readonly rows: readonly (readonly (string | { readonly missing: string })[])[];
  /** What the figures cannot show. */
  readonly notes: readonly string[];
}

/** The tables of a run; `title` gives a server's name in them. */
export function views(rows: readonly Row[], title: (server: string) => string): View[] {
  const kinds = [...new Set(rows.map((row) => row.work.kind))];
  return kinds.map((kind) => {
    const some = rows.filter((row) => row.work.kind === kind);
    return kind === "growth" ? growth(some, title) : table(kind, some, title);
  });
}

/** All tables as text for a terminal. */
export function report(rows: readonly Row[], title: (server: string) => string): string {
  return views(rows, title).map(({ title, head, rows, notes }) => {
    const view = new Table({
      head: [...head],
      colAligns: head.map((name) => TEXT_COLUMNS.includes(name) ? "left" : "right"),
      style: { head: [], border: [], compact: true },
    });
    for (const row of rows) {
      view.push(
        row.map((cell, i) =>
          typeof cell === "string" ? cell : { colSpan: head.length - i, content: wrap(cell.missing), hAlign: "left" }
        ),
      );
    }
    return [title, view.toString(), ...notes.map((note) => `  ${note}`)].join("\n");
  }).join("\n\n");
}

/** The same as Markdown. */
export function markdown(rows: readonly Row[], title: (server: string) => string): string {
  return views(rows, title).map(({ title, head, rows, notes }) => {
    const cells = rows.map((row) => row.map((cell) => typeof cell === "string" ? cell : cell.missing));
    const align = head.map((name) => TEXT_COLUMNS.includes(name) ? "l" : "r");
    return [
      `## ${title}`,
      markdownTable([head, ...cells], { align }),
      ...(notes.length === 0 ? [] : [notes.map((note) => `- ${note}`).join("\n")]),
    ].join("\n\n");
  }).join("\n\n");
}

/** Columns that hold names. */
const TEXT_COLUMNS = ["work", "server"];

/** A line for each number of idle connections, and for each server its rate, and that by its rate without any. */
function growth(rows: readonly Row[], title: (server: string) => string): View {
  const servers = [...new Set(rows.map((row) => row.server))];
  const works = [...new Set(rows.map((row) => row.work))];
  const notes: string[] = [];
  const lines = works.map((work) => {
    const cells = servers.map((server) => {
      const row = rows.find((row) => row.work === work && row.server === server);
      const figures = row === undefined ? undefined : summarize(row, rows);
      if (figures === undefined) {
        notes.push(`${title(server)}, ${decimal(work.idle, 0)} idle, missing: ${row?.missing ?? "not measured"}`);
        return "missing";
      }
      const alone = rows.find((row) => row.work.idle === 0 && row.server === server);
      const share = row === undefined || alone === undefined ? undefined : ratio(row.samples, alone.samples);
      return `${decimal(figures.value, 0)} (${decimal(share, 2)})`;
    });
    return [decimal(work.idle, 0), ...cells];
  });
  return { title: UNITS.growth.title, head: ["idle", ...servers.map(title)], rows: lines, notes };
}

function table(
  kind: Work["kind"],
  rows: readonly Row[],
  title: (server: string) => string,
): View {
  const unit = UNITS[kind];
  const times: readonly ("p50" | "p99")[] = kind === "idle" || kind === "sink" ? [] : ["p50", "p99"];
  const head = [
    "work",
    "server",
    `${unit.value} (min–max)`,
    ...YARDSTICKS[kind] ?? ["× C", "× Deno.listen"],
    ...(kind === "idle" ? [] : [unit.per]),
    ...times.map((time) => `${time} µs`),
    ...(kind === "sink" ? ["lost %"] : []),
  ];
  const notes: string[] = [];
  const lines = rows.map((row) => {
    const name = title(row.server);
    const figures = summarize(row, rows);
    if (figures === undefined) {
      return [row.work.title, name, { missing: `missing: ${row.missing ?? "not measured"}` }];
    }
    notes.push(...remarks(figures, row.work, name));
    return [
      row.work.title,
      name,
      spread(figures),
      decimal(figures.perC, 2),
      ...(kind === "kv" || kind === "handover" ? [] : [decimal(figures.perDeno, 2)]),
      ...(kind === "idle" ? [] : [decimal(figures.cpu, 2)]),
      ...times.map((time) => decimal(figures[time], 0)),
      ...(kind === "sink" ? [decimal((figures.loss ?? 0) * 100, 1)] : []),
    ];
  });
  return { title: unit.title, head, rows: lines, notes };
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
  return remarks.map((remark) => `${name}, ${work.title}: ${remark}`);
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
