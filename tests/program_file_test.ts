/** Which file `spawnFor` starts: the one that the permission was asked for, on both engines. */

import { assertEquals } from "@std/assert";
import { ENGINES, run } from "./_util.ts";

/** What a case of the table is: folders, the program and where it is started from, seen from a folder of the test. */
interface Case {
  /** `PATH` of the parent; `null` is none. */
  readonly path: string | null;
  readonly command: string;
  readonly cwd?: string;
  /** `PATH` in the option `env`. */
  readonly env?: string;
  /** The file that runs, or the error's class. */
  readonly runs: string;
}

/** Each script writes which one it is; `%` stands for the folder of the test, where the parent is. */
const CASES: readonly Case[] = [
  // A tilde is the home folder, as for Deno's check, and not a folder of that name.
  { path: "~/gbin:/usr/bin:/bin", command: "x", runs: "home/gbin" },
  { path: "~/gbin:/usr/bin:/bin", command: "x", cwd: "%/other", runs: "home/gbin" },
  { path: "~", command: "y", runs: "home" },
  { path: "%/none:~/gbin", command: "x", runs: "home/gbin" },
  // But only as a folder of its own, and not in what is a path.
  { path: "%/~", command: "y", runs: "tilde" },
  { path: "%/none", command: "~/y", runs: "tilde" },
  { path: "~nobody/gbin", command: "x", runs: "NotFound" },
  // The first of all that can be run.
  { path: "%/folder:%/plain:%/good", command: "x", runs: "good" },
  { path: "%/good/:%/other/rel", command: "x", runs: "good" },
  { path: "%/plain", command: "x", runs: "NotFound" },
  { path: "%/folder", command: "x", runs: "NotFound" },
  { path: "%/other/../good", command: "x", runs: "good" },
  { path: "%/links", command: "x", runs: "good" },
  { path: "%/links", command: "dangling", runs: "NotFound" },
  // A folder that cannot be looked into: the link leads to itself.
  { path: "%/loop:%/good", command: "x", runs: "good" },
  // Relative folders, the empty one included, are the parent's.
  { path: "rel", command: "x", runs: "rel" },
  { path: "./rel", command: "x", runs: "rel" },
  { path: "", command: "here", runs: "here" },
  { path: ":%/good", command: "here", runs: "here" },
  { path: "%/good:", command: "here", runs: "here" },
  // The program's own PATH counts.
  { path: "%/none", command: "x", env: "%/good", runs: "good" },
  { path: "%/good", command: "x", env: "%/none", runs: "NotFound" },
  { path: "%/good", command: "x", env: "~/gbin", runs: "home/gbin" },
  { path: null, command: "x", env: "%/good", runs: "good" },
  // Paths, in the folder that the program gets.
  { path: "%/none", command: "%/good/x", runs: "good" },
  { path: "%/none", command: "./good/x", runs: "good" },
  { path: "%/none", command: "good/x", runs: "good" },
  { path: "%/none", command: "./rel/x", cwd: "%/other", runs: "other/rel" },
  { path: "%/none", command: "./rel/x", cwd: "other", runs: "other/rel" },
  { path: "%/none", command: "../good/x", cwd: "%/other", runs: "good" },
  { path: "%/none", command: "%/folder/x", runs: "PermissionDenied" },
  { path: "%/none", command: "%/plain/x", runs: "PermissionDenied" },
  { path: "%/none", command: "./missing", runs: "NotFound" },
  // As the permission has it, without following the link first: %/away leads to %/other/rel.
  { path: "%/none", command: "away/../good/x", runs: "good" },
  { path: "%/none", command: "../good/x", cwd: "%/away", runs: "good" },
  // A script that does not say what runs it.
  { path: "%/bare", command: "x", runs: "bare" },
  { path: "%/none", command: "bare/x", runs: "bare" },
];

const PARENT = `
  import { spawnFor } from "@c10k/sockets/process";
  import { TcpConn, TcpListener } from "@c10k/sockets/tcp";
  const [engine, table] = Deno.args;
  for (const { path, command, cwd, env } of JSON.parse(table)) {
    if (path === null) Deno.env.delete("PATH");
    else Deno.env.set("PATH", path);
    using listener = TcpListener.bind({ hostname: "127.0.0.1", port: 0, engine });
    using client = await TcpConn.connect({ port: listener.addr.port, engine });
    using server = await listener.accept();
    try {
      const child = spawnFor(server, command, { ...(cwd && { cwd }), ...(env && { env: { PATH: env } }) });
      console.log((await new Response(client.readable).text()).trim());
      await child.closed;
    } catch (error) {
      console.log(error.name);
    }
  }
  Deno.exit(0);
`;

async function withFolder(fn: (folder: string) => Promise<void>): Promise<void> {
  const folder = await Deno.realPath(await Deno.makeTempDir());
  try {
    const write = async (path: string, mode: number, text = `#!/bin/sh\necho ${path.replace(/\/\w+$/, "")}\n`) => {
      await Deno.mkdir(`${folder}/${path}`.replace(/\/\w+$/, ""), { recursive: true });
      await Deno.writeTextFile(`${folder}/${path}`, text);
      await Deno.chmod(`${folder}/${path}`, mode);
    };
    for (const path of ["home/gbin/x", "home/y", "good/x", "rel/x", "other/rel/x", "other/good/x", "other/x"]) {
      await write(path, 0o755);
    }
    await write("~/gbin/x", 0o755, "#!/bin/sh\necho tilde/gbin\n");
    await write("~/y", 0o755, "#!/bin/sh\necho tilde\n");
    await write("here", 0o755, "#!/bin/sh\necho here\n");
    await write("plain/x", 0o644);
    await write("bare/x", 0o755, "echo bare\n");
    await Deno.mkdir(`${folder}/folder/x`, { recursive: true });
    await Deno.mkdir(`${folder}/links`);
    await Deno.symlink("../good/x", `${folder}/links/x`);
    await Deno.symlink("../nothing", `${folder}/links/dangling`);
    await Deno.symlink("loop", `${folder}/loop`);
    await Deno.symlink("other/rel", `${folder}/away`);
    await fn(folder);
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
}

/** Starts the parent in the folder, which is its home's parent, too. */
async function outcomes(engine: string, folder: string, table: readonly Case[], run: string): Promise<string[]> {
  const config = new URL("../deno.json", import.meta.url).pathname;
  await Deno.writeTextFile(`${folder}/parent.ts`, PARENT);
  const ffi = engine === "native" ? ["--allow-ffi"] : [];
  const { stdout, stderr } = await new Deno.Command(Deno.execPath(), {
    args: [
      ...["run", "--quiet", "--no-prompt", "--no-lock", "--config", config, "--allow-net", "--allow-env=PATH", ...ffi],
      ...[run, `${folder}/parent.ts`, engine, JSON.stringify(table).replaceAll("%", folder)],
    ],
    cwd: folder,
    env: { HOME: `${folder}/home`, DENO_DIR: await denoDir(), NO_COLOR: "1" },
    stdin: "null",
  }).output();
  assertEquals(new TextDecoder().decode(stderr), "");
  return new TextDecoder().decode(stdout).trimEnd().split("\n");
}

/** Where this Deno has its cache, which would be elsewhere with another home. */
async function denoDir(): Promise<string> {
  const { stdout } = await run(["info", "--json"]);
  return JSON.parse(stdout).denoDir;
}

for (const engine of ENGINES) {
  Deno.test({
    name: `[${engine}] spawnFor() runs the file that Deno's check means, whatever stands in PATH`,
    ignore: Deno.build.os === "windows",
    fn: () =>
      withFolder(async (folder) => {
        const actual = await outcomes(engine, folder, CASES, "--allow-run");
        assertEquals(
          CASES.map((one, i) => ({ ...one, runs: actual[i] ?? "" })),
          [...CASES],
        );
      }),
  });

  Deno.test({
    name: `[${engine}] spawnFor() starts nothing but what --allow-run names`,
    ignore: Deno.build.os === "windows",
    fn: () =>
      withFolder(async (folder) => {
        // Only the one in the home folder: nothing else may run, whatever leads to it.
        const actual = await outcomes(engine, folder, CASES, `--allow-run=${folder}/home/gbin/x`);
        const ran = CASES.map(({ command, path, cwd }, i) => ({ command, path, cwd, got: actual[i] ?? "" }))
          .filter(({ got }) => !["NotCapable", "NotFound", "home/gbin"].includes(got));
        assertEquals(ran, []);
        for (const [i, { runs }] of CASES.entries()) if (runs === "home/gbin") assertEquals(actual[i], runs);
      }),
  });
}
