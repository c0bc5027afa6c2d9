/** Children of a program that a supervisor, `nohup` or a shell has started with signals ignored or blocked. */

import { assertEquals, assertStringIncludes } from "@std/assert";
import { moduleOf, NATIVE } from "./_process.ts";
import { decode, ENGINES, type Finished, hasCommand, PATIENCE, ROOT, some } from "./_util.ts";

const LINUX = Deno.build.os === "linux" && hasCommand("env");
const MODULE = moduleOf(`serve(async (conn) => { await conn.writeAll(new TextEncoder().encode("" + Deno.pid)); });`);

/** Runs a Deno program with options of env(1) such as `--ignore-signal=CHLD`, for at most 60 s, or longer on a slow machine. */
async function runWith(signals: string[], flags: string[], source: string): Promise<Finished> {
  const file = await Deno.makeTempFile({ suffix: ".ts" });
  try {
    await Deno.writeTextFile(file, source);
    const config = new URL("deno.json", ROOT).pathname;
    const deno = [Deno.execPath(), "run", "--quiet", "--no-prompt", "--no-lock", "--config", config, ...flags, file];
    const { code, stdout, stderr } = await new Deno.Command("env", {
      args: [...signals, ...deno],
      cwd: ROOT,
      env: { NO_COLOR: "1" },
      stdin: "null",
      signal: AbortSignal.timeout(3 * PATIENCE),
    }).output();
    return { code, stdout: decode(stdout), stderr: decode(stderr) };
  } finally {
    await Deno.remove(file);
  }
}

/** Declares `status`: how a program that serves a connection has ended. */
const spawnedFor = (engine: "runtime" | "native") => `
  import { spawnFor } from "@c10k/sockets/process";
  import { TcpConn, TcpListener } from "@c10k/sockets/tcp";
  async function serveBy(command, options, act = () => {}) {
    using listener = TcpListener.bind({ hostname: "127.0.0.1", port: 0, engine: "${engine}" });
    using client = await TcpConn.connect({ port: listener.addr.port, engine: "${engine}" });
    const child = spawnFor(await listener.accept(), command, options);
    act(child);
    const text = await new Response(client.readable).text();
    const { success, code, signal, error } = await child.closed;
    child.kill();
    return [text.trim(), success, code, signal ?? null, error?.message ?? null];
  }
  const shell = (script, act) => serveBy("/bin/sh", { args: ["-c", script] }, act);
`;

const ENDS = `
  const ends = [
    await shell("echo hello; exit 3"),
    await shell("exec sleep 60", (child) => child.kill("SIGTERM")),
    await shell("exec sleep 60", (child) => child.shutdown()),
    await serveBy("true", {}),
  ];
`;

const EXPECTED_ENDS = [
  ["hello", false, 3, null, null],
  ["", false, 143, "SIGTERM", null],
  ["", false, 143, "SIGTERM", null],
  ["", true, 0, null, null],
];

const SIGNALS = [["--ignore-signal=CHLD"], ["--block-signal=CHLD"], ["--ignore-signal=CHLD", "--block-signal=CHLD"]];

for (const signals of some(1, SIGNALS)) {
  for (const engine of ENGINES) {
    Deno.test({
      name: `[${engine}] spawnFor() tells how programs end with env ${signals.join(" ")}`,
      ignore: !LINUX,
      async fn() {
        const source = `${spawnedFor(engine)}${ENDS}console.log(JSON.stringify(ends));`;
        const { stdout, stderr } = await runWith(signals, ["--allow-all"], source);
        assertEquals([JSON.parse(stdout || "0"), stderr], [EXPECTED_ENDS, ""]);
      },
    });
  }

  Deno.test({
    name: `spawnProcess() and Pool go on when children end with env ${signals.join(" ")}`,
    ignore: !LINUX || !NATIVE,
    async fn() {
      const { code, stdout, stderr } = await runWith(
        signals,
        ["--allow-all"],
        `
        import { Pool, spawnProcess } from "@c10k/sockets/process";
        import { TcpConn } from "@c10k/sockets/tcp";
        const ends = [];
        const end = async (child, act) => {
          act(child);
          const { success, code, signal, error } = await child.closed;
          child.kill();
          ends.push([success, code, signal ?? null, error?.message ?? null]);
        };
        const waiting = "data:text/javascript,setInterval(() => {}, 1000)";
        await end(spawnProcess("data:text/javascript,Deno.exit(7)"), () => {});
        await end(spawnProcess("data:text/javascript,"), () => {});
        await end(spawnProcess(waiting), (child) => child.kill("SIGTERM"));
        await end(spawnProcess(waiting), (child) => child.shutdown());
        console.log(JSON.stringify(ends));

        const listen = { hostname: "127.0.0.1", port: 0 };
        const pool = await Pool.start({ kind: "process", module: ${JSON.stringify(MODULE)}, size: 1, listen });
        const visit = async () => {
          using conn = await TcpConn.connect({ port: pool.addr.port });
          return Number(await new Response(conn.readable).text());
        };
        const first = await visit();
        Deno.kill(first, "SIGKILL");
        while (pool.stats().every(({ pid, state }) => pid === first || state !== "serving")) {
          await new Promise((resolve) => setTimeout(resolve, 10));
        }
        const second = await visit();
        await pool.reload();
        const third = await visit();
        await pool.close();
        console.log(new Set([first, second, third]).size);`,
      );
      const ends = [[false, 7, null, null], [true, 0, null, null], [false, 143, "SIGTERM", null], [
        false,
        143,
        "SIGTERM",
        null,
      ]];
      assertEquals([code, stdout], [0, `${JSON.stringify(ends)}\n3\n`], stderr);
    },
  });
}

Deno.test({
  name: "[runtime] spawnFor() says that a status is lost while SIGCHLD is ignored, and only the first time",
  ignore: !LINUX,
  async fn() {
    const source = `${spawnedFor("runtime")}${ENDS}console.log(JSON.stringify(ends));`;
    const { stdout, stderr } = await runWith(["--ignore-signal=CHLD"], ["--allow-net", "--allow-run"], source);
    const why = "Cannot tell how /bin/sh has ended: its status is lost, since SIGCHLD was ignored (ECHILD)";
    const [first, ...others] = EXPECTED_ENDS;
    assertEquals([JSON.parse(stdout || "0"), stderr], [[[first?.[0], false, -1, null, why], ...others], ""]);
  },
});

Deno.test({
  name: "[native] a status is lost if SIGCHLD becomes ignored while a child runs, and that is told",
  ignore: !LINUX || !NATIVE,
  async fn() {
    const { stdout, stderr } = await runWith(
      [],
      ["--allow-all"],
      `${spawnedFor("native")}
      import { spawnProcess } from "@c10k/sockets/process";
      const { symbols } = Deno.dlopen("libc.so.6", { signal: { parameters: ["i32", "usize"], result: "usize" } });
      const ignore = () => { symbols.signal(17, 1n); };
      console.log(JSON.stringify(await shell("read line; exit 3", (child) => { ignore(); child.kill("SIGTERM"); })));
      const child = spawnProcess("data:text/javascript,setInterval(() => {}, 1000)", { name: "x" });
      ignore();
      child.kill();
      const { success, code, signal, error } = await child.closed;
      console.log(success, code, signal, error.message.replace(/process \\d+/, "process"), error.cause.code);
      // And the next one is well again.
      console.log(JSON.stringify(await shell("exit 4")));`,
    );
    const why = (name: string) =>
      `Cannot tell how ${name} has ended: its status is lost, since SIGCHLD was ignored (ECHILD)`;
    assertEquals([stdout, stderr], [
      [
        JSON.stringify(["", false, -1, null, why("/bin/sh")]),
        `false -1 undefined ${why("process (x)")} ECHILD`,
        `["",false,4,null,null]\n`,
      ].join("\n"),
      "",
    ]);
  },
});

Deno.test({
  name: "programs begin with no signal blocked, and with none ignored but what nohup and shells ignore",
  ignore: !LINUX || !NATIVE,
  async fn() {
    const signals = ["--ignore-signal=HUP,INT,QUIT,TERM,CHLD,USR1,PIPE", "--block-signal=TERM,USR2,CHLD"];
    const { stdout, stderr } = await runWith(
      signals,
      ["--allow-all"],
      `${spawnedFor("native")}
      import { spawnProcess } from "@c10k/sockets/process";
      console.log((await serveBy("grep", { args: ["-E", "Sig(Blk|Ign)", "/proc/self/status"] }))[0]);
      const module = "data:text/javascript,console.log(Deno.readTextFileSync('/proc/self/status').match(/SigBlk.*\\\\nSigIgn.*/)[0])";
      await spawnProcess(module).closed;`,
    );
    // Half a second after its start Deno handles SIGHUP and SIGINT itself, and leaves SIGQUIT alone.
    const compared = 0x7fffffffn & ~(1n << 0n | 1n << 1n);
    const masks = [...stdout.matchAll(/Sig(Blk|Ign):\s*([0-9a-f]+)/g)].map(([, , mask]) =>
      BigInt(`0x${mask}`) & compared
    );
    const kept = 1n << 2n;
    // Deno itself ignores SIGPIPE.
    assertEquals([masks, stderr], [[0n, kept, 0n, kept | 1n << 12n], ""]);
  },
});

Deno.test({
  name: "[native] SIGCHLD of a program that handles it itself stays as it is",
  ignore: !LINUX || !NATIVE,
  async fn() {
    const { stdout } = await runWith(
      [],
      ["--allow-all"],
      `${spawnedFor("native")}
      let heard = 0;
      Deno.addSignalListener("SIGCHLD", () => heard++);
      console.log((await shell("exit 3"))[2]);
      for (let i = 0; i < 1_000 && heard === 0; i++) await new Promise((resolve) => setTimeout(resolve, 5));
      console.log(heard > 0 ? "heard" : "not heard");
      Deno.exit();`,
    );
    assertStringIncludes(stdout, "3\nheard");
  },
});
