/**
 * A client that keeps books: each message says whose it is, which one and
 * what its bytes add up to, so that whoever sends it knows what it is owed.
 * Books balance when everybody who was not hit by the fault has all of it.
 */

import { type Engine, TcpConn } from "@c10k/sockets/tcp";
import { UdpEndpoint } from "@c10k/sockets/udp";
import { delay } from "@std/async";
import { crc32 } from "node:zlib";

/** Bytes of a message before its content: length of the whole, account, number, checksum of the content. */
const HEADER = 16;

/** What is asked of one account. Durations are ms, sizes bytes. */
export interface Order {
  readonly hostname: string;
  readonly port: number;
  readonly engine?: Engine;
  /** Messages to send, unless `signal` ends it before. */
  readonly messages: number;
  /** Largest message. */
  readonly size: number;
  /** Between two messages. */
  readonly pace: number;
  /** Messages that may be under way. */
  readonly window?: number;
  /** No more messages; what is owed is still waited for. */
  readonly signal?: AbortSignal;
  /** Without an answer for so long, the connection counts as broken. */
  readonly patience?: number;
}

/** How one connection went. */
export interface Account {
  readonly id: number;
  sent: number;
  received: number;
  /** `finished`: all that was owed has come, and end-of-file after it. */
  fate: "open" | "finished" | "broken" | "refused";
  /** Why it broke: an error's name. */
  reason: string | undefined;
}

/** All accounts together. */
export interface Totals {
  opened: number;
  finished: number;
  broken: number;
  refused: number;
  sent: number;
  received: number;
  /** What must never be: bytes that nobody sent, in this order, on this connection. */
  wrong: string[];
  reasons: Record<string, number>;
}

let accounts = Math.floor(Math.random() * 2 ** 24) * 64;

/** The bytes of a message; the same for the same account and number. */
export function messageOf(id: number, number: number, size: number): Uint8Array<ArrayBuffer> {
  const bytes = new Uint8Array(sizeOf(id, number, size));
  let state = (id * 2654435761 + number * 40503 + 1) >>> 0;
  for (let i = HEADER; i < bytes.length; i++) {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    bytes[i] = state;
  }
  const view = new DataView(bytes.buffer);
  view.setUint32(0, bytes.length);
  view.setUint32(4, id);
  view.setUint32(8, number);
  view.setUint32(12, crc32(bytes.subarray(HEADER)));
  return bytes;
}

function sizeOf(id: number, number: number, size: number): number {
  return HEADER + (id * 31 + number * 977) % Math.max(1, size - HEADER + 1);
}

/** What is wrong with an answer; `undefined` if it is the one that was owed. */
export function faultOf(bytes: Uint8Array, id: number, number: number): string | undefined {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  if (bytes.length < HEADER) return `account ${id}: ${bytes.length} bytes are no message`;
  const found = [view.getUint32(0), view.getUint32(4), view.getUint32(8)];
  if (found.join() !== [bytes.length, id, number].join()) return `account ${id}, message ${number}: got ${found}`;
  if (view.getUint32(12) !== crc32(bytes.subarray(HEADER))) return `account ${id}, message ${number}: checksum`;
}

class WrongAnswer extends Error {}

/** Books over many connections. */
export class Books {
  readonly #open = new Set<Account>();
  /** Accounts that are closed, added up. */
  readonly #closed: Totals = {
    opened: 0,
    finished: 0,
    broken: 0,
    refused: 0,
    sent: 0,
    received: 0,
    wrong: [],
    reasons: {},
  };

  /** Opens one connection and does the order; settles when the account is closed, and never rejects. */
  async serve(order: Order): Promise<Account> {
    const account: Account = { id: ++accounts >>> 0, sent: 0, received: 0, fate: "open", reason: undefined };
    this.#open.add(account);
    let conn: TcpConn | undefined;
    try {
      const { hostname, port, engine, patience = 60_000 } = order;
      const timeout = patience === Infinity ? {} : { timeout: patience };
      conn = await TcpConn.connect({ hostname, port, ...timeout, ...(engine === undefined ? {} : { engine }) });
      await exchange(conn, account, order);
      account.fate = "finished";
    } catch (error) {
      account.fate = conn === undefined ? "refused" : "broken";
      account.reason = error instanceof Error ? error.name : String(error);
      if (error instanceof WrongAnswer) this.#closed.wrong.push(error.message);
    } finally {
      conn?.close();
    }
    this.#open.delete(account);
    add(this.#closed, account);
    return account;
  }

  /** Does the same order on many connections. */
  async serveAll(count: number, order: Order): Promise<void> {
    await Promise.all(Array.from({ length: count }, () => this.serve(order)));
  }

  /** Connections that are open. */
  get open(): number {
    return this.#open.size;
  }

  totals(): Totals {
    const totals = { ...this.#closed, reasons: { ...this.#closed.reasons } };
    for (const account of this.#open) add(totals, account);
    return totals;
  }
}

function add(totals: Totals, { sent, received, fate, reason }: Account): void {
  totals.opened++;
  totals.sent += sent;
  totals.received += received;
  if (fate !== "open") totals[fate]++;
  if (reason !== undefined) totals.reasons[reason] = (totals.reasons[reason] ?? 0) + 1;
}

async function exchange(conn: TcpConn, account: Account, order: Order): Promise<void> {
  const { messages, size, pace, window = 1, signal, patience = 60_000 } = order;
  let answered = Promise.withResolvers<void>();
  let isDone = false;
  let hasEnded = false;
  const write = async () => {
    while (account.sent < messages && signal?.aborted !== true) {
      while (account.sent - account.received >= window && !isDone) await answered.promise;
      if (isDone) return;
      await conn.writeAll(messageOf(account.id, account.sent, size));
      account.sent++;
      if (pace > 0) await delay(pace, signal === undefined ? {} : { signal }).catch(() => {});
    }
    hasEnded = true;
    await conn.closeWrite();
  };
  const read = async () => {
    const p = new Uint8Array(Math.max(size, HEADER));
    const quiet = patience === Infinity ? undefined : new Patience(patience);
    try {
      while (true) {
        const expected = sizeOf(account.id, account.received, size);
        for (let end = 0; end < expected;) {
          const n = await conn.read(p.subarray(end, expected), quiet?.renew());
          if (n === null) {
            // An end that this side has not asked for is none, also if nothing is owed at that moment.
            if (end > 0 || !hasEnded || account.received < account.sent) throw new Deno.errors.UnexpectedEof();
            return;
          }
          end += n;
        }
        const fault = faultOf(p.subarray(0, expected), account.id, account.received);
        if (fault !== undefined) throw new WrongAnswer(fault);
        account.received++;
        answered.resolve();
        answered = Promise.withResolvers();
      }
    } finally {
      quiet?.stop();
      isDone = true;
      answered.resolve();
    }
  };
  const results = await Promise.allSettled([read(), write()]);
  for (const result of results) if (result.status === "rejected") throw result.reason;
}

/** One signal for many reads, aborted when none of them had a byte for too long. */
class Patience {
  readonly #abort = new AbortController();
  readonly #options = { signal: this.#abort.signal };
  readonly #limit: number;
  #timer: ReturnType<typeof setInterval>;
  #last = performance.now();

  constructor(limit: number) {
    this.#limit = limit;
    this.#timer = setInterval(() => {
      if (performance.now() - this.#last > this.#limit) this.#abort.abort(new Deno.errors.TimedOut("No answer"));
    }, Math.min(limit / 4, 250));
  }

  renew(): { signal: AbortSignal } {
    this.#last = performance.now();
    return this.#options;
  }

  stop(): void {
    clearInterval(this.#timer);
  }
}

/** What became of datagrams. */
export interface UdpTotals {
  sent: number;
  /** Different ones that came back. */
  received: number;
  /** Answers that came once more. */
  duplicates: number;
  /** Answers that came after one that was sent later. */
  reordered: number;
  /** Answers that found this side's receive queue full. */
  dropped: number;
  wrong: string[];
}

/** Sends datagrams at a pace, `batch` at a time, and counts what comes back. */
export async function udpBooks(order: Order & { batch?: number; settle?: number }): Promise<UdpTotals> {
  const { hostname, port, messages, size, pace, batch = 1, settle = 1_000, signal } = order;
  const totals: UdpTotals = { sent: 0, received: 0, duplicates: 0, reordered: 0, dropped: 0, wrong: [] };
  const id = ++accounts >>> 0;
  const seen = new Set<number>();
  const family = hostname.includes(":") ? "::" : "0.0.0.0";
  using endpoint = UdpEndpoint.bind({ hostname: family, port: 0, ...(order.engine ? { engine: order.engine } : {}) });
  const stop = new AbortController();
  const reading = (async () => {
    const p = new Uint8Array(Math.max(size, HEADER) + 1);
    let last = -1;
    while (true) {
      const { data } = await endpoint.recvFrom(p, { signal: stop.signal });
      const number = data.length < HEADER ? -1 : new DataView(data.buffer, data.byteOffset).getUint32(8);
      const fault = faultOf(data, id, number);
      if (fault !== undefined || number >= totals.sent) totals.wrong.push(fault ?? `number ${number} was never sent`);
      else if (seen.has(number)) totals.duplicates++;
      else {
        seen.add(number);
        totals.received++;
        if (number < last) totals.reordered++;
        last = Math.max(last, number);
      }
    }
  })().catch((error) => {
    if (!stop.signal.aborted) throw error;
  });
  while (totals.sent < messages && signal?.aborted !== true) {
    for (let i = 0; i < batch && totals.sent < messages; i++) {
      // Counted before it goes: its answer may be there first.
      const message = messageOf(id, totals.sent++, size);
      try {
        await endpoint.sendTo(message, { hostname, port });
      } catch (error) {
        // The interface is down, for example: it was never sent.
        if (!(error instanceof Error && "code" in error)) throw error;
      }
    }
    if (pace > 0) await delay(pace);
  }
  for (let end = performance.now() + settle; performance.now() < end && totals.received < totals.sent;) {
    const before = totals.received;
    await delay(20);
    if (totals.received > before) end = performance.now() + settle;
  }
  stop.abort();
  await reading;
  totals.dropped = endpoint.drops();
  return totals;
}
