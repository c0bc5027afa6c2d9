import { type ChildStatus, spawnFor } from "@c10k/sockets/process";
import type { Engine, TcpConn } from "@c10k/sockets/tcp";
import { assert, assertEquals, assertRejects, assertThrows } from "@std/assert";
import { deadline, delay } from "@std/async";
import { SyscallError } from "../internal/errors.ts";
import { reap, signalPidfd, spawn as startProgram } from "../process/program/posix_spawn.ts";
import { Descriptors } from "./_kernel.ts";
import { moduleOf, next, oneKindTest, runStarved, spawn, withoutOrphans } from "./_process.ts";
import {
  checksum,
  clientTest,
  decode,
  encode,
  ENGINES,
  engineTest,
  eventually,
  long,
  Pair,
  randomBytes,
  readText,
  readToEnd,
  runDeno,
  ServerProcess,
  socketTest,
} from "./_util.ts";

/** A test on both engines that leaves no zombies either. */
function programTest(name: string, fn: (engine: Engine) => Promise<void>, ignore = false): void {
  const { os } = Deno.build;
  const test = (engine: Engine) => os === "linux" ? withoutOrphans(() => fn(engine)) : fn(engine);
  // The programs are those of Unix.
  engineTest(name, test, ignore || os === "windows");
}

async function readAll(conn: TcpConn): Promise<Uint8Array<ArrayBuffer>> {
  return new Uint8Array(await new Response(conn.readable).arrayBuffer());
}

programTest("spawnFor() lets cat echo, and gives the connection away", async (engine) => {
  using pair = await Pair.open(engine);
  const child = spawnFor(pair.server, "cat");
  assertEquals(child.kind, "process");
  assert((child.pid ?? 0) > 0);
  await assertRejects(() => pair.server.read(new Uint8Array(1)), Deno.errors.BadResource);
  assertEquals(pair.server.fd, undefined);
  await pair.client.writeAll(encode("hello"));
  assertEquals(await readText(pair.client), "hello");
  await pair.client.closeWrite();
  assertEquals(await readText(pair.client), null);
  assertEquals(await child.closed, { success: true, code: 0, signal: undefined, error: undefined });
});

programTest("spawnFor() hands over what is unread, and what was peeked at", async (engine) => {
  using pair = await Pair.open(engine);
  await pair.client.writeAll(encode("pear\napple\n"));
  await pair.client.closeWrite();
  assertEquals(await pair.server.peek(new Uint8Array(4)), 4);
  assertEquals(await pair.server.read(new Uint8Array(1)), 1);
  const child = spawnFor(pair.server, "sort");
  assertEquals(decode(await readAll(pair.client)), "apple\near\n");
  assertEquals((await child.closed).code, 0);
});

programTest("spawnFor() carries 8 MiB through cat, both ways at once", async (engine) => {
  using pair = await Pair.open(engine);
  const child = spawnFor(pair.server, "cat");
  const sent = randomBytes(8 * 1024 * 1024);
  const [received] = await Promise.all([
    readAll(pair.client),
    pair.client.writeAll(sent).then(() => pair.client.closeWrite()),
  ]);
  assertEquals(await checksum(received), await checksum(sent));
  assert((await child.closed).success);
});

programTest(
  "spawnFor() gives arguments, variables and the folder; the rest of the environment is inherited",
  async (engine) => {
    using pair = await Pair.open(engine);
    const script = 'echo "$0 $1 $GREETING $PWD ${HOME:+home}"; exit 7';
    const child = spawnFor(pair.server, "sh", {
      args: ["-c", script, "zero", "one two"],
      env: { GREETING: "good day" },
      cwd: "/",
    });
    assertEquals(decode(await readAll(pair.client)), "zero one two good day / home\n");
    assertEquals((await child.closed).code, 7);
  },
);

programTest("spawnFor() serves with programs that end before they have read everything", async (engine) => {
  for (const [command, args, answer] of [["true", [], ""], ["head", ["-n", "1"], "first\n"]] as const) {
    using pair = await Pair.open(engine);
    const child = spawnFor(pair.server, command, { args: [...args] });
    await pair.client.writeAll(encode("first\nsecond\n")).catch(() => {});
    let text = "";
    try {
      for (let more = await readText(pair.client); more !== null; more = await readText(pair.client)) text += more;
    } catch (error) {
      // What it has not read makes the kernel reset the connection.
      assert(error instanceof Deno.errors.ConnectionReset);
    }
    assert(answer.startsWith(text), text);
    assertEquals((await child.closed).code, 0);
  }
});

programTest("spawnFor() ends a program that writes to a peer that is gone", async (engine) => {
  using pair = await Pair.open(engine);
  const child = spawnFor(pair.server, "yes");
  assertEquals((await readText(pair.client, 4))?.slice(0, 2), "y\n");
  pair.client.close();
  const { success, signal } = await child.closed;
  assertEquals([success, signal === "SIGPIPE" || signal === undefined], [false, true]);
});

programTest("spawnFor() leaves the connection whole if the program cannot be started", async (engine) => {
  using pair = await Pair.open(engine);
  assertThrows(() => spawnFor(pair.server, "no-such-program"), Deno.errors.NotFound, "Cannot start no-such-program");
  assertThrows(() => spawnFor(pair.server, "/etc/passwd"), Deno.errors.PermissionDenied);
  const why = "Cannot start cat in /no/such/folder: ";
  assertThrows(() => spawnFor(pair.server, "cat", { cwd: "/no/such/folder" }), Deno.errors.NotFound, why);
  const waiting = pair.server.read(new Uint8Array(4));
  await pair.client.writeAll(encode("here"));
  assertEquals(await waiting, 4);
});

programTest("Child.kill() and shutdown() end the program", async (engine) => {
  for (const end of ["kill", "shutdown", "grace"] as const) {
    using pair = await Pair.open(engine);
    const command = end === "grace" ? "sh" : "cat";
    const child = spawnFor(pair.server, command, { args: end === "grace" ? ["-c", "trap '' TERM; echo x; cat"] : [] });
    if (end === "grace") assertEquals(await readText(pair.client), "x\n");
    if (end === "kill") child.kill();
    const status = end === "kill" ? await child.closed : await child.shutdown({ grace: end === "grace" ? 50 : 10_000 });
    assertEquals(status.signal, end === "shutdown" ? "SIGTERM" : "SIGKILL");
    assertEquals(status.code, end === "shutdown" ? 143 : 137);
    child.kill();
    assertEquals(await child.shutdown(), status);
    assertThrows(() => child.kill("SIGNONE" as Deno.Signal), TypeError);
    if (end === "grace") {
      // What the shell has started has the socket, too.
      pair.client.close();
    } else assertEquals(await readToEnd(pair.client).catch(() => 0), 0);
  }
});

programTest("Child.kill() ends a program whose peer reads nothing", async (engine) => {
  using pair = await Pair.open(engine);
  const child = spawnFor(pair.server, "yes");
  // Its output has come to a standstill somewhere on the way.
  assertEquals(await pair.client.read(new Uint8Array(2)), 2);
  await delay(100);
  child.kill();
  assertEquals((await deadline(child.closed, 10_000)).signal, "SIGKILL");
});

programTest("spawnFor() serves 50 connections at a time", async (engine) => {
  await Promise.all(Array.from({ length: 50 }, async (_, i) => {
    using pair = await Pair.open(engine);
    const child = spawnFor(pair.server, "cat");
    await pair.client.writeAll(encode(`number ${i}`));
    await pair.client.closeWrite();
    assertEquals(decode(await readAll(pair.client)), `number ${i}`);
    assert((await child.closed).success);
  }));
});

long(oneKindTest)(
  "worker",
  "spawnFor() programs of a thread that is killed go on, and leave no zombie",
  async (kind) => {
    using pair = await Pair.open("native");
    const child = spawn(
      kind,
      moduleOf(`
      import { spawnFor } from "${import.meta.resolve("@c10k/sockets/process")}";
      const { value: { sockets: [conn] } } = await parent().messages().next();
      await parent().send(spawnFor(conn, "cat").pid);
      for await (const _ of parent().messages());
    `),
    );
    await child.send("serve", { sockets: [pair.server] });
    const { message: pid } = await next(child.messages());
    child.kill();
    await child.closed;
    await pair.client.writeAll(encode("hello"));
    assertEquals(await readText(pair.client), "hello");
    await pair.client.closeWrite();
    assertEquals(await readText(pair.client), null);
    await eventually(() => hasProcess(pid) ? undefined : true);
  },
);

/** Whether there is such a process, or a zombie of it. */
function hasProcess(pid: number): boolean {
  try {
    return Deno.statSync(`/proc/${pid}`).isDirectory;
  } catch {
    return false;
  }
}

programTest("Child.send() says that a program takes no messages", async (engine) => {
  using pair = await Pair.open(engine);
  const child = spawnFor(pair.server, "cat");
  await assertRejects(() => child.send("hello"), Deno.errors.NotSupported);
  await pair.client.closeWrite();
  for await (const _ of child.messages()) throw new Error("a message of a program");
});

programTest(
  "spawnFor() gives the program no standard error that somebody reads, if that is asked for",
  async (engine) => {
    using pair = await Pair.open(engine);
    const child = spawnFor(pair.server, "sh", { args: ["-c", "readlink /proc/self/fd/2"], stderr: "null" });
    assertEquals(decode(await readAll(pair.client)), "/dev/null\n");
    assert((await child.closed).success);
  },
  Deno.build.os !== "linux",
);

Deno.test({
  name: "Child.ref() of a program keeps this one alive until that has ended, also after unref()",
  ignore: Deno.build.os === "windows",
  async fn() {
    const { code, stdout, stderr } = await runDeno(
      ["--allow-net", "--allow-run=cat", "--allow-ffi", "--allow-read"],
      `
      import { spawnFor } from "@c10k/sockets/process";
      import { TcpConn, TcpListener } from "@c10k/sockets/tcp";
      for (const engine of ${JSON.stringify(ENGINES)}) {
        const listener = TcpListener.bind({ hostname: "127.0.0.1", port: 0, engine });
        const client = await TcpConn.connect({ port: listener.addr.port, engine });
        const child = spawnFor(await listener.accept(), "cat");
        listener.close();
        await client.closeWrite();
        child.unref();
        child.ref();
        console.log((await child.closed).code);
        client.close();
      }`,
    );
    assertEquals([code, stdout, stderr], [0, "0\n".repeat(ENGINES.length), ""]);
  },
});

programTest("await using ends the program of spawnFor()", async (engine) => {
  using pair = await Pair.open(engine);
  let closed: Promise<ChildStatus>;
  {
    await using child = spawnFor(pair.server, "cat");
    closed = child.closed;
  }
  assertEquals(await Promise.race([closed.then(({ signal }) => signal), delay(0).then(() => "pending")]), "SIGTERM");
});

programTest("spawnFor() checks its arguments first", async (engine) => {
  using pair = await Pair.open(engine);
  for (
    const [command, options] of [
      ["", {}],
      ["a\0b", {}],
      [5, {}],
      ["cat", { args: "x" }],
      ["cat", { args: [1] }],
      ["cat", { args: ["a\0b"] }],
      ["cat", { env: { A: 1 } }],
      ["cat", { env: { "A=B": "1" } }],
      ["cat", { cwd: 1 }],
      ["cat", { cwd: "" }],
      ["cat", { stderr: "piped" }],
      ["cat", 1],
    ] as [string, Record<string, never>][]
  ) {
    assertThrows(() => spawnFor(pair.server, command, options), TypeError);
  }
  assertThrows(() => spawnFor({} as TcpConn, "cat"), TypeError);
  pair.server.close();
  assertThrows(() => spawnFor(pair.server, "cat"), Deno.errors.BadResource);
});

Deno.test("spawnFor() [runtime] refuses a connection on which a call waits", async () => {
  using pair = await Pair.open("runtime");
  const waiting = pair.server.read(new Uint8Array(1));
  assertThrows(() => spawnFor(pair.server, "cat"), Deno.errors.Busy);
  await pair.client.writeAll(encode("x"));
  await waiting;
});

for (const engine of ENGINES) {
  Deno.test(`[${engine}] spawnFor() needs --allow-run for the very program`, async () => {
    const source = `
      import { spawnFor } from "@c10k/sockets/process";
      import { TcpConn, TcpListener } from "@c10k/sockets/tcp";
      using listener = TcpListener.bind({ hostname: "127.0.0.1", port: 0, engine: "${engine}" });
      for (const command of ["cat", "sort"]) {
        using client = await TcpConn.connect({ port: listener.addr.port, engine: "${engine}" });
        using server = await listener.accept();
        try {
          const child = spawnFor(server, command, { env: Deno.args[0] ? { LD_PRELOAD: "x" } : {} });
          await client.closeWrite();
          console.log(command, (await child.closed).code);
        } catch (error) {
          console.log(command, error.name, /--allow-run|run access/.test(error.message));
        }
      }
      Deno.exit(0);
    `;
    const ffi = engine === "native" ? ["--allow-ffi"] : [];
    const { stdout, stderr } = await runDeno(["--allow-net", "--allow-run=cat", ...ffi], source);
    assertEquals([stdout, stderr], ["cat 0\nsort NotCapable true\n", ""]);
    const preload = source.replace("Deno.args[0]", "true");
    const refused = await runDeno(["--allow-net", "--allow-run=cat", ...ffi], preload);
    assertEquals(refused.stdout, "cat NotCapable true\nsort NotCapable true\n");
  });
}

Deno.test({
  name: "[native] a signal for a program that has ended is sent to nobody, and one that there is not is refused",
  ignore: !ENGINES.includes("native"),
  fn: () =>
    withoutOrphans(async () => {
      // One that does nothing until the signal comes; cat(1) would end by itself, as the pipe does not block.
      const program = { command: "sleep", file: "/bin/sleep", args: ["60"], environment: [], cwd: undefined };
      using descriptors = new Descriptors();
      const [reading, writing] = descriptors.pipe();
      const pid = startProgram(program, [reading, writing]);
      const pidfd = descriptors.pidfd(pid);
      assertThrows(() => signalPidfd(pidfd, 1_000), SyscallError, "EINVAL");
      signalPidfd(pidfd, 9);
      assertEquals(await eventually(() => reap(pidfd)), { code: 137, signal: "SIGKILL" });
      signalPidfd(pidfd, 9);
    }),
});

Deno.test({
  name: "[native] spawnFor() leaves the connection whole, and no program, when descriptors have run out",
  ignore: !ENGINES.includes("native"),
  async fn() {
    const { stdout, stderr } = await runStarved(`
      import { spawnFor } from "@c10k/sockets/process";
      import { TcpConn, TcpListener } from "@c10k/sockets/tcp";
      using listener = TcpListener.bind({ hostname: "127.0.0.1", port: 0 });
      using client = await TcpConn.connect({ port: listener.addr.port });
      using server = await listener.accept();
      fill();
      try { spawnFor(server, "cat"); } catch (error) { console.log(...named(error)); }
      free();
      console.log(Deno.readTextFileSync("/proc/self/task/" + Deno.pid + "/children") === "");
      const waiting = server.read(new Uint8Array(4));
      await client.writeAll(new Uint8Array(4));
      console.log(await waiting);`);
    assertEquals([stdout, stderr], ["Error EMFILE\ntrue\n4\n", ""]);
  },
});

Deno.test({
  name: "[native] spawnFor() needs --allow-run for all if relative folders of PATH say which program it is",
  ignore: !ENGINES.includes("native"),
  async fn() {
    const source = `
      import { spawnFor } from "@c10k/sockets/process";
      import { TcpConn, TcpListener } from "@c10k/sockets/tcp";
      using listener = TcpListener.bind({ hostname: "127.0.0.1", port: 0 });
      const path = Deno.env.get("PATH");
      for (const [more, cwd] of [["bin:", "/"], ["bin:", undefined], ["", "/"]]) {
        Deno.env.set("PATH", more + path);
        using client = await TcpConn.connect({ port: listener.addr.port });
        using server = await listener.accept();
        try {
          const child = spawnFor(server, "cat", { cwd });
          await client.closeWrite();
          console.log((await child.closed).code);
        } catch (error) {
          console.log(error.name, error.message.includes("PATH has relative folders"));
        }
      }
      Deno.exit(0);`;
    const flags = ["--allow-net", "--allow-ffi", "--allow-env=PATH"];
    const listed = await runDeno([...flags, "--allow-run=cat"], source);
    assertEquals([listed.stdout, listed.stderr], ["NotCapable true\n0\n0\n", ""]);
    const all = await runDeno([...flags, "--allow-run"], source);
    assertEquals([all.stdout, all.stderr], ["0\n0\n0\n", ""]);
  },
});

socketTest(
  "spawnFor() starts the same program in the same folder on both engines, whatever path leads there",
  async () => {
    const folder = await Deno.realPath(await Deno.makeTempDir());
    try {
      await Deno.mkdir(`${folder}/sub/inner`, { recursive: true });
      await Deno.writeTextFile(`${folder}/file`, "");
      for (const [link, target] of [["link", "sub/inner"], ["dangling", "nowhere"], ["loop", "loop"]] as const) {
        await Deno.symlink(`${folder}/${target}`, `${folder}/${link}`);
      }
      for (const name of ["prog", "sub/prog", "sub/inner/prog"]) {
        await Deno.writeTextFile(`${folder}/${name}`, `#!/bin/sh\necho ${name} in $(/bin/pwd)\n`, { mode: 0o755 });
      }
      for (
        const [command, cwd, expected] of [
          ["pwd", "", ""],
          ["pwd", "sub/", "/sub"],
          ["pwd", "link", "/sub/inner"],
          ["pwd", "link/..", ""],
          ["pwd", "file", "NotFound"],
          ["pwd", "file/x", "NotFound"],
          ["pwd", "dangling", "NotFound"],
          ["pwd", "loop", "NotFound"],
          ["pwd", "x".repeat(5_000), "NotFound"],
          ["./prog", "", "prog in"],
          ["./prog", "sub", "sub/prog in /sub"],
          ["./prog", "link", "sub/inner/prog in /sub/inner"],
          ["../prog", "link", "prog in /sub/inner"],
          ["./file/prog", "", "NotFound"],
          ["./file", "", "PermissionDenied"],
        ] as const
      ) {
        for (const engine of ENGINES) {
          using pair = await Pair.open(engine);
          const run = async () => {
            const child = spawnFor(pair.server, command, { cwd: `${folder}/${cwd}`, stderr: "null" });
            const text = await new Response(pair.client.readable).text();
            await child.closed;
            return text.replaceAll(folder, "").trim();
          };
          assertEquals(
            await run().catch(({ name }) => name),
            expected,
            `[${engine}] ${command} in ${cwd.slice(0, 20)}`,
          );
        }
      }
    } finally {
      await Deno.remove(folder, { recursive: true });
    }
  },
  Deno.build.os === "windows",
);

clientTest(["nc", "sort"], "example:inetd serves with sort", async () => {
  for (const engine of ENGINES) {
    const ffi = engine === "native" ? ["--allow-ffi"] : [];
    await using server = await ServerProcess.start([
      "--allow-net",
      "--allow-run",
      ...ffi,
      "examples/inetd.ts",
      "--port",
      "0",
      "--",
      "sort",
    ]);
    const nc = new Deno.Command("nc", { args: ["-N", "127.0.0.1", `${server.port}`], stdin: "piped", stdout: "piped" });
    const client = nc.spawn();
    const writer = client.stdin.getWriter();
    await writer.write(encode("pear\napple\n"));
    await writer.close();
    assertEquals(decode((await client.output()).stdout), "apple\npear\n");
    assertEquals(await server.stop(), 0);
  }
});
