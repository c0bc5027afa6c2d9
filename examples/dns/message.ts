/** Packets of DNS, and how TCP carries them: behind their length (RFC 1035, 4.2.2). */

import type { TcpConn, WaitOptions } from "@c10k/sockets/tcp";
// @ts-types="@types/dns-packet"
import dns, { type DecodedPacket, type OptAnswer, type Packet, type Question } from "dns-packet";
import { Buffer } from "node:buffer";

/** Largest packet in a datagram that passes everywhere without being cut into fragments. */
export const LARGEST_DATAGRAM = 1232;

/** A packet, `undefined` if it is none. */
export function parse(bytes: Uint8Array): DecodedPacket | undefined {
  try {
    return dns.decode(Buffer.from(bytes));
  } catch {
    return undefined;
  }
}

/** What a packet says about itself (EDNS, RFC 6891). */
export function optOf({ additionals = [] }: Packet): OptAnswer | undefined {
  return additionals.find((record): record is OptAnswer => record.type === "OPT");
}

/** Tells of what this side can take, and whether signatures are wanted. */
export function makeOpt(isSecure: boolean, extendedRcode = 0): OptAnswer {
  return {
    name: ".",
    type: "OPT",
    udpPayloadSize: LARGEST_DATAGRAM,
    extendedRcode,
    ednsVersion: 0,
    flags: isSecure ? dns.DNSSEC_OK : 0,
    flag_do: isSecure,
    options: [],
  };
}

/** Whether two questions are the same, in whatever case they are written. */
export function isSame(a: Question | undefined, b: Question): boolean {
  return a !== undefined && a.type === b.type && a.class === b.class && a.name.toLowerCase() === b.name.toLowerCase();
}

/** Reads a packet from a connection; `undefined` if there is no more. */
export async function readMessage(conn: TcpConn, options: WaitOptions): Promise<Uint8Array | undefined> {
  const head = new Uint8Array(2);
  if (await conn.readFull(head, options) === null) return undefined;
  const message = new Uint8Array((head[0] as number) << 8 | head[1] as number);
  return await conn.readFull(message, options) === null ? undefined : message;
}

/** Writes a packet to a connection. */
export function writeMessage(conn: TcpConn, bytes: Uint8Array, options: WaitOptions): Promise<void> {
  const message = new Uint8Array(2 + bytes.length);
  message.set([bytes.length >> 8, bytes.length & 0xff]);
  message.set(bytes, 2);
  return conn.writeAll(message, options);
}
