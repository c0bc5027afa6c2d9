/** What the documents say: links, commands, figures and examples. */

import { TcpListener } from "@c10k/sockets/tcp";
import { assert, assertEquals, assertLess, assertMatch, assertThrows } from "@std/assert";
import { examplesIn } from "../tools/examples.ts";
import { allFigures, type FourWays, fourWays, withFigures } from "../tools/figures.ts";
import { decode, encode, ENGINES, hasCommand, long, ROOT, run, ServerProcess, socketTest, some } from "./_util.ts";

const native = ENGINES.includes("native");
const PAGES = ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md", "bench/README.md"];
for (const { name } of Deno.readDirSync(new URL("docs/", ROOT))) if (name.endsWith(".md")) PAGES.push(`docs/${name}`);

function read(path: string): string {
  return Deno.readTextFileSync(new URL(path, ROOT));
}

function hasFile(path: string): boolean {
  try {
    Deno.statSync(new URL(path, ROOT));
    return true;
  } catch {
    return false;
  }
}

// --- links

/** Markdown without its blocks of code. */
function prose(markdown: string): string {
  return markdown.replace(/^```[^]*?^```$/gm, "").replace(/^ {4}.*$/gm, "");
}

/** The anchors of a page's headings, as GitHub makes them. */
function anchorsOf(markdown: string): Set<string> {
  const headings = [...prose(markdown).matchAll(/^#+ (.*)$/gm)].map(([, heading = ""]) =>
    heading.toLowerCase().replace(/[^\p{L}\p{N} _-]/gu, "").replaceAll(" ", "-")
  );
  return new Set(headings);
}

Deno.test("docs: every link to a file or a heading of this repository leads there", () => {
  const broken: string[] = [];
  let checked = 0;
  for (const page of PAGES) {
    for (const [, target = ""] of prose(read(page)).matchAll(/\]\(([^)\s]+)\)/g)) {
      if (/^https?:/.test(target)) continue;
      checked++;
      const [path = "", anchor] = target.split("#");
      const file = path === "" ? page : new URL(path, `file:///${page}`).pathname.slice(1);
      if (!hasFile(file)) broken.push(`${page}: ${target}`);
      else if (anchor !== undefined && !anchorsOf(read(file)).has(anchor)) broken.push(`${page}: ${target}`);
    }
  }
  assertEquals(broken, []);
  assert(checked > 50, `${checked} links`);
});

// --- commands

const CONFIG = JSON.parse(read("deno.json")) as { tasks: Record<string, { command: string }> };
const TASKS = new Map(Object.entries(CONFIG.tasks));

Deno.test("docs: every task that a document or an example names is there, and README names every example", () => {
  const examples = [...Deno.readDirSync(new URL("examples/", ROOT))].filter(({ isFile }) => isFile)
    .map(({ name }) => `examples/${name}`);
  const named = [...PAGES, ...examples].flatMap((path) =>
    [...read(path).matchAll(/\bdeno(?:@[\d.]+)? task ([a-z][a-z0-9:-]*)/g)].map(([, task = ""]) =>
      [path, task] as const
    )
  );
  assertEquals(named.filter(([, task]) => !TASKS.has(task)), []);
  assert(named.length > 20);

  const inReadme = new Set([...read("README.md").matchAll(/\b(example:[a-z:-]+)/g)].map(([, task = ""]) => task));
  assertEquals([...inReadme].filter((task) => !TASKS.has(task)), []);
  assertEquals([...TASKS.keys()].filter((task) => task.startsWith("example:") && !inReadme.has(task)), []);
});

Deno.test("docs: README begins with the two commands, and has fewer than 200 lines", () => {
  const [first = "", second = "", ...rest] = read("README.md").trimEnd().split("\n");
  assertMatch(first, /^ {4}npx -y deno@2\.9\.6 task example:echo( +#.*)?$/);
  assertMatch(second, /^ {4}npx -y deno@2\.9\.6 task test( +#.*)?$/);
  assertLess(rest.length + 2, 200);
});

/** What a program prints that is given some input. */
async function feed(program: string, args: string[], input: string): Promise<string> {
  const process = new Deno.Command(program, { args, cwd: ROOT, stdin: "piped", stdout: "piped" }).spawn();
  const writer = process.stdin.getWriter();
  await writer.write(encode(input));
  await writer.close();
  return decode((await process.output()).stdout);
}

function nc(args: string[], input: string): Promise<string> {
  return feed("nc", args, input);
}

/** An echo server of this process, for examples that need one. */
function echoServer(): TcpListener {
  const listener = TcpListener.bind({ hostname: "127.0.0.1", port: 0 });
  (async () => {
    for await (const conn of listener) conn.readable.pipeTo(conn.writable).catch(() => conn.close());
  })();
  return listener;
}

/** README's examples that are servers: what `nc` sends to each, and what it is answered. */
const SERVERS: readonly { task: string; nc: string[]; input: string; output: RegExp; args?: string }[] = [
  ...["echo", "echo:native", "mux", "workers", "processes", "inetd"].map((name) => (
    { task: `example:${name}`, nc: ["-N"], input: "hello\n", output: /^hello\n$/ }
  )),
  { task: "example:udp", nc: ["-u", "-W", "1"], input: "hello\n", output: /^hello\n$/ },
  { task: "example:chat", nc: ["-N"], input: "/quit\n", output: /in lobby: guest1\n/ },
  { task: "example:proxy", nc: ["-N"], input: "hello\n", output: /^hello\n$/, args: "127.0.0.1:ECHO" },
  { task: "example:kv", nc: ["-N"], input: "PING\r\n", output: /^\+PONG\r\n$/ },
  // What dig asks of it is in tests/dns_example_test.ts.
  { task: "example:dns", nc: ["-N"], input: "", output: /^$/, args: "--upstream 127.0.0.1:ECHO" },
];

/** The arguments of `deno run` in a task. */
function argumentsOf(task: string): string[] {
  const [deno, subcommand, ...args] = (TASKS.get(task)?.command ?? "").split(" ");
  assertEquals([deno, subcommand], ["deno", "run"]);
  return args;
}

for (const { task, nc: flags, input, output, args = "" } of some(4, SERVERS)) {
  socketTest(`docs: deno task ${task} answers nc, and ends when it is told to`, async () => {
    using echo = echoServer();
    const more = args === "" ? [] : args.replace("ECHO", `${echo.addr.port}`).split(" ");
    await using server = await ServerProcess.start([...argumentsOf(task), "--port", "0", ...more]);
    assertMatch(await nc([...flags, "127.0.0.1", `${server.port}`], input), output);
    assertEquals(await server.stop("SIGTERM"), 0);
  }, !native || !hasCommand("nc"));
}

socketTest("docs: deno task example:nc talks to a server", async () => {
  using echo = echoServer();
  const args = ["run", "--no-prompt", "--quiet", ...argumentsOf("example:nc"), "127.0.0.1", `${echo.addr.port}`];
  assertEquals(await feed(Deno.execPath(), args, "hello\n"), "hello\n");
});

long(Deno.test)(
  "docs: every example says with --help how to call it, refuses what it does not know, and needs no permission for that",
  async () => {
    const programs = new Set(
      [...TASKS.keys()].filter((task) => task.startsWith("example:")).map(argumentsOf)
        // That of the four ways has packages of its own: bench/four_ways_test.ts.
        .filter((args) => !args.includes("--config"))
        .map((args) => args.find((arg) => arg.endsWith(".ts")) ?? args.join(" ")),
    );
    await Promise.all([...programs].map(async (program) => {
      const file = program.replace("examples/", "");
      // `deno task NAME -- --help` passes the -- on.
      for (const before of [[], ["--"]]) {
        const { code, stdout } = await run(["run", "--no-prompt", "--quiet", program, ...before, "--help"]);
        assertEquals(code, 0, program);
        assertMatch(stdout, new RegExp(`^Usage: ${file}`));
        const refusal = await run(["run", "--no-prompt", "--quiet", program, ...before, "--unknown"]);
        assertEquals([file, refusal.code], [file, 2]);
        assertMatch(refusal.stderr, /^Unknown argument "--unknown"/);
      }
    }));
  },
);

Deno.test("docs: CI runs the two commands of README to the letter", () => {
  const commands = read("README.md").split("\n").slice(0, 2).map((line) => line.replace(/ +#.*$/, "").trim());
  const ci = read(".ci/run");
  assertEquals(commands.filter((command) => !ci.includes(`'${command}'`)), []);
});

// --- figures

Deno.test("docs: README's figures are those of bench/results", () => {
  const readme = read("README.md");
  // Tables are formatted once they stand there.
  const plain = (text: string) => text.replace(/ +/g, " ").replace(/-+/g, "-").replace(/\s+/g, " ");
  assertEquals(plain(readme), plain(withFigures(readme, allFigures())));
});

Deno.test("fourWays() shows what was measured, and why something was not", () => {
  const results: FourWays = {
    date: "2026-11-25T00:00:00Z",
    machine: "Deno 2.9.6, linux, 2 cores",
    clients: 10_000,
    duration: 3000,
    rows: [
      {
        title: "epoll",
        figures: { open: 10_000, rate: 123_456.7, p50: 1234, p99: 5678, cpu: 4.56, ranOut: "nothing", lost: 0 },
      },
      { title: "poll", missing: "run with --allow-ffi" },
    ],
  };
  const text = fourWays(results);
  assertMatch(text, /\| epoll \| 10,000 \| 123,457 \| 1\.23 \| 5\.68 \| – \| 4\.6 \| nothing \|/);
  assertMatch(text, /\| poll \| – .*\| run with --allow-ffi \|/);
  assertMatch(text, /10,000 clients.*2026-11-25/s);
  assertMatch(fourWays(undefined), /Not measured yet/);
  // One that waits as long as it was watched may wait longer.
  const figures = {
    open: 10_000,
    answered: 158,
    rate: 22_000,
    p50: 1e6,
    p99: 1e6,
    measured: 1e6,
    ranOut: "nothing",
    lost: 0,
  };
  const starved = fourWays({ ...results, rows: [{ title: "async", figures }, { title: "poll", missing: "no" }] });
  assertMatch(starved, /^\| way \| connections \| answered \| echoes\/s \|/m);
  assertMatch(starved, /\| async \| 10,000 \| 158 \| 22,000 \| > 1,000 \| > 1,000 \| – \| – \| nothing \|/);
  assertEquals(
    withFigures("<!-- x:begin -->\nold\n<!-- x:end -->", new Map([["x", "new"]])),
    [
      "<!-- x:begin -->\n",
      "new\n",
      "<!-- x:end -->",
    ].join("\n"),
  );
  assertThrows(() => withFigures("nothing", new Map([["x", "new"]])), Error, "README.md has no place for x");
});

// --- examples

Deno.test("examplesIn() finds blocks in comments and in Markdown", () => {
  const source = "/**\n * @example One\n * ```ts\n * a();\n * ```\n */\n";
  const one = { path: "x.ts", line: 4, title: "One", code: "a();", file: undefined, flags: undefined, isNative: false };
  assertEquals(examplesIn("x.ts", source), [one]);

  const markdown = "# Two\n\n```ts\n// deno run --allow-net --allow-ffi b.ts\n\nb();\n```\n\n```sh\nls\n```\n";
  const [two, ...others] = examplesIn("x.md", markdown);
  assertEquals(others, []);
  assertEquals([two?.title, two?.file, two?.flags], ["Two", "b.ts", ["--allow-net", "--allow-ffi"]]);
  assertEquals(examplesIn("x.md", "```ts\n// c.ts\n```\n").map(({ file, flags }) => [file, flags]), [[
    "c.ts",
    undefined,
  ]]);

  const marked = ["# One", "**native**. So.", "```ts", "```", "# Two", "```ts", "```"].join("\n");
  assertEquals(examplesIn("x.md", marked).map(({ isNative }) => isNative), [true, false]);

  assertThrows(() => examplesIn("x.md", "```ts ignore\n```\n"), Error, "x.md:1: a block with attributes");
  assertThrows(() => examplesIn("x.md", "```ts\n"), Error, "not closed");
});

/** What `deno doc --json` tells, as far as it is looked at. */
interface Doc {
  readonly nodes: Record<string, { readonly symbols: readonly DocSymbol[] }>;
}
interface DocSymbol {
  readonly name: string;
  readonly declarations: readonly {
    readonly jsDoc?: JsDoc;
    readonly def?: { readonly methods?: readonly { readonly name: string; readonly kind: string; jsDoc?: JsDoc }[] };
  }[];
}
interface JsDoc {
  readonly tags?: readonly { readonly kind: string }[];
}

/** What is the same on every class and needs no word. */
const PLAIN = new Set(["close", "ref", "unref"]);

Deno.test("docs: every export has an example, and every method that is not plain", async () => {
  const { code, stdout } = await run(["doc", "--json", "mod.ts"]);
  assertEquals(code, 0);
  const [node] = Object.values((JSON.parse(stdout) as Doc).nodes);
  const hasExample = (doc: JsDoc | undefined) => doc?.tags?.some(({ kind }) => kind === "example") ?? false;
  const without: string[] = [];
  let methods = 0;
  for (const { name, declarations } of node?.symbols ?? []) {
    if (!declarations.some(({ jsDoc }) => hasExample(jsDoc))) without.push(name);
    for (const method of declarations.flatMap(({ def }) => def?.methods ?? [])) {
      if (method.kind !== "method" || PLAIN.has(method.name) || method.name.startsWith("[")) continue;
      // Of interfaces the example is the whole's.
      if (!declarations.some((declaration) => "def" in declaration && isClass(declaration))) continue;
      methods++;
      if (!hasExample(method.jsDoc)) without.push(`${name}.${method.name}()`);
    }
  }
  assertEquals(without, []);
  assert((node?.symbols.length ?? 0) > 60 && methods > 70, `${node?.symbols.length} symbols, ${methods} methods`);
});

function isClass(declaration: object): boolean {
  return "kind" in declaration && declaration.kind === "class";
}

long(Deno.test)("docs: deno task docs writes a page for every module and symbol", async () => {
  const { command } = TASKS.get("docs") ?? { command: "" };
  const folder = await Deno.makeTempDir();
  try {
    const args = command.split(" ").slice(1).map((arg) => arg.replace(/^--output=.*/, `--output=${folder}`));
    const { code, stderr } = await run(args);
    assertEquals(code, 0, stderr);
    for (const page of ["index.html", "tcp/~/TcpConn.html", "process/~/Pool.html"]) {
      assert((await Deno.stat(`${folder}/${page}`)).size > 1_000, page);
    }
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
});

// --- docs/four-ways.md

Deno.test({
  name: "docs/among_idle.ts: select and poll are asked as often as epoll, and each sees the one socket that is ready",
  ignore: !native,
  async fn() {
    for (const backend of ["select", "poll", "epoll"]) {
      const flags = ["run", "--allow-net", "--allow-ffi", "docs/among_idle.ts"];
      const { code, stdout } = await run([...flags, "--backend", backend, "--idle", "100", "--rounds", "50"]);
      assertEquals(code, 0);
      assertMatch(stdout, new RegExp(`^${backend}, 100 idle: 50 events in 50 waits, [0-9.]+ µs each$`, "m"));
    }
  },
});

/** Calls of a system call, from a table of `strace -c`. */
function calls(table: string, syscall: string): number {
  const line = table.split("\n").find((line) => line.endsWith(` ${syscall}`));
  return Number(line?.trim().split(/\s+/)[3] ?? 0);
}

long(Deno.test)({
  name: "docs/four-ways.md: a socket is added to epoll once, and a wait is one system call, as strace counts",
  ignore: !native || !(await canTrace()),
  async fn() {
    const trace = async (backend: string) => {
      const deno = [Deno.execPath(), "run", "--allow-net", "--allow-ffi", "docs/among_idle.ts"];
      const args = [
        "-c",
        "-e",
        "trace=/select,/poll",
        ...deno,
        "--backend",
        backend,
        "--idle",
        "100",
        "--rounds",
        "2000",
      ];
      const { code, stderr } = await new Deno.Command("strace", { args, cwd: ROOT, env: { NO_COLOR: "1" } }).output();
      assertEquals(code, 0);
      return decode(stderr);
    };
    const [select, epoll] = [await trace("select"), await trace("epoll")];
    assertEquals(calls(select, "pselect6") + calls(select, "select"), 2000);
    const waits = calls(epoll, "epoll_wait") + calls(epoll, "epoll_pwait") + calls(epoll, "epoll_pwait2");
    assert(waits >= 2000 && waits < 3000, epoll);
    // 101 sockets to add, and to remove; and the event that wakes the wait.
    const added = calls(epoll, "epoll_ctl") - calls(select, "epoll_ctl");
    assert(added >= 202 && added < 210, `${added}\n${epoll}\n${select}`);
  },
});

async function canTrace(): Promise<boolean> {
  if (!hasCommand("strace")) return false;
  return (await new Deno.Command("strace", { args: ["-c", "true"], stderr: "null" }).output()).success;
}
