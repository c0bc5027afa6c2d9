/**
 * The address of this machine that a datagram was sent to, or leaves from, in
 * control messages (ip(7), ipv6(7), RFC 3542). In 32-bit words, addresses in
 * the order of the network (linux/in.h, linux/ipv6.h):
 *
 *     struct in_pktinfo    0 ifindex | 1 spec_dst | 2 addr          12 bytes
 *     struct in6_pktinfo   0 addr 4 words | 4 ifindex               20 bytes
 *
 * An IPv6 socket receives both for a datagram that came over IPv4, and sends
 * it with `in_pktinfo`.
 */

import { IPPROTO_IP, IPPROTO_IPV6 } from "../internal/constants.ts";
import { CONTROL_DATA, findControl } from "../internal/msghdr.ts";
import { getIpOption, setIpStruct } from "../internal/socket.ts";
import { AF_INET, AF_INET6 } from "../internal/sockaddr.ts";
import { NAME_SIZE } from "./peer_cache.ts";

// netinet/in.h
export const IP_PKTINFO = 8;
export const IPV6_RECVPKTINFO = 49;
export const IPV6_PKTINFO = 50;
/** `CMSG_LEN` and `CMSG_SPACE` of the two. */
export const IN_PKTINFO_LENGTH = 28;
export const IN6_PKTINFO_LENGTH = 36;
const IN_PKTINFO_WORDS = 8;
const IN6_PKTINFO_WORDS = 10;
/** Words of room for both, and for two small messages before them such as that of `UDP_GRO`. */
export const INFO_WORDS = IN_PKTINFO_WORDS + IN6_PKTINFO_WORDS + 12;

/** `::ffff:0:0/96` in the third word of an address, on machines that have the lowest byte first. */
const MAPPED = 0xffff_0000;
const BROADCAST = 0xffff_ffff;
const SIDE_WORDS = NAME_SIZE / 4;
// Of struct sockaddr_in and sockaddr_in6, in words.
const IN_ADDRESS = 1;
const IN6_ADDRESS = 2;
const IN6_SCOPE = 6;

/**
 * Addresses of some datagrams as `struct sockaddr_in` or `sockaddr_in6` without
 * port, {@linkcode NAME_SIZE} bytes each; of family 0 where none is known.
 */
export class Sides {
  readonly words: Uint32Array<ArrayBuffer>;
  readonly bytes: Uint8Array<ArrayBuffer>;

  constructor(count: number) {
    this.words = new Uint32Array(count * SIDE_WORDS);
    this.bytes = new Uint8Array(this.words.buffer);
  }

  /** Whether there is an address of datagram `i`. */
  has(i: number): boolean {
    return this.words[i * SIDE_WORDS] !== 0;
  }

  /** Returns the part that holds an address. */
  at(i: number): Uint8Array<ArrayBuffer> {
    return this.bytes.subarray(i * NAME_SIZE, (i + 1) * NAME_SIZE);
  }

  set(i: number, sockaddr: Uint8Array<ArrayBuffer> | undefined): void {
    this.words.fill(0, i * SIDE_WORDS, (i + 1) * SIDE_WORDS);
    if (sockaddr !== undefined) this.bytes.set(sockaddr, i * NAME_SIZE);
  }

  isSame(a: number, b: number): boolean {
    for (let word = 0; word < SIDE_WORDS; word++) {
      if (this.words[a * SIDE_WORDS + word] !== this.words[b * SIDE_WORDS + word]) return false;
    }
    return true;
  }
}

/** Both sides of datagrams that lie on this machine. */
export class PacketInfo {
  /** The addresses that answers leave from. */
  readonly locals: Sides;
  /** The addresses that datagrams were sent to: a local one, a group's, or one of all. */
  readonly destinations: Sides;

  constructor(count: number) {
    this.locals = new Sides(count);
    this.destinations = new Sides(count);
  }

  /** Sets the address that datagram `i` leaves from; `undefined` leaves it to the kernel. */
  set(i: number, local: Uint8Array<ArrayBuffer> | undefined): void {
    this.locals.set(i, local);
    this.destinations.set(i, undefined);
  }

  /**
   * Reads what the kernel tells about datagram `i`.
   *
   * @param control The control messages, from word `at` on.
   * @param length Their bytes.
   * @param isIPv6 The socket is one of IPv6, which shows IPv4 addresses as mapped ones.
   */
  read(i: number, control: Uint32Array<ArrayBuffer>, at: number, length: number, isIPv6: boolean): void {
    this.set(i, undefined);
    const four = findControl(control, at, length, IPPROTO_IP, IP_PKTINFO);
    if (four >= 0) {
      const [local, destination] = [control[four + 1] as number, control[four + 2] as number];
      this.#putIPv4(this.destinations, i, isIPv6, destination);
      if (local !== 0 || isUnicast(destination)) this.#putIPv4(this.locals, i, isIPv6, local || destination);
      return;
    }
    const six = findControl(control, at, length, IPPROTO_IPV6, IPV6_PKTINFO);
    if (six < 0) return;
    this.#putIPv6(this.destinations, i, control, six);
    const isLocal = isMapped(control, six)
      ? isUnicast(control[six + 3] as number)
      : ((control[six] as number) & 0xff) !== 0xff;
    if (isLocal) this.#putIPv6(this.locals, i, control, six);
  }

  #putIPv4({ words }: Sides, i: number, isIPv6: boolean, address: number): void {
    const at = i * SIDE_WORDS;
    words[at] = isIPv6 ? AF_INET6 : AF_INET;
    if (!isIPv6) {
      words[at + IN_ADDRESS] = address;
      return;
    }
    words[at + IN6_ADDRESS + 2] = MAPPED;
    words[at + IN6_ADDRESS + 3] = address;
  }

  #putIPv6({ words }: Sides, i: number, info: Uint32Array<ArrayBuffer>, from: number): void {
    const at = i * SIDE_WORDS;
    words[at] = AF_INET6;
    for (let word = 0; word < 4; word++) words[at + IN6_ADDRESS + word] = info[from + word] as number;
    if (needsZone(info[from] as number)) words[at + IN6_SCOPE] = info[from + 4] as number;
  }
}

/**
 * Writes the control message that makes datagram `i` leave from its local address.
 *
 * @returns The words that it takes, 0 if there is no such address.
 */
export function writeLocal({ words }: Sides, i: number, control: Uint32Array<ArrayBuffer>, at: number): number {
  const from = i * SIDE_WORDS;
  const family = (words[from] as number) & 0xffff;
  if (family === 0) return 0;
  const four = family === AF_INET ? IN_ADDRESS : isMapped(words, from + IN6_ADDRESS) ? IN6_ADDRESS + 3 : 0;
  const data = at + CONTROL_DATA;
  control[at + 1] = 0;
  if (four !== 0) {
    control[at] = IN_PKTINFO_LENGTH;
    control[at + 2] = IPPROTO_IP;
    control[at + 3] = IP_PKTINFO;
    control[data] = 0;
    control[data + 1] = words[from + four] as number;
    control[data + 2] = 0;
    return IN_PKTINFO_WORDS;
  }
  control[at] = IN6_PKTINFO_LENGTH;
  control[at + 2] = IPPROTO_IPV6;
  control[at + 3] = IPV6_PKTINFO;
  for (let word = 0; word < 4; word++) control[data + word] = words[from + IN6_ADDRESS + word] as number;
  control[data + 4] = words[from + IN6_SCOPE] as number;
  return IN6_PKTINFO_WORDS;
}

/** The family that packets of a `struct sockaddr_in` or `sockaddr_in6` travel by. */
export function familyOf(sockaddr: Uint8Array<ArrayBuffer>): "IPv4" | "IPv6" {
  if (sockaddr[0] === AF_INET) return "IPv4";
  return isMapped(new Uint32Array(sockaddr.buffer, sockaddr.byteOffset, SIDE_WORDS - 1), IN6_ADDRESS) ? "IPv4" : "IPv6";
}

/** Makes a socket tell where its datagrams were sent to; before bind, or what arrives meanwhile comes without. */
export function setPacketInfo(fd: number, isIPv6: boolean): void {
  const on = new Uint8Array([1, 0, 0, 0]);
  setIpStruct(fd, "IPv4", IP_PKTINFO, on);
  if (isIPv6) setIpStruct(fd, "IPv6", IPV6_RECVPKTINFO, on);
}

/** Returns whether a socket tells where its datagrams were sent to. */
export function hasPacketInfo(fd: number, isIPv6: boolean): boolean {
  return getIpOption(fd, isIPv6 ? "IPv6" : "IPv4", isIPv6 ? IPV6_RECVPKTINFO : IP_PKTINFO) !== 0;
}

/** Whether the 16 bytes from word `first` on are an IPv4 address mapped to IPv6. */
function isMapped(words: Uint32Array<ArrayBuffer>, first: number): boolean {
  return words[first] === 0 && words[first + 1] === 0 && words[first + 2] === MAPPED;
}

/** Whether an IPv4 address can be one machine's: no group, and not that of all. */
function isUnicast(address: number): boolean {
  return (address & 0xf0) !== 0xe0 && address !== BROADCAST;
}

/** Whether an IPv6 address means something on one interface only: fe80::/10, and groups no wider than the link. */
function needsZone(first: number): boolean {
  const [a, b] = [first & 0xff, first >> 8 & 0xff];
  return a === 0xfe ? (b & 0xc0) === 0x80 : a === 0xff && ((b & 0xf) === 1 || (b & 0xf) === 2);
}
