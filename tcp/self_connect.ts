/**
 * Connections of a socket with itself. Who connects to a local port in the
 * ephemeral range at which nobody listens can be given this very port as its
 * own; then the SYN meets its own socket, and both sides have opened at the
 * same time (RFC 9293, section 3.5). It is the end of a loop that waits for a
 * server to come back: the loop reads its own words, and the server finds its
 * port taken. To the caller it is what it would have been with any other port:
 * nobody listens.
 */

import { hostKind, type HostPort } from "../internal/address.ts";
import { SyscallError } from "../internal/errors.ts";
import { connectRuntime } from "./runtime_connect.ts";

/** Returns whether the two ends of a connection are one socket. */
export function isSelf(local: HostPort, remote: HostPort): boolean {
  return local.port === remote.port && local.hostname === remote.hostname;
}

/** Returns the error for a socket that found nobody but itself. */
export function selfConnectError(): SyscallError {
  return new SyscallError("connect", "ECONNREFUSED");
}

/** Addresses of a name that are tried, once one has led to the caller itself. */
const MOST_ADDRESSES = 8;

/**
 * Connects on Deno's own operation, but never to the socket itself.
 *
 * @throws {SyscallError} If only the socket itself answered.
 */
export async function connectToOther(to: HostPort, signal: AbortSignal): Promise<Deno.TcpConn> {
  const selves: Deno.TcpConn[] = [];
  try {
    while (selves.length < MOST_ADDRESSES && !signal.aborted) {
      const conn = await connectRuntime(to, signal);
      if (!isSelf(conn.localAddr, conn.remoteAddr)) return conn;
      selves.push(conn);
      // Of a name the next address is to be tried. As long as this connection is open, the one before refuses.
      if (hostKind(to.hostname) !== "name") break;
    }
  } catch (error) {
    if (selves.length === 0 || signal.aborted) throw error;
  } finally {
    await Promise.all(selves.map(reset));
  }
  throw selfConnectError();
}

/** More than any receive window at the start of a connection, in bytes. */
const FILL = 4 * 1024 * 1024;

/**
 * Closes a connection of a socket with itself by RST. The end of a connection
 * waits in TIME_WAIT otherwise, and for a minute the server could not have its
 * port. The runtime has no option for that, but the kernel sends RST for a
 * socket that is closed with unread bytes. Deno sends FIN first, which would
 * end the connection: it has to wait behind bytes for which there is no room.
 */
async function reset(conn: Deno.TcpConn): Promise<void> {
  try {
    await conn.write(new Uint8Array(FILL));
  } catch { /* it is gone already */ }
  conn.close();
}
