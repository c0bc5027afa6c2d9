/** No child can do what its parent is denied, however that is asked for; whatever a child can do, its parent can. */

import { assert, assertEquals } from "@std/assert";
import { NATIVE, withoutOrphans } from "./_process.ts";
import { decode, long, ROOT } from "./_util.ts";

/** What children are asked to try, and a folder in which the denied files are. */
interface World {
  readonly folder: string;
  /** Of a TCP server on all addresses. */
  readonly port: number;
  /** Of an HTTP server that has a module. */
  readonly http: number;
}

/** What is done, by a child or its parent: each name stands for one act. */
const ACTS = `
  async function succeeded({ folder, port, http }) {
    const acts = {};
    for (const hostname of ["127.0.0.1", "127.0.0.2", "localhost", "127.1", "0x7f.1", "::ffff:127.0.0.1", "0.0.0.0"]) {
      acts["connect " + hostname] = async () => (await Deno.connect({ hostname, port })).close();
      acts["listen " + hostname] = () => Deno.listen({ hostname, port: 0 }).close();
    }
    for (const name of ["open", "secret", "secret/key", "link/key", "file-link", "sub/../secret/key", "sub/link/key"]) {
      acts["read " + name] = () => Deno.statSync(folder + "/" + name);
      acts["write " + name] = () => Deno.utimeSync(folder + "/" + name, 1, 1);
    }
    for (const name of ["AWS_KEY", "AWS_SECRET"]) acts["env " + name] = () => Deno.env.get(name);
    for (const name of ["cat", "/bin/cat", "/usr/bin/cat", folder + "/my-cat", "true"]) {
      acts["run " + name.replace(folder, "…")] = () => new Deno.Command(name, { stdin: "null" }).outputSync();
    }
    acts["sys hostname"] = () => Deno.hostname();
    acts["sys uid"] = () => Deno.uid();
    for (const host of ["127.0.0.1", "localhost", "127.1", "127.0.0.2"]) {
      acts["import " + host] = () => import("http://" + host + ":" + http + "/" + Math.random() + ".js");
    }
    const names = [];
    for (const [name, act] of Object.entries(acts)) {
      try {
        await act();
        names.push(name);
      } catch { /* whatever is in its way */ }
    }
    return names;
  }
`;

const PARENT = `
  import { spawnProcess, spawnWorker } from "@c10k/sockets/process";
  ${ACTS}
  const [world, requests, title, kind] = JSON.parse(Deno.args[0]);
  if (title !== null) (await import("node:process")).default.title = title;
  const module = "data:text/javascript," + encodeURIComponent(
    'import { parent } from "' + import.meta.resolve("@c10k/sockets/process") + '";' + succeeded +
    "await parent().send(await succeeded(" + JSON.stringify(world) + "));");
  const mine = await succeeded(world);
  const results = [];
  const queue = requests.map((permissions, i) => async () => {
    try {
      const all = typeof permissions === "string" ? permissions : { ffi: true, ...permissions };
      const child = kind === "worker"
        ? spawnWorker(module, { permissions: all })
        : spawnProcess(module, { permissions: all, stderr: "null" });
      const { value } = await child.messages().next();
      child.kill();
      await child.closed;
      results[i] = value?.message ?? "nothing said";
    } catch (error) {
      results[i] = error.name + ": " + error.message;
    }
  });
  await Promise.all([1, 2, 3].map(async () => {
    for (let next = queue.shift(); next !== undefined; next = queue.shift()) await next();
  }));
  console.log(JSON.stringify([mine, results]));
  Deno.exit(0);
`;

async function withWorld(fn: (world: World) => Promise<void>): Promise<void> {
  const folder = await Deno.realPath(await Deno.makeTempDir());
  const server = Deno.listen({ hostname: "0.0.0.0", port: 0 });
  const serving = (async () => {
    for await (const conn of server) conn.close();
  })();
  const text = () => new Response("export default 1;", { headers: { "content-type": "text/javascript" } });
  const http = Deno.serve({ hostname: "0.0.0.0", port: 0, onListen: () => {} }, text);
  try {
    for (const name of ["secret", "sub"]) await Deno.mkdir(`${folder}/${name}`);
    for (const name of ["open", "secret/key"]) await Deno.writeTextFile(`${folder}/${name}`, name);
    for (const [to, name] of [["secret", "link"], ["secret/key", "file-link"], ["../secret", "sub/link"]] as const) {
      await Deno.symlink(to, `${folder}/${name}`);
    }
    await Deno.symlink("/run/denied", `${folder}/denied-link`);
    await Deno.symlink("/usr/bin/cat", `${folder}/my-cat`);
    await fn({ folder, port: server.addr.port, http: http.addr.port });
  } finally {
    server.close();
    await serving;
    await http.shutdown();
    await Deno.remove(folder, { recursive: true });
  }
}

interface ParentOptions {
  /** A set of permissions in the configuration, instead of flags. */
  readonly permissions?: Record<string, unknown>;
  readonly title?: string;
  readonly kind?: "worker" | "process";
}

type Outcome = string | string[];

/** Starts a parent, and returns what it can do itself, and what came of each request. */
async function outcomes(
  world: World,
  flags: string[],
  requests: unknown[],
  { permissions, title, kind = "process" }: ParentOptions = {},
): Promise<[own: string[], results: Outcome[]]> {
  const { imports, links: _, ...config } = JSON.parse(await Deno.readTextFile(new URL("deno.json", ROOT)));
  for (const name of Object.keys(imports)) {
    if (imports[name].startsWith("./")) imports[name] = new URL(imports[name], ROOT).href;
    else delete imports[name];
  }
  const [file, path] = [`${world.folder}/sub/parent.ts`, `${world.folder}/sub/deno.json`];
  await Deno.writeTextFile(file, PARENT);
  const sets = permissions === undefined ? {} : { permissions: { default: permissions } };
  const { compilerOptions } = config;
  await Deno.writeTextFile(path, JSON.stringify({ imports, compilerOptions, ...sets }));
  const args = [JSON.stringify([world, requests, title ?? null, kind])];
  const { stdout, stderr } = await new Deno.Command(Deno.execPath(), {
    args: ["run", "--quiet", "--no-prompt", "--no-lock", "--config", path, ...flags, file, ...args],
    cwd: `${world.folder}/sub`,
    env: { AWS_KEY: "1", AWS_SECRET: "2", NO_COLOR: "1" },
    stdin: "null",
  }).output();
  assertEquals(decode(stderr), "");
  return JSON.parse(decode(stdout));
}

/** What is expected of a request: that it is refused, or that a child does these acts, and perhaps others; or either. */
type Expected = "refused" | "either" | readonly string[];

function check(own: readonly string[], results: readonly Outcome[], requests: readonly [unknown, Expected][]): void {
  const wrong: string[] = [];
  for (const [i, [permissions, expected]] of requests.entries()) {
    const shown = JSON.stringify(permissions);
    const outcome = results[i] ?? "nothing";
    // Without ffi it cannot talk.
    if (outcome === "nothing said" && expected.length === 0) continue;
    if (typeof outcome === "string" && expected === "either") continue;
    if (typeof outcome === "string") {
      // Some of it Deno cannot even read.
      if (expected !== "refused" || !/^(NotCapable: |TypeError: permissions\.[a-z]+ must )/.test(outcome)) {
        wrong.push(`${shown}: ${outcome}`);
      }
      continue;
    }
    const gained = outcome.filter((act) => !own.includes(act));
    if (gained.length > 0) wrong.push(`${shown} lets a child ${gained.join(", ")}, which its parent may not`);
    if (expected === "refused") wrong.push(`${shown} is not refused`);
    else if (expected !== "either") {
      for (const act of expected) if (!outcome.includes(act)) wrong.push(`${shown} does not let a child ${act}`);
    }
  }
  assertEquals(wrong, []);
}

const RUN_DENO = Deno.execPath();

/** Requests that no program may make which is denied 127.0.0.1, and has the rest of its net in part. */
const HOSTILE_HOSTS = [
  "127.0.0.1",
  "127.0.0.0/8",
  "127.0.0.1/32",
  "0.0.0.0/0",
  "[::]/0",
  "[::ffff:127.0.0.0]/104",
  "127.1",
  "0x7f.1",
  "0x7f000001",
  "2130706433",
  "0177.0.0.1",
  "127.0.0.1.",
  "[::ffff:127.0.0.1]",
  "[0:0:0:0:0:ffff:7f00:1]",
  "*.local",
  "*",
  "*:80",
  "local*",
  "",
  " ",
  "127.0.0.1 ",
];

function partlyDenied({ folder, port, http }: World): [unknown, Expected][] {
  const hosts = HOSTILE_HOSTS.filter((host) => host !== "").flatMap((host) => [host, `${host}:${port}`]);
  return [
    ["inherit", []],
    ["none", []],
    [{ net: true }, "refused"],
    ...hosts.map((host): [unknown, Expected] => [{ net: [host] }, "refused"]),
    ...hosts.map((host): [unknown, Expected] => [{ import: [host.replace(`${port}`, `${http}`)] }, "refused"]),
    [{ net: [`127.0.0.2:${port}`, "127.0.0.0/8"] }, "refused"],
    [{ net: ["unix:/run/denied"] }, "refused"],
    [{ net: [`unix:${folder}/denied-link`] }, "refused"],
    [{ net: [`127.0.0.2:${port}`] }, ["connect 127.0.0.2"]],
    [{ net: [`[::ffff:127.0.0.2]:${port}`] }, ["connect 127.0.0.2"]],
    // A path and whatever leads to it.
    [{ read: true, write: true }, "refused"],
    ...[".", "..", "/", folder, `${folder}/secret`, `${folder}/secret/key`, `${folder}/sub/../secret`, "../secret"].map(
      (path): [unknown, Expected] => [{ read: [path] }, "refused"],
    ).filter(([request]) => (request as { read: string[] }).read[0] !== "."),
    ...[`${folder}/link`, `${folder}/link/key`, `${folder}/file-link`, `${folder}/sub/link`, "../link/key"].flatMap(
      (path): [unknown, Expected][] => [[{ read: [path] }, "refused"], [{ write: [path] }, "refused"]],
    ),
    [{ read: [`${folder}/open`], write: ["../open"] }, ["read open", "write open"]],
    [{ env: ["AWS_SECRET"] }, "refused"],
    [{ env: ["AWS_*"] }, "refused"],
    [{ env: ["*"] }, "refused"],
    [{ env: true }, "refused"],
    [{ env: ["AWS_KEY"] }, ["env AWS_KEY"]],
    [{ run: true }, "refused"],
    ...["cat", "/bin/cat", "/usr/bin/cat", "/usr/bin/../bin/cat", `${folder}/my-cat`, "../my-cat", "no-such-program"]
      .map(
        (command): [unknown, Expected] => [{ run: [command] }, "refused"],
      ),
    [{ run: ["true"] }, ["run true"]],
    [{ sys: true }, "refused"],
    [{ sys: ["hostname"] }, "refused"],
    [{ sys: ["uid"] }, ["sys uid"]],
  ];
}

function escapeTest(name: string, fn: (world: World) => Promise<void>): void {
  Deno.test({ name, ignore: !NATIVE, fn: () => withoutOrphans(() => withWorld(fn)) });
}

function whole({ folder }: World): string[] {
  return [
    ...["--allow-ffi", "--allow-net", "--deny-net=127.0.0.1,unix:/run/denied"],
    ...["--allow-import", "--deny-import=127.0.0.1"],
    ...["--allow-read", `--deny-read=${folder}/secret`, "--allow-write", `--deny-write=${folder}/secret`],
    ...["--allow-env", "--deny-env=AWS_SECRET", "--allow-run", "--deny-run=/usr/bin/cat"],
    ...["--allow-sys", "--deny-sys=hostname"],
  ];
}

function narrow({ folder, port, http }: World, ...more: string[]): string[] {
  return [
    ...["--allow-ffi", `--allow-net=localhost:${port},127.0.0.2:${port}`, `--allow-import=localhost:${http}`],
    ...[`--allow-read=${folder}`, `--allow-run=true,${RUN_DENO},${folder}/my-cat`, ...more],
  ];
}

escapeTest("a child gets nothing of what its parent, who may do all else, is denied", async (world) => {
  const requests = partlyDenied(world);
  const [own, results] = await outcomes(world, whole(world), requests.map(([permissions]) => permissions));
  assert(own.includes("connect 127.0.0.2") && !own.includes("connect localhost"), String(own));
  check(own, results, requests);
});

long(escapeTest)("a child gets a name together with what its parent is denied, if that is known", async (world) => {
  const { port, http } = world;
  const requests: [unknown, Expected][] = [
    [{ net: [`localhost:${port}`] }, []],
    [{ net: [`LOCALHOST:${port}`] }, []],
    [{ net: [`localhost:${port}`, `127.0.0.2:${port}`] }, ["connect 127.0.0.2"]],
    [{ net: ["localhost"] }, "refused"],
    [{ net: [`127.0.0.1:${port}`] }, "refused"],
    [{ net: ["127.0.0.2"] }, "refused"],
    [{ import: [`localhost:${http}`] }, []],
    [{ import: ["localhost"] }, "refused"],
  ];
  const list = requests.map(([permissions]) => permissions);
  const denials = ["--deny-net=127.0.0.1", "--deny-import=127.0.0.1"];
  const [own, results] = await outcomes(world, narrow(world, ...denials), list);
  check(own, results, requests);
  // Where nothing is denied it gets all of it.
  const free: typeof requests = [
    [{ net: [`localhost:${port}`] }, ["connect localhost"]],
    [{ import: [`localhost:${http}`] }, ["import localhost"]],
    [{ net: [`127.0.0.1:${port}`] }, "refused"],
  ];
  const freeList = free.map(([permissions]) => permissions);
  check(...await outcomes(world, narrow(world), freeList), free);
  const short = [`-N=localhost:${port}`, `-I=localhost:${http}`, "--allow-ffi", `--allow-run=${RUN_DENO}`];
  check(...await outcomes(world, short, freeList), free);
  // With a whole permission and a denial, names and hosts without a port as well.
  const part: typeof requests = [
    [{ net: ["localhost", "127.0.0.2"] }, ["connect 127.0.0.2"]],
    [{ import: ["localhost", "127.0.0.2"] }, ["import 127.0.0.2"]],
  ];
  check(...await outcomes(world, whole(world), part.map(([permissions]) => permissions)), part);
});

long(escapeTest)("a child gets addresses only, where nobody knows what its parent is denied", async (world) => {
  const { port, http, folder } = world;
  const requests: [unknown, Expected][] = [
    [{ net: [`localhost:${port}`] }, "refused"],
    [{ net: ["127.0.0.2"] }, "refused"],
    [{ import: [`localhost:${http}`] }, "refused"],
    [{ net: [`127.0.0.2:${port}`] }, ["connect 127.0.0.2"]],
    [{ import: ["jsr.io:443"] }, "refused"],
  ];
  const list = requests.map(([permissions]) => permissions);
  // Permissions of the configuration.
  const sets = {
    ffi: true,
    net: { allow: [`localhost:${port}`, `127.0.0.2:${port}`], deny: ["127.0.0.1"] },
    import: { allow: [`localhost:${http}`], deny: ["127.0.0.1"] },
    read: [folder],
    run: [RUN_DENO],
  };
  check(...await outcomes(world, ["-P"], list, { permissions: sets }), requests);
  // A title that is written over the arguments.
  for (const title of ["x", `--allow-net=localhost:${port}`]) {
    const flags = narrow(world, "--deny-net=127.0.0.1", "--deny-import=127.0.0.1");
    check(...await outcomes(world, flags, list, { title }), requests);
  }
});

long(escapeTest)("a child imports from nowhere from where its parent may not", async (world) => {
  const { http } = world;
  const flags = ["--allow-ffi", "--allow-net", `--allow-run=${RUN_DENO}`, `--allow-import=127.0.0.2:${http}`];
  const requests: [unknown, Expected][] = [
    ["inherit", []],
    ["none", []],
    [{ net: true }, []],
    [{ import: true }, "refused"],
    [{ import: ["jsr.io:443"] }, "refused"],
    [{ import: ["127.0.0.0/8"] }, "refused"],
    [{ import: [`127.0.0.2:${http}`] }, ["import 127.0.0.2"]],
  ];
  check(...await outcomes(world, flags, requests.map(([permissions]) => permissions)), requests);
});

long(escapeTest)(
  "a thread gets nothing of what its parent is denied either: Deno keeps that from it",
  async (world) => {
    const { port, http } = world;
    const hosts = [
      "127.0.0.0/8",
      "0.0.0.0/0",
      "127.1",
      "*.local",
      "localhost",
      "127.0.0.2",
      "0.0.0.0",
      `localhost:${port}`,
      `localhost:${http}`,
    ];
    const read = [new URL(".", ROOT).pathname];
    const requests: [unknown, Expected][] = [
      ["inherit", ["connect 127.0.0.2"]],
      [{ read, net: true, import: true, env: true, run: true, sys: true }, ["connect 127.0.0.2"]],
      ...hosts.map((host): [unknown, Expected] => [{ read, net: [host] }, "either"]),
      [{ read, import: ["localhost", "127.0.0.0/8"] }, "either"],
      [{ read, env: ["AWS_*"] }, "either"],
      [{ read, run: ["/bin/cat"] }, "either"],
    ];
    const flags = [...whole(world), "--unstable-worker-options"];
    const list = requests.map(([permissions]) => permissions);
    check(...await outcomes(world, flags, list, { kind: "worker" }), requests);
  },
);
