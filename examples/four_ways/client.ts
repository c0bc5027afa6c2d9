/** One client of the load. */

import type { TcpConn } from "@c10k/sockets/tcp";
import type { Waiting } from "./waits.ts";

/** Bytes of a message. */
export const SIZE = 64;

/** A client, and what it waits for. */
export class Client implements Waiting {
  readonly message: Uint8Array<ArrayBuffer> = new Uint8Array(SIZE);
  readonly answered = Promise.withResolvers<boolean>();
  isOpen = false;
  isWaiting = false;
  sentAt = 0;
  answers = 0;
  waited = 0;
  #received = 0;
  #number = 0;

  constructor(readonly conn: TcpConn, id: number) {
    new DataView(this.message.buffer).setUint32(4, id);
  }

  /** Sends what no client has sent before; false if it was disconnected. */
  ask(): boolean {
    new DataView(this.message.buffer).setUint32(0, ++this.#number);
    this.message.fill(this.#number, 8);
    this.isWaiting = true;
    this.sentAt = performance.now();
    try {
      // There is room: the message before was answered.
      return this.conn.tryWrite(this.message) === SIZE;
    } catch {
      return false;
    }
  }

  /** Takes what has come; true once the answer is whole. */
  take(p: Uint8Array): boolean {
    if (this.#received + p.length > SIZE) throw new Error("more came back than was sent");
    for (let i = 0; i < p.length; i++) {
      if (p[i] !== this.message[this.#received + i]) throw new Error("something else came back than was sent");
    }
    this.#received = (this.#received + p.length) % SIZE;
    this.isWaiting = this.#received > 0;
    return !this.isWaiting;
  }
}
