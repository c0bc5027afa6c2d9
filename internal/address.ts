/**
 * Internet addresses as text and as bytes: IPv4, IPv6 with zones, host names,
 * and the `host:port` forms of RFC 3986 (`[::1]:80`).
 */

import { atCaller } from "./stack.ts";

/** A host and a port, the part that all address objects of Deno have in common. */
export interface HostPort {
  /** An IPv4 address, an IPv6 address without brackets, or a host name. */
  hostname: string;
  /** A port from 0 to 65535. */
  port: number;
}

const DECIMAL_OCTET = /^(?:0|[1-9]\d{0,2})$/;
const HEX_GROUP = /^[0-9a-f]{1,4}$/i;
/** What an interface name may consist of: the kernel refuses slashes and white space. */
const ZONE = /^[^\s/%[\]\p{Cc}\p{Cs}]{1,64}$/u;
/** RFC 1123 names, with the underscores and the non-ASCII letters that resolvers take too. */
const HOST_NAME = /^(?=.{1,253}$)[\p{L}\p{N}_](?:[\p{L}\p{N}\p{M}_.-]*[\p{L}\p{N}\p{M}_.])?$/u;

/** Returns the four bytes of a dotted IPv4 address, `undefined` if `text` is none. */
export function parseIPv4(text: string): Uint8Array<ArrayBuffer> | undefined {
  const parts = text.split(".");
  if (parts.length !== 4) return undefined;
  const bytes = new Uint8Array(4);
  for (const [i, part] of parts.entries()) {
    // A leading zero means octal to some resolvers and decimal to others.
    if (!DECIMAL_OCTET.test(part) || Number(part) > 255) return undefined;
    bytes[i] = Number(part);
  }
  return bytes;
}

/** Returns four bytes as a dotted IPv4 address. */
export function formatIPv4(bytes: Uint8Array): string {
  return `${bytes[0]}.${bytes[1]}.${bytes[2]}.${bytes[3]}`;
}

/** Returns the sixteen bytes of an IPv6 address without zone, `undefined` if `text` is none. */
export function parseIPv6(text: string): Uint8Array<ArrayBuffer> | undefined {
  const halves = text.split("::");
  if (halves.length > 2) return undefined;
  const head = parseGroups(halves[0] as string, halves.length === 1);
  const tail = parseGroups(halves[1] ?? "", true);
  if (head === undefined || tail === undefined) return undefined;
  const missing = 16 - head.length - tail.length;
  // RFC 5952 writes no "::" for a single group, but RFC 4291 lets it be read.
  if (halves.length === 1 ? missing !== 0 : missing < 2) return undefined;
  const bytes = new Uint8Array(16);
  bytes.set(head, 0);
  bytes.set(tail, 16 - tail.length);
  return bytes;
}

/** Returns the bytes of colon-separated groups; the last may be a dotted IPv4 address. */
function parseGroups(text: string, mayEndInIPv4: boolean): number[] | undefined {
  if (text === "") return [];
  const bytes: number[] = [];
  const groups = text.split(":");
  for (const [i, group] of groups.entries()) {
    if (HEX_GROUP.test(group)) {
      const value = parseInt(group, 16);
      bytes.push(value >> 8, value & 0xff);
      continue;
    }
    const last = mayEndInIPv4 && i === groups.length - 1 ? parseIPv4(group) : undefined;
    if (last === undefined) return undefined;
    bytes.push(...last);
  }
  return bytes;
}

/** Returns sixteen bytes as RFC 5952 writes them; v4-mapped ones as `::ffff:192.0.2.1`. */
export function formatIPv6(bytes: Uint8Array): string {
  const groups = Array.from({ length: 8 }, (_, i) => ((bytes[2 * i] ?? 0) << 8) | (bytes[2 * i + 1] ?? 0));
  if (groups.slice(0, 5).every((group) => group === 0) && groups[5] === 0xffff) {
    return `::ffff:${formatIPv4(bytes.subarray(12))}`;
  }
  // The first of the longest runs of zero groups, if it has at least two.
  let start = -1;
  let length = 1;
  for (let i = 0; i < 8; i++) {
    let end = i;
    while (end < 8 && groups[end] === 0) end++;
    if (end - i > length) [start, length] = [i, end - i];
    if (end > i) i = end;
  }
  const text = (part: number[]) => part.map((group) => group.toString(16)).join(":");
  if (start < 0) return text(groups);
  return `${text(groups.slice(0, start))}::${text(groups.slice(start + length))}`;
}

/** Returns an IPv6 address without its zone, and the zone. */
export function splitZone(hostname: string): [address: string, zone: string | undefined] {
  const percent = hostname.indexOf("%");
  return percent < 0 ? [hostname, undefined] : [hostname.slice(0, percent), hostname.slice(percent + 1)];
}

/** Tells what kind of host `hostname` is; `undefined` if it is none. */
export function hostKind(hostname: string): "IPv4" | "IPv6" | "name" | undefined {
  if (parseIPv4(hostname) !== undefined) return "IPv4";
  if (hostname.includes(":")) {
    const [address, zone] = splitZone(hostname);
    if (parseIPv6(address) === undefined) return undefined;
    return zone === undefined || ZONE.test(zone) ? "IPv6" : undefined;
  }
  return HOST_NAME.test(hostname) ? "name" : undefined;
}

/** Returns `host:port`, with an IPv6 host in brackets. */
export function formatAddress({ hostname, port }: HostPort): string {
  return `${hostname.includes(":") ? `[${hostname}]` : hostname}:${port}`;
}

/**
 * Reads `host:port`, with an IPv6 host in brackets.
 *
 * @throws {TypeError} If `text` has not that form.
 * @throws {RangeError} If the port is over 65535.
 */
export function parseAddress(text: string): HostPort {
  if (typeof text !== "string") {
    throw atCaller(new TypeError(`Cannot parse address: expected a string, received a value of type ${typeof text}`));
  }
  const match = /^(?:\[([^[\]]*)\]|([^[\]:]*)):(\d+)$/.exec(text);
  const hostname = match?.[1] ?? match?.[2] ?? "";
  const kind = hostKind(hostname);
  if (match === null || kind === undefined || (match[1] !== undefined) !== (kind === "IPv6")) {
    throw atCaller(
      new TypeError(`Cannot parse address ${JSON.stringify(text)}: expected "host:port" or "[IPv6]:port"`),
    );
  }
  const port = Number(match[3]);
  if (port > 65535) {
    throw atCaller(new RangeError(`Cannot parse address ${JSON.stringify(text)}: port must be from 0 to 65535`));
  }
  return { hostname, port };
}
