/** The layers: imports point down only, and siblings do not know each other. */

import { assert, assertEquals } from "@std/assert";
import { ROOT, run } from "./_util.ts";

const SOCKETS = ["tcp", "udp", "mux", "poll", "internal"];

/** What each folder may import, beside itself. */
const MAY_IMPORT: Readonly<Record<string, readonly string[]>> = {
  "mod.ts": ["process", "tcp", "udp", "mux"],
  process: ["process/pool", "process/child", "process/program", "process/message", "process/inspect"],
  "process/pool": ["process/child", "process/program", "process/message", ...SOCKETS],
  "process/child": ["process/program", "process/message", ...SOCKETS],
  "process/program": ["process/message", ...SOCKETS],
  "process/message": SOCKETS,
  "process/inspect": SOCKETS,
  tcp: ["poll", "internal"],
  udp: ["poll", "internal"],
  mux: ["poll", "internal"],
  poll: ["internal"],
  internal: [],
};

interface Module {
  specifier: string;
  dependencies?: { code?: { specifier: string }; type?: { specifier: string } }[];
}

/** The folder of a module of the library, or the file at the top; `undefined` for others. */
function layerOf(specifier: string): string | undefined {
  if (!specifier.startsWith(ROOT.href)) return undefined;
  const parts = specifier.slice(ROOT.href.length).split("/");
  return parts.length === 1 ? parts[0] : parts.slice(0, -1).join("/");
}

Deno.test("imports point down only, and reach nothing but the library and Node's built-ins", async () => {
  const { code, stdout, stderr } = await run(["info", "--json", "mod.ts"]);
  assertEquals(code, 0, stderr);
  const { modules } = JSON.parse(stdout) as { modules: Module[] };
  assert(modules.length > 10);
  for (const { specifier, dependencies } of modules) {
    const from = layerOf(specifier);
    if (from === undefined) continue;
    assert(Object.hasOwn(MAY_IMPORT, from), `${specifier} is in no folder that is known here`);
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

Deno.test("no module of the library imports itself by way of others", async () => {
  const { stdout } = await run(["info", "--json", "mod.ts"]);
  const { modules } = JSON.parse(stdout) as { modules: Module[] };
  const imports = new Map(modules.map(({ specifier, dependencies }) => [
    specifier,
    (dependencies ?? []).map(({ code, type }) => (code ?? type)?.specifier ?? ""),
  ]));
  const done = new Set<string>();
  const visit = (specifier: string, path: string[]): void => {
    assert(!path.includes(specifier), `a circle: ${[...path.slice(path.indexOf(specifier)), specifier].join(" -> ")}`);
    if (done.has(specifier)) return;
    for (const target of imports.get(specifier) ?? []) visit(target, [...path, specifier]);
    done.add(specifier);
  };
  for (const specifier of imports.keys()) visit(specifier, []);
});

Deno.test("no file of the library has more than 400 lines of code", async () => {
  const { stdout } = await run(["info", "--json", "mod.ts"]);
  const { modules } = JSON.parse(stdout) as { modules: Module[] };
  for (const { specifier } of modules.filter(({ specifier }) => specifier.startsWith(ROOT.href))) {
    const code = (await Deno.readTextFile(new URL(specifier))).replaceAll(/\/\*[\s\S]*?\*\//g, "");
    const count = code.split("\n").filter((line) => /^\s*(?!\/\/)\S/.test(line)).length;

    assert(count <= 400, `${specifier}: ${count} lines of code`);
  }
});

Deno.test("each constant of the C library stands once in the library", async () => {
  const { stdout } = await run(["info", "--json", "mod.ts"]);
  const { modules } = JSON.parse(stdout) as { modules: Module[] };
  const places = new Map<string, string[]>();
  for (const { specifier } of modules.filter(({ specifier }) => specifier.startsWith(ROOT.href))) {
    const source = await Deno.readTextFile(new URL(specifier));
    const pattern =
      /^(?:export )?const ((?:AF|F|FD|IP|IPV6|IPPROTO|MSG|O|P|SHUT|SI|SO|SOCK|SOL|SYS|TCP|UDP)_[A-Z_0-9]+) =/gm;
    for (const [, name = ""] of source.matchAll(pattern)) {
      places.set(name, [...places.get(name) ?? [], specifier.slice(ROOT.href.length)]);
    }
  }
  assert(places.size > 40);
  assertEquals([...places].filter(([, files]) => files.length > 1), []);
});
