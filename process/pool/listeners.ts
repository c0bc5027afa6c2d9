/** The listening sockets of a pool: its own, and those taken over from another program. */

import { F_DUPFD_CLOEXEC } from "../../internal/constants.ts";
import { formatIPv6, hostKind, parseIPv6 } from "../../internal/address.ts";
import { Descriptor } from "../../internal/descriptor.ts";
import { syscall } from "../../internal/syscall.ts";
import { checkHostname } from "../../internal/validate.ts";
import { TcpListener, type TcpListenOptions } from "../../tcp/tcp_listener.ts";
import type { PoolSettings } from "./options.ts";

/**
 * Listens: with what was taken over where it has the address that is asked for, and with as many more sockets as are
 * needed. All listeners that are given belong to the pool, also if this throws.
 */
export function listen(settings: PoolSettings, taken: readonly TcpListener[]): TcpListener[] {
  const { balance, size, listener: given } = settings;
  const listeners: TcpListener[] = [];
  for (const listener of taken) {
    if (isAskedFor(listener.addr, settings)) listeners.push(listener);
    else listener.close();
  }
  try {
    if (listeners.length > 0) given?.close();
    else listeners.push(given ?? bind(settings.listen as TcpListenOptions, balance === "reuseport"));
    const [first] = listeners;
    while (balance === "reuseport" && listeners.length < size && first !== undefined) {
      const { hostname, port } = first.addr;
      listeners.push(bind({ ...settings.listen, hostname, port }, true));
    }
  } catch (error) {
    for (const listener of listeners) listener.close();
    throw error;
  }
  return listeners;
}

/** A name is whatever the other program has made of it, and port 0 any. */
function isAskedFor(addr: Deno.NetAddr, { listener, listen }: PoolSettings): boolean {
  const { hostname = "0.0.0.0", port = 0 } = listener?.addr ?? listen ?? {};
  const asked = checkHostname(hostname);
  return (port === 0 || port === addr.port) &&
    (hostKind(asked) === "name" || canonical(asked) === canonical(addr.hostname));
}

/** An IPv6 address has many spellings. */
function canonical(hostname: string): string {
  const bytes = parseIPv6(hostname);
  return bytes === undefined ? hostname : formatIPv6(bytes);
}

function bind(options: TcpListenOptions, reusePort: boolean): TcpListener {
  return TcpListener.bind({ ...options, ...(reusePort ? { reusePort } : {}) });
}

/** The same listening sockets by other descriptors, for one who gets copies. */
export function duplicate(listeners: readonly TcpListener[]): TcpListener[] {
  const copies: TcpListener[] = [];
  try {
    for (const { fd = -1 } of listeners) {
      const copy = new Descriptor(syscall("fcntl", fd, F_DUPFD_CLOEXEC, 0));
      try {
        copies.push(copy.passTo((fd) => TcpListener.fromFd(fd)));
      } finally {
        copy.close();
      }
    }
  } catch (error) {
    for (const copy of copies) copy.close();
    throw error;
  }
  return copies;
}
