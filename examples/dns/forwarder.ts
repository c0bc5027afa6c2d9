/** From a query to its reply: from the cache, or from upstream. */

// @ts-types="@types/dns-packet"
import dns, { type DecodedPacket, type OptAnswer, type Packet, type Question } from "dns-packet";
import { aged, ageOf, type Cache, type Entry, entryOf } from "./cache.ts";
import { LARGEST_DATAGRAM, makeOpt, optOf, parse } from "./message.ts";
import type { Upstream } from "./upstream.ts";

const HEADER = 12;
const SMALLEST_DATAGRAM = 512;
const LARGEST_MESSAGE = 65_535;
/** Questions that may be under way; beyond, clients get SERVFAIL. */
const MOST_PENDING = 500;
const [FORMERR, SERVFAIL, NOTIMP, BADVERS] = [1, 2, 4, 16];
/** What a client says that upstream should know. */
const ASKED = dns.RECURSION_DESIRED | dns.CHECKING_DISABLED | dns.AUTHENTIC_DATA;

/** Answers queries. */
export class Forwarder {
  readonly #upstream: Upstream;
  readonly #cache: Cache;
  readonly #report: (error: unknown) => void;
  /** Who asks what is being asked already waits for the same answer. */
  readonly #pending = new Map<string, Promise<Entry>>();

  /** `report` is told why upstream gives no answer. */
  constructor(upstream: Upstream, cache: Cache, report: (error: unknown) => void) {
    this.#upstream = upstream;
    this.#cache = cache;
    this.#report = report;
  }

  /** The reply to what a client has sent, `undefined` if it gets none. */
  async reply(bytes: Uint8Array, transport: "udp" | "tcp"): Promise<Uint8Array | undefined> {
    // Never a reply to a reply: two servers would go on for ever.
    if (bytes.length < HEADER || (bytes[2] as number) & 0x80) return undefined;
    const query = parse(bytes);
    const [question, ...others] = query?.questions ?? [];
    if (query === undefined || question === undefined || others.length > 0 || !isPlain(question, bytes)) {
      return refuse(bytes, FORMERR);
    }
    if (((query.flags ?? 0) >> 11 & 15) !== 0 || question.type === "AXFR" || question.type === "IXFR") {
      return refuse(bytes, NOTIMP);
    }
    const opt = optOf(query);
    if (opt !== undefined && opt.ednsVersion > 0) return encode(query, transport, BADVERS);
    try {
      const entry = await this.#find(question, (query.flags ?? 0) & ASKED, opt?.flag_do ?? false);
      const age = ageOf(entry);
      return encode(query, transport, entry.flags & 15, {
        flags: entry.flags & dns.AUTHENTIC_DATA,
        answers: aged(entry.answers, age),
        authorities: aged(entry.authorities, age),
        additionals: aged(entry.additionals, age),
      });
    } catch (error) {
      this.#report(error);
      return encode(query, transport, SERVFAIL);
    }
  }

  #find(question: Question, flags: number, isSecure: boolean): Promise<Entry> | Entry {
    const key = `${question.name.toLowerCase()} ${question.class} ${question.type} ${flags} ${isSecure}`;
    const known = this.#cache.get(key) ?? this.#pending.get(key);
    if (known !== undefined) return known;
    if (this.#pending.size >= MOST_PENDING) throw new Error("Too many questions are under way");
    const asking = this.#upstream.ask(question, flags, isSecure).then((packet) => {
      const entry = entryOf(packet);
      this.#cache.add(key, entry);
      return entry;
    }).finally(() => this.#pending.delete(key));
    this.#pending.set(key, asking);
    return asking;
  }
}

/** Whether a name survives being text: there may be dots and bytes of any kind in its parts. */
function isPlain(question: Question, bytes: Uint8Array): boolean {
  const packet = dns.encode({ questions: [question] });
  return packet.subarray(HEADER).equals(bytes.subarray(HEADER, packet.length));
}

/** A reply that says nothing but what is wrong. */
function refuse(bytes: Uint8Array, rcode: number): Uint8Array {
  const reply = new Uint8Array(HEADER);
  reply.set(bytes.subarray(0, 3)); // the id, the opcode and RD
  reply[2] = (reply[2] as number) & 0x79 | 0x80;
  reply[3] = rcode;
  return reply;
}

/** Addresses a reply to a client, in as many bytes as it takes. */
function encode(query: DecodedPacket, transport: "udp" | "tcp", rcode: number, records: Packet = {}): Uint8Array {
  const opt = optOf(query);
  // An rcode has four bits in the header; the others are in OPT.
  const own: OptAnswer[] = opt === undefined ? [] : [makeOpt(opt.flag_do, rcode >> 4)];
  const head = {
    type: "response",
    id: query.id,
    questions: query.questions,
    flags: rcode & 15 | (records.flags ?? 0) | dns.RECURSION_AVAILABLE |
      (query.flags ?? 0) & (dns.RECURSION_DESIRED | dns.CHECKING_DISABLED),
  } as const;
  const bytes = dns.encode({ ...records, ...head, additionals: [...records.additionals ?? [], ...own] });
  const room = Math.min(Math.max(opt?.udpPayloadSize ?? 0, SMALLEST_DATAGRAM), LARGEST_DATAGRAM);
  if (bytes.length <= (transport === "tcp" ? LARGEST_MESSAGE : room)) return bytes;
  // Half an answer would be taken for a whole one by some; with none the client asks again by TCP.
  return dns.encode({ ...head, flags: head.flags | dns.TRUNCATED_RESPONSE, additionals: own });
}
