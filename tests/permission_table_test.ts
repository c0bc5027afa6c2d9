/**
 * Every public call that a permission stands before, under every set of flags,
 * and in Workers with less than their program: on both engines it must get the
 * answer that Deno's own call gets in the same process for the same target
 * (`children/permission_probe.ts`). Nothing may succeed that Deno refuses.
 */

import { assert, assertEquals } from "@std/assert";
import type { Row } from "./children/permission_probe.ts";
import { ENGINES, long, ROOT, run, some } from "./_util.ts";

const FOLDER = "/tmp/c10k-probe";
const FFI = "--allow-ffi";
const LIBC = Deno.build.os === "linux" ? `/lib/${Deno.build.arch}-linux-gnu/libc.so.6` : "/nowhere";

const FLAGS: readonly string[][] = [
  [],
  ["--allow-net"],
  ["--allow-net=127.0.0.1"],
  [FFI],
  [FFI, "--allow-net"],
  [`${FFI}=${LIBC}`, "--allow-net=127.0.0.1"],
  [FFI, "--allow-net=127.0.0.1:0"],
  [FFI, "--allow-net=127.0.0.1:0,127.0.0.1:9"],
  [FFI, "--allow-net=127.0.0.1:0,localhost:9,[::1]:9"],
  [FFI, "--allow-net=localhost"],
  [FFI, "--allow-net=[::1],[::]"],
  [FFI, "--allow-net=0.0.0.0"],
  [FFI, "--allow-net", "--deny-net=127.0.0.1"],
  [FFI, "--allow-net", "--deny-net=127.0.0.1:9"],
  [FFI, "--allow-net", "--deny-net=[::1],0.0.0.0"],
  [FFI, "--allow-net", "--allow-run=cat"],
  [FFI, "--allow-net", "--allow-run=true"],
  [FFI, "--allow-net", "--allow-run=./true"],
  [FFI, "--allow-net", "--allow-run", "--deny-run=cat"],
  [FFI, "--allow-net", `--allow-run=${Deno.execPath()}`],
  [FFI, "--allow-net", "--allow-run", "--allow-sys=hostname"],
  [FFI, "--allow-net", `--allow-read=${FOLDER}`],
  [FFI, "--allow-net", `--allow-read=${FOLDER}`, `--allow-write=${FOLDER}`],
  [FFI, "--allow-net", "--allow-read", "--allow-write", `--deny-write=${FOLDER}`],
  [FFI, "--allow-net", "--allow-read", "--allow-write", "--allow-run", "--allow-env", "--allow-sys"],
  ["--allow-all"],
];

/** What Workers get of a program that may do everything, beside reading their own module. */
const WORKERS: readonly Deno.PermissionOptionsObject[] = [
  {},
  { ffi: true },
  { net: true },
  { ffi: true, net: ["127.0.0.1"] },
  { ffi: true, net: ["127.0.0.1:0", "127.0.0.1:9"] },
  { ffi: [LIBC], net: true, run: ["cat"] },
  { ffi: true, net: true, write: [FOLDER] },
];

async function check(args: readonly string[]): Promise<void> {
  const { code, stdout, stderr } = await run([
    "run",
    "--no-prompt",
    "--no-lock",
    "--no-check",
    "--quiet",
    "--unstable-net",
    "--unstable-worker-options",
    ...args,
  ]);
  assertEquals(code, 0, `${args.join(" ")}: ${stderr}`);
  const rows = JSON.parse(stdout) as Row[];
  assert(rows.length > 70);
  const different = rows.filter(({ deno, ours }) => ours !== deno && ours !== "unsupported");
  assertEquals(different, [], `under ${args.join(" ")}`);
}

/** Some at a time: they wait for each other's starts more than they do. */
async function checkAll(sets: readonly (readonly string[])[]): Promise<void> {
  const left = sets.values();
  await Deno.mkdir(FOLDER, { recursive: true });
  try {
    await Promise.all([left, left, left].map(async (sets) => {
      for (const args of sets) await check(args);
    }));
  } finally {
    await Deno.remove(FOLDER, { recursive: true });
  }
}

const PROBE = new URL("tests/children/permission_probe.ts", ROOT).pathname;
const ignore = Deno.build.os === "windows";

Deno.test(
  { name: "permissions: every call gets the answer that Deno gives, under every set of flags", ignore },
  async () => {
    await checkAll(some(6, FLAGS).map((flags) => [...flags, PROBE]));
  },
);

long(Deno.test)(
  { name: "permissions: every call gets the answer that Deno gives, in a Worker with less", ignore },
  async () => {
    await checkAll(
      some(3, WORKERS).map((
        permissions,
      ) => ["--allow-all", PROBE, JSON.stringify({ read: [ROOT.pathname], ...permissions })]),
    );
  },
);

Deno.test("permissions: flags of a process hold none, in whatever spelling", async () => {
  if (!ENGINES.includes("native")) return;
  const { spawnProcess } = await import("@c10k/sockets/process");
  for (const flag of ["-A", "-qA", "-N", "-qN=127.0.0.1", "--allow-all", "--allow-net", "--permission-set=x", "-P=x"]) {
    let error: unknown;
    try {
      spawnProcess("data:text/javascript,", { flags: [flag], permissions: "none" }).kill();
    } catch (refusal) {
      error = refusal;
    }
    assert(error instanceof TypeError, `${flag} was taken`);
  }
});
