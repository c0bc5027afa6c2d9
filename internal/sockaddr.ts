/**
 * `struct sockaddr_in` and `struct sockaddr_in6` (netinet/in.h), the same on
 * all machines: family in the host's order, port and address in the network's.
 *
 *     sockaddr_in    0 family u16 | 2 port u16 | 4 address 4 bytes | 8 zeros      16 bytes
 *     sockaddr_in6   0 family u16 | 2 port u16 | 4 flow label u32 | 8 address 16 bytes | 24 scope u32   28 bytes
 */

import { formatIPv4, formatIPv6, type HostPort, parseIPv4, parseIPv6, splitZone } from "./address.ts";
import { cString } from "./c_string.ts";
import { notSupportedError } from "./errors.ts";
import { libc, loadedLibc } from "./libc.ts";

export const AF_INET = 2;
export const AF_INET6 = 10;

/** Size of the larger of the two, in bytes. */
export const SOCKADDR_SIZE = 28;
const SOCKADDR_IN_SIZE = 16;

/** Longest interface name with its final zero, in bytes (net/if.h). */
const IF_NAMESIZE = 16;

/** Returns an address as the kernel takes it; `undefined` if `hostname` is a name or its zone is no interface. */
export function encodeSockaddr({ hostname, port }: HostPort): Uint8Array<ArrayBuffer> | undefined {
  const ipv4 = parseIPv4(hostname);
  if (ipv4 !== undefined) {
    const bytes = new Uint8Array(SOCKADDR_IN_SIZE);
    const view = new DataView(bytes.buffer);
    view.setUint16(0, AF_INET, true);
    view.setUint16(2, port);
    bytes.set(ipv4, 4);
    return bytes;
  }
  const [address, zone] = splitZone(hostname);
  const ipv6 = parseIPv6(address);
  const scope = zone === undefined ? 0 : scopeOf(zone);
  if (ipv6 === undefined || scope === undefined) return undefined;
  const bytes = new Uint8Array(SOCKADDR_SIZE);
  const view = new DataView(bytes.buffer);
  view.setUint16(0, AF_INET6, true);
  view.setUint16(2, port);
  bytes.set(ipv6, 8);
  view.setUint32(24, scope, true);
  return bytes;
}

/**
 * Returns the address that the kernel wrote.
 *
 * @throws {TypeError} If it is neither IPv4 nor IPv6, or cut short.
 */
export function decodeSockaddr(bytes: Uint8Array<ArrayBuffer>): HostPort {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const family = bytes.length >= 2 ? view.getUint16(0, true) : 0;
  if (family === AF_INET && bytes.length >= SOCKADDR_IN_SIZE) {
    return { hostname: formatIPv4(bytes.subarray(4, 8)), port: view.getUint16(2) };
  }
  if (family === AF_INET6 && bytes.length >= SOCKADDR_SIZE) {
    const address = formatIPv6(bytes.subarray(8, 24));
    const scope = view.getUint32(24, true);
    return { hostname: scope === 0 ? address : `${address}%${zoneOf(scope)}`, port: view.getUint16(2) };
  }
  throw new TypeError(`Cannot decode a socket address of family ${family} in ${bytes.length} bytes`);
}

/** An address that takes little memory: one of IPv4 as a number, others as the kernel writes them. */
export type CompactAddress = number | Uint8Array<ArrayBuffer>;

/** Returns the address that the kernel wrote into the first `length` bytes. */
export function compactAddress(bytes: Uint8Array<ArrayBuffer>, length: number): CompactAddress {
  // A typed array takes some 200 bytes, and a copy of one longer than all that is done here.
  if (length !== SOCKADDR_IN_SIZE || bytes[0] !== AF_INET || bytes[1] !== 0) {
    return bytes.slice(0, Math.min(length, SOCKADDR_SIZE));
  }
  let number = 0;
  for (let i = 2; i < 8; i++) number = number * 256 + (bytes[i] as number);
  return number;
}

/** The address as the kernel writes it. */
export function expandAddress(address: CompactAddress): Uint8Array<ArrayBuffer> {
  if (typeof address !== "number") return address;
  const bytes = new Uint8Array(SOCKADDR_IN_SIZE);
  bytes[0] = AF_INET;
  for (let i = 7, rest = address; i >= 2; i--, rest = Math.floor(rest / 256)) bytes[i] = rest % 256;
  return bytes;
}

/**
 * The number of an interface, given by name or by number; `undefined` if there is none.
 *
 * @throws {Deno.errors.NotSupported} If it is a name, and the C library is not open.
 */
export function scopeOf(zone: string): number | undefined {
  if (/^\d{1,9}$/.test(zone)) return Number(zone);
  if (loadedLibc() === undefined) {
    throw notSupportedError(`look up the interface ${zone}`, "run with --allow-ffi, or give its number");
  }
  const index = libc.if_nametoindex(cString(zone, "interface"));
  return index === 0 ? undefined : index;
}

/** The name of an interface, or its number if it is gone or cannot be looked up. */
function zoneOf(scope: number): string {
  if (loadedLibc() === undefined) return String(scope);
  const name = new Uint8Array(IF_NAMESIZE);
  if (libc.if_indextoname(scope, name) === null) return String(scope);
  return new TextDecoder().decode(name.subarray(0, name.indexOf(0)));
}
