/** Binding and listening on the native engine: bind(2), listen(2). */

import { formatAddress, type HostPort } from "../internal/address.ts";
import { Descriptor } from "../internal/descriptor.ts";
import { socketError, SyscallError } from "../internal/errors.ts";
import { refuseDenied, requireNet } from "../internal/permissions.ts";
import { type Resolved, resolveSync } from "../internal/resolve.ts";
import { setSocketOption } from "../internal/socket.ts";
import type { SocketOption } from "../internal/socket_option.ts";
import { syscall } from "../internal/syscall.ts";
import { openTcp } from "./native_connect.ts";
import { NativeListener } from "./native_listener.ts";

/** Where and how to listen; checked. */
export interface NativeBindOptions extends HostPort {
  backlog: number;
  /** Set before bind, in this order. */
  options: (readonly [SocketOption, number])[];
  onAcceptError: ((error: Error) => void) | undefined;
}

/**
 * Asks for the permission to bind to an address, and resolves it.
 *
 * @throws {SyscallError} If it does not resolve.
 */
export function permittedLocal(address: HostPort, action: string): Resolved {
  requireNet(address, action);
  const resolved = resolveSync(address);
  refuseDenied(resolved, action);
  return resolved;
}

/** Opens a listening socket. */
export function bindNative({ hostname, port, backlog, options, onAcceptError }: NativeBindOptions): NativeListener {
  const action = `bind TCP listener to ${formatAddress({ hostname, port })}`;
  try {
    const local = permittedLocal({ hostname, port }, action);
    const socket = new Descriptor(openTcp(local.family));
    const { fd } = socket;
    try {
      for (const [option, value] of options) {
        if (option === "IPV6_V6ONLY" && local.family === "IPv4") continue;
        setSocketOption(fd, option, value);
      }
      syscall("bind", fd, local.sockaddr, local.sockaddr.length);
      syscall("listen", fd, backlog);
      return socket.passTo(() => new NativeListener(fd, onAcceptError));
    } finally {
      socket.close();
    }
  } catch (error) {
    throw error instanceof SyscallError ? socketError(action, error) : error;
  }
}
