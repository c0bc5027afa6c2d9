/**
 * Runs test files side by side, each in a process of its own, so that what one of them opens, uses or breaks is none of
 * another's. The output of a file is shown if one of its tests fails.
 *
 *     deno run --allow-all tools/test.ts tests/              # the files in tests/, not those in folders beneath
 *     deno run --allow-all tools/test.ts tests/ --jobs 1     # one after the other
 *     deno run --allow-all tools/test.ts tests/ --rest       # what such a run leaves out, at full size
 *     deno run --allow-all tools/test.ts tests/udp_test.ts --filter batch -- --seeds 20
 *
 * Other flags go to `deno test`, and what stands behind `--` to the tests.
 */

import { parseArgs } from "@std/cli";

const ROOT = new URL("../", import.meta.url);
const end = Deno.args.includes("--") ? Deno.args.indexOf("--") : Deno.args.length;
/** What goes to the tests. A task that ends with `--` may have been given one more. */
const own = Deno.args.slice(end).filter((arg) => arg !== "--");
/** Milliseconds after which a file is given up; who asks the tests for more, as by `--seeds 20`, waits for longer. */
const LIMIT = (own.length === 0 ? 5 : 60) * 60_000;
const { _: paths, jobs, rest, ...flags } = parseArgs(Deno.args.slice(0, end), {
  string: ["jobs", "filter", "config", "coverage"],
  boolean: ["rest"],
  // One more than there are processors: some always wait.
  default: { jobs: String(navigator.hardwareConcurrency + 1) },
});
const given = Object.entries(flags).map(([name, value]) => value === true ? `--${name}` : `--${name}=${value}`);

/** How a test asks for its size (tests/_util.ts). */
const HAS_SIZES = /\b(sized|some|oneOf|isChosen|long|childTest)\(|\bisFullSize\b/;

/** The test files of a path, with their sizes in bytes. */
function filesOf(path: string): [file: string, size: number][] {
  const { isFile, size } = Deno.statSync(new URL(path, ROOT));
  if (isFile) return rest && !HAS_SIZES.test(Deno.readTextFileSync(new URL(path, ROOT))) ? [] : [[path, size]];
  const folder = path.replace(/\/*$/, "/");
  return [...Deno.readDirSync(new URL(folder, ROOT))]
    .filter(({ name }) => name.endsWith("_test.ts")).flatMap(({ name }) => filesOf(folder + name));
}

/** What a run of `deno test` tells in its last line. */
interface Counts {
  passed: number;
  steps: number;
  failed: number;
  ignored: number;
}

/** Reads them; `undefined` if it has ended without. */
function countsOf(output: string): Counts | undefined {
  const last = output.match(/^(ok|FAILED) \| .*$/gm)?.at(-1);
  if (last === undefined) return undefined;
  const count = (what: string) => Number(new RegExp(`(\\d+) ${what}`).exec(last)?.[1] ?? 0);
  return { passed: count("passed"), steps: count("steps?"), failed: count("failed"), ignored: count("ignored") };
}

const total: Counts = { passed: 0, steps: 0, failed: 0, ignored: 0 };

async function runFile(file: string): Promise<void> {
  const begin = performance.now();
  const args = ["test", "--quiet", "--no-check", "--allow-all", ...given, file, "--", ...own];
  const { success, stdout, stderr } = await new Deno.Command(Deno.execPath(), {
    args,
    cwd: ROOT,
    env: { NO_COLOR: "1", ...(rest ? { TEST_SIZE: "rest" } : {}) },
    stdin: "null",
    signal: AbortSignal.timeout(LIMIT),
  }).output();
  const seconds = (performance.now() - begin) / 1_000;
  const output = new TextDecoder().decode(stdout) + new TextDecoder().decode(stderr);
  const counts = countsOf(output) ?? { passed: 0, steps: 0, failed: 0, ignored: 0 };
  // A leak, a crash or an error outside the tests fails the file.
  if (!success && counts.failed === 0) counts.failed = 1;
  for (const name of Object.keys(total) as (keyof Counts)[]) total[name] += counts[name];
  if (!success) console.log(output);
  const { passed, failed } = counts;
  console.log(`${file} ... ${success ? "ok" : `FAILED (${failed})`}, ${passed} passed (${seconds.toFixed(1)} s)`);
}

// The large ones first: one that begins last would be waited for alone.
const files = paths.flatMap((path) => filesOf(String(path))).toSorted(([, a], [, b]) => b - a).map(([file]) => file);
const begin = performance.now();
async function work(): Promise<void> {
  for (let file = files.shift(); file !== undefined; file = files.shift()) await runFile(file);
}
await Promise.all(Array.from({ length: Number(jobs) }, work));

const { passed, steps, failed, ignored } = total;
const seconds = Math.round((performance.now() - begin) / 1_000);
const time = `${Math.floor(seconds / 60)}m${seconds % 60}s`;
const result = failed === 0 && passed > 0 ? "ok" : "FAILED";
console.log(`\n${result} | ${passed} passed (${steps} steps) | ${failed} failed | ${ignored} ignored (${time})`);
if (result !== "ok") Deno.exitCode = 1;
