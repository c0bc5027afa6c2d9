/** `examples/four_ways.ts` as a small run: what it says, what it refuses, and that it leaves nobody behind. */

import { engineSupport } from "@c10k/sockets/tcp";
import { assert, assertEquals, assertGreater, assertMatch, assertStringIncludes, assertThrows } from "@std/assert";
import { Client, SIZE } from "../examples/four_ways/client.ts";
import { Estimate } from "../examples/four_ways/estimate.ts";
import { type Row, table } from "../examples/four_ways/table.ts";
import { waitsOf } from "../examples/four_ways/waits.ts";
import { WAYS } from "../examples/four_ways/ways.ts";
import { fourWays } from "../tools/figures.ts";
import { descendants, isAlive } from "../tests/_process.ts";
import { clientTest, decode, eventually, Pair, readExactly, ROOT, run } from "../tests/_util.ts";

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
    const { stdout, stderr, chart } = await measure(["--clients", "3", "--seconds", "0.1", "--opening", "300"]);
    const [head, ...rows] = rowsOf(stdout);
    assertEquals(head, [
      ...["way", "open", "answered", "echoes/s", "p50 ms", "p99 ms", "KiB/conn", "µs CPU", "ran out first"],
    ]);
    assertMatch(stderr, /^10 ways, about \d+ (s|min)\n/);
    assertEquals(rows.map(([title]) => title), WAYS.map(({ title }) => title), stdout);
    for (const [title = "", connections, answered, rate, p50, p99, , cpu, ranOut = ""] of rows) {
      // One at a time: what the others do is wait, and the kernel's queue says so.
      const isIterative = title === WAYS[0]?.title;
      assertEquals([title, number(connections)], [title, isIterative ? 1 : 3]);
      assertEquals(answered, connections, title);
      assertMatch(ranOut, isIterative ? /^turns: the next 2 wait to be accepted$/ : /^nothing$/);
      assertGreater(number(rate), 0);
      assertGreater(number(cpu) + 1, 0); // its clock ticks each 10 ms: a short run may see none
      assert(number(p50) > 0 && number(p50) <= number(p99), `${title}: ${p50}, ${p99}`);
      assertStringIncludes(stderr, `${title}: ${connections} open, ${rate} echoes/s`);
      assertStringIncludes(chart, title);
      assertStringIncludes(chart, `>${rate}<`);
    }
    assertMatch(chart, /^<svg [^]*echoes per second[^]*<\/svg>\n$/);
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
    assertGreater(number(row?.[3]), 0);
  },
});

Deno.test({
  name: "four-ways holds as many processes as its budget of memory has room for",
  ignore: !IS_NATIVE,
  async fn() {
    const limits = ["--memory", "200", "--opening", "300"];
    const only = ["--only", "process-per-connection"];
    const { stdout } = await measure(["--clients", "300", "--seconds", "0.2", ...limits, ...only]);
    const [, row] = rowsOf(stdout);
    assertEquals(row?.at(-1), "memory: more than 200 MiB");
    assert(number(row?.[1]) > 0 && number(row?.[1]) < 60, stdout);
    // A process for each client takes more than one for all, by far.
    assertGreater(number(row?.[6]), 3 * 1024, stdout);
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
    assertGreater(number(row?.[3]), 0);
    assertEquals([row?.[6], row?.[7]], ["–", "–"]);
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
    assertMatch(
      text,
      new RegExp(`\n\\| ${title} \\| 12 \\| 12 \\| [\\d,]+ \\| [\\d.]+ \\| [\\d.]+ \\| .* \\| nothing \\|\n`),
    );
    assertMatch(text, /^12 clients, .*, 0\.2 s for each way;$/m);
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
});

Deno.test("four-ways says with --help how to call it, and needs no permission for that", async () => {
  for (const args of [["--help"], ["--", "--help"]]) {
    const { code, stdout } = await run(["run", CONFIG, "--no-prompt", "--quiet", EXAMPLE, ...args]);
    assertEquals(code, 0);
    assertMatch(stdout, /^Usage: four_ways\.ts/);
  }
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

Deno.test("four-ways tells what half of the clients wait, not how long half of the answers have taken", () => {
  const quick = { answers: 1000, waited: 1000 };
  const starved = { answers: 0, waited: 0 };
  // Ten that are answered each millisecond, and ninety never: 10,000 answers, of which each has taken 1 ms.
  const few = waitsOf([...Array(10).fill(quick), ...Array(90).fill(starved)], 1000);
  assertEquals(few, { echoes: 10_000, answered: 10, p50: 1_000_000, p99: 1_000_000 });

  // All alike: what one waits is what the rate says.
  const alike = { answers: 4, waited: 960 };
  assertEquals(waitsOf(Array(100).fill(alike), 1000), { echoes: 400, answered: 100, p50: 240_000, p99: 240_000 });

  // One that was answered early, and not since.
  assertEquals(waitsOf([{ answers: 3, waited: 10 }], 1000).p50, 250_000);
  const spread = Array.from({ length: 100 }, (_, i) => ({ answers: 1000, waited: 1000 * (i + 1) }));
  assertEquals([waitsOf(spread, 1000).p50, waitsOf(spread, 1000).p99], [50_000, 99_000]);
  assertEquals(waitsOf([], 1000), { echoes: 0, answered: 0, p50: 0, p99: 0 });
});

Deno.test("four-ways estimates its time from what each way does, and then from what those before have taken", () => {
  const plan = { clients: 1000, duration: 1000, opening: 15_000, memory: 2 ** 31 };
  const estimate = new Estimate(WAYS, plan);
  const [at, all] = [estimate.part(), estimate.left()];
  assert(at < 0.01 && all > 10_000 && all < 200_000, `${at} ${all}`);
  for (const _ of WAYS) estimate.next();
  assertEquals(estimate.left(), 0);
  assertGreater(new Estimate(WAYS, { ...plan, clients: 10_000 }).left(), all);
});

/** What was measured of C10K, with a way that starves its clients, and one that is not there. */
const SAMPLE: readonly Row[] = WAYS.map((way, i) => {
  const open = [1, 176, 170][i] ?? 10_000;
  const figures = {
    ...{
      open,
      answered: open,
      rate: 101_376,
      p50: 101_320,
      p99: 118_130,
      measured: 1_000_000,
      memory: 13_643.9 * 1024,
    },
    ...{ cpu: 327.9, ranOut: i < 3 ? "turns: the next 9,999 wait to be accepted by somebody who has time" : "nothing" },
    lost: i === 4 ? 3 : 0,
  };
  if (way.engine === "runtime") return { way, figures: { ...figures, answered: 158, p50: 1_000_000, p99: 1_000_000 } };
  return {
    way,
    figures: way.model === "poll" ? "run with --allow-ffi, on Linux with glibc, x86_64 or aarch64" : figures,
  };
});

Deno.test("four-ways shows a table that fits the terminal, with nothing left out", () => {
  for (const width of [60, 76, 79, 80, 99, 100, 120, 129, 130, 131, 132, 133, 160, Infinity]) {
    const text = table(SAMPLE, width);
    const longest = Math.max(...text.split("\n").map((line) => line.length));
    assert(longest <= width, `${longest} of ${width}\n${text}`);
    const words = text.replace(/[│─┌┐└┘├┤┬┴┼\s]+/g, " ");
    for (const { title } of WAYS) assertStringIncludes(words, title);
    assertStringIncludes(words, "158", text);
    assertStringIncludes(words, ">1,000", text);
    for (const part of ["clients lost meanwhile: 3", "x86_64"]) assertStringIncludes(words, part, text);
    if (width >= 80) assertEquals(rowsOf(text)[0]?.slice(0, 8).at(-1), "µs CPU");
  }
});

clientTest(
  ["script", "stty"],
  "four-ways moves its bars by phases, and keeps to 80 columns of a terminal",
  async () => {
    const file = await Deno.makeTempFile({ suffix: ".svg" });
    try {
      const args = ["run", CONFIG, "--allow-all", EXAMPLE, "--only", "async", "--clients", "20", "--seconds", "0.5"];
      const command = `stty cols 80 rows 40; exec ${[Deno.execPath(), ...args, "--chart", file].join(" ")}`;
      const { code, stdout } = await new Deno.Command("script", { args: ["-qec", command, "/dev/null"], cwd: ROOT })
        .output();
      const text = decode(stdout);
      assertEquals(code, 0, text);
      // deno-lint-ignore no-control-regex -- what a terminal is told
      const lines = text.replace(/\x1b\[[0-9;?]*[a-zA-Z]/g, "\r").split(/[\r\n]+/);
      assertEquals(lines.filter((line) => line.length > 80), []);
      const [first, last] = ["async, native", "async, runtime"];
      const bars = lines.flatMap((line) => {
        const [, bar = "", phase = ""] = /^async, \w+ +([█░]+) (.*)$/.exec(line) ?? [];
        return bar === "" ? [] : [{ full: bar.replaceAll("░", "").length / bar.length, phase }];
      });
      for (const phase of ["starts", "20 open, warm up", "20 open, measured"]) {
        const parts = bars.filter((bar) => bar.phase === phase).map(({ full }) => full);
        assert(parts.length > 0 && Math.max(...parts) < 1, `${phase}: ${parts}`);
      }
      const measured = bars.filter(({ phase }) => phase === "20 open, measured").map(({ full }) => full);
      assert(new Set(measured).size > 2, `it stands still: ${measured}`);
      assert(lines.some((line) => /^all of them +[█░]+ about \d+ s left$/.test(line)), text);
      for (const title of IS_NATIVE ? [first, last] : [last]) assertMatch(text, new RegExp(`│${title} *│ *20│`));
    } finally {
      await Deno.remove(file);
    }
  },
);

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
