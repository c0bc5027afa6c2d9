import { assert, assertEquals, assertThrows } from "@std/assert";
import fc from "fast-check";
import { formatAddress, formatIPv6, hostKind, parseAddress, parseIPv4, parseIPv6 } from "../internal/address.ts";
import { sized } from "./_util.ts";

const bytes = (length: number) => fc.uint8Array({ minLength: length, maxLength: length });
const ipv4 = fc.ipV4();
const ipv6 = bytes(16).map(formatIPv6);
const zone = fc.stringMatching(/^[a-z][a-z0-9._-]{0,14}$/);
const name = fc.domain();
const port = fc.integer({ min: 0, max: 65535 });
const hostname = fc.oneof(
  ipv4,
  ipv6,
  fc.tuple(ipv6, zone).map(([address, zone]) => `${address}%${zone}`),
  name,
);

Deno.test("parseAddress() after formatAddress() is the identity", () => {
  fc.assert(fc.property(hostname, port, (hostname, port) => {
    assertEquals(parseAddress(formatAddress({ hostname, port })), { hostname, port });
  }));
});

Deno.test("parseAddress() throws nothing but TypeError and RangeError", () => {
  const near = fc.stringMatching(/^\[?[0-9a-f:.%\]]*:\d*$/);
  fc.assert(
    fc.property(fc.oneof(fc.string({ unit: "binary" }), near, fc.anything()), (input) => {
      try {
        const { hostname, port } = parseAddress(input as string);
        assert(hostKind(hostname) !== undefined && port >= 0 && port <= 65535);
      } catch (error) {
        assert(error instanceof TypeError || error instanceof RangeError, Deno.inspect(error));
      }
    }),
    { numRuns: sized(500, 5_000) },
  );
});

Deno.test("parseIPv6() after formatIPv6() is the identity on sixteen bytes", () => {
  const sparse = fc.array(fc.constantFrom(0, 0, 0, 1, 255), { minLength: 16, maxLength: 16 })
    .map((list) => new Uint8Array(list));
  fc.assert(fc.property(fc.oneof(bytes(16), sparse), (address) => {
    assertEquals(parseIPv6(formatIPv6(address)), new Uint8Array(address));
  }));
});

Deno.test("formatIPv6() writes what the runtime writes", () => {
  // RFC 5952 by way of the WHATWG host serializer, but for v4-mapped addresses.
  fc.assert(fc.property(bytes(16), (address) => {
    address[0] = 0x20;
    const text = formatIPv6(address);
    assertEquals(new URL(`http://[${text}]/`).hostname, `[${text}]`);
  }));
});

for (
  const [text, expected] of [
    ["::", "::"],
    ["::1", "::1"],
    ["1::", "1::"],
    ["0:0:0:0:0:0:0:1", "::1"],
    ["2001:DB8::00ff", "2001:db8::ff"],
    ["1:0:0:2:0:0:0:3", "1:0:0:2::3"],
    ["1:0:2:3:4:5:6:7", "1:0:2:3:4:5:6:7"],
    ["::ffff:192.0.2.1", "::ffff:192.0.2.1"],
    ["::ffff:c000:201", "::ffff:192.0.2.1"],
    ["64:ff9b::192.0.2.1", "64:ff9b::c000:201"],
    ["1:2:3:4:5:6:7::", "1:2:3:4:5:6:7:0"],
  ] as const
) {
  Deno.test(`parseIPv6() reads ${text}`, () => {
    const address = parseIPv6(text);
    assert(address !== undefined);
    assertEquals(formatIPv6(address), expected);
  });
}

for (
  const text of [
    "",
    ":",
    ":::",
    "1",
    "1:2",
    "1::2::3",
    "1:2:3:4:5:6:7:8:9",
    "1:2:3:4:5:6:7:8::",
    "12345::",
    "g::",
    "::1.2.3",
    "1.2.3.4::",
    "::1.2.3.4:5",
    "::256.0.0.1",
    ":1::",
    "1:",
    "::1%eth0",
  ]
) {
  Deno.test(`parseIPv6() refuses ${JSON.stringify(text)}`, () => assertEquals(parseIPv6(text), undefined));
}

for (const text of ["", "1.2.3", "1.2.3.4.5", "256.1.1.1", "01.2.3.4", "1.2.3.x", "1..2.3", " 1.2.3.4", "0x1.2.3.4"]) {
  Deno.test(`parseIPv4() refuses ${JSON.stringify(text)}`, () => assertEquals(parseIPv4(text), undefined));
}

for (
  const [text, ErrorClass] of [
    ["", TypeError],
    ["80", TypeError],
    ["localhost", TypeError],
    [":80", TypeError],
    ["::1:80", TypeError],
    ["[::1]", TypeError],
    ["[127.0.0.1]:80", TypeError],
    ["[localhost]:80", TypeError],
    ["[fe80::1%]:80", TypeError],
    ["[fe80::1%a b]:80", TypeError],
    ["a b:80", TypeError],
    ["localhost:-1", TypeError],
    ["localhost:1.5", TypeError],
    ["localhost:65536", RangeError],
    ["localhost:99999999999999999999", RangeError],
  ] as const
) {
  Deno.test(`parseAddress() refuses ${JSON.stringify(text)} with ${ErrorClass.name}`, () => {
    assertThrows(() => parseAddress(text), ErrorClass, JSON.stringify(text));
  });
}

for (
  const [host, kind] of [
    ["127.0.0.1", "IPv4"],
    ["::ffff:127.0.0.1", "IPv6"],
    ["fe80::1%eth0", "IPv6"],
    ["fe80::1%25", "IPv6"],
    ["localhost", "name"],
    ["bücher.example", "name"],
    ["_service.example.", "name"],
    ["a".repeat(254), undefined],
    ["-a.example", undefined],
    ["a/b", undefined],
    ["a\0b", undefined],
    ["fe80::1%", undefined],
  ] as const
) {
  Deno.test(`hostKind() of ${JSON.stringify(host.slice(0, 20))} is ${kind}`, () => assertEquals(hostKind(host), kind));
}
