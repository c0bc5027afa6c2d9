/** Connecting on the native engine: nonblocking connect(2), and RFC 8305 over several addresses. */

import { formatAddress, type HostPort } from "../internal/address.ts";
import { Descriptor } from "../internal/descriptor.ts";
import { socketError, SyscallError } from "../internal/errors.ts";
import { refuseDenied, requireNet } from "../internal/permissions.ts";
import { resolveAll, type Resolved } from "../internal/resolve.ts";
import {
  addressOf,
  getTcpStruct,
  leavePortToConnect,
  pendingErrno,
  setSocketOption,
  SOCK_CLOEXEC,
  SOCK_NONBLOCK,
  SOCK_STREAM,
} from "../internal/socket.ts";
import { AF_INET, AF_INET6 } from "../internal/sockaddr.ts";
import { EINPROGRESS, syscall, syscallError } from "../internal/syscall.ts";
import { NativeConn } from "./native_conn.ts";
import { isSelf, selfConnectError } from "./self_connect.ts";
import { decodeTcpInfo, TCP_INFO, TCP_INFO_SIZE } from "./tcp_info.ts";
import { PolledSocket } from "../poll/polled_socket.ts";

/** How long an attempt has for itself before the next begins, in milliseconds (RFC 8305, section 5). */
const ATTEMPT_DELAY = 250;

/** Where and how to connect; checked. */
export interface NativeConnectOptions extends HostPort {
  localAddress: string | undefined;
  localPort: number | undefined;
}

/** Opens a TCP socket: socket(2). */
export function openTcp(family: "IPv4" | "IPv6"): number {
  return syscall("socket", family === "IPv4" ? AF_INET : AF_INET6, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
}

/**
 * Shakes hands on an open socket, and takes it over: connect(2). When
 * `signal` is aborted, or the attempt fails, the socket is closed.
 *
 * @param hasOwnPort The caller has chosen the local port: if it is the one to connect to, the caller means itself.
 * @throws {SyscallError} If the attempt fails.
 */
export async function shakeHands(
  fd: number,
  to: Resolved,
  hasOwnPort: boolean,
  signal: AbortSignal,
): Promise<NativeConn> {
  let tell: () => void = () => {};
  const owner = new Descriptor(fd);
  let socket: PolledSocket | undefined;
  try {
    const source = { name: `TCP socket for ${formatAddress(to)}`, kind: "socket", onReady: () => tell() };
    socket = owner.passTo(() => new PolledSocket(fd, source));
    try {
      syscall("connect", fd, to.sockaddr, to.sockaddr.length);
    } catch (error) {
      // The runtime can overwrite errno before it is read; what the socket does is certain.
      if (!(error instanceof SyscallError && (error.errno === EINPROGRESS || isConnecting(fd)))) throw error;
      const refusal = socket.register();
      if (refusal !== undefined) throw refusal.cause ?? refusal;
      socket.reactor.hold(true);
      try {
        await new Promise<void>((resolve) => {
          tell = resolve;
          signal.addEventListener("abort", () => resolve(), { once: true });
        });
      } finally {
        socket.reactor.release(true);
      }
      signal.throwIfAborted();
      const errno = pendingErrno(fd);
      if (errno !== 0) throw syscallError("connect", errno);
    }
    const [local, remote] = [addressOf(fd, "getsockname"), addressOf(fd, "getpeername")];
    if (!hasOwnPort && isSelf(local, remote)) {
      // With RST: the end of a connection waits in TIME_WAIT otherwise, and the server could not have its port.
      setSocketOption(fd, "SO_LINGER", 0);
      throw selfConnectError();
    }
    return new NativeConn(socket.detach(), { transport: "tcp", ...local }, { transport: "tcp", ...remote });
  } finally {
    socket?.close();
    owner.close();
  }
}

/** Whether an attempt is under way, or has succeeded already: of a socket that never had one the state is another. */
function isConnecting(fd: number): boolean {
  const info = new Uint8Array(TCP_INFO_SIZE);
  const { state } = decodeTcpInfo(info, getTcpStruct(fd, TCP_INFO, info));
  return ["SYN_SENT", "SYN_RECV", "ESTABLISHED"].includes(state);
}

/** One attempt, to one address. */
function attempt(to: Resolved, from: Resolved | undefined, signal: AbortSignal): Promise<NativeConn> {
  const socket = new Descriptor(openTcp(to.family));
  try {
    if (from !== undefined) {
      setSocketOption(socket.fd, "SO_REUSEADDR", 1);
      if (from.port === 0) leavePortToConnect(socket.fd);
      try {
        syscall("bind", socket.fd, from.sockaddr, from.sockaddr.length);
      } catch (error) {
        if (!(error instanceof SyscallError)) throw error;
        throw socketError(`connect TCP to ${formatAddress(to)} from ${formatAddress(from)}`, error);
      }
    }
    return shakeHands(socket.detach(), to, from !== undefined && from.port !== 0, signal);
  } finally {
    socket.close();
  }
}

/** The addresses to try, each with the address to come from. */
async function candidates(
  { hostname, port, localAddress, localPort }: NativeConnectOptions,
  action: string,
  signal: AbortSignal,
): Promise<[to: Resolved, from: Resolved | undefined][]> {
  const targets = await resolveAll({ hostname, port }, signal);
  for (const target of targets) refuseDenied(target, action);
  if (localAddress === undefined && localPort === undefined) return targets.map((to) => [to, undefined]);
  const pairs: [Resolved, Resolved][] = [];
  for (const to of targets) {
    const any = to.family === "IPv4" ? "0.0.0.0" : "::";
    const local = { hostname: localAddress ?? any, port: localPort ?? 0 };
    const bindAction = `connect TCP from ${formatAddress(local)}`;
    requireNet(local, bindAction);
    const from = (await resolveAll(local, signal)).find(({ family }) => family === to.family);
    if (from === undefined) continue;
    refuseDenied(from, bindAction);
    pairs.push([to, from]);
  }
  if (pairs.length === 0) {
    const detail = `localAddress ${localAddress} is not of the same family`;
    throw socketError(action, new SyscallError("bind", "EAFNOSUPPORT"), detail);
  }
  return pairs;
}

/**
 * Connects to the first address that answers. Attempts begin 250 ms after
 * each other, or as soon as the one before has failed.
 *
 * @param signal Ends all attempts.
 * @throws {SyscallError} If all have failed: what the first one met.
 */
export async function connectNative(options: NativeConnectOptions, signal: AbortSignal): Promise<NativeConn> {
  const action = `connect TCP to ${formatAddress(options)}`;
  requireNet(options, action);
  try {
    const pairs = await candidates(options, action, signal);
    signal.throwIfAborted();
    const [only] = pairs;
    return pairs.length === 1 && only !== undefined ? await attempt(...only, signal) : await race(pairs, signal);
  } catch (error) {
    throw error instanceof SyscallError ? socketError(action, error) : error;
  }
}

/** Resolves to the first success; the losers' sockets are closed. */
function race(pairs: [Resolved, Resolved | undefined][], signal: AbortSignal): Promise<NativeConn> {
  const losers = new AbortController();
  const over = AbortSignal.any([signal, losers.signal]);
  const { promise, resolve, reject } = Promise.withResolvers<NativeConn>();
  let next = 0;
  let pending = 0;
  let won = false;
  let firstFailure: unknown;
  let timer: ReturnType<typeof setTimeout> | undefined;

  async function begin(): Promise<void> {
    clearTimeout(timer);
    const pair = pairs[next++] as [Resolved, Resolved | undefined];
    pending++;
    if (next < pairs.length) timer = setTimeout(begin, ATTEMPT_DELAY);
    try {
      const conn = await attempt(...pair, over);
      if (won) return conn.close();
      won = true;
      losers.abort();
      resolve(conn);
    } catch (error) {
      firstFailure ??= error;
    } finally {
      pending--;
    }
    if (won || over.aborted) {
      clearTimeout(timer);
      if (!won && pending === 0) reject(firstFailure);
    } else if (next < pairs.length) begin();
    else if (pending === 0) reject(firstFailure);
  }
  begin();
  return promise;
}
