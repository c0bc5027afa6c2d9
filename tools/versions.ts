/**
 * Runs the tests of the library under other versions of Deno, which npm has, each in a copy of the checkout.
 *
 *     deno task test:versions            # the oldest that is supported, and the last of each minor version since
 *     deno task test:versions 2.7.14     # these, separated by spaces
 *     deno task test:versions --only udp # one suite
 *
 * What a version cannot do is skipped by the table of `tools/versions/skips.ts`, with its reason; an entry that names
 * no test fails the run.
 */

import { parseArgs } from "@std/cli";
import { OLDEST_DENO } from "../internal/deno_version.ts";
import { isSkipped, SKIPS } from "./versions/skips.ts";

/** The oldest, and the last of each minor version since on which the library loads (`FAULTY_DENO`). */
const VERSIONS = [OLDEST_DENO, "2.8.2", "2.9.6"];

/** The suites of the library: nothing of the examples, the documents, the tools and the permissions of whole programs. */
const SUITES = [
  ...["tcp_conn", "tcp_errors", "tcp_listener", "tcp_regression", "tcp_runtime", "cancelled_connect"],
  ...["udp", "udp_batch", "udp_buffers", "udp_peers", "udp_reasons", "udp_runtime"],
  ...["mux", "mux_paused", "mux_property", "native", "selector"],
  ...["children", "child_end", "child_output", "child_signals", "listen_fds", "messages", "pool", "pool_notices"],
  ...["process_regression", "sockets_in_messages", "spawn_for", "streams_in_messages"],
].map((name) => `tests/${name}_test.ts`);

const ROOT = new URL("../", import.meta.url);

async function run(command: string, args: string[], options: Deno.CommandOptions = {}): Promise<string> {
  const { success, stdout, stderr } = await new Deno.Command(command, { args, cwd: ROOT, ...options }).output();
  const text = new TextDecoder().decode(stdout);
  if (!success) throw new Error(`${command} ${args.join(" ")} failed:\n${text}${new TextDecoder().decode(stderr)}`);
  return text;
}

/** Copies the files that git tracks or would add; the copy's `deno.json` holds nothing that an older Deno refuses. */
async function copyCheckout(target: string): Promise<void> {
  const list = await run("git", ["ls-files", "--cached", "--others", "--exclude-standard", "-z"]);
  for (const path of list.split("\0").filter((path) => path !== "")) {
    const to = `${target}/${path}`;
    await Deno.mkdir(to.slice(0, to.lastIndexOf("/")), { recursive: true });
    try {
      await Deno.copyFile(new URL(path, ROOT), to);
    } catch (error) {
      // Deleted, and not yet committed as such.
      if (!(error instanceof Deno.errors.NotFound)) throw error;
    }
  }
  const { test: _test, coverage: _coverage, ...config } = JSON.parse(await Deno.readTextFile(`${target}/deno.json`));
  await Deno.writeTextFile(`${target}/deno.json`, JSON.stringify(config, null, 2));
}

/** What the last line of `tools/test.ts` counts; `undefined` if the run ended without. */
function countsOf(line: string): { passed: number; failed: number; skipped: number } | undefined {
  const [, passed, failed, skipped] = /^(?:ok|FAILED) \| (\d+) passed .*\| (\d+) failed \| (\d+) ignored/.exec(line) ??
    [];
  return passed === undefined
    ? undefined
    : { passed: Number(passed), failed: Number(failed), skipped: Number(skipped) };
}

/** Tests one version and returns its line of the result, and whether all is well. */
async function testVersion(version: string, copy: string, suites: readonly string[]): Promise<[string, boolean]> {
  console.log(`\nDeno ${version}`);
  const npx = Deno.build.os === "windows" ? "npx.cmd" : "npx";
  const deno = (await run(npx, ["-y", `deno@${version}`, "eval", "console.log(Deno.execPath())"])).trim();
  const skipped = `${copy}.skipped`;
  await Deno.writeTextFile(skipped, "");
  const child = new Deno.Command(deno, {
    args: ["run", "--allow-all", "tools/test.ts", ...suites, "--preload", "tools/versions/skip.ts"],
    cwd: copy,
    env: {
      // A cache of its own: what one version writes is none of another's.
      DENO_DIR: `${copy}.cache-${version}`,
      // Older ones do not ask the system which certificates it trusts.
      DENO_TLS_CA_STORE: Deno.env.get("DENO_TLS_CA_STORE") ?? "mozilla,system",
      NO_COLOR: "1",
      SKIPPED_TESTS: skipped,
    },
    stdin: "null",
    stdout: "piped",
  }).spawn();
  let last = "";
  let rest = "";
  for await (const text of child.stdout.pipeThrough(new TextDecoderStream())) {
    await Deno.stdout.write(new TextEncoder().encode(text));
    const lines = (rest + text).split("\n");
    rest = lines.pop() ?? "";
    last = lines.findLast((line) => countsOf(line) !== undefined) ?? last;
  }
  const { success } = await child.status;
  const names = new Set((await Deno.readTextFile(skipped)).split("\n").filter((line) => line !== ""));
  for (const { name, before, reason } of SKIPS.filter((skip) => isSkipped(skip, version))) {
    if (names.has(name)) console.log(`skipped: ${name}\n    before ${before}: ${reason}`);
  }
  const unknown = suites.length < SUITES.length
    ? []
    : SKIPS.filter((skip) => isSkipped(skip, version) && !names.has(skip.name) && !skip.long);
  for (const { name } of unknown) console.log(`FAILED: tools/versions/skips.ts names no test: ${name}`);
  const counts = countsOf(last);
  if (counts === undefined) return [`Deno ${version}: FAILED, it could not be run`, false];
  const { passed, failed } = counts;
  const line = `Deno ${version}: ${passed} passed, ${failed + unknown.length} failed, ${counts.skipped} skipped`;
  return [line, success && unknown.length === 0];
}

const { _: given, only } = parseArgs(Deno.args, { string: ["only", "_"] });
const suites = only === undefined ? SUITES : SUITES.filter((path) => path === `tests/${only}_test.ts`);
const folder = await Deno.realPath(await Deno.makeTempDir());
const lines: string[] = [];
try {
  await copyCheckout(`${folder}/copy`);
  for (const version of given.length > 0 ? given.map(String) : VERSIONS) {
    const [line, isWell] = await testVersion(version, `${folder}/copy`, suites);
    lines.push(line);
    if (!isWell) Deno.exitCode = 1;
  }
} finally {
  await Deno.remove(folder, { recursive: true });
}
console.log(`\n${lines.join("; ")}`);
