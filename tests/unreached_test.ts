/** The gate of `deno task coverage`: a reason is for one block of lines, and for nothing behind it. */

import { assertEquals } from "@std/assert";
import { unexplained } from "../tools/unreached.ts";

/** What is found if all lines of a file from `first` to `last` on are not reached, comments and blank lines aside. */
async function foundIn(file: string, first: string, last: string): Promise<string[]> {
  const url = new URL(`../${file}`, import.meta.url);
  const lines = (await Deno.readTextFile(url)).split("\n");
  const from = lines.findIndex((line) => line.trim() === first);
  const to = lines.findIndex((line, i) => i >= from && line.trim() === last);
  const records = lines.flatMap((line, i) => {
    const isCode = line.trim() !== "" && !/^\s*(\/\*\*|\*|\/\/)/.test(line);
    return isCode ? [`DA:${i + 1},${i >= from && i <= to ? 0 : 1}`] : [];
  });
  const found = await unexplained(`SF:${url.pathname}\n${records.join("\n")}\nend_of_record\n`);
  return found.map((line) => line.replace(/^.*?:\d+: /, ""));
}

// The report of the coverage is made on Linux, and has its paths.
const ignore = Deno.build.os === "windows";

Deno.test("unexplained() lets a reason stand for its block, and for nothing behind it", { ignore }, async () => {
  const file = "internal/ledger.ts";
  const known = "function awaitThreads(threads: ReadonlySet<number>): void {";
  const next = "export function endChildrenOf(thread: number): void {";
  assertEquals(await foundIn(file, known, "libc.usleep(PAUSE);"), []);
  assertEquals(await foundIn(file, known, next), [next]);
  assertEquals((await foundIn(file, known, "ledgers = find();")).length, 4);
  assertEquals(await foundIn(file, "ledgers = find();", "ledgers = find();"), ["ledgers = find();"]);
  // Also where a comment stands in the block.
  assertEquals(
    await foundIn(
      "process/child/die_with_parent.ts",
      "async function dieWithParent([parent, thread]: [number, number], libc: string, interval: number, socket: number) {",
      "exitIfAlone();",
    ),
    [],
  );
});
