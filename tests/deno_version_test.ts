/** Which versions of Deno the library runs on, and what it says on others. */

import { assertEquals, assertStringIncludes, assertThrows } from "@std/assert";
import { checkRuntime, FAULTY_DENO, isOlder, OLDEST_DENO } from "../internal/deno_version.ts";
import { ROOT, runDeno } from "./_util.ts";

const read = (path: string) => Deno.readTextFileSync(new URL(path, ROOT));

Deno.test("isOlder() compares versions by their numbers, and a pre-release comes before its release", () => {
  const ascending = [
    ...["1.46.3", "2.0.0-rc.1", "2.0.0", "2.2.10", "2.6.2", "2.7.9", "2.7.14-rc.2", "2.7.14", "2.8.0", "2.10.0"],
    ...["2.100.0", "3.0.0", "10.0.0"],
  ];
  for (const [i, a] of ascending.entries()) {
    for (const [j, b] of ascending.entries()) assertEquals(isOlder(a, b), i < j, `${a} and ${b}`);
  }
  // A build of its own, and what cannot be read.
  for (const version of ["2.7.14+1a2b3c4", "2.9.6+deadbeef", "canary", ""]) {
    assertEquals(isOlder(version, "2.7.14"), false, version);
  }
});

Deno.test("checkRuntime() refuses an older Deno, and what is no Deno, with an error that says which it needs", () => {
  const { errors } = Deno;
  const needs = `Cannot load @c10k/sockets: it needs Deno ${OLDEST_DENO} or newer, and this is `;
  for (const deno of ["1.46.3", "2.2.0", "2.5.7", "2.6.0", "2.7.1", "2.7.9", "2.7.13"]) {
    assertThrows(() => checkRuntime({ version: { deno }, errors }), errors.NotSupported, `${needs}Deno ${deno}`);
  }
  for (const deno of [OLDEST_DENO, "2.8.0", "2.9.6", "2.10.0", "3.0.0", "2.9.6+1a2b3c4", Deno.version.deno]) {
    checkRuntime({ version: { deno }, errors });
  }
  const others = [undefined, null, {}, { version: null }, { version: {}, errors }, {
    version: { deno: 2 },
    errors: null,
  }];
  for (const other of others) {
    assertThrows(() => checkRuntime(other), Error, `${needs}another runtime`);
  }
});

Deno.test("checkRuntime() refuses the newer Deno whose close() leaves connections open, and no other", () => {
  const { errors } = Deno;
  for (const deno of [FAULTY_DENO, `${FAULTY_DENO}+1a2b3c4`]) {
    const message = `and this is Deno ${deno}, where close() leaves a connection open while a read is pending`;
    assertThrows(() => checkRuntime({ version: { deno }, errors }), errors.NotSupported, message);
  }
  for (const deno of ["2.8.2", "2.8.30", "2.8.4", "2.9.0", "12.8.3"]) checkRuntime({ version: { deno }, errors });
});

Deno.test("an older Deno, and a runtime without Deno, get this error from each entry point before any other", async () => {
  const { exports } = JSON.parse(read("deno.json")) as { exports: Record<string, string> };
  const entries = Object.values(exports).map((entry) => new URL(entry, ROOT).href);
  const runtimes: [what: string, fake: string, error: string][] = [
    ["Deno 2.6.1", `Object.defineProperty(Deno, "version", { value: { deno: "2.6.1" } });`, "NotSupported"],
    [
      "Deno 2.8.3, where close() leaves a connection open while a read is pending",
      `Object.defineProperty(Deno, "version", { value: { deno: "2.8.3" } });`,
      "NotSupported",
    ],
    ["another runtime", `Object.defineProperty(Deno, "version", { value: undefined });`, "NotSupported"],
    ["another runtime", "delete globalThis.Deno;", "Error"],
  ];
  await Promise.all(runtimes.map(async ([what, fake, name]) => {
    // An import that has failed fails again in the same way, so each entry point has a thread of its own.
    const thread = `${fake}
      onmessage = ({ data }) => import(data).then(() => "loaded", (error) => error.name + ": " + error.message)
        .then((told) => postMessage(told));`;
    const { code, stdout, stderr } = await runDeno(
      ["--allow-read"],
      `
      const module = "data:text/javascript," + encodeURIComponent(${JSON.stringify(thread)});
      for (const entry of ${JSON.stringify(entries)}) {
        const worker = new Worker(module, { type: "module" });
        const told = new Promise((resolve) => worker.onmessage = ({ data }) => resolve(data));
        worker.postMessage(entry);
        console.log(await told);
        worker.terminate();
      }`,
    );
    const line = `${name}: Cannot load @c10k/sockets: it needs Deno ${OLDEST_DENO} or newer, and this is ${what}\n`;
    assertEquals([code, stdout, stderr], [0, line.repeat(entries.length), ""]);
  }));
});

Deno.test("README, the documents and CI name the versions of Deno that the library loads on", () => {
  for (const path of ["README.md", "docs/engines.md", "CHANGELOG.md"]) {
    assertStringIncludes(read(path).replaceAll("\n", " "), `Deno ${OLDEST_DENO} or newer`, path);
    assertStringIncludes(read(path), `Deno ${FAULTY_DENO}`, path);
  }
  assertStringIncludes(read(".ci/run"), `task test:versions ${OLDEST_DENO}`);
});
