/** The file of a control socket: nothing else is made, and nothing is removed that is another's. */

import { Pool } from "@c10k/sockets/process";
import { assert, assertEquals, assertInstanceOf, assertRejects, assertThrows } from "@std/assert";
import { SyscallError } from "../internal/errors.ts";
import { statusOf } from "../internal/file_status.ts";
import { loadLibc } from "../internal/libc.ts";
import { UnixListener, UnixSocket } from "../process/message/unix_socket.ts";
import { takeOver } from "../process/pool/upgrade.ts";
import { ECHO, visit } from "./_pool.ts";
import { NATIVE, oneKindTest } from "./_process.ts";
import { long, runDeno, socketTest } from "./_util.ts";

if (NATIVE) loadLibc();

/** A test with an empty folder, which tells the names in it. */
function folderTest(name: string, fn: (folder: string, names: () => string[]) => Promise<void> | void): void {
  socketTest(name, async () => {
    const folder = await Deno.makeTempDir();
    try {
      await fn(folder, () => [...Deno.readDirSync(folder)].map(({ name }) => name).sort());
    } finally {
      await Deno.remove(folder, { recursive: true });
    }
  }, !NATIVE);
}

const OPTIONS = {
  kind: "worker",
  module: ECHO,
  size: 1,
  signals: false,
  listen: { hostname: "127.0.0.1", port: 0 },
} as const;

/** What stands at a path, as `ls -l` would tell it. */
function kindAt(path: string): string {
  const { isSocket, isFile, isDirectory, isSymlink } = Deno.lstatSync(path);
  return isSocket ? "socket" : isFile ? "file" : isDirectory ? "folder" : isSymlink ? "link" : "other";
}

folderTest(
  "UnixListener makes its file when it is published, and removes it when it is closed, once",
  (folder, names) => {
    const path = `${folder}/control`;
    const listener = new UnixListener(path);
    assertEquals(names(), []);
    listener.publish();
    assertEquals(names(), ["control"]);
    assertEquals((Deno.lstatSync(path).mode ?? 0) & 0o777, 0o600);
    listener.close();
    assertEquals(names(), []);
    Deno.writeTextFileSync(path, "another's");
    listener.close();
    assertEquals(names(), ["control"]);
    // One that was never published has made none.
    new UnixListener(path).close();
    assertEquals(Deno.readTextFileSync(path), "another's");
  },
);

folderTest("UnixListener leaves alone whatever has been put in the place of its file", (folder) => {
  const path = `${folder}/control`;
  Deno.writeTextFileSync(`${folder}/target`, "mine");
  Deno.mkdirSync(`${folder}/other`);
  const puts: Record<string, () => unknown> = {
    file: () => Deno.writeTextFileSync(path, "another's"),
    link: () => Deno.symlinkSync(`${folder}/target`, path),
    folder: () => Deno.mkdirSync(path),
  };
  for (const [kind, put] of Object.entries(puts)) {
    const listener = new UnixListener(path).publish();
    Deno.removeSync(path);
    put();
    listener.close();
    assertEquals(kindAt(path), kind);
    Deno.removeSync(path);
  }
  assertEquals(Deno.readTextFileSync(`${folder}/target`), "mine");
  // A socket of somebody else, who is found by the path now.
  const first = new UnixListener(path).publish();
  Deno.removeSync(path);
  const second = new UnixListener(path).publish();
  first.close();
  assertEquals(kindAt(path), "socket");
  UnixSocket.connect(path, "the second").close();
  // And its own file under a different name stays there: it is no longer the path's.
  Deno.renameSync(path, `${folder}/other/control`);
  second.close();
  assertEquals(kindAt(`${folder}/other/control`), "socket");
});

folderTest(
  "UnixListener.publish() takes the place of a socket that nobody serves, and of nothing else",
  (folder, names) => {
    const path = `${folder}/control`;
    leaveAt(path);
    const served = new UnixListener(path).publish();
    UnixSocket.connect(path, "the listener").close();
    // Somebody serves it, also one who speaks differently.
    const [before, taken] = [statusOf(path, false), new UnixListener(path)];
    assertThrows(() => taken.publish(), Deno.errors.AddrInUse, "EADDRINUSE");
    assertEquals(statusOf(path, false), before);
    served.close();
    const foreign = Deno.listen({ transport: "unix", path });
    assertThrows(() => new UnixListener(path).publish(), Deno.errors.AddrInUse);
    assertEquals(kindAt(path), "socket");
    foreign.close();
    // What is no socket stays.
    Deno.symlinkSync(`${folder}/elsewhere`, path);
    assertThrows(() => new UnixListener(path).publish(), Deno.errors.AlreadyExists, "no socket");
    leaveAt(`${folder}/elsewhere`);
    assertThrows(() => new UnixListener(path).publish(), Deno.errors.AlreadyExists, "no socket");
    assertEquals([kindAt(path), kindAt(`${folder}/elsewhere`)], ["link", "socket"]);
    Deno.removeSync(path);
    Deno.mkdirSync(path);
    assertThrows(() => new UnixListener(path).publish(), Deno.errors.AlreadyExists, "no socket");
    Deno.removeSync(path);
    Deno.writeTextFileSync(path, "a file");
    assertThrows(() => new UnixListener(path).publish(), Deno.errors.AlreadyExists, "no socket");
    assertEquals(Deno.readTextFileSync(path), "a file");
    assertEquals(names(), ["control", "elsewhere"]);
  },
);

/** A socket that nobody serves, as a program leaves it behind that was killed. */
function leaveAt(path: string): void {
  new UnixListener(path).publish().close(true);
}

folderTest("UnixListener.publish() leaves another user's socket, and waits for a folder that is locked", (folder) => {
  const path = `${folder}/control`;
  const lock = Deno.openSync(folder);
  lock.lockSync(true);
  const why = "its folder is locked by another program (flock)";
  assertThrows(() => new UnixListener(path).publish(), Deno.errors.Busy, why);
  lock.close();
  new UnixListener(path).publish().close();
  if (Deno.uid() !== 0) return; // who cannot make a file another user's
  leaveAt(path);
  Deno.chownSync(path, 12_345, 12_345);
  assertThrows(() => new UnixListener(path).publish(), Deno.errors.PermissionDenied, "another user's socket");
  assertEquals(kindAt(path), "socket");
});

folderTest("UnixListener.publish() says why it cannot be bound", (folder, names) => {
  const missing = new UnixListener(`${folder}/missing/control`);
  assertThrows(() => missing.publish(), SyscallError, "ENOENT");
  assertThrows(() => new UnixListener(`${folder}/${"x".repeat(108)}`), RangeError, "less than 108 bytes");
  assertThrows(() => UnixSocket.connect("x".repeat(108), "nobody"), RangeError, "less than 108 bytes");
  for (const path of [`${folder}/a\0b`, "\0abstract", `${folder}/a\ud800`]) {
    assertThrows(() => new UnixListener(path), TypeError, "without zeros and lone surrogates");
    assertThrows(() => UnixSocket.connect(path, "nobody"), TypeError, "without zeros and lone surrogates");
  }
  // sysfs takes no files, whoever asks.
  assertInstanceOf(attempt(() => new UnixListener("/sys/control").publish()), SyscallError);
  assertEquals(names(), []);
});

function attempt(call: () => unknown): unknown {
  try {
    return call();
  } catch (error) {
    return error;
  }
}

folderTest("takeOver() touches nothing but a socket that nobody serves", async (folder) => {
  const path = `${folder}/control`;
  Deno.mkdirSync(path);
  await assertRejects(() => takeOver(path), Deno.errors.AlreadyExists, "no socket");
  Deno.removeSync(path);
  // Not even by way of a link, to a socket that is served.
  const elsewhere = new UnixListener(`${folder}/elsewhere`).publish();
  Deno.symlinkSync(`${folder}/elsewhere`, path);
  await assertRejects(() => takeOver(path), Deno.errors.AlreadyExists, "no socket");
  elsewhere.close();
  leaveAt(`${folder}/elsewhere`);
  await assertRejects(() => takeOver(path), Deno.errors.AlreadyExists, "no socket");
  assertEquals(kindAt(`${folder}/elsewhere`), "socket");
});

folderTest("statusOf() tells what the kernel does", (folder) => {
  Deno.writeTextFileSync(`${folder}/file`, "");
  Deno.symlinkSync("file", `${folder}/link`);
  const file = Deno.lstatSync(`${folder}/file`);
  const expected = { device: BigInt(file.dev), inode: BigInt(file.ino ?? 0), type: "file", uid: file.uid };
  assertEquals(statusOf(`${folder}/file`, false), { ...expected, type: "file", uid: file.uid ?? -1 });
  assertEquals(statusOf(`${folder}/link`, true), statusOf(`${folder}/file`, false));
  assertEquals(statusOf(`${folder}/link`, false)?.type, "other");
  assertEquals(statusOf(`${folder}/file/none`, false), undefined);
  assertEquals(statusOf(folder, false)?.type, "other");
  Deno.symlinkSync("loop", `${folder}/loop`);
  assertThrows(() => statusOf(`${folder}/loop`, true), SyscallError, "ELOOP");
});

long(oneKindTest)(
  "worker",
  "Pool makes no file but its control socket, and leaves those alone that are named alike",
  async () => {
    const folder = await Deno.makeTempDir();
    const control = `${folder}/control`;
    try {
      // Nothing is appended to the path.
      Deno.writeTextFileSync(`${control}.${Deno.pid}`, "precious");
      const events: string[] = [];
      const watcher = Deno.watchFs(folder);
      const watching = (async () => {
        for await (const { paths } of watcher) events.push(...paths);
      })();
      {
        await using old = await Pool.start({ ...OPTIONS, control });
        await using next = await Pool.start({ ...OPTIONS, control });
        await old.closed;
        assertEquals(next.addr, old.addr);
        // Its socket is the old one's: at no moment was there none.
        await visit(next.addr.port);
        await using last = await Pool.start({ ...OPTIONS, control });
        await next.closed;
        assertEquals(last.addr, old.addr);
      }
      assertThrows(() => Deno.lstatSync(control), Deno.errors.NotFound);
      watcher.close();
      await watching;
      assertEquals(events.filter((path) => path !== control && path !== folder), []);
      assertEquals(Deno.readTextFileSync(`${control}.${Deno.pid}`), "precious");
    } finally {
      await Deno.remove(folder, { recursive: true });
    }
  },
);

oneKindTest("worker", "Pool.close() leaves a file alone that has been put in the place of its socket", async () => {
  const folder = await Deno.makeTempDir();
  const control = `${folder}/control`;
  try {
    for (const isTaken of [false, true]) {
      const first = await Pool.start({ ...OPTIONS, control });
      const pool = isTaken ? await Pool.start({ ...OPTIONS, control }) : first;
      Deno.removeSync(control);
      Deno.writeTextFileSync(control, "another's");
      await pool.close();
      await first.close();
      assertEquals(Deno.readTextFileSync(control), "another's");
      await assertRejects(() => Pool.start({ ...OPTIONS, control }), Deno.errors.AlreadyExists, "no socket");
      assertEquals(Deno.readTextFileSync(control), "another's");
      Deno.removeSync(control);
    }
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
});

long(oneKindTest)("worker", "Pool.start() leaves one control socket if two start at once", async () => {
  const folder = await Deno.makeTempDir();
  const control = `${folder}/control`;
  try {
    leaveAt(control);
    const started = await Promise.allSettled([1, 2, 3].map(() => Pool.start({ ...OPTIONS, control })));
    const pools = started.flatMap((one) => one.status === "fulfilled" ? one.value : []);
    const errors = started.flatMap((one) => one.status === "rejected" ? one.reason : []);
    assert(pools.length >= 1, String(errors));
    for (const error of errors) assert(error instanceof Deno.errors.AddrInUse || error instanceof Deno.errors.Busy);
    // Whoever comes next takes over from the one that is found at the path.
    await using next = await Pool.start({ ...OPTIONS, control });
    assert(pools.some(({ addr }) => addr.port === next.addr.port));
    for (const pool of pools) await pool.close();
    assertEquals(kindAt(control), "socket");
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
});

/** What `Pool.start` comes to with each path, in a program with these flags. */
async function startsWith(flags: string[], controls: string[]): Promise<string[]> {
  const source = `
    import { Pool } from "@c10k/sockets/process";
    const options = { kind: "worker", per: "connection", module: "data:,", signals: false };
    for (const control of ${JSON.stringify(controls)}) {
      try {
        const pool = await Pool.start({ ...options, listen: { hostname: "127.0.0.1", port: 0 }, control });
        await pool.close();
        console.log("closed");
      } catch (error) {
        console.log(error.name);
      }
    }
    Deno.exit(0);`;
  const { stdout, stderr } = await runDeno(["--allow-net", "--allow-ffi", ...flags], source);
  assertEquals(stderr, "");
  return stdout.trim().split("\n");
}

Deno.test({
  name: "Pool with control needs the permissions for that path and no other, and nothing gets past them",
  ignore: !NATIVE,
  async fn() {
    const folder = await Deno.realPath(await Deno.makeTempDir());
    try {
      await Deno.mkdir(`${folder}/in/deep`, { recursive: true });
      await Deno.mkdir(`${folder}/out/deep`, { recursive: true });
      await Deno.symlink(`${folder}/out/deep`, `${folder}/in/link`);
      await Deno.writeTextFile(`${folder}/out/file`, "mine");
      const tables: [string, Record<string, string>][] = [
        [`${folder}/in/control`, {
          [`${folder}/in/control`]: "closed",
          [`${folder}/in/./deep/../control`]: "closed",
          [`${folder}/in/control2`]: "NotCapable",
          [`${folder}/in/control\0/../../x`]: "TypeError",
          [`${folder}/in/control\ud800`]: "TypeError",
        }],
        [`${folder}/in`, {
          [`${folder}/out/control\0/../../in/x`]: "TypeError",
          [`${folder}/out/control`]: "NotCapable",
          [`${folder}/in/../out/control`]: "NotCapable",
          // The kernel would be led to out/control.
          [`${folder}/in/link/../control`]: "closed",
          "\0abstract": "TypeError",
          "": "TypeError",
          [`${folder}/in/`]: "TypeError",
        }],
      ];
      for (const [path, table] of tables) {
        const results = await startsWith(["--allow-read", `--allow-write=${path}`], Object.keys(table));
        assertEquals(results, Object.values(table));
      }
      const left = [...Deno.readDirSync(`${folder}/out`)].map(({ name }) => name).sort();
      assertEquals(left, ["deep", "file"]);
      assertEquals([...Deno.readDirSync(`${folder}/in`)].map(({ name }) => name).sort(), ["deep", "link"]);
    } finally {
      await Deno.remove(folder, { recursive: true });
    }
  },
});
