/** What upstream has said, for as long as it said that it holds. */

// @ts-types="@types/dns-packet"
import type { Answer, DecodedPacket } from "dns-packet";

/** An answer as it was when it came. */
export interface Entry {
  readonly flags: number;
  readonly answers: readonly Answer[];
  readonly authorities: readonly Answer[];
  readonly additionals: readonly Answer[];
  /** When it came, by `performance.now()`. */
  readonly since: number;
  /** How long it holds, in seconds; 0 for this once only. */
  readonly ttl: number;
}

/** Nothing is believed for longer, in seconds: a day, and three hours if it says that there is nothing (RFC 2308, 5). */
const LONGEST = 86_400;
const LONGEST_NOTHING = 10_800;
const [NOERROR, NXDOMAIN] = [0, 3];

/** Makes an entry of what upstream has said. */
export function entryOf(packet: DecodedPacket): Entry {
  const { flags = 0, questions = [] } = packet;
  const answers = recordsOf(packet.answers);
  const authorities = recordsOf(packet.authorities);
  const additionals = recordsOf(packet.additionals);
  const rcode = flags & 15;
  let ttl = 0;
  if (rcode === NOERROR || rcode === NXDOMAIN) {
    const type = questions[0]?.type;
    // An alias that leads nowhere says that there is nothing, too.
    const isNothing = rcode === NXDOMAIN || !answers.some((record) => record.type === type || String(type) === "ANY");
    const limit = isNothing ? limitNothing(authorities) : LONGEST;
    ttl = Math.min(limit, ...[...answers, ...authorities, ...additionals].map(ttlOf));
  }
  return { flags, answers, authorities, additionals, since: performance.now(), ttl };
}

/**
 * For how long there is nothing: what the zone's SOA record says, which is also
 * its own TTL from now on (RFC 2308, 3). Without one that must not be kept.
 */
function limitNothing(authorities: Answer[]): number {
  for (const record of authorities) {
    if (record.type !== "SOA") continue;
    record.ttl = Math.min(ttlOf(record), record.data.minimum ?? 0);
    return Math.min(record.ttl, LONGEST_NOTHING);
  }
  return 0;
}

/** OPT is about the packet, not about what was asked. */
function recordsOf(records: Answer[] = []): Answer[] {
  return records.filter((record) => record.type !== "OPT");
}

/** RFC 2181, 8: with the highest bit it is no time. */
function ttlOf(record: Answer): number {
  const ttl = record.type === "OPT" ? 0 : record.ttl ?? 0;
  return ttl > 0x7fffffff ? 0 : ttl;
}

/** Records whose time has gone on by `age` seconds. */
export function aged(records: readonly Answer[], age: number): Answer[] {
  return records.map((record) => record.type === "OPT" ? record : { ...record, ttl: Math.max(ttlOf(record) - age, 0) });
}

/** How old an entry is, in whole seconds. */
export function ageOf(entry: Entry): number {
  return Math.floor((performance.now() - entry.since) / 1000);
}

/** Entries by question; the one that was not asked for longest goes first. */
export class Cache {
  readonly #entries = new Map<string, Entry>();

  /** Room for so many entries. */
  constructor(readonly most: number) {}

  get size(): number {
    return this.#entries.size;
  }

  get(key: string): Entry | undefined {
    const entry = this.#entries.get(key);
    if (entry === undefined) return undefined;
    this.#entries.delete(key);
    if (ageOf(entry) >= entry.ttl) return undefined;
    // Last again, in the order in which a Map lists.
    this.#entries.set(key, entry);
    return entry;
  }

  add(key: string, entry: Entry): void {
    if (entry.ttl <= 0 || this.most <= 0) return;
    this.#entries.delete(key);
    for (const oldest of this.#entries.keys()) {
      if (this.#entries.size < this.most) break;
      this.#entries.delete(oldest);
    }
    this.#entries.set(key, entry);
  }
}
