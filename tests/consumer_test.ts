/** A program elsewhere that uses this library by its name, as README says: its types, and README's snippets. */

import { TcpConn, TcpListener } from "@c10k/sockets/tcp";
import { UdpEndpoint } from "@c10k/sockets/udp";
import { assert, assertEquals, assertMatch, assertNotEquals } from "@std/assert";
import { delay } from "@std/async";
import { type Example, examplesIn } from "../tools/examples.ts";
import { asConsumer } from "./_consumer.ts";
import { haunt, hauntUdp } from "./_hostile.ts";
import { decode, encode, ENGINES, isFullSize, long, oneOf, ROOT } from "./_util.ts";

const native = ENGINES.includes("native");
const isWindows = Deno.build.os === "windows";
const SNIPPETS = examplesIn("README.md", await Deno.readTextFile(new URL("README.md", ROOT)));
/** What all snippets and commands of README have. */
const PORT = "8080";

/** A snippet as a program of its own, on a port of its own; `await using` ends it. */
class Program implements AsyncDisposable {
  readonly #child: Deno.ChildProcess;
  readonly #reading: Promise<unknown>;
  readonly status: Promise<Deno.CommandStatus>;
  /** All that it has written. */
  output = "";
  hasEnded = false;

  private constructor(child: Deno.ChildProcess) {
    this.#child = child;
    this.#reading = Promise.all([this.#read(child.stdout), this.#read(child.stderr)]);
    this.status = child.status;
    this.status.then(() => this.hasEnded = true);
  }

  static start(folder: string, flags: readonly string[], file: string): Program {
    const child = new Deno.Command(Deno.execPath(), {
      args: ["run", "--no-prompt", "--quiet", ...flags, file],
      cwd: folder,
      env: { NO_COLOR: "1" },
      stdin: "null",
      stdout: "piped",
      stderr: "piped",
    }).spawn();
    return new Program(child);
  }

  async #read(stream: ReadableStream<Uint8Array>): Promise<void> {
    for await (const text of stream.pipeThrough(new TextDecoderStream())) this.output += text;
  }

  /** Tries again and again, until it works or the program has ended. */
  async until(attempt: () => Promise<void> | void): Promise<void> {
    for (const end = performance.now() + 60_000;; await delay(10)) {
      try {
        return await attempt();
      } catch (error) {
        if (this.hasEnded || performance.now() > end) throw new Error(await this.finish("SIGKILL"), { cause: error });
      }
    }
  }

  /** Ends it, and returns all that it has written. */
  async finish(signal: Deno.Signal): Promise<string> {
    if (!this.hasEnded) this.#child.kill(signal);
    await this.#reading;
    return this.output;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.finish("SIGKILL");
    await this.status;
  }
}

async function tcpEcho(port: number): Promise<void> {
  using conn = await TcpConn.connect({ port, engine: "runtime" });
  await conn.writeAll(encode("hello"));
  const p = new Uint8Array(5);
  for (let end = 0; end < 5;) {
    const n = await conn.read(p.subarray(end), { signal: AbortSignal.timeout(10_000) });
    if (n === null) throw new Error("the server has finished");
    end += n;
  }
  assertEquals(decode(p), "hello");
}

async function udpEcho(port: number): Promise<void> {
  using endpoint = UdpEndpoint.bind({ hostname: "127.0.0.1", engine: "runtime" });
  await endpoint.sendTo(encode("hello"), { hostname: "127.0.0.1", port });
  const { data } = await endpoint.recvFrom(new Uint8Array(9), { signal: AbortSignal.timeout(500) });
  assertEquals(decode(data), "hello");
}

/** A server of the snippets serves one client, peers that go away, and another client. */
async function tryTcp(program: Program, port: number): Promise<void> {
  await program.until(() => tcpEcho(port));
  await haunt(port, encode("hello"));
  await tcpEcho(port).catch((cause) => Promise.reject(new Error(program.output, { cause })));
  assertEquals(program.hasEnded, false, program.output);
}

/** The same, and it writes nothing about clients that have reset their connection. */
async function tryQuietly(program: Program, port: number): Promise<void> {
  await tryTcp(program, port);
  assertEquals(await program.finish("SIGKILL"), "");
}

/** What is done with each snippet, on the port that stands in it. */
const TRIALS: Readonly<Record<string, (program: Program, port: number) => Promise<void>>> = {
  "echo.ts": tryQuietly,
  "mux.ts": tryQuietly,
  async "udp.ts"(program, port) {
    await program.until(() => udpEcho(port));
    await hauntUdp(port);
    await program.until(() => udpEcho(port));
  },
  async "client.ts"(program, port) {
    using listener = TcpListener.bind({ hostname: "127.0.0.1", port, engine: "runtime" });
    using conn = await listener.accept({ signal: AbortSignal.any([AbortSignal.timeout(60_000), ended(program)]) });
    await conn.readable.pipeTo(conn.writable);
    assertEquals((await program.status).code, 0);
    assertEquals(await program.finish("SIGKILL"), "hello\n\n");
  },
  async "pool.ts"(program, port) {
    // Its children may serve before the pool is ready to be told to end.
    await program.until(() => assertEquals(program.output, `listening on port ${port}\n`));
    await tcpEcho(port);
    assertEquals(program.output, `listening on port ${port}\n`);
    await tryTcp(program, port);
    if (isWindows) return;
    await program.finish("SIGTERM");
    assertEquals((await program.status).code, 0, program.output);
  },
  async "inetd.ts"(program, port) {
    await tryTcp(program, port);
    assertMatch(await program.finish("SIGTERM"), /^\d+ \d+ LISTEN$/m);
  },
};

/** Aborted when a program has ended. */
function ended(program: Program): AbortSignal {
  const controller = new AbortController();
  program.status.then(() => controller.abort(new Error("the program has ended")));
  return controller.signal;
}

/** Puts the snippets into a folder, on a port that is free, and returns it. */
async function writeSnippets(folder: string): Promise<number> {
  const free = TcpListener.bind({ hostname: "127.0.0.1", port: 0, engine: "runtime" });
  const { port } = free.addr;
  free.close();
  for (const { file, code } of SNIPPETS) {
    assert(file !== undefined, "a snippet of README without its command");
    await Deno.writeTextFile(`${folder}/${file}`, code.replaceAll(PORT, `${port}`));
  }
  return port;
}

/** The flags of a snippet, with the port of a test. */
function flagsOf({ flags = [] }: Example, port: number): string[] {
  return flags.map((flag) => flag.replace(PORT, `${port}`));
}

long(Deno.test)(
  "consumer: every entry point is there under its name, and all types are right under Deno's own settings",
  async () => {
    await asConsumer(async (folder) => {
      const { exports } = JSON.parse(await Deno.readTextFile(new URL("deno.json", ROOT))) as { exports: object };
      const names = Object.keys(exports).map((path) => `jsr:@c10k/sockets${path.slice(1)}`);
      assert(names.length >= 5);
      const imports = names.map((name, i) => `import * as module${i} from "${name}";\n`).join("");
      await Deno.writeTextFile(`${folder}/all.ts`, `${imports}console.log(${names.map((_, i) => `module${i}`)});\n`);
      await writeSnippets(folder);
      const files = [...Deno.readDirSync(folder)].map(({ name }) => name).filter((name) => name.endsWith(".ts"));
      const { code, stderr } = await new Deno.Command(Deno.execPath(), {
        args: ["check", "--quiet", ...files],
        cwd: folder,
        env: { NO_COLOR: "1" },
      }).output();
      assertEquals(code, 0, decode(stderr));

      const program = Program.start(folder, [], "all.ts"); // without any permission
      const { code: status } = await program.status;
      const output = await program.finish("SIGKILL");
      assertEquals(status, 0, output);
      for (const name of ["TcpListener", "UdpEndpoint", "Multiplexer", "Pool"]) assertMatch(output, new RegExp(name));
    });
  },
);

Deno.test("consumer: README has a snippet for each module, and each is tried", () => {
  const text = SNIPPETS.map(({ code }) => code).join("\n");
  for (const module of ["tcp", "udp", "mux", "process"]) assert(text.includes(`"jsr:@c10k/sockets/${module}"`), module);
  const programs = SNIPPETS.filter(({ flags }) => flags !== undefined).map(({ file }) => file);
  assertEquals(programs.toSorted(), Object.keys(TRIALS).toSorted());
});

for (const snippet of SNIPPETS) {
  const { file = "", flags } = snippet;
  const trial = TRIALS[file];
  if (flags === undefined || trial === undefined) continue;
  const needsNative = flags.some((flag) => flag.startsWith("--allow-ffi"));
  const name = `consumer: README's ${file}`;

  for (const more of needsNative || !native ? [[]] : oneOf(file, [[], ["--allow-ffi"]])) {
    Deno.test({
      name: `${name} runs with ${[...flags, ...more].join(" ")}`,
      ignore: needsNative && !native,
      fn: () =>
        asConsumer(async (folder) => {
          const port = await writeSnippets(folder);
          await using program = Program.start(folder, [...flagsOf(snippet, port), ...more], file);
          await trial(program, port);
        }),
    });
  }

  for (const flag of flags) {
    Deno.test({
      name: `${name} does not run without ${flag}`,
      ignore: (needsNative && !native) || !isFullSize,
      fn: () =>
        asConsumer(async (folder) => {
          const port = await writeSnippets(folder);
          await using program = Program.start(folder, flagsOf(snippet, port).toSpliced(flags.indexOf(flag), 1), file);
          // It may refuse only once somebody has connected.
          while (!program.hasEnded) {
            await TcpConn.connect({ port, engine: "runtime" }).then((conn) => conn.close(), () => {});
            await delay(10);
          }
          assertNotEquals((await program.status).code, 0);
          assertMatch(await program.finish("SIGKILL"), /NotCapable|NotSupported|requires|Requires/);
        }),
    });
  }
}
