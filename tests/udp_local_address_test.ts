/** Endpoints that know which address they were asked at, and answer from there. */

import { DatagramBatch, UdpEndpoint } from "@c10k/sockets/udp";
import { assertEquals, assertMatch, assertRejects, assertThrows } from "@std/assert";
import { deadline } from "@std/async";
import { decodeSockaddr, encodeSockaddr } from "../internal/sockaddr.ts";
import { familyOf, PacketInfo, writeLocal } from "../udp/packet_info.ts";
import { LOCAL, native, nativeTest, Two } from "./_udp.ts";
import { clientTest, decode, encode, ENGINES, resolvedTo, runDeno, ServerProcess, withoutLeaks } from "./_util.ts";
import { namespaceTest } from "./_namespace.ts";

const OTHER = "127.0.0.2";
const p = new Uint8Array(2048);

/** Where a server is bound, where a client asks it, and what the server sees of that. */
const ASKED = [
  ["0.0.0.0", OTHER, OTHER],
  ["0.0.0.0", LOCAL, LOCAL],
  [OTHER, OTHER, OTHER],
  ["::", OTHER, `::ffff:${OTHER}`],
  ["::", "::1", "::1"],
  ["::1", "::1", "::1"],
] as const;

/** A client that is connected, so that it hears nothing from another address than the one that it has asked. */
function clientOf(server: UdpEndpoint, hostname: string): UdpEndpoint {
  const client = UdpEndpoint.bind({ hostname: hostname.includes(":") ? "::1" : LOCAL, engine: "native" });
  client.connect({ hostname, port: server.addr.port });
  return client;
}

async function hear(endpoint: UdpEndpoint): Promise<string> {
  return decode((await deadline(endpoint.recvFrom(p), 5_000)).data);
}

for (const [bound, asked, seen] of ASKED) {
  nativeTest(`a server on ${bound} answers from ${asked} what it was asked there`, async (engine) => {
    using server = UdpEndpoint.bind({ hostname: bound, packetInfo: true, engine });
    using client = clientOf(server, asked);
    await client.send(encode("question"));
    const look = await server.recvFrom(p, { peek: true });
    assertEquals([look.localAddress, look.destination], [seen, seen]);
    const { data, address, localAddress, destination } = await server.recvFrom(p);
    assertEquals([decode(data), localAddress, destination], ["question", seen, seen]);
    await server.sendTo(encode("answer"), address, { localAddress });
    assertEquals(await hear(client), "answer");
    // By the text that the client has used, too.
    server.trySendTo(encode("another"), address, { localAddress: asked });
    assertEquals(await hear(client), "another");
    await client.send(encode("more"));
    await server.recvFrom(p, { peek: true });
    assertEquals(server.tryRecvFrom(p)?.localAddress, seen);
  });

  for (const options of [{}, { gso: true }, { gro: true }, { gso: true, gro: true }]) {
    const how = Object.keys(options).join(" and ") || "neither gso nor gro";
    nativeTest(`a batch with ${how} goes back from ${asked} over a server on ${bound}`, async (engine) => {
      using server = UdpEndpoint.bind({ hostname: bound, packetInfo: true, engine });
      using client = clientOf(server, asked);
      using second = clientOf(server, bound === "0.0.0.0" ? "127.0.0.3" : asked);
      const questions = new DatagramBatch({ capacity: 8, gso: true });
      for (let i = 0; i < 8; i++) questions.set(i, encode(`question ${i}`));
      await client.sendBatch(questions);
      await second.sendBatch(questions);
      const batch = new DatagramBatch({ capacity: 8, ...options });
      for (let n = 0; n < 16;) {
        const length = await deadline(server.recvBatch(batch), 5_000);
        n += length;
        for (let i = 0; i < length; i++) {
          const isFirst = batch.address(i).port === client.addr.port;
          const expected = isFirst || bound !== "0.0.0.0" ? seen : "127.0.0.3";
          assertEquals([batch.localAddress(i), batch.destination(i)], [expected, expected]);
        }
        assertEquals(await server.sendBatch(batch), length);
      }
      for (const endpoint of [client, second]) {
        for (let i = 0; i < 8; i++) assertEquals(await hear(endpoint), `question ${i}`);
      }
    });
  }
}

nativeTest(
  "without packetInfo nothing is reported of the local side, and a batch forgets what it knew",
  async (engine) => {
    using with_ = UdpEndpoint.bind({ hostname: "0.0.0.0", packetInfo: true, engine });
    using without = UdpEndpoint.bind({ hostname: "0.0.0.0", engine });
    using client = UdpEndpoint.bind({ hostname: LOCAL, engine });
    const ask = (endpoint: UdpEndpoint) =>
      client.sendTo(new Uint8Array(3), { hostname: OTHER, port: endpoint.addr.port });
    const batch = new DatagramBatch({ capacity: 2 });
    await ask(without);
    await without.recvBatch(batch);
    assertEquals([batch.localAddress(0), batch.destination(0)], [undefined, undefined]);
    await ask(with_);
    await with_.recvBatch(batch);
    assertEquals([batch.localAddress(0), batch.destination(0)], [OTHER, OTHER]);
    await ask(without);
    await without.recvBatch(batch);
    assertEquals([batch.localAddress(0), batch.destination(0)], [undefined, undefined]);
    await ask(without);
    assertEquals(Object.keys(await without.recvFrom(p)), ["data", "size", "truncated", "address"]);
    await ask(with_);
    await with_.recvBatch(batch);
    batch.set(0, new Uint8Array(1), client.addr);
    assertEquals([batch.localAddress(0), batch.destination(0)], [undefined, undefined]);
    assertThrows(() => batch.localAddress(1), RangeError);
    assertThrows(() => batch.destination(1), RangeError);
  },
);

nativeTest(
  "DatagramBatch.set() takes a local address for each datagram, also between those of one gso",
  async (engine) => {
    for (const options of [{}, { gso: true }]) {
      using sender = UdpEndpoint.bind({ hostname: "0.0.0.0", engine });
      using receiver = UdpEndpoint.bind({ hostname: LOCAL, engine });
      const batch = new DatagramBatch({ capacity: 8, ...options });
      for (let i = 0; i < 8; i++) {
        batch.set(i, new Uint8Array([i]), receiver.addr, i === 7 ? {} : { localAddress: `127.0.0.${2 + (i >> 1)}` });
      }
      assertEquals(batch.localAddress(2), "127.0.0.3");
      assertEquals([sender.trySendBatch(batch, { end: 3 }), await sender.sendBatch(batch)], [3, 8]);
      const from = [];
      for (let i = 0; i < 11; i++) from.push((await receiver.recvFrom(p)).address.hostname.at(-1));
      assertEquals(from.join(""), "22322334451");
    }
  },
);

nativeTest("a local address keeps an endpoint that is connected to its peer", async (engine) => {
  using two = new Two(engine, "0.0.0.0");
  two.a.connect({ hostname: LOCAL, port: two.b.addr.port });
  const batch = new DatagramBatch({ capacity: 2 });
  batch.set(0, new Uint8Array(1), undefined, { localAddress: OTHER });
  assertEquals(await two.a.sendBatch(batch), 1);
  assertEquals((await two.b.recvFrom(p)).address.hostname, OTHER);
  batch.set(0, new Uint8Array(1), undefined, { localAddress: "::1" });
  await assertRejects(() => two.a.sendBatch(batch), TypeError, "localAddress must be an IPv4 address");
});

nativeTest("a name is sent to from a local address by the family of that", async (engine) => {
  using server = UdpEndpoint.bind({ hostname: "::", engine });
  using six = UdpEndpoint.bind({ hostname: "::1", engine });
  using four = UdpEndpoint.bind({ hostname: LOCAL, port: six.addr.port, engine });
  using _ = resolvedTo("::1", LOCAL);
  const to = { hostname: "both.test", port: six.addr.port };
  await server.sendTo(new Uint8Array(4), to, { localAddress: OTHER });
  assertEquals((await four.recvFrom(p)).address.hostname, OTHER);
  await server.sendTo(new Uint8Array(6), to, { localAddress: "::1" });
  assertEquals((await six.recvFrom(p)).address.hostname, "::1");
});

nativeTest(
  "what is no local address of the destination's family is refused, before any call or by the kernel",
  async (engine) => {
    using endpoint = UdpEndpoint.bind({ hostname: "0.0.0.0", engine });
    using six = UdpEndpoint.bind({ hostname: "::", engine });
    const to = { hostname: LOCAL, port: 9 };
    const wrong: [unknown, string][] = [
      ["::1", 'localAddress must be an IPv4 address, as the destination, received "::1"'],
      ["localhost", 'localAddress must be an IP address, received "localhost"'],
      ["127.1", "localAddress must be an IP address"],
      ["", "localAddress must be an IP address"],
      [7, "localAddress must be a string, received 7"],
      [null, "localAddress must be a string, received null"],
      [{ hostname: OTHER }, "localAddress must be a string"],
      ["fe80::1%nosuch0", 'localAddress has the zone of no interface, received "fe80::1%nosuch0"'],
      ["127.0.0.2\0", "localAddress must be an IP address"],
    ];
    const batch = new DatagramBatch();
    for (const [value, why] of wrong) {
      const options = { localAddress: value as string };
      await assertRejects(() => endpoint.sendTo(p, to, options), TypeError, why);
      assertThrows(() => endpoint.trySendTo(p, to, options), TypeError, why);
      assertThrows(() => batch.set(0, new Uint8Array(1), to, options), TypeError, why);
    }
    await assertRejects(() => six.sendTo(p, { hostname: "::1", port: 9 }, { localAddress: OTHER }), TypeError, "IPv6");
    for (const options of [null, 7, []]) {
      await assertRejects(() => endpoint.sendTo(p, to, options as never), TypeError, "options must be an object");
      assertThrows(() => endpoint.trySendTo(p, to, options as never), TypeError, "options must be an object");
      assertThrows(() => batch.set(0, new Uint8Array(1), to, options as never), TypeError, "options must be an object");
    }
    // Of documentation (RFC 5737, RFC 3849), of a group, of all.
    for (const localAddress of ["198.51.100.1", "224.0.0.1", "255.255.255.255"]) {
      const why = `to 127.0.0.1:9 from ${localAddress}: not an address of this machine from which the destination`;
      const error = await assertRejects(() => endpoint.sendTo(p, to, { localAddress }), Error, why);
      assertMatch((error as Error & { code: string }).code, /^(EINVAL|ENETUNREACH|EADDRNOTAVAIL)$/);
      batch.set(0, new Uint8Array(1), to, { localAddress });
      await assertRejects(() => endpoint.sendBatch(batch, { end: 1 }), Error, why);
      assertThrows(() => endpoint.trySendBatch(batch, { end: 1 }), Error, why);
    }
    const far = { localAddress: "2001:db8::1" };
    await assertRejects(
      () => six.sendTo(p, { hostname: "::1", port: 9 }, far),
      Error,
      "not an address of this machine",
    );
    // An address with brackets is taken without them.
    assertEquals(await six.sendTo(new Uint8Array(1), { hostname: "::1", port: 9 }, { localAddress: "[::1]" }), 1);
  },
);

nativeTest(
  "a datagram that is too large for its buffer, empty, or at the limit has its local address too",
  async (engine) => {
    using server = UdpEndpoint.bind({ hostname: "0.0.0.0", packetInfo: true, engine });
    using client = UdpEndpoint.bind({ hostname: LOCAL, engine });
    const to = { hostname: OTHER, port: server.addr.port };
    for (const size of [0, 1, 100, 65_507]) {
      await client.sendTo(new Uint8Array(size).fill(5), to);
      const { data, truncated, localAddress, ...rest } = await server.recvFrom(new Uint8Array(100));
      assertEquals([data, rest.size, truncated, localAddress], [
        new Uint8Array(Math.min(size, 100)).fill(5),
        size,
        size > 100,
        OTHER,
      ]);
      await server.sendTo(new Uint8Array(size).fill(6), client.addr, { localAddress });
      const back = await client.recvFrom(new Uint8Array(65_535));
      assertEquals([back.data, back.address.hostname], [new Uint8Array(size).fill(6), OTHER]);
    }
    await assertRejects(
      () => server.sendTo(new Uint8Array(65_508), client.addr, { localAddress: OTHER }),
      Error,
      "EMSGSIZE",
    );
    await client.sendTo(new Uint8Array(3), to);
    const empty = await server.recvFrom(new Uint8Array(0));
    assertEquals([empty.size, empty.truncated, empty.localAddress], [3, true, OTHER]);
  },
);

nativeTest("packetInfo stays with a descriptor that is handed over", async (engine) => {
  for (const [hostname, packetInfo] of [["0.0.0.0", true], ["::", true], ["0.0.0.0", false]] as const) {
    using server = UdpEndpoint.fromFd(UdpEndpoint.bind({ hostname, packetInfo, engine }).detach());
    using client = UdpEndpoint.bind({ hostname: LOCAL, engine });
    await client.sendTo(new Uint8Array(3), { hostname: OTHER, port: server.addr.port });
    const expected = packetInfo ? (hostname === "::" ? `::ffff:${OTHER}` : OTHER) : undefined;
    assertEquals((await server.recvFrom(p)).localAddress, expected);
  }
});

Deno.test("PacketInfo and writeLocal() read and write what the structs of C are", () => {
  if (!native) return;
  const info = new PacketInfo(3);
  const control = new Uint32Array(64);
  for (const hostname of [OTHER, "2001:db8::1", "fe80::1%1", `::ffff:${OTHER}`]) {
    info.set(1, encodeSockaddr({ hostname, port: 0 }));
    const words = writeLocal(info.locals, 1, control, 8);
    const shown = decodeSockaddr(info.locals.at(1)).hostname;
    // Comes back by the same message, but that spec_dst is no destination.
    const isIPv4 = familyOf(info.locals.at(1)) === "IPv4";
    assertEquals(words, isIPv4 ? 8 : 10);
    info.read(2, control, 8, words * 4, hostname.includes(":"));
    assertEquals([decodeSockaddr(info.locals.at(2)).hostname, info.locals.has(0)], [shown, false]);
    // Cut short, and behind a message that is none of ours.
    info.read(2, control, 8, 12, false);
    assertEquals([info.locals.has(2), info.destinations.has(2)], [false, false]);
    control.copyWithin(8 + 6, 8, 8 + words);
    control.set([20, 0, 17, 104, 512, 0], 8);
    info.read(2, control, 8, (6 + words) * 4, hostname.includes(":"));
    assertEquals(decodeSockaddr(info.locals.at(2)).hostname, shown);
    // A length of nothing, or of less than its own head, leads to no endless loop.
    for (const length of [0, 15]) {
      control[8] = length;
      info.read(2, control, 8, (6 + words) * 4, false);
      assertEquals(info.locals.has(2), false);
    }
  }
});

Deno.test("[runtime] local addresses are refused with a way out, and nothing is left open", async () => {
  const why = /^NotSupported: Cannot .+ on the runtime engine: bind one endpoint for each local address, or run with/;
  await withoutLeaks(async () => {
    const bind = () => UdpEndpoint.bind({ hostname: "0.0.0.0", engine: "runtime", packetInfo: true });
    assertMatch(String(assertThrows(bind, Deno.errors.NotSupported)), why);
    using two = new Two("runtime");
    const options = { localAddress: OTHER };
    assertMatch(String(await assertRejects(() => two.a.sendTo(p, two.b.addr, options))), why);
    assertMatch(String(assertThrows(() => two.a.trySendTo(p, two.b.addr, options))), why);
    const batch = new DatagramBatch();
    batch.set(0, new Uint8Array([1]), two.b.addr, options);
    batch.set(1, new Uint8Array([2]), two.b.addr);
    assertMatch(String(await assertRejects(() => two.a.sendBatch(batch))), why);
    assertMatch(String(assertThrows(() => two.a.trySendBatch(batch))), why);
    assertEquals((await two.b.recvFrom(p)).data[0], 2);
    // What a server does that need not know its engine.
    const { data, address, localAddress } = await two.b.recvFrom(p, { signal: AbortSignal.timeout(0) })
      .catch(() => ({ data: p.subarray(0, 1), address: two.a.addr, localAddress: undefined }));
    assertEquals(await two.b.sendTo(data, address, { localAddress }), 1);
    two.a.close();
    await assertRejects(() => two.a.sendTo(p, two.b.addr, options), Deno.errors.BadResource);
  });
});

Deno.test({
  name: "[native] a local address needs the permission that binding to it would",
  ignore: !native,
  async fn() {
    const source = `
      import { DatagramBatch, UdpEndpoint } from "@c10k/sockets/udp";
      const p = new Uint8Array(1);
      const told = [];
      const tell = async (call) => {
        try { told.push(await call()); } catch (error) { told.push(error.name); }
      };
      using server = UdpEndpoint.bind({ hostname: "0.0.0.0", port: Number(Deno.args[0] ?? 0), engine: "native" });
      const to = { hostname: "127.0.0.1", port: 9 };
      for (const localAddress of [undefined, "0.0.0.0", "127.0.0.1", "127.0.0.2", "::ffff:127.0.0.2"]) {
        await tell(() => server.sendTo(p, to, { localAddress }));
        await tell(() => server.trySendTo(p, to, { localAddress }));
        const batch = new DatagramBatch();
        batch.set(0, p, to, { localAddress });
        await tell(() => server.sendBatch(batch));
        await tell(() => server.sendTo(p, { ...to, hostname: "localhost" }, { localAddress }));
      }
      console.log(told.map((one) => one === "NotCapable" ? "-" : one).join(""));`;
    const run = async (...flags: string[]) => {
      const { stdout, stderr } = await runDeno(["--allow-ffi", ...flags], source);
      return stdout.trim() + stderr;
    };
    assertEquals(
      [
        await run("--allow-net"),
        await run("--allow-net", "--deny-net=127.0.0.2"),
        await run("--allow-net=0.0.0.0,127.0.0.1,localhost"),
      ],
      ["1".repeat(20), "1".repeat(12) + "-".repeat(8), "1".repeat(12) + "-".repeat(8)],
    );
  },
});

for (
  const [client, command] of [
    ["socat", (port: number) => ["socat", "-t1", "-", `UDP4:${OTHER}:${port}`]],
    ["nc", (port: number) => ["nc", "-u", "-w1", OTHER, String(port)]],
  ] as const
) {
  clientTest(
    [client],
    `[${ENGINES.at(-1)}] a connected client hears a server on 0.0.0.0 that it asks at ${OTHER}`,
    () => {
      if (!native) return Promise.resolve();
      return withoutLeaks(async () => {
        using server = UdpEndpoint.bind({ hostname: "0.0.0.0", packetInfo: true });
        const [program = "", ...args] = command(server.addr.port);
        const child = new Deno.Command(program, { args, stdin: "piped", stdout: "piped", stderr: "null" }).spawn();
        const writer = child.stdin.getWriter();
        await writer.write(encode("question"));
        const { data, address, localAddress } = await deadline(server.recvFrom(p), 10_000);
        await server.sendTo(encode(`answer to ${decode(data)}`), address, { localAddress });
        await writer.close();
        assertEquals(decode((await child.output()).stdout), "answer to question");
      });
    },
  );
}

for (const args of [[], ["--backend", "epoll"]]) {
  nativeTest(
    `examples/udp_echo.ts ${args.join(" ")} on 0.0.0.0 and :: answers from the address that was asked`,
    async () => {
      for (const host of ["0.0.0.0", "::"]) {
        const flags = ["--allow-net", "--allow-ffi", "examples/udp_echo.ts", "--host", host, "--port", "0", ...args];
        await using server = await ServerProcess.start(flags);
        using client = UdpEndpoint.bind({ hostname: LOCAL });
        client.connect({ hostname: OTHER, port: server.port });
        await client.send(encode("echo"));
        assertEquals(await hear(client), "echo");
      }
    },
  );
}

clientTest(["dig"], "examples/dns.ts on 0.0.0.0 answers dig from the address that dig has asked", async () => {
  if (!native) return;
  using upstream = UdpEndpoint.bind({ hostname: LOCAL });
  const answering = (async () => {
    const { data, address } = await upstream.recvFrom(p);
    data[2] = 0x81; // an answer
    data[3] = 0x83; // there is no such name
    await upstream.sendTo(data, address);
  })();
  const to = `${LOCAL}:${upstream.addr.port}`;
  const flags = ["--allow-net", "--allow-ffi", "examples/dns.ts", "--host", "0.0.0.0", "--port", "0", "--upstream", to];
  await using server = await ServerProcess.start(flags);
  const args = [`@${OTHER}`, "-p", `${server.port}`, "+tries=1", "+timeout=10", "+noedns", "nosuch.test", "A"];
  const { stdout } = await new Deno.Command("dig", { args, env: { HOME: "/nonexistent" } }).output();
  assertMatch(decode(stdout), /status: NXDOMAIN[^]*SERVER: 127\.0\.0\.2#/);
  await answering;
});

namespaceTest(
  "multicast, broadcast and link-local datagrams tell whom they were sent to, and where to answer from",
  async ({ run }) => {
    const script = `
    ip route add 239.0.0.0/8 dev va
    ip addr add 10.9.0.7/24 dev va
    ip -n peer route add 239.0.0.0/8 dev vb
    ip -n peer route add 255.255.255.255 dev vb
    ip -6 addr add fe80::1/64 dev va nodad
    ip -n peer -6 addr add fe80::2/64 dev vb nodad
    timeout 60 ip netns exec peer "$@" peer & peer=$!
    timeout 60 "$@" here; code=$?
    wait $peer; exit $code`;
    const source = `
    import { DatagramBatch, UdpEndpoint } from "@c10k/sockets/udp";
    const [targets4, targets6] = [
      ["10.9.0.1", "10.9.0.7", "10.9.0.255", "255.255.255.255", "239.1.2.3"],
      ["fe80::1%vb", "fd09::1", "ff15::77", "ff02::77%vb", "::ffff:10.9.0.7", "::ffff:10.9.0.255"],
    ];
    const p = new Uint8Array(100);
    if (Deno.args[0] === "peer") {
      for (const [hostname, targets, port] of [["0.0.0.0", targets4, 7041], ["::", targets6, 7042]]) {
        using client = UdpEndpoint.bind({ hostname, broadcast: true });
        client.setMulticastInterface("vb");
        for (const target of targets) {
          for (let answer; answer === undefined;) {
            await client.sendTo(new TextEncoder().encode(target), { hostname: target, port });
            answer = await client.recvFrom(p, { signal: AbortSignal.timeout(200) }).catch(() => undefined);
            if (answer) console.log(target, "answered from", answer.address.hostname);
          }
        }
      }
    } else {
      const four = UdpEndpoint.bind({ hostname: "0.0.0.0", port: 7041, packetInfo: true, broadcast: true });
      four.joinMulticast({ group: "239.1.2.3", interface: "va" });
      const six = UdpEndpoint.bind({ hostname: "::", port: 7042, packetInfo: true });
      six.joinMulticast({ group: "ff15::77", interface: "va" });
      six.joinMulticast({ group: "ff02::77", interface: "va" });
      for (const [endpoint, targets] of [[four, targets4], [six, targets6]]) {
        const batch = new DatagramBatch();
        const seen = new Set();
        while (seen.size < targets.length) {
          const { data, address, localAddress, destination } = await endpoint.recvFrom(p);
          const target = new TextDecoder().decode(data);
          if (!seen.has(target)) console.log(target, "came to", destination, "for", localAddress ?? "the kernel's choice");
          seen.add(target);
          // As one datagram, or as a batch.
          if (seen.size % 2 === 0) await endpoint.sendTo(data, address, { localAddress });
          else {
            batch.length = 0;
            batch.set(0, data, address, { localAddress });
            await endpoint.sendBatch(batch);
          }
        }
      }
    }
    Deno.exit(0);`;
    const { stdout, stderr } = await run(source, script);
    assertEquals(stderr, "", stdout);
    const lines = stdout.trim().split("\n");
    assertEquals(lines.filter((line) => line.includes("came to")), [
      "10.9.0.1 came to 10.9.0.1 for 10.9.0.1",
      "10.9.0.7 came to 10.9.0.7 for 10.9.0.7",
      "10.9.0.255 came to 10.9.0.255 for 10.9.0.1",
      "255.255.255.255 came to 255.255.255.255 for 10.9.0.1",
      "239.1.2.3 came to 239.1.2.3 for 10.9.0.1",
      "fe80::1%vb came to fe80::1%va for fe80::1%va",
      "fd09::1 came to fd09::1 for fd09::1",
      "ff15::77 came to ff15::77 for the kernel's choice",
      "ff02::77%vb came to ff02::77%va for the kernel's choice",
      "::ffff:10.9.0.7 came to ::ffff:10.9.0.7 for ::ffff:10.9.0.7",
      "::ffff:10.9.0.255 came to ::ffff:10.9.0.255 for ::ffff:10.9.0.1",
    ]);
    const answers = lines.filter((line) => line.includes("answered from"));
    assertEquals(answers.filter((line) => !line.startsWith("ff")), [
      "10.9.0.1 answered from 10.9.0.1",
      "10.9.0.7 answered from 10.9.0.7",
      "10.9.0.255 answered from 10.9.0.1",
      "255.255.255.255 answered from 10.9.0.1",
      "239.1.2.3 answered from 10.9.0.1",
      "fe80::1%vb answered from fe80::1%vb",
      "fd09::1 answered from fd09::1",
      "::ffff:10.9.0.7 answered from ::ffff:10.9.0.7",
      "::ffff:10.9.0.255 answered from ::ffff:10.9.0.1",
    ]);
  },
);

Deno.test("PacketInfo.read() answers from where a datagram was sent to, if the kernel names no better address", () => {
  const [IPPROTO_IP, IP_PKTINFO, IPPROTO_IPV6, IPV6_PKTINFO] = [0, 8, 41, 50];
  const info = new PacketInfo(1);
  const shown = (sockaddr: Uint8Array<ArrayBuffer>) =>
    sockaddr[0] === 0 ? undefined : decodeSockaddr(sockaddr).hostname;
  const read = (level: number, type: number, data: readonly number[]) => {
    const bytes = new Uint8Array(16 + data.length);
    new Uint32Array(bytes.buffer, 0, 4).set([bytes.length, 0, level, type]);
    bytes.set(data, 16);
    info.read(0, new Uint32Array(bytes.buffer), 0, bytes.length, level === IPPROTO_IPV6);
    return [shown(info.locals.at(0)), shown(info.destinations.at(0))];
  };
  const four = (to: number[]) => read(IPPROTO_IP, IP_PKTINFO, [0, 0, 0, 0, 0, 0, 0, 0, ...to]);
  const six = (to: number[]) => read(IPPROTO_IPV6, IPV6_PKTINFO, [...Array(10).fill(0), 0xff, 0xff, ...to, 0, 0, 0, 0]);
  assertEquals(four([127, 0, 0, 2]), [OTHER, OTHER]);
  assertEquals(six([127, 0, 0, 2]), [`::ffff:${OTHER}`, `::ffff:${OTHER}`]);
  // Nobody is a group, or all.
  for (const to of [[224, 0, 0, 1], [255, 255, 255, 255]]) {
    assertEquals(four(to), [undefined, to.join(".")]);
    assertEquals(six(to), [undefined, `::ffff:${to.join(".")}`]);
  }
});
