/** Who may talk: a child and its parent, and nobody in the place of either. */

import { TcpListener } from "@c10k/sockets/tcp";
import { UdpEndpoint } from "@c10k/sockets/udp";
import { assert, assertEquals, assertInstanceOf, assertMatch, assertRejects, assertStringIncludes } from "@std/assert";
import { deadline } from "@std/async";
import { Descriptor } from "../internal/descriptor.ts";
import { environmentWith } from "../internal/environment.ts";
import { Link } from "../process/message/link.ts";
import { PARENT_VARIABLE } from "../internal/parent_channel.ts";
import { openPidfd, spawn as startProgram } from "../process/program/posix_spawn.ts";
import { HELLO, ProcessTransport } from "../process/message/process_transport.ts";
import { ProgramEnd } from "../process/program/program_end.ts";
import { UnixSocket } from "../process/message/unix_socket.ts";
import { ControlServer } from "../process/pool/upgrade.ts";
import { untilRefused } from "./_pool.ts";
import { ask, childTest, descriptorLinks, ECHO, moduleOf, NATIVE, next, oneKindTest, spawn } from "./_process.ts";
import { decode, ROOT, socketTest } from "./_util.ts";

/** Runs a program whose descriptor 3 is one end of a socketpair, and returns the other end. */
function spawnBeside(
  command: string,
  args: string[],
  type?: number,
): { pid: number; near: UnixSocket; end: ProgramEnd } {
  const [near, far] = UnixSocket.pair(type).map((fd) => new Descriptor(fd)) as [Descriptor, Descriptor];
  const environment = environmentWith({ [PARENT_VARIABLE]: "3", NO_COLOR: "1" });
  const pid = startProgram({ command, file: command, args, environment, cwd: undefined }, [
    undefined,
    undefined,
    undefined,
    far.fd,
  ]);
  far.close();
  return { pid, near: new UnixSocket(near.detach(), "the child"), end: new ProgramEnd(openPidfd(pid), command) };
}

oneKindTest(
  "process",
  "spawnProcess() gives the child a socket that has no path, and that no program of the child's inherits",
  async (kind) => {
    // Of the Unix sockets of both, none has a path.
    const paths = (pid: number | "self") => {
      const inodes = new Set(descriptorLinks(pid).map((link) => /^socket:\[(\d+)\]$/.exec(link)?.[1]));
      const lines = Deno.readTextFileSync("/proc/net/unix").split("\n").map((line) => line.trim().split(/\s+/));
      return lines.flatMap(([, , , , , , inode, path]) => inodes.has(inode) && path !== undefined ? [path] : []);
    };
    await using child = spawn(
      kind,
      moduleOf(`
      const inherited = new Deno.Command("readlink", { args: ["/proc/self/fd/3"] });
      const links = async () => new TextDecoder().decode((await inherited.output()).stdout).trim();
      const early = await links();
      await parent().send([early, await links()]);
      for await (const _ of parent().messages());
    `),
    );
    const variables = Deno.readTextFileSync(`/proc/${child.pid}/environ`).split("\0");
    assertEquals(variables.filter((variable) => variable.startsWith(`${PARENT_VARIABLE}=`)), [`${PARENT_VARIABLE}=3`]);
    assertEquals((await next(child.messages())).message, ["", ""]);
    assertEquals([...paths("self"), ...paths(child.pid ?? 0)], []);
  },
);

oneKindTest("process", "parent() believes nobody but the process that has started this one", async () => {
  const module = moduleOf(`
    try {
      parent();
      Deno.exit(1);
    } catch (error) {
      const text = "Cannot reach the parent: this program was not started by spawnWorker or spawnProcess";
      Deno.exit(error.message === text ? 42 : 2);
    }`);
  // The shell stands between: it is the parent of the child, and this process has made the socket.
  const script = `"${Deno.execPath()}" run --quiet -A "${module}"; exit $?`;
  const { near, end } = spawnBeside("/bin/sh", ["-c", script]);
  assertEquals((await deadline(end.wait(), 20_000)).code, 42);
  near.close();
  // Made by the parent, but for something else: it keeps no bounds of messages.
  const SOCK_STREAM = 1;
  const other = spawnBeside(Deno.execPath(), ["run", "--quiet", "-A", module], SOCK_STREAM);
  assertEquals((await deadline(other.end.wait(), 20_000)).code, 42);
  other.near.close();
});

const PARENT_SOCKET = new URL("process/child/parent_socket.ts", ROOT);
const TRANSPORT = new URL("process/message/process_transport.ts", ROOT);

for (
  const [what, says, bytes] of [
    ["garbage", true, `[1, 2, 3, 4]`],
    ["garbage before all else, with a descriptor", false, `[1, 2, 3, 4]`],
    ["credit that is no number", true, `[1, ...serialize({ packet: { type: "credit", body: "1" }, kinds: [] })]`],
  ] as const
) {
  oneKindTest("process", `a child that writes ${what} to its parent is ended, and no other`, async (kind) => {
    await using good = spawn(kind, ECHO);
    await using bad = spawn(
      kind,
      moduleOf(`
        import { takeParentSocket } from "${PARENT_SOCKET}";
        import { HELLO } from "${TRANSPORT}";
        import { serialize } from "node:v8";
        const socket = takeParentSocket();
        if (${says}) {
          await socket.send(HELLO, () => [], () => {});
          await socket.receive();
        }
        await socket.send(new Uint8Array(${bytes}), () => ${says} ? [] : [2], () => {});
        setInterval(() => {}, 1000);
      `),
    );
    await ask(good, "before");
    const sent = bad.send("go").catch(() => {});
    const { success, signal, error } = await deadline(bad.closed, 10_000);
    assertEquals([success, signal], [false, "SIGKILL"]);
    assertInstanceOf(error, Error);
    assertStringIncludes(error.message, "Cannot receive");
    await sent;
    await assertRejects(() => bad.send("after the end"), Deno.errors.BrokenPipe);
    assertEquals((await ask(good, "after")).message.message, "after");
  });
}

childTest("what a child sends to a pool that there is not is closed, and nobody else is told", async (kind) => {
  const module = moduleOf(`
    import { thePort } from "${new URL("process/child/parent.ts", ROOT)}";
    const listener = TcpListener.bind({ hostname: "127.0.0.1", port: 0 });
    const { port } = listener.addr;
    await thePort().link.post({ type: "pool", body: { is: "full" } }, [listener]);
    await parent().send(port);
  `);
  await using child = spawn(kind, module);
  await untilRefused(Number((await next(child.messages())).message));
});

oneKindTest("process", "Pool takes no messages at its control socket, and closes what comes with them", async () => {
  const folder = await Deno.makeTempDir();
  const control = `${folder}/control`;
  const listener = TcpListener.bind({ hostname: "127.0.0.1", port: 0, engine: "native" });
  const server = new ControlServer(control, () => [], () => {});
  server.publish();
  try {
    const { promise, resolve } = Promise.withResolvers<void>();
    const link = new Link("the pool");
    link.attach(new ProcessTransport(UnixSocket.connect(control, "the pool"), link, () => resolve()));
    // A message as children have it; its listener would wait there for a reader that never comes.
    await link.send("hello", { sockets: [listener] });
    await deadline(promise, 5_000);
    link.close(new Error("The test is over"));
  } finally {
    server.close();
    await Deno.remove(folder, { recursive: true });
  }
});

oneKindTest("process", "parent() says that nobody is where the parent should be", async () => {
  const text = "Cannot reach the parent: this program was not started by spawnWorker or spawnProcess";
  // A file of Deno's own, which is no socket; what older versions said; numbers that are not ours.
  for (
    const [value, code] of [["3", /^E[A-Z]+$/], ["/nowhere/control", /^none$/], ["1", /^none$/], [
      "",
      /^none$/,
    ]] as const
  ) {
    const { stdout } = await new Deno.Command(Deno.execPath(), {
      args: [
        "run",
        "--quiet",
        "-A",
        moduleOf(
          `try { parent(); } catch (error) { console.log(error.message + "|" + (error.cause?.code ?? "none")); }`,
        ),
      ],
      env: { [PARENT_VARIABLE]: value, NO_COLOR: "1" },
    }).output();
    const [message, cause] = decode(stdout).trim().split("|");
    assertEquals(message, text);
    assertMatch(cause ?? "", code);
  }
});

oneKindTest(
  "process",
  "a process gets the environment of this one, also where the C library does not tell of it",
  async (kind) => {
    const { initialEnvironment, readEnvironment } = await import("../internal/environment.ts");
    const initial = initialEnvironment();
    assertEquals(initial.length > 0, true);
    const current = new Set(readEnvironment());
    assertEquals(initial.filter((variable) => !current.has(variable)), []);
    Deno.env.set("C10K_TEST_VARIABLE", "set since\ufeff é");
    try {
      await using child = spawn(
        kind,
        moduleOf(
          `await parent().send([Deno.env.get("C10K_TEST_VARIABLE"), Deno.env.get("PATH"), Deno.env.get("ONE")]);`,
        ),
        { env: { ONE: "1" } },
      );
      const expected = ["set since\ufeff é", Deno.env.get("PATH"), "1"];
      assertEquals((await next(child.messages())).message, expected);
    } finally {
      Deno.env.delete("C10K_TEST_VARIABLE");
    }
  },
);

oneKindTest(
  "process",
  "Child.closed does not wait for a program that has inherited the socket of the child",
  async (kind) => {
    for (const hello of ["", "parent();"]) {
      const child = spawn(
        kind,
        moduleOf(`
        const libc = Deno.dlopen("libc.so.6", { fcntl: { parameters: ["i32", "i32", "i32"], result: "i32" } });
        for (const when of [() => {}, () => { ${hello} }]) {
          when();
          for (let fd = 3; fd < 64; fd++) libc.symbols.fcntl(fd, 2, 0);
          new Deno.Command("sleep", { args: ["10"], stdin: "null", stdout: "null", stderr: "null" }).spawn().unref();
        }
        Deno.exit(5);
      `),
      );
      assertEquals((await deadline(child.closed, 8_000)).code, 5);
    }
  },
);

oneKindTest("process", "parent() is not for a plain Worker inside a process", async (kind) => {
  await using child = spawn(
    kind,
    moduleOf(`
      const source = ${
      JSON.stringify(moduleOf(`
        try { parent(); postMessage("taken"); } catch (error) { postMessage(error.message); }
      `))
    };
      const worker = new Worker(source, { type: "module" });
      const said = await new Promise((resolve) => worker.onmessage = ({ data }) => resolve(data));
      worker.terminate();
      await parent().send(said);
      for await (const _ of parent().messages());
    `),
  );
  assertStringIncludes((await next(child.messages())).message, "Cannot reach the parent");
});

oneKindTest("process", "a child whose line to its parent is cut ends", async () => {
  // This process is its parent, and talks itself.
  const module = moduleOf(`parent(); setInterval(() => {}, 1000);`);
  const { near, end } = spawnBeside(Deno.execPath(), ["run", "--quiet", "-A", module]);
  assertEquals((await deadline(near.receive(), 20_000)).data, HELLO);
  near.close();
  const status = await deadline(end.wait(), 20_000);
  assertEquals(status, { success: false, code: 1, signal: undefined, error: undefined });
});

oneKindTest("process", "Child.shutdown() is not undone by a child that connects when it gets SIGTERM", async (kind) => {
  using endpoint = UdpEndpoint.bind({ hostname: "127.0.0.1", port: 0 });
  await using child = spawn(
    kind,
    moduleOf(`
      Deno.addSignalListener("SIGTERM", () => void parent());
      using endpoint = UdpEndpoint.bind({ hostname: "127.0.0.1", port: 0 });
      await endpoint.sendTo(new Uint8Array(1), { hostname: "127.0.0.1", port: ${endpoint.addr.port} });
      setInterval(() => {}, 1000);
    `),
  );
  await deadline(endpoint.recvFrom(new Uint8Array(1)), 20_000);
  // Its line is cut at once, which ends it long before the grace is over.
  const status = await deadline(child.shutdown({ grace: 60_000 }), 20_000);
  assertEquals(status, { success: false, code: 1, signal: undefined, error: undefined });
});

socketTest("Link.post() carries what does not fit in one packet, and its sockets", async () => {
  const [a, b] = UnixSocket.pair();
  const [near, far] = [new Link("the far end"), new Link("the near end")];
  near.attach(new ProcessTransport(new UnixSocket(a, "near"), near, () => {}));
  far.attach(new ProcessTransport(new UnixSocket(b, "far"), far, () => {}));
  const listener = TcpListener.bind({ hostname: "127.0.0.1", port: 0, engine: "native" });
  const { addr } = listener;
  const { promise, resolve } = Promise.withResolvers<[unknown, unknown[]]>();
  far.onPacket = ({ body }, sockets) => {
    resolve([body, sockets.map((socket) => socket instanceof TcpListener && socket.addr)]);
    for (const socket of sockets) socket.close();
  };
  const body = "x".repeat(200_000);
  assertEquals(near.tryPost({ type: "pool", body }, [listener]), false);
  await near.post({ type: "pool", body }, [listener]);
  assertEquals(await promise, [body, [addr]]);
  assertEquals(listener.fd, undefined);
  for (const link of [near, far]) link.close(new Error("The test is over"));
}, !NATIVE);

socketTest("a Unix socket that is busy receiving wakes the send that waits for room", async () => {
  const [a, b] = UnixSocket.pair();
  using near = Object.assign(new UnixSocket(a, "near"), { [Symbol.dispose]: () => near.close() });
  using far = Object.assign(new UnixSocket(b, "far"), { [Symbol.dispose]: () => far.close() });
  const packet = new Uint8Array(1000);
  for (let round = 0; round < 3; round++) {
    let held = 0;
    while (near.trySend(packet, () => [], () => held++)) { /* there is room */ }
    const waiting = near.send(packet, () => [], () => {});
    for (let i = 0; i < 200; i++) {
      far.trySend(new Uint8Array(1), () => [], () => {});
      assertEquals((await near.receive()).data.length, 1);
    }
    for (let i = 0; i < held; i++) assertEquals((await far.receive()).data.length, 1000);
    await deadline(waiting, 20_000);
    assertEquals((await far.receive()).data.length, 1000);
  }
}, !NATIVE);

Deno.test("Link tells who waits that it has ended, and closes a transport that comes later", async () => {
  const link = new Link("nobody");
  const posted = link.post({ type: "pool" });
  const sent = link.send("hello");
  link.close(new Deno.errors.BrokenPipe("it has ended"));
  await assertRejects(() => posted, Deno.errors.BrokenPipe, "it has ended");
  await assertRejects(() => sent, Deno.errors.BrokenPipe, "it has ended");
  let isClosed = false;
  link.attach({
    ...{ send: () => Promise.reject(), trySend: () => true, check: () => {}, ref: () => {} },
    close: () => isClosed = true,
  });
  assert(isClosed);
});

socketTest("a message that never ends is refused", async () => {
  const [a, b] = UnixSocket.pair();
  const link = new Link("the forger");
  const { promise, resolve } = Promise.withResolvers<Error | undefined>();
  link.attach(new ProcessTransport(new UnixSocket(a, "victim"), link, resolve));
  const forger = new UnixSocket(b, "forger");
  // More follows, more follows: parts of nothing, which are held all the same.
  const more = new Uint8Array([0]);
  const sending = (async () => {
    while (true) await forger.send(more, () => [], () => {});
  })().catch((error) => error);
  const error = await deadline(promise, 10_000);
  assertEquals(error?.message, "Cannot receive: the message is too large");
  link.close(new Error("The test is over"));
  assertInstanceOf(await deadline(sending, 10_000), Error);
  forger.close();
}, !NATIVE);
