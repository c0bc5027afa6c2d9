/** Who may talk: a child and its parent, and nobody in the place of either. */

import { TcpListener } from "@c10k/sockets/tcp";
import { assert, assertEquals, assertInstanceOf, assertRejects, assertStringIncludes, assertThrows } from "@std/assert";
import { deadline } from "@std/async";
import { Link } from "../process/link.ts";
import { PARENT_VARIABLE } from "../process/names.ts";
import { ProcessTransport } from "../process/process_transport.ts";
import { UnixListener, UnixSocket } from "../process/unix_socket.ts";
import { ControlServer } from "../process/upgrade.ts";
import { ask, ECHO, moduleOf, oneKindTest, spawn } from "./_process.ts";
import { decode, ROOT, runDeno } from "./_util.ts";

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
