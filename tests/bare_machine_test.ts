/** A machine whose caches are empty: what README's two commands download there. */

import { TcpConn } from "@c10k/sockets/tcp";
import { assert, assertEquals, assertLessOrEqual } from "@std/assert";
import { descendants } from "./_process.ts";
import { Program } from "./_program.ts";
import { encode, readText, ROOT } from "./_util.ts";

/** A configuration, as far as it is looked at. */
interface Config {
  readonly imports: Readonly<Record<string, string>>;
  readonly tasks: Readonly<Record<string, { readonly command: string }>>;
  readonly links?: readonly string[];
  readonly compilerOptions: object;
  readonly test: object;
}

/** A lock file, as far as it is looked at. */
interface Lock {
  readonly specifiers: Readonly<Record<string, string>>;
  readonly npm: Readonly<Record<string, { readonly dependencies?: readonly string[] }>>;
}

function read<T>(path: string): T {
  return JSON.parse(Deno.readTextFileSync(new URL(path, ROOT)));
}

/** `vega-lite` of `vega-lite@6.5.0_vega@6.4.0`. */
function nameOf(locked: string): string {
  return locked.slice(0, locked.indexOf("@", 1));
}

function foldersIn(folder: string): string[] {
  return [...Deno.readDirSync(folder)].filter(({ isDirectory }) => isDirectory).map(({ name }) => name);
}

/** The packages of a cache, as `deno-std@1.4.0`. */
function packagesIn(cache: string): string[] {
  const registries = foldersIn(`${cache}/npm`).map((name) => `${cache}/npm/${name}`);
  return registries.flatMap((registry) => {
    const names = foldersIn(registry).flatMap((name) =>
      name.startsWith("@") ? foldersIn(`${registry}/${name}`).map((part) => `${name}/${part}`) : [name]
    );
    return names.flatMap((name) => foldersIn(`${registry}/${name}`).map((version) => `${name}@${version}`));
  }).sort();
}

/** Bytes that a folder takes, as du(1) counts them. */
function sizeOf(folder: string): number {
  let bytes = 0;
  for (const { name, isDirectory } of Deno.readDirSync(folder)) {
    const path = `${folder}/${name}`;
    const { size, blocks } = Deno.lstatSync(path);
    bytes += (blocks ?? Math.ceil(size / 512)) * 512 + (isDirectory ? sizeOf(path) : 0);
  }
  return bytes;
}

Deno.test({
  name: "deno task example:echo, with an empty cache, downloads at most 5 packages and takes at most 10 MB",
  ignore: Deno.build.os !== "linux",
  async fn() {
    const cache = await Deno.makeTempDir();
    try {
      const task = [Deno.execPath(), "task", "example:echo", "--port", "0"];
      await using echo = new Program("env", [`DENO_DIR=${cache}`, ...task]);
      try {
        const [, port] = await echo.until(/listening on .*:(\d+)|error sending request/);
        if (port === undefined) {
          if (Deno.env.get("CI") === "true") throw new Error(echo.stderr);
          console.warn("(not checked: the registry cannot be reached)");
          return;
        }
        using conn = await TcpConn.connect({ port: Number(port) });
        await conn.writeAll(encode("hello"));
        assertEquals(await readText(conn), "hello");
      } finally {
        for (const pid of descendants(echo.pid)) Deno.kill(pid, "SIGTERM");
      }
      assertEquals(await echo.ended(), 0);
      const packages = packagesIn(cache);
      assertLessOrEqual(packages.length, 5, packages.join());
      // With the real packages of @std (`deno task ok:jsr`) there is no mirror of them, and Deno compiles them here.
      const isLinked = read<Config>("deno.json").links?.some((link) => link.startsWith("./tools/std/")) === true;
      if (!isLinked) return;
      assert(packages.includes("deno-std@1.4.0"), packages.join());
      // Beside it lies what Deno has compiled.
      assertLessOrEqual(sizeOf(`${cache}/npm`), 10_000_000, "bytes");
    } finally {
      await Deno.remove(cache, { recursive: true });
    }
  },
});

Deno.test("README's commands install nothing that only draws or measures", () => {
  const [config, bench] = [read<Config>("deno.json"), read<Config>("deno.bench.json")];
  const [lock, benchLock] = [read<Lock>("deno.lock"), read<Lock>("deno.bench.lock")];
  // Deno installs all that a lock holds, whatever the program imports.
  for (const task of ["example:echo", "test"]) assert(!config.tasks[task]?.command.includes("--config"), task);

  /** All that a package of the benchmark's lock brings, itself included. */
  const closure = (locked: string, seen = new Set<string>()): Set<string> => {
    if (seen.has(locked)) return seen;
    seen.add(locked);
    for (const dependency of benchLock.npm[locked]?.dependencies ?? []) {
      const all = Object.keys(benchLock.npm);
      closure(all.find((key) => key === dependency) ?? all.find((key) => nameOf(key) === dependency) ?? "", seen);
    }
    return seen;
  };
  const own = Object.values(bench.imports).filter((target) => target.startsWith("npm:"))
    .map((target) => nameOf(target.slice("npm:".length)));
  assert(own.includes("vega") && own.includes("vega-lite"), own.join());
  const roots = Object.keys(benchLock.npm).filter((key) => own.includes(nameOf(key)));
  assertEquals(roots.map(nameOf).sort(), own.toSorted());
  const theirs = new Set(roots.flatMap((root) => [...closure(root)]).map(nameOf));
  assert(theirs.size > 50, [...theirs].join());
  assertEquals(Object.keys(lock.npm).map(nameOf).filter((name) => theirs.has(name)), []);
});

Deno.test("deno.bench.json differs from deno.json in its packages only, and each lock holds those of its own", () => {
  const [config, bench] = [read<Config>("deno.json"), read<Config>("deno.bench.json")];
  const { links, compilerOptions, test } = config;
  assertEquals({ links: bench.links, compilerOptions: bench.compilerOptions, test: bench.test }, {
    links,
    compilerOptions,
    test,
  });
  const apart = ({ imports }: Config, others: Config) =>
    Object.fromEntries(Object.entries(imports).filter(([name]) => name in others.imports));
  assertEquals(apart(bench, config), apart(config, bench));
  // A lock also has those that a module names with their version.
  const inline = ["npm:deno-std@1.4.0", "npm:@types/cli-progress@3"];
  for (const [{ imports }, path] of [[config, "deno.lock"], [bench, "deno.bench.lock"]] as const) {
    const locked = Object.keys(read<Lock>(path).specifiers)
      .filter((specifier) => specifier.startsWith("npm:") && !inline.includes(specifier));
    const wanted = Object.values(imports).filter((target) => target.startsWith("npm:"));
    assertEquals(
      locked.map((specifier) => nameOf(specifier.slice(4))).sort(),
      wanted.map((w) => nameOf(w.slice(4))).sort(),
      path,
    );
  }
});
