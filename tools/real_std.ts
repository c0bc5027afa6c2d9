/**
 * Runs a task with the real packages of `@std` in the place of the stand-ins in `tools/std/`, on a copy of the checkout.
 *
 *     deno task ok:jsr                         `deno task ok`, with the packages that JSR has
 *     deno task ok:jsr check                   another task
 *     deno task ok:jsr --std ../std check      with a clone of github.com/denoland/std, where JSR cannot be reached
 *
 * The copy has the same files, without the `links` of `deno.json` and `deno.bench.json` (or with one that leads to the
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

/** Takes the links to the stand-ins away. */
async function unlink(config: string, std: string | undefined): Promise<void> {
  const { links: _, ...rest } = JSON.parse(await Deno.readTextFile(config));
  const links = std === undefined ? {} : { links: [std] };
  await Deno.writeTextFile(config, JSON.stringify({ ...rest, ...links }, null, 2) + "\n");
}

const flags = parseArgs(Deno.args.filter((arg) => arg !== "--"), { string: ["std", "_"] });
const std = flags.std === undefined ? undefined : await Deno.realPath(flags.std);
const [task = "ok", ...args] = flags._.map(String);
const temporary = await Deno.realPath(await Deno.makeTempDir());
try {
  const folder = `${temporary}/sockets`;
  await copyCheckout(folder);
  for (const config of CONFIGS) await unlink(`${folder}/${config}`, std);
  const deno = async (...args: string[]) =>
    (await new Deno.Command(Deno.execPath(), { args, cwd: folder }).spawn().status).code;
  // Tests run with --frozen: the locks are written before. What differs from the real packages in type is found here.
  let code = await deno("fmt", "--quiet", ...CONFIGS) || await deno("task", "check");
  if (code === 0 && task !== "check") code = await deno("task", task, ...args);
  Deno.exitCode = code;
} finally {
  await Deno.remove(temporary, { recursive: true });
}
