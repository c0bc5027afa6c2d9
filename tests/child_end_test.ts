/** How a child ends that its parent asks to: its module does what it has left to do, and nothing keeps it longer. */

import { TcpConn } from "@c10k/sockets/tcp";
import { assertEquals, assertStringIncludes } from "@std/assert";
import { deadline } from "@std/async";
import { childTest, moduleOf, NATIVE, next, oneKindTest, spawn, withoutOrphans } from "./_process.ts";
import { Pair, PATIENCE, runDeno } from "./_util.ts";

interface Case {
  /** What the module does once its loop over messages has ended. */
  readonly after: string;
  /** What the parent receives then. */
  readonly told: unknown[];
  readonly code: number;
  /** What the error of a thread says; a process has written it to its standard error. */
  readonly error?: string;
}

const LATER = "new Promise((resolve) => setTimeout(resolve, 100))";

const CASES: Record<string, Case> = {
  "nothing": { after: "", told: [], code: 0 },
  "work that its module awaits": { after: `await ${LATER}; await parent().send("done");`, told: ["done"], code: 0 },
  "work that its module does not await": {
    after: `(async () => { await ${LATER}; await parent().send("done"); })();`,
    told: ["done"],
    code: 0,
  },
  "a timer": { after: `setTimeout(() => parent().send("done"), 100);`, told: ["done"], code: 0 },
  "an unreferenced timer": {
    after: `Deno.unrefTimer(setTimeout(() => parent().send("late"), 60_000));`,
    told: [],
    code: 0,
  },
  "a datagram to come": {
    after: `
      const endpoint = UdpEndpoint.bind({ hostname: "127.0.0.1", port: 0 });
      setTimeout(() => endpoint.sendTo(new Uint8Array(1), endpoint.addr), 100);
      await endpoint.recvFrom(new Uint8Array(1));
      endpoint.close();
      await parent().send("done");`,
    told: ["done"],
    code: 0,
  },
  "more messages than may be unread": {
    after: `for (let i = 0; i < 600; i++) await parent().send(i);`,
    told: Array.from({ length: 600 }, (_, i) => i),
    code: 0,
  },
  "a promise that is rejected": {
    after: `await ${LATER}; throw new RangeError("failed late");`,
    told: [],
    code: 1,
    error: "failed late",
  },
  "a promise that is rejected and nobody awaits": {
    after: `setTimeout(() => Promise.reject(new RangeError("failed late")), 100);`,
    told: [],
    code: 1,
    error: "failed late",
  },
  "an exit code": { after: "Deno.exitCode = 3;", told: [], code: 3 },
};

for (const [what, { after, told, code, error }] of Object.entries(CASES)) {
  childTest(`Child.shutdown() waits for what the module does after its loop: ${what}`, async (kind) => {
    const module = moduleOf(`
      await parent().send("ready");
      for await (const _ of parent().messages());
      ${after}
    `);
    await using child = spawn(kind, module, kind === "process" ? { stderr: "null" } : {});
    const inbox = child.messages();
    await next(inbox);
    const ending = child.shutdown({ grace: PATIENCE });
    const seen: unknown[] = [];
    for await (const { message } of inbox) seen.push(message);
    assertEquals(seen, told);
    const status = await deadline(ending, PATIENCE);
    // A thread has no exit code but success and failure.
    assertEquals([status.success, status.code], [code === 0, kind === "process" ? code : Math.min(code, 1)]);
    assertEquals(status.signal, undefined);
    if (kind === "worker" && error !== undefined) assertStringIncludes(status.error?.message ?? "", error);
  });
}

for (const way of ["to", "from"] as const) {
  oneKindTest(
    "worker",
    `Child.shutdown() ends a thread once its module is done, though a connection of the runtime engine went ${way} it`,
    async (kind) => {
      const module = moduleOf(`
        const listener = TcpListener.bind({ hostname: "127.0.0.1", port: 0, engine: "runtime" });
        await parent().send(listener.addr);
        if (${way === "from"}) await parent().send("take it", { sockets: [await listener.accept()] });
        listener.close();
        for await (const { sockets } of parent().messages()) {
          for (const conn of sockets) {
            await conn.read(new Uint8Array(1));
            conn.close();
          }
          await parent().send("read");
        }
        await ${LATER};
        await parent().send("done");
      `);
      await using child = spawn(kind, module);
      const inbox = child.messages();
      const { message: { port } } = await next(inbox);
      if (way === "to") {
        using pair = await Pair.open("runtime");
        await child.send("yours", { sockets: [pair.server] });
        await pair.client.writeAll(new Uint8Array(1));
        assertEquals((await next(inbox)).message, "read");
      } else {
        using _client = await TcpConn.connect({ port, engine: "runtime" });
        for (const conn of (await next(inbox)).sockets) conn.close();
      }
      const ending = child.shutdown({ grace: PATIENCE });
      assertEquals((await next(inbox)).message, "done");
      assertEquals((await deadline(ending, PATIENCE)).signal, undefined);
    },
  );
}

Deno.test({
  name: "Child.shutdown() of a thread with permissions of its own waits for its module, and for waitUntil()",
  ignore: !NATIVE,
  fn: () =>
    withoutOrphans(async () => {
      const source = (after: string) =>
        moduleOf(`await parent().send("ready"); for await (const _ of parent().messages()); ${after}`);
      const modules = [
        source(`await ${LATER}; await parent().send("done");`),
        source(`parent().waitUntil(${LATER}.then(() => parent().send("done")));`),
        source(`await ${LATER}; throw new RangeError("failed late");`),
      ];
      const { code, stdout } = await runDeno(
        ["--allow-ffi", "--allow-read", "--unstable-worker-options"],
        `
        import { spawnWorker } from "@c10k/sockets/process";
        for (const module of ${JSON.stringify(modules)}) {
          const child = spawnWorker(module, { permissions: { ffi: "inherit" } });
          const inbox = child.messages();
          await inbox.next();
          const ending = child.shutdown();
          const seen = [];
          for await (const { message } of inbox) seen.push(message);
          const { success, error } = await ending;
          console.log(JSON.stringify([seen, success, error?.message.replace(/^.*has failed: /, "")]));
        }`,
      );
      assertEquals([code, stdout.trim().split("\n").map((line) => JSON.parse(line))], [0, [
        [["done"], true, null],
        [["done"], true, null],
        [[], false, "(in promise) RangeError: failed late"],
      ]]);
    }),
});
