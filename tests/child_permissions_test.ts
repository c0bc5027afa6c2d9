/** What a child may do: at most what its parent may. */

import { spawnProcess } from "@c10k/sockets/process";
import { assertEquals, assertMatch, assertThrows } from "@std/assert";
import { moduleOf, NATIVE, next, oneKindTest, spawn, withoutOrphans } from "./_process.ts";
import { runDeno } from "./_util.ts";

/** Tells what it may do, by its exit code if it cannot talk: 64, and one bit for each permission. */
const ASKS_ITSELF = `
  const names = ["env", "ffi", "import", "net", "read", "run", "sys", "write"];
  const states = {};
  for (const name of names) {
    const { state, partial } = Deno.permissions.querySync({ name });
    states[name] = partial ? "partial" : state;
  }
  const net = (host) => Deno.permissions.querySync({ name: "net", host }).state;
  states.hosts = [net("127.0.0.1:9"), net("127.0.0.1:8")];
`;

const GRANTED = ["env", "ffi", "net", "read", "run", "sys", "write"];

/** What the child of a program with these flags is granted. */
async function grantedIn(flags: string[], spawn: string, permissions: string): Promise<unknown> {
  const module = moduleOf(`${ASKS_ITSELF}; await parent().send(states);`);
  const { code, stdout, stderr } = await runDeno(
    flags,
    `
    import { spawnProcess, spawnWorker } from "@c10k/sockets/process";
    try {
      const child = ${spawn}(${JSON.stringify(module)}, { permissions: ${permissions} });
      const { value } = await child.messages().next();
      child.kill();
      await child.closed;
      console.log(JSON.stringify(value.message));
    } catch (error) {
      console.log(JSON.stringify([error.name, error.message]));
    }`,
  );
  assertEquals([code, stderr], [0, ""]);
  const result = JSON.parse(stdout);
  if (Array.isArray(result)) return result;
  const { hosts, ...states } = result;
  return {
    granted: Object.keys(states).filter((name) => states[name] === "granted" && name !== "import"),
    partial: Object.keys(states).filter((name) => states[name] === "partial" && name !== "import"),
    hosts,
  };
}

oneKindTest("process", "permissions: a relative path is the parent's, wherever the child's folder is", async (kind) => {
  const module = moduleOf(`
    const state = (path) => Deno.permissions.querySync({ name: "read", path }).state;
    await parent().send([state(${JSON.stringify(Deno.cwd())} + "/tests"), state("tests")]);
  `);
  await using child = spawn(kind, module, { permissions: { ffi: "inherit", read: ["tests"] }, cwd: "/" });
  assertEquals((await next(child.messages())).message, ["granted", "prompt"]);
});

oneKindTest("process", 'permissions: "none" is nothing at all', async (kind) => {
  const module = moduleOf(`
    ${ASKS_ITSELF}
    try {
      parent();
      Deno.exit(1);
    } catch { /* without --allow-ffi it has none */ }
    let code = 64;
    for (const name of ["ffi", "net", "read", "run", "write"]) code += states[name] === "granted" ? 1 : 0;
    Deno.exit(code);
  `);
  await using child = spawn(kind, module, { permissions: "none" });
  assertEquals((await child.closed).code, 64);
});

oneKindTest("process", "permissions: a child has what was named, and nothing else", async (kind) => {
  const module = moduleOf(`${ASKS_ITSELF}; await parent().send(states);`);
  await using child = spawn(kind, module, { permissions: { ffi: "inherit", net: ["127.0.0.1:9"], read: false } });
  const { message: { hosts, ...states } } = await next(child.messages());
  assertEquals(hosts, ["granted", "prompt"]);
  delete states.import;
  assertEquals(states, {
    env: "prompt",
    ffi: "granted",
    net: "prompt",
    read: "prompt",
    run: "prompt",
    sys: "prompt",
    write: "prompt",
  });
});

oneKindTest(
  "worker",
  "a thread without ffi is given no socket of the native engine, and no pool serves by it",
  async () => {
    const permissions = `{ net: true, read: true, ffi: false }`;
    const module = moduleOf("serve(() => {});");
    const { stdout, stderr } = await runDeno(
      ["--allow-all", "--unstable-worker-options"],
      `
    import { Pool, spawnWorker } from "@c10k/sockets/process";
    import { UdpEndpoint } from "@c10k/sockets/udp";
    const tell = ({ name, message }) => console.log(name + ": " + message);
    const child = spawnWorker(${
        JSON.stringify(moduleOf("parent().messages().next();"))
      }, { permissions: ${permissions} });
    using endpoint = UdpEndpoint.bind({ hostname: "127.0.0.1", engine: "native" });
    await child.send("yours", { sockets: [endpoint] }).catch(tell);
    console.log(endpoint.fd !== undefined);
    child.kill();
    await child.closed;
    const module = ${JSON.stringify(module)};
    for (const balance of ["round-robin", "shared"]) {
      const listen = { hostname: "127.0.0.1", port: 0 };
      const options = { kind: "worker", module, size: 1, signals: false, balance, listen, permissions: ${permissions} };
      await Pool.start(options).catch(tell);
    }`,
    );
    const why = "NotSupported: Cannot send a socket of the native engine to a thread that may not use it: " +
      `start the thread with permissions that have ffi: "inherit"\n`;
    assertEquals([stdout, stderr], [`${why}true\n${why}${why}`, ""]);
  },
);

const RUN = ["--allow-ffi", `--allow-run=${Deno.execPath()}`];

for (
  const [flags, spawn, permissions, expected] of [
    [["--allow-all"], "spawnProcess", `"inherit"`, { granted: GRANTED, partial: [], hosts: ["granted", "granted"] }],
    [[...RUN, "--allow-net"], "spawnProcess", `"inherit"`, {
      granted: ["ffi", "net"],
      partial: [],
      hosts: ["granted", "granted"],
    }],
    // What is granted in part cannot be known, and is not handed on.
    [[...RUN, "--allow-net=127.0.0.1:9"], "spawnProcess", `"inherit"`, {
      granted: ["ffi"],
      partial: [],
      hosts: ["prompt", "prompt"],
    }],
    [[...RUN, "--allow-net", "--deny-net=127.0.0.1:8"], "spawnProcess", `"inherit"`, {
      granted: ["ffi"],
      partial: [],
      hosts: ["prompt", "prompt"],
    }],
    [[...RUN, "--allow-net=127.0.0.1"], "spawnProcess", `{ ffi: true, net: ["127.0.0.1:9"] }`, {
      granted: ["ffi"],
      partial: [],
      hosts: ["granted", "prompt"],
    }],
    [[...RUN, "--allow-net=127.0.0.1:9"], "spawnProcess", `{ ffi: true, net: ["127.0.0.1:8"] }`, [
      "NotCapable",
      /the child would get net access to "127\.0\.0\.1:8", which this program has not, run again with the --allow-net flag/,
    ]],
    [[...RUN, "--allow-net=127.0.0.1:9"], "spawnProcess", `{ ffi: true, net: true }`, [
      "NotCapable",
      /the child would get net, which this program has not, run again with the --allow-net flag/,
    ]],
    [[...RUN, "--allow-net", "--deny-net=127.0.0.1:8"], "spawnProcess", `{ ffi: true, net: true }`, [
      "NotCapable",
      /the child would get net, which/,
    ]],
    // All of a folder is more than a folder without what a --deny flag leaves out.
    [[...RUN, "--allow-read=/etc", "--deny-read=/etc/shadow"], "spawnProcess", `{ ffi: true, read: ["/etc"] }`, [
      "NotCapable",
      /the child would get read access to "\/etc"/,
    ]],
    [[...RUN, "--allow-env=FOO*", "--deny-env=FOO_S"], "spawnProcess", `{ ffi: true, env: ["FOO*"] }`, [
      "NotCapable",
      /the child would get env access to "FOO\*"/,
    ]],
    [RUN, "spawnProcess", `{ ffi: true, read: ["/etc/passwd"] }`, [
      "NotCapable",
      /the child would get read access to "\/etc\/passwd"/,
    ]],
    [["--allow-ffi"], "spawnProcess", `"inherit"`, ["NotCapable", /^Cannot start process 1 .*--allow-run/]],
    [["--allow-ffi", "--allow-run=sh"], "spawnProcess", `"inherit"`, ["NotCapable", /^Cannot start process 1 /]],
    [["--allow-run"], "spawnProcess", `"inherit"`, ["NotSupported", /^Cannot start process 1 .*--allow-ffi/]],
    [["--allow-all"], "spawnWorker", `"inherit"`, { granted: GRANTED, partial: [], hosts: ["granted", "granted"] }],
    [["--allow-all", "--unstable-worker-options"], "spawnWorker", `{ net: ["127.0.0.1:9"] }`, {
      granted: [],
      partial: [],
      hosts: ["granted", "prompt"],
    }],
    [["--allow-all", "--unstable-worker-options"], "spawnWorker", `"none"`, {
      granted: [],
      partial: [],
      hosts: ["prompt", "prompt"],
    }],
    [["--allow-ffi", "--unstable-worker-options"], "spawnWorker", `{ net: true }`, [
      "NotCapable",
      /escalate|--allow-net/,
    ]],
    [["--allow-net=127.0.0.1:9", "--unstable-worker-options"], "spawnWorker", `{ net: ["127.0.0.1:8"] }`, [
      "NotCapable",
      /escalate|--allow-net/,
    ]],
  ] as [string[], string, string, [string, RegExp] | object][]
) {
  const shown = flags.map((flag) => flag.replace(Deno.execPath(), "deno"));
  Deno.test(
    { name: `permissions [${shown.join(" ")}] ${spawn}(${permissions})`, ignore: !NATIVE },
    () =>
      withoutOrphans(async () => {
        const result = await grantedIn(flags, spawn, permissions);
        if (!Array.isArray(expected)) return assertEquals(result, expected);
        const [name, message] = result as [string, string];
        assertEquals(name, expected[0]);
        assertMatch(message, expected[1]);
      }),
  );
}

Deno.test({
  name: "spawnProcess() refuses flags and variables that decide what runs, or what it may do",
  ignore: !NATIVE,
  fn() {
    const module = "data:text/javascript,";
    for (const flag of ["", "-", "--"]) {
      assertThrows(() => spawnProcess(module, { flags: [flag] }), TypeError, "flags must be flags");
    }
    const env = { DENO_PERMISSION_BROKER_PATH: "/nowhere" };
    assertThrows(() => spawnProcess(module, { env }), TypeError, "env must not hold DENO_PERMISSION_BROKER_PATH");
  },
});
