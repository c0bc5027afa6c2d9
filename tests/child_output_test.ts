/** Output of processes that can be read, and children that keep nothing alive. */

import { type Child, Pool, spawnFor, spawnProcess, spawnWorker } from "@c10k/sockets/process";
import { TcpListener } from "@c10k/sockets/tcp";
import { assertEquals, assertRejects, assertThrows } from "@std/assert";
import { deadline, delay } from "@std/async";
import { childTest, isPending, type Kind, moduleOf, NATIVE, next, oneKindTest } from "./_process.ts";
import { decode, ENGINES, oneOf, Pair, runDeno } from "./_util.ts";

const script = (text: string) => `data:text/javascript,${encodeURIComponent(text)}`;
const MEBIBYTE = 1024 * 1024;

oneKindTest("process", "Child.stdout and Child.stderr are what a process writes, byte for byte", async () => {
  await using child = spawnProcess(
    script(`
      const p = new Uint8Array(${MEBIBYTE}).map((_, i) => i * 7);
      for (let sent = 0; sent < p.length;) sent += Deno.stdout.writeSync(p.subarray(sent));
      for (let i = 0; i < 1000; i++) console.error("line " + i);
      Deno.exit(3);
    `),
    { stdout: "piped", stderr: "piped" },
  );
  const [out, err] = await deadline(
    Promise.all([new Response(child.stdout).bytes(), new Response(child.stderr).text()]),
    20_000,
  );
  assertEquals([out.length, out.every((byte, i) => byte === ((i * 7) & 255))], [MEBIBYTE, true]);
  assertEquals(err, Array.from({ length: 1000 }, (_, i) => `line ${i}\n`).join(""));
  assertEquals((await child.closed).code, 3);
});

oneKindTest(
  "process",
  "a process that writes more than anybody reads waits, talks no less, and can be ended",
  async (kind) => {
    const module = moduleOf(`
    // In another thread of its own, so that the first one can answer.
    const source = "const p = new Uint8Array(${MEBIBYTE}); for (let n = 0; n < p.length;) n += Deno.stdout.writeSync(p);";
    new Worker("data:text/javascript," + encodeURIComponent(source), { type: "module" });
    for await (const { message } of parent().messages()) await parent().send("got " + message);
  `);
    assertEquals(kind, "process");
    {
      await using child = spawnProcess(module, { stdout: "piped" });
      await child.send("this");
      assertEquals((await next(child.messages())).message, "got this");
      const reader = (child.stdout as ReadableStream<Uint8Array>).getReader();
      const first = (await reader.read()).value?.length ?? 0;
      reader.releaseLock();
      child.kill();
      assertEquals((await deadline(child.closed, 20_000)).signal, "SIGKILL");
      // What it has written is here after its end: a pipe full at most.
      let rest = 0;
      for await (const { length } of child.stdout as ReadableStream<Uint8Array>) rest += length;
      assertEquals([first > 0, first + rest < MEBIBYTE], [true, true]);
    }
    // Unread at the end of the block: withoutLeaks() counts the descriptors.
    {
      await using child = spawnProcess(module, { stdout: "piped", stderr: "piped" });
      await child.send("this");
      child.kill();
    }
  },
);

oneKindTest("process", "Child.stdout can be cancelled, which ends a process that goes on writing", async () => {
  await using child = spawnProcess(
    script(`
      try {
        while (true) Deno.stdout.writeSync(new Uint8Array(65536));
      } catch (error) {
        Deno.exit(error.name === "BrokenPipe" ? 42 : 1);
      }`),
    { stdout: "piped" },
  );
  const reader = (child.stdout as ReadableStream).getReader();
  assertEquals((await reader.read()).done, false);
  await reader.cancel();
  assertEquals((await deadline(child.closed, 20_000)).code, 42);
});

oneKindTest("process", "Child.stdout takes readers with a buffer of their own, also at the end", async () => {
  await using child = spawnProcess(script(`console.log("hello")`), { stdout: "piped" });
  const reader = child.stdout?.getReader({ mode: "byob" });
  let text = "";
  while (true) {
    const result = await reader?.read(new Uint8Array(4));
    if (result?.value !== undefined) text += decode(result.value);
    if (result?.done !== false) break;
  }
  assertEquals(text, "hello\n");
  assertEquals((await child.closed).code, 0);
});

oneKindTest(
  "process",
  'Child.stdout is there only with stdout: "piped", and closed with the last process that writes',
  async () => {
    await using quiet = spawnProcess(script(`console.log("hello"); console.error("hello");`), {
      stdout: "null",
      stderr: "null",
    });
    assertEquals([quiet.stdout, quiet.stderr], [undefined, undefined]);
    await quiet.closed;
    // What it has started has the pipe too.
    await using child = spawnProcess(
      script(
        `new Deno.Command("sh", { args: ["-c", "sleep 0.3; echo late"], stdin: "null" }).spawn().unref(); Deno.exit(0);`,
      ),
      { stdout: "piped" },
    );
    assertEquals((await child.closed).code, 0);
    assertEquals(await new Response(child.stdout).text(), "late\n");
  },
);

Deno.test("stdout and stderr of children are checked before anything is started", async () => {
  const module = script("");
  for (const name of ["stdout", "stderr"] as const) {
    // deno-lint-ignore no-explicit-any -- what the types forbid
    const options = { [name]: "piped" } as any;
    // deno-lint-ignore no-explicit-any -- what the types forbid
    const wrong = { [name]: "file" } as any;
    assertThrows(() => spawnWorker(module, options), TypeError, `${name} can be piped from processes only`);
    for (const kind of NATIVE ? oneOf("unref", ["worker", "process"] as const) : ["worker"] as const) {
      const listener = TcpListener.bind({ hostname: "127.0.0.1", port: 0 });
      await assertRejects(() => Pool.start({ kind, module, listener, ...options }), TypeError, name);
      listener.close();
    }
    if (NATIVE) {
      assertThrows(() => spawnProcess(module, wrong), TypeError, `${name} must be "inherit", "null" or "piped"`);
    }
  }
});

/** Starts a child by a program that does nothing else. */
const program = (kind: Kind, after: string) => `
  import { ${kind === "worker" ? "spawnWorker" : "spawnProcess"} as spawn } from "@c10k/sockets/process";
  addEventListener("unload", () => console.log("ended"));
  const child = spawn(${
  JSON.stringify(moduleOf(`
    for await (const { message } of parent().messages()) await parent().send("got " + message);
  `))
});
  const inbox = child.messages();
  ${after}
`;

const HOLDS = {
  "unref() at once": [`child.unref();`, "ended"],
  "unref() after it has talked": [
    `await child.send("a"); console.log((await inbox.next()).value.message); child.unref();`,
    "got a\nended",
  ],
  "unref() while a message and the end are waited for": [
    `await child.send("a"); await inbox.next(); child.unref(); inbox.next(); child.closed.then(() => console.log("closed"));`,
    "ended",
  ],
  "ref() while an answer is waited for": [
    `child.unref(); child.unref(); child.ref(); await child.send("a");
     console.log((await inbox.next()).value.message); child.unref();`,
    "got a\nended",
  ],
  "unref(), and shutdown() all the same": [
    `await child.send("a"); await inbox.next(); child.unref();
     console.log((await child.shutdown()).success);`,
    "true\nended",
  ],
  "unref() after its end": [
    `child.kill(); await child.closed; child.unref(); child.ref(); child.unref();`,
    "ended",
  ],
} as const;

for (const kind of ["worker", "process"] as const) {
  Deno.test({
    name: `[${kind}] Child.unref() lets the program end, and Child.ref() takes that back`,
    ignore: kind === "process" && !NATIVE,
    async fn() {
      for (const [what, [after, expected]] of Object.entries(HOLDS)) {
        const { code, stdout, stderr } = await deadline(runDeno(["--allow-all"], program(kind, after)), 30_000);
        assertEquals([code, stdout, stderr], [0, `${expected}\n`, ""], what);
      }
    },
  });
}

Deno.test({
  name: "[process] Child.unref() holds for its output too",
  ignore: !NATIVE,
  async fn() {
    const { code, stdout, stderr } = await deadline(
      runDeno(
        ["--allow-all"],
        `import { spawnProcess } from "@c10k/sockets/process";
         addEventListener("unload", () => console.log("ended"));
         const child = spawnProcess("${
          script(`console.log(1); setInterval(() => {}, 1000)`)
        }", { stdout: "piped", stderr: "piped" });
         const reader = child.stdout.getReader();
         console.log((await reader.read()).value.length);
         reader.read();
         child.stderr.getReader().read();
         child.unref();`,
      ),
      30_000,
    );
    assertEquals([code, stdout, stderr], [0, "2\nended\n", ""]);
  },
});

Deno.test("[worker] Child.unref() works without the native engine", async () => {
  const { code, stdout, stderr } = await deadline(
    runDeno(["--allow-net", "--allow-read"], program("worker", HOLDS["unref() after it has talked"][0])),
    30_000,
  );
  assertEquals([code, stdout, stderr], [0, "got a\nended\n", ""]);
});

for (const engine of ENGINES) {
  Deno.test({
    name: `[${engine}] spawnFor() programs can be unreferenced`,
    ignore: Deno.build.os !== "linux",
    async fn() {
      const { code, stdout, stderr } = await deadline(
        runDeno(
          ["--allow-all"],
          `import { spawnFor } from "@c10k/sockets/process";
           import { TcpConn, TcpListener } from "@c10k/sockets/tcp";
           addEventListener("unload", () => console.log("ended"));
           const listener = TcpListener.bind({ hostname: "127.0.0.1", port: 0, engine: "${engine}" });
           const client = await TcpConn.connect({ port: listener.addr.port, engine: "${engine}" });
           const child = spawnFor(await listener.accept(), "cat");
           await client.writeAll(new Uint8Array(3));
           console.log(await client.read(new Uint8Array(9)));
           child.unref();`,
        ),
        30_000,
      );
      assertEquals([code, stdout, stderr], [0, "3\nended\n", ""]);
    },
  });
}

childTest("Child.ref() and Child.unref() change nothing else", async (kind) => {
  const module = moduleOf(`for await (const { message } of parent().messages()) await parent().send(message);`);
  const child: Child = kind === "worker" ? spawnWorker(module) : spawnProcess(module);
  child.unref();
  const closed = child.closed;
  for (let i = 0; i < 3; i++) {
    // Something else keeps this program alive.
    const timer = setTimeout(() => {}, 20_000);
    await child.send(i);
    assertEquals((await next(child.messages())).message, i);
    clearTimeout(timer);
  }
  assertEquals(await isPending(closed), true);
  child.ref();
  assertEquals((await child.shutdown()).success, true);
});

oneKindTest("process", "spawnFor() children have no output to read, and are referenced", async () => {
  using pair = await Pair.open("native");
  const child = spawnFor(pair.server, "cat", { stderr: "null" });
  assertEquals([child.stdout, child.stderr], [undefined, undefined]);
  child.unref();
  child.ref();
  await pair.client.closeWrite();
  assertEquals((await deadline(child.closed, 20_000)).code, 0);
  await delay(0);
});
