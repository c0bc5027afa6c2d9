/**
 * Sockets of a service manager: `listenFds()`, with systemd's own launcher where it is installed, and with one that
 * sets the variables as sd_listen_fds(3) says, which can also set them wrong.
 */

import { listenFds, openSockets } from "@c10k/sockets/process";
import { engineSupport, TcpConn, TcpListener } from "@c10k/sockets/tcp";
import { UdpEndpoint } from "@c10k/sockets/udp";
import { assert, assertEquals, assertStringIncludes, assertThrows } from "@std/assert";
import { delay } from "@std/async";
import { reap, spawn } from "../process/program/posix_spawn.ts";
import { Descriptors } from "./_kernel.ts";
import { withoutOrphans } from "./_process.ts";
import {
  clientTest,
  decode,
  encode,
  eventually,
  freePort,
  readExactly,
  readText,
  ROOT,
  withoutLeaks,
} from "./_util.ts";

const native = engineSupport().engine === "native";

function nativeTest(name: string, fn: () => Promise<void>): void {
  Deno.test({ name, ignore: !native, fn: () => withoutOrphans(() => withoutLeaks(fn)) });
}

const IMPORTS = `
  import { listenFds } from "${import.meta.resolve("@c10k/sockets/process")}";
  import { TcpListener } from "${import.meta.resolve("@c10k/sockets/tcp")}";
  const shown = (sockets) => sockets.map((socket) => [socket.constructor.name, socket.addr.port]);
  const tried = (call) => { try { return call(); } catch (error) { return [error.name, error.message]; } };
  const say = (what) => console.log(JSON.stringify(what));
`;

function moduleOf(text: string): string {
  return `data:text/javascript,${encodeURIComponent(IMPORTS + text)}`;
}

/**
 * The environment of programs that do not inherit that of this process. It says where Deno's cache is (`DENO_DIR`,
 * `HOME`, `XDG_CACHE_HOME`): a program that looks elsewhere finds no packages, and has to download them.
 */
const ENVIRONMENT: Readonly<Record<string, string>> = Object.fromEntries(
  Object.entries({ ...Deno.env.toObject(), NO_COLOR: "1" }).filter(([name]) => /^(?!LISTEN_)[A-Za-z_]\w*$/.test(name)),
);

/** Options of `systemd-socket-activate`, which passes on nothing but `PATH`, `HOME`, `USER` and `TERM`. */
const PASSED_ON = Object.keys(ENVIRONMENT).map((name) => `--setenv=${name}`);

/**
 * Starts a Deno program with descriptors from 3 on, as a service manager does, and returns the lines that it prints.
 * `LISTEN_PID` is its own unless it is given; nothing but `--allow-ffi` is granted, if not `more`.
 */
async function launch(
  fds: number[],
  variables: Record<string, string>,
  text: string,
  more: string[] = [],
): Promise<unknown[]> {
  using descriptors = new Descriptors();
  const output = await Deno.makeTempFile();
  try {
    const [stdin, stdout] = [descriptors.file("/dev/null"), descriptors.file(output, "write")];
    const pid = spawn({
      file: "/bin/sh",
      command: "sh",
      // The shell becomes Deno, so that it has the number that is said.
      args: [
        "-c",
        'LISTEN_PID=${LISTEN_PID-$$} exec "$0" "$@"',
        Deno.execPath(),
        ...["run", "--quiet", "--no-prompt", "--allow-ffi", ...more, moduleOf(text)],
      ],
      environment: Object.entries({
        ...ENVIRONMENT,
        ...variables,
      }).map(([name, value]) => `${name}=${value}`),
      cwd: ROOT.pathname,
    }, [stdin, stdout, stdout, ...fds]);
    const pidfd = descriptors.pidfd(pid);
    let ended = reap(pidfd);
    for (; ended === undefined; ended = reap(pidfd)) await delay(5);
    const { code } = ended;
    const printed = await Deno.readTextFile(output);
    assertEquals(code, 0, printed);
    return printed.trim().split("\n").map((line) => JSON.parse(line));
  } finally {
    await Deno.remove(output);
  }
}

nativeTest("listenFds() takes the sockets in their order, once each, and by their name", async () => {
  using web = TcpListener.bind({ hostname: "127.0.0.1", port: 0 });
  using dns = UdpEndpoint.bind({ hostname: "127.0.0.1", port: 0 });
  using admin = TcpListener.bind({ hostname: "127.0.0.1", port: 0 });
  const lines = await launch(
    [web, dns, admin].map(({ fd }) => fd as number),
    { LISTEN_FDS: "3", LISTEN_FDNAMES: "web:dns:admin" },
    `say(shown(listenFds({ name: "dns" })));
     say(shown(listenFds({ name: "none" })));
     say(shown(listenFds()));
     say(shown(listenFds()));`,
  );
  assertEquals(lines, [
    [["UdpEndpoint", dns.addr.port]],
    [],
    [["TcpListener", web.addr.port], ["TcpListener", admin.addr.port]],
    [],
  ]);
});

nativeTest("listenFds() gives listeners that accept, also who came before the program", async () => {
  using listener = TcpListener.bind({ hostname: "127.0.0.1", port: 0 });
  using client = await TcpConn.connect({ port: listener.addr.port });
  const { fd } = listener;
  const [line] = await launch(
    [fd as number],
    { LISTEN_FDS: "1" },
    `const [listener] = listenFds({ name: "unknown" }); // what it is called without LISTEN_FDNAMES
     using conn = await listener.accept();
     await conn.writeAll(new TextEncoder().encode("hello"));
     say(conn.remoteAddr.port);`,
  );
  assertEquals(line, client.localAddr.port);
  assertEquals(decode(await readExactly(client, 5)), "hello");
});

nativeTest("listenFds() is empty for a program that was not started that way", async () => {
  using listener = TcpListener.bind({ hostname: "127.0.0.1", port: 0 });
  const fds = [listener.fd as number];
  for (const variables of [{}, { LISTEN_FDS: "1", LISTEN_PID: "1" }, { LISTEN_FDS: "0" }]) {
    assertEquals(await launch(fds, variables, `say(shown(listenFds()));`), [[]], JSON.stringify(variables));
  }
});

nativeTest("listenFds() refuses variables that make no sense, and sockets that there is no class for", async () => {
  using listener = TcpListener.bind({ hostname: "127.0.0.1", port: 0 });
  using client = await TcpConn.connect({ port: listener.addr.port });
  using server = await listener.accept();
  using descriptors = new Descriptors();
  const [unix] = descriptors.pair();
  const of = { listener: listener.fd as number, conn: server.fd as number, unix, file: descriptors.file("/dev/null") };
  assertEquals(client.engine, "native");
  for (
    const [fds, variables, name, text] of [
      [["listener"], { LISTEN_FDS: "x" }, "InvalidData", "LISTEN_FDS must be a whole number"],
      [["listener"], { LISTEN_FDS: "-1" }, "InvalidData", "LISTEN_FDS must be a whole number"],
      [["listener"], { LISTEN_FDS: "1", LISTEN_PID: "me" }, "InvalidData", "LISTEN_PID must be a whole number"],
      [["listener"], { LISTEN_FDS: "1000000" }, "InvalidData", "is not open"],
      [
        ["listener"],
        { LISTEN_FDS: "1", LISTEN_FDNAMES: "a:b" },
        "InvalidData",
        "has 2 names, LISTEN_FDS 1 descriptors",
      ],
      [["listener", "unix"], { LISTEN_FDS: "2" }, "NotSupported", "it is a stream socket of another protocol"],
      [["conn"], { LISTEN_FDS: "1" }, "NotSupported", "it is a connected TCP socket"],
      [["file"], { LISTEN_FDS: "1" }, "NotSupported", "it is no socket"],
    ] as [(keyof typeof of)[], Record<string, string>, string, string][]
  ) {
    const [result] = await launch(fds.map((name) => of[name]), variables, `say(tried(() => listenFds()));`);
    assertEquals((result as string[])[0], name);
    assertStringIncludes((result as string[])[1] as string, text);
  }
  // What can be taken is there still.
  const lines = await launch(
    [of.listener, of.unix],
    { LISTEN_FDS: "2", LISTEN_FDNAMES: "tcp:unix" },
    `say(tried(() => listenFds())[0]); say(shown(listenFds({ name: "tcp" }))); say(tried(() => listenFds({ name: 5 }))[0]);`,
  );
  assertEquals(lines, ["NotSupported", [["TcpListener", listener.addr.port]], "TypeError"]);
});

nativeTest("listenFds() gives a socket to one thread only, and to no program that is started", async () => {
  using first = TcpListener.bind({ hostname: "127.0.0.1", port: 0 });
  using second = TcpListener.bind({ hostname: "127.0.0.1", port: 0 });
  const worker = moduleOf(`postMessage(shown(listenFds()));`);
  const asked = moduleOf(`
    onmessage = () => {
      postMessage(shown(listenFds()));
      self.close();
    };
    postMessage("here");
  `);
  const lines = await launch(
    [first.fd as number, second.fd as number],
    { LISTEN_FDS: "2" },
    `const [first, second] = listenFds();
     first.close();
     // Takes the number that is free now, and is nobody's business.
     using other = TcpListener.bind({ hostname: "127.0.0.1", port: 0 });
     const worker = new Worker(${JSON.stringify(worker)}, { type: "module" });
     const { data } = await new Promise((resolve) => worker.onmessage = resolve);
     worker.terminate();
     say(data);
     say([other.fd, second.addr.port]);
     // And where the number is nobody's now.
     const later = new Worker(${JSON.stringify(asked)}, { type: "module" });
     await new Promise((resolve) => later.onmessage = resolve);
     second.close();
     later.postMessage("go on");
     say((await new Promise((resolve) => later.onmessage = resolve)).data);
     await new Promise((resolve) => setTimeout(resolve, 50)); // it ends by itself`,
    ["--allow-net", "--allow-read"],
  );
  assertEquals(lines, [[], [3, second.addr.port], []]);
});

/** A program that `systemd-socket-activate` starts once there is a connection. */
interface Activated {
  readonly launcher: Deno.ChildProcess;
  readonly ports: readonly number[];
}

/**
 * Lets `systemd-socket-activate` listen on so many ports. It takes no port 0, and a port that was free may be taken
 * before it listens: then it ends, and others are tried.
 */
async function activate(count: number, options: readonly string[], program: readonly string[]): Promise<Activated> {
  for (let tries = 1;; tries++) {
    const ports = Array.from({ length: count }, () => freePort());
    const launcher = new Deno.Command("systemd-socket-activate", {
      args: [...PASSED_ON, ...ports.map((port) => `--listen=127.0.0.1:${port}`), ...options, ...program],
      cwd: ROOT,
      env: ENVIRONMENT,
      stdout: "null",
      stderr: "null",
    }).spawn();
    let hasEnded = false;
    launcher.status.then(() => hasEnded = true);
    const listens = await eventually(() => hasEnded ? false : countListening(launcher.pid) === count || undefined);
    if (listens) return { launcher, ports };
    if (tries === 10) throw new Error(`systemd-socket-activate has ended with code ${(await launcher.status).code}`);
  }
}

/** How many sockets of a process listen; 0 if it has ended. */
function countListening(pid: number): number {
  try {
    return openSockets(pid).filter(({ state }) => state === "LISTEN").length;
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return 0;
    throw error;
  }
}

clientTest(["systemd-socket-activate"], "listenFds() takes what systemd has opened", () =>
  withoutOrphans(async () => {
    const { launcher, ports: [web = 0, admin] } = await activate(2, ["--fdname=web:admin"], [
      ...[Deno.execPath(), "run", "--quiet", "--no-prompt", "--allow-ffi"],
      moduleOf(`
        const [web] = listenFds({ name: "web" });
        const [admin] = listenFds({ name: "admin" });
        using client = await web.accept();
        await client.writeAll(new TextEncoder().encode(web.addr.port + " " + admin.addr.port + " " + listenFds().length));
      `),
    ]);
    // This starts the program.
    using client = await TcpConn.connect({ port: web });
    assertEquals(await readText(client), `${web} ${admin} 0`);
    assertEquals((await launcher.status).code, 0);
  }));

clientTest(
  ["systemd-socket-activate", "nc", "sort"],
  "example:inetd serves on the socket that systemd has opened",
  () =>
    withoutOrphans(async () => {
      const { launcher, ports: [port] } = await activate(1, [], [
        ...[Deno.execPath(), "run", "--quiet", "--no-prompt"],
        // Nothing here allows to listen.
        ...["--allow-ffi", "--allow-run=sort", "examples/inetd.ts", "--", "sort"],
      ]);
      for (const [text, answer] of [["pear\napple\n", "apple\npear\n"], ["2\n1\n", "1\n2\n"]] as const) {
        const nc = new Deno.Command("nc", { args: ["-N", "127.0.0.1", `${port}`], stdin: "piped", stdout: "piped" })
          .spawn();
        const writer = nc.stdin.getWriter();
        await writer.write(encode(text));
        await writer.close();
        assertEquals(decode((await nc.output()).stdout), answer);
      }
      launcher.kill("SIGTERM");
      assertEquals((await launcher.status).code, 0);
    }),
);

Deno.test("listenFds() checks its options first", () => {
  assertThrows(() => listenFds("web" as never), TypeError, "options");
  assertThrows(() => listenFds({ name: 5 as never }), TypeError, "name must be a string, received 5");
});

Deno.test("listenFds() needs the native engine", { ignore: !native }, async () => {
  const { stdout } = await new Deno.Command(Deno.execPath(), {
    args: ["run", "--quiet", "--no-prompt", moduleOf(`say(tried(() => listenFds()));`)],
    env: { NO_COLOR: "1" },
  }).output();
  const [name, message] = JSON.parse(decode(stdout)) as string[];
  assertEquals(name, "NotSupported");
  assert(message?.includes("--allow-ffi"), message);
});
