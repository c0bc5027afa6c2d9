/** The inside of a pool's child: connections come, a handler serves them. */

import { TcpConn } from "../../tcp/tcp_conn.ts";
import { TcpListener, wrapListener } from "../../tcp/tcp_listener.ts";
import { NativeListener } from "../../tcp/native_listener.ts";
import { engineSupport } from "../../internal/engine.ts";
import { atCaller } from "../../internal/stack.ts";
import { checkOptions, quote } from "../../internal/validate.ts";
import { reactor } from "../../poll/reactor.ts";
import type { MovableSocket } from "../message/socket_transfer.ts";
import { type Port, thePort } from "../child/parent.ts";
import type { FromChild, Start, ToChild } from "../message/pool_protocol.ts";

/**
 * What a handler is told beside its connection.
 *
 * @example Number the connections
 * ```ts
 * import { Pool } from "@c10k/sockets/process";
 * import { TcpConn } from "@c10k/sockets/tcp";
 *
 * const source = `
 *   import { serve, type ServeContext } from "${import.meta.resolve("@c10k/sockets/process")}";
 *   await serve(async (conn, { number }: ServeContext) => {
 *     await conn.writeAll(new TextEncoder().encode("You are number " + number));
 *   });
 * `;
 * const module = `data:application/typescript,${encodeURIComponent(source)}`; // or a file's URL
 * await using pool = await Pool.start({ kind: "worker", module, size: 1, listen: { hostname: "127.0.0.1", port: 0 } });
 * using conn = await TcpConn.connect({ port: pool.addr.port });
 * console.log(await new Response(conn.readable).text()); // You are number 1
 * ```
 */
export interface ServeContext {
  /** The number of this connection in this child, from 1. */
  readonly number: number;
  /** The number of this child, as {@linkcode Pool.stats} has it. */
  readonly child: number;
  /**
   * Aborted when the pool drains: finish soon. A connection has a second at least from its beginning, so that its first
   * request can be answered.
   */
  readonly signal: AbortSignal;
}

/**
 * Serves one connection. When what the handler returns is done, so is the connection: what the client still sends is
 * dropped for two seconds at most, so that it gets all of the answer (see `TcpConn.finish`). So return the promise of a
 * pipe that is to go on. A handler can also close the connection or give it away.
 *
 * @example The time of day
 * ```ts
 * import { Pool } from "@c10k/sockets/process";
 * import { TcpConn } from "@c10k/sockets/tcp";
 *
 * const source = `
 *   import { serve, type ServeHandler } from "${import.meta.resolve("@c10k/sockets/process")}";
 *   const tell: ServeHandler = (conn) => conn.writeAll(new TextEncoder().encode(new Date().toISOString()));
 *   await serve(tell);
 * `;
 * const module = `data:application/typescript,${encodeURIComponent(source)}`; // or a file's URL
 * await using pool = await Pool.start({ kind: "worker", module, size: 1, listen: { hostname: "127.0.0.1", port: 0 } });
 * using conn = await TcpConn.connect({ port: pool.addr.port });
 * console.log(await new Response(conn.readable).text()); // 2026-…
 * ```
 */
export type ServeHandler = (conn: TcpConn, context: ServeContext) => void | Promise<void>;

/**
 * How {@linkcode serve} serves.
 *
 * @example Count failures instead of printing them
 * ```ts
 * import { Pool } from "@c10k/sockets/process";
 * import { TcpConn } from "@c10k/sockets/tcp";
 *
 * const source = `
 *   import { serve, type ServeOptions } from "${import.meta.resolve("@c10k/sockets/process")}";
 *   let failures = 0;
 *   const options: ServeOptions = { onError: () => failures++ };
 *   await serve((conn) => conn.writeAll(new TextEncoder().encode(failures + " failed")), options);
 * `;
 * const module = `data:application/typescript,${encodeURIComponent(source)}`; // or a file's URL
 * await using pool = await Pool.start({ kind: "worker", module, size: 1, listen: { hostname: "127.0.0.1", port: 0 } });
 * using conn = await TcpConn.connect({ port: pool.addr.port });
 * console.log(await new Response(conn.readable).text()); // 0 failed
 * ```
 */
export interface ServeOptions {
  /**
   * Told when a handler has failed, whose connection is reset; by default that is written to standard error, and the
   * child goes on. Not told of what a client can cause at any time, by its kernel's name: `ECONNRESET`, `EPIPE`,
   * `ETIMEDOUT` and the like. A `timeout` of a call that is over has no such name, and is told: catch it if silence is
   * no failure.
   */
  onError?: (error: unknown) => void;
}

/** How long a connection is served before its handler is asked to finish, in milliseconds. */
const FIRST_REQUEST = 1_000;

/** After its handler is done, a client has so many milliseconds and bytes to finish as well. */
const FINISH = { timeout: 2_000, size: 16 * 1024 * 1024 };

/** What a handler has, which may never look at its signal. */
class Context implements ServeContext {
  readonly #since = performance.now();
  #abort: AbortController | undefined;
  #reason: Error | undefined;
  #timer: ReturnType<typeof setTimeout> | undefined;

  constructor(readonly number: number, readonly child: number) {}

  get signal(): AbortSignal {
    if (this.#abort === undefined) {
      this.#abort = new AbortController();
      if (this.#reason !== undefined) this.#abortInTime(this.#reason);
    }
    return this.#abort.signal;
  }

  /** The child drains. */
  finish(reason: Error): void {
    if (this.#reason !== undefined) return;
    this.#reason = reason;
    if (this.#abort !== undefined) this.#abortInTime(reason);
  }

  /** The handler is done. */
  end(): void {
    clearTimeout(this.#timer);
  }

  #abortInTime(reason: Error): void {
    const rest = this.#since + FIRST_REQUEST - performance.now();
    if (rest <= 0) this.#abort?.abort(reason);
    else this.#timer = setTimeout(() => this.#abort?.abort(reason), rest);
  }
}

/** How long counts may wait to be told, in milliseconds. */
const COUNT_INTERVAL = 5;

/** One accepting listener: its descriptor is given up while the child has as many connections as it may. */
class Acceptor {
  readonly #take: (conn: TcpConn) => void;
  #listener: TcpListener | undefined;
  /** The same one. */
  #driver: NativeListener | undefined;
  #fd = -1;
  #abort = new AbortController();

  constructor(fd: number, take: (conn: TcpConn) => void) {
    this.#fd = fd;
    this.#take = take;
  }

  /** Accepts until {@linkcode Acceptor.stop}. */
  async run(isShared: boolean): Promise<void> {
    if (this.#listener !== undefined || this.#fd < 0) return;
    const driver = this.#driver = NativeListener.adopt(this.#fd, isShared);
    const listener = this.#listener = wrapListener(driver);
    const { signal } = this.#abort = new AbortController();
    this.#fd = -1;
    while (!signal.aborted) {
      try {
        this.#take(await listener.accept({ signal }));
      } catch (error) {
        if (signal.aborted || error instanceof Deno.errors.BadResource) return;
        throw error;
      }
    }
  }

  /**
   * Takes what nobody was woken for; `mayTake` is told how many have been accepted and not been taken yet.
   *
   * @returns That number.
   */
  look(mayTake: (inHand: number) => boolean): number {
    const wasAccepting = this.#listener !== undefined;
    const inHand = this.#driver?.isAwaited === false ? 1 : 0;
    this.stop();
    if (!wasAccepting) return 0;
    const listener = wrapListener(NativeListener.adopt(this.#fd));
    // No more than are there now: others may come for as long as this goes on.
    for (let left = listener.queue().length; left > 0 && mayTake(inHand); left--) {
      const conn = listener.tryAccept();
      if (conn === undefined) break;
      this.#take(conn);
    }
    this.#fd = listener.detach();
    return inHand;
  }

  /** Stops accepting, which leaves the listener's registration, so that nobody is woken for nothing. */
  stop(): void {
    this.#abort.abort();
    if (this.#listener !== undefined) this.#fd = this.#listener.detach();
    this.#listener = this.#driver = undefined;
  }

  /** Takes all that is in the queue, when nobody else does, and closes the listener. */
  async drain(): Promise<void> {
    this.stop();
    if (this.#fd < 0) return;
    const listener = wrapListener(NativeListener.adopt(this.#fd));
    this.#fd = -1;
    listener.drain();
    for await (const conn of listener) this.#take(conn);
  }

  close(): void {
    this.stop();
    if (this.#fd >= 0) TcpListener.fromFd(this.#fd).close();
    this.#fd = -1;
  }
}

class Server {
  readonly #port: Port;
  readonly #handler: ServeHandler;
  readonly #onError: (error: unknown) => void;
  readonly #done = Promise.withResolvers<void>();
  readonly #contexts = new Set<Context>();
  /** Why handlers are to finish, once they are. */
  #reason: Error | undefined;
  #acceptors: Acceptor[] = [];
  /** Connections that were accepted when the child drained, and have no room yet. */
  readonly #waiting: TcpConn[] = [];
  /** Acceptors that have not emptied their queue yet. */
  #emptying = 0;
  #settings: Start | undefined;
  #opened = 0;
  #closed = 0;
  #isLeaving = false;
  #draining = false;
  #isFull = false;
  #telling: ReturnType<typeof setTimeout> | undefined;

  constructor(port: Port, handler: ServeHandler, onError: (error: unknown) => void) {
    this.#port = port;
    this.#handler = handler;
    this.#onError = onError;
  }

  get done(): Promise<void> {
    return this.#done.promise;
  }

  receive(body: ToChild, sockets: MovableSocket[]): void {
    switch (body.do) {
      case "start":
        this.#settings = body;
        if (sockets.length < body.listeners) {
          for (const socket of sockets) socket.close();
          const why = "a listener was lost on the way, for want of descriptors or since it was shut down";
          return fail(new Error(`Cannot serve: ${why}`));
        }
        this.#acceptors = sockets.map((listener) => new Acceptor(listener.detach(), (conn) => this.#accepted(conn)));
        this.#accept();
        if (this.#isLeaving) this.#post({ is: "leaving" });
        break;
      case "connection": {
        const [conn] = sockets;
        if (conn instanceof TcpConn) return this.#open(conn);
        // It was lost on the way, since there is no room for more descriptors.
        this.#opened++;
        this.#close();
        break;
      }
      case "look":
        if (this.#draining) return;
        this.#accept(this.#look());
        break;
      case "finish":
        this.#askToFinish();
        break;
      case "drain":
        this.drain(body.last);
        break;
      case "refuse":
        this.#done.reject(new Error("Cannot serve: the parent is no Pool, take what it sends by parent().messages()"));
    }
  }

  /** Asks to be drained: nothing is on its way to this child then, and another takes its place. */
  leave(): void {
    if (this.#isLeaving || this.#draining) return;
    this.#isLeaving = true;
    if (this.#settings !== undefined) this.#post({ is: "leaving" });
  }

  /** Takes no more connections; `last`: but those in the queue of its listeners, which nobody else accepts from. */
  drain(last = false): void {
    if (this.#draining) return;
    this.#draining = true;
    for (const acceptor of this.#acceptors.splice(0)) {
      if (last) {
        this.#emptying++;
        acceptor.drain().catch(fail).finally(() => {
          this.#emptying--;
          this.#finishIfDone();
        });
        continue;
      }
      // What this child was woken for nobody else was.
      acceptor.look((inHand) => !this.#isAtLimit(inHand));
      acceptor.close();
    }
    this.#post({ is: "draining" });
    this.#askToFinish();
    this.#finishIfDone();
  }

  #askToFinish(): void {
    this.#reason ??= new Deno.errors.Interrupted("The pool drains");
    for (const context of this.#contexts) context.finish(this.#reason);
  }

  /** How many are accepted and not opened yet. */
  #look(): number {
    let sum = 0;
    for (const acceptor of this.#acceptors) sum += acceptor.look((inHand) => !this.#isAtLimit(sum + inHand));
    return sum;
  }

  #isAtLimit(inHand = 0): boolean {
    return this.#opened - this.#closed + inHand >= (this.#settings?.limit ?? Infinity);
  }

  #accept(inHand = 0): void {
    if (this.#draining || this.#isAtLimit(inHand)) return;
    this.#isFull = false;
    for (const acceptor of this.#acceptors) acceptor.run(this.#settings?.shared ?? false).catch(fail);
  }

  /** At its end a child takes what is in the queue, whatever room there is: the kernel would reset it. */
  #accepted(conn: TcpConn): void {
    if (this.#draining && this.#isAtLimit()) this.#waiting.push(conn);
    else this.#open(conn);
  }

  #open(conn: TcpConn): void {
    const number = ++this.#opened;
    this.#tellSoon();
    if (this.#isAtLimit() && this.#settings?.mode === "accept" && !this.#isFull) {
      this.#isFull = true;
      for (const acceptor of this.#acceptors) acceptor.stop();
      this.#post({ is: "full" });
    }
    const context = new Context(number, this.#settings?.id ?? 0);
    this.#contexts.add(context);
    if (this.#reason !== undefined) context.finish(this.#reason);
    this.#serve(conn, context);
  }

  async #serve(conn: TcpConn, context: Context): Promise<void> {
    try {
      await this.#handler(conn, context);
      // Unless the handler has closed it, or given it away. It counts as served meanwhile.
      conn.finish(FINISH).catch(() => {});
    } catch (error) {
      reset(conn);
      // A peer that is gone is no failure of the handler's.
      if (!isPeersFault(error)) this.#onError(error);
    } finally {
      context.end();
      this.#contexts.delete(context);
      this.#close();
    }
  }

  #close(): void {
    this.#closed++;
    this.#tellSoon();
    if (this.#isFull) this.#accept();
    const next = this.#waiting.shift();
    if (next !== undefined) this.#open(next);
    this.#finishIfDone();
  }

  #finishIfDone(): void {
    const isLast = this.#settings?.once === true && this.#closed > 0;
    if (!(this.#draining || isLast) || this.#opened > this.#closed || this.#emptying > 0) return;
    this.#tell();
    this.#post({ is: "drained" });
    this.#done.resolve();
  }

  #tellSoon(): void {
    this.#telling ??= setTimeout(() => this.#tell(), COUNT_INTERVAL);
  }

  #tell(): void {
    clearTimeout(this.#telling);
    this.#telling = undefined;
    this.#post({ is: "counting", opened: this.#opened, closed: this.#closed });
  }

  #post(body: FromChild): void {
    this.#port.link.post({ type: "pool", body }).catch(() => {});
  }
}

/** What a peer can cause at any time. */
function isPeersFault(error: unknown): boolean {
  const { ConnectionReset, BrokenPipe, ConnectionAborted, NotConnected, TimedOut } = Deno.errors;
  // Another one is of a `timeout`, of this connection or of whatever the handler has waited for.
  if (error instanceof TimedOut) return (error as Error & { code?: unknown }).code === "ETIMEDOUT";
  return [ConnectionReset, BrokenPipe, ConnectionAborted, NotConnected].some((of) => error instanceof of);
}

function reset(conn: TcpConn): void {
  try {
    conn.reset();
  } catch {
    conn.close();
  }
}

/** An error that no caller waits for ends the child, and its pool replaces it. */
function fail(error: unknown): void {
  queueMicrotask(() => {
    throw error;
  });
}

let server: Server | undefined;

/**
 * Serves the connections of a pool, inside a child that {@linkcode Pool} has
 * started: each goes to the handler, and is closed when that is done.
 *
 * @param handler Serves one connection.
 * @param options Who is told of a handler that fails.
 * @returns When the pool drains: once all connections are finished.
 * @throws {Error} If this program is no child of a pool, or serves already, or has no descriptors left to wait with (`EMFILE`).
 *
 * @example The module of a pool
 * ```ts
 * import { Pool } from "@c10k/sockets/process";
 *
 * const source = `
 *   import { serve } from "${import.meta.resolve("@c10k/sockets/process")}";
 *   await serve(async (conn) => {
 *     await conn.readable.pipeTo(conn.writable);
 *   });
 * `;
 * await using pool = await Pool.start({
 *   kind: "worker",
 *   module: `data:application/typescript,${encodeURIComponent(source)}`, // or a file's URL
 *   size: 1,
 *   listen: { hostname: "127.0.0.1", port: 0 },
 * });
 * ```
 */
export function serve(handler: ServeHandler, options: ServeOptions = {}): Promise<void> {
  if (typeof handler !== "function") {
    throw atCaller(new TypeError(`handler must be a function, received ${quote(handler)}`));
  }
  checkOptions(options);
  const { onError = (error: unknown) => console.error(error) } = options;
  if (typeof onError !== "function") {
    throw atCaller(new TypeError(`onError must be a function, received ${quote(onError)}`));
  }
  if (server !== undefined) throw atCaller(new Error("Cannot serve: this child serves already"));
  const port = thePort();
  // What it waits with is opened before connections come: threads have one table of descriptors, which they may fill.
  if (engineSupport().engine === "native") reactor();
  const mine = server = new Server(port, handler, onError);
  port.onPoolPacket = (body, sockets) => mine.receive(body as ToChild, sockets);
  port.signal.addEventListener("abort", () => mine.drain());
  port.hold();
  port.waitUntil(mine.done.finally(() => port.release()));
  if (port.kind === "process") leaveSignalsToThePool(mine);
  port.link.post({ type: "pool", body: { is: "ready" } satisfies FromChild }).catch(() => {});
  // One that nobody has looked at yet: a child that was refused and does not look fails.
  return mine.done.then(() => {});
}

/** Ctrl-C reaches all processes of a terminal: the pool says what is to be done. SIGTERM to this one is for this one. */
function leaveSignalsToThePool(server: Server): void {
  const ignore = () => {};
  const leave = () => server.leave();
  Deno.addSignalListener("SIGINT", ignore);
  Deno.addSignalListener("SIGHUP", ignore);
  Deno.addSignalListener("SIGTERM", leave);
  const restore = () => {
    Deno.removeSignalListener("SIGINT", ignore);
    Deno.removeSignalListener("SIGHUP", ignore);
    Deno.removeSignalListener("SIGTERM", leave);
  };
  server.done.then(restore, restore);
}
