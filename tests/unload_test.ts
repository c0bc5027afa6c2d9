/** What a program leaves open when it is run again in the same process: `deno run --watch`, the files of `deno test`. */

import { TcpConn, TcpListener } from "@c10k/sockets/tcp";
import { assert, assertEquals, assertMatch } from "@std/assert";
import { deadline } from "@std/async";
import { descriptorLinks, internetSockets, NATIVE } from "./_process.ts";
import { encode, eventually, freePorts, isFullSize, isMeasured, long, readText, ROOT, run } from "./_util.ts";

/** A program under `deno run --watch`, which says "up" each time it has started. */
class Watched implements AsyncDisposable {
  readonly folder = Deno.makeTempDirSync();
  output = "";
  #runs = 0;
  readonly #child: Deno.ChildProcess;
  readonly #reading: Promise<unknown>;

  constructor(source: string, port: number) {
    this.write(source);
    const args = ["run", "--watch", "--no-clear-screen", "--no-prompt", "--allow-all", "--no-check", "--no-lock"];
    this.#child = new Deno.Command(Deno.execPath(), {
      args: [
        ...args,
        "--config",
        new URL("deno.json", ROOT).pathname,
        this.#file,
        String(port),
        `${this.folder}/control`,
      ],
      cwd: this.folder,
      env: { NO_COLOR: "1" },
      stdin: "null",
      stdout: "piped",
      stderr: "piped",
    }).spawn();
    const read = async (stream: ReadableStream<Uint8Array>) => {
      for await (const text of stream.pipeThrough(new TextDecoderStream())) this.output += text;
    };
    this.#reading = Promise.all([read(this.#child.stdout), read(this.#child.stderr)]);
  }

  get #file(): string {
    return `${this.folder}/program.ts`;
  }

  get pid(): number {
    return this.#child.pid;
  }

  /** Changes the program, which is run again then. */
  write(source: string): void {
    Deno.writeTextFileSync(this.#file, `${source}\n// ${this.#runs}`);
  }

  /** Waits until one more run says a text. */
  async next(text = "up"): Promise<void> {
    this.#runs++;
    const end = performance.now() + 30_000;
    await eventually(() => {
      if (performance.now() > end) throw new Error(`not run ${this.#runs} times: ${this.output}`);
      return this.output.split(`${text}\n`).length > this.#runs ? true : undefined;
    }, 40_000);
  }

  /** What it has open, leaving out what is the runtime's own. */
  links(): string[] {
    return [...Deno.readDirSync(`/proc/${this.pid}/fd`)].flatMap(({ name }) => {
      try {
        const link = Deno.readLinkSync(`/proc/${this.pid}/fd/${name}`);
        return /^(socket|anon_inode|pipe)/.test(link) ? link.replace(/\d+/g, "N") : [];
      } catch {
        return [];
      }
    }).sort();
  }

  /** Its TCP and UDP sockets. */
  internetLinks(): string[] {
    const known = internetSockets();
    return descriptorLinks(this.pid).filter((link) => known.has(link));
  }

  /** Its children. */
  children(): string[] {
    return Deno.readTextFileSync(`/proc/${this.pid}/task/${this.pid}/children`).trim().split(" ").filter((pid) => pid);
  }

  /** The children of all its threads, with the letter of their state: `Z` for a zombie. */
  childStates(): string[] {
    const tasks = [...Deno.readDirSync(`/proc/${this.pid}/task`)];
    return tasks.flatMap(({ name }) => {
      try {
        const pids = Deno.readTextFileSync(`/proc/${this.pid}/task/${name}/children`).trim().split(" ");
        return pids.filter((pid) => pid).map((pid) => {
          return /^\d+ \((.*)\) (\S)/s.exec(Deno.readTextFileSync(`/proc/${pid}/stat`))?.slice(1).join(" ") ?? "";
        });
      } catch {
        return [];
      }
    }).sort();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#child.kill("SIGKILL");
    await this.#child.status;
    await this.#reading;
    await Deno.remove(this.folder, { recursive: true });
  }
}

const PORTS = 9;

/** Everything that keeps a port: the number of ports is {@linkcode PORTS}. */
const EVERYTHING = `
  import { Multiplexer } from "@c10k/sockets/mux";
  import { Pool, spawnProcess, spawnWorker } from "@c10k/sockets/process";
  import { TcpConn, TcpListener } from "@c10k/sockets/tcp";
  import { UdpEndpoint } from "@c10k/sockets/udp";

  const [port, control] = [Number(Deno.args[0]), Deno.args[1]];
  const bind = (port) => TcpListener.bind({ hostname: "127.0.0.1", port, engine: "native" });

  // A server with clients, whose accept and reads wait; and both ends of a connection.
  const serve = async (conn) => {
    const p = new Uint8Array(100);
    for (let n = await conn.read(p); n !== null; n = await conn.read(p)) await conn.writeAll(p.subarray(0, n));
  };
  (async () => { for await (const conn of bind(port)) serve(conn).catch(() => {}); })();
  const conn = await TcpConn.connect({ port, engine: "native" });
  conn.read(new Uint8Array(1));
  UdpEndpoint.bind({ hostname: "127.0.0.1", port, engine: "native" }).recvFrom(new Uint8Array(1));

  // Waits on other threads.
  for (const [i, backend] of ["epoll", "poll", "select"].entries()) {
    const mux = new Multiplexer({ backend });
    mux.register(bind(port + 1 + i), { readable: true });
    mux.wait();
  }

  // Children with ports of their own, one of whom never returns to its event loop.
  const IMPORTS = ["process", "tcp"].map((name) => import.meta.resolve("@c10k/sockets/" + name));
  const child = (port, more = "") => "data:text/javascript," + encodeURIComponent(\`
    import { parent } from "\${IMPORTS[0]}";
    import { TcpListener } from "\${IMPORTS[1]}";
    const listener = TcpListener.bind({ hostname: "127.0.0.1", port: \${port}, engine: "native" });
    listener.accept();
    await parent().send("up");
    \${more}
    for await (const _ of parent().messages());\`);
  const children = [spawnProcess(child(port + 5))];
  if (THREADS) children.push(spawnWorker(child(port + 4)), spawnWorker(child(port + 6, BUSY ? "while (true);" : "")));
  for (const child of children) await child.messages().next();

  const module = "data:text/javascript," + encodeURIComponent(\`
    import { serve } from "\${IMPORTS[0]}";
    await serve((conn) => conn.readable.pipeTo(conn.writable));\`);
  for (const [i, kind] of [THREADS ? "worker" : "process", "process"].entries()) {
    const listen = { hostname: "127.0.0.1", port: port + 7 + i };
    await Pool.start({ kind, module, size: 2, signals: false, listen, ...(i === 0 ? {} : { control }) });
  }
  console.log("up");`;

for (const threads of [false, true]) {
  const children = threads ? "threads and processes" : "processes";
  Deno.test({
    name: `a program with ${children} that is run again by --watch finds its ports free, and nothing left open`,
    ignore: !NATIVE || (threads && !isFullSize),
    async fn() {
      const port = freePorts(PORTS);
      const source = `const [THREADS, BUSY] = [${threads}, ${threads}];\n${EVERYTHING}`;
      await using watched = new Watched(source, port);
      let before = 0;
      const clients: TcpConn[] = [];
      for (let i = 0; i < 3; i++) {
        await watched.next();
        for (const at of [0, 7, 8]) {
          const client = await TcpConn.connect({ port: port + at });
          await client.writeAll(encode("hello"));
          assertEquals(await deadline(readText(client), 10_000), "hello");
          if (at === 0) clients.push(client);
          else client.close();
        }
        // The runtime keeps descriptors of its own of a Worker that was terminated, and inert sockets take the place of
        // those of a thread that never ends.
        const isOpen = () => (threads ? watched.internetLinks() : watched.links()).length;
        if (i === 1) before = isOpen();
        // It closes what is its own a moment later.
        if (i > 1) await eventually(() => isOpen() <= before ? true : undefined, 10_000);
        assertEquals(watched.children().length, threads ? 3 : 5);
        watched.write(source);
      }
      // Those of an earlier run were told.
      for (const client of clients.splice(0, 2)) {
        assertEquals(await deadline(readText(client).catch(() => null), 10_000), null);
        client.close();
      }
      clients[0]?.close();
      await watched.next();
      assertEquals([...Deno.readDirSync(watched.folder)].map(({ name }) => name).sort(), ["control", "program.ts"]);
    },
  });
}

Deno.test({
  name: "a program that has failed and is run again by --watch finds its ports free, and its children gone",
  ignore: !NATIVE || !isFullSize,
  async fn() {
    const port = freePorts(PORTS);
    // The runtime does not end a thread that never returns to its event loop when a program has failed.
    const source = `const [THREADS, BUSY] = [true, false];\n${EVERYTHING}`;
    const failures = [
      `setTimeout(() => { throw new Error("failed"); }, 10);`,
      `Promise.reject(new Error("failed"));`,
    ];
    await using watched = new Watched(`${source}\n${failures[0]}`, port);
    for (const [i, next] of [failures[1], ""].entries()) {
      await watched.next();
      await eventually(() => watched.output.split("Process failed").length > i + 1 ? true : undefined);
      watched.write(`${source}\n${next}`);
    }
    await watched.next();
    for (const at of [0, 7, 8]) {
      using client = await TcpConn.connect({ port: port + at });
      await client.writeAll(encode("hello"));
      assertEquals(await deadline(readText(client), 10_000), "hello");
    }
    assertEquals(watched.children().length, 3);
  },
});

/** Workers that are none of this library's children, which have everything that keeps a port, and start others. */
const WORKERS = `
  const port = Number(Deno.args[0]);
  const IMPORTS = ["tcp", "udp", "mux", "process"].map((name) => import.meta.resolve("@c10k/sockets/" + name));
  const opens = (port) => \`
    import { TcpConn, TcpListener } from "\${IMPORTS[0]}";
    import { UdpEndpoint } from "\${IMPORTS[1]}";
    import { Multiplexer } from "\${IMPORTS[2]}";
    import { parent, spawnFor, spawnProcess, spawnWorker } from "\${IMPORTS[3]}";
    const bind = (port) => TcpListener.bind({ hostname: "127.0.0.1", port, engine: "native" });
    const listener = bind(\${port});
    const client = await TcpConn.connect({ port: \${port}, engine: "native" });
    globalThis.program = spawnFor(await listener.accept(), "sleep", { args: [SECONDS] });
    listener.accept().catch(() => {});
    UdpEndpoint.bind({ hostname: "127.0.0.1", port: \${port}, engine: "native" }).recvFrom(new Uint8Array(1));
    const mux = new Multiplexer({ backend: "poll" });
    mux.register(bind(\${port + 1}), { readable: true });
    mux.wait();\`;
  const url = (text) => "data:text/javascript," + encodeURIComponent(text);
  const child = url(opens(port + 4) + "await parent().send(1); for await (const _ of parent().messages());");
  for (const [i, end] of ["", "", "self.close();"].entries()) {
    const more = i !== 0 ? "" : \`
      spawnProcess("data:text/javascript,setInterval(() => {}, 1000)");
      await spawnWorker(\${JSON.stringify(child)}).messages().next();\`;
    const worker = new Worker(url(opens(port + [0, 2, 6][i]) + more + "postMessage(1);" + end), { type: "module" });
    await new Promise((resolve, reject) => {
      worker.onmessage = resolve;
      worker.onerror = (event) => {
        event.preventDefault();
        reject(new Error(event.message));
      };
    });
    if (i === 1) worker.terminate();
  }
  console.log("up");
  setInterval(() => {}, 1000);`;

long(Deno.test)({
  name:
    "a program with Workers of the Web that is run again by --watch finds their ports free, and their children gone",
  ignore: !NATIVE || isMeasured,
  async fn() {
    const source = WORKERS.replace("[SECONDS]", `["0.1"]`);
    await using watched = new Watched(source, freePorts(8));
    for (let i = 0; i < 3; i++) {
      await watched.next();
      // One process. Of its programs at most those of the Workers that have ended since: no thread has begun after them.
      const isRight = () => {
        const states = watched.childStates();
        return states[0] === "deno S" && states.slice(1).every((state) => state === "sleep Z") && states.length <= 3;
      };
      await eventually(() => isRight() ? true : undefined, 10_000)
        .catch(() => assertEquals([watched.childStates(), watched.output], [["deno S"], ""]));
      watched.write(source);
    }
  },
});

long(Deno.test)({
  name: "programs of spawnFor() go on when --watch runs their starter again, and are no zombies when they have ended",
  ignore: !NATIVE,
  async fn() {
    const source = `
      import { spawnFor, spawnWorker } from "@c10k/sockets/process";
      import { TcpConn, TcpListener } from "@c10k/sockets/tcp";
      const IMPORTS = ["process", "tcp"].map((name) => import.meta.resolve("@c10k/sockets/" + name));
      const start = \`
        const listener = TcpListener.bind({ hostname: "127.0.0.1", port: 0, engine: "native" });
        for (let i = 0; i < 2; i++) {
          globalThis["client" + i] = await TcpConn.connect({ port: listener.addr.port, engine: "native" });
          // One ends while this program is there, the other one with its client.
          spawnFor(await listener.accept(), i === 0 ? "true" : "cat").unref();
        }\`;
      const child = spawnWorker("data:text/javascript," + encodeURIComponent(\`
        import { parent, spawnFor, spawnProcess } from "\${IMPORTS[0]}";
        import { TcpConn, TcpListener } from "\${IMPORTS[1]}";
        \${start}
        spawnProcess("data:text/javascript,setInterval(() => {}, 1000)");
        await parent().send(1);
        for await (const _ of parent().messages());\`));
      await child.messages().next();
      await new Function("spawnFor", "TcpListener", "TcpConn", "return (async () => {" + start + "})()")(spawnFor, TcpListener, TcpConn);
      console.log("up");
      END`;
    const ends = ["", `setTimeout(() => { throw new Error("failed"); }, 300);`, ""];
    await using watched = new Watched(source.replace("END", ends[0] as string), 0);
    for (let i = 1; i < 4; i++) {
      await watched.next();
      if (i === 2) await eventually(() => watched.output.includes("Process failed") ? true : undefined);
      else {
        const expected = ["cat S", "cat S", "deno S"];
        const isRight = () => String(watched.childStates()) === String(expected) ? true : undefined;
        await eventually(isRight, 10_000).catch(() => assertEquals([watched.childStates(), i], [expected, i]));
      }
      watched.write(source.replace("END", ends[i] ?? ""));
    }
    await watched.next();
  },
});

Deno.test({
  name: "what a Worker of the Web leaves open that was terminated is closed by the next one, and its program is reaped",
  ignore: !NATIVE,
  async fn() {
    const source = `
      const url = (text) => "data:text/javascript," + encodeURIComponent(text);
      const TCP = import.meta.resolve("@c10k/sockets/tcp");
      const PROCESS = import.meta.resolve("@c10k/sockets/process");
      const start = async (text) => {
        const worker = new Worker(url(text), { type: "module" });
        return [worker, await new Promise((resolve) => worker.onmessage = ({ data }) => resolve(data))];
      };
      const until = async (isRight) => { while (!isRight()) await new Promise((resolve) => setTimeout(resolve, 10)); };
      const isThere = (path) => {
        try {
          return Deno.lstatSync(path) !== undefined;
        } catch {
          return false;
        }
      };
      const peer = Deno.listen({ hostname: "127.0.0.1", port: 0 });
      const [first, [port, pid, thread]] = await start(\`
        import { TcpConn, TcpListener } from "\${TCP}";
        import { spawnFor } from "\${PROCESS}";
        const listener = TcpListener.bind({ hostname: "127.0.0.1", port: 0, engine: "native" });
        const conn = await TcpConn.connect({ port: \${peer.addr.port}, engine: "native" });
        const { pid } = spawnFor(conn, "cat");
        postMessage([listener.addr.port, pid, Deno.readLinkSync("/proc/thread-self").split("/").at(-1)]);
      \`);
      const conn = await peer.accept();
      const task = "/proc/self/task/" + thread;
      if (!isThere(task)) throw new Error("there is no thread of the Worker");
      first.terminate();
      await until(() => !isThere(task));
      const [second, isFree] = await start(\`
        import { TcpListener } from "\${TCP}";
        const listener = TcpListener.bind({ hostname: "127.0.0.1", port: \${port}, engine: "native" });
        postMessage(true);
      \`);
      // It goes on, until its client has gone.
      await conn.write(new TextEncoder().encode("hello"));
      const p = new Uint8Array(5);
      await conn.read(p);
      console.log(isFree, new TextDecoder().decode(p));
      conn.close();
      await until(() => !isThere("/proc/" + pid));
      Deno.exit(0);`;
    const config = new URL("deno.json", ROOT).pathname;
    const { code, stdout, stderr } = await run(["eval", "--quiet", "--config", config, source]);
    assertEquals([code, stdout, stderr], [0, "true hello\n", ""]);
  },
});

Deno.test({
  name: "handlers of unload that a program has added before run with its sockets open, and after with them closed",
  ignore: !NATIVE,
  async fn() {
    const source = `
      import { TcpConn, TcpListener } from "@c10k/sockets/tcp";
      let conn;
      addEventListener("unload", () => console.log("before", conn.tryWrite(new Uint8Array([1]))));
      const listener = TcpListener.bind({ hostname: "127.0.0.1", port: 0 });
      conn = await TcpConn.connect({ port: listener.addr.port });
      const server = await listener.accept();
      const fd = listener.fd;
      addEventListener("unload", () => {
        console.log("after", listener.fd, conn.fd);
        // The number may be another's by now, which nothing here closes.
        const other = Deno.openSync(Deno.execPath());
        listener.close();
        conn.close();
        server.close();
        console.log(other.statSync().isFile, Deno.readLinkSync("/proc/self/fd/" + fd) === Deno.execPath());
        try { conn.tryWrite(new Uint8Array(1)); } catch (error) { console.log(error.name); }
      });`;
    for (const end of ["", "Deno.exit(0);"]) {
      const { code, stdout, stderr } = await run([
        "eval",
        "--quiet",
        "--config",
        new URL("deno.json", ROOT).pathname,
        source + end,
      ]);
      assertEquals([code, stderr], [0, ""]);
      assertMatch(stdout, /^before 1\nafter undefined undefined\ntrue (true|false)\nBadResource\n$/);
    }
  },
});

Deno.test({
  name: "a file of `deno test` that leaves its sockets open does not keep their ports from the next one",
  ignore: !NATIVE,
  async fn() {
    const folder = await Deno.makeTempDir();
    try {
      const port = freePorts(2);
      for (const name of ["a", "b"]) {
        await Deno.writeTextFile(
          `${folder}/${name}_test.ts`,
          `import { TcpListener } from "@c10k/sockets/tcp";
           import { UdpEndpoint } from "@c10k/sockets/udp";
           import { Multiplexer } from "@c10k/sockets/mux";
           Deno.test({ name: "binds", sanitizeOps: false, sanitizeResources: false, fn() {
             const listener = TcpListener.bind({ hostname: "127.0.0.1", port: ${port}, engine: "native" });
             listener.accept();
             UdpEndpoint.bind({ hostname: "127.0.0.1", port: ${port}, engine: "native" }).recvFrom(new Uint8Array(1));
             const mux = new Multiplexer();
             mux.register(TcpListener.bind({ hostname: "127.0.0.1", port: ${
            port + 1
          }, engine: "native" }), { readable: true });
             mux.wait();
           } });`,
        );
      }
      const config = new URL("deno.json", ROOT).pathname;
      const { code, stdout, stderr } = await run(["test", "--no-check", "--no-lock", "-A", "--config", config, folder]);
      assertEquals(code, 0, stdout + stderr);
      assert(stdout.includes("2 passed"), stdout);
    } finally {
      await Deno.remove(folder, { recursive: true });
    }
  },
});

Deno.test({
  name: "a second copy of the library in one program does not take the first one for an earlier run",
  ignore: !NATIVE,
  async fn() {
    using listener = TcpListener.bind({ hostname: "127.0.0.1", port: 0, engine: "native" });
    const copy: typeof import("../internal/ledger.ts") = await import(new URL("internal/ledger.ts?copy", ROOT).href);
    copy.openLedger();
    assertEquals(listener.queue().length, 0);
  },
});
