/**
 * The publish dry run, on a copy of the checkout: `deno publish` refuses
 * linked packages that lie inside the package, so the copy has the stand-ins
 * of `tools/std` beside it. Fails if the release would contain a file that
 * does not belong there, or lack one that does.
 *
 *     deno task publish:check
 */

const ROOT = new URL("../", import.meta.url);

/** What a release may contain. */
const LIBRARY =
  /^(mod\.ts|(tcp|udp|mux|process|internal)\/[a-z0-9_/]+\.ts|README\.md|LICENSE|CHANGELOG\.md|deno\.json)$/;
/** What it must contain at least. */
const EXPECTED = [
  "mod.ts",
  "tcp/mod.ts",
  "udp/mod.ts",
  "mux/mod.ts",
  "process/mod.ts",
  "README.md",
  "LICENSE",
  "CHANGELOG.md",
  "deno.json",
];

async function run(command: string, args: string[], cwd: string | URL): Promise<string> {
  const output = await new Deno.Command(command, { args, cwd, env: { NO_COLOR: "1" } }).output();
  const text = new TextDecoder().decode(output.stdout) + new TextDecoder().decode(output.stderr);
  if (!output.success) throw new Error(`${command} ${args.join(" ")} failed:\n${text}`);
  return text;
}

/** Copies the files that git knows or would take into `target`. */
async function copyCheckout(target: string): Promise<void> {
  const list = await run("git", ["ls-files", "--cached", "--others", "--exclude-standard", "-z"], ROOT);
  for (const path of list.split("\0").filter((path) => path !== "")) {
    const to = `${target}/${path.startsWith("tools/std/") ? path.slice("tools/".length) : `package/${path}`}`;
    await Deno.mkdir(to.slice(0, to.lastIndexOf("/")), { recursive: true });
    try {
      await Deno.copyFile(new URL(path, ROOT), to);
    } catch (error) {
      // Deleted, and not yet committed as such.
      if (!(error instanceof Deno.errors.NotFound)) throw error;
    }
  }
  const config = JSON.parse(await Deno.readTextFile(`${target}/package/deno.json`)) as { links: string[] };
  config.links = config.links.map((link) => link.replace("./tools/std/", "../std/"));
  await Deno.writeTextFile(`${target}/package/deno.json`, JSON.stringify(config));
}

/** The paths that the dry run says it would publish. */
function listed(output: string, folder: string): string[] {
  const base = `file://${folder}/`;
  return [...output.matchAll(/^\s+(file:\/\/\S+) \(/gm)].map(([, url]) => decodeURI(url ?? "").replace(base, ""));
}

const temporary = await Deno.realPath(await Deno.makeTempDir());
try {
  await copyCheckout(temporary);
  const folder = `${temporary}/package`;
  const output = await run(Deno.execPath(), ["publish", "--dry-run", "--allow-dirty"], folder);
  const files = listed(output, folder);
  const surplus = files.filter((path) => !LIBRARY.test(path));
  const missing = EXPECTED.filter((path) => !files.includes(path));
  if (surplus.length > 0 || missing.length > 0) {
    console.error(`The release would contain ${surplus.join(", ") || "nothing surplus"}`);
    console.error(`and lack ${missing.join(", ") || "nothing"}.\n${output}`);
    Deno.exit(1);
  }
  console.log(`publish dry run: ${files.length} files, nothing but the library`);
} finally {
  await Deno.remove(temporary, { recursive: true });
}
