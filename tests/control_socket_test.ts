/** Who may talk: a child and its parent, and nobody in the place of either. */

import { TcpListener } from "@c10k/sockets/tcp";
import { UdpEndpoint } from "@c10k/sockets/udp";
import { assert, assertEquals, assertInstanceOf, assertRejects, assertStringIncludes, assertThrows } from "@std/assert";
import { deadline } from "@std/async";
import { Link } from "../process/link.ts";
import { PARENT_VARIABLE } from "../process/names.ts";
import { ProcessTransport } from "../process/process_transport.ts";
import { UnixListener, UnixSocket } from "../process/unix_socket.ts";
import { ControlServer } from "../process/upgrade.ts";
import { untilRefused } from "./_pool.ts";
import { ask, childTest, ECHO, moduleOf, NATIVE, next, oneKindTest, spawn } from "./_process.ts";
import { decode, ROOT, runDeno, socketTest } from "./_util.ts";

/** Where a child finds its parent. */
function controlPath(pid: number | undefined): string {
  const variables = Deno.readTextFileSync(`/proc/${pid}/environ`).split("\0");
  const path = variables.find((variable) => variable.startsWith(`${PARENT_VARIABLE}=`))?.split("=")[1];
  assert(path !== undefined);
  return path;
}

/** Connects to a path and waits until the other side closes. */
async function knock(path: string): Promise<void> {
  const socket = UnixSocket.connect(path, "the victim");
  try {
    socket.trySend(new Uint8Array([1, 2, 3]), () => [], () => {});
    await deadline(socket.receive(), 5_000).then(
      ({ data }) => assertEquals(data.length, 0),
      (error) => assertInstanceOf(error, Deno.errors.ConnectionReset),
    );
  } finally {
    socket.close();
  }
}

oneKindTest("process", "spawnProcess() lets nobody but the child connect", async (kind) => {
  await using child = spawn(kind, ECHO);
  child.kill("SIGSTOP");
  const path = controlPath(child.pid);
  const folder = path.slice(0, path.lastIndexOf("/"));
  const modes = [folder, path].map((path) => (Deno.statSync(path).mode ?? 0) & 0o777);
  assertEquals(modes, [0o700, 0o600]);
  // Before the child comes: from this process, and from another of the same user.
  await knock(path);
  await knock(path);
  const { code, stderr } = await runDeno(
    ["--allow-all"],
    `
    import { UnixSocket } from "${new URL("process/unix_socket.ts", ROOT)}";
    const socket = UnixSocket.connect(${JSON.stringify(path)}, "the victim");
    const { data } = await socket.receive();
    socket.close();
    Deno.exit(data.length === 0 ? 42 : 1);`,
  );
  assertEquals([code, stderr], [42, ""]);
  child.kill("SIGCONT");
  assertEquals((await ask(child, "hello")).message.pid, child.pid);
  // And afterwards nobody can.
  assertThrows(() => Deno.statSync(folder), Deno.errors.NotFound);
  assertThrows(() => UnixSocket.connect(path, "the victim"), Error, "ENOENT");
  assertEquals((await ask(child, "again")).message.message, "again");
});

oneKindTest("process", "parent() believes nobody but the process that has started this one", async () => {
  const folder = await Deno.makeTempDir();
  const listener = new UnixListener(`${folder}/control`).publish();
  try {
    const abort = new AbortController();
    const accepting = listener.accept(abort.signal).then((socket) => socket.close(), () => {});
    const module = `${folder}/child.js`;
    await Deno.writeTextFile(
      module,
      decodeURIComponent(
        moduleOf(`try { parent(); Deno.exit(1); } catch (error) { console.log(error.message); }`).split(
          ",",
        )[1] as string,
      ),
    );
    // The shell stands between: it is the parent of the child.
    const { stdout } = await new Deno.Command("sh", {
      args: ["-c", `"${Deno.execPath()}" run --quiet -A "${module}"; exit $?`],
      env: { [PARENT_VARIABLE]: listener.path, NO_COLOR: "1" },
    }).output();
    abort.abort();
    await accepting;
    assertEquals(
      decode(stdout).trim(),
      "Cannot reach the parent: this program was not started by spawnWorker or spawnProcess",
    );
  } finally {
    listener.close();
    await Deno.remove(folder, { recursive: true });
  }
});

const UNIX_SOCKET = new URL("process/unix_socket.ts", ROOT);

for (
  const [what, bytes] of [
    ["garbage", `[1, 2, 3, 4]`],
    ["credit that is no number", `[1, ...serialize({ packet: { type: "credit", body: "1" }, kinds: [] })]`],
  ] as const
) {
  oneKindTest("process", `a child that writes ${what} to its parent is ended, and no other`, async (kind) => {
    await using good = spawn(kind, ECHO);
    await using bad = spawn(
      kind,
      moduleOf(`
        import { UnixSocket } from "${UNIX_SOCKET}";
        import { serialize } from "node:v8";
                const socket = UnixSocket.connect(Deno.env.get("${PARENT_VARIABLE}"), "the parent");
        await socket.receive();
        await socket.send(new Uint8Array(${bytes}), () => [], () => {});
        setInterval(() => {}, 1000);
      `),
    );
    await ask(good, "before");
    await bad.send("go");
    const { success, signal, error } = await deadline(bad.closed, 10_000);
    assertEquals([success, signal], [false, "SIGKILL"]);
    assertInstanceOf(error, Error);
    assertStringIncludes(error.message, "Cannot receive");
    await assertRejects(() => bad.send("after the end"), Deno.errors.BrokenPipe);
    assertEquals((await ask(good, "after")).message.message, "after");
  });
}

childTest("what a child sends to a pool that there is not is closed, and nobody else is told", async (kind) => {
  const module = moduleOf(`
    import { thePort } from "${new URL("process/parent.ts", ROOT)}";
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

oneKindTest("process", "parent() says why nobody is where the parent should be", async () => {
  const { stdout } = await new Deno.Command(Deno.execPath(), {
    args: [
      "run",
      "--quiet",
      "-A",
      moduleOf(`try { parent(); } catch (error) { console.log(error.message, error.cause.code); }`),
    ],
    env: { [PARENT_VARIABLE]: "/nowhere/control", NO_COLOR: "1" },
  }).output();
  assertEquals(
    decode(stdout).trim(),
    "Cannot reach the parent: this program was not started by spawnWorker or spawnProcess ENOENT",
  );
});

oneKindTest("process", "a child whose line to its parent is cut ends", async () => {
  const folder = await Deno.makeTempDir();
  const listener = new UnixListener(`${folder}/control`).publish();
  try {
    // This process is its parent, and talks itself.
    const child = new Deno.Command(Deno.execPath(), {
      args: ["run", "--quiet", "-A", moduleOf(`parent(); setInterval(() => {}, 1000);`)],
      env: { [PARENT_VARIABLE]: listener.path },
    }).spawn();
    (await deadline(listener.accept(), 10_000)).close();
    assertEquals(await deadline(child.status, 10_000), { success: false, code: 1, signal: null });
  } finally {
    listener.close();
    await Deno.remove(folder, { recursive: true });
  }
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
