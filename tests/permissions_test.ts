/** What the library does with the permissions a program has, each case in a process of its own. */

import { assertEquals } from "@std/assert";
import { runDeno } from "./_util.ts";

/** A program that prints one line of JSON for a call: what it threw, or "ok". */
function program(call: string): string {
  return `
    import { engineSupport, TcpConn, TcpListener } from "@c10k/sockets/tcp";
    const asked = [];
    const request = Deno.permissions.request;
    Deno.permissions.request = (d) => (asked.push(d), request.call(Deno.permissions, d));
    try {
      ${call};
      console.log(JSON.stringify(["ok", asked.length]));
    } catch (error) {
      console.log(JSON.stringify([error.name, error.message, error.code ?? null, asked.length]));
    }`;
}

async function outcome(flags: string[], call: string): Promise<unknown> {
  const { code, stdout, stderr } = await runDeno(flags, program(call));
  assertEquals([code, stderr], [0, ""]);
  return JSON.parse(stdout);
}

const listen = (host: string, port: number) => `TcpListener.bind({ hostname: "${host}", port: ${port} }).close()`;
const connect = (host: string, port: number) => `await TcpConn.connect({ hostname: "${host}", port: ${port} })`;
const needs = (action: string, host: string) => [
  "NotCapable",
  `Cannot ${action} ${host}: requires net access to "${host}", run again with the --allow-net flag`,
  null,
  0,
];

for (
  const [flags, call, expected] of [
    [[], listen("127.0.0.1", 0), needs("bind TCP listener to", "127.0.0.1:0")],
    [[], connect("127.0.0.1", 9), needs("connect TCP to", "127.0.0.1:9")],
    [[], "engineSupport()", ["ok", 0]],
    [["--allow-net"], listen("127.0.0.1", 0), ["ok", 0]],
    [["--allow-net=127.0.0.1"], listen("127.0.0.1", 0), ["ok", 0]],
    [["--allow-net=127.0.0.1:0"], listen("127.0.0.1", 0), ["ok", 0]],
    [["--allow-net=127.0.0.1"], listen("::1", 0), needs("bind TCP listener to", "[::1]:0")],
    [["--allow-net=127.0.0.1:9"], listen("127.0.0.1", 8), needs("bind TCP listener to", "127.0.0.1:8")],
    [["--allow-net=127.0.0.1:9"], connect("127.0.0.1", 8), needs("connect TCP to", "127.0.0.1:8")],
    [["--allow-net=localhost:9"], connect("127.0.0.1", 9), needs("connect TCP to", "127.0.0.1:9")],
    [["--allow-net", "--deny-net=127.0.0.1"], connect("127.0.0.1", 9), [
      "NotCapable",
      'Cannot connect TCP to 127.0.0.1:9: requires net access to "127.0.0.1:9", run again with the --allow-net flag',
      null,
      0,
    ]],
  ] as [string[], string, unknown][]
) {
  Deno.test(`permissions [${flags.join(" ")}] ${call}`, async () => {
    const result = await outcome(flags, call);
    // How Deno words a refusal by --deny-net is its own affair; that it refuses is not.
    if (flags.includes("--deny-net=127.0.0.1")) assertEquals((result as unknown[])[0], "NotCapable");
    else assertEquals(result, expected);
  });
}

Deno.test("permissions: an unused import needs none, and asks for none", async () => {
  const { code, stdout, stderr } = await runDeno([], `import "@c10k/sockets"; console.log("loaded");`);
  assertEquals([code, stdout, stderr], [0, "loaded\n", ""]);
});
