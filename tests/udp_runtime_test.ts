/** What the runtime engine of UDP rests on: Deno.listenDatagram with --unstable-net, node:dgram without; and what holds a process. */

import { assertEquals, assertGreater, assertMatch } from "@std/assert";
import { deadline } from "@std/async";
import { ENGINES, run, runDeno } from "./_util.ts";

/** With `--unstable-net` there is Deno.listenDatagram. */
const TRANSPORTS = [["node:dgram", []], ["Deno.listenDatagram", ["--unstable-net"]]] as const;

Deno.test("[runtime] the suite holds with --unstable-net too, on Deno.listenDatagram", async () => {
  const files = ["tests/udp_test.ts", "tests/udp_batch_test.ts"];
  const flags = ["--allow-all", "--no-prompt", "--no-check", "--unstable-net", "--filter", "[runtime] "];
  const { code, stdout } = await run(["test", ...flags, ...files]);
  assertEquals(code, 0, stdout);
  assertMatch(stdout, /\| [3-9]\d passed \| 0 failed/);
});

async function flood(transport: string, flags: readonly string[]): Promise<void> {
  const source = `
    import { setImmediate } from "node:timers";
    import { UdpEndpoint } from "@c10k/sockets/udp";
    const SENT = 5_000;
    using sender = UdpEndpoint.bind({ hostname: "127.0.0.1", engine: "runtime" });
    using receiver = UdpEndpoint.bind({ hostname: "127.0.0.1", engine: "runtime" });
    const p = new Uint8Array(2_000);
    receiver.tryRecvFrom(p);
    const before = Deno.memoryUsage();
    for (let i = 0; i < SENT; i++) {
      await sender.sendTo(new Uint8Array(1_000).fill(i), receiver.addr);
      // At first slowly, so that they are delivered and the engine has to drop, then faster than the kernel holds them.
      if (i < 2_000) await new Promise((resolve) => setImmediate(resolve));
    }
    gc();
    const external = Deno.memoryUsage().external - before.external;
    // What the kernel itself has dropped, which the engine does not know.
    const kernel = () => Number(Deno.readTextFileSync("/proc/net/udp").split("\\n")
      .find((line) => line.includes("0100007F:" + receiver.addr.port.toString(16).toUpperCase().padStart(4, "0")))
      .trim().split(/\\s+/).at(-1));
    let received = 0;
    const lost = () => receiver.drops() + kernel();
    for (const end = Date.now() + 5_000; received + lost() < SENT && Date.now() < end;) {
      while (receiver.tryRecvFrom(p) !== undefined) received++;
      await new Promise((resolve) => setTimeout(resolve));
    }
    console.log(JSON.stringify({ received, lost: lost(), external, drops: receiver.drops() }));`;
  const permissions = ["--allow-all", "--v8-flags=--expose-gc"];
  const { stdout, stderr } = await runDeno([...permissions, ...flags], source);
  assertEquals(stderr, "");
  const { received, lost, external, drops } = JSON.parse(stdout);
  assertEquals(received + lost, 5_000);
  assertGreater(lost, 1_000);
  assertEquals(drops > 0, transport === "node:dgram");
  // 1,024 datagrams of 1,000 bytes, not of the 64 KiB that each was received into.
  assertEquals(external < 16 * 1024 * 1024, true, stdout);
}

for (const [transport, flags] of TRANSPORTS) {
  Deno.test(`[runtime] ${transport} is what an endpoint sits on with [${flags}]`, async () => {
    const source = `
      const made = [];
      const { listenDatagram } = Deno;
      if (listenDatagram) Deno.listenDatagram = (o) => (made.push("Deno.listenDatagram"), listenDatagram(o));
      const dgram = (await import("node:dgram")).default;
      const { createSocket } = dgram;
      dgram.createSocket = (o) => (made.push("node:dgram"), createSocket(o));
      const { UdpEndpoint } = await import("@c10k/sockets/udp");
      using a = UdpEndpoint.bind({ hostname: "127.0.0.1" });
      using b = UdpEndpoint.bind({ hostname: "::", ipv6Only: true });
      await a.sendTo(new Uint8Array(7), a.addr);
      console.log(a.engine, ...made, (await a.recvFrom(new Uint8Array(9))).size);`;
    const { stdout, stderr } = await runDeno(["--allow-net=127.0.0.1,[::]", ...flags], source);
    // Only node:dgram leaves IPv4 alone on "::".
    assertEquals([stdout, stderr], [`runtime ${transport} node:dgram 7\n`, ""]);
  });

  Deno.test({
    name: `[runtime] ${transport}: a flood that nobody reads stays in bounds, and the numbers add up`,
    ignore: Deno.build.os !== "linux", // the kernel's own count is read from /proc
    fn: () => flood(transport, flags),
  });
}

for (const [name, flags] of [...TRANSPORTS, ["native", ["--allow-ffi"]]] as const) {
  const engine = name === "native" ? "native" : "runtime";
  Deno.test({
    name: `[${engine}] ${name}: only what waits keeps the process alive, and unref() lets it end`,
    ignore: !ENGINES.includes(engine),
    fn: async () => {
      const source = `
      import { UdpEndpoint } from "@c10k/sockets/udp";
      const idle = UdpEndpoint.bind({ hostname: "127.0.0.1", engine: "${engine}" });
      const a = UdpEndpoint.bind({ hostname: "127.0.0.1", engine: "${engine}" });
      const b = UdpEndpoint.bind({ hostname: "127.0.0.1", engine: "${engine}" });
      const p = new Uint8Array(9);
      a.tryRecvFrom(p);
      idle.tryRecvFrom(p);
      // Nothing but the receive holds the process until this timer has fired.
      Deno.unrefTimer(setTimeout(() => b.sendTo(new Uint8Array(3), a.addr), 50));
      console.log("got", (await a.recvFrom(p)).size);
      const waiting = a.recvFrom(p);
      a.unref();
      globalThis.addEventListener("unload", () => console.log("ended"));
      await Promise.race([waiting, undefined]);`;
      const { code, stdout, stderr } = await runDeno(["--allow-net", ...flags], source);
      assertEquals([code, stdout, stderr], [0, "got 3\nended\n", ""]);
    },
  });
}

/** What a program does at last; none of it leaves anything that waits. */
const ENDINGS = {
  "a batch that was waited for": `
    const batch = a.recvBatch(new DatagramBatch());
    await b.sendTo(new Uint8Array(3), a.addr);
    console.log(await batch);`,
  "a batch that was there": `
    a.tryRecvBatch(new DatagramBatch());
    await b.sendTo(new Uint8Array(3), a.addr);
    await new Promise((resolve) => setTimeout(resolve, 50));
    console.log(await a.recvBatch(new DatagramBatch()));`,
  "a send, and a receive that is not to hold it": `
    a.unref();
    console.log(await a.sendTo(new Uint8Array(1), b.addr));
    a.recvFrom(new Uint8Array(9));`,
};

for (const [name, flags] of [...TRANSPORTS, ["native", ["--allow-ffi"]]] as const) {
  const engine = name === "native" ? "native" : "runtime";
  for (const [ending, code] of Object.entries(ENDINGS)) {
    Deno.test({
      name: `[${engine}] ${name}: a process ends after ${ending}`,
      ignore: !ENGINES.includes(engine),
      async fn() {
        const source = `
        import { DatagramBatch, UdpEndpoint } from "@c10k/sockets/udp";
        const a = UdpEndpoint.bind({ hostname: "127.0.0.1", engine: "${engine}" });
        const b = UdpEndpoint.bind({ hostname: "127.0.0.1", engine: "${engine}" });
        ${code}`;
        const running = runDeno(["--allow-net", ...flags], source);
        const { code: exit, stdout, stderr } = await deadline(running, 20_000);
        assertEquals([exit, stdout, stderr], [0, "1\n", ""]);
      },
    });
  }
}

Deno.test("[runtime] a reset that Windows tells of after a peer was gone ends no loop, other failures do", async () => {
  const source = `
    // Deno.listenDatagram as it is on Windows, where a receive fails after an ICMP error (WSAECONNRESET).
    const results = [
      () => { throw new Deno.errors.ConnectionReset("An existing connection was forcibly closed (os error 10054)"); },
      () => [new Uint8Array([7]), { transport: "udp", hostname: "127.0.0.1", port: 9 }],
      () => { throw new Deno.errors.ConnectionRefused("Connection refused (os error 111)"); },
      () => [new Uint8Array([8]), { transport: "udp", hostname: "127.0.0.1", port: 9 }],
      () => { throw new Error("Out of memory (os error 12)"); },
      () => [new Uint8Array([9]), { transport: "udp", hostname: "127.0.0.1", port: 9 }],
    ];
    Deno.listenDatagram = () => ({
      addr: { transport: "udp", hostname: "127.0.0.1", port: 8 },
      receive: async () => (await undefined, results.shift()()),
      close() {},
    });
    const { UdpEndpoint } = await import("@c10k/sockets/udp");
    using endpoint = UdpEndpoint.bind({ hostname: "127.0.0.1", engine: "runtime" });
    const p = new Uint8Array(9);
    for (let i = 0; i < 4; i++) {
      console.log(await endpoint.recvFrom(p).then(({ data }) => data[0], (error) => error.message));
    }`;
  const { stdout, stderr } = await runDeno(["--allow-net"], source);
  const message = "Cannot receive on UDP endpoint 127.0.0.1:8: out of memory (ENOMEM)";
  assertEquals([stdout, stderr], [`7\n8\n${message}\n9\n`, ""]);
});

Deno.test("[runtime] what the engine cannot do is refused with a way out", async () => {
  const source = `
    import { DatagramBatch, UdpEndpoint } from "@c10k/sockets/udp";
    using endpoint = UdpEndpoint.bind({ hostname: "127.0.0.1" });
    const p = new Uint8Array(1);
    const batch = new DatagramBatch();
    batch.set(0, p);
    for (
      const call of [
        () => UdpEndpoint.bind({ reusePort: true }),
        () => UdpEndpoint.bind({ receiveBufferSize: 9 }),
        () => UdpEndpoint.bind({ sendBufferSize: 9 }),
        () => UdpEndpoint.bind({ hostname: "localhost" }),
        () => UdpEndpoint.fromFd(3),
        () => endpoint.connect({ hostname: "127.0.0.1", port: 9 }),
        () => endpoint.disconnect(),
        () => endpoint.send(p),
        () => endpoint.sendBatch(batch),
        () => endpoint.trySendBatch(batch),
        () => endpoint.joinMulticast({ group: "239.1.1.1", source: "127.0.0.1" }),
        () => endpoint.getOption("SO_RCVBUF"),
        () => endpoint.setOption("SO_RCVBUF", 9),
        () => endpoint.detach(),
        () => batch.set(0, p, { hostname: "fe80::1%eth0", port: 9 }),
      ]
    ) {
      try {
        await call();
        console.log("done");
      } catch (error) {
        console.log(error.name, error.message);
      }
    }
    batch.set(0, p, { hostname: "fe80::1%2", port: 9 });
    console.log(batch.address(0).hostname);`;
  const { stdout, stderr } = await runDeno(["--allow-net"], source);
  assertEquals(stderr, "");
  const lines = stdout.trim().split("\n");
  assertEquals(lines.pop(), "fe80::1%2");
  assertEquals(lines.length, 15);
  for (const line of lines) assertMatch(line, /^NotSupported Cannot .+: .*run with .*--allow-ffi/);
});
