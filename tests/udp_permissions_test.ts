/** What UDP does with the permissions a program has, each case in a process of its own. */

import { UdpEndpoint } from "@c10k/sockets/udp";
import { assertEquals } from "@std/assert";
import { LOCAL, native } from "./_udp.ts";
import { runDeno } from "./_util.ts";

/** Runs a program that has `tell(call)`, which prints what a call returned or the name of what it threw. */
async function told(flags: string[], body: string): Promise<string[]> {
  const source = `
    import { DatagramBatch, UdpEndpoint } from "@c10k/sockets/udp";
    const p = new Uint8Array(3);
    const tell = async (call) => {
      try { console.log(await call()); } catch (error) { console.log(error.name); }
    };
    ${body}`;
  const { stdout, stderr } = await runDeno(flags, source);
  assertEquals(stderr, "");
  return stdout.trim().split("\n");
}

function permissionTest(name: string, fn: () => Promise<void>, ignore = !native): void {
  Deno.test({ name: `udp permissions ${name}`, ignore, fn });
}

permissionTest("[native] each destination needs --allow-net, and a revocation holds at once", async () => {
  const body = `
    using endpoint = UdpEndpoint.bind({ hostname: "127.0.0.1", engine: "native" });
    const send = (port) => endpoint.sendTo(p, { hostname: "127.0.0.1", port });
    await tell(() => send(9));
    await tell(() => send(10));
    await tell(() => endpoint.trySendTo(p, { hostname: "127.0.0.1", port: 10 }));
    Deno.permissions.revokeSync({ name: "net" });
    await tell(() => send(9));`;
  const run = (...flags: string[]) => told([...flags, "--allow-ffi"], body);
  assertEquals(await run("--allow-net"), ["3", "3", "3", "NotCapable"]);
  const some = ["3", "NotCapable", "NotCapable", "NotCapable"];
  assertEquals(await run("--allow-net=127.0.0.1:0,127.0.0.1:9"), some);
  assertEquals(await run("--allow-net", "--deny-net=127.0.0.1:10"), some);
});

permissionTest("[native] what another Worker revokes is gone here, while calls wait and while none does", async () => {
  const body = `
    const revoke = () => new Promise((resolve) => {
      const text = "Deno.permissions.revokeSync({ name: 'net' }); postMessage(0); self.close();";
      const worker = new Worker("data:text/javascript," + encodeURIComponent(text), { type: "module" });
      worker.onmessage = resolve;
    });
    using endpoint = UdpEndpoint.bind({ hostname: "127.0.0.1", engine: "native" });
    using batches = UdpEndpoint.bind({ hostname: "127.0.0.1", engine: "native" });
    const batch = new DatagramBatch();
    batch.set(0, p, batches.addr);
    const waiting = WAITING ? endpoint.recvFrom(p).catch(() => {}) : undefined;
    await tell(() => endpoint.sendTo(p, batches.addr));
    await tell(() => endpoint.sendBatch(batch));
    await revoke();
    await tell(() => endpoint.sendTo(p, batches.addr));
    await tell(() => endpoint.trySendTo(p, batches.addr));
    await tell(() => endpoint.sendBatch(batch));
    endpoint.close();
    await tell(() => UdpEndpoint.bind({ hostname: "127.0.0.1", engine: "native" }));`;
  for (const waiting of ["true", "false"]) {
    const lines = await told(["--allow-net", "--allow-ffi"], body.replace("WAITING", waiting));
    assertEquals(lines, ["3", "1", "NotCapable", "NotCapable", "NotCapable", "NotCapable"]);
  }
});

permissionTest("[native] names, mapped addresses and changing objects lead around nothing", async () => {
  const body = `
    using four = UdpEndpoint.bind({ hostname: "127.0.0.1", engine: "native" });
    using six = UdpEndpoint.bind({ hostname: "::", engine: "native" });
    await tell(() => four.sendTo(p, { hostname: "127.0.0.2", port: 9 }));
    await tell(() => four.sendTo(p, { hostname: "localhost", port: 9 }));
    await tell(() => four.sendTo(p, { hostname: "127.1", port: 9 }));
    await tell(() => four.sendTo(p, { hostname: "0x7f000001", port: 9 }));
    await tell(() => four.connect({ hostname: "localhost", port: 9 }));
    await tell(() => six.sendTo(p, { hostname: "::ffff:127.0.0.1", port: 9 }));
    await tell(() => six.sendTo(p, { hostname: "::1", port: 9 }));
    // The kernel takes the first for all the others, too.
    const change = (first, then) => { let n = 0; return () => n++ === 0 ? first : then; };
    for (const [first, then] of [["127.0.0.2", "127.0.0.1"], ["127.0.0.1", "127.0.0.2"]]) {
      const hostname = change(first, then);
      await tell(() => four.sendTo(p, { get hostname() { return hostname(); }, port: 9 }));
    }`;
  const permitted = "--allow-net=127.0.0.2,127.0.0.1:0,[::]:0";
  assertEquals(await told([permitted, "--allow-ffi"], body), [
    "3",
    ...Array(6).fill("NotCapable"),
    "3",
    "NotCapable",
  ]);
  assertEquals(await told(["--allow-net", "--deny-net=127.0.0.1:9,[::1]", "--allow-ffi"], body), [
    "3",
    ...Array(6).fill("NotCapable"),
    "3",
    "NotCapable",
  ]);
});

permissionTest("[native] each datagram of a batch needs --allow-net for where it goes", async () => {
  using here = UdpEndpoint.bind({ hostname: LOCAL });
  using there = UdpEndpoint.bind({ hostname: LOCAL });
  const [allowed, refused] = [here.addr.port, there.addr.port];
  const lines = await told(
    [`--allow-net=127.0.0.1:0,127.0.0.1:${allowed}`, "--allow-ffi"],
    `
    using endpoint = UdpEndpoint.bind({ hostname: "127.0.0.1", engine: "native" });
    const batch = new DatagramBatch();
    const to = (port) => ({ hostname: "127.0.0.1", port });
    for (let i = 0; i < 5; i++) batch.set(i, new Uint8Array([i]), to(i % 2 === 0 ? ${allowed} : ${refused}));
    await tell(() => endpoint.sendBatch(batch));
    await tell(() => endpoint.trySendBatch(batch));
    await tell(() => endpoint.trySendBatch(batch, { start: 1, end: 5 }));
    await tell(() => endpoint.connect(to(${refused})));
    endpoint.connect(to(${allowed}));
    await tell(() => endpoint.sendBatch(batch, { end: 2 }));
    batch.set(1, p);
    await tell(() => endpoint.sendBatch(batch, { end: 2 }));`,
  );
  assertEquals(lines, ["NotCapable", "1", "NotCapable", "NotCapable", "NotCapable", "2"]);
  const p = new Uint8Array(9);
  // All that may be sent, whatever stands before it; and nothing else.
  for (const first of [0, 2, 4, 0, 0, 0]) assertEquals((await here.recvFrom(p)).data[0], first);
  assertEquals((await here.recvFrom(p)).size, 3);
  assertEquals(there.tryRecvFrom(p), undefined);
});

permissionTest("[runtime] are Deno's own, for bind and for each destination", async () => {
  const body = `
    using endpoint = UdpEndpoint.bind({ hostname: "127.0.0.1" });
    const send = (port) => endpoint.sendTo(p, { hostname: "127.0.0.1", port });
    await tell(() => send(9));
    await tell(() => send(10));
    await tell(() => UdpEndpoint.bind({ hostname: "127.0.0.2" }));
    Deno.permissions.revokeSync({ name: "net", host: "127.0.0.1:9" });
    await tell(() => send(9));`;
  for (const flags of [[], ["--unstable-net"]]) {
    const lines = await told(["--allow-net=127.0.0.1:0,127.0.0.1:9", ...flags], body);
    assertEquals(lines, ["3", "NotCapable", "NotCapable", "NotCapable"]);
  }
}, false);
