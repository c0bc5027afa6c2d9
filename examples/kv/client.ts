/** One connection of kv: requests in, replies out, and no more of the one than the client takes of the other. */

import type { Interest, Multiplexer, ReadyEvent } from "@c10k/sockets/mux";
import type { TcpConn } from "@c10k/sockets/tcp";
import type { Buffer } from "node:buffer";
import { execute } from "./commands.ts";
import { HangUp, ProtocolError } from "./errors.ts";
import { Requests } from "./requests.ts";
import type { Service } from "./service.ts";

/** What all connections share. */
export interface Hub {
  readonly mux: Multiplexer<Client | undefined>;
  readonly service: Service;
  /** One for all: what is read is done or copied before the next is read. */
  readonly buffer: Buffer<ArrayBuffer>;
  /** Bytes that are kept for all together, and how many there may be. */
  held: number;
  readonly mostHeld: number;
}

/** Replies are sent at least when there are so many, in bytes. */
const CHUNK = 64 * 1024;
/** Nothing more is done for a client that has so many to fetch, in bytes. */
const MOST_UNSENT = 1024 * 1024;

const READ: Interest = { readable: true };
const WRITE: Interest = { writable: true };
const BOTH: Interest = { readable: true, writable: true };

/** A connection and what is kept for it: usually nothing. */
export class Client {
  readonly #conn: TcpConn;
  readonly #hub: Hub;
  #requests = new Requests();
  /** Replies that found no room in the send buffer. */
  #unsent: Uint8Array<ArrayBuffer> | undefined;
  #interest = READ;
  #held = 0;
  /** It ends once all replies are sent. */
  #isEnding = false;

  constructor(conn: TcpConn, hub: Hub) {
    this.#conn = conn;
    this.#hub = hub;
    conn.setNoDelay(true);
    hub.mux.register(conn, READ, this);
  }

  /** Does what there is to do. */
  onReady({ readable, writable, error }: ReadyEvent): void {
    try {
      if (writable && this.#unsent !== undefined) {
        this.#send();
        this.#answer();
      }
      if ((readable || error) && !this.#isFull && !this.#isEnding) this.#read();
      this.#settle();
    } catch (error) {
      this.#close(error);
    }
  }

  get #isFull(): boolean {
    return this.#unsent !== undefined && this.#unsent.length > MOST_UNSENT;
  }

  #read(): void {
    const { buffer } = this.#hub;
    const n = this.#conn.tryRead(buffer);
    if (n === undefined) return;
    if (n === null) {
      this.#isEnding = true;
    } else {
      this.#requests.add(buffer, n);
      this.#answer();
    }
  }

  /** Does what is asked for, as long as the client takes the replies. */
  #answer(): void {
    const { service, mostHeld, held } = this.#hub;
    const { replies } = service;
    replies.limit = mostHeld - held;
    try {
      while (!this.#isFull && this.#requests.next()) {
        execute(this.#requests, service);
        if (replies.length > CHUNK) this.#send();
      }
    } catch (error) {
      if (!(error instanceof ProtocolError)) throw error;
      replies.error(`ERR Protocol error: ${error.message}`);
      this.#isEnding = true;
      this.#requests = new Requests();
    }
    this.#requests.keep();
    if (replies.length > 0) this.#send();
  }

  /** Sends what there is room for, the oldest first, and keeps the rest. */
  #send(): void {
    const { replies } = this.#hub.service;
    let rest = this.#unsent;
    if (rest === undefined) {
      const n = this.#conn.tryWrite(replies.bytes) ?? 0;
      if (n < replies.length) this.#unsent = replies.take(n);
      else replies.clear();
      return;
    }
    if (replies.length > 0) {
      const both = new Uint8Array(rest.length + replies.length);
      both.set(rest);
      both.set(replies.bytes, rest.length);
      replies.clear();
      rest = both;
    }
    const n = this.#conn.tryWrite(rest) ?? 0;
    this.#unsent = n < rest.length ? rest.subarray(n) : undefined;
  }

  /** Asks for what can be done next, and counts what is kept. */
  #settle(): void {
    const unsent = this.#unsent;
    if (unsent === undefined && this.#isEnding) return this.#close();
    const interest = unsent === undefined ? READ : this.#isFull || this.#isEnding ? WRITE : BOTH;
    if (interest !== this.#interest) this.#hub.mux.modify(this.#conn, this.#interest = interest);
    const held = this.#requests.held + (unsent?.buffer.byteLength ?? 0);
    if (held === this.#held) return;
    this.#hub.held += held - this.#held;
    this.#held = held;
    if (this.#hub.held > this.#hub.mostHeld) throw new HangUp("all clients together have too much kept for them");
  }

  #close(error?: unknown): void {
    // A peer that has gone is no event for the others.
    if (error !== undefined && !(error instanceof Error && "code" in error)) console.error(explain(this.#conn, error));
    this.#hub.held -= this.#held;
    this.#held = 0;
    this.#hub.service.replies.clear();
    if (error !== undefined) return this.#conn.close();
    // With what it still sends unread, close() would take replies back.
    this.#hub.mux.unregister(this.#conn);
    this.#conn.finish().catch(() => {});
  }
}

function explain({ remoteAddr: { hostname, port } }: TcpConn, error: unknown): unknown {
  return error instanceof HangUp ? `hung up on ${hostname}:${port}: ${error.message}` : error;
}
