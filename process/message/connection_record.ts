/**
 * A connection on its way to another thread or process: what is known of it
 * goes along, so that its new owner need not ask the kernel.
 *
 *     0 descriptor u32 | 4 length of the local address u8 | 5 of the peer's u8 | 8 local address | 36 the peer's
 *
 * In a record between processes the descriptor means nothing: it goes beside it.
 */

import { compactAddress, SOCKADDR_SIZE } from "../../internal/sockaddr.ts";
import { NativeConn } from "../../tcp/native_conn.ts";
import { driverOf, TcpConn } from "../../tcp/tcp_conn.ts";
import type { Carried } from "./socket_transfer.ts";

const LOCAL_LENGTH = 4;
const PEER_LENGTH = 5;
const LOCAL = 8;
const PEER = LOCAL + SOCKADDR_SIZE;

/** Size of a record, in bytes. */
export const RECORD_SIZE = PEER + SOCKADDR_SIZE;

/**
 * Writes the record of a connection of the native engine.
 *
 * @returns Whether there is one: not if it is of another kind, or closed, or its addresses cannot be told.
 */
export function writeRecord(into: Uint8Array<ArrayBuffer>, at: number, socket: Carried): boolean {
  const conn = socket instanceof TcpConn ? driverOf(socket) : undefined;
  const fd = conn?.fd;
  const sockaddrs = conn instanceof NativeConn && fd !== undefined ? conn.sockaddrs : undefined;
  if (conn === undefined || fd === undefined || sockaddrs === undefined) return false;
  conn.checkMove();
  const [local, peer] = sockaddrs;
  new DataView(into.buffer, into.byteOffset).setUint32(at, fd, true);
  into[at + LOCAL_LENGTH] = local.length;
  into[at + PEER_LENGTH] = peer.length;
  into.set(local, at + LOCAL);
  into.set(peer, at + PEER);
  return true;
}

/** The descriptor in a record. */
export function descriptorIn(from: Uint8Array<ArrayBuffer>, at: number): number {
  return new DataView(from.buffer, from.byteOffset).getUint32(at, true);
}

/** Makes the connection that a record tells of; takes over `fd`. */
export function readRecord(from: Uint8Array<ArrayBuffer>, at: number, fd: number): NativeConn {
  const local = compactAddress(from.subarray(at + LOCAL), from[at + LOCAL_LENGTH] as number);
  const peer = compactAddress(from.subarray(at + PEER), from[at + PEER_LENGTH] as number);
  return new NativeConn(fd, local, peer);
}
