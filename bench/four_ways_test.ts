/** `examples/four_ways.ts` as a small run: what it says, what it refuses, and that it leaves nobody behind. */

import { engineSupport } from "@c10k/sockets/tcp";
import { assert, assertEquals, assertGreater, assertMatch, assertStringIncludes, assertThrows } from "@std/assert";
import { Client, SIZE } from "../examples/four_ways/client.ts";
import { Times } from "../examples/four_ways/times.ts";
import { WAYS } from "../examples/four_ways/ways.ts";
import { fourWays } from "../tools/figures.ts";
import { descendants, isAlive } from "../tests/_process.ts";
import { decode, eventually, Pair, readExactly, ROOT, run } from "../tests/_util.ts";

const EXAMPLE = "examples/four_ways.ts";
const CONFIG = "--config=deno.bench.json"; // as `deno task example:four-ways` has it
const IS_NATIVE = engineSupport().engine === "native";

/** The table's rows, cell by cell; a line that goes on in the next belongs to its row. */
function rowsOf(output: string): string[][] {
  const rows: string[][] = [];
  for (const line of output.split("\n").filter((line) => line.startsWith("│"))) {
    const cells = line.split("│").slice(1, -1).map((cell) => cell.trim());
    const last = rows.at(-1);
    if (cells[0] !== "" || last === undefined) rows.push(cells);
    else cells.forEach((cell, i) => last[i] = `${last[i]} ${cell}`.trim());
  }
  return rows;
}

function number(text: string | undefined): number {
  return Number(text?.replaceAll(",", ""));
}

/** Runs the example with a chart of its own; returns its output and the chart. */
async function measure(args: string[], limit?: number): Promise<{ stdout: string; stderr: string; chart: string }> {
  const file = await Deno.makeTempFile({ suffix: ".svg" });
  try {
    const command = [Deno.execPath(), "run", CONFIG, "--allow-all", EXAMPLE, ...args, "--chart", file];
    const shell = limit === undefined ? [] : ["sh", "-c", `ulimit -n ${limit}; exec "$0" "$@"`];
    const [program = "", ...rest] = [...shell, ...command];
    const options = { args: rest, cwd: ROOT, env: { NO_COLOR: "1" }, stdin: "null" as const };
    const { code, stdout, stderr } = await new Deno.Command(program, options).output();
    assertEquals(code, 0, decode(stderr));
    return { stdout: decode(stdout), stderr: decode(stderr), chart: await Deno.readTextFile(file) };
  } finally {
    await Deno.remove(file);
  }
}

Deno.test({
  name: "four-ways measures every way with the same clients, and draws what it has measured",
  ignore: !IS_NATIVE,
  async fn() {
    const { stdout, stderr, chart } = await measure(["--clients", "12", "--seconds", "0.3", "--opening", "300"]);
    const [head, ...rows] = rowsOf(stdout);
    assertEquals(head, [
      ...["way", "connections", "echoes/s", "p50 ms", "p99 ms", "KiB/conn.", "CPU µs/echo", "ran out first"],
    ]);
    assertEquals(rows.map(([title]) => title), WAYS.map(({ title }) => title), stdout);
    for (const [title = "", connections, rate, p50, p99, , cpu, ranOut = ""] of rows) {
      // One at a time: what the others do is wait, and the kernel's queue says so.
      const isIterative = title === WAYS[0]?.title;
      assertEquals([title, number(connections)], [title, isIterative ? 1 : 12]);
      assertMatch(ranOut, isIterative ? /^turns: the next 2 wait to be accepted$/ : /^nothing$/);
      assertGreater(number(rate), 0);
      assertGreater(number(cpu) + 1, 0); // its clock ticks each 10 ms: a short run may see none
      assert(number(p50) > 0 && number(p50) <= number(p99), `${title}: ${p50}, ${p99}`);
      assertStringIncludes(stderr, `${title}: ${connections} open, ${rate} echoes/s`);
      assertStringIncludes(chart, title);
      assertStringIncludes(chart, `>${rate}<`);
    }
    assertMatch(chart, /^<svg [^]*echoes per second[^]*<\/svg>\n$/);
    // A process for each client takes more than one for all, by far.
    const memory = (title: string) => number(rows.find((row) => row[0] === title)?.[5]);
    assertGreater(memory("a process for each"), 5 * 1024);
  },
});

Deno.test({
  name: "four-ways goes as far as a limit lets it, and says which one to raise",
  ignore: !IS_NATIVE,
  async fn() {
    const { stdout, stderr } = await measure([
      "--clients",
      "300",
      "--seconds",
      "0.2",
      "--opening",
      "300",
      "--only",
      "epoll",
    ], 200);
    assertStringIncludes(stderr, "300 clients need 364 descriptors in one process, and RLIMIT_NOFILE allows 200.");
    assertStringIncludes(stderr, '"ulimit -n 364"');
    const [, row] = rowsOf(stdout);
    assertEquals(row?.at(-1), "descriptors: RLIMIT_NOFILE is 200");
    assert(number(row?.[1]) > 100 && number(row?.[1]) < 200, stdout);
    assertGreater(number(row?.[2]), 0);
  },
});

Deno.test({
  name: "four-ways holds as many processes as its budget of memory has room for",
  ignore: !IS_NATIVE,
  async fn() {
    const limits = ["--memory", "60", "--opening", "300"];
    const only = ["--only", "process-per-connection"];
    const { stdout } = await measure(["--clients", "300", "--seconds", "0.2", ...limits, ...only]);
    const [, row] = rowsOf(stdout);
    assertEquals(row?.at(-1), "memory: more than 60 MiB");
    assert(number(row?.[1]) > 0 && number(row?.[1]) < 60, stdout);
  },
});

Deno.test("four-ways measures on the runtime engine what there is, and leaves out what cannot be told", async () => {
  const file = await Deno.makeTempFile({ suffix: ".svg" });
  const flags = ["--allow-net", "--allow-run", "--allow-read", "--allow-write", "--allow-env", "--allow-sys"];
  const args = [EXAMPLE, "--clients", "3", "--seconds", "0.2", "--chart", file];
  try {
    const [worker, epoll] = await Promise.all(["worker", "epoll"].map((model) => {
      return run(["run", CONFIG, "--no-prompt", ...flags, ...args, "--only", model]);
    }));
    const [, row] = rowsOf(worker?.stdout ?? "");
    assertEquals(
      [worker?.code, row?.[0], row?.[1], row?.at(-1)],
      [0, "pool of threads", "3", "nothing"],
      worker?.stderr,
    );
    assertGreater(number(row?.[2]), 0);
    assertEquals([row?.[5], row?.[6]], ["–", "–"]);
    assertEquals(epoll?.code, 1);
    assertMatch(epoll?.stdout ?? "", /│ epoll │ missing: /);
  } finally {
    await Deno.remove(file);
  }
});

Deno.test("fourWays() shows what deno task example:four-ways --json has written", async () => {
  const way = IS_NATIVE ? "epoll" : "async";
  const folder = await Deno.makeTempDir();
  try {
    const flags = ["--only", way, "--clients", "12", "--seconds", "0.2"];
    const files = ["--json", `${folder}/four-ways.json`, "--chart", `${folder}/four-ways.svg`];
    const { code, stderr } = await run(["run", CONFIG, "--allow-all", EXAMPLE, ...flags, ...files]);
    assertEquals(code, 0, stderr);
    const text = fourWays(JSON.parse(await Deno.readTextFile(`${folder}/four-ways.json`)));
    const title = IS_NATIVE ? "epoll" : "async, runtime";
    assertMatch(text, new RegExp(`\n\\| ${title} \\| 12 \\| [\\d,]+ \\| [\\d.]+ \\| [\\d.]+ \\| .* \\| nothing \\|\n`));
    assertMatch(text, /^12 clients, .*, 0\.2 s for each way;$/m);
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
});

Deno.test("four-ways says with --help how to call it, and needs no permission for that", async () => {
  const { code, stdout } = await run(["run", CONFIG, "--no-prompt", "--quiet", EXAMPLE, "--help"]);
  assertEquals(code, 0);
  assertMatch(stdout, /^Usage: four_ways\.ts/);
});

Deno.test("four-ways finds an echo that is not what was sent", async () => {
  using pair = await Pair.open("runtime");
  const client = new Client(pair.client, 7);
  assertEquals(client.ask(), true);
  const sent = await readExactly(pair.server, SIZE);
  assertEquals([client.take(sent.subarray(0, 10)), client.isWaiting], [false, true]);
  assertEquals([client.take(sent.subarray(10)), client.isWaiting], [true, false]);
  assertThrows(() => client.take(sent.with(40, 99)), Error, "something else came back than was sent");
  assertThrows(() => client.take(new Uint8Array(SIZE + 1)), Error, "more came back than was sent");
});

Deno.test("four-ways tells quantiles of all times", () => {
  const times = new Times();
  for (let i = 5000; i >= 1; i--) times.add(i / 1000);
  const { echoes, p50, p99 } = times.summary();
  assertEquals([echoes, Math.round(p50), Math.round(p99)], [5000, 2500, 4950]);
  assertEquals(new Times().summary(), { echoes: 0, p50: 0, p99: 0 });
});

Deno.test("four-ways refuses what makes no sense, with one line and exit code 2", async () => {
  const cases: [string, string][] = [
    ["--clients 0", '--clients takes a number from 1 to 64000, not "0"'],
    ["--clients 2.5", '--clients takes a whole number, not "2.5"'],
    ["--seconds soon", '--seconds takes a number from 0.1 to 60, not "soon"'],
    ["--only fork", "--only takes one of iterative, "],
    ["--chart=", "--chart takes a file"],
    ["extra", 'Unknown argument "extra"'],
  ];
  await Promise.all(cases.map(async ([args, problem]) => {
    const { code, stdout, stderr } = await run(["run", CONFIG, "--allow-all", EXAMPLE, ...args.split(" ")]);
    assertStringIncludes(stderr, problem);
    assertEquals([code, stdout, stderr.trimEnd().split("\n").length], [2, "", 1], args);
  }));
});

for (const signal of ["SIGINT", "SIGKILL"] as const) {
  Deno.test({
    name: `four-ways leaves no process behind when it gets ${signal}`,
    ignore: !IS_NATIVE,
    async fn() {
      const args = ["run", CONFIG, "--allow-all", EXAMPLE, "--only", "process-per-connection", "--clients", "100"];
      const options = { cwd: ROOT, stdin: "null", stdout: "null", stderr: "null" } as const;
      const child = new Deno.Command(Deno.execPath(), { args, ...options }).spawn();
      const names = await eventually(() => {
        const pids = descendants(child.pid);
        return pids.length > 3 ? pids : undefined; // server, clients, and some of those that serve
      }, 30_000);
      child.kill(signal);
      const { code } = await child.status;
      assertEquals(code, signal === "SIGINT" ? 130 : 137);
      await eventually(() => names.some(isAlive) ? undefined : true, 30_000);
    },
  });
}
