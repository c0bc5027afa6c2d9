/**
 * What a parent and a child say to each other, above the transport: messages
 * with sockets, in order, and at most {@linkcode WINDOW} of them unread on the
 * other side, so that a child that never reads costs no unbounded memory; and
 * the library's own packets, which pass by those that wait.
 */

import { again } from "../../internal/stack.ts";
import { CallQueue, PendingCall } from "../../internal/call_queue.ts";
import { checkOptions, checkSignal } from "../../internal/validate.ts";
import { checkWait, type Wait, waitFor, type WaitOptions } from "../../internal/wait.ts";
import { type Carried, checkSockets, type MovableSocket, receivedSocket } from "./socket_transfer.ts";

/** Messages that may be under way and unread. */
const WINDOW = 256;

/** What travels: a message of the user's, or the library's own. */
export interface Packet {
  /** A connection for a pool's child has a type of its own, and no body. */
  readonly type: "message" | "credit" | "shutdown" | "pool" | "connection" | "bye";
  readonly body?: unknown;
}

/**
 * A message that has come, and the sockets that came with it.
 *
 * @example Take what has come
 * ```ts
 * import { type Incoming, spawnWorker } from "@c10k/sockets/process";
 *
 * const source = `
 *   import { parent } from "${import.meta.resolve("@c10k/sockets/process")}";
 *   for await (const { message } of parent().messages()) await parent().send("got " + message);
 * `;
 * const module = `data:application/typescript,${encodeURIComponent(source)}`; // or a file's URL
 *
 * const child = spawnWorker(module);
 * await child.send("a letter");
 * const { value }: IteratorResult<Incoming, void> = await child.messages().next();
 * console.log(value?.message, value?.sockets.length); // got a letter 0
 * await child.shutdown();
 * ```
 */
export interface Incoming<T = unknown> {
  /** A structured clone of what was sent. */
  readonly message: T;
  /** The sockets, in the order in which they were sent; owned by whoever takes the message. */
  readonly sockets: MovableSocket[];
  /** Sockets that came with it and could not be taken, since this process may have no more descriptors (`EMFILE`). */
  readonly lost: number;
}

/**
 * How long messages are waited for.
 *
 * @example No answer in time
 * ```ts
 * import { type MessagesOptions, spawnWorker } from "@c10k/sockets/process";
 *
 * const source = `
 *   import { parent } from "${import.meta.resolve("@c10k/sockets/process")}";
 *   for await (const _ of parent().messages()); // says nothing
 * `;
 * const child = spawnWorker(`data:application/typescript,${encodeURIComponent(source)}`);
 * const options: MessagesOptions = { signal: AbortSignal.timeout(100) };
 * try {
 *   for await (const { message } of child.messages(options)) console.log(message);
 * } catch (error) {
 *   console.log(error instanceof DOMException && error.name); // TimeoutError
 * }
 * await child.shutdown();
 * ```
 */
export interface MessagesOptions {
  /** Stops waiting: the loop throws its reason, and what comes later is for the next one. */
  signal?: AbortSignal;
}

/**
 * What a message takes along, and for how long it waits for the other side to read; after that it is not sent.
 *
 * @example With a socket
 * ```ts
 * import { type SendOptions, spawnWorker } from "@c10k/sockets/process";
 * import { UdpEndpoint } from "@c10k/sockets/udp";
 *
 * const source = `
 *   import { parent } from "${import.meta.resolve("@c10k/sockets/process")}";
 *   for await (const { sockets } of parent().messages()) for (const socket of sockets) socket.close();
 * `;
 * const child = spawnWorker(`data:application/typescript,${encodeURIComponent(source)}`);
 * const endpoint = UdpEndpoint.bind({ hostname: "127.0.0.1" });
 * const options: SendOptions = { sockets: [endpoint] };
 * await child.send("yours", options);
 * console.log(endpoint.fd); // undefined: it is there now
 * await child.shutdown();
 * ```
 */
export interface SendOptions extends WaitOptions {
  /** Sockets to send away: detached here, whole there, with what is unread in them. */
  sockets?: readonly MovableSocket[];
}

export type { WaitOptions };

/** One way to carry packets. */
export interface Transport {
  /** Sends a packet, unless it is cancelled before; takes the sockets, and calls `sent`, only at the moment it succeeds. */
  send(packet: Packet, sockets: readonly Carried[], sent: () => void, signal?: AbortSignal): Promise<void>;
  /** The same without waiting; false if there is no room now. */
  trySend(packet: Packet, sockets: readonly Carried[]): boolean;
  /** Throws if one of the sockets cannot be sent at all. */
  check(sockets: readonly Carried[]): void;
  /** Lets waiting for packets keep the process alive, or not. */
  ref(on: boolean): void;
  close(): void;
}

/**
 * Makes of a packet with a message of the user's one that no longer changes when the message does, for the kind of
 * transport that it will go by.
 *
 * @throws {unknown} If the message, or one of the sockets, cannot be sent that way.
 */
export type Seal = (packet: Packet, sockets: readonly MovableSocket[]) => Packet;

interface Sending extends PendingCall<void> {
  readonly packet: Packet;
  readonly sockets: readonly MovableSocket[];
  readonly signal: AbortSignal | undefined;
}

/** One side of the connection between a parent and a child. */
export class Link {
  /** Told of the library's own packets. */
  onPacket: ((packet: Packet, sockets: MovableSocket[]) => void) | undefined;
  /** Told when a call begins to wait for the other side, for messages or for room, and when none does any more. */
  onWaiting: ((waits: boolean) => void) | undefined;
  /** Makes a socket of a descriptor that has come. */
  receiveSocket: typeof receivedSocket = receivedSocket;
  /** Nobody reads messages here: only the library's own packets may come. */
  takesMessages = true;
  readonly #name: string;
  readonly #seal: Seal;
  readonly #outgoing = new CallQueue<Sending>();
  readonly #waiting = new CallQueue<PendingCall<Incoming | undefined>>();
  readonly #inbox: Incoming[] = [];
  /** Packets of the library's own that wait for the transport. */
  readonly #urgent: { packet: Packet; sockets: readonly Carried[]; done(error?: unknown): void }[] = [];
  #transport: Transport | undefined;
  #credit = WINDOW;
  #taken = 0;
  #pumping = false;
  /** No more messages come: the other side has asked for the end, or is gone. */
  #ended = false;
  #failure: Error | undefined;

  /** `name` is what errors call the other side; `seal` is for messages, which may be sent before there is a transport. */
  constructor(name: string, seal: Seal = (packet) => packet) {
    this.#name = name;
    this.#seal = seal;
  }

  /** The other side can be reached. */
  attach(transport: Transport): void {
    this.#transport = transport;
    if (this.#failure !== undefined) transport.close();
    else this.#pump();
  }

  get transport(): Transport | undefined {
    return this.#transport;
  }

  /** Nothing can be sent any more. */
  get isClosed(): boolean {
    return this.#failure !== undefined;
  }

  send(message: unknown, options: SendOptions = {}): Promise<void> {
    let wait: Wait | undefined;
    let sockets: readonly MovableSocket[];
    let packet: Packet;
    try {
      checkOptions(options);
      wait = checkWait(options);
      sockets = checkSockets(options.sockets, `send to ${this.#name}`);
      if (this.#failure !== undefined) throw again(this.#failure);
      this.#transport?.check(sockets);
      packet = this.#seal({ type: "message", body: message }, sockets);
      // The message's getters may have done anything.
      if (this.#failure !== undefined) throw again(this.#failure);
      wait?.signal?.throwIfAborted();
    } catch (error) {
      return Promise.reject(error);
    }
    // The transport is to give up a message that it has begun to wait with.
    const over = wait === undefined ? undefined : new AbortController();
    const waiter = new PendingCall<void>(wait, () => `send to ${this.#name}`, () => {
      over?.abort();
      this.#outgoing.compact();
      this.#tell();
    });
    this.#outgoing.push(Object.assign(waiter, { packet, sockets, signal: over?.signal }));
    this.#pump();
    this.#tell();
    return waiter.promise;
  }

  /** Sends a packet of the library's own, before messages that wait. */
  post(packet: Packet, sockets: readonly Carried[] = []): Promise<void> {
    if (this.#failure !== undefined) return Promise.reject(this.#failure);
    try {
      if (this.tryPost(packet, sockets)) return Promise.resolve();
    } catch (error) {
      return Promise.reject(error);
    }
    const { promise, resolve, reject } = Promise.withResolvers<void>();
    this.#urgent.push({ packet, sockets, done: (error) => error === undefined ? resolve() : reject(error) });
    this.#pump();
    return promise;
  }

  /** The same without waiting; false if there is no room now. */
  tryPost(packet: Packet, sockets: readonly Carried[] = []): boolean {
    if (this.#pumping || this.#failure !== undefined) return false;
    return this.#transport?.trySend(packet, sockets) ?? false;
  }

  /** Messages until the other side asks for the end, or is gone. */
  messages(options: MessagesOptions = {}): AsyncIterableIterator<Incoming> {
    checkOptions(options);
    return this.#messages(checkSignal(options));
  }

  async *#messages(signal: AbortSignal | undefined): AsyncIterableIterator<Incoming> {
    while (true) {
      const incoming = await this.#next(signal);
      if (incoming === undefined) return;
      yield incoming;
    }
  }

  /**
   * A packet has come.
   *
   * @throws {TypeError} If it is one that the other side may not send.
   */
  receive(packet: Packet, sockets: MovableSocket[], lost: number): void {
    switch (packet.type) {
      case "message": {
        if (!this.takesMessages) {
          for (const socket of sockets) socket.close();
          throw new TypeError("Cannot receive: no messages are taken here");
        }
        const incoming: Incoming = { message: packet.body, sockets, lost };
        const waiter = this.#waiting.shift();
        if (waiter === undefined) {
          // Nobody but a forger goes on without credit.
          if (this.#inbox.push(incoming) > WINDOW) {
            throw new TypeError("Cannot receive: more messages than may be unread");
          }
        } else {
          this.#tell();
          waiter.resolve(incoming);
          this.#granted();
        }
        break;
      }
      case "credit":
        for (const socket of sockets) socket.close();
        if (!Number.isSafeInteger(packet.body)) throw new TypeError("Cannot receive: not a message of this library");
        this.#credit += packet.body as number;
        this.#pump();
        break;
      default:
        if (this.onPacket !== undefined) this.onPacket(packet, sockets);
        else for (const socket of sockets) socket.close();
    }
  }

  /** No more messages come; those that have come are still read. */
  end(): void {
    this.#ended = true;
    for (const waiter of this.#waiting.drain()) waiter.resolve(undefined);
    this.#tell();
  }

  /** The other side is gone; what it has sent is still read. */
  close(error: Error): void {
    this.stopSending(error);
    this.end();
  }

  /** Nothing can be sent any more, but something may still come. */
  stopSending(error: Error): void {
    if (this.#failure !== undefined) return;
    this.#failure = error;
    for (const sending of this.#outgoing.drain()) sending.reject(error);
    for (const { done } of this.#urgent.splice(0)) done(error);
    this.#transport?.close();
  }

  /** Closes the sockets of messages that nobody has taken, and forgets these. */
  discard(): void {
    for (const { sockets } of this.#inbox.splice(0)) for (const socket of sockets) socket.close();
  }

  async #next(signal: AbortSignal | undefined): Promise<Incoming | undefined> {
    signal?.throwIfAborted();
    const incoming = this.#inbox.shift();
    if (incoming !== undefined) {
      this.#granted();
      return incoming;
    }
    if (this.#ended) return undefined;
    const waiter = new PendingCall<Incoming | undefined>(waitFor(signal), () => `receive from ${this.#name}`, () => {
      this.#waiting.compact();
      this.#tell();
    });
    this.#waiting.push(waiter);
    this.#tell();
    return await waiter.promise;
  }

  #tell(): void {
    this.onWaiting?.(this.#waiting.first !== undefined || this.#outgoing.first !== undefined);
  }

  /** A message was taken: from time to time the other side is told so. */
  #granted(): void {
    if (++this.#taken < WINDOW / 4 || this.#failure !== undefined) return;
    this.post({ type: "credit", body: this.#taken }).catch(() => {});
    this.#taken = 0;
  }

  async #pump(): Promise<void> {
    if (this.#pumping) return;
    this.#pumping = true;
    try {
      const transport = this.#transport;
      while (transport !== undefined && this.#failure === undefined) {
        const urgent = this.#urgent.shift();
        if (urgent !== undefined) {
          await transport.send(urgent.packet, urgent.sockets, () => urgent.done()).catch(urgent.done);
          continue;
        }
        const first = this.#credit > 0 ? this.#outgoing.shift() : undefined;
        if (first === undefined) break;
        this.#credit--;
        try {
          await transport.send(first.packet, first.sockets, () => first.settled || first.resolve(), first.signal);
        } catch (error) {
          this.#credit++;
          // Closing the transport has woken it, for the reason that all others are told.
          if (!first.settled) first.reject(this.#failure ?? error);
        }
      }
    } finally {
      this.#pumping = false;
      this.#tell();
    }
  }
}
