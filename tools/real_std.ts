/**
 * Runs a task with the real packages of `@std` in the place of the stand-ins in `tools/std/`, on a copy of the checkout.
 *
 *     deno task ok:jsr                         `deno task ok`, with the packages that JSR has
 *     deno task ok:jsr check                   another task
 *     deno task ok:jsr --std ../std check      with a clone of github.com/denoland/std, where JSR cannot be reached
 *
 * The copy has the same files, without the `links` of `deno.json` and `deno.bench.json` (or with those that lead to the
 * clone), and its locks name the real packages.
 */

import { parseArgs } from "@std/cli";
import { fileURLToPath } from "node:url";

const ROOT = new URL("../", import.meta.url);
const CONFIGS = ["deno.json", "deno.bench.json"];

async function run(command: string, args: string[], cwd: string | URL): Promise<string> {
  const { success, stdout } = await new Deno.Command(command, { args, cwd, stderr: "inherit" }).output();
  if (!success) throw new Error(`${command} ${args.join(" ")} failed`);
  return new TextDecoder().decode(stdout);
}

/** Makes a clone, since tests ask git for the files, and gives it what was changed and not yet committed. */
async function copyCheckout(folder: string): Promise<void> {
  await run("git", ["clone", "--quiet", "--no-hardlinks", fileURLToPath(ROOT), folder], ROOT);
  const changed = ["ls-files", "--modified", "--others", "--exclude-standard", "-z"];
  for (const path of (await run("git", changed, ROOT)).split("\0").filter((path) => path !== "")) {
    const to = `${folder}/${path}`;
    await Deno.mkdir(to.slice(0, to.lastIndexOf("/")), { recursive: true });
    try {
      await Deno.copyFile(new URL(path, ROOT), to);
    } catch (error) {
      if (!(error instanceof Deno.errors.NotFound)) throw error;
      await Deno.remove(to); // deleted, and not yet committed as such
    }
  }
}

/** The packages of a clone of the standard library. */
async function packagesOf(std: string): Promise<string[]> {
  const { workspace } = JSON.parse(await Deno.readTextFile(`${std}/deno.json`)) as { workspace: string[] };
  return Promise.all(workspace.map((folder) => Deno.realPath(`${std}/${folder}`)));
}

/** Writes a file of JSON anew. */
async function edit<T>(path: string, change: (content: T) => void): Promise<void> {
  const content = JSON.parse(await Deno.readTextFile(path));
  change(content);
  await Deno.writeTextFile(path, JSON.stringify(content, null, 2) + "\n");
}

/** Puts links in the place of those to the stand-ins; without any, Deno asks JSR. */
async function relink(config: string, links: readonly string[]): Promise<void> {
  await edit<{ links?: readonly string[] }>(config, (content) => {
    if (links.length > 0) content.links = links;
    else delete content.links;
  });
}

type Lock = { specifiers: Record<string, string>; npm: Record<string, unknown>; workspace: { links?: unknown } };

/** Forgets the mirror that only the stand-ins import: Deno installs what stands in a lock. */
async function forgetMirror(lock: string): Promise<void> {
  await edit<Lock>(lock, ({ specifiers, npm, workspace }) => {
    for (const list of [specifiers, npm]) {
      for (const name of Object.keys(list)) if (/^(npm:)?deno-std@/.test(name)) delete list[name];
    }
    delete workspace.links;
  });
}

const flags = parseArgs(Deno.args.filter((arg) => arg !== "--"), { string: ["std", "_"] });
const links = flags.std === undefined ? [] : await packagesOf(flags.std);
const [task = "ok", ...args] = flags._.map(String);
const temporary = await Deno.realPath(await Deno.makeTempDir());
try {
  const folder = `${temporary}/sockets`;
  await copyCheckout(folder);
  for (const config of CONFIGS) {
    await relink(`${folder}/${config}`, links);
    await forgetMirror(`${folder}/${config.replace(".json", ".lock")}`);
  }
  const deno = async (...args: string[]) =>
    (await new Deno.Command(Deno.execPath(), { args, cwd: folder }).spawn().status).code;
  // Tests run with --frozen: the locks are written before. What differs from the real packages in type is found here.
  let code = await deno("fmt", "--quiet", ...CONFIGS) || await deno("task", "check");
  if (code === 0 && task !== "check") code = await deno("task", task, ...args);
  Deno.exitCode = code;
} finally {
  await Deno.remove(temporary, { recursive: true });
}
