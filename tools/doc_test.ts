/**
 * Runs the examples of documentation comments and Markdown files as tests.
 * They are what `deno test --doc` runs, too; that gives each of them a runtime
 * of its own, which takes minutes for all. Here they are modules of one test.
 * Recipes that are not marked as native run a second time, without the right to.
 *
 *     deno task test:doc
 *     deno run --allow-all tools/doc_test.ts docs/recipes.md tcp/
 *
 * Blocks marked `ts` are taken, without exception. `tests/consumer_test.ts` and
 * `tests/exact_flags_test.ts` run those in Markdown with the flags that they name.
 */

import { fileURLToPath } from "node:url";
import { type Example, examplesIn } from "./examples.ts";

const ROOT = new URL("../", import.meta.url);

/** The files of a path: itself, or what lies in the folder. */
function filesOf(path: string): string[] {
  if (!Deno.statSync(new URL(path, ROOT)).isDirectory) return [path];
  const folder = path.endsWith("/") ? path : `${path}/`;
  const entries = [...Deno.readDirSync(new URL(folder, ROOT))].sort((a, b) => a.name < b.name ? -1 : 1);
  return entries.flatMap(({ name, isDirectory }) =>
    isDirectory ? filesOf(`${folder}${name}/`) : /\.(ts|md)$/.test(name) ? [folder + name] : []
  );
}

/** The test that imports every example that is chosen, each by itself. */
function suite(examples: readonly Example[], chosen = examples): string {
  const tests = chosen.map((example) => {
    const { path, line, title } = example;
    const name = JSON.stringify(`${path}:${line} ${title}`);
    return `Deno.test(${name}, async () => void await import("./example_${examples.indexOf(example)}.ts"));`;
  });
  // The C library stays loaded, and is no leak of the test that comes first.
  return ['import { engineSupport } from "@c10k/sockets/tcp";', "engineSupport();", ...tests].join("\n");
}

async function deno(...args: string[]): Promise<number> {
  const { code } = await new Deno.Command(Deno.execPath(), { args, cwd: ROOT, stdin: "null" }).spawn().status;
  return code;
}

const paths = Deno.args.length > 0
  ? Deno.args
  : ["mod.ts", "tcp/", "udp/", "mux/", "poll/", "process/", "internal/", "docs/"];
const examples = paths.flatMap(filesOf)
  .flatMap((path) => examplesIn(path, Deno.readTextFileSync(new URL(path, ROOT))));
const folder = Deno.makeTempDirSync();
try {
  // `export {}` makes it a module, whatever it imports.
  examples.forEach(({ code }, i) => Deno.writeTextFileSync(`${folder}/example_${i}.ts`, `${code}\nexport {};\n`));
  Deno.writeTextFileSync(`${folder}/examples_test.ts`, suite(examples));
  const everywhere = examples.filter(({ path, isNative }) => path === "docs/recipes.md" && !isNative);
  Deno.writeTextFileSync(`${folder}/everywhere_test.ts`, suite(examples, everywhere));
  const config = ["--frozen", "--config", fileURLToPath(new URL("deno.json", ROOT))];
  const file = `${folder}/examples_test.ts`;
  const test = ["test", "--quiet", "--no-check", "--no-prompt", ...config];
  // Apart, or each Worker that an example starts would have its own modules checked, too.
  Deno.exitCode = await deno("check", "--quiet", ...config, file) ||
    await deno(...test, "--allow-all", file) ||
    await deno(...test, "--allow-all", "--deny-ffi", `${folder}/everywhere_test.ts`);
} finally {
  Deno.removeSync(folder, { recursive: true });
}
