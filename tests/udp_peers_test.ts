/** What is remembered of peers, against what is made anew. */

import { assert, assertEquals, assertNotStrictEquals, assertStrictEquals } from "@std/assert";
import fc from "fast-check";
import { formatIPv6 } from "../internal/address.ts";
import { decodeSockaddr, encodeSockaddr, SOCKADDR_SIZE } from "../internal/sockaddr.ts";
import { Addresses, Peers } from "../udp/peer_cache.ts";

/** Addresses that differ in single bits and bytes, so that keys that leave any out collide. */
const few = fc.constantFrom(0, 1, 2, 127, 128, 255);
const ipv4 = fc.tuple(few, few, few, few).map((bytes) => bytes.join("."));
const ipv6 = fc.array(few, { minLength: 16, maxLength: 16 }).map((list) => formatIPv6(new Uint8Array(list)));
const port = fc.oneof(fc.constantFrom(1, 2, 255, 256, 257, 65_535), fc.integer({ min: 1, max: 65_535 }));
const addresses = fc.array(fc.record({ hostname: fc.oneof(ipv4, ipv6), port }), { minLength: 2, maxLength: 60 });

Deno.test("Peers: random peers, each many times, are who they are, as objects and as the kernel takes them", () => {
  fc.assert(
    fc.property(addresses, fc.array(fc.nat(), { maxLength: 100 }), (list, order) => {
      const [peers, known] = [new Peers(), new Addresses()];
      const bytes = new Uint8Array(64);
      for (const n of [...order, ...order]) {
        const { hostname, port } = list[n % list.length] as { hostname: string; port: number };
        const sockaddr = encodeSockaddr({ hostname, port });
        assert(sockaddr !== undefined);
        const at = n % 2 * 32;
        bytes.set(sockaddr, at);
        const address = peers.decode(bytes, at);
        assertEquals(address, { transport: "udp", ...decodeSockaddr(sockaddr) });
        assertStrictEquals(peers.decode(bytes, at), address);
        assertEquals(peers.encode(hostname, port), { address: { transport: "udp", hostname, port }, sockaddr });
        assertEquals(known.of(hostname, port), { transport: "udp", hostname, port });
      }
    }),
    { numRuns: 200 },
  );
});

Deno.test("Addresses: senders from all ports are not remembered, and each is who it is", () => {
  const known = new Addresses();
  for (const hostname of ["192.0.2.1", "192.0.2.2"]) {
    for (let port = 1; port < 10_000; port++) {
      const address = known.of(hostname, port);
      if (port % 100 === 0) assertEquals(address, { transport: "udp", hostname, port });
    }
  }
  assertStrictEquals(known.of("192.0.2.2", 9_999), known.of("192.0.2.2", 9_999));
  assertEquals(known.of("192.0.2.1", 9_999).hostname, "192.0.2.1");
});

Deno.test("Peers: 20,000 spoofed senders are not remembered, and hurt no known one", () => {
  const peers = new Peers();
  const bytes = new Uint8Array(SOCKADDR_SIZE);
  bytes.set(encodeSockaddr({ hostname: "192.0.2.1", port: 7 }) ?? []);
  const first = peers.decode(bytes);
  for (let i = 0; i < 20_000; i++) {
    new DataView(bytes.buffer).setUint32(4, i);
    const { hostname } = peers.decode(bytes);
    if (i % 1_000 === 0) assertEquals(hostname, `0.${i >> 16}.${(i >> 8) & 255}.${i & 255}`);
    peers.encode(hostname, 7);
  }
  bytes.set(encodeSockaddr({ hostname: "192.0.2.1", port: 7 }) ?? []);
  assertEquals(peers.decode(bytes), first);
  assertNotStrictEquals(peers.decode(bytes), first); // forgotten long since
});
