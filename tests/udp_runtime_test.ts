/** What the runtime engine of UDP rests on: Deno.listenDatagram with --unstable-net, node:dgram without; and what holds a process. */

import { Multiplexer } from "@c10k/sockets/mux";
import { UdpEndpoint } from "@c10k/sockets/udp";
import { assertEquals, assertGreater, assertMatch, assertRejects, assertThrows } from "@std/assert";
import { deadline, delay } from "@std/async";
import dgram from "node:dgram";
import { ENGINES, long, replaced, run, runDeno, withoutLeaks } from "./_util.ts";

/** With `--unstable-net` there is Deno.listenDatagram. */
const TRANSPORTS = [["node:dgram", []], ["Deno.listenDatagram", ["--unstable-net"]]] as const;

long(Deno.test)("[runtime] the suite holds with --unstable-net too, on Deno.listenDatagram", async () => {
  const files = [
    "tests/udp_test.ts",
    "tests/udp_batch_test.ts",
    "tests/udp_buffers_test.ts",
    "tests/udp_reasons_test.ts",
  ];
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

/**
 * An endpoint on Deno.listenDatagram, whose receives come to what is given, one after the other, and then wait. A close
 * ends the receive that is pending, as Deno's does.
 */
function endpointOver(
  outcomes: (Error | Promise<number>)[],
  port = 9,
): { endpoint: UdpEndpoint; closed: () => boolean } {
  let isClosed = false;
  const closing = Promise.withResolvers<never>();
  closing.promise.catch(() => {});
  using _ = replaced(Deno, "listenDatagram", () => ({
    addr: { transport: "udp", hostname: "127.0.0.1", port: 8 },
    async receive(p: Uint8Array) {
      const outcome = await Promise.race([outcomes.shift() ?? closing.promise, closing.promise]);
      if (outcome instanceof Error) throw outcome;
      return [p.subarray(0, outcome), { transport: "udp", hostname: "127.0.0.1", port }];
    },
    close() {
      isClosed = true;
      closing.reject(new Deno.errors.BadResource("made up"));
    },
  }));
  return { endpoint: UdpEndpoint.bind({ hostname: "127.0.0.1", engine: "runtime" }), closed: () => isClosed };
}

Deno.test("[runtime] Multiplexer tells of a receive that fails for nobody, and the next call says why", async () => {
  const { endpoint } = endpointOver([Object.assign(new Error("made up"), { code: "ENOMEM" }), Promise.resolve(3)]);
  using mux = new Multiplexer({ backend: "runtime" });
  mux.register(endpoint, { readable: true });
  const [event] = await mux.wait({ timeout: 5_000 });
  assertEquals([event?.readable, event?.error], [true, true]);
  const why = "Cannot receive on UDP endpoint 127.0.0.1:8: out of memory (ENOMEM)";
  assertThrows(() => endpoint.tryRecvFrom(new Uint8Array(9)), Error, why);
  assertEquals((await endpoint.recvFrom(new Uint8Array(9))).size, 3);
  endpoint.close();
});

Deno.test("[runtime] UdpEndpoint.close() leaves to nobody what arrives, or fails, at the same time", async () => {
  for (const outcome of [3, Object.assign(new Error("made up"), { code: "ENOMEM" })]) {
    for (const way of ["waits", "runs ahead"]) {
      const arrival = Promise.withResolvers<number>();
      const { endpoint, closed } = endpointOver([arrival.promise]);
      const p = new Uint8Array(9);
      const calls = [];
      if (way === "runs ahead") assertEquals(endpoint.tryRecvFrom(p), undefined);
      else calls.push(endpoint.recvFrom(p), endpoint.recvFrom(p));
      if (typeof outcome === "number") arrival.resolve(outcome);
      else arrival.reject(outcome);
      endpoint.close();
      for (const result of await Promise.allSettled(calls)) {
        assertEquals(result.status === "rejected" && result.reason.name, "BadResource");
      }
      await delay(0);
      assertEquals(closed(), true);
      assertThrows(() => endpoint.tryRecvFrom(p), Deno.errors.BadResource);
    }
  }
});

Deno.test("[runtime] UdpEndpoint.close() wakes receives in their order, also one whose own has failed for a peer", async () => {
  for (const turns of [0, 1, 2, 9]) {
    const failing = Promise.withResolvers<number>();
    const { endpoint } = endpointOver([failing.promise]);
    const ended: number[] = [];
    const calls = [0, 1, 2].map((i) => endpoint.recvFrom(new Uint8Array(9)).catch(() => ended.push(i)));
    failing.reject(new Deno.errors.ConnectionReset("made up"));
    for (let i = 0; i < turns; i++) await undefined;
    endpoint.close();
    await Promise.all(calls);
    assertEquals(ended, [0, 1, 2]);
  }
});

Deno.test("[runtime] UdpEndpoint.recvFrom() settles in the order of the calls, also behind one whose own has failed", async () => {
  for (const peek of [true, false]) {
    const outcomes = [
      Promise.reject(new Deno.errors.ConnectionReset("made up")),
      Promise.resolve(1),
      Promise.resolve(2),
      Promise.resolve(3),
    ];
    const { endpoint } = endpointOver(outcomes);
    const done: number[] = [];
    const calls = [0, 1, 2].map((i) => endpoint.recvFrom(new Uint8Array(9), { peek }).then(() => done.push(i)));
    await deadline(Promise.all(calls), 5_000);
    assertEquals(done, [0, 1, 2]);
    endpoint.close();
  }
});

Deno.test("[runtime] UdpEndpoint.sendTo() refuses port 0 also of a sender that has it", async () => {
  const { endpoint } = endpointOver([Promise.resolve(3)], 0);
  const { data, address } = await endpoint.recvFrom(new Uint8Array(9));
  await assertRejects(() => endpoint.sendTo(data, address), RangeError, "port");
  endpoint.close();
});

/** An endpoint on node:dgram, and its socket. */
function endpointOnNode(): { endpoint: UdpEndpoint; node: dgram.Socket } {
  let node: dgram.Socket | undefined;
  const { createSocket } = dgram;
  using _ = replaced(dgram, "createSocket", (options: dgram.SocketOptions) => node = createSocket(options));
  using __ = replaced(Deno, "listenDatagram" as keyof typeof Deno, undefined);
  const endpoint = UdpEndpoint.bind({ hostname: "127.0.0.1", engine: "runtime" });
  return { endpoint, node: node as unknown as dgram.Socket };
}

Deno.test("[runtime] UdpEndpoint tells a receive that waits what node:dgram fails with", () =>
  withoutLeaks(async () => {
    const { endpoint, node } = endpointOnNode();
    const receiving = endpoint.recvFrom(new Uint8Array(9));
    node.emit("error", Object.assign(new Error("made up"), { code: "ENOBUFS" }));
    const why = `Cannot receive on UDP endpoint 127.0.0.1:${endpoint.addr.port}: no buffer space available (ENOBUFS)`;
    await assertRejects(() => receiving, Error, why);
    endpoint.close();
  }));

Deno.test("[runtime] UdpEndpoint.recvFrom() settles after a call that has failed before it", () =>
  withoutLeaks(async () => {
    const { endpoint, node } = endpointOnNode();
    const done: string[] = [];
    const first = endpoint.recvFrom(new Uint8Array(9)).catch(() => done.push("failed"));
    node.emit("error", Object.assign(new Error("made up"), { code: "ENOBUFS" }));
    // Its datagram is there already.
    node.emit("message", new Uint8Array(3), { address: "127.0.0.1", port: 9 });
    const second = endpoint.recvFrom(new Uint8Array(9)).then(() => done.push("received"));
    await Promise.all([first, second]);
    assertEquals(done, ["failed", "received"]);
    endpoint.close();
  }));

Deno.test("[runtime] UdpEndpoint keeps the order of a queue of node:dgram's that never runs empty", () =>
  withoutLeaks(() => {
    const { endpoint, node } = endpointOnNode();
    const p = new Uint32Array(1);
    let sent = 0;
    const arrive = () => {
      node.emit("message", new Uint8Array(new Uint32Array([sent++]).buffer), { address: "127.0.0.1", port: 9 });
    };
    for (let i = 0; i < 500; i++) arrive();
    for (let i = 0; i < 3_000; i++) {
      arrive();
      assertEquals([endpoint.tryRecvFrom(new Uint8Array(p.buffer))?.size, p[0]], [4, i]);
    }
    assertEquals(endpoint.drops(), 0);
    endpoint.close();
  }));

Deno.test("[runtime] UdpEndpoint.sendTo() that is cancelled before its turn sends nothing", () =>
  withoutLeaks(async () => {
    using a = UdpEndpoint.bind({ hostname: "127.0.0.1", engine: "runtime" });
    using b = UdpEndpoint.bind({ hostname: "127.0.0.1", engine: "runtime" });
    const abort = new AbortController();
    const first = a.sendTo(new Uint8Array(1), b.addr);
    const second = a.sendTo(new Uint8Array(2), b.addr, { signal: abort.signal });
    const third = a.sendTo(new Uint8Array(3), b.addr);
    abort.abort(new Error("stop"));
    await assertRejects(() => second, Error, "stop");
    assertEquals(await Promise.all([first, third]), [1, 3]);
    const sizes = [await b.recvFrom(new Uint8Array(9)), await b.recvFrom(new Uint8Array(9))].map(({ size }) => size);
    assertEquals(sizes, [1, 3]);
  }));
