/** What `ready()` tells of a socket, on both engines. */

import { setImmediate } from "node:timers";
import { atCaller } from "../internal/stack.ts";
import { checkBoolean, checkOptions, quote } from "../internal/validate.ts";
import { type Wait, waitFor, waitForAll } from "../internal/wait.ts";
import { InterestBit, MAY_READ, MAY_WRITE, ReadyBit } from "./selector.ts";

/**
 * What a socket is ready for. A hint: the call may still find that it would block.
 *
 * @example Read what is there, and hold no buffer until then
 * ```ts
 * import { type Readiness, TcpConn, TcpListener } from "@c10k/sockets/tcp";
 * import { assertEquals } from "@std/assert";
 *
 * using listener = TcpListener.bind({ hostname: "127.0.0.1", port: 0 });
 * using client = await TcpConn.connect({ port: listener.addr.port });
 * using server = await listener.accept();
 *
 * await client.writeAll(new TextEncoder().encode("hello"));
 * const { readable, error }: Readiness = await server.ready({ readable: true });
 * assertEquals([readable, error, server.tryRead(new Uint8Array(100))], [true, false, 5]);
 * ```
 */
export interface Readiness {
  /** A read, an accept or a receive would not block. Only if it was asked for. */
  readonly readable: boolean;
  /** A write would not block. Only if it was asked for. */
  readonly writable: boolean;
  /** The peer has finished, or this side has shut down reading; there may be bytes before the end. */
  readonly readClosed: boolean;
  /** The connection is down on both sides. */
  readonly writeClosed: boolean;
  /** There is an error, which the next read or write throws. */
  readonly error: boolean;
}

/**
 * What to wait for with `ready()`.
 *
 * @example Room to write
 * ```ts
 * import { type ReadyInterest, TcpConn, TcpListener } from "@c10k/sockets/tcp";
 *
 * using listener = TcpListener.bind({ hostname: "127.0.0.1", port: 0 });
 * using client = await TcpConn.connect({ port: listener.addr.port });
 * const interest: ReadyInterest = { writable: true };
 * if ((await client.ready(interest)).writable) client.tryWrite(new Uint8Array(3));
 * ```
 */
export interface ReadyInterest {
  /**
   * When a read, an accept or a receive would not block: data, a connection, end-of-file, or an error to fetch.
   *
   * @default {false}
   */
  readonly readable?: boolean;
  /**
   * When a write would not block.
   *
   * @default {false}
   */
  readonly writable?: boolean;
}

/** Checks what to wait for, of what there is at all; returns bits of `InterestBit`. */
export function checkInterest(interest: ReadyInterest, mayWrite = true): number {
  checkOptions(interest, "interest");
  const { readable = false, writable = false } = interest;
  const reads = checkBoolean(readable, "readable");
  const writes = checkBoolean(writable, "writable");
  if (writes && !mayWrite) throw atCaller(new TypeError("interest must not have writable: a listener never is"));
  if (!reads && !writes) {
    const names = mayWrite ? "readable, writable or both" : "readable";
    throw atCaller(new TypeError(`interest must have ${names}, received ${quote(interest)}`));
  }
  return (reads ? InterestBit.READABLE : 0) | (writes ? InterestBit.WRITABLE : 0);
}

/** What bits of `ReadyBit` tell, as far as it is asked for. */
export function readinessOf(ready: number, interest: number): Readiness {
  return {
    readable: (interest & InterestBit.READABLE) !== 0 && (ready & MAY_READ) !== 0,
    writable: (interest & InterestBit.WRITABLE) !== 0 && (ready & MAY_WRITE) !== 0,
    readClosed: (ready & ReadyBit.READ_CLOSED) !== 0,
    writeClosed: (ready & ReadyBit.WRITE_CLOSED) !== 0,
    error: (ready & ReadyBit.ERROR) !== 0,
  };
}

/** Answers at once of the runtime engine between two turns of the event loop. */
const MOST_AT_ONCE = 64;
let answers = 0;

/** Returns what is ready at once on the runtime engine, which finds nothing new before the event loop has its turn. */
export async function readyAtOnce(readiness: Readiness): Promise<Readiness> {
  if (++answers % MOST_AT_ONCE === 0) await new Promise((resolve) => setImmediate(resolve));
  return readiness;
}

/** A side of a socket that can be waited for. */
export interface ReadySide {
  /** A call would find something now, and no other waits for it. */
  readonly isKnownReady: boolean;
  /** Resolves as soon as that is so, in its turn among the calls that wait. */
  ready(wait: Wait | undefined): Promise<Readiness>;
}

/** Waits until one of the sides that are asked for is ready. */
export function whenReady(
  receiving: ReadySide,
  sending: ReadySide,
  interest: number,
  wait: Wait | undefined,
  action: () => string,
): Promise<Readiness> {
  if (interest === InterestBit.READABLE) return receiving.ready(wait);
  if (interest === InterestBit.WRITABLE) return sending.ready(wait);
  if (receiving.isKnownReady || sending.isKnownReady) return readyNow(receiving, sending, wait);
  return waitForAll(wait, action, (signal) => whenEither(receiving, sending, signal));
}

async function readyNow(receiving: ReadySide, sending: ReadySide, wait: Wait | undefined): Promise<Readiness> {
  const first = await (receiving.isKnownReady ? receiving : sending).ready(wait);
  return withBoth(first, receiving, sending);
}

function withBoth(first: Readiness, receiving: ReadySide, sending: ReadySide): Readiness {
  return {
    ...first,
    readable: first.readable || receiving.isKnownReady,
    writable: first.writable || sending.isKnownReady,
  };
}

async function whenEither(
  receiving: ReadySide,
  sending: ReadySide,
  signal: AbortSignal | undefined,
): Promise<Readiness> {
  const other = new AbortController();
  const wait = waitFor(signal === undefined ? other.signal : AbortSignal.any([signal, other.signal]));
  const sides = [receiving.ready(wait), sending.ready(wait)];
  for (const side of sides) side.catch(() => {});
  return withBoth(await Promise.race(sides).finally(() => other.abort()), receiving, sending);
}
