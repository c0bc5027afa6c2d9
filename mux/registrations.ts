/** The sources that a multiplexer watches: by number and generation, so that no event reaches another source. */

import { linkOf } from "../internal/socket.ts";
import type { NativePollable, Pollable, RuntimePollable } from "../poll/pollable.ts";
import { InterestBit } from "../poll/selector.ts";
import { type Interest, ReadyRecord, type Source } from "./interest.ts";

/** What a source is: a socket of an engine, or a plain descriptor. */
export type Identity =
  | { readonly kind: "native"; readonly pollable: NativePollable; readonly fd: number; readonly name: string }
  | { readonly kind: "runtime"; readonly pollable: RuntimePollable; readonly name: string }
  | { readonly kind: "descriptor"; readonly fd: number; readonly name: string };

/** A source that is watched. */
export interface Registration<T> {
  /** Its descriptor; on the runtime backend a number that stands for the source. */
  readonly number: number;
  readonly source: Source;
  readonly identity: Identity;
  /** Its last event. */
  record: ReadyRecord<T>;
  /** For a plain descriptor what /proc called it: the kernel can give its number to another file. */
  readonly link: string | undefined;
  interest: Interest;
  /** A oneshot whose event was reported. */
  isDisarmed: boolean;
  /** Stops being notified by the socket. */
  stop: () => void;
}

/** Returns the socket of an identity; `undefined` for a plain descriptor. */
export function pollableOfIdentity(identity: Identity): Pollable | undefined {
  return identity.kind === "descriptor" ? undefined : identity.pollable;
}

/** What /proc says that a descriptor is. */
export function descriptorLink(fd: number): string {
  try {
    return linkOf(fd);
  } catch {
    return ""; // it is not open, which the backend says better
  }
}

/** The registrations of one multiplexer. */
export class Registrations<T> {
  // An event needs these three alone, by the number of the registration: with many sources the amount of memory that is
  // read decides how fast that is.
  readonly #generations: number[] = [];
  readonly #bits: number[] = [];
  readonly #records: (ReadyRecord<T> | undefined)[] = [];
  /** By number; most are descriptors. */
  readonly #registrations: (Registration<T> | undefined)[] = [];
  readonly #pollables = new Map<Pollable, Registration<T>>();
  /** Each registration has one event, which is written anew. */
  readonly reusesEvents: boolean;
  /** Numbers of the runtime backend that are free again. */
  readonly #free: number[] = [];
  #generation = 0;
  #size = 0;

  constructor(reusesEvents: boolean) {
    this.reusesEvents = reusesEvents;
  }

  get size(): number {
    return this.#size;
  }

  /** A generation that no registration has, from 1 to 2^30 - 1. */
  nextGeneration(): number {
    return this.#generation = (this.#generation + 1) & 0x3fffffff || 1;
  }

  /** The number for a new registration; sockets of the runtime engine get one from 1 on. */
  numberFor(identity: Identity): number {
    if (identity.kind !== "runtime") return identity.fd;
    return this.#free.pop() ?? Math.max(this.#registrations.length, 1);
  }

  /** Gives back a number that was not used. */
  giveBack(number: number, { kind }: Identity): void {
    if (kind === "runtime") this.#free.push(number);
  }

  /** The registration that has a number. */
  at(number: number): Registration<T> | undefined {
    return this.#registrations[number];
  }

  /** The registration of a socket. */
  of(pollable: Pollable): Registration<T> | undefined {
    return this.#pollables.get(pollable);
  }

  add(registration: Registration<T>, generation: number, bits: number): void {
    const { number, identity, record } = registration;
    this.#size++;
    this.#registrations[number] = registration;
    this.#generations[number] = generation;
    this.#bits[number] = bits;
    this.#records[number] = record;
    const pollable = pollableOfIdentity(identity);
    if (pollable !== undefined) this.#pollables.set(pollable, registration);
  }

  remove(registration: Registration<T>): void {
    const { number, identity } = registration;
    registration.stop();
    registration.record.clear();
    this.#registrations[number] = undefined;
    this.#generations[number] = 0;
    this.#records[number] = undefined;
    const pollable = pollableOfIdentity(identity);
    if (pollable !== undefined) this.#pollables.delete(pollable);
    this.giveBack(number, identity);
    this.#size--;
  }

  clear(): void {
    for (const registration of this.#registrations) {
      registration?.stop();
      registration?.record.clear();
    }
    this.#registrations.length = this.#generations.length = this.#records.length = 0;
    this.#pollables.clear();
    this.#size = 0;
  }

  generationAt(number: number): number {
    return this.#generations[number] as number;
  }

  /** The bits of the interest. */
  bitsAt(number: number): number {
    return this.#bits[number] as number;
  }

  setBits(number: number, bits: number): void {
    this.#bits[number] = bits;
  }

  /** Writes an event; `undefined` if it is another generation's, or of no interest. */
  write(number: number, generation: number, ready: number): ReadyRecord<T> | undefined {
    // Closed after the kernel has reported the event, and perhaps opened anew.
    if (this.#generations[number] !== generation) return undefined;
    const bits = this.#bits[number] as number;
    let record = this.#records[number] as ReadyRecord<T>;
    if (!this.reusesEvents) record = new ReadyRecord(record.source, record.data);
    if (!record.write(ready, bits)) return undefined;
    if (!this.reusesEvents) this.#records[number] = (this.#registrations[number] as Registration<T>).record = record;
    if (bits & InterestBit.ONESHOT) (this.#registrations[number] as Registration<T>).isDisarmed = true;
    return record;
  }

  *[Symbol.iterator](): IterableIterator<Registration<T>> {
    for (const registration of [...this.#registrations]) if (registration !== undefined) yield registration;
  }
}
