/**
 * `docs/engines.md`: the flags that it states for common programs are enough, in a project that links a clone as README
 * says, and none of them is too much.
 */

import { TcpListener } from "@c10k/sockets/tcp";
import { assertEquals, assertMatch, assertNotEquals } from "@std/assert";
import { asConsumer } from "./_consumer.ts";
import { decode, ENGINES, type Finished, isFullSize, ROOT } from "./_util.ts";

const native = ENGINES.includes("native");

/** What stands for an address or a path of the reader's machine, and what it is here. */
interface Here {
  readonly port: number;
  /** A server that takes connections and datagrams. */
  readonly peer: number;
}

const IMPORTS = `
  import { Multiplexer } from "jsr:@c10k/sockets/mux";
  import { listenFds, Pool, spawnFor } from "jsr:@c10k/sockets/process";
  import { TcpConn, TcpListener } from "jsr:@c10k/sockets/tcp";
  import { UdpEndpoint } from "jsr:@c10k/sockets/udp";
`;

/** The programs of the table, by their first column: each ends by itself, and fails where it is not permitted. */
const PROGRAMS: Readonly<Record<string, (here: Here) => string>> = {
  "a TCP server on one address": ({ port }) => `
    using listener = TcpListener.bind({ hostname: "127.0.0.1", port: ${port} });`,
  "the same, native": ({ port }) => `
    using listener = TcpListener.bind({ hostname: "127.0.0.1", port: ${port}, engine: "native" });`,
  "a UDP server that answers clients of this machine": ({ port, peer }) => `
    using endpoint = UdpEndpoint.bind({ hostname: "127.0.0.1", port: ${port} });
    await endpoint.sendTo(new Uint8Array(1), { hostname: "127.0.0.1", port: ${peer} });`,
  "a UDP server that answers anybody": ({ port, peer }) => `
    using endpoint = UdpEndpoint.bind({ hostname: "0.0.0.0", port: ${port} });
    await endpoint.sendTo(new Uint8Array(1), { hostname: "127.0.0.1", port: ${peer} });`,
  "a client of one server": ({ peer }) => `using conn = await TcpConn.connect({ port: ${peer} });`,
  "a UDP client, from any port": ({ peer }) => `
    using endpoint = UdpEndpoint.bind({ hostname: "0.0.0.0" });
    await endpoint.sendTo(new Uint8Array(1), { hostname: "127.0.0.1", port: ${peer} });`,
  "a server with `Multiplexer`, on any backend": ({ port }) => `
    using listener = TcpListener.bind({ hostname: "127.0.0.1", port: ${port} });
    for (const backend of ["epoll", "poll", "select"]) {
      using mux = new Multiplexer({ backend });
      mux.register(listener, { readable: true });
    }`,
  "a pool of threads": ({ port }) => `
    const module = new URL("./child.ts", import.meta.url);
    await using pool = await Pool.start({ kind: "worker", module, size: 1, listen: { hostname: "127.0.0.1", port: ${port} } });`,
  "a pool of processes": ({ port }) => `
    const module = new URL("./child.ts", import.meta.url);
    await using pool = await Pool.start({ kind: "process", module, size: 1, listen: { hostname: "127.0.0.1", port: ${port} } });`,
  "a program per connection, such as `cat`": ({ port }) => `
    using listener = TcpListener.bind({ hostname: "127.0.0.1", port: ${port} });
    const [server, client] = await Promise.all([listener.accept(), TcpConn.connect({ port: ${port} })]);
    client.close();
    await spawnFor(server, "cat").closed;`,
  "started by systemd, port and all": () => `if (listenFds().length !== 0) throw new Error("by systemd?");`,
};

/** The rows of the table: what a program is, and the flags it is said to need. */
const ROWS = [
  ...Deno.readTextFileSync(new URL("docs/engines.md", ROOT)).matchAll(/^\| ([^|]+?) +\| `(--allow[^|]*)` +\|$/gm),
]
  .map(([, program = "", flags = ""]) => ({ program, flags: flags.split(/ (?=--)/) }));

async function withAddresses(fn: (here: Here) => Promise<void>): Promise<void> {
  using peer = TcpListener.bind({ hostname: "127.0.0.1", port: 0, engine: "runtime" });
  const free = TcpListener.bind({ hostname: "127.0.0.1", port: 0, engine: "runtime" });
  const here = { port: free.addr.port, peer: peer.addr.port };
  free.close();
  await fn(here);
}

/** A flag with the reader's addresses and paths replaced by those of this machine. */
function localized(flag: string, { port, peer }: Here): string {
  return flag.replace("127.0.0.1:8080", `127.0.0.1:${port}`)
    .replace(/example\.org:80|192\.0\.2\.1:53/, `127.0.0.1:${peer}`)
    .replace("x86_64", Deno.build.arch)
    .replace("<path of deno>", Deno.execPath());
}

/** README's child of a pool. */
const CHILD = `
  import { serve } from "jsr:@c10k/sockets/process";
  await serve((conn) => conn.readable.pipeTo(conn.writable));
`;

async function runIn(folder: string, flags: string[], file: string): Promise<Finished> {
  const args = ["run", "--no-prompt", "--quiet", ...flags, file];
  const options = { args, cwd: folder, env: { NO_COLOR: "1" }, stdin: "null" } as const;
  const { code, stdout, stderr } = await new Deno.Command(Deno.execPath(), options).output();
  return { code, stdout: decode(stdout), stderr: decode(stderr) };
}

Deno.test("docs/engines.md states the flags of programs that are tried here", () => {
  assertEquals(ROWS.map(({ program }) => program).toSorted(), Object.keys(PROGRAMS).toSorted());
});

Deno.test({
  name: "docs/engines.md: programs run with the flags that it states, and with no less",
  ignore: !native || !isFullSize,
  fn: (t) =>
    asConsumer(async (folder) => {
      await Deno.writeTextFile(`${folder}/child.ts`, CHILD);
      for (const { program, flags } of ROWS) {
        await t.step(`${program}: ${flags.join(" ")}`, () =>
          withAddresses(async (here) => {
            await Deno.writeTextFile(`${folder}/main.ts`, IMPORTS + PROGRAMS[program]?.(here));
            const given = flags.map((flag) => localized(flag, here));
            const { code, stderr } = await runIn(folder, given, "main.ts");
            assertEquals(code, 0, stderr);
            await Promise.all(given.map(async (flag) => {
              const less = await runIn(folder, given.filter((other) => other !== flag), "main.ts");
              assertNotEquals(less.code, 0, `without ${flag}`);
              assertMatch(less.stderr, /NotCapable|NotSupported|[Rr]equires/);
            }));
          }));
      }
    }),
});
