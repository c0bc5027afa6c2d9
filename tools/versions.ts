/**
 * Runs the suites of tcp, udp, mux and process under other releases of Deno, each from npm, on a copy of the repository
 * whose `deno.json` they can read.
 *
 *     deno task test:versions                     # the oldest that is supported, one of each minor version since, this one
 *     deno task test:versions --only 2.9.0        # CI: the oldest
 */

import { parseArgs } from "@std/cli";

const ROOT = new URL("../", import.meta.url).pathname;
const { only } = parseArgs(Deno.args, { string: ["only"] });
const VERSIONS = typeof only === "string" ? only.split(",") : ["2.9.0", Deno.version.deno];

/** What is tested: everything of the four modules that is not about the repository or the examples. */
const SUITES =
  /^(tcp|udp|mux|native|selector|cancelled|deno_streams|pipe|self_connect|lying|address|errors|timer|stack|waiters|messages|sockets_in|streams_in|clones|children|child_|spawn_for|process_|pool|control_|listen_fds|open_sockets|hostile)/;

/** Fields of `deno.json` that older releases refuse. */
const NEWER = ["test", "coverage"];

async function run(command: string, args: string[], cwd: string): Promise<number> {
  const { code } = await new Deno.Command(command, { args, cwd, stdin: "null" }).spawn().status;
  return code;
}

const folder = await Deno.makeTempDir();
try {
  await run("cp", [
    "-r",
    ...["mod.ts", "tcp", "udp", "mux", "process", "internal", "examples", "tests", "tools"],
    folder,
  ], ROOT);
  const config = JSON.parse(await Deno.readTextFile(`${ROOT}deno.json`));
  for (const field of NEWER) delete config[field];
  await Deno.writeTextFile(`${folder}/deno.json`, JSON.stringify(config));
  const suites = [...Deno.readDirSync(`${folder}/tests`)].map(({ name }) => name)
    .filter((name) => name.endsWith("_test.ts") && SUITES.test(name)).map((name) => `tests/${name}`);
  for (const version of VERSIONS) {
    console.log(`\nDeno ${version}`);
    const code = await run("npx", ["-y", `deno@${version}`, "run", "--allow-all", "tools/test.ts", ...suites], folder);
    if (code !== 0) Deno.exitCode = 1;
  }
} finally {
  await Deno.remove(folder, { recursive: true });
}
