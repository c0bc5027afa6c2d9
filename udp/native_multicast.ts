/** Multicast groups, as the kernel takes them (netinet/in.h). */

import { hostKind, parseIPv4, splitZone } from "../internal/address.ts";
import { SyscallError } from "../internal/errors.ts";
import { encodeSockaddr, scopeOf } from "../internal/sockaddr.ts";
import { setIpStruct } from "../internal/socket.ts";
import type { MulticastOptions } from "./driver.ts";

const IP_ADD_MEMBERSHIP = 35;
const IP_DROP_MEMBERSHIP = 36;
const IP_ADD_SOURCE_MEMBERSHIP = 39;
const IP_DROP_SOURCE_MEMBERSHIP = 40;
const MCAST_JOIN_GROUP = 42;
const MCAST_LEAVE_GROUP = 45;
const MCAST_JOIN_SOURCE_GROUP = 46;
const MCAST_LEAVE_SOURCE_GROUP = 47;
const IP_MULTICAST_IF = 32;

/** `struct group_req`: the interface's number, 4 bytes of padding, a `struct sockaddr_storage` of 128 bytes. */
const GROUP_AT = 8;
const STORAGE = 128;

/** The number of an interface by name. */
export function interfaceNumber(name: string): number {
  const index = scopeOf(name);
  if (index === undefined) throw new SyscallError("if_nametoindex", "ENODEV");
  return index;
}

/** Joins or leaves a group: setsockopt(2). */
export function setMembership(fd: number, options: MulticastOptions, join: boolean): void {
  const { group, source } = options;
  const family = hostKind(group) as "IPv4" | "IPv6";
  const local = options.interface === undefined ? undefined : parseIPv4(options.interface);
  if (local !== undefined && family === "IPv4") {
    // struct ip_mreq, struct ip_mreq_source: the group, the interface, and the source.
    const parts = [parseIPv4(group), local, source === undefined ? [] : parseIPv4(source)];
    const option = source === undefined
      ? (join ? IP_ADD_MEMBERSHIP : IP_DROP_MEMBERSHIP)
      : (join ? IP_ADD_SOURCE_MEMBERSHIP : IP_DROP_SOURCE_MEMBERSHIP);
    return setIpStruct(fd, family, option, new Uint8Array(parts.flatMap((part) => [...(part ?? [])])));
  }
  const bytes = new Uint8Array(GROUP_AT + STORAGE * (source === undefined ? 1 : 2));
  const name = options.interface ?? splitZone(group)[1];
  const index = name === undefined ? 0 : interfaceNumber(name);
  new DataView(bytes.buffer).setUint32(0, index, true);
  bytes.set(encodeSockaddr({ hostname: group, port: 0 }) ?? [], GROUP_AT);
  if (source !== undefined) bytes.set(encodeSockaddr({ hostname: source, port: 0 }) ?? [], GROUP_AT + STORAGE);
  const option = source === undefined
    ? (join ? MCAST_JOIN_GROUP : MCAST_LEAVE_GROUP)
    : (join ? MCAST_JOIN_SOURCE_GROUP : MCAST_LEAVE_SOURCE_GROUP);
  setIpStruct(fd, family, option, bytes);
}

/** Chooses the interface that IPv4 multicast leaves by, also from an IPv6 socket; `struct ip_mreqn`: group, address, number. */
export function setMulticastInterface(fd: number, name: string): void {
  const bytes = new Uint8Array(12);
  const local = parseIPv4(name);
  if (local !== undefined) bytes.set(local, 4);
  else new DataView(bytes.buffer).setUint32(8, interfaceNumber(name), true);
  setIpStruct(fd, "IPv4", IP_MULTICAST_IF, bytes);
}
