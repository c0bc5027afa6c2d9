/** A child's side: what it hears of its parent. */

import { parentPort } from "node:worker_threads";
import { engineSupport } from "../../internal/engine.ts";
import { childThreadName, isEntrusted, thisOwner } from "../../internal/owner.ts";
import { atCaller } from "../../internal/stack.ts";
import type { NativeConn } from "../../tcp/native_conn.ts";
import { wrapConn } from "../../tcp/tcp_conn.ts";
import { ConnectionReceiver } from "../message/connection_channel.ts";
import {
  type Incoming,
  Link,
  type MessagesOptions,
  type Packet,
  type SendOptions,
  type Transport,
} from "../message/link.ts";
import type { MovableSocket } from "../message/socket_transfer.ts";
import { takeParentSocket } from "./parent_socket.ts";
import { threadEntry } from "./thread_entry.ts";
import { HELLO, ProcessTransport, sealForProcess } from "../message/process_transport.ts";
import type { Hello } from "./spawn_worker.ts";
import {
  sealForThread,
  type ThreadMessage,
  ThreadTransport,
  unpackThreadMessage,
} from "../message/thread_transport.ts";
import type { UnixSocket } from "../message/unix_socket.ts";

/**
 * The parent, seen from a child.
 *
 * @example The child's side
 * ```ts
 * import { spawnWorker } from "@c10k/sockets/process";
 *
 * const source = `
 *   import { parent, type ParentPort } from "${import.meta.resolve("@c10k/sockets/process")}";
 *   const port: ParentPort = parent();
 *   await port.send("I am a " + port.kind);
 *   for await (const { message } of port.messages()) console.log(message); // until the parent asks for the end
 * `;
 * const child = spawnWorker(`data:application/typescript,${encodeURIComponent(source)}`);
 * for await (const { message } of child.messages()) {
 *   console.log(message); // I am a worker
 *   break;
 * }
 * await child.shutdown();
 * ```
 */
export interface ParentPort {
  /** What this child is. */
  readonly kind: "worker" | "process";
  /** Aborted when the parent asks for the end. */
  readonly signal: AbortSignal;
  /**
   * Sends a message, as {@linkcode Child.send} does.
   *
   * @param message What to send.
   * @param options Sockets to send away, and a signal to stop waiting.
   */
  send(message: unknown, options?: SendOptions): Promise<void>;
  /**
   * Messages of the parent, until it asks for the end. Each goes to one loop only.
   *
   * @param options A signal to stop waiting.
   */
  messages(options?: MessagesOptions): AsyncIterableIterator<Incoming>;
  /**
   * Lets something be finished after the parent has asked for the end.
   *
   * A child that is asked to end does so when its module has nothing left to do, timers and sockets included. Only a
   * thread with `permissions` of its own, or with connections of the runtime engine, cannot know that: it ends when its
   * module has been evaluated, all loops over `messages()` have ended, and all that was given here is done.
   *
   * @param work What to wait for.
   */
  waitUntil(work: Promise<unknown>): void;
}

/** {@linkcode ParentPort}, and what the library itself needs of it. */
export class Port implements ParentPort {
  readonly kind: "worker" | "process";
  readonly link: Link;
  /** Ends a child that does not end alone when it has nothing left to do. */
  readonly #end: (() => void) | undefined;
  readonly #abort = new AbortController();
  readonly #work = new Set<Promise<unknown>>();
  #loops = 0;
  /** Who waits for packets. */
  #holders = 0;

  constructor(kind: "worker" | "process", end?: () => void) {
    this.kind = kind;
    this.link = new Link("the parent", kind === "worker" ? sealForThread : sealForProcess);
    this.#end = end;
    this.link.onPacket = (packet, sockets) => this.#receive(packet, sockets);
  }

  /** Told of the packets that are for a pool. */
  onPoolPacket: ((body: unknown, sockets: MovableSocket[]) => void) | undefined;

  get signal(): AbortSignal {
    return this.#abort.signal;
  }

  send(message: unknown, options?: SendOptions): Promise<void> {
    return this.link.send(message, options);
  }

  async *messages(options?: MessagesOptions): AsyncIterableIterator<Incoming> {
    this.#loops++;
    try {
      yield* this.link.messages(options);
    } finally {
      this.#loops--;
      this.#endIfDone();
    }
  }

  waitUntil(work: Promise<unknown>): void {
    this.#work.add(work);
    // A failure that nobody handles ends the child, as any other.
    work.finally(() => {
      this.#work.delete(work);
      this.#endIfDone();
    });
  }

  /** Somebody waits for packets: the process goes on. */
  hold(): void {
    if (this.#holders++ === 0) this.link.transport?.ref(true);
  }

  release(): void {
    if (--this.#holders === 0) this.link.transport?.ref(false);
  }

  #receive(packet: Packet, sockets: MovableSocket[]): void {
    if (packet.type === "pool" || packet.type === "connection") {
      const body = packet.type === "connection" ? { do: "connection" } : packet.body;
      if (this.onPoolPacket !== undefined) return this.onPoolPacket(body, sockets);
    } else if (packet.type === "shutdown") {
      this.link.end();
      this.#abort.abort(new Deno.errors.Interrupted("The parent has asked for the end"));
      this.#endIfDone();
    }
    for (const socket of sockets) socket.close();
  }

  #endIfDone(): void {
    const end = this.#end;
    if (end === undefined || !this.signal.aborted) return;
    // In a turn of its own: what follows a loop may have begun something else.
    setTimeout(() => {
      if (this.#loops === 0 && this.#work.size === 0) end();
    });
  }
}

let port: Port | undefined;

/**
 * Reaches the parent, inside a child that `spawnWorker` or `spawnProcess` has
 * started: the same `send` and `messages`, from the other side.
 *
 * @returns Always the same object.
 * @throws {Error} If this program is no such child.
 *
 * @example Answer the parent
 * ```ts
 * import { spawnWorker } from "@c10k/sockets/process";
 *
 * const source = `
 *   import { parent } from "${import.meta.resolve("@c10k/sockets/process")}";
 *   for await (const { message, sockets } of parent().messages()) {
 *     await parent().send("got " + message + " and " + sockets.length + " sockets");
 *   }
 * `;
 * const child = spawnWorker(`data:application/typescript,${encodeURIComponent(source)}`); // or a file's URL
 * await child.send("a letter");
 * for await (const { message } of child.messages()) {
 *   console.log(message); // got a letter and 0 sockets
 *   break;
 * }
 * await child.shutdown();
 * ```
 */
export function parent(): ParentPort {
  return thePort();
}

/** {@linkcode parent}, for the library. */
export function thePort(): Port {
  return port ??= childThread === undefined ? joinProcess() : joinThread();
}

/** What the parent calls this thread; `undefined` in what is no child, or is a process. */
const childThread = childThreadName();

function noParent(more = "", cause?: unknown): Error {
  const message = `Cannot reach the parent: this program was not started by spawnWorker or spawnProcess${more}`;
  return atCaller(new Error(message, cause === undefined ? {} : { cause }));
}

if (childThread !== undefined) {
  // Its end is told even if it never calls parent().
  tellOfEnd(globalThis as unknown as WorkerScope);
}

/** What a Worker's scope has, and this library is not compiled for. */
interface WorkerScope extends EventTarget {
  postMessage(message: unknown, transfer?: Transferable[]): void;
  close(): void;
}

/** Deno does not tell a parent that a Worker has closed itself, by `close()` or `Deno.exit()`. */
function tellOfEnd(scope: WorkerScope): void {
  const close = scope.close.bind(scope);
  const sayBye = () => {
    const code = Deno.exitCode;
    const body = code === 0 ? undefined : new Error(`${childThread} has ended with the exit code ${code}`);
    scope.postMessage({ packet: { type: "bye", body }, sockets: [] } satisfies ThreadMessage);
  };
  scope.close = () => {
    sayBye();
    close();
  };
  scope.addEventListener("unload", sayBye);
}

function joinThread(): Port {
  const scope = globalThis as unknown as WorkerScope;
  const { endsAlone, evaluated } = threadEntry();
  // Deno counts the message ports of streams that have come from another thread, or gone there, as open for ever.
  let hasStreams = false;
  const port = new Port("worker", () => {
    if (!endsAlone || hasStreams || transport.hasSentStreams) scope.close();
  });
  port.waitUntil(evaluated);
  const takesNative = engineSupport().engine === "native";
  const owner = takesNative ? thisOwner() : 0n;
  let connections: ConnectionReceiver | undefined;
  let isHeld = false;
  scope.addEventListener("message", (event) => {
    const { data } = event as MessageEvent<ThreadMessage>;
    // What was handed over before this was said comes first.
    connections?.onReady();
    if (isEntrusted(data.channel, owner)) {
      const take = (conn: NativeConn) => port.link.receive({ type: "connection" }, [wrapConn(conn)], 0);
      connections = ConnectionReceiver.open(data.channel, take);
      connections?.ref(isHeld);
    }
    hasStreams ||= data.sockets.some(({ kind }) => kind === "streams");
    port.link.receive(data.packet, ...unpackThreadMessage(data, owner));
  });
  scope.addEventListener("messageerror", (event) => {
    // An object that this thread cannot make anew: without this the message would be lost, and nobody would know.
    const cause = (event as MessageEvent<unknown>).data;
    throw new TypeError("Cannot receive: the parent has sent an object that this thread cannot read", { cause });
  });
  scope.postMessage({ hello: true, takesNative } satisfies Hello);
  const refer = (on: boolean) => {
    isHeld = on;
    connections?.ref(on);
    if (!endsAlone) return;
    if (on) parentPort?.ref();
    else parentPort?.unref();
  };
  const transport = new ThreadTransport(scope, owner, true, refer);
  holdWhileWaiting(port, transport);
  return port;
}

function joinProcess(): Port {
  const { engine, reason } = engineSupport();
  if (engine !== "native") {
    throw noParent(`, or it may not talk: a process needs permissions with ffi: "inherit" for that (${reason})`);
  }
  // A plain Worker of such a process is no child: the socket belongs to the main thread.
  if ("DedicatedWorkerGlobalScope" in globalThis) throw noParent();
  let socket: UnixSocket | undefined;
  try {
    socket = takeParentSocket();
    socket?.trySend(HELLO, () => [], () => {});
  } catch (error) {
    throw noParent("", error);
  }
  if (socket === undefined) throw noParent();
  // A parent that finds it closed ends the child, which is about to end with an exit code.
  socket.outlive();
  const port = new Port("process");
  const transport = new ProcessTransport(socket, port.link, () => {
    // The line is cut: the parent has ended.
    if (!port.signal.aborted) Deno.exit(1);
  });
  holdWhileWaiting(port, transport);
  return port;
}

/** Waiting for the parent keeps a child alive, and nothing else here does: it ends when its module has nothing left to do. */
function holdWhileWaiting(port: Port, transport: Transport): void {
  transport.ref(false);
  let holds = false;
  port.link.onWaiting = (waits) => {
    if (waits === holds) return;
    holds = waits;
    if (waits) port.hold();
    else port.release();
  };
  port.link.attach(transport);
}
