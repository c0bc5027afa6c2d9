/**
 * Connections on their way to another thread of this process, as records on a
 * Unix socket: the thread is woken as it is for its own sockets, which takes a
 * fraction of what a posted message does.
 */

import { SHUT_RD } from "../../internal/constants.ts";
import { Descriptor } from "../../internal/descriptor.ts";
import { libc } from "../../internal/libc.ts";
import { MSG_NOSIGNAL, SOCK_STREAM } from "../../internal/socket.ts";
import { receive, transmit } from "../../internal/syscall.ts";
import { PolledSocket } from "../../poll/polled_socket.ts";
import type { EventHandler } from "../../poll/reactor.ts";
import type { NativeConn } from "../../tcp/native_conn.ts";
import { descriptorIn, readRecord, RECORD_SIZE, writeRecord } from "./connection_record.ts";
import type { MovableSocket } from "./socket_transfer.ts";
import { UnixSocket } from "./unix_socket.ts";

/** Records that are received at once. */
const MOST_RECORDS = 64;

const record = new Uint8Array(RECORD_SIZE);
const records = new Uint8Array(MOST_RECORDS * RECORD_SIZE);

/** The side of the thread that gives connections away. */
export class ConnectionSender {
  readonly #socket: Descriptor;

  private constructor(fd: number) {
    this.#socket = new Descriptor(fd);
  }

  /** socketpair(2): this side, and the descriptor of the other one, which has no owner yet. */
  static open(): [sender: ConnectionSender, there: number] {
    const [here, there] = UnixSocket.pair(SOCK_STREAM);
    return [new ConnectionSender(here), there];
  }

  /**
   * Sends a connection, whose descriptor is given up here by `give` just before, and belongs to the other thread.
   *
   * @returns Whether it went: `undefined` if it is not one that can go, and `give` was not called.
   */
  trySend(socket: MovableSocket, give: () => void): boolean | undefined {
    if (!writeRecord(record, 0, socket)) return undefined;
    give();
    // The kernel takes so little whole, or not at all.
    return transmit(this.#socket.fd, record, MSG_NOSIGNAL) === RECORD_SIZE;
  }

  close(): void {
    this.#socket.close();
  }
}

type Take = (conn: NativeConn) => void;

/** The side of the thread that gets them. */
export class ConnectionReceiver implements EventHandler {
  readonly name = "the channel of connections";
  readonly kind = "channel";
  readonly #socket: PolledSocket;
  readonly #take: Take;
  /** It keeps the thread alive. */
  #ref = true;

  private constructor(fd: number, take: Take) {
    this.#take = take;
    this.#socket = new PolledSocket(fd, this);
    const refusal = this.#socket.register();
    if (refusal !== undefined) {
      this.#socket.detach();
      throw refusal;
    }
    this.#socket.reactor.hold(this.#ref);
  }

  /**
   * Takes over a socket, in a thread that has its reactor; `take` gets each connection, from now until the other side
   * is closed.
   *
   * @returns `undefined` if the kernel does not watch the socket: then it has been closed, and the other side finds that
   * nothing can be sent there.
   */
  static open(fd: number, take: Take): ConnectionReceiver | undefined {
    const socket = new Descriptor(fd);
    try {
      return socket.passTo((fd) => new ConnectionReceiver(fd, take));
    } catch {
      // Else something might be sent after the last look, and before it is closed.
      libc.shutdown(fd, SHUT_RD);
      takeAll(fd, take);
      socket.close();
      return undefined;
    }
  }

  /** Takes all that have been sent by now. */
  onReady(): void {
    if (this.#socket.isOpen && takeAll(this.#socket.fd, this.#take)) {
      this.#socket.close();
      this.#socket.reactor.release(this.#ref);
    }
  }

  /** Lets it keep the thread alive, or not. */
  ref(on: boolean): void {
    if (on === this.#ref) return;
    this.#ref = on;
    if (!this.#socket.isOpen) return;
    // In this order, so that the reactor does not stop in between.
    this.#socket.reactor.hold(on);
    this.#socket.reactor.release(!on);
  }
}

/** Takes all that have been sent by now; returns whether no more can come. */
function takeAll(fd: number, take: Take): boolean {
  while (true) {
    const n = receive(fd, records, 0);
    if (n <= 0) return n === 0;
    for (let at = 0; at < n; at += RECORD_SIZE) take(readRecord(records, at, descriptorIn(records, at)));
  }
}
