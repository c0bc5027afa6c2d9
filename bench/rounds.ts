/** Interleaved rounds: every server has its turn in each of them. */

import { runKv } from "./kv_load.ts";
import { type GeneratorWork, IdleConnections, runTraffic, type Traffic } from "./load.ts";
import { Unavailable } from "./processes.ts";
import { Server } from "./server.ts";
import type { Work } from "./works.ts";

/** One round of one server. `value` is what the table compares. */
export interface Sample extends Partial<Traffic> {
  readonly round: number;
  readonly value: number;
  /** The server went on using CPU after its clients had left. */
  readonly restless?: boolean;
}

/** A server at a work. Without samples, `missing` says why. */
export interface Row {
  readonly work: Work;
  readonly server: string;
  samples: Sample[];
  missing?: string;
}

/** A server that takes part, or the reason why it does not. */
export interface Entrant {
  readonly name: string;
  readonly command: readonly string[] | Unavailable;
  readonly ownBuffers: boolean;
}

/** How rounds are run. Durations are ms. */
export interface Course {
  readonly load: readonly string[] | Unavailable;
  /** Put before the command of a load of others, to pin it. */
  readonly loadPrefix: readonly string[];
  /** Put before a server's command, to pin it. */
  readonly prefix: readonly string[];
  readonly rounds: number;
  readonly warmup: number;
  /** Of the round that does not count. */
  readonly firstDuration: number;
  readonly duration: number;
  /** When the last round may start, by `Date.now()`. */
  readonly deadline: number;
  /** Open descriptors that a process may have. */
  readonly descriptors: number;
  step(work: Work, server: string, round: string): void;
}

// Descriptors that a server or the load needs for itself.
const SPARE = 64;
// Until the garbage of accepting is gone, or known to stay.
const IDLE_SETTLE = 1000;
const IDLE_ROUNDS = 3;
// For servers with a buffer per connection, which would otherwise be all there
// is to see.
const IDLE_BUFFER = 1024;

/** Each round begins with another server, so that none always comes first. */
export function rotate<T>(list: readonly T[], round: number): T[] {
  const from = list.length === 0 ? 0 : round % list.length;
  return [...list.slice(from), ...list.slice(0, from)];
}

function roundsOf(work: Work, rounds: number): number {
  return work.kind === "idle" ? Math.min(rounds, IDLE_ROUNDS) : rounds;
}

/** How many steps each server has at a work, the warm-up among them. */
export function stepsOf(work: Work, rounds: number): number {
  return roundsOf(work, rounds) + (work.kind === "idle" ? 0 : 1) + (work.idle > 0 ? 1 : 0);
}

/** A row while it is measured. */
interface Lane {
  readonly row: Row;
  readonly entrant: Entrant;
  server: Server | undefined;
}

/** Measures all servers at one work, or at several whose rounds are interleaved, too. */
export async function measure(
  works: readonly Work[],
  entrantsOf: (work: Work) => readonly Entrant[],
  course: Course,
): Promise<Row[]> {
  const lanes = works.flatMap((work) =>
    entrantsOf(work).map((entrant): Lane => {
      const row: Row = { work, server: entrant.name, samples: [] };
      const reason = obstacle(work, entrant, course);
      if (reason !== undefined) row.missing = reason;
      return { row, entrant, server: undefined };
    })
  );
  const neighbours: IdleConnections[] = [];
  try {
    for (const lane of lanes) await startLane(lane, course, neighbours);
    for (const { row, server } of lanes) {
      if (row.missing === undefined && server !== undefined) await warm(row, server, course);
    }
    for (let round = 0; round < course.rounds; round++) {
      for (const { row, entrant, server } of rotate(lanes, round)) {
        const { work } = row;
        if (row.missing !== undefined || round >= roundsOf(work, course.rounds)) continue;
        if (Date.now() > course.deadline) break;
        course.step(work, row.server, `round ${round + 1}`);
        await attempt(row, server, async () => {
          row.samples.push(
            server === undefined
              ? await idle(work, round, commandOf(entrant), course)
              : await traffic(work, round, server, course),
          );
        });
      }
    }
  } finally {
    await Promise.all(neighbours.map((idle) => idle[Symbol.asyncDispose]()));
    await Promise.all(lanes.map(({ server }) => server?.stop()));
  }
  for (const { row } of lanes) {
    if (row.samples.length === 0) row.missing ??= "no time was left";
  }
  return lanes.map(({ row }) => row);
}

function obstacle(
  work: Work,
  entrant: Entrant,
  course: Course,
): string | undefined {
  if (entrant.command instanceof Unavailable) return entrant.command.message;
  if (course.load instanceof Unavailable && work.kind !== "kv") return course.load.message;
  const need = work.connections + work.idle + SPARE;
  if (need > course.descriptors) {
    return `needs ${need} descriptors, allowed are ${course.descriptors} (ulimit -n)`;
  }
  return undefined;
}

function commandOf(entrant: Entrant | undefined): readonly string[] {
  if (entrant === undefined || entrant.command instanceof Unavailable) {
    throw new Unavailable("no command");
  }
  if (!entrant.ownBuffers) return entrant.command;
  return [...entrant.command, "--buffer", `${IDLE_BUFFER}`];
}

/** Starts a server, and gives it its idle connections. */
async function startLane(lane: Lane, course: Course, neighbours: IdleConnections[]): Promise<void> {
  const { row, entrant: { command } } = lane;
  const { work } = row;
  if (row.missing !== undefined || work.kind === "idle" || command instanceof Unavailable) return;
  await attempt(row, undefined, async () => {
    const server = lane.server = await Server.start([
      ...(work.isSpread === true ? [] : course.prefix),
      ...command,
      ...(work.args ?? []),
    ]);
    await server.settle();
  });
  const { server } = lane;
  if (work.idle === 0 || server === undefined) return;
  course.step(work, row.server, "idle connections");
  await attempt(row, server, async () => {
    neighbours.push(await IdleConnections.open(loadOf(course), work.idle, server.port));
    await server.settle();
  });
}

/** A round that does not count: compilers optimize what has run for a while. */
async function warm(row: Row, server: Server, course: Course): Promise<void> {
  course.step(row.work, row.server, "warm-up");
  await attempt(row, server, async () => {
    await runLoad(row.work, server, { ...course, duration: course.firstDuration });
    await server.settle();
  });
}

/** A failure ends the row, and no other. */
async function attempt(
  row: Row,
  server: Server | undefined,
  action: () => Promise<void>,
): Promise<void> {
  try {
    await action();
  } catch (error) {
    if (!(error instanceof Unavailable)) throw error;
    // Half a row would be compared with whole ones.
    row.samples = [];
    row.missing = [error.message, server?.complaint].filter(Boolean).join("; ");
    await server?.stop();
  }
}

function loadOf(course: Course): readonly string[] {
  if (course.load instanceof Unavailable) throw course.load;
  return course.load;
}

async function traffic(
  work: Work,
  round: number,
  server: Server,
  course: Course,
): Promise<Sample> {
  const result = await runLoad(work, server, course);
  const restless = !(await server.settle());
  return { round, ...result, restless };
}

function runLoad(work: Work, server: Server, course: Course): Promise<Traffic> {
  if (isForGenerator(work)) return runTraffic(loadOf(course), work, server, course);
  return runKv(course.loadPrefix, work, server, course.duration);
}

function isForGenerator(work: Work): work is GeneratorWork {
  return work.kind !== "kv";
}

/** Resident bytes per connection, of a server that has served nobody before. */
async function idle(
  work: Work,
  round: number,
  command: readonly string[],
  course: Course,
): Promise<Sample> {
  const server = await Server.start([...course.prefix, ...command]);
  try {
    await server.settle();
    const before = server.rss();
    const load = loadOf(course);
    await using idle = await IdleConnections.open(load, work.connections, server.port);
    await server.settle();
    await new Promise((resolve) => setTimeout(resolve, IDLE_SETTLE));
    const after = server.rss();
    await idle.close();
    return { round, value: (after - before) / work.connections };
  } finally {
    await server.stop();
  }
}
