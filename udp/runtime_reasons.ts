/**
 * Why a send or a receive fails, for node:dgram tells `UNKNOWN` for nearly
 * everything: the kernel's own rules, as far as they follow from the socket,
 * the size and the destination.
 */

import { hostKind, type HostPort, parseIPv4, parseIPv6, splitZone } from "../internal/address.ts";
import type { Os } from "../internal/error_numbers.ts";
import { codeOf } from "../internal/errors.ts";

/** Largest payload of a datagram, in bytes (RFC 768): over IPv4 the length of the packet counts its header, too. */
export const LARGEST_OVER_IPV4 = 65_507;
const LARGEST_OVER_IPV6 = 65_527;

/** What of a socket decides where it can send to. */
export interface Sender {
  /** The address that it is bound to. */
  readonly hostname: string;
  readonly ipv6Only: boolean;
  /** `SO_BROADCAST` is set. */
  readonly mayBroadcast: boolean;
}

/** An error by the kernel's name, and what to say instead of the name's usual meaning. */
export interface Reason {
  readonly code: string;
  readonly detail?: string;
}

/**
 * Returns why a datagram cannot be sent, if that is certain before it is tried; names are not looked up.
 *
 * @param os The operating system that would send it.
 */
export function certainReason(
  size: number,
  to: HostPort,
  from: Sender,
  os: Os = Deno.build.os,
): Reason | undefined {
  const ipv4 = ipv4Of(to.hostname);
  if (size > (ipv4 === undefined ? LARGEST_OVER_IPV6 : LARGEST_OVER_IPV4)) return { code: "EMSGSIZE" };
  const kind = hostKind(to.hostname);
  if (kind === "name") return undefined;
  if (!from.hostname.includes(":")) {
    if (kind === "IPv6") return { code: "EAFNOSUPPORT" };
  } else if (ipv4 !== undefined && os === "windows") {
    // The runtime leaves IPV6_V6ONLY as it is by default, which is on there.
    return { code: "ENETUNREACH", detail: "an IPv6 endpoint of the runtime engine has no IPv4 on Windows" };
  } else if (ipv4 !== undefined && !reachesIPv4(from)) {
    return { code: "ENETUNREACH" };
  }
  return undefined;
}

/** Returns why a send has failed that the runtime gives no reason for; `undefined` if that cannot be told either. */
export function likelyReason(to: HostPort, from: Sender): Reason | undefined {
  const zone = splitZone(to.hostname)[1];
  if (zone !== undefined) return interfaceExists(zone) === false ? { code: "ENODEV" } : undefined;
  const ipv4 = ipv4Of(to.hostname);
  if (ipv4 === undefined) return undefined;
  // Of all networks, and of the one that every machine has.
  const isAlways = (ipv4[0] === 255 || ipv4[0] === 127) && ipv4.subarray(1).every((byte) => byte === 255);
  const isLoopback = ipv4Of(from.hostname)?.[0] === 127;
  if (isLoopback && ipv4[0] !== 127 && !isAlways) {
    return { code: "EINVAL", detail: "an endpoint on a loopback address reaches this machine only" };
  }
  if (from.mayBroadcast) return undefined;
  const isBroadcast = isAlways || isSubnetBroadcast(ipv4);
  if (isBroadcast) return { code: "EACCES" };
  // The list of interfaces needs --allow-sys.
  const mayBe = isBroadcast === undefined && ((ipv4[3] as number) & 3) === 3;
  return mayBe
    ? { code: "UNKNOWN", detail: "the runtime does not tell why, but a broadcast address needs setBroadcast()" }
    : undefined;
}

/** What earlier datagrams are answered with by ICMP: nobody at that port, or (the last) too many hops. */
const OF_PEERS = ["ECONNREFUSED", "ECONNRESET", "ENETRESET"];

/**
 * Returns whether a failed receive reports only that an earlier datagram did not arrive, as on Windows also a socket
 * does that is not connected: that is no event for the other peers.
 *
 * @param error What the runtime has failed with.
 * @param os The operating system that it comes from.
 */
export function isOfPeer(error: unknown, os: Os = Deno.build.os): boolean {
  if (error instanceof Deno.errors.ConnectionReset || error instanceof Deno.errors.ConnectionRefused) return true;
  const code = codeOf(error) ?? "";
  // node:dgram gives no reason, and goes on receiving.
  return OF_PEERS.includes(code) || (os === "windows" && code === "UNKNOWN");
}

/** The bytes of an IPv4 address, also of a mapped one. */
function ipv4Of(hostname: string): Uint8Array<ArrayBuffer> | undefined {
  const ipv4 = parseIPv4(hostname);
  if (ipv4 !== undefined) return ipv4;
  const ipv6 = hostname.includes(":") ? parseIPv6(splitZone(hostname)[0]) : undefined;
  const isMapped = ipv6?.subarray(0, 12).every((byte, i) => byte === (i < 10 ? 0 : 0xff));
  return isMapped ? ipv6?.subarray(12) : undefined;
}

/** Whether an IPv6 socket sends over IPv4, too. */
function reachesIPv4({ hostname, ipv6Only }: Sender): boolean {
  const bound = parseIPv6(splitZone(hostname)[0]);
  return !ipv6Only && (bound === undefined || bound.every((byte) => byte === 0) || ipv4Of(hostname) !== undefined);
}

/** The interfaces of this machine, if they may be known without asking for a permission. */
function interfaces(): Deno.NetworkInterfaceInfo[] | undefined {
  const { state } = Deno.permissions.querySync({ name: "sys", kind: "networkInterfaces" });
  return state === "granted" ? Deno.networkInterfaces() : undefined;
}

/** Whether there is such an interface; `undefined` if that cannot be known. */
function interfaceExists(zone: string): boolean | undefined {
  if (/^\d+$/.test(zone)) return undefined;
  return interfaces()?.some(({ name }) => name === zone);
}

/** Whether an address is the last one of a network that this machine is in; `undefined` if that cannot be known. */
function isSubnetBroadcast(ipv4: Uint8Array<ArrayBuffer>): boolean | undefined {
  return interfaces()?.some(({ family, address, netmask }) => {
    if (family !== "IPv4") return false;
    const [own, mask] = [parseIPv4(address), parseIPv4(netmask)];
    if (own === undefined || mask === undefined || (mask[3] as number) >= 254) return false;
    return ipv4.every((byte, i) => byte === ((own[i] as number) | ~(mask[i] as number) & 0xff));
  });
}
