/** No string reaches the kernel that is not the one that was checked: zeros and lone surrogates. */

import {
  Pool,
  type PoolOptions,
  type ProcessOptions,
  spawnFor,
  spawnProcess,
  spawnWorker,
} from "@c10k/sockets/process";
import { type Engine, TcpConn, TcpListener, TcpSocket } from "@c10k/sockets/tcp";
import { DatagramBatch, UdpEndpoint } from "@c10k/sockets/udp";
import { assertEquals, assertMatch } from "@std/assert";
import { cString, isText } from "../internal/c_string.ts";
import { engineTest, Pair } from "./_util.ts";

/** A text that is used up to its zero, or with another character than was checked. */
const BAD = [
  "\0",
  "a\0",
  "\0b",
  "127.0.0.1\0",
  "localhost\0.example",
  "lo\0",
  "cat\0x",
  "\ud800",
  "a\udc00b",
  "lo\udfff",
];

const HOSTS: Record<string, (hostname: string, engine: Engine) => unknown> = {
  "TcpListener.bind": (hostname, engine) => TcpListener.bind({ hostname, port: 0, engine }),
  "TcpConn.connect": (hostname, engine) => TcpConn.connect({ hostname, port: 9, engine }),
  "TcpConn.connect from": (localAddress, engine) => TcpConn.connect({ port: 9, localAddress, engine }),
  "UdpEndpoint.bind": (hostname, engine) => UdpEndpoint.bind({ hostname, engine }),
};

const UDP: Record<string, (endpoint: UdpEndpoint, text: string) => unknown> = {
  sendTo: (endpoint, hostname) => endpoint.sendTo(new Uint8Array(1), { hostname, port: 9 }),
  trySendTo: (endpoint, hostname) => endpoint.trySendTo(new Uint8Array(1), { hostname, port: 9 }),
  connect: (endpoint, hostname) => endpoint.connect({ hostname, port: 9 }),
  "a batch": (_, hostname) => new DatagramBatch().set(0, new Uint8Array(1), { hostname, port: 9 }),
  "joinMulticast, a group": (endpoint, group) => endpoint.joinMulticast({ group }),
  "joinMulticast, an interface": (endpoint, name) => endpoint.joinMulticast({ group: "239.1.2.3", interface: name }),
  "joinMulticast, a source": (endpoint, source) => endpoint.joinMulticast({ group: "239.1.2.3", source }),
  setMulticastInterface: (endpoint, name) => endpoint.setMulticastInterface(name),
};

type Options = Record<string, unknown>;

const PROCESS: Record<string, (text: string) => unknown> = {
  args: (text) => spawnProcess("data:,", { args: [text] }),
  flags: (text) => spawnProcess("data:,", { flags: [`--cert=${text}`] }),
  module: (text) => spawnProcess(`./${text}`),
  cwd: (text) => spawnProcess("data:,", { cwd: text }),
  "a variable": (text) => spawnProcess("data:,", { env: { A: text } }),
  "a variable's name": (text) => spawnProcess("data:,", { env: { [text]: "1" } }),
  ...Object.fromEntries(
    ["env", "ffi", "import", "net", "read", "run", "sys", "write"].map((kind) => [
      `permissions.${kind}`,
      (text: string) => spawnProcess("data:,", { permissions: { [kind]: [text] } } as ProcessOptions),
    ]),
  ),
  control: (text) =>
    Pool.start({ kind: "worker", module: "data:,", listen: { port: 0 }, control: `/tmp/${text}` } as PoolOptions),
};

const PROGRAM: Record<string, (text: string) => [command: string, options: Options]> = {
  command: (text) => [text, {}],
  "a path": (text) => [`/bin/${text}`, {}],
  args: (text) => ["cat", { args: [text] }],
  cwd: (text) => ["cat", { cwd: `/${text}` }],
  "a variable": (text) => ["cat", { env: { A: text } }],
  "a variable's name": (text) => ["cat", { env: { [text]: "1" } }],
};

/** What a call comes to, which must throw: the class of its error. */
async function refusal(call: () => unknown): Promise<string> {
  try {
    await call();
    return "nothing";
  } catch (error) {
    return (error as Error).name;
  }
}

/** Collects what was not refused with a TypeError. */
async function accepted(calls: Record<string, (text: string) => unknown>): Promise<string[]> {
  const found: string[] = [];
  for (const [name, call] of Object.entries(calls)) {
    for (const text of BAD) {
      const answer = await refusal(() => call(text));
      if (answer !== "TypeError") found.push(`${name} ${JSON.stringify(text)}: ${answer}`);
    }
  }
  return found;
}

engineTest("host names, zones and interfaces with a zero or a lone surrogate are refused", async (engine) => {
  const calls: Record<string, (text: string) => unknown> = {};
  for (const [name, call] of Object.entries(HOSTS)) {
    calls[name] = (text) => call(text, engine);
    calls[`${name}, a zone`] = (text) => call(`fe80::1%${text}`, engine);
  }
  assertEquals(await accepted(calls), []);
  using endpoint = UdpEndpoint.bind({ hostname: "127.0.0.1", engine });
  const udp = Object.entries(UDP).map(([name, call]) => [name, (text: string) => call(endpoint, text)] as const);
  assertEquals(await accepted(Object.fromEntries(udp)), []);
  using pair = await Pair.open(engine);
  const native: Record<string, (text: string) => unknown> = {
    setCongestion: (text) => pair.client.setCongestion(`reno${text}`),
    "TcpSocket.bind": (hostname) => {
      using socket = TcpSocket.open("IPv4");
      socket.bind({ hostname, port: 0 });
    },
  };
  if (engine === "native") {
    assertEquals(await accepted(native), []);
    // Nor is one taken that the kernel would cut to a name that there is.
    assertEquals(await refusal(() => pair.client.setCongestion("reno".padEnd(16, "x"))), "NotFound");
  }
});

engineTest(
  "spawnFor() refuses commands, arguments, variables and folders with a zero or a lone surrogate",
  async (engine) => {
    using pair = await Pair.open(engine);
    const calls = Object.entries(PROGRAM).map(([name, options]) =>
      [
        name,
        (text: string) => spawnFor(pair.server, ...options(text)),
      ] as const
    );
    assertEquals(await accepted(Object.fromEntries(calls)), []);
  },
);

Deno.test({
  name:
    "spawnProcess() and Pool refuse arguments, variables, folders, permissions and paths with a zero or a lone surrogate",
  ignore: Deno.build.os !== "linux",
  fn: async () => assertEquals(await accepted(PROCESS), []),
});

Deno.test("spawnProcess() and spawnWorker() refuse the URL of a file with a zero in its path", async () => {
  for (const module of [new URL("file:///tmp/x%00.ts"), "file:///tmp/x%00.ts"]) {
    for (const spawn of [spawnProcess, spawnWorker]) assertMatch(await refusal(() => spawn(module)), /TypeError/);
  }
});

Deno.test("cString() ends with the only zero that it has", async () => {
  assertEquals([...cString("é")], [0xc3, 0xa9, 0]);
  for (const text of BAD) {
    assertEquals(isText(text), false);
    assertMatch(await refusal(() => cString(text)), /TypeError/);
  }
  assertEquals([isText(""), isText("😀"), isText(1)], [true, true, false]);
});
