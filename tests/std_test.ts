// The stand-ins for @std, which `deno task ok:jsr` compares with the real packages where these can be had.

import { assert, assertEquals } from "@std/assert";
import { ROOT } from "./_util.ts";

const PACKAGES = ["assert", "async", "cli", "net"] as const;

/** All files of the repository that can import something, with what stands in their comments. */
function sources(folder = ""): [path: string, text: string][] {
  return [...Deno.readDirSync(new URL(`./${folder}`, ROOT))].flatMap(({ name, isDirectory }) => {
    const path = folder + name;
    if (isDirectory) return /^(\.|node_modules$|api-docs$|coverage$)/.test(name) ? [] : sources(`${path}/`);
    if (!/\.(ts|md|mjs)$/.test(name)) return [];
    return [[path, Deno.readTextFileSync(new URL(path, ROOT)).replace(/\n *\* ?/g, "\n")]];
  });
}

/** What each package is asked for, by name. */
function imported(): Map<string, Set<string>> {
  const found = new Map<string, Set<string>>(PACKAGES.map((name) => [name, new Set()]));
  for (const [path, text] of sources()) {
    if (path.startsWith("tools/std/") || path === "tests/std_test.ts") continue;
    for (const [statement, clause = "", from = ""] of text.matchAll(IMPORTS)) {
      const names = /^(?:type )?\{([^}]*)\}$/.exec(clause.trim())?.[1];
      assert(names !== undefined && found.has(from), `${path} must import names of a stand-in: ${statement}`);
      for (const name of names.split(",").map((name) => name.trim().replace(/^type /, "").replace(/ as .*/, ""))) {
        if (name !== "") found.get(from)?.add(name);
      }
    }
  }
  return found;
}

/** Imports of a package, or of a part of it. */
const IMPORTS = /\bimport\s+([^;"'()]+?)\s+from\s+["'](?:jsr:)?@std\/([^"'@]+)(?:@[^"']*)?["']/g;

function read(path: string): string {
  return Deno.readTextFileSync(new URL(path, ROOT));
}

/** What a stand-in declares: names of values, and of types. */
function declared(name: string): { values: Set<string>; types: Set<string> } {
  const text = read(`tools/std/${name}/${name === "net" ? "mod.ts" : "mod.d.ts"}`);
  const names = (kinds: string) =>
    new Set([...text.matchAll(new RegExp(`^export (?:${kinds}) (\\w+)`, "gm"))].map(([, name]) => name as string));
  return { values: names("function|class|const"), types: names("interface|type") };
}

Deno.test("the stand-ins of tools/std declare every name that is imported from @std, and have it", async () => {
  for (const [name, names] of imported()) {
    assert(names.size > 0, `nothing is imported from @std/${name}: its stand-in can go`);
    const { values, types } = declared(name);
    const module = await import(`../tools/std/${name}/mod.ts`) as Record<string, unknown>;
    assertEquals([...names].filter((one) => !values.has(one) && !types.has(one)), [], `missing in tools/std/${name}`);
    for (const value of values) assertEquals(typeof module[value], "function", `tools/std/${name}: ${value}`);
  }
});

Deno.test("what the stand-ins declare is compared with the real packages, and linked by both configurations", () => {
  const compared = read("tools/std/same_types.ts");
  for (const name of PACKAGES) {
    const own = `own${name.charAt(0).toUpperCase()}${name.slice(1)}`;
    assert(compared.includes(`from "@std/${name}"`) && compared.includes(`as ${own} from "./${name}/`), name);
    const { types } = declared(name);
    // Types are compared by name, but for those of parseArgs, which the results stand for.
    for (const type of types) assert(name === "cli" || compared.includes(`${own}.${type}`), `${name}: ${type}`);
  }
  for (const config of ["deno.json", "deno.bench.json"]) {
    const { links = [], imports } = JSON.parse(read(config)) as { links?: string[]; imports: Record<string, string> };
    // In the copy that `deno task ok:jsr` makes there is no link to a stand-in.
    const stands = links.filter((link) => link.startsWith("./tools/"));
    if (stands.length > 0) assertEquals(stands, PACKAGES.map((name) => `./tools/std/${name}`));
    for (const name of PACKAGES) assertEquals(imports[`@std/${name}`], `jsr:@std/${name}@^1`);
  }
});
