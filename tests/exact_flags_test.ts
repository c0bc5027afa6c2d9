/** What the documents and the examples say how to run runs with exactly the flags that they say. */

import { TcpConn } from "@c10k/sockets/tcp";
import { assert, assertEquals, assertGreater } from "@std/assert";
import { type Example, examplesIn } from "../tools/examples.ts";
import { asConsumer } from "./_consumer.ts";
import { Program } from "./_program.ts";
import { decode, ENGINES, isFullSize, ROOT } from "./_util.ts";

const native = ENGINES.includes("native");

function read(path: string): string {
  return Deno.readTextFileSync(new URL(path, ROOT));
}

/** The flags of commands in a text, each as it stands there. */
function commandsIn(text: string): string[][] {
  return [...text.matchAll(/`deno run((?:\s+--[\w=:.,/-]+)*)`/g)].map(([, flags = ""]) => flags.trim().split(/\s+/));
}

/** What the beginning of a document says of snippets that say nothing themselves, native ones last. */
function defaultsOf(path: string): { plain: string[]; native: string[] } {
  const [intro = ""] = read(path).split("\n## ");
  const commands = commandsIn(intro);
  const [plain, ofNative = plain] = commands;
  assert(plain !== undefined && ofNative !== undefined, `${path} says no command`);
  return { plain, native: ofNative };
}

/** The snippets of a document by the flags that it says for them. */
function byFlags(path: string): Map<string, Example[]> {
  const defaults = defaultsOf(path);
  const groups = new Map<string, Example[]>();
  for (const example of examplesIn(path, read(path))) {
    const key = (example.flags ?? (example.isNative ? defaults.native : defaults.plain)).join(" ");
    groups.set(key, [...groups.get(key) ?? [], example]);
  }
  return groups;
}

for (const path of ["docs/four-ways.md", "docs/recipes.md"]) {
  Deno.test({
    name: `${path}: every snippet runs in a linked project with the flags that the document says`,
    ignore: !native || !isFullSize,
    fn: (t) =>
      asConsumer(async (folder) => {
        const groups = byFlags(path);
        assertGreater(groups.size, 2);
        for (const [flags, examples] of groups) {
          const files = examples.map(({ line, title, code }) => {
            Deno.writeTextFileSync(`${folder}/line_${line}.ts`, `${code}\nexport {};\n`);
            return `console.error(${JSON.stringify(`${path}:${line} ${title}`)}); await import("./line_${line}.ts");\n`;
          });
          await Deno.writeTextFile(`${folder}/main.ts`, files.join(""));
          await t.step(`${flags}: ${examples.map(({ line }) => line)}`, async () => {
            const { code, stderr } = await new Deno.Command(Deno.execPath(), {
              args: ["run", "--no-prompt", "--quiet", ...flags.split(" "), "main.ts"],
              cwd: folder,
              env: { NO_COLOR: "1" },
              stdin: "null",
              stdout: "null",
            }).output();
            assertEquals(code, 0, decode(stderr));
          });
        }
      }),
  });
}

/** The commands in the first comment of each example. */
function commandsOfExamples(): { example: string; args: string[] }[] {
  return [...Deno.readDirSync(new URL("examples/", ROOT))].filter(({ isFile }) => isFile).flatMap(({ name }) => {
    const [head = ""] = read(`examples/${name}`).split("*/");
    return [...head.matchAll(/^ \* {5}deno run (.*)$/gm)].map(([, command = ""]) => {
      const [args = ""] = command.split(/ +#| > /);
      return { example: name, args: args.split(" ") };
    });
  });
}

const ECHOES = /^(echo|mux_echo|workers|processes|inetd)\.ts$/;

async function echo(port: number): Promise<string> {
  using conn = await TcpConn.connect({ port });
  await conn.writeAll(new TextEncoder().encode("hello\n"));
  await conn.closeWrite();
  return await new Response(conn.readable).text();
}

Deno.test({
  name: "examples: every command in the first lines of an example runs as it stands there",
  ignore: !native || !isFullSize,
  async fn(t) {
    const commands = commandsOfExamples().filter(({ example }) => example !== "four_ways.ts");
    assertGreater(commands.length, 14);
    for (const { example, args } of commands) {
      // A port of its own; nothing else is changed.
      const own = args.map((arg, i) => args[i - 1] === "--port" || arg === "8080" ? "0" : arg);
      const at = own.indexOf("--") < 0 ? own.length : own.indexOf("--");
      if (!own.includes("--port") && example !== "nc.ts") own.splice(at, 0, "--port", "0");
      await t.step(args.join(" "), async () => {
        await using program = new Program(Deno.execPath(), ["run", "--no-prompt", "--quiet", ...own]);
        if (own.includes("-zv")) return assertEquals(await program.ended() < 2, true, program.stderr);
        const [, port] = await program.until(/listening on .*[: ](\d+)/);
        if (example === "nc.ts") return;
        // What serves a connection may need more than what accepts it.
        if (ECHOES.test(example) && !own.includes("udp")) assertEquals(await echo(Number(port)), "hello\n");
        assertEquals(await program.stop("SIGTERM"), 0, program.stderr);
        assertEquals(/NotCapable|requires/i.test(program.stderr), false, program.stderr);
      });
    }
  },
});
