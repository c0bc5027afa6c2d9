/**
 * Destinations that systems do not agree on, for the runtime engine.
 *
 * To Linux and macOS `0.0.0.0` and `::` as a destination are this machine, so that a client can connect to what a
 * listener reports as its address. Windows refuses them with EADDRNOTAVAIL.
 */

import { formatIPv6, type HostPort, parseIPv4, parseIPv6 } from "./address.ts";
import type { Os } from "./error_numbers.ts";

/** Returns where to send or connect to: on Windows the loopback address for an unspecified one. */
export function specified<T extends HostPort>(to: T, os: Os = Deno.build.os): T {
  if (os !== "windows") return to;
  const bytes = parseIPv4(to.hostname) ?? (to.hostname.includes(":") ? parseIPv6(to.hostname) : undefined);
  if (bytes?.every((byte) => byte === 0) !== true) return to;
  return { ...to, hostname: bytes.length === 4 ? "127.0.0.1" : "::1" };
}

/**
 * Returns an IPv4 destination as an IPv6 socket has to write it (RFC 3493, section 3.7). Linux takes both forms on such
 * a socket, and macOS the mapped one only.
 *
 * @param isIPv6 The socket is one of IPv6.
 */
export function mapped<T extends HostPort>(to: T, isIPv6: boolean, os: Os = Deno.build.os): T {
  const bytes = os === "darwin" && isIPv6 ? parseIPv4(to.hostname) : undefined;
  if (bytes === undefined) return to;
  return { ...to, hostname: formatIPv6(new Uint8Array([...new Array(10).fill(0), 0xff, 0xff, ...bytes])) };
}
