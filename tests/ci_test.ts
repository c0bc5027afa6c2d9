// What runs elsewhere has what its tests need: the workflows of GitHub, and `.ci/run`, which knows the list.

import { assert, assertEquals } from "@std/assert";
import { ROOT } from "./_util.ts";

const read = (path: string) => Deno.readTextFileSync(new URL(path, ROOT));

/** Programs of packages that `.ci/run` asks for by another program, or that every Linux has. */
const OF_PACKAGE: Readonly<Record<string, string>> = { nc: "nc.openbsd", "redis-cli": "redis-benchmark", ip: "ss" };
const EVERYWHERE = ["env", "sort", "stty"];

function testFiles(folder: string): string[] {
  return [...Deno.readDirSync(new URL(folder, ROOT))].flatMap(({ name, isDirectory }) =>
    isDirectory ? testFiles(`${folder}${name}/`) : name.endsWith(".ts") ? [folder + name] : []
  );
}

Deno.test(".ci/run installs every program that a test asks for", () => {
  const wanted = new Set<string>();
  for (const path of [...testFiles("tests/"), ...testFiles("bench/")]) {
    const text = read(path);
    const lists = [...text.matchAll(/\bclientTest\(\s*\[([^\]]*)\]/g), ...text.matchAll(/\bhasCommand\(([^)]*)\)/g)];
    for (const [, list = ""] of lists) {
      // Of a name that depends on the system one is for Linux, and the other no program.
      const names = list.includes("Deno.build") ? [] : [...list.matchAll(/"([\w.-]+)"/g)];
      for (const [, name = ""] of names) wanted.add(name);
    }
  }
  assert(wanted.size > 10, [...wanted].join());
  const run = read(".ci/run");
  const isInstalled = (name: string) => run.includes(`command -v ${OF_PACKAGE[name] ?? name} `);
  assertEquals([...wanted].filter((name) => !EVERYWHERE.includes(name) && !isInstalled(name)), []);
});

Deno.test("the workflow for Linux is .ci/run, and that for other systems asks for no program", () => {
  const [linux = "", others = ""] = read(".github/workflows/ci.yml").split(/^ {2}others:$/m);
  assert(/^ +- run: sudo env "PATH=\$PATH" bash \.ci\/run$/m.test(linux));
  assert(!/apt-get/.test(linux), "the list of packages is in .ci/run");
  for (const os of ["macos-latest", "windows-latest"]) assert(others.includes(os), os);
  // Where a program is missing, its tests are ignored.
  assertEquals(others.match(/- run: /g)?.length, others.match(/CI: "false"/g)?.length);
});
