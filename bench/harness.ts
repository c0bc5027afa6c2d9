/** One run of the benchmark, from the plan to the table. */

import type { Plan } from "./args.ts";
import { buildLoad } from "./build.ts";
import { describe, descriptorLimit, pinning } from "./machine.ts";
import { Unavailable } from "./processes.ts";
import { progress } from "./progress.ts";
import { report } from "./report.ts";
import { heading, peace, rawData, type Run, writeResults } from "./results.ts";
import { type Entrant, measure, type Row, stepsOf } from "./rounds.ts";
import { CONTESTANTS } from "./servers.ts";
import { disturbance } from "./summary.ts";
import { type Work, WORKS } from "./works.ts";

/** Runs the plan and prints the tables; false if nothing could be measured. */
export async function harness(plan: Plan): Promise<boolean> {
  const begun = Date.now();
  const works = WORKS.filter((work) => plan.works.includes(work.name));
  const serversOf = (work: Work) => plan.servers ?? work.servers;
  const contestants = CONTESTANTS.filter((c) => works.some((work) => serversOf(work).includes(c.name)));
  const titles = new Map(contestants.map((c) => [c.name, c.title]));
  const title = (name: string) => titles.get(name) ?? name;

  const machine = await describe();
  const pin = await pinning(plan.pin);
  console.error("Getting the servers and the load generator ready");
  const load = await orReason(buildLoad());
  const entrants: Entrant[] = [];
  for (const { name, command, ownBuffers } of contestants) {
    entrants.push({ name, ownBuffers, command: await orReason(command()) });
  }

  const rows: Row[] = [];
  const entrantsOf = (work: Work) => entrants.filter((e) => serversOf(work).includes(e.name));
  const steps = works.reduce((sum, work) => sum + stepsOf(work, plan.rounds) * entrantsOf(work).length, 0);
  {
    using bar = progress(steps);
    // What is compared across works is interleaved across them.
    const growth = works.filter((work) => work.kind === "growth");
    const groups = [...works.filter((work) => work.kind !== "growth").map((work) => [work]), growth];
    for (const group of groups) {
      rows.push(
        ...await measure(group, entrantsOf, {
          ...plan,
          load: load instanceof Unavailable ? load : [...pin.load, load],
          loadPrefix: pin.load,
          prefix: pin.server,
          deadline: begun + plan.budget,
          descriptors: descriptorLimit(),
          step: (work, server, round) => bar.step(`${work.title}, ${title(server)}, ${round}`),
        }),
      );
    }
  }

  const run: Run = {
    date: new Date(begun).toISOString(),
    machine,
    pinning: pin.text,
    rounds: plan.rounds,
    duration: plan.duration,
    disturbed: disturbance(rows),
  };
  console.log(`${heading(run)}\n\n${report(rows, title)}`);
  if (peace(run) !== "") console.log(`\n${peace(run)}`);
  if (plan.results !== undefined) await writeResults(plan.results, run, rows, title);
  if (plan.json !== undefined) Deno.writeTextFileSync(plan.json, rawData(run, rows));
  return rows.some((row) => row.missing === undefined);
}

async function orReason<T>(asked: Promise<T>): Promise<T | Unavailable> {
  try {
    return await asked;
  } catch (error) {
    if (error instanceof Unavailable) return error;
    throw error;
  }
}
