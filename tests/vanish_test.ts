/** Peers that vanish: their packets are dropped, and nobody says so. */

import { assert, assertEquals, assertLess, assertMatch } from "@std/assert";
import { namespaceTest } from "./_namespace.ts";

/** A connection to the other host, whose cable is cut once it stands. */
const CUT_OFF = (afterwards: string) => `
  import { TcpConn } from "@c10k/sockets/tcp";
  const server = new Deno.Command("ip", {
    args: ["netns", "exec", "peer", Deno.execPath(), "eval", \`
      using listener = Deno.listen({ port: 9000 });
      console.log("listening");
      const conn = await listener.accept();
      await conn.read(new Uint8Array(1));\`],
    stdout: "piped",
  }).spawn();
  const reader = server.stdout.getReader();
  await reader.read();
  const conn = await TcpConn.connect({ hostname: "10.9.0.2", port: 9000, engine: "native" });
  await new Deno.Command("ip", { args: ["-n", "peer", "link", "set", "vb", "down"] }).output();
  const start = performance.now();
  ${afterwards}
  const error = await conn.read(new Uint8Array(1)).catch((error) => error);
  console.log(error?.name, error?.code, Math.round(performance.now() - start));
  conn.close();
  await reader.cancel();
  server.kill("SIGKILL");
  await server.status;`;

function outcome(stdout: string): { name: string; milliseconds: number } {
  const [, name, milliseconds] = /^(\w+) \w+ (\d+)\n$/.exec(stdout) ?? [];
  assert(name !== undefined, stdout);
  return { name, milliseconds: Number(milliseconds) };
}

namespaceTest("TcpConn.setKeepAlive() notices an idle peer that has vanished", async ({ run }) => {
  const { code, stdout, stderr } = await run(CUT_OFF(`conn.setKeepAlive({ idle: 1, interval: 1, count: 2 });`));
  assertEquals([code, stderr], [0, ""]);
  const { name, milliseconds } = outcome(stdout);
  assertMatch(name, /TimedOut|NetworkUnreachable|HostUnreachable/);
  assertLess(milliseconds, 6_000);
});

namespaceTest("TCP_USER_TIMEOUT notices a vanished peer that owes acknowledgements", async ({ run }) => {
  const { code, stdout, stderr } = await run(
    CUT_OFF(`
      conn.setOption("TCP_USER_TIMEOUT", 500);
      await conn.writeAll(new Uint8Array(100));`),
  );
  assertEquals([code, stderr], [0, ""]);
  const { name, milliseconds } = outcome(stdout);
  assertMatch(name, /TimedOut|NetworkUnreachable|HostUnreachable/);
  assertLess(milliseconds, 5_000);
});

const TWO_FAMILIES = (hosts: string) => `
  printf '${hosts}' > /run/hosts
  mount --bind /run/hosts /etc/hosts
  "$@"`;

const CONNECT = `
  import { TcpConn, TcpListener } from "@c10k/sockets/tcp";
  using listener = TcpListener.bind({ hostname: "::", port: 9000 });
  const start = performance.now();
  const timeout = 8_000;
  using conn = await TcpConn.connect({ hostname: "both.test", port: 9000, engine: "native", timeout });
  console.log(conn.remoteAddr.hostname, Math.round(performance.now() - start));`;

for (
  const [hanging, hosts, answer] of [
    ["IPv6", "fd09::3 both.test\\n10.9.0.1 both.test\\n", "10.9.0.1"],
    ["IPv4", "10.9.0.3 both.test\\nfd09::1 both.test\\n", "fd09::1"],
  ] as const
) {
  namespaceTest(`TcpConn.connect() reaches a name whose ${hanging} address never answers`, async ({ run }) => {
    const { code, stdout, stderr } = await run(CONNECT, TWO_FAMILIES(hosts));
    assertEquals([code, stderr], [0, ""]);
    const [address, milliseconds] = stdout.trim().split(" ");
    assertEquals(address, answer);
    // RFC 8305, section 5: the next address is tried after 250 ms, without giving up the first.
    assertLess(Number(milliseconds), 2_000);
  });
}

namespaceTest("TcpConn.connect() gives up after its timeout when nobody answers", async ({ run }) => {
  const { stdout, stderr } = await run(`
    import { TcpConn } from "@c10k/sockets/tcp";
    for (const engine of ["native", "runtime"] as const) {
      const start = performance.now();
      const error = await TcpConn.connect({ hostname: "10.9.0.3", port: 9000, engine, timeout: 300 }).catch((e) => e);
      console.log(error.name, performance.now() - start < 2_000);
    }`);
  assertEquals([stdout, stderr], ["TimedOut true\nTimedOut true\n", ""]);
});
