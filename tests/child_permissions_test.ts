/** What a child may do: at most what its parent may. */

import { spawnProcess } from "@c10k/sockets/process";
import { assertEquals, assertMatch, assertStringIncludes, assertThrows } from "@std/assert";
import { denialFlags } from "../process/child/launch_flags.ts";
import { giveItem } from "../process/child/permission_items.ts";
import { moduleOf, NATIVE, next, oneKindTest, spawn, withoutOrphans } from "./_process.ts";
import { long, ROOT, run, runDeno, some } from "./_util.ts";

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

oneKindTest(
  "worker",
  "a thread with fewer permissions talks, fails without its program, and keeps that alive as it is told",
  async () => {
    const { code, stdout, stderr } = await runDeno(
      ["--allow-all", "--unstable-worker-options"],
      `
      import { spawnWorker } from "@c10k/sockets/process";
      const permissions = { read: true };
      const echo = spawnWorker(${
        JSON.stringify(moduleOf("for await (const { message } of parent().messages()) await parent().send(message);"))
      }, { permissions });
      await echo.send("hello");
      console.log((await echo.messages().next()).value.message);
      const failing = spawnWorker(${
        JSON.stringify(moduleOf(`await parent().messages().next(); throw new RangeError("far");`))
      }, { permissions });
      await failing.send("go");
      const { code, error } = await failing.closed;
      console.log(code, error.message.split("has failed: ")[1]);
      echo.unref();
      echo.unref();
      echo.ref();
      setTimeout(() => {
        console.log("still here");
        echo.unref();
      });`,
    );
    assertEquals([code, stdout], [0, "hello\n1 (in promise) RangeError: far\nstill here\n"]);
    assertStringIncludes(stderr, "RangeError: far");
  },
);

const RUN = ["--allow-ffi", `--allow-run=${Deno.execPath()}`];

for (
  const [flags, spawn, permissions, expected] of some(8, [
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
    [[...RUN, "--allow-net=[::1]"], "spawnProcess", `{ ffi: true, net: ["[::1]"], read: undefined, sys: [] }`, {
      granted: ["ffi"],
      partial: [],
      hosts: ["prompt", "prompt"],
    }],
    // What Deno allows every program.
    [RUN, "spawnProcess", `{ ffi: true, import: ["jsr.io:443"] }`, {
      granted: ["ffi"],
      partial: [],
      hosts: ["prompt", "prompt"],
    }],
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
  ] as [string[], string, string, [string, RegExp] | object][])
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
    const refused: Record<string, string[]> = {
      "flags must hold flags that are allowed here, with their values (--cached-only, ": [
        ...["", "-", "--", "---", "run", "data:,", "other.ts", " --check", "\t-q", "\u2014config=x"],
        // What runs instead of the module, again and again, or more than it.
        ...["-h", "-qh", "-V", "--help", "--help=full", "--version", "--tunnel", "--connected", "-t", "--watch"],
        ...["--watch=x", "--hmr", "--eval=x", "--print"],
        // Files, folders and hosts that are not said, or said in a way that cannot be asked for.
        ...["--cpu-prof", "--cpu-prof-name=../x", "--node-modules-dir", "--node-modules-dir=auto", "--vendor"],
        ...["--vendor=true", "--unsafely-ignore-certificate-errors", "--inspect-publish-uid=http"],
        // A value alone would be the module; this one takes none, or has to be a number.
        // The storage of another program.
        ...["--location=https://example.com/", "--location"],
        ...["--seed", "--conditions", "--ext", "--log-level", "--seed=x", "--quiet=x", "--no-lock=x"],
        ...["--unstable=x", "--unstable-net=x", "--nobody-knows", "--nobody-knows=x", "-qL", "-L", "-qc=x", "-z"],
        ...["--constructor", "constructor", "--toString"],
      ],
      "flags must hold each flag with its value": [
        ...[
          "-c",
          "--config",
          "--config=",
          "-c=",
          "--cert",
          "--coverage",
          "--cpu-prof-dir",
          "--import-map",
          "--inspect",
        ],
        ...["--inspect-brk", "--inspect-wait", "--lock", "--preload", "--require"],
      ],
      "flags must not hold permissions, use permissions": [
        ...["-A", "-qA", "-rA", "-R", "-W", "-N", "-E", "-S", "-I", "-P", "-P=x", "-qN=127.0.0.1", "-qrA"],
        ...["--allow-all", "--allow-net=x", "--deny-net", "--ignore-env", "--permission-set", "--allow-scripts"],
      ],
      "flags must not hold --env-file, use env": ["--env-file", "--env-file=.env"],
      "with an address and a port (--inspect=127.0.0.1:9229)": [
        ...["--inspect=9229", "--inspect=localhost:9229", "--inspect=127.1:80", "--inspect=127.0.0.1"],
      ],
      "flags must hold flags of V8 that are allowed here (--expose-gc, ": [
        ...[
          "--help",
          "--no-opt,--help",
          "-help",
          "",
          "--prof",
          "--logfile=x",
          "--log",
          "--trace-turbo",
          "--redirect-code-traces",
        ],
        ...[
          "--perf-basic-prof",
          "--stack-size",
          "--stack-size=x",
          "--stack-size=900 --prof",
          "--expose-gc=x",
          "x",
          "--max_heap_size",
        ],
      ].map((flags) => `--v8-flags=${flags}`),
    };
    for (const [message, flags] of Object.entries(refused)) {
      for (const flag of flags) {
        assertThrows(() => spawnProcess(module, { flags: [flag] }).kill(), TypeError, message, flag);
        assertThrows(() => spawnProcess(module, { flags: ["--quiet", flag] }).kill(), TypeError, message, flag);
      }
    }
    const variables: Record<string, string> = {
      DENO_PERMISSION_BROKER_PATH: "use permissions",
      ...Object.fromEntries(
        ["DENO_V8_FLAGS", "DENO_COVERAGE_DIR", "DENO_AUDIT_PERMISSIONS", "DENO_DIR", "NODE_OPTIONS", "SSLKEYLOGFILE"]
          .concat("NPM_CONFIG_REGISTRY", "XDG_CACHE_HOME")
          .map((name) => [name, "use flags"]),
      ),
    };
    for (const [name, use] of Object.entries(variables)) {
      const start = () => spawnProcess(module, { env: { [name]: "/nowhere" } }).kill();
      assertThrows(start, TypeError, `env must not hold ${name}, ${use}`);
    }
  },
});

oneKindTest(
  "process",
  "spawnProcess() takes variables of Deno's that this program has itself, or that grant nothing",
  async () => {
    using _ = variable("DENO_COVERAGE_DIR", "/nowhere");
    const env = { DENO_COVERAGE_DIR: "/nowhere", DENO_NO_PROMPT: "1", NODE_ENV: "test" };
    const child = spawnProcess("data:text/javascript,Deno.exit(42)", { env });
    assertEquals((await child.closed).code, 42);
  },
);

/** Sets a variable of this program, until the end of a `using` block. */
function variable(name: string, value: string): Disposable {
  const before = Deno.env.get(name);
  Deno.env.set(name, value);
  return {
    [Symbol.dispose]: () => before === undefined ? Deno.env.delete(name) : Deno.env.set(name, before),
  };
}

Deno.test("spawnProcess() refuses a flag that stands twice, of which Deno takes the last", () => {
  const module = "data:text/javascript,";
  for (
    const flags of [["--frozen", "--frozen=false"], ["-c=a", "--config=b"], ["--frozen-lockfile", "--frozen=false"]]
  ) {
    assertThrows(() => spawnProcess(module, { flags }), TypeError, "once");
  }
});

oneKindTest("process", "spawnProcess() runs its module with any flags that it takes", async () => {
  const module = `data:text/javascript,Deno.exit(42)`;
  const lists = [
    ["-q", "--quiet", "-qr", "--unstable-net", "--check=all", "--no-lock", "--frozen", "--cached-only"],
    ["--log-level=info", "-c=/dev/null", "--no-check", "--no-remote", "--no-npm", "--conditions=a,b", "--ext=js"],
    ["-Linfo", "-c/dev/null", "--seed=17", "--v8-flags=--stack-size=900,--expose_gc", "--no-prompt", "--vendor=false"],
    ["--no-config", "--no-code-cache", "--reload=npm:x", "--node-modules-dir=none"],
    ["--inspect=127.0.0.1:0"],
  ];
  await Promise.all(lists.map(async (flags) => {
    const child = spawnProcess(module, { flags, args: ["data:text/javascript,"], stderr: "null" });
    assertEquals([flags, (await child.closed).code], [flags, 42]);
  }));
});

/** What a child reaches by its flags or as its module, relative to its folder, and the flags with which it may. */
const REACHED: [what: string, options: string, allowed: string[], denied: string[]][] = [
  ["a configuration", `{ flags: ["--config=deno.json"] }`, ["--allow-read=./deno.json"], []],
  ["a configuration, in short", `{ flags: ["-cdeno.json"] }`, ["--allow-read=./deno.json"], ["--allow-read=./x.json"]],
  ["a certificate", `{ flags: ["--cert=a.pem"] }`, ["--allow-read=./a.pem"], []],
  ["a module before it", `{ flags: ["--preload=a.js"] }`, ["--allow-read=./a.js"], []],
  ["a remote module before it", `{ flags: ["--preload=http://127.0.0.1:9/"] }`, ["--allow-import=127.0.0.1:9"], []],
  ["a CommonJS module before it", `{ flags: ["--require=./a.cjs"] }`, ["--allow-read=./a.cjs"], []],
  ["an import map", `{ flags: ["--import-map=map.json"] }`, ["--allow-read=./map.json"], []],
  ["a lock file that it may read", `{ flags: ["--lock=a.lock", "--frozen"] }`, ["--allow-read=./a.lock"], []],
  ["a lock file", `{ flags: ["--lock=a.lock"] }`, ["--allow-read=./a.lock", "--allow-write=./a.lock"], [
    "--allow-read=./a.lock",
  ]],
  ["a folder of coverage", `{ flags: ["--coverage=cov"] }`, ["--allow-write=./cov"], ["--allow-write=./cov/x"]],
  ["a folder of profiles", `{ flags: ["--cpu-prof-dir=../cov"] }`, ["--allow-write=../cov"], ["--allow-write=./cov"]],
  ["an inspector", `{ flags: ["--inspect=127.0.0.1:0"] }`, ["--allow-net=127.0.0.1:0"], ["--allow-net=127.0.0.1:80"]],
  ["a link to what is denied", `{ flags: ["--config=link.json"] }`, ["--allow-read=./link.json"], [
    "--allow-read=.",
    "--deny-read=./deno.json",
  ]],
];

for (const [what, options, allowed, denied] of some(2, REACHED)) {
  Deno.test({
    name: `spawnProcess() asks for what its flags reach: ${what}`,
    ignore: !NATIVE,
    fn: () =>
      inFolder(async (folder) => {
        const source = `spawnProcess("data:text/javascript,", { ...${options}, cwd: "${folder}", stderr: "null" })`;
        assertEquals(await startedWith(folder, allowed, source), "started");
        const missing = [denied, ...allowed.map((flag) => allowed.filter((other) => other !== flag))];
        for (const flags of missing) assertMatch(await startedWith(folder, flags, source), MISSING);
      }),
  });
}

const MISSING =
  /^NotCapable: Cannot start process 1 \(.*\): requires \w+ access to ".*", run again with the --allow-\w+ flag$/;

for (const spawn of some(1, ["spawnProcess", "spawnWorker"])) {
  Deno.test({
    name: `${spawn}() asks for its module, and for no other file`,
    ignore: !NATIVE,
    fn: () =>
      inFolder(async (folder) => {
        const of = (module: string) => `${spawn}("${module}")`;
        for (const file of [`${folder}/a.js`, `file://${folder}/a.js`]) {
          assertEquals(await startedWith(folder, ["--allow-read=./a.js"], of(file)), "started");
          assertMatch(await startedWith(folder, [], of(file)), /requires? read access/i);
          assertMatch(await startedWith(folder, ["--allow-read=./b.js"], of(file)), /requires? read access/i);
          assertMatch(
            await startedWith(folder, ["--allow-read", "--deny-read=./a.js"], of(file)),
            /requires? read access/i,
          );
        }
        const remote = of("http://127.0.0.1:9/a.js");
        assertMatch(await startedWith(folder, [], remote), /requires? import access to "127\.0\.0\.1:9"/i);
        assertMatch(await startedWith(folder, ["--allow-import=127.0.0.1:8"], remote), /requires? import access/i);
      }),
  });
}

/** Runs `fn` with a folder of files that children are started with. */
async function inFolder(fn: (folder: string) => Promise<void>): Promise<void> {
  const folder = await Deno.realPath(await Deno.makeTempDir());
  try {
    for (const name of ["a.js", "b.js", "a.cjs", "a.pem"]) await Deno.writeTextFile(`${folder}/${name}`, "");
    for (const name of ["deno.json", "map.json"]) await Deno.writeTextFile(`${folder}/${name}`, "{}");
    await Deno.symlink(`${folder}/deno.json`, `${folder}/link.json`);
    await fn(folder);
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
}

/** What becomes of a child that a program with these flags starts; `./` in them is the folder. */
async function startedWith(folder: string, flags: string[], source: string): Promise<string> {
  const { stdout, stderr } = await runDeno(
    [
      ...["--allow-ffi", `--allow-run=${Deno.execPath()}`],
      ...flags.map((flag) => flag.replace(/=\.\.?(?=\/|$)/, (dots) => `=${folder}${dots === "=.." ? "/.." : ""}`)),
    ],
    `
    import { spawnProcess, spawnWorker } from "@c10k/sockets/process";
    try {
      const child = ${source};
      const { error } = await child.closed;
      console.log(error === undefined ? "started" : error.message);
    } catch (error) {
      console.log(error.name + ": " + error.message);
    }`,
  );
  return stdout.trim() || stderr;
}

/** Items, and whether a child can have them. */
const ITEMS: Record<string, { good: string[]; bad: string[]; ofThreads?: string[] }> = {
  net: {
    good: [
      ...[
        "127.0.0.2:65535",
        "127.0.0.1:0",
        "127.0.0.1",
        "[::1]",
        "[::1]:80",
        "[::ffff:192.0.2.1]:9",
        "[fe80::1%lo]:80",
      ],
      ...["localhost", "a.b.", "a_b:8080", "*.example.com", "*.example.com:80", "10.0.0.0/8", "10.0.0.0/8:80", "127.1"],
      ...["unix:/run/a b.sock", "vsock:2:1024", "xn--a", "x:0080", "256.1.1.1"],
    ],
    bad: [
      ...["127.0.0.2:65536", "127.0.0.2:", "127.0.0.1:80x", "127.0.0.1:-1", "127.0.0.1: 80", "127.0.0.1 ", "a b", "*"],
      ...["http://x", "https://x:1", "x/y", "/x", "::1", "fe80::1%lo", "[::1", "[::1]x", "[::1]:", "[::1]:65536", "[]"],
      ...[
        "[a]",
        "[1.2.3.4]",
        "[1::2::3]",
        "1.2.3.4/33",
        "1.2.3.4/x",
        "a/8",
        "[fd00::]/8",
        "a..b",
        ".a",
        ".",
        "*.",
        "a*",
      ],
      ...[
        "*.*.a",
        "x:*",
        "1.2.3.4:80:90",
        "user@host",
        "host?",
        "\u00fc.de",
        "unix:",
        "unix:relative",
        "vsock:1",
        "vsock:x:2",
      ],
    ],
  },
  import: {
    good: ["deno.land", "x:443", "*.x.com"],
    bad: ["http://x", "https://deno.land", "x:99999", "/a", ".", "x:"],
  },
  sys: {
    good: [
      ...["cpus", "getegid", "getPriority", "gid", "homedir", "hostname", "loadavg", "networkInterfaces", "osRelease"],
      ...["osUptime", "setPriority", "statfs", "systemMemoryInfo", "uid", "userInfo", "username"],
    ],
    ofThreads: ["inspector", "umask"],
    bad: ["nosuch", "HOSTNAME", "hostname ", "all", "*"],
  },
  // Of a variable with such a name Deno asks nothing of a thread.
  env: { good: ["A", "A*", "*", "A B", "\u00e9"], bad: ["A=B", "=", "=A", "A="] },
  run: { good: [" ", "cat", "/bin/cat", "./x"], bad: [] },
  read: { good: [" ", "/tmp", "x", "http://x"], bad: [] },
  write: { good: [" ", "/tmp", "x"], bad: [] },
  ffi: { good: [" ", "/tmp"], bad: [] },
};

long(Deno.test)({
  name: "permissions: an item that Deno cannot read is a TypeError at the call, and no other",
  ignore: !NATIVE,
  fn: () =>
    withoutOrphans(async () => {
      const { code, stdout, stderr } = await runDeno(
        ["--allow-all", "--unstable-worker-options"],
        `
        import { spawnProcess, spawnWorker } from "@c10k/sockets/process";
        const module = "data:text/javascript,";
        const told = (start) => {
          try {
            start();
            return "started";
          } catch (error) {
            return error.name === "TypeError" ? /^permissions.([a-z]+) must /.exec(error.message)?.[1] : String(error);
          }
        };
        const check = (what, got, expected) => got === expected || console.log(what, got, "is not", expected);
        const worker = (permissions) => told(() => spawnWorker(module, { permissions }).kill());
        const dies = [];
        for (const [kind, { good, bad, ofThreads = [] }] of Object.entries(${JSON.stringify(ITEMS)})) {
          for (const item of [...good, ...ofThreads]) check("thread " + kind + " " + item, worker({ [kind]: [item] }), "started");
          for (const item of [...bad, ""]) {
            const permissions = { [kind]: [good[0], item] };
            check("thread " + kind + " " + item, worker(permissions), kind);
            check("process " + kind + " " + item, told(() => spawnProcess(module, { permissions }).kill()), kind);
          }
          for (const item of ofThreads) {
            check("process " + kind + " " + item, told(() => spawnProcess(module, { permissions: { [kind]: [item] } })), kind);
          }
          dies.push(spawnProcess(module, { permissions: { [kind]: good } }).closed.then(({ code }) => check(kind, code, 0)));
        }
        await Promise.all(dies);
        Deno.exit(0);`,
      );
      assertEquals([code, stdout, stderr], [0, "", ""]);
      // In part, the same: no other refusal comes first.
      for (const flag of ["--allow-net=127.0.0.1", "--allow-sys=hostname", "--allow-env=A", "--allow-import=x"]) {
        const kind = flag.slice("--allow-".length).split("=")[0] as string;
        const bad = ITEMS[kind]?.bad;
        const program = `
          import { spawnProcess } from "@c10k/sockets/process";
          for (const item of ${JSON.stringify(bad)}) {
            try {
              spawnProcess("data:text/javascript,", { permissions: { ${kind}: [item] } });
            } catch (error) {
              if (error instanceof TypeError) continue;
              console.log(item, String(error));
            }
          }`;
        assertEquals(await runDeno([...RUN, flag], program).then(({ stdout, stderr }) => [stdout, stderr]), ["", ""]);
      }
    }),
});

oneKindTest("process", "permissions: a relative path in a folder with a comma gives no other path", async () => {
  const folder = await Deno.makeTempDir({ prefix: "a,b" });
  const here = Deno.cwd();
  try {
    Deno.chdir(folder);
    assertThrows(
      () => spawnProcess("data:text/javascript,", { permissions: { read: ["x"] } }),
      Deno.errors.NotCapable,
      "whose path holds a comma",
    );
  } finally {
    Deno.chdir(here);
    await Deno.remove(folder);
  }
});

Deno.test({
  name: "giveItem() takes a link that leads to itself for what it is",
  ignore: !NATIVE,
  async fn() {
    const folder = await Deno.realPath(await Deno.makeTempDir());
    try {
      await Deno.symlink("loop", `${folder}/loop`);
      assertEquals(giveItem("read", `${folder}/loop`), { item: `${folder}/loop` });
    } finally {
      await Deno.remove(folder, { recursive: true });
    }
  },
});

/** Puts a byte into the arguments of this process, as setproctitle(3) does, until the end of a `using` block. */
function written(at: number, byte: number): Disposable {
  using memory = Deno.openSync("/proc/self/mem", { read: true, write: true });
  const before = new Uint8Array(1);
  const write = (bytes: Uint8Array, file: Deno.FsFile) => {
    file.seekSync(at, Deno.SeekMode.Start);
    file.writeSync(bytes);
  };
  memory.seekSync(at, Deno.SeekMode.Start);
  memory.readSync(before);
  write(new Uint8Array([byte]), memory);
  return {
    [Symbol.dispose]() {
      using memory = Deno.openSync("/proc/self/mem", { write: true });
      write(before, memory);
    },
  };
}

Deno.test({
  name: "denialFlags() knows nothing where the arguments are not those that Deno was started with",
  ignore: !NATIVE,
  async fn() {
    const known = denialFlags("net");
    assertEquals(known, []);
    Deno.env.set("DENO_PERMISSION_BROKER_PATH", "/nowhere");
    assertEquals(denialFlags("net"), undefined);
    Deno.env.delete("DENO_PERMISSION_BROKER_PATH");
    // arg_start and arg_end of proc_pid_stat(5).
    const fields = Deno.readTextFileSync("/proc/self/stat").replace(/^.*\) /s, "").split(" ").map(Number);
    const [start, end] = [fields[45] as number, fields[46] as number];
    {
      using _ = written(start, 0xff);
      assertEquals(denialFlags("net"), undefined);
    }
    {
      using _ = written(end - 1, 0x78);
      assertEquals(denialFlags("net"), undefined);
    }
    assertEquals(denialFlags("net"), []);
    const source = `
      import { loadLibc } from "${new URL("internal/libc.ts", ROOT)}";
      import { denialFlags } from "${new URL("process/child/launch_flags.ts", ROOT)}";
      loadLibc();
      console.log(denialFlags("net"));`;
    const few = ["run", "-A", "--quiet", `data:text/javascript,${encodeURIComponent(source)}`];
    assertEquals((await run(few)).stdout, "[]\n");
    assertEquals((await run([...few, ...Array(9).fill("x".repeat(120_000))])).stdout, "undefined\n");
  },
});
