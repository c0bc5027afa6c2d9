/** The layers: imports point down only, and siblings do not know each other. */

import { assert, assertEquals } from "@std/assert";
import { ROOT, run } from "./_util.ts";

/** What each folder may import, beside itself. */
const MAY_IMPORT: Readonly<Record<string, readonly string[]>> = {
  "mod.ts": ["process", "tcp", "udp", "mux"],
  process: ["tcp", "udp", "mux", "internal"],
  tcp: ["mux", "internal"],
  udp: ["mux", "internal"],
  mux: ["internal"],
  internal: [],
};

interface Module {
  specifier: string;
  dependencies?: { code?: { specifier: string }; type?: { specifier: string } }[];
}

/** The top-level folder or file of a module of the library, `undefined` for others. */
function layerOf(specifier: string): string | undefined {
  if (!specifier.startsWith(ROOT.href)) return undefined;
  return specifier.slice(ROOT.href.length).split("/", 1)[0];
}

Deno.test("imports point down only, and reach nothing but the library and Node's built-ins", async () => {
  const { code, stdout, stderr } = await run(["info", "--json", "mod.ts"]);
  assertEquals(code, 0, stderr);
  const { modules } = JSON.parse(stdout) as { modules: Module[] };
  assert(modules.length > 10);
  for (const { specifier, dependencies } of modules) {
    const from = layerOf(specifier);
    if (from === undefined) continue;
    for (const { code, type } of dependencies ?? []) {
      const target = (code ?? type)?.specifier ?? "";
      if (target.startsWith("node:")) continue;
      const to = layerOf(target);
      assert(
        to === from || (to !== undefined && MAY_IMPORT[from]?.includes(to)),
        `${specifier} must not import ${target}`,
      );
    }
  }
});

Deno.test("mod.ts and the modules' own mod.ts hold no logic", async () => {
  const { exports } = JSON.parse(await Deno.readTextFile(new URL("deno.json", ROOT))) as {
    exports: Record<string, string>;
  };
  for (const entry of Object.values(exports)) {
    const source = await Deno.readTextFile(new URL(entry, ROOT));
    const code = source.replaceAll(/\/\*[\s\S]*?\*\//g, "").trim();
    for (const statement of code.split(";").map((part) => part.trim()).filter(Boolean)) {
      assert(/^export (type )?[{*]/.test(statement) && statement.includes(" from "), `${entry}: ${statement}`);
    }
  }
});
