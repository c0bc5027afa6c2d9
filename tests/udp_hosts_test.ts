/** UDP between two hosts, which are network namespaces joined by a cable. */

import { assertEquals } from "@std/assert";
import { namespaceTest } from "./_namespace.ts";

for (const engine of ["native", "runtime"] as const) {
  namespaceTest(`[${engine}] broadcast and multicast reach another host`, async ({ run }) => {
    const script = `
    ip route add 239.0.0.0/8 dev va
    ip -n peer route add 239.0.0.0/8 dev vb
    ip netns exec peer "$@" peer & peer=$!
    "$@" here; code=$?
    wait $peer; exit $code`;
    const source = `
    import { UdpEndpoint } from "@c10k/sockets/udp";
    const isPeer = Deno.args[0] === "peer";
    const [group4, group6] = ["239.1.2.3", "ff15::77"];
    const engine = "${engine}";
    const endpoints = {
      // Bound to its own address a socket does not hear its own broadcasts.
      broadcast: UdpEndpoint.bind({ hostname: isPeer ? "0.0.0.0" : "10.9.0.1", port: 7001, engine, broadcast: true }),
      v4: UdpEndpoint.bind({ hostname: "0.0.0.0", port: 7002, engine }),
      v6: UdpEndpoint.bind({ hostname: "::", port: 7003, engine }),
      ...(engine === "native" ? { source: UdpEndpoint.bind({ hostname: "0.0.0.0", port: 7004, engine }) } : {}),
    };
    const device = isPeer ? "vb" : "va";
    // The runtime engine takes an address for IPv4.
    const device4 = engine === "native" ? device : isPeer ? "10.9.0.2" : "10.9.0.1";
    const p = new Uint8Array(100);
    if (isPeer) {
      endpoints.v4.joinMulticast({ group: group4, interface: device4 });
      endpoints.v6.joinMulticast({ group: group6, interface: device });
      endpoints.source?.joinMulticast({ group: "239.9.9.9", interface: device, source: "10.9.0.1" });
      for (const [name, endpoint] of Object.entries(endpoints)) {
        const { data, address } = await endpoint.recvFrom(p, { signal: AbortSignal.timeout(10_000) });
        await endpoint.sendTo(new TextEncoder().encode(name + " " + new TextDecoder().decode(data)), address);
      }
    } else {
      endpoints.v4.setMulticastInterface(device4);
      endpoints.v6.setMulticastInterface(device);
      endpoints.source?.setMulticastInterface("10.9.0.1");
      const targets = { broadcast: "10.9.0.255", v4: group4, v6: group6, source: "239.9.9.9" };
      for (const [name, endpoint] of Object.entries(endpoints)) {
        // The other side may not be up yet.
        for (let tries = 0; tries < 100; tries++) {
          await endpoint.sendTo(new TextEncoder().encode("hello"), { hostname: targets[name], port: endpoint.addr.port });
          const answer = await endpoint.recvFrom(p, { signal: AbortSignal.timeout(100) }).catch(() => undefined);
          if (answer === undefined) continue;
          console.log(new TextDecoder().decode(answer.data), answer.address.hostname.replace(/^fe80.*/, "link-local"));
          break;
        }
      }
    }
    Deno.exit(0);`;
    const { stdout, stderr } = await run(source, script);
    assertEquals(stderr, "", stdout);
    const lines = stdout.trim().split("\n");
    assertEquals(lines.map((line) => line.split(" ").slice(0, 2).join(" ")), [
      "broadcast hello",
      "v4 hello",
      "v6 hello",
      ...(engine === "native" ? ["source hello"] : []),
    ]);
    assertEquals(lines[0]?.split(" ")[2], "10.9.0.2");
  });
}

namespaceTest("link-local addresses carry the zone of their interface", async ({ run }) => {
  const script = `
    ip -6 addr add fe80::1/64 dev va nodad
    ip -n peer -6 addr add fe80::2/64 dev vb nodad
    ip netns exec peer "$@" peer & peer=$!
    "$@" here; code=$?
    wait $peer; exit $code`;
  const source = `
    import { UdpEndpoint } from "@c10k/sockets/udp";
    const isPeer = Deno.args[0] === "peer";
    const device = isPeer ? "vb" : "va";
    const p = new Uint8Array(100);
    if (isPeer) {
      using endpoint = UdpEndpoint.bind({ hostname: "fe80::2%vb", port: 7020 });
      const { data, address } = await endpoint.recvFrom(p, { signal: AbortSignal.timeout(10_000) });
      await endpoint.sendTo(new TextEncoder().encode(address.hostname), address);
    } else {
      using endpoint = UdpEndpoint.bind({ hostname: "::", port: 7020 });
      for (let tries = 0; tries < 100; tries++) {
        await endpoint.sendTo(p, { hostname: "fe80::2%va", port: 7020 });
        const answer = await endpoint.recvFrom(p, { signal: AbortSignal.timeout(100) }).catch(() => undefined);
        if (answer === undefined) continue;
        console.log(new TextDecoder().decode(answer.data), answer.address.hostname);
        break;
      }
      await endpoint.sendTo(p, { hostname: "fe80::2%nosuch", port: 7020 }).catch((error) => console.log(error.message));
      // What stood for "va" once is not kept: interfaces are renamed.
      const tell = (to) => endpoint.sendTo(p, { hostname: to, port: 7020 }).then(() => "sent", (error) => error.code);
      await new Deno.Command("ip", { args: ["link", "set", "va", "down"] }).output();
      await new Deno.Command("ip", { args: ["link", "set", "va", "name", "vx"] }).output();
      await new Deno.Command("ip", { args: ["link", "set", "vx", "up"] }).output();
      await new Deno.Command("ip", { args: ["-6", "addr", "add", "fe80::1/64", "dev", "vx", "nodad"] }).output();
      console.log(await tell("fe80::2%va"), await tell("fe80::2%vx"));
    }`;
  const { stdout, stderr } = await run(source, script);
  const nosuch = "Cannot send on UDP endpoint [::]:7020 to [fe80::2%nosuch]:7020: no such device (ENODEV)";
  assertEquals([stdout, stderr], [`fe80::1%vb fe80::2%va\n${nosuch}\nENODEV sent\n`, ""]);
});

namespaceTest("a datagram without a port to answer to keeps no answer from the others", async ({ run }) => {
  // A source port of 0 means that there is none (RFC 768); a raw socket can send it.
  const source = `
    import { DatagramBatch, UdpEndpoint } from "@c10k/sockets/udp";
    import { encodeSockaddr } from "./internal/sockaddr.ts";
    import { syscall } from "./internal/syscall.ts";
    const server = UdpEndpoint.bind({ hostname: "127.0.0.1" });
    const client = UdpEndpoint.bind({ hostname: "127.0.0.1" });
    const header = new DataView(new ArrayBuffer(11));
    header.setUint16(2, server.addr.port);
    header.setUint16(4, 11);
    const raw = syscall("socket", 2, 3, 17);
    const to = encodeSockaddr({ hostname: "127.0.0.1", port: 0 });
    syscall("sendto", raw, new Uint8Array(header.buffer), 11, 0, to, to.length);
    await client.sendTo(new Uint8Array([7]), server.addr);
    const batch = new DatagramBatch();
    console.log(await server.recvBatch(batch), batch.address(0), batch.size(0));
    await server.sendBatch(batch).catch((error) => console.log(error.message.replace(server.addr.port, "…")));
    console.log((await client.recvFrom(new Uint8Array(9))).data);
    syscall("close", raw);
    server.close();
    client.close();`;
  const { stdout, stderr } = await run(source.replaceAll("./internal/", new URL("../internal/", import.meta.url).href));
  assertEquals([stdout, stderr], [
    `2 { transport: "udp", hostname: "127.0.0.1", port: 0 } 3\n` +
    "Cannot send on UDP endpoint 127.0.0.1:… to 127.0.0.1:0: invalid argument (EINVAL)\n" +
    "Uint8Array(1) [ 7 ]\n",
    "",
  ]);
});

namespaceTest("sends wait for room on a slow cable, in order; a cancelled one is not sent", async ({ run }) => {
  const script = `
    tc qdisc add dev va root tbf rate 4mbit burst 3000 latency 10s
    ip netns exec peer "$@" peer & peer=$!
    "$@" here; code=$?
    wait $peer; exit $code`;
  const source = `
    import { DatagramBatch, UdpEndpoint } from "@c10k/sockets/udp";
    const isPeer = Deno.args[0] === "peer";
    const endpoint = UdpEndpoint.bind({
      hostname: isPeer ? "10.9.0.2" : "10.9.0.1", port: 7030, ...(isPeer ? {} : { sendBufferSize: 8_000 }),
    });
    const p = new Uint8Array(1_000);
    const number = (i) => new Uint8Array(new Uint32Array([i, ...new Array(249).fill(0)]).buffer);
    if (isPeer) {
      const got = [];
      const signal = AbortSignal.timeout(10_000);
      while (got.at(-1) !== 999) {
        const { data, address } = await endpoint.recvFrom(p, { signal });
        if (got.length === 0) await endpoint.sendTo(p.subarray(0, 1), address);
        const i = new Uint32Array(data.slice().buffer)[0];
        if (i !== 998) got.push(i);
      }
      console.log(got.join() === [...Array(90).keys(), 999].join(), got.length);
    } else {
      const to = { hostname: "10.9.0.2", port: 7030 };
      // Till the other side is up, with what it does not count.
      for (let answer; answer === undefined;) {
        await endpoint.sendTo(number(998), to);
        answer = await endpoint.recvFrom(p, { signal: AbortSignal.timeout(50) }).catch(() => undefined);
      }
      const first = Array.from({ length: 30 }, (_, i) => endpoint.sendTo(number(i), to));
      console.log("no room", endpoint.trySendTo(number(7), to));
      const abort = new AbortController();
      const cancelled = endpoint.sendTo(number(7), to, { signal: abort.signal }).catch((error) => error);
      const batch = new DatagramBatch();
      for (let i = 0; i < 30; i++) batch.set(i, number(30 + i), to);
      const second = endpoint.sendBatch(batch);
      abort.abort("enough");
      console.log(await cancelled);
      await Promise.all(first);
      console.log(await second);
      const third = new DatagramBatch({ gso: true });
      for (let i = 0; i < 30; i++) third.set(i, number(60 + i), to);
      console.log(await endpoint.sendBatch(third));
      await endpoint.sendTo(number(999), to);
    }
    endpoint.close();`;
  const { stdout, stderr } = await run(source, script);
  assertEquals([stdout, stderr], ["no room undefined\nenough\n30\n30\ntrue 91\n", ""]);
});

namespaceTest("random batches cross a cable as they were sent", async ({ run }) => {
  const script = `
    ip netns exec peer "$@" peer & peer=$!
    "$@" here; code=$?
    kill $peer; exit $code`;
  const source = `
    import fc from "fast-check";
    import { DatagramBatch, UdpEndpoint } from "@c10k/sockets/udp";
    const isPeer = Deno.args[0] === "peer";
    const hosts = isPeer ? ["10.9.0.2", "fd09::2"] : ["10.9.0.1", "fd09::1"];
    const peers = { "10.9.0.1": "10.9.0.2", "fd09::1": "fd09::2" };
    const options = { receiveBufferSize: 4_000_000 };
    if (isPeer) {
      // Echoes, one endpoint of each kind.
      for (const [i, gro] of [false, true, false, true].entries()) {
        const endpoint = UdpEndpoint.bind({ hostname: hosts[i >> 1], port: 7040 + i, ...options });
        const batch = new DatagramBatch({ datagramSize: 4_000, gro, gso: gro });
        (async () => { while (true) { await endpoint.recvBatch(batch); await endpoint.sendBatch(batch); } })();
      }
    } else {
      const up = UdpEndpoint.bind({ hostname: hosts[0], ...options });
      for (let answer; answer === undefined;) {
        await up.sendTo(new Uint8Array(1), { hostname: "10.9.0.2", port: 7043 - 3 });
        answer = await up.recvFrom(new Uint8Array(9), { signal: AbortSignal.timeout(50) }).catch(() => undefined);
      }
      up.close();
      const sizes = fc.array(fc.oneof(fc.nat(3_900), fc.constantFrom(0, 1, 1_200, 1_200, 1_200)), { minLength: 1, maxLength: 50 });
      let runs = 0;
      await fc.assert(fc.asyncProperty(
        sizes, fc.nat(1), fc.boolean(), fc.boolean(), fc.boolean(), fc.nat(255),
        async (sizes, host, gso, gro, echoJoins, seed) => {
          using endpoint = UdpEndpoint.bind({ hostname: hosts[host], ...options });
          const to = { hostname: peers[hosts[host]], port: 7040 + 2 * host + (echoJoins ? 1 : 0) };
          const out = new DatagramBatch({ datagramSize: 4_000, gso });
          const into = new DatagramBatch({ datagramSize: 4_000, gro });
          endpoint.tryRecvBatch(into);
          for (const [i, size] of sizes.entries()) out.set(i, new Uint8Array(size).fill(seed + i), to);
          if (await endpoint.sendBatch(out) !== sizes.length) throw new Error("not all sent");
          for (let at = 0; at < sizes.length;) {
            const n = await endpoint.recvBatch(into, { signal: AbortSignal.timeout(5_000) });
            for (let i = 0; i < n; i++, at++) {
              const data = into.data(i);
              const fill = (seed + at) & 0xff;
              const { hostname, port } = into.address(i);
              if (data.length !== sizes[at] || into.truncated(i) || !data.every((byte) => byte === fill) ||
                hostname !== to.hostname || port !== to.port) throw new Error("datagram " + at + " differs");
            }
          }
          runs++;
        }), { numRuns: 40 });
      console.log(runs >= 40);
    }`;
  const { stdout, stderr } = await run(source.replace("7043 - 3", "7040"), script);
  assertEquals([stdout, stderr], ["true\n", ""]);
});
