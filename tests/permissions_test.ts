/** What the library does with the permissions a program has, each case in a process of its own. */

import { assertEquals, assertMatch, assertStringIncludes } from "@std/assert";
import { ENGINES, runDeno, some } from "./_util.ts";

/** A program that prints one line of JSON for a call: what it threw, or "ok". */
function program(call: string): string {
  return `
    import { engineSupport, TcpConn, TcpListener, TcpSocket } from "@c10k/sockets/tcp";
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
  const [flags, call, expected] of some(5, [
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
  ] as [string[], string, unknown][])
) {
  Deno.test(`permissions [${flags.join(" ")}] ${call}`, async () => {
    const result = await outcome(flags, call);
    // How Deno words a refusal by --deny-net is its own affair; that it refuses is not.
    if (flags.includes("--deny-net=127.0.0.1")) assertEquals((result as unknown[])[0], "NotCapable");
    else assertEquals(result, expected);
  });
}

for (const transport of [[], ["--unstable-net"]]) {
  const flags = ["--allow-net=127.0.0.1:0", ...transport];
  // node:dgram tells of it as an unknown error.
  Deno.test(`permissions [${flags.join(" ")}] a datagram to where none may be sent is refused`, async () => {
    const call = `
      const { UdpEndpoint } = await import("@c10k/sockets/udp");
      using endpoint = UdpEndpoint.bind({ hostname: "127.0.0.1" });
      await endpoint.sendTo(new Uint8Array(1), { hostname: "127.0.0.1", port: 9 })`;
    const [name, message] = await outcome(flags, call) as string[];
    assertEquals(name, "NotCapable");
    assertMatch(message ?? "", /^Cannot send on UDP endpoint 127\.0\.0\.1:\d+ to 127\.0\.0\.1:9: requires net access/);
  });
}

Deno.test("permissions: an unused import needs none, and asks for none", async () => {
  const { code, stdout, stderr } = await runDeno([], `import "@c10k/sockets"; console.log("loaded");`);
  assertEquals([code, stdout, stderr], [0, "loaded\n", ""]);
});

// --- the native engine: foreign calls go around --allow-net, the library does not

const native = ENGINES.includes("native");
const FFI = "--allow-ffi";
const local = (call: string, engine: string) => call.replaceAll(" })", `, engine: "${engine}" })`);
const connectFrom = (localAddress: string | undefined, localPort: number) =>
  `await TcpConn.connect({ port: 9, localPort: ${localPort}, localAddress: ${JSON.stringify(localAddress)} })`;
const socketBind = (host: string, port: number) =>
  `using s = TcpSocket.open("IPv4"); s.bind({ hostname: "${host}", port: ${port} })`;
const socketConnect = (host: string, port: number) =>
  `using s = TcpSocket.open("IPv4"); await s.connect({ hostname: "${host}", port: ${port} })`;

for (
  const [flags, call, expected] of some(8, [
    [[FFI], listen("127.0.0.1", 0), needs("bind TCP listener to", "127.0.0.1:0")],
    [[FFI], listen("localhost", 0), needs("bind TCP listener to", "localhost:0")],
    [[FFI], connect("127.0.0.1", 9), needs("connect TCP to", "127.0.0.1:9")],
    [[FFI], connect("localhost", 9), needs("connect TCP to", "localhost:9")],
    [[FFI], socketBind("127.0.0.1", 0), needs("bind TCP socket to", "127.0.0.1:0")],
    [[FFI], socketConnect("127.0.0.1", 9), needs("connect TCP to", "127.0.0.1:9")],
    [[FFI], `using s = TcpSocket.open("IPv4"); s.listen()`, [
      "NotCapable",
      'Cannot listen on TCP socket: requires net access to "0.0.0.0:0", run again with the --allow-net flag',
      null,
      0,
    ]],
    [[FFI, "--allow-net=127.0.0.1:9"], listen("127.0.0.1", 8), needs("bind TCP listener to", "127.0.0.1:8")],
    [[FFI, "--allow-net=127.0.0.1"], listen("::1", 0), needs("bind TCP listener to", "[::1]:0")],
    [[FFI, "--allow-net=127.0.0.1"], listen("0.0.0.0", 0), needs("bind TCP listener to", "0.0.0.0:0")],
    [[FFI, "--allow-net=127.0.0.1:9"], connect("127.0.0.1", 8), needs("connect TCP to", "127.0.0.1:8")],
    // To Deno a v4-mapped address is the IPv4 address.
    [[FFI, "--allow-net=127.0.0.1"], connect("::ffff:127.0.0.1", 9), "ConnectionRefused"],
    [[FFI, "--allow-net", "--deny-net=127.0.0.1"], connect("::ffff:127.0.0.1", 9), "NotCapable"],
    [[FFI, "--allow-net=localhost"], connect("127.0.0.1", 9), needs("connect TCP to", "127.0.0.1:9")],
    [[FFI, "--allow-net=127.0.0.1"], connect("localhost", 9), needs("connect TCP to", "localhost:9")],
    // By name, to a port of it alone; refused by the kernel, not by us.
    [[FFI, "--allow-net=localhost:9"], connect("localhost", 9), [
      "ConnectionRefused",
      "Cannot connect TCP to localhost:9: connection refused (ECONNREFUSED)",
      "ECONNREFUSED",
      0,
    ]],
    [[FFI, "--allow-net=localhost:9"], connect("localhost", 8), needs("connect TCP to", "localhost:8")],
    // A permitted name, in any of its spellings, does not lead to an address that is denied.
    [[FFI, "--allow-net", "--deny-net=127.0.0.1"], connect("127.0.0.1", 9), "NotCapable"],
    [[FFI, "--allow-net", "--deny-net=127.0.0.1"], connect("localhost", 9), "NotCapable"],
    [[FFI, "--allow-net", "--deny-net=127.0.0.1"], connect("127.1", 9), "NotCapable"],
    [[FFI, "--allow-net", "--deny-net=127.0.0.1"], connect("0x7f000001", 9), "NotCapable"],
    [[FFI, "--allow-net", "--deny-net=127.0.0.1"], listen("localhost", 0), "NotCapable"],
    [[FFI, "--allow-net", "--deny-net=127.0.0.1"], socketConnect("localhost", 9), "NotCapable"],
    // Nor does a connection come from one.
    [[FFI, "--allow-net", "--deny-net=127.0.0.5"], connectFrom("127.0.0.5", 0), "NotCapable"],
    [[FFI, "--allow-net", "--deny-net=127.0.0.5"], connectFrom("127.5", 0), "NotCapable"],
    [[FFI, "--allow-net", "--deny-net=0.0.0.0:4567"], connectFrom(undefined, 4567), "NotCapable"],
    [[FFI, "--allow-net=127.0.0.1:9"], connectFrom("127.0.0.1", 0), needs("connect TCP from", "127.0.0.1:0")],
    [[FFI, "--allow-net"], listen("127.0.0.1", 0), ["ok", 0]],
    [[FFI, "--allow-net=127.0.0.1:0"], listen("127.0.0.1", 0), ["ok", 0]],
    [[FFI, "--allow-net=localhost"], listen("localhost", 0), ["ok", 0]],
  ] as [string[], string, unknown][])
) {
  const name = `permissions [native] [${flags.join(" ")}] ${call}`;
  Deno.test({ name, ignore: !native }, async () => {
    const result = await outcome(flags, local(call, "native"));
    if (typeof expected === "string") assertEquals((result as unknown[])[0], expected);
    else assertEquals(result, expected);
  });
}

Deno.test({ name: "permissions [native] a grant for the C library's path is enough", ignore: !native }, async () => {
  const path = ["/lib/x86_64-linux-gnu/libc.so.6", "/lib/aarch64-linux-gnu/libc.so.6", "/lib64/libc.so.6"]
    .find((path) => {
      try {
        return Deno.statSync(path).isFile;
      } catch {
        return false;
      }
    });
  const call = `
    const listener = TcpListener.bind({ hostname: "localhost", port: 0 });
    if (listener.engine !== "native") throw new Error(engineSupport().reason);
    const conn = await TcpConn.connect({ hostname: "localhost", port: listener.addr.port });
    const server = await listener.accept();
    await conn.writeAll(new Uint8Array(3));
    if (await server.read(new Uint8Array(9)) !== 3) throw new Error("not read");
    conn.info(); server.getOption("SO_RCVBUF"); server.getCongestion();
    try { server.setOption("TCP_MAXSEG", 1); } catch (error) { if (error.code !== "EINVAL") throw error; }
    conn.close(); server.close(); listener.close()`;
  assertEquals(await outcome(["--allow-net", `--allow-ffi=${path}`], call), ["ok", 0]);
});

Deno.test(
  { name: "permissions [native] a grant for a C library that is not there says so", ignore: !native },
  async () => {
    const path = ["/usr/lib/libc.so.6", "/lib/libc.so.6", "/usr/lib64/libc.so.6"].find((path) => {
      try {
        return !Deno.statSync(path);
      } catch {
        return true;
      }
    });
    const source = `
    import { engineSupport, TcpSocket } from "@c10k/sockets/tcp";
    const { engine, reason } = engineSupport();
    console.log(engine, reason);
    try { TcpSocket.open("IPv4"); } catch (error) { console.log(error.name, error.message.endsWith(reason)); }`;
    const { code, stdout, stderr } = await runDeno([`--allow-ffi=${path}`], source);
    assertEquals([code, stderr], [0, ""]);
    assertMatch(stdout, /^runtime the C library cannot be opened \(.*libc\.so\.6.*\)\nNotSupported true\n$/);
  },
);

for (const engine of ENGINES) {
  // Neither an empty label nor a letter beyond ASCII can stand in a grant; how Deno words that is its own affair.
  for (const host of ["a..b", "ä.example"]) {
    Deno.test(`permissions [${engine}] a name that no grant can have is refused in our words: ${host}`, async () => {
      for (const [call, action] of [[connect, "connect TCP to"], [listen, "bind TCP listener to"]] as const) {
        const result = await outcome([FFI, "--allow-net=localhost"], local(call(host, 9), engine));
        const [name, message] = result as [string, string];
        assertEquals(name, "URIError");
        assertStringIncludes(message, `Cannot ${action} ${host}:9: invalid host '${host}'`);
      }
    });
  }
}

Deno.test("permissions: with --allow-net alone FFI is never touched, and never asked for", async () => {
  const source = `
    for (const name of ["dlopen"]) {
      Object.defineProperty(Deno, name, { value: () => { throw new Error("touched FFI"); } });
    }
    const { engineSupport, TcpConn, TcpListener, TcpSocket } = await import("@c10k/sockets");
    const { request, requestSync } = Deno.permissions;
    Deno.permissions.request = Deno.permissions.requestSync = () => { throw new Error("asked"); };
    using listener = TcpListener.bind({ hostname: "127.0.0.1", port: 0 });
    using conn = await TcpConn.connect({ port: listener.addr.port });
    using server = await listener.accept();
    try { TcpSocket.open("IPv4"); } catch (error) { console.log(error.message); }
    try { TcpConn.fromFd(3); } catch (error) { console.log(error.message); }
    console.log(listener.engine, conn.engine, server.engine, engineSupport().reason);`;
  const { code, stdout, stderr } = await runDeno(["--allow-net"], source);
  assertEquals([code, stderr], [0, ""]);
  if (!native) return;
  assertEquals(
    stdout,
    "Cannot open TCP socket on the native engine: run with --allow-ffi\n" +
      "Cannot take over a descriptor on the native engine: run with --allow-ffi\n" +
      "runtime runtime runtime run with --allow-ffi\n",
  );
});

Deno.test({ name: "permissions [native] what was revoked is gone", ignore: !native }, async () => {
  const call = `
    TcpListener.bind({ hostname: "127.0.0.1", port: 0 }).close();
    Deno.permissions.revokeSync({ name: "ffi" });
    const listener = TcpListener.bind({ hostname: "127.0.0.1", port: 0 });
    if (listener.engine !== "runtime") throw new Error("still native");
    listener.close();
    Deno.permissions.revokeSync({ name: "net" });
    TcpListener.bind({ hostname: "127.0.0.1", port: 0 })`;
  assertEquals(await outcome([FFI, "--allow-net"], call), needs("bind TCP listener to", "127.0.0.1:0"));
});
