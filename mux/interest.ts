/** What a program wants to be told of, and what it is told. */

import { atCaller } from "../internal/stack.ts";
import { checkBoolean, checkOptions, quote } from "../internal/validate.ts";
import type { Readiness } from "../poll/readiness.ts";
import { InterestBit, MAY_READ, MAY_WRITE, ReadyBit } from "../poll/selector.ts";

/**
 * What to be told of; with none of the first three only of errors and hang-ups.
 *
 * @example Once, when there is room to write
 * ```ts
 * import { type Interest, Multiplexer } from "@c10k/sockets/mux";
 * import { TcpConn, TcpListener } from "@c10k/sockets/tcp";
 *
 * using listener = TcpListener.bind({ hostname: "127.0.0.1", port: 0 });
 * using client = await TcpConn.connect({ port: listener.addr.port });
 * using server = await listener.accept();
 *
 * using mux = new Multiplexer();
 * const interest: Interest = { writable: true, oneshot: true };
 * mux.register(client, interest);
 * for (const { writable } of await mux.wait()) console.log(writable); // true
 * ```
 */
export interface Interest {
  /**
   * When a read, accept or receive would not block: data, a connection, the
   * peer's end-of-file, or an error to fetch.
   *
   * @default {false}
   */
  readonly readable?: boolean;
  /**
   * When a write would not block. Ask for it only while there is something to
   * write: a socket is writable nearly always.
   *
   * @default {false}
   */
  readonly writable?: boolean;
  /**
   * When there is out-of-band data: `POLLPRI`, or select's exceptional set.
   *
   * @default {false}
   */
  readonly priority?: boolean;
  /**
   * `"level"`: as long as it is so. `"edge"`: once for each arrival, so read
   * until it would block. Edge on epoll only.
   *
   * @default {"level"}
   */
  readonly trigger?: "level" | "edge";
  /**
   * Once, and then nothing until {@linkcode Multiplexer.modify}.
   *
   * @default {false}
   */
  readonly oneshot?: boolean;
  /**
   * When several multiplexers wait for the same descriptor, wake one of them
   * (at least) instead of all: `EPOLLEXCLUSIVE`. Epoll only, and neither with
   * `priority` nor with `oneshot`; `readClosed` is not told then.
   *
   * @default {false}
   */
  readonly exclusive?: boolean;
}

/**
 * That something has happened to a source.
 *
 * @example Serve what is ready
 * ```ts
 * import { Multiplexer, type ReadyEvent } from "@c10k/sockets/mux";
 * import { TcpConn, TcpListener } from "@c10k/sockets/tcp";
 *
 * using listener = TcpListener.bind({ hostname: "127.0.0.1", port: 0 });
 * using client = await TcpConn.connect({ port: listener.addr.port });
 * using server = await listener.accept();
 *
 * function serve({ data, readable, readClosed }: ReadyEvent<string>): void {
 *   console.log(data, readable, readClosed); // server true false
 * }
 *
 * using mux = new Multiplexer<string>();
 * mux.register(server, { readable: true }, "server");
 * await client.writeAll(new TextEncoder().encode("hello"));
 * for (const event of await mux.wait()) serve(event);
 * ```
 */
export interface ReadyEvent<T = unknown> extends Readiness {
  /** What was registered. */
  readonly source: Source;
  /** What was registered with it. */
  readonly data: T;
  /** There is out-of-band data. */
  readonly priority: boolean;
}

/**
 * What can be registered: a socket of this library, or anything with a
 * descriptor (a pipe, a terminal, an eventfd, a pidfd). `undefined` is the
 * descriptor of sockets that are closed, or of the runtime engine.
 *
 * @example Standard input beside sockets
 * ```ts
 * import { Multiplexer, type Source } from "@c10k/sockets/mux";
 *
 * const stdin: Source = { fd: 0 };
 * using mux = new Multiplexer({ backend: "poll" });
 * mux.register(stdin, { readable: true });
 * mux.unregister(stdin);
 * ```
 */
export interface Source {
  /** The descriptor. */
  readonly fd: number | undefined;
}

/** Returns an interest of which each part was read once: an object of the caller's can say something else later. */
export function copyOfInterest(interest: Interest): Interest {
  checkOptions(interest, "interest");
  const { readable, writable, priority, trigger, oneshot, exclusive } = interest;
  return Object.freeze({
    ...(readable === undefined ? {} : { readable }),
    ...(writable === undefined ? {} : { writable }),
    ...(priority === undefined ? {} : { priority }),
    ...(trigger === undefined ? {} : { trigger }),
    ...(oneshot === undefined ? {} : { oneshot }),
    ...(exclusive === undefined ? {} : { exclusive }),
  });
}

/** The bits of an interest, once it is checked. */
export function interestBits(interest: Interest): number {
  checkOptions(interest, "interest");
  const { trigger } = interest;
  let bits = 0;
  if (checkBoolean(interest.readable ?? false, "readable")) bits |= InterestBit.READABLE;
  if (checkBoolean(interest.writable ?? false, "writable")) bits |= InterestBit.WRITABLE;
  if (checkBoolean(interest.priority ?? false, "priority")) bits |= InterestBit.PRIORITY;
  if (checkBoolean(interest.oneshot ?? false, "oneshot")) bits |= InterestBit.ONESHOT;
  if (checkBoolean(interest.exclusive ?? false, "exclusive")) bits |= InterestBit.EXCLUSIVE;
  if (trigger === "edge") bits |= InterestBit.EDGE;
  else if (trigger !== undefined && trigger !== "level") {
    throw atCaller(new TypeError(`trigger must be "level" or "edge", received ${quote(trigger)}`));
  }
  // epoll_ctl(2) refuses these with EINVAL.
  if (bits & InterestBit.EXCLUSIVE && bits & (InterestBit.PRIORITY | InterestBit.ONESHOT)) {
    throw atCaller(new TypeError("exclusive goes neither with priority nor with oneshot"));
  }
  return bits;
}

/** What a backend may lack, as an error calls it. */
const NAMES: readonly [bit: number, name: string][] = [
  [InterestBit.PRIORITY, "priority"],
  [InterestBit.EDGE, 'trigger "edge"'],
  [InterestBit.ONESHOT, "oneshot"],
  [InterestBit.EXCLUSIVE, "exclusive"],
];

/** The names of what is asked for and not supported. */
export function lacking(bits: number, supports: number): string[] {
  return NAMES.filter(([bit]) => bits & bit & ~supports).map(([, name]) => name);
}

/** An event of a registration. */
export class ReadyRecord<T> implements ReadyEvent<T> {
  readable = false;
  writable = false;
  priority = false;
  readClosed = false;
  writeClosed = false;
  error = false;

  constructor(readonly source: Source, public data: T) {}

  /** Writes what a backend found, as far as it is asked for; returns whether that is anything. */
  write(ready: number, interest: number): boolean {
    const error = (ready & ReadyBit.ERROR) !== 0;
    this.error = error;
    const readClosed = this.readClosed = (ready & ReadyBit.READ_CLOSED) !== 0;
    const writeClosed = this.writeClosed = (ready & ReadyBit.WRITE_CLOSED) !== 0;
    this.readable = (interest & InterestBit.READABLE) !== 0 && (ready & MAY_READ) !== 0;
    this.writable = (interest & InterestBit.WRITABLE) !== 0 && (ready & MAY_WRITE) !== 0;
    this.priority = (interest & InterestBit.PRIORITY) !== 0 && (ready & ReadyBit.PRIORITY) !== 0;
    return this.readable || this.writable || error || readClosed || writeClosed || this.priority;
  }

  /** Takes back what is not asked for any more; the program may have the event before it still. */
  mask(interest: number): void {
    if ((interest & InterestBit.READABLE) === 0) this.readable = false;
    if ((interest & InterestBit.WRITABLE) === 0) this.writable = false;
    if ((interest & InterestBit.PRIORITY) === 0) this.priority = false;
  }

  /** Takes everything back. */
  clear(): void {
    this.mask(0);
    this.readClosed = this.writeClosed = this.error = false;
  }
}
