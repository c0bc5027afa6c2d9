/** The calls that TCP and UDP sockets have in common, on a plain descriptor. */

import {
  F_GETFL,
  F_SETFD,
  F_SETFL,
  FD_CLOEXEC,
  IPPROTO_IP,
  IPPROTO_IPV6,
  IPPROTO_TCP,
  IPPROTO_UDP,
  O_NONBLOCK,
  SO_PROTOCOL,
  SO_TYPE,
  SOL_SOCKET,
} from "./constants.ts";
import type { HostPort } from "./address.ts";
import { cString } from "./c_string.ts";
import { socketError, SyscallError } from "./errors.ts";
import { decodeSockaddr, SOCKADDR_SIZE } from "./sockaddr.ts";
import type { SocketOption } from "./socket_option.ts";
import { atCaller } from "./stack.ts";
import { syscall } from "./syscall.ts";

// sys/socket.h, netinet/in.h; the same on x86_64 and aarch64.
export const SOCK_STREAM = 1;
export const SOCK_DGRAM = 2;
export const SOCK_NONBLOCK = 0o4000;
export const SOCK_CLOEXEC = 0o2000000;
export const MSG_PEEK = 0x2;
export const MSG_TRUNC = 0x20;
export const MSG_NOSIGNAL = 0x4000;

/** Level and number of each option (asm-generic/socket.h, linux/tcp.h, linux/in.h, linux/in6.h). */
const OPTIONS: Readonly<Record<SocketOption, readonly [level: number, number: number]>> = {
  SO_REUSEADDR: [SOL_SOCKET, 2],
  SO_ERROR: [SOL_SOCKET, 4],
  SO_BROADCAST: [SOL_SOCKET, 6],
  SO_SNDBUF: [SOL_SOCKET, 7],
  SO_RCVBUF: [SOL_SOCKET, 8],
  SO_KEEPALIVE: [SOL_SOCKET, 9],
  SO_PRIORITY: [SOL_SOCKET, 12],
  SO_LINGER: [SOL_SOCKET, 13],
  SO_REUSEPORT: [SOL_SOCKET, 15],
  SO_ACCEPTCONN: [SOL_SOCKET, 30],
  SO_MARK: [SOL_SOCKET, 36],
  SO_BUSY_POLL: [SOL_SOCKET, 46],
  TCP_NODELAY: [IPPROTO_TCP, 1],
  TCP_MAXSEG: [IPPROTO_TCP, 2],
  TCP_CORK: [IPPROTO_TCP, 3],
  TCP_KEEPIDLE: [IPPROTO_TCP, 4],
  TCP_KEEPINTVL: [IPPROTO_TCP, 5],
  TCP_KEEPCNT: [IPPROTO_TCP, 6],
  TCP_SYNCNT: [IPPROTO_TCP, 7],
  TCP_DEFER_ACCEPT: [IPPROTO_TCP, 9],
  TCP_QUICKACK: [IPPROTO_TCP, 12],
  TCP_USER_TIMEOUT: [IPPROTO_TCP, 18],
  TCP_FASTOPEN: [IPPROTO_TCP, 23],
  TCP_NOTSENT_LOWAT: [IPPROTO_TCP, 25],
  IP_TOS: [IPPROTO_IP, 1],
  IP_TTL: [IPPROTO_IP, 2],
  IP_FREEBIND: [IPPROTO_IP, 15],
  IP_MULTICAST_TTL: [IPPROTO_IP, 33],
  IP_MULTICAST_LOOP: [IPPROTO_IP, 34],
  IP_MULTICAST_ALL: [IPPROTO_IP, 49],
  IPV6_UNICAST_HOPS: [IPPROTO_IPV6, 16],
  IPV6_MULTICAST_IF: [IPPROTO_IPV6, 17],
  IPV6_MULTICAST_HOPS: [IPPROTO_IPV6, 18],
  IPV6_MULTICAST_LOOP: [IPPROTO_IPV6, 19],
  IPV6_V6ONLY: [IPPROTO_IPV6, 26],
  IPV6_TCLASS: [IPPROTO_IPV6, 67],
};
const IP_BIND_ADDRESS_NO_PORT = 24;
const TCP_CONGESTION = 13;
/** Longest name of a congestion control with its final zero, in bytes (linux/tcp.h). */
const TCP_CA_NAME_MAX = 16;

const value = new Int32Array(2);
const valueBytes = new Uint8Array(value.buffer);
const length = new Uint32Array(1);
const lengthBytes = new Uint8Array(length.buffer);

function getInteger(fd: number, level: number, option: number): number {
  length[0] = valueBytes.byteLength;
  value.fill(0);
  syscall("getsockopt", fd, level, option, valueBytes, lengthBytes);
  return value[0] as number;
}

/** getsockopt(2) of an option whose value is an integer. */
export function getSocketOption(fd: number, option: SocketOption): number {
  const [level, number] = OPTIONS[option];
  const result = getInteger(fd, level, number);
  // struct linger is { on, seconds }.
  if (option === "SO_LINGER") return result === 0 ? -1 : value[1] as number;
  return result;
}

/** setsockopt(2) of an option whose value is an integer. */
export function setSocketOption(fd: number, option: SocketOption, to: number): void {
  const [level, number] = OPTIONS[option];
  if (option === "SO_LINGER") {
    value[0] = to < 0 ? 0 : 1;
    value[1] = Math.max(to, 0);
    syscall("setsockopt", fd, level, number, valueBytes, 8);
  } else {
    value[0] = to;
    syscall("setsockopt", fd, level, number, valueBytes, 4);
  }
}

/**
 * Lets a bind to port 0 that follows fix the address alone: `IP_BIND_ADDRESS_NO_PORT` of ip(7), for both families.
 * connect(2) then picks a port that is free for its destination, where bind(2) would need one that is free for all.
 */
export function leavePortToConnect(fd: number): void {
  value[0] = 1;
  try {
    syscall("setsockopt", fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, valueBytes, 4);
  } catch (error) {
    // A kernel before 4.2, or one that only looks like Linux: bind picks the port.
    if (!(error instanceof SyscallError)) throw error;
  }
}

/** The name of the congestion control: `TCP_CONGESTION` of tcp(7). */
export function getCongestion(fd: number): string {
  const name = new Uint8Array(TCP_CA_NAME_MAX);
  length[0] = name.length;
  syscall("getsockopt", fd, IPPROTO_TCP, TCP_CONGESTION, name, lengthBytes);
  const end = name.indexOf(0);
  return new TextDecoder().decode(end < 0 ? name : name.subarray(0, end));
}

/** Chooses the congestion control. */
export function setCongestion(fd: number, name: string): void {
  const bytes = cString(name, "name");
  // The kernel would cut it.
  if (bytes.length > TCP_CA_NAME_MAX) throw new SyscallError("setsockopt", "ENOENT");
  syscall("setsockopt", fd, IPPROTO_TCP, TCP_CONGESTION, bytes, bytes.length);
}

/** Fills `into` with what getsockopt(2) gives for a struct of `IPPROTO_TCP`, and returns its length. */
export function getTcpStruct(fd: number, option: number, into: Uint8Array<ArrayBuffer>): number {
  length[0] = into.length;
  syscall("getsockopt", fd, IPPROTO_TCP, option, into, lengthBytes);
  return length[0] as number;
}

/** ioctl(2) that gives an integer. */
export function ioctlInteger(fd: number, request: number): number {
  syscall("ioctl", fd, request, valueBytes);
  return value[0] as number;
}

/** The error that is pending on a socket, `undefined` if there is none; reading clears it. */
export function pendingErrno(fd: number): number {
  return getSocketOption(fd, "SO_ERROR");
}

/** The address of one side of a socket. */
export function addressOf(fd: number, side: "getsockname" | "getpeername"): HostPort {
  const bytes = new Uint8Array(SOCKADDR_SIZE);
  length[0] = bytes.length;
  syscall(side, fd, bytes, lengthBytes);
  return decodeSockaddr(bytes.subarray(0, length[0]));
}

/** What /proc says that a descriptor is, for example `socket:[12345]`. */
export function linkOf(fd: number): string {
  const target = new Uint8Array(64);
  const n = syscall("readlink", cString(`/proc/self/fd/${fd}`), target, target.length);
  return new TextDecoder().decode(target.subarray(0, n));
}

/** Number of the socket's inode: what `ss -e` and /proc show as `ino` and `socket:[…]`. */
export function inodeOf(fd: number): number {
  return Number(/\[(\d+)\]/.exec(linkOf(fd))?.[1] ?? 0);
}

/** Fills `into` with what getsockopt(2) gives for a struct of `SOL_SOCKET`, and returns its length. */
export function getSocketStruct(fd: number, option: number, into: Uint8Array<ArrayBuffer>): number {
  length[0] = into.length;
  syscall("getsockopt", fd, SOL_SOCKET, option, into, lengthBytes);
  return length[0] as number;
}

/** getsockopt(2) of an option of `SOL_UDP` whose value is an integer. */
export function getUdpOption(fd: number, option: number): number {
  return getInteger(fd, IPPROTO_UDP, option);
}

/** setsockopt(2) of an option of `SOL_UDP` whose value is an integer. */
export function setUdpOption(fd: number, option: number, to: number): void {
  value[0] = to;
  syscall("setsockopt", fd, IPPROTO_UDP, option, valueBytes, 4);
}

/** setsockopt(2) of an option of IPv4 or IPv6 whose value is a struct. */
export function setIpStruct(fd: number, family: "IPv4" | "IPv6", option: number, from: Uint8Array<ArrayBuffer>): void {
  syscall("setsockopt", fd, family === "IPv4" ? IPPROTO_IP : IPPROTO_IPV6, option, from, from.length);
}

/** getsockopt(2) of an option of IPv4 or IPv6 whose value is an integer. */
export function getIpOption(fd: number, family: "IPv4" | "IPv6", option: number): number {
  return getInteger(fd, family === "IPv4" ? IPPROTO_IP : IPPROTO_IPV6, option);
}

/**
 * Checks a UDP socket that somebody hands over, as {@linkcode prepare} does.
 */
export function prepareUdp(fd: number): void {
  prepare(fd, "UDP socket", () => isOfKind(fd, SOCK_DGRAM, IPPROTO_UDP));
}

/**
 * Checks a TCP socket that somebody hands over, as {@linkcode prepare} does; `"sent"` is one that was connected, and may
 * be reset by now.
 */
export function prepareTcp(fd: number, kind: "listening" | "connected" | "sent"): void {
  prepare(fd, `${kind} TCP socket`, () => {
    const isTcp = isOfKind(fd, SOCK_STREAM, IPPROTO_TCP);
    const listens = isTcp && getSocketOption(fd, "SO_ACCEPTCONN") === 1;
    if (!isTcp || listens !== (kind === "listening")) return false;
    if (kind === "connected") addressOf(fd, "getpeername");
    return true;
  });
}

function isOfKind(fd: number, type: number, protocol: number): boolean {
  return getInteger(fd, SOL_SOCKET, SO_TYPE) === type && getInteger(fd, SOL_SOCKET, SO_PROTOCOL) === protocol;
}

/**
 * Checks a descriptor that somebody hands over, and makes it nonblocking and
 * close-on-exec.
 *
 * @throws {TypeError} If it is not `what` it should be.
 * @throws {Deno.errors.BadResource} If it is not open.
 */
function prepare(fd: number, what: string, isRight: () => boolean): void {
  const action = `take over descriptor ${fd}`;
  try {
    if (!isRight()) throw atCaller(new TypeError(`Cannot ${action}: not a ${what}`));
    syscall("fcntl", fd, F_SETFD, FD_CLOEXEC);
    syscall("fcntl", fd, F_SETFL, syscall("fcntl", fd, F_GETFL, 0) | O_NONBLOCK);
  } catch (error) {
    if (!(error instanceof SyscallError)) throw error;
    if (error.code === "ENOTSOCK" || error.code === "ENOTCONN") {
      throw atCaller(new TypeError(`Cannot ${action}: not a ${what}`, { cause: error }));
    }
    throw socketError(action, error);
  }
}
