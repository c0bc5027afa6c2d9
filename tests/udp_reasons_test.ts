/** Why a send fails, and the limits of options: the same on both engines, as far as the runtime lets it be known. */

import { DatagramBatch, UdpEndpoint } from "@c10k/sockets/udp";
import { assertEquals, assertInstanceOf, assertMatch, assertRejects, assertThrows } from "@std/assert";
import { getSocketOption } from "../internal/socket.ts";
import type { SocketOption } from "../internal/socket_option.ts";
import { likelyReason } from "../udp/runtime_reasons.ts";
import { LOCAL, native, Two } from "./_udp.ts";
import type { Engine } from "@c10k/sockets/tcp";
import { engineTest, replaced, runDeno } from "./_util.ts";

/** Deno.listenDatagram lets broadcasts out always. */
const letsOut = (engine: Engine) => engine === "runtime" && "listenDatagram" in Deno;

const hasIPv6 = Deno.networkInterfaces().some(({ address }) => address === "::1");

/** Where an endpoint is bound, where it sends to, and the kernel's name for why it cannot. */
const REASONS: readonly (readonly [bound: string, to: string, code: string, size?: number])[] = [
  ["0.0.0.0", "255.255.255.255", "EACCES"],
  ["0.0.0.0", "127.255.255.255", "EACCES"],
  [LOCAL, "255.255.255.255", "EACCES"],
  [LOCAL, "127.255.255.255", "EACCES"],
  ["::", "255.255.255.255", "EACCES"],
  ["::", "::ffff:255.255.255.255", "EACCES"],
  ["0.0.0.0", "::1", "EAFNOSUPPORT"],
  ["0.0.0.0", "::ffff:127.0.0.1", "EAFNOSUPPORT"],
  [LOCAL, "2001:db8::1", "EAFNOSUPPORT"],
  ["::1", LOCAL, "ENETUNREACH"],
  ["::1", "::ffff:127.0.0.1", "ENETUNREACH"],
  ["::1", "255.255.255.255", "ENETUNREACH"],
  ["::", "fe80::1%nosuch0", "ENODEV"],
  [LOCAL, LOCAL, "EMSGSIZE", 65_508],
  ["::1", "::1", "EMSGSIZE", 65_528],
];

engineTest("UdpEndpoint.sendTo() says why it fails by the kernel's name", async (engine) => {
  for (const [hostname, to, code, size] of REASONS) {
    if (letsOut(engine) && code === "EACCES" || !hasIPv6 && hostname.includes(":")) continue;
    // What is a broadcast, and which sockets can send one, is different elsewhere.
    if (code === "EACCES" && Deno.build.os !== "linux") continue;
    using endpoint = UdpEndpoint.bind({ hostname, engine });
    for (const options of [undefined, { signal: new AbortController().signal }]) {
      const sent = endpoint.sendTo(new Uint8Array(size ?? 1), { hostname: to, port: 9 }, options);
      const error = await assertRejects(() => sent, Error, `(${code})`) as Error & { code: string };
      assertEquals(error.code, code);
      assertMatch(error.message, /^Cannot send on UDP endpoint .+ to .+:9: /);
      if (code === "EACCES") assertInstanceOf(error, Deno.errors.PermissionDenied);
      if (code === "ENETUNREACH") assertInstanceOf(error, Deno.errors.NetworkUnreachable);
    }
  }
});

engineTest("an endpoint that takes IPv6 only cannot reach IPv4", async (engine) => {
  if (!hasIPv6) return;
  using endpoint = UdpEndpoint.bind({ hostname: "::", ipv6Only: true, engine });
  for (const hostname of [LOCAL, "::ffff:127.0.0.1", "255.255.255.255"]) {
    await assertRejects(
      () => endpoint.sendTo(new Uint8Array(1), { hostname, port: 9 }),
      Deno.errors.NetworkUnreachable,
    );
  }
});

engineTest("the last address of a network is a broadcast, which setBroadcast() allows", async (engine) => {
  const own = Deno.networkInterfaces().find(({ family, netmask, name }) =>
    family === "IPv4" && name !== "lo" && netmask === "255.255.255.0"
  );
  const networks = Deno.build.os === "linux" ? ["127.255.255.255", "255.255.255.255"] : ["255.255.255.255"];
  if (own !== undefined) networks.push(own.address.replace(/\d+$/, "255"));
  for (const hostname of networks) {
    using endpoint = UdpEndpoint.bind({ hostname: "0.0.0.0", engine });
    const send = () => endpoint.sendTo(new Uint8Array(1), { hostname, port: 9 });
    if (!letsOut(engine)) await assertRejects(send, Deno.errors.PermissionDenied, "permission denied (EACCES)");
    endpoint.setBroadcast(true);
    // A machine without a network has no way there, which is another matter.
    const error = await send().then(() => undefined, (error) => error);
    if (error !== undefined) assertMatch(error.message, /ENETUNREACH|UNKNOWN/);
    if (letsOut(engine)) continue;
    endpoint.setBroadcast(false);
    await assertRejects(send, Deno.errors.PermissionDenied, "EACCES");
  }
});

engineTest("a broadcast in a batch is refused for what it is, and keeps back no other", async (engine) => {
  if (letsOut(engine)) return;
  using two = new Two(engine);
  const batch = new DatagramBatch();
  batch.set(0, new Uint8Array([0]), { hostname: "255.255.255.255", port: 9 });
  batch.set(1, new Uint8Array([1]), two.b.addr);
  await assertRejects(
    () => two.a.sendBatch(batch),
    Deno.errors.PermissionDenied,
    "255.255.255.255:9: permission denied",
  );
  assertEquals((await two.b.recvFrom(new Uint8Array(9))).data[0], 1);
});

Deno.test("[runtime] a reason that needs --allow-sys is told without it as far as can be, and nobody is prompted", async () => {
  const own = Deno.networkInterfaces().find(({ family, name }) => family === "IPv4" && name !== "lo");
  const source = `
    import { UdpEndpoint } from "@c10k/sockets/udp";
    using endpoint = UdpEndpoint.bind({ hostname: "0.0.0.0" });
    for (const hostname of ["255.255.255.255", "127.255.255.255", "::1", ${JSON.stringify(own?.address)}]) {
      const to = { hostname: hostname.replace(/(\\d+\\.\\d+\\.\\d+)\\.\\d+$/, "$1.255"), port: 9 };
      try { console.log(await endpoint.sendTo(new Uint8Array(1), to)); } catch (error) { console.log(error.code, error.message); }
    }`;
  if (own === undefined || own.netmask !== "255.255.255.0") return;
  const { stdout, stderr } = await runDeno(["--allow-net"], source);
  assertEquals(stderr, "");
  const lines = stdout.trim().split("\n");
  assertEquals(lines.map((line) => line.split(" ", 1)[0]), ["EACCES", "EACCES", "EAFNOSUPPORT", "UNKNOWN"]);
  assertMatch(lines[3] as string, /a broadcast address needs setBroadcast\(\)/);
});

Deno.test("[runtime] what is only likely is said of loopback and broadcast addresses, and of nothing else", () => {
  const from = (hostname: string, mayBroadcast = false) => ({ hostname, ipv6Only: false, mayBroadcast });
  const reason = (to: string, sender: ReturnType<typeof from>) => likelyReason({ hostname: to, port: 9 }, sender)?.code;
  assertEquals(
    [
      reason("198.51.100.1", from(LOCAL)),
      reason("198.51.100.1", from("::ffff:127.0.0.1")),
      reason("198.51.100.1", from("0.0.0.0")),
      reason("127.0.0.1", from(LOCAL)),
      reason("255.255.255.255", from("0.0.0.0", true)),
      reason("2001:db8::1", from("::")),
      reason("fe80::1%1", from("::")),
    ],
    ["EINVAL", "EINVAL", undefined, undefined, undefined, undefined, undefined],
  );
});

/** The value of an option of a socket of this process that has no descriptor to show: found by its port. */
function optionOf(endpoint: UdpEndpoint, option: SocketOption): number {
  const table = endpoint.addr.hostname.includes(":") ? "udp6" : "udp";
  const port = `:${endpoint.addr.port.toString(16).toUpperCase().padStart(4, "0")} `;
  const line = Deno.readTextFileSync(`/proc/net/${table}`).split("\n").find((line) => line.includes(port));
  const inode = line?.trim().split(/\s+/)[9];
  for (const { name } of Deno.readDirSync("/proc/self/fd")) {
    try {
      if (Deno.readLinkSync(`/proc/self/fd/${name}`) === `socket:[${inode}]`) {
        return getSocketOption(Number(name), option);
      }
    } catch { /* the descriptor of this very listing */ }
  }
  throw new Error("no such socket");
}

engineTest("options take their least and their largest value, and what is beyond is a RangeError", (engine) => {
  if (!native || letsOut(engine)) return;
  using four = UdpEndpoint.bind({ hostname: LOCAL, engine });
  for (const ttl of [0, 1, 2, 255]) {
    four.setMulticastTtl(ttl);
    assertEquals(optionOf(four, "IP_MULTICAST_TTL"), ttl);
  }
  for (const ttl of [1, 255]) {
    four.setTtl(ttl);
    assertEquals(optionOf(four, "IP_TTL"), ttl);
  }
  for (const wrong of [-1, 256, 0.5, NaN, Infinity]) {
    assertThrows(() => four.setMulticastTtl(wrong), RangeError, "ttl must be an integer from 0 to 255");
    assertThrows(() => four.setTtl(wrong), RangeError, "ttl must be an integer from 1 to 255");
  }
  assertThrows(() => four.setTtl(0), RangeError, "ttl must be an integer from 1 to 255");
  assertEquals([optionOf(four, "IP_MULTICAST_TTL"), optionOf(four, "IP_TTL")], [255, 255]);
  if (!hasIPv6) return;
  for (const hostname of ["::", "::1"]) {
    using six = UdpEndpoint.bind({ hostname, engine });
    for (const ttl of [0, 1, 255]) {
      if (engine === "native") {
        six.setMulticastTtl(ttl);
        assertEquals([optionOf(six, "IPV6_MULTICAST_HOPS"), optionOf(six, "IP_MULTICAST_TTL")], [ttl, ttl]);
      } else if (ttl === 1) {
        six.setMulticastTtl(ttl); // as it is
        assertEquals(optionOf(six, "IPV6_MULTICAST_HOPS"), 1);
      } else {
        assertThrows(() => six.setMulticastTtl(ttl), Deno.errors.NotSupported, "run with --allow-ffi");
      }
    }
    if (engine === "native") {
      six.setTtl(255);
      assertEquals([optionOf(six, "IPV6_UNICAST_HOPS"), optionOf(six, "IP_TTL")], [255, 255]);
    } else {
      assertThrows(() => six.setTtl(255), Deno.errors.NotSupported, "run with --allow-ffi");
    }
  }
});

engineTest("buffer sizes take their least and their largest value where there are any", (engine) => {
  for (const size of [1, 2 ** 30]) {
    for (const option of ["receiveBufferSize", "sendBufferSize"] as const) {
      const bind = () => UdpEndpoint.bind({ hostname: LOCAL, engine, [option]: size });
      if (engine === "native") bind().close();
      else assertThrows(bind, Deno.errors.NotSupported);
    }
  }
});

Deno.test("[runtime] a multicast TTL on Deno.listenDatagram is refused with a way out", async () => {
  const source = `
    import { UdpEndpoint } from "@c10k/sockets/udp";
    using endpoint = UdpEndpoint.bind({ hostname: "127.0.0.1" });
    for (const ttl of [0, 1, 255]) {
      try { console.log(endpoint.setMulticastTtl(ttl)); } catch (error) { console.log(error.name, error.message); }
    }`;
  const { stdout, stderr } = await runDeno(["--allow-net", "--unstable-net"], source);
  assertEquals(stderr, "");
  const lines = stdout.trim().split("\n");
  assertEquals(lines.length, 3);
  for (const line of lines) assertMatch(line, /^NotSupported .+ run without --unstable-net, or with --allow-ffi$/);
});

Deno.test("likelyReason() takes for a broadcast address the last one of a network, and no machine that is alone in its", () => {
  const sender = { hostname: "0.0.0.0", ipv6Only: false } as Parameters<typeof likelyReason>[1];
  const of = (netmask: string) => [{ name: "x", family: "IPv4", address: "192.0.2.9", netmask }];
  for (
    const [netmask, to, reason] of [
      ["255.255.255.248", "192.0.2.15", { code: "EACCES" }],
      ["255.255.255.248", "192.0.2.9", undefined],
      ["255.255.255.255", "192.0.2.9", undefined],
      ["255.255.255.254", "192.0.2.9", undefined],
      ["none", "192.0.2.9", undefined],
    ] as const
  ) {
    using _ = replaced(Deno, "networkInterfaces", () => of(netmask));
    assertEquals(likelyReason({ hostname: to, port: 9 }, sender), reason, `${to} of ${netmask}`);
  }
});
