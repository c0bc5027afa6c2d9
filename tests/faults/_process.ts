/** Test files in a process whose C library has faults in it. */

import { decode, type Finished, ROOT } from "../_util.ts";
import type { FaultPlan } from "./libc.ts";

/** An import map that puts `libc.ts` of this folder in the place of the library's, everywhere but in itself. */
async function importMap(): Promise<string> {
  const { imports } = JSON.parse(await Deno.readTextFile(new URL("deno.json", ROOT))) as {
    imports: Record<string, string>;
  };
  for (const [name, target] of Object.entries(imports)) {
    if (target.startsWith("./")) imports[name] = new URL(target, ROOT).href;
  }
  const libc = new URL("internal/libc.ts", ROOT).href;
  const faulty = import.meta.resolve("./libc.ts");
  return JSON.stringify({ imports: { ...imports, [libc]: faulty }, scopes: { [faulty]: { [libc]: libc } } });
}

/** What came of a run, and how often which fault was given. */
export interface Outcome extends Finished {
  readonly given: ReadonlyMap<string, number>;
}

/** Runs test files, those of their tests whose names `filter` fits, under faults. */
export async function testUnderFaults(
  files: readonly string[],
  filter: RegExp,
  plan: FaultPlan,
  args: readonly string[] = [],
): Promise<Outcome> {
  const folder = await Deno.makeTempDir();
  try {
    const [map, log] = [`${folder}/import_map.json`, `${folder}/given`];
    await Deno.writeTextFile(map, await importMap());
    await Deno.writeTextFile(log, "");
    const preload = `--preload=${import.meta.resolve("./_preload.ts")}`;
    const flags = ["--quiet", "--no-check", "--frozen", "--allow-all", `--import-map=${map}`, preload];
    const { code, stdout, stderr } = await new Deno.Command(Deno.execPath(), {
      args: ["test", ...flags, ...files, "--", ...args],
      cwd: ROOT,
      env: { NO_COLOR: "1", C10K_FAULTS: JSON.stringify({ ...plan, log, filter: filter.source }) },
      stdin: "null",
    }).output();
    return { code, stdout: decode(stdout), stderr: decode(stderr), given: sum(await Deno.readTextFile(log)) };
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
}

function sum(log: string): Map<string, number> {
  const given = new Map<string, number>();
  for (const line of log.split("\n").filter((line) => line !== "")) {
    for (const [fault, count] of JSON.parse(line) as [string, number][]) {
      given.set(fault, (given.get(fault) ?? 0) + count);
    }
  }
  return given;
}
