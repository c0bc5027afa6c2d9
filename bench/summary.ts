/** From rounds to figures: medians, and ratios within the same round. */

import { max, median, min } from "simple-statistics";
import type { Row, Sample } from "./rounds.ts";

/** The figures of one row. */
export interface Summary {
  readonly value: number;
  readonly least: number;
  readonly most: number;
  /** Medians of the ratios per round; absent without the other row. */
  readonly perC: number | undefined;
  readonly perDeno: number | undefined;
  readonly cpu: number | undefined;
  readonly p50: number | undefined;
  readonly p99: number | undefined;
  readonly loss: number | undefined;
  /** Most connections without an answer in any round. */
  readonly starved: number;
  /** The generator was at its limit and the server was not. */
  readonly loadBound: boolean;
  readonly restless: boolean;
}

/** The figures of a row; undefined if it is missing. */
export function summarize(
  row: Row,
  rows: readonly Row[],
): Summary | undefined {
  if (row.missing !== undefined || row.samples.length === 0) return undefined;
  const { samples } = row;
  const values = samples.map((sample) => sample.value);
  const against = (server: string): number | undefined => {
    const base = rows.find((r) => r.work === row.work && r.server === server);
    return base?.missing === undefined ? ratio(samples, base?.samples ?? []) : undefined;
  };
  return {
    value: median(values),
    least: min(values),
    most: max(values),
    perC: against(row.work.yardsticks.c),
    perDeno: against(row.work.yardsticks.deno),
    cpu: middle(samples, "cpu"),
    p50: middle(samples, "p50"),
    p99: middle(samples, "p99"),
    loss: middle(samples, "loss"),
    starved: max(samples.map((sample) => sample.starved ?? 0)),
    loadBound: (middle(samples, "loadBusy") ?? 0) > 0.93 &&
      (middle(samples, "serverBusy") ?? 1) < 0.9,
    restless: samples.some((sample) => sample.restless === true),
  };
}

/** The median of the ratios of rounds that both have. */
export function ratio(
  samples: readonly Sample[],
  base: readonly Sample[],
): number | undefined {
  const ratios = samples.flatMap(({ round, value }) => {
    const other = base.find((sample) => sample.round === round);
    return other !== undefined && other.value > 0 ? [value / other.value] : [];
  });
  return ratios.length === 0 ? undefined : median(ratios);
}

/** Rounds in which other programs took a good part of a core, and all rounds. */
export function disturbance(rows: readonly Row[]): [number, number] {
  const others = rows.flatMap((row) => row.samples)
    .flatMap((sample) => sample.othersBusy ?? []);
  return [others.filter((share) => share > 0.2).length, others.length];
}

function middle(
  samples: readonly Sample[],
  key: "cpu" | "p50" | "p99" | "loss" | "loadBusy" | "serverBusy",
): number | undefined {
  const values = samples.flatMap((sample) => sample[key] ?? []);
  return values.length === 0 ? undefined : median(values);
}
