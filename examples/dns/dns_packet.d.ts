// Declarations of what this example uses of dns-packet, which has none of its own. (Those of DefinitelyTyped bring
// @types/node and more: three packages, which everybody would download who starts an example.)

import type { Buffer } from "node:buffer";

export type RecordType =
  | ("A" | "AAAA" | "AXFR" | "CNAME" | "DS" | "HTTPS" | "IXFR" | "MX" | "NS" | "OPT")
  | ("PTR" | "RRSIG" | "SOA" | "SRV" | "SVCB" | "TXT");
export type RecordClass = "IN" | "CS" | "CH" | "HS" | "ANY";

export interface Question {
  name: string;
  type: RecordType;
  class?: RecordClass;
}

interface Ordinary<Type extends RecordType, Data> {
  name: string;
  type: Type;
  class?: RecordClass;
  /** Seconds. */
  ttl?: number;
  data: Data;
}

export interface SoaData {
  mname: string;
  rname: string;
  serial?: number;
  refresh?: number;
  retry?: number;
  expire?: number;
  minimum?: number;
}

/** EDNS (RFC 6891), which is about the packet. */
export interface OptAnswer {
  name: string;
  type: "OPT";
  udpPayloadSize: number;
  extendedRcode: number;
  ednsVersion: number;
  flags: number;
  /** DO: signatures are wanted. */
  flag_do: boolean;
  options: { code: number | string; data?: Buffer }[];
}

export type Answer =
  | Ordinary<"A" | "AAAA" | "CNAME" | "NS" | "PTR", string>
  | Ordinary<"MX", { preference?: number; exchange: string }>
  | Ordinary<"SOA", SoaData>
  | Ordinary<"TXT", string | Buffer | (string | Buffer)[]>
  | Ordinary<Exclude<RecordType, "A" | "AAAA" | "CNAME" | "NS" | "PTR" | "MX" | "SOA" | "TXT" | "OPT">, unknown>
  | OptAnswer;

export interface Packet {
  type?: "query" | "response";
  id?: number | undefined;
  /** The header's second 16 bits, as far as they are flags and the rcode. */
  flags?: number;
  questions?: Question[] | undefined;
  answers?: Answer[];
  authorities?: Answer[];
  additionals?: Answer[];
}

export interface DecodedPacket extends Packet {
  /** It is a response. */
  flag_qr: boolean;
  /** It was cut. */
  flag_tc: boolean;
}

declare const dns: {
  readonly RECURSION_DESIRED: number;
  readonly RECURSION_AVAILABLE: number;
  readonly CHECKING_DISABLED: number;
  readonly AUTHENTIC_DATA: number;
  readonly TRUNCATED_RESPONSE: number;
  readonly DNSSEC_OK: number;
  encode(packet: Packet): Buffer;
  /** Throws if the bytes are no packet. */
  decode(bytes: Buffer): DecodedPacket;
};
export default dns;
