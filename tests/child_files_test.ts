/** What processes need of the file system, and leave there: nothing. */

import { assertEquals } from "@std/assert";
import { moduleOf, NATIVE } from "./_process.ts";
import { decode, hasCommand, ROOT } from "./_util.ts";

const CONFIG = new URL("deno.json", ROOT).pathname;
const ANSWERS = moduleOf(`for await (const { message } of parent().messages()) await parent().send("got " + message);`);
const SILENT = "data:text/javascript,setInterval(() => {}, 1000)";

/** Starts one child that talks and one that never calls parent(), and is killed itself if `end` says so. */
const program = (end: string) => `
  import { spawnProcess } from "@c10k/sockets/process";
  const talker = spawnProcess(${JSON.stringify(ANSWERS)});
  const silent = spawnProcess("${SILENT}");
  await talker.send("this");
  console.log((await talker.messages().next()).value.message);
  ${end}
  console.log("end");
`;

const ENDS = {
  "all end in peace": `await Promise.all([talker.shutdown(), silent.shutdown()]);`,
  "the children are killed": `talker.kill(); silent.kill(); await Promise.all([talker.closed, silent.closed]);`,
  "the parent is killed": `console.log("end"); Deno.kill(Deno.pid, "SIGKILL");`,
  "the parent exits": `console.log("end"); Deno.exit(0);`,
  "a child that never calls parent() ends": `silent.kill("SIGTERM"); await silent.closed; await talker.shutdown();`,
};

Deno.test({
  name: "spawnProcess() makes no folder and no file, however parent and child end",
  ignore: !NATIVE,
  async fn() {
    const folder = await Deno.makeTempDir();
    try {
      await Deno.mkdir(`${folder}/tmp`);
      const names = () => [...Deno.readDirSync(`${folder}/tmp`)].map(({ name }) => name);
      const file = `${folder}/program.ts`;
      for (const [what, end] of Object.entries(ENDS)) {
        await Deno.writeTextFile(file, program(end));
        const child = new Deno.Command(Deno.execPath(), {
          args: ["run", "--quiet", "--no-prompt", "--no-lock", "--config", CONFIG, "-A", file],
          cwd: ROOT,
          env: { NO_COLOR: "1", TMPDIR: `${folder}/tmp` },
          stdin: "null",
          stdout: "piped",
          stderr: "piped",
        }).spawn();
        const { stdout, stderr } = await child.output();
        assertEquals([decode(stdout), decode(stderr)], ["got this\nend\n", ""], what);
        assertEquals(names(), [], what);
        const left = [...Deno.readDirSync("/tmp")].filter(({ name }) => name.startsWith(`c10k-sockets-${child.pid}-`));
        assertEquals(left, [], what);
      }
    } finally {
      await Deno.remove(folder, { recursive: true });
    }
  },
});

const readOnly = async (script: string, ...args: string[]) => {
  const { code, stdout, stderr } = await new Deno.Command("unshare", {
    args: [
      "--mount",
      "sh",
      "-c",
      `set -e; mount --make-rprivate /; mount -o remount,bind,ro /; ${script}`,
      "sh",
      ...args,
    ],
    cwd: ROOT,
    env: { NO_COLOR: "1" },
    stdin: "null",
  }).output();
  return { code, stdout: decode(stdout), stderr: decode(stderr) };
};

const MAY_MOUNT = NATIVE && hasCommand("unshare") && (await readOnly("true")).code === 0;

Deno.test({
  name: `Pool of processes and spawnProcess() work with a read-only root${
    MAY_MOUNT ? "" : " (needs mount namespaces)"
  }`,
  ignore: !MAY_MOUNT,
  async fn() {
    const folder = await Deno.makeTempDir();
    try {
      const file = `${folder}/program.ts`;
      const serving = moduleOf(`serve((conn) => conn.writeAll(new Uint8Array(1)));`);
      await Deno.writeTextFile(
        file,
        `import { Pool } from "@c10k/sockets/process";
         import { TcpConn } from "@c10k/sockets/tcp";
         ${program(`await Promise.all([talker.shutdown(), silent.shutdown()]);`)}
         const listen = { hostname: "127.0.0.1", port: 0 };
         const pool = await Pool.start({ kind: "process", module: ${JSON.stringify(serving)}, size: 1, listen });
         using conn = await TcpConn.connect({ port: pool.addr.port });
         console.log(await conn.read(new Uint8Array(9)));
         await pool.close();
         try { Deno.writeTextFileSync("/tmp/c10k-read-only", ""); } catch (error) { console.log(error.code); }`,
      );
      // Everything it imports is cached by the programs above.
      const run = `exec "$1" run --quiet --no-prompt --no-lock --config "$2" -A "$3"`;
      const { stdout, stderr } = await readOnly(run, Deno.execPath(), CONFIG, file);
      assertEquals(stdout, "got this\nend\n1\nEROFS\n", stderr);
    } finally {
      await Deno.remove(folder, { recursive: true });
    }
  },
});
