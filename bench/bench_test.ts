import { assertEquals, assertStringIncludes, assertThrows } from "@std/assert";
import { run } from "../tests/_util.ts";
import { parsePlan, UsageError } from "./args.ts";
import { reason } from "./processes.ts";
import { report } from "./report.ts";
import { rotate, type Row } from "./rounds.ts";
import { ratio, summarize } from "./summary.ts";
import { WORKS } from "./works.ts";

const WORK = WORKS.find((work) => work.name === "100x64")!;

function row(server: string, values: readonly number[]): Row {
  const samples = values.map((value, round) => ({ round, value, cpu: 5 }));
  return { work: WORK, server, samples };
}

Deno.test("parsePlan() keeps the order of the table and takes every flag", () => {
  const plan = parsePlan([
    ...["--only", "churn,100x64", "--servers=ours-native,c", "--rounds", "4"],
    ...["--duration", "250", "--no-pin", "--json", "raw.json"],
  ]);
  if (plan === "help") throw new Error("is no help");
  assertEquals(plan.works, ["100x64", "churn"]);
  assertEquals(plan.servers, ["c", "ours-native"]);
  assertEquals([plan.rounds, plan.duration, plan.pin], [4, 250, false]);
  assertEquals(plan.json, "raw.json");
});

for (
  const args of [
    ["--nonsense"],
    ["word"],
    ["--rounds"],
    ["--rounds", "0"],
    ["--rounds", "1.5"],
    ["--duration", "soon"],
    ["--only", "100x65"],
    ["--servers", "c,,deno"],
    ["--json="],
  ]
) {
  Deno.test(`parsePlan() refuses ${args.join(" ")} in one line`, () => {
    const error = assertThrows(() => parsePlan(args), UsageError);
    assertEquals(error.message.includes("\n"), false);
  });
}

Deno.test("ratio() compares only what was measured in the same round", () => {
  const base = row("c", [100, 1000, 10]).samples;
  assertEquals(ratio(row("x", [50, 500, 5]).samples, base), 0.5);
  assertEquals(ratio([{ round: 7, value: 50 }], base), undefined);
  assertEquals(ratio([{ round: 0, value: 50 }], [{ round: 0, value: 0 }]), undefined);
});

Deno.test("summarize() gives no ratio against a row that is missing", () => {
  const missing: Row = { ...row("c", [100]), missing: "no C compiler" };
  const deno = row("deno", [80, 90, 100]);
  const figures = summarize(deno, [missing, deno]);
  assertEquals([figures?.value, figures?.least, figures?.most], [90, 80, 100]);
  assertEquals([figures?.perC, figures?.perDeno], [undefined, 1]);
  assertEquals(summarize(missing, [missing, deno]), undefined);
});

Deno.test("report() shows a missing row with its reason", () => {
  const rows = [
    row("c", [123456]),
    { ...row("bun", []), missing: "no bun here" },
  ];
  const text = report(rows, (server) => server);
  assertStringIncludes(text, "123,456");
  assertStringIncludes(text, "missing: no bun here");
});

Deno.test("report() compares kv with redis-server, and with nothing else", () => {
  const work = WORKS.find((work) => work.name === "kv-get")!;
  const rows = [["redis", 200], ["kv-epoll", 150]] as const;
  const text = report(rows.map(([server, value]) => ({ ...row(server, [value]), work })), (server) => server);
  assertStringIncludes(text, "× redis-server");
  assertStringIncludes(text, "0.75");
  assertEquals(text.includes("Deno.listen"), false);
});

Deno.test("rotate() lets every server begin once", () => {
  assertEquals([0, 1, 2, 3].map((n) => rotate(["a", "b", "c"], n)[0]), [
    ..."abca",
  ]);
});

Deno.test("reason() finds the line that says what went wrong", () => {
  assertEquals(reason("warm\nerror: No way\n  at x", "?"), "No way");
  assertEquals(reason("", "nothing said"), "nothing said");
});

Deno.test("deno task bench --help says how to call it", async () => {
  const { code, stdout } = await run(["task", "--quiet", "bench", "--help"]);
  assertEquals(code, 0);
  assertStringIncludes(stdout, "--quick");
});
