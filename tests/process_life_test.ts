/** When a process may end: waiting calls hold it, unless they are unreferenced or nobody waits. */

import { assert, assertEquals } from "@std/assert";
import { ENGINES, runDeno, runWithin } from "./_util.ts";

const OPEN = (engine: string) => `
  import { TcpConn, TcpListener } from "@c10k/sockets/tcp";
  const engine = "${engine}";
  const listener = TcpListener.bind({ hostname: "127.0.0.1", port: 0, engine });
  const client = await TcpConn.connect({ port: listener.addr.port, engine });
  const server = await listener.accept();
  const p = new Uint8Array(8);
  addEventListener("unload", () => console.log("ended"));
`;

for (const engine of ENGINES) {
  const flags = engine === "native" ? ["--allow-net", "--allow-ffi"] : ["--allow-net"];
  for (
    const [name, source] of [
      ["open sockets that nobody waits on", ``],
      ["an unreferenced read and accept", `server.unref(); server.read(p); listener.unref(); listener.accept();`],
      ["calls unreferenced while they wait", `server.read(p); server.unref(); listener.accept(); listener.unref();`],
      [
        "cancelled calls",
        `const abort = new AbortController();
         const calls = [server.read(p, abort), listener.accept(abort)];
         abort.abort(); await Promise.allSettled(calls);`,
      ],
      ["tryRead and tryAccept that found nothing", `server.tryRead(p); listener.tryAccept();`],
      [
        "an unreferenced read with a signal",
        `server.unref(); server.read(p, { signal: new AbortController().signal });`,
      ],
    ] as const
  ) {
    Deno.test(`[${engine}] a process ends although there are ${name}`, async () => {
      const begin = performance.now();
      const { code, stdout, stderr } = await runDeno(flags, OPEN(engine) + source);
      assertEquals([code, stdout, stderr], [0, "ended\n", ""]);
      assert(performance.now() - begin < 10_000);
    });
  }

  Deno.test({
    name: `[${engine}] a process ends although an unreferenced accept waits for room`,
    ignore: Deno.build.os !== "linux",
    async fn() {
      const source = `
        import { TcpConn, TcpListener } from "@c10k/sockets/tcp";
        const { promise: reported, resolve } = Promise.withResolvers();
        const listener = TcpListener.bind({ hostname: "127.0.0.1", port: 0, engine: "${engine}", onAcceptError: resolve });
        const client = await TcpConn.connect({ port: listener.addr.port, engine: "${engine}" });
        const files = [];
        try { while (true) files.push(Deno.openSync("/dev/null")); } catch { /* full */ }
        listener.unref();
        listener.accept();
        const timer = setTimeout(() => Deno.exit(1), 20_000);
        console.log((await reported).code);
        Deno.unrefTimer(timer);
        addEventListener("unload", () => {
          for (const file of files) file.close();
          console.log("ended");
        });`;
      const { code, stdout, stderr } = await runWithin(100, source);
      assertEquals([code, stdout, stderr], [0, "EMFILE\nended\n", ""]);
    },
  });

  for (
    const [name, wait] of [
      ["read", `server.read(p)`],
      ["read with a signal", `server.read(p, { signal: new AbortController().signal })`],
      ["read after ref()", `(server.unref(), server.ref(), server.read(p))`],
      ["peek", `server.peek(p)`],
    ] as const
  ) {
    Deno.test(`[${engine}] a process goes on while a ${name} waits`, async () => {
      const source = `
        ${wait}.then((n) => console.log("read", n));
        Deno.unrefTimer(setTimeout(() => client.writeAll(new Uint8Array(3)), 50));`;
      const { code, stdout, stderr } = await runDeno(flags, OPEN(engine) + source);
      assertEquals([code, stdout, stderr], [0, "read 3\nended\n", ""]);
    });
  }
}
