/**
 * Runs the tests of what differs by machine on aarch64: the npm package of Deno for that machine, under QEMU's user
 * mode emulator. Needs Linux on x86_64, npm, and of Debian's packages `qemu-user-static`, `gcc-aarch64-linux-gnu`,
 * `libc6-dev-arm64-cross`, `libstdc++6-arm64-cross`, `libgcc-s1-arm64-cross`, and `util-linux`.
 *
 *     deno run --allow-all tools/aarch64.ts                      # the suites of tools/aarch64/suites.ts
 *     deno run --allow-all tools/aarch64.ts --filter datagram    # of these, the tests with that in their names
 *     deno run --allow-all tools/aarch64.ts tests/address_test.ts --jobs 1
 *     deno run --allow-all tools/aarch64.ts --all                # of the suites, also the tests that suites.ts leaves out
 *
 * Programs for aarch64 start as others do, so that tests can start child processes: in a user namespace of its own, the
 * kernel hands them to the emulator (binfmt_misc; Linux 6.7). The rest of the machine sees nothing of that.
 *
 * What the emulator cannot do is found by `tools/aarch64/probe.c`, which runs first, under the same emulator: a test is
 * skipped if and only if the probe that it needs finds something missing. Every other test has to pass, and every test
 * that the files declare on x86_64 has to be declared on aarch64.
 */

import { parseArgs } from "@std/cli";
import type { Declared, Plan } from "./aarch64/plan.ts";
import { LEFT_OUT, NEEDS, type Suite, SUITES } from "./aarch64/suites.ts";

const ROOT = new URL("../", import.meta.url);
const HERE = new URL("aarch64/", import.meta.url).pathname;
const EMULATOR = "/usr/bin/qemu-aarch64-static";
const LIBRARIES = "/usr/aarch64-linux-gnu";
const COMPILER = "aarch64-linux-gnu-gcc";
const LAST_LINE = /^(?:ok|FAILED) \| (\d+) passed.*? \| (\d+) failed/gm;
/** Milliseconds after which a group of files is given up. */
const LIMIT = 10 * 60_000;
/** Groups of files that each job runs, one after the other. */
const GROUPS_PER_JOB = 3;

const { _: paths, jobs = String(navigator.hardwareConcurrency), filter = "", all } = parseArgs(Deno.args, {
  string: ["jobs", "filter", "_"],
  boolean: ["all"],
});
const suites: readonly Suite[] = paths.length > 0
  ? paths.map((path) => SUITES.find(({ file }) => file === path) ?? { file: String(path) })
  : SUITES;
const files = suites.map(({ file }) => file);

/** Runs a program and returns what it has printed; throws if it fails. */
async function output(command: string, args: string[], env: Record<string, string> = {}): Promise<string> {
  const { success, stdout, stderr } = await new Deno.Command(command, { args, env, cwd: ROOT, stdin: "null" }).output();
  const text = new TextDecoder().decode(stdout);
  if (!success) throw new Error(`Cannot run ${command} ${args.join(" ")}: ${text}${new TextDecoder().decode(stderr)}`);
  return text;
}

/** Deno for aarch64, of the version that runs this. */
async function fetchDeno(folder: string): Promise<string> {
  const archive = await output("npm", [
    "pack",
    "--silent",
    "--prefer-offline",
    `--pack-destination=${folder}`,
    `@deno/linux-arm64-glibc@${Deno.version.deno}`,
  ]);
  await output("tar", ["-xzf", `${folder}/${archive.trim().split("\n").at(-1)}`, "-C", folder]);
  return `${folder}/package/deno`;
}

/**
 * In a new user namespace, makes the kernel start programs for aarch64 by `$1`, and becomes the program that follows.
 * Where that is not possible the emulator runs this one program, and what it would start is found missing by the probe.
 */
const ENTER = String.raw`
magic='\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\xb7\x00'
mask='\xff\xff\xff\xff\xff\xff\xff\x00\xff\xff\xff\xff\xff\xff\xff\xff\xfe\xff\xff\xff'
interpreter=$1
shift
if mount -t binfmt_misc none /proc/sys/fs/binfmt_misc &&
  printf '%s' ":aarch64:M::$magic:$mask:$interpreter:P" >/proc/sys/fs/binfmt_misc/register; then exec "$@"; fi
exec ${EMULATOR} -L ${LIBRARIES} "$@"
`;

/** Runs programs for aarch64, with what was built in a folder. */
class Machine {
  constructor(readonly folder: string, readonly hasNamespaces: boolean) {}

  static async build(folder: string): Promise<Machine> {
    await Deno.mkdir(`${folder}/bin`);
    const definitions = [`-DEMULATOR="${EMULATOR}"`, `-DLIBRARIES="${LIBRARIES}"`];
    await output("cc", ["-O1", "-static", ...definitions, "-o", `${folder}/interpreter`, `${HERE}interpreter.c`]);
    await output(COMPILER, ["-O1", "-Wall", "-o", `${folder}/probe`, `${HERE}probe.c`]);
    // What tests call cc compiles for the machine that they run on.
    await Deno.symlink((await output("sh", ["-c", `command -v ${COMPILER}`])).trim(), `${folder}/bin/cc`);
    const { success } = await new Deno.Command("unshare", { args: ["-Urm", "true"], stderr: "null" }).output();
    return new Machine(folder, success);
  }

  /** The command that runs a program there. */
  command(program: string, args: string[], env: Record<string, string> = {}): Deno.Command {
    const [command, ...before] = this.hasNamespaces
      ? ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", ENTER, "sh", `${this.folder}/interpreter`]
      : [EMULATOR, "-L", LIBRARIES];
    return new Deno.Command(command as string, {
      args: [...before, program, ...args],
      cwd: ROOT,
      env: { ...env, NO_COLOR: "1", PATH: `${this.folder}/bin:${Deno.env.get("PATH")}` },
      stdin: "null",
      signal: AbortSignal.timeout(LIMIT),
    });
  }

  /** What the probes have found missing, by their names. */
  async probe(): Promise<Map<string, string>> {
    const { stdout } = await this.command(`${this.folder}/probe`, []).output();
    const lines = new TextDecoder().decode(stdout).trim().split("\n");
    const results = lines.map((line) => /^(.*?) (ok|missing: (.*))$/.exec(line));
    for (const needed of new Set(NEEDS.map(([, probe]) => probe))) {
      if (!results.some((result) => result?.[1] === needed)) throw new Error(`No probe says ${needed}: ${lines}`);
    }
    return new Map(results.flatMap((result) => result?.[3] === undefined ? [] : [[result[1] as string, result[3]]]));
  }
}

/** The tests that files declare, by file, as `deno test` of this machine sees them; none of them runs. */
async function declared(folder: string): Promise<Map<string, Declared[]>> {
  const log = `${folder}/declared`;
  await Deno.writeTextFile(`${folder}/declare`, JSON.stringify({ log, run: {} } satisfies Plan));
  await Deno.writeTextFile(log, "");
  await output(Deno.execPath(), testArgs(files), { AARCH64_PLAN: `${folder}/declare` });
  return Map.groupBy(readLog(log), ({ file }) => file.slice(ROOT.href.length));
}

function testArgs(files: readonly string[]): string[] {
  return ["test", "--quiet", "--no-check", "--allow-all", "--frozen", "--preload", `${HERE}select.ts`, ...files];
}

function readLog(path: string): Declared[] {
  return Deno.readTextFileSync(path).split("\n").filter((line) => line !== "").map((line) => JSON.parse(line));
}

const folder = await Deno.makeTempDir({ prefix: "aarch64-" });
try {
  const begin = performance.now();
  const machine = await Machine.build(folder);
  const [deno, missing, tests] = await Promise.all([fetchDeno(folder), machine.probe(), declared(folder)]);
  console.log([...missing].map(([probe, why]) => `missing here: ${probe}: ${why}\n`).join(""));

  // A cache of its own, filled by this machine: code that V8 keeps there is one machine's.
  const env = { DENO_DIR: `${folder}/cache`, TEST_PATIENCE: "10" };
  await output(Deno.execPath(), ["cache", "--quiet", "--frozen", `${HERE}select.ts`, ...files], env);

  const everything = [...tests.values()].flat();
  const problems = [...NEEDS, ...LEFT_OUT].filter(([test]) =>
    paths.length === 0 && !everything.some(({ name }) => test.test(name))
  ).map(([test]) => `suites.ts: no test is named ${test}`);
  const skipped: [name: string, reason: string][] = [];
  const leftOut = new Map<string, number>();
  let [passed, failed] = [0, problems.length];

  /** Why a test is no part of the run; `undefined` if it is. */
  const absence = ({ only }: Suite, { name, ignore }: Declared): string | undefined => {
    if (ignore) return "the files leave them out on x86_64 as well";
    if (all) return undefined;
    if (only?.test(name) === false) return "of their files a selection runs (tools/aarch64/suites.ts)";
    return LEFT_OUT.find(([test]) => test.test(name))?.[1];
  };

  /** The tests of a file that are to run; enters the others where they belong. */
  const choose = (suite: Suite): string[] => {
    const candidates = (tests.get(suite.file) ?? []).filter(({ name }) => name.includes(String(filter)));
    return candidates.filter((test) => {
      const why = absence(suite, test);
      if (why !== undefined) {
        leftOut.set(why, (leftOut.get(why) ?? 0) + 1);
        return false;
      }
      const probe = NEEDS.find(([pattern, probe]) => pattern.test(test.name) && missing.has(probe))?.[1];
      if (probe !== undefined) skipped.push([test.name, `${probe}: ${missing.get(probe)}`]);
      return probe === undefined;
    }).map(({ name }) => name);
  };

  const isSkipped = ({ name }: Declared) => skipped.some(([skipped]) => skipped === name);

  /** Runs files in one process, for each process takes seconds to start under the emulator. */
  const runGroup = async (group: readonly Suite[], index: number): Promise<void> => {
    const run = Object.fromEntries(group.map((suite) => [ROOT.href + suite.file, choose(suite)] as const));
    const chosen = Object.values(run).flat().length;
    if (chosen === 0) return;
    const files = group.map(({ file }) => file);
    const [log, plan] = [`${folder}/log-${index}`, `${folder}/plan-${index}`];
    await Deno.writeTextFile(log, "");
    await Deno.writeTextFile(plan, JSON.stringify({ log, run } satisfies Plan));
    const begin = performance.now();
    const { success, stdout, stderr } = await machine.command(deno, testArgs(files), { ...env, AARCH64_PLAN: plan })
      .output();
    const seconds = ((performance.now() - begin) / 1_000).toFixed(1);
    const text = new TextDecoder().decode(stdout) + new TextDecoder().decode(stderr);
    const [, good = "0", bad = "0"] = [...text.matchAll(LAST_LINE)].at(-1) ?? [];
    passed += Number(good);
    const there = Map.groupBy(readLog(log), ({ file }) => file.slice(ROOT.href.length));
    for (const file of files) {
      // What a probe misses, the file may know to miss as well.
      const [x86, arm] = [tests, there].map((all) => (all.get(file) ?? []).filter((test) => !isSkipped(test)));
      const differing = differences(x86 as Declared[], arm as Declared[]);
      problems.push(...differing.map((what) => `${file}: ${what}`));
      failed += differing.length;
    }
    // A crash, a leak or tests that have not run fail the group as well.
    const isOk = success && Number(good) === chosen && bad === "0";
    if (!isOk) {
      console.log(text);
      const lost = Math.max(1, chosen - Number(good));
      failed += lost;
      problems.push(`${files.join(", ")}: ${lost} of ${chosen} tests have not passed`);
    }
    console.log(`${files.join(", ")} ... ${isOk ? "ok" : "FAILED"}, ${good} passed (${seconds} s)`);
  };

  // Contiguous, and several for each job, so that none has nothing to do for long.
  const size = Math.max(1, Math.ceil(suites.length / (Number(jobs) * GROUPS_PER_JOB)));
  const groups = Array.from(
    { length: Math.ceil(suites.length / size) },
    (_, i) => suites.slice(i * size, (i + 1) * size),
  );
  const queue = [...groups.entries()];
  const work = async () => {
    for (let next = queue.shift(); next !== undefined; next = queue.shift()) await runGroup(next[1], next[0]);
  };
  await Promise.all(Array.from({ length: Number(jobs) }, work));

  for (const [why, count] of leftOut) console.log(`\nnot part of this run: ${count} tests: ${why}`);
  if (skipped.length > 0) console.log("");
  for (const [name, why] of skipped) console.log(`skipped: ${name}: ${why}`);
  for (const problem of problems) console.log(`failed: ${problem}`);
  const time = `${Math.round((performance.now() - begin) / 1_000)} s`;
  const isOk = failed === 0 && passed > 0;
  console.log(
    `\n${isOk ? "ok" : "FAILED"} | ${passed} passed | ${failed} failed | ${skipped.length} skipped (${time})`,
  );
  if (!isOk) Deno.exitCode = 1;
} finally {
  await Deno.remove(folder, { recursive: true });
}

/** How the tests that a file declares there differ from those that it declares here. */
function differences(here: readonly Declared[], there: readonly Declared[]): string[] {
  const key = ({ name, ignore }: Declared) => `${ignore ? "ignored" : "run"}: ${name}`;
  const [before, after] = [new Set(here.map(key)), new Set(there.map(key))];
  return [
    ...[...before.difference(after)].map((test) => `declared on x86_64 only: ${test}`),
    ...[...after.difference(before)].map((test) => `declared on aarch64 only: ${test}`),
  ];
}
