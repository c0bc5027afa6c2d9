/**
 * Publishes the version in `deno.json` to JSR, from a copy of the checkout.
 *
 *     deno task publish:check     a dry run, without network
 *     deno task publish           what .github/workflows/publish.yml runs for a tag
 *
 * `deno publish` refuses linked packages that lie inside the package. In the
 * copy of a dry run the stand-ins of `tools/std` therefore lie beside it; a
 * release has no links and resolves the real packages.
 *
 * Before anything is sent, the run fails if the release would contain a file
 * that does not belong there, lack one that does, lack a file that README links
 * to, or depend on another package.
 */

import { parseArgs } from "@std/cli";

const ROOT = new URL("../", import.meta.url);

/** What a release may contain. */
const LIBRARY = /^(mod\.ts|(tcp|udp|mux|poll|process|internal)\/[a-z0-9_/]+\.ts|LICENSE|deno\.json)$/;
/** README and the pages and pictures that it links to. */
const PAGES = /^([A-Z]+\.md|docs\/[a-z-]+\.md|bench\/README\.md|bench\/results\/four-ways\.svg)$/;

type Config = { exports: Record<string, string>; links?: string[] };

async function run(command: string, args: string[], cwd: string | URL): Promise<string> {
  const output = await new Deno.Command(command, { args, cwd, env: { NO_COLOR: "1" } }).output();
  const text = new TextDecoder().decode(output.stdout) + new TextDecoder().decode(output.stderr);
  if (!output.success) throw new Error(`${command} ${args.join(" ")} failed:\n${text}`);
  return text;
}

/** Copies the files that git tracks or would add into `target`, and returns the configuration. */
async function copyCheckout(target: string, linked: boolean): Promise<Config> {
  const list = await run("git", ["ls-files", "--cached", "--others", "--exclude-standard", "-z"], ROOT);
  for (const path of list.split("\0").filter((path) => path !== "" && !path.endsWith(".lock"))) {
    const to = `${target}/${path.startsWith("tools/std/") ? path.slice("tools/".length) : `package/${path}`}`;
    await Deno.mkdir(to.slice(0, to.lastIndexOf("/")), { recursive: true });
    try {
      await Deno.copyFile(new URL(path, ROOT), to);
    } catch (error) {
      // Deleted, and not yet committed as such.
      if (!(error instanceof Deno.errors.NotFound)) throw error;
    }
  }
  const { links, ...config } = JSON.parse(await Deno.readTextFile(`${target}/package/deno.json`)) as Config;
  const copied = linked ? { ...config, links: links?.map((link) => link.replace("./tools/std/", "../std/")) } : config;
  await Deno.writeTextFile(`${target}/package/deno.json`, JSON.stringify(copied, null, 2));
  return config;
}

/** The paths that the dry run lists. */
function listed(output: string, folder: string): string[] {
  const base = `file://${folder}/`;
  return [...output.matchAll(/^\s+(file:\/\/\S+) \(/gm)].map(([, url]) => decodeURI(url ?? "").replace(base, ""));
}

/** The files that a page of Markdown links to. */
function linkedFiles(markdown: string): string[] {
  const targets = [...markdown.matchAll(/\]\(([^)\s]+)\)/g)].map(([, target]) => target ?? "");
  return targets.filter((target) => !/^(https?:|#)/.test(target)).map((target) => target.replace(/#.*$/, ""));
}

/** The packages that the published modules import. */
async function dependencies(folder: string, { exports }: Config): Promise<string[]> {
  const found = new Set<string>();
  for (const entry of Object.values(exports)) {
    const { modules } = JSON.parse(
      await run(Deno.execPath(), ["info", "--json", "--quiet", "--no-lock", entry], folder),
    );
    for (const { specifier } of modules as { specifier: string }[]) {
      if (!specifier.startsWith(`file://${folder}/`) && !specifier.startsWith("node:")) found.add(specifier);
    }
  }
  return [...found];
}

const isDryRun = parseArgs(Deno.args, { boolean: ["dry-run"] })["dry-run"] === true;
const temporary = await Deno.realPath(await Deno.makeTempDir());
try {
  const config = await copyCheckout(temporary, isDryRun);
  const folder = `${temporary}/package`;
  const output = await run(Deno.execPath(), ["publish", "--dry-run", "--allow-dirty"], folder);
  const files = listed(output, folder);
  const readme = await Deno.readTextFile(`${folder}/README.md`);
  const expected = ["LICENSE", "deno.json", "README.md", "CHANGELOG.md"]
    .concat(Object.values(config.exports).map((path) => path.replace("./", "")), linkedFiles(readme));
  const faults = [
    ...files.filter((path) => !LIBRARY.test(path) && !PAGES.test(path)).map((path) => `contains ${path}`),
    ...new Set(expected.filter((path) => !files.includes(path)).map((path) => `lacks ${path}`)),
    ...(await dependencies(folder, config)).map((specifier) => `depends on ${specifier}`),
  ];
  if (faults.length > 0) {
    console.error(`${output}\nNothing was published. The release\n  ${faults.join("\n  ")}`);
    Deno.exitCode = 1;
  } else if (isDryRun) {
    console.log(`publish dry run: ${files.length} files, the library and the pages that README links to`);
  } else {
    console.log(await run(Deno.execPath(), ["publish", "--allow-dirty"], folder));
  }
} finally {
  await Deno.remove(temporary, { recursive: true });
}
