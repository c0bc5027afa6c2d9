/** The examples of threads and processes, with clients that nobody here wrote; example:inetd is with spawnFor(). */

import { assertEquals, assertMatch } from "@std/assert";
import { withoutOrphans } from "./_process.ts";
import { clientTest, decode, encode, ENGINES, eventually, ServerProcess, some } from "./_util.ts";

const NATIVE = ENGINES.includes("native");

/** What nc prints after it has sent a text. */
async function nc(port: number, text: string): Promise<string> {
  const client = new Deno.Command("nc", { args: ["-N", "127.0.0.1", `${port}`], stdin: "piped", stdout: "piped" })
    .spawn();
  const writer = client.stdin.getWriter();
  await writer.write(encode(text));
  await writer.close();
  return decode((await client.output()).stdout);
}

for (
  const [example, engine, flags, says] of some(
    2,
    [
      ["workers", "runtime", ["--allow-net", "--allow-read"], /2 threads, engine runtime/],
      ["workers", "native", ["--allow-net", "--allow-read", "--allow-ffi"], /2 threads, engine native/],
      ["processes", "native", ["--allow-net", "--allow-read", "--allow-ffi", "--allow-run"], /processes \d+, \d+/],
    ] as const,
  )
) {
  if (engine === "native" && !NATIVE) continue;
  clientTest(["nc"], `[${engine}] example:${example} echoes, and ends with SIGTERM`, () =>
    withoutOrphans(async () => {
      const size = example === "workers" ? "--threads" : "--size";
      await using server = await ServerProcess.start([...flags, `examples/${example}.ts`, "--port", "0", size, "2"]);
      const texts = Array.from({ length: 6 }, (_, i) => `number ${i}`);
      assertEquals(await Promise.all(texts.map((text) => nc(server.port, text))), texts);
      await eventually(() => /try it: nc 127/.test(server.stdout.join("")) ? true : undefined);
      assertMatch(server.stdout.join(""), says);
      assertEquals(await server.stop(), 0);
      assertEquals(server.stderr, []);
    }));

  Deno.test(`[${engine}] example:${example} refuses wrong arguments in one line`, async () => {
    const { code, stderr } = await new Deno.Command(Deno.execPath(), {
      args: ["run", "--quiet", "--no-prompt", ...flags, `examples/${example}.ts`, "--port", "x"],
      cwd: new URL("../", import.meta.url),
      env: { NO_COLOR: "1" },
    }).output();
    assertEquals(code, 2);
    assertMatch(decode(stderr), /^--port takes a number, not "x"\. Usage: /);
  });
}
