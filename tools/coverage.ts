/**
 * Runs all tests and tells what of the library they reach. What children and
 * threads reach counts, too: they are told by a variable where to write it.
 * Ends with 1 if it is less than `coverage.thresholds` of deno.json, or if a
 * line is not reached for no reason that `unreached.ts` gives.
 *
 *     deno task coverage
 *     deno task coverage --detailed    # with the lines that were not reached
 */

import { unexplained } from "./unreached.ts";

const folder = await Deno.makeTempDir();
const lcov = await Deno.makeTempFile({ suffix: ".lcov" });

async function deno(args: string[], env: Record<string, string> = {}): Promise<number> {
  const { code } = await new Deno.Command(Deno.execPath(), { args, env, stdin: "null" }).spawn().status;
  return code;
}

/** A process that is killed while it writes leaves half a file, which would end the report. */
async function removeHalves(): Promise<void> {
  for await (const { name } of Deno.readDir(folder)) {
    const path = `${folder}/${name}`;
    if (name.endsWith(".json") && !(await Deno.readTextFile(path)).trimEnd().endsWith("}")) await Deno.remove(path);
  }
}

async function tellUnexplained(): Promise<number> {
  const lines = await unexplained(await Deno.readTextFile(lcov));
  for (const line of lines) console.error(`not reached, for no reason that is known: ${line}`);
  return lines.length === 0 ? 0 : 1;
}

try {
  const test = ["run", "--allow-all", "tools/test.ts"];
  const raw = [`--coverage=${folder}`, "--coverage-raw-data-only"];
  const env = { DENO_COVERAGE_DIR: folder, TEST_SIZE: "full" };
  const tests = await deno([...test, "tests/", "tests/faults/", ...raw], env);
  const bench = await deno([...test, "bench/", "--config", "deno.bench.json", ...raw], env);
  await removeHalves();
  const library = "--include=/(tcp|udp|mux|poll|process|internal)/";
  const share = await deno(["coverage", library, ...Deno.args, folder]);
  const lines = await deno(["coverage", library, "--lcov", `--output=${lcov}`, folder]);
  const unknown = await tellUnexplained();
  if (tests || bench) console.error("a test has failed: more may be reached than this says");
  Deno.exitCode = tests || bench || share || lines || unknown;
} finally {
  await Deno.remove(folder, { recursive: true });
  await Deno.remove(lcov);
}
