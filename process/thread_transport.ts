/**
 * Packets between threads of one process, by `postMessage`. Threads share one
 * table of descriptors, so a native socket travels as its number; it belongs
 * to the thread that may end first until the other one has taken it.
 */

import { Descriptor } from "../internal/descriptor.ts";
import { entrust } from "../internal/owner.ts";
import type { Packet, Transport } from "./link.ts";
import { adopt, descriptorsOf, kindOf, type MovableSocket, type SocketKind } from "./moving.ts";

/** Where to post: a Worker, or a Worker's own scope. */
interface Port {
  postMessage(message: unknown, transfer: Transferable[]): void;
}

/** What is posted. */
export interface Envelope {
  readonly packet: Packet;
  readonly sockets: readonly { readonly kind: SocketKind; readonly fd: number }[];
}

/** {@linkcode Transport} between threads. */
export class ThreadTransport implements Transport {
  readonly #port: Port;
  readonly #owner: () => number;
  readonly #onClose: () => void;

  /** `owner` is the number of the thread among the two that may end first. */
  constructor(port: Port, owner: () => number, onClose: () => void) {
    this.#port = port;
    this.#owner = owner;
    this.#onClose = onClose;
  }

  check(packet: Packet, sockets: readonly MovableSocket[]): void {
    descriptorsOf(sockets, "send a socket");
    // What cannot be cloned must be known before a socket is detached.
    if (sockets.length > 0) structuredClone(packet.body);
  }

  send(packet: Packet, sockets: readonly MovableSocket[]): Promise<void> {
    try {
      this.trySend(packet, sockets);
      return Promise.resolve();
    } catch (error) {
      return Promise.reject(error);
    }
  }

  trySend(packet: Packet, sockets: readonly MovableSocket[]): boolean {
    descriptorsOf(sockets, "send a socket");
    const moved = sockets.map((socket) => {
      const kind = kindOf(socket);
      const fd = socket.detach();
      entrust(fd, this.#owner());
      return { kind, fd };
    });
    this.#port.postMessage({ packet, sockets: moved } satisfies Envelope, []);
    return true;
  }

  ref(): void {}

  close(): void {
    this.#onClose();
  }
}

/** Makes sockets of the numbers that have come. */
export function unpack({ sockets }: Envelope): MovableSocket[] {
  return sockets.flatMap(({ kind, fd }) => adopt(kind, new Descriptor(fd)) ?? []);
}
