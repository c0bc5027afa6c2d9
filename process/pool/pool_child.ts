/** One child of a pool, and what it is known to have done. */

import { atCaller } from "../../internal/stack.ts";
import { Timer } from "../../internal/timer.ts";
import type { TcpConn } from "../../tcp/tcp_conn.ts";
import type { Child, ProcessOptions } from "../child/child.ts";
import type { ChildStatus } from "../program/status.ts";
import type { Link } from "../message/link.ts";
import type { MovableSocket } from "../message/socket_transfer.ts";
import type { FromChild, Start, ToChild } from "../message/pool_protocol.ts";
import { ProcessChild } from "../child/spawn_process.ts";
import { WorkerChild } from "../child/spawn_worker.ts";

/** Connections that a child may have been handed and not have taken; what is more goes to others. */
const MOST_UNTAKEN = 128;

/** What a pool is told of its children. */
export interface PoolChildEvents {
  /** A connection was finished, or the child takes more again. */
  changed(child: PoolChild): void;
  /** It was woken for what it has not taken. */
  full(child: PoolChild): void;
  /** Somebody else has told it to end. */
  leaving(child: PoolChild): void;
  /** It has ended. */
  ended(child: PoolChild): void;
}

/** A child of a pool. */
export class PoolChild {
  readonly child: Child & { readonly link: Link; readonly name: string };
  readonly slot: number;
  readonly since: Date = new Date();
  /** Resolves once `serve` was called; rejects if the child ends before. */
  readonly ready: Promise<void>;
  /** Resolves once it takes no more connections. */
  readonly stopped: Promise<void>;
  state: "starting" | "serving" | "draining" | "ended" = "starting";
  /** Connections that were handed over, or that it has accepted. */
  total = 0;
  /** It was told how it gets its connections. */
  hasStarted = false;
  /** Why it has ended, if nobody asked for that. */
  failure: Error | undefined;
  /** The signal that has ended it. */
  signal: Deno.Signal | undefined;
  #opened = 0;
  #finished = 0;
  readonly #events: PoolChildEvents;
  readonly #ready = Promise.withResolvers<void>();
  readonly #stopped = Promise.withResolvers<void>();
  /** Resolves once it has ended, with how. */
  readonly #over = Promise.withResolvers<Error>();
  readonly #timer: Timer;
  #timedOut: Error | undefined;
  #isKilled = false;
  /** It has called `serve()`. */
  #hasCalled = false;

  constructor(
    slot: number,
    kind: "worker" | "process",
    module: string | URL,
    options: ProcessOptions,
    startTimeout: number,
    events: PoolChildEvents,
  ) {
    this.slot = slot;
    this.#events = events;
    this.child = kind === "worker" ? new WorkerChild(module, options) : new ProcessChild(module, options);
    this.child.link.onPacket = (packet, sockets) => {
      for (const socket of sockets) socket.close();
      if (packet.type === "pool") this.#receive(packet.body as FromChild);
    };
    this.ready = this.#ready.promise;
    this.ready.catch(() => {});
    this.stopped = this.#stopped.promise;
    this.#timer = new Timer(startTimeout, () => {
      const message = `${this.child.name} has not called serve() in ${startTimeout} ms`;
      this.#timedOut = atCaller(new Deno.errors.TimedOut(message));
      this.child.kill();
    });
    this.child.closed.then((status) => this.#end(status));
  }

  /** Connections that are open there. */
  get active(): number {
    return this.total - this.#finished;
  }

  /** It takes connections; one whose line is cut does not, though it is not known to have ended yet. */
  get isServing(): boolean {
    return this.state === "serving" && !this.child.link.isClosed;
  }

  /** It does not come to taking what it was handed. */
  get isBusy(): boolean {
    return this.total - this.#opened >= MOST_UNTAKEN;
  }

  /** It has finished one at least: what failed later was not its start. */
  get hasServed(): boolean {
    return this.#finished > 0;
  }

  /** Throws if connections of these listeners cannot be given to it: a thread may lack the permission to use them. */
  check(listeners: readonly MovableSocket[]): void {
    // One that drains is closed, and its connections still need children.
    const native = listeners.filter(({ engine, fd }) => engine === "native" && fd !== undefined);
    this.child.link.transport?.check(native);
  }

  /**
   * Says how it gets its connections; the listeners are given away.
   *
   * @throws {Error} If it has ended meanwhile: how it has ended, not that nothing can be sent.
   */
  async start(settings: Start, listeners: readonly MovableSocket[]): Promise<void> {
    try {
      await this.#post(settings, listeners);
    } catch (error) {
      const { BrokenPipe, ConnectionReset } = Deno.errors;
      const isGone = this.child.link.isClosed || error instanceof BrokenPipe || error instanceof ConnectionReset;
      if (!isGone) throw error;
      // One that has closed its end of the line is of no use, though it runs.
      this.child.kill();
      throw await this.#over.promise;
    }
    if (this.state !== "starting") return;
    this.state = "serving";
    this.hasStarted = true;
  }

  /**
   * Hands a connection over, if there is room for it on the way.
   *
   * @returns Whether that was so; else, and if this throws, the connection is still whole here.
   */
  hand(conn: TcpConn): boolean {
    if (!this.child.link.tryPost({ type: "connection" }, [conn])) return false;
    this.total++;
    return true;
  }

  look(): void {
    if (this.state === "serving") this.#post({ do: "look" }).catch(() => {});
  }

  /** Lets its handlers know that the pool closes; it takes connections still. */
  finish(): void {
    if (this.state === "serving") this.#post({ do: "finish" }).catch(() => {});
  }

  /**
   * Lets it finish, if it has not ended, and ends it after the grace, in milliseconds; `last`: nobody else accepts from
   * its listeners.
   */
  async drain(grace: number, last = false): Promise<void> {
    if (this.state !== "draining") this.#post({ do: "drain", last }).catch(() => {});
    this.state = "draining";
    const timer = new Timer(grace, () => this.kill());
    await this.child.closed;
    timer.cancel();
  }

  kill(): void {
    this.#isKilled = true;
    this.child.kill();
  }

  #post(body: ToChild, sockets: readonly MovableSocket[] = []): Promise<void> {
    return this.child.link.post({ type: "pool", body }, sockets);
  }

  #receive(body: FromChild): void {
    switch (body.is) {
      case "ready":
        this.#timer.cancel();
        // One that was too late is being ended.
        if (this.#timedOut !== undefined) break;
        this.#hasCalled = true;
        this.#ready.resolve();
        break;
      case "counting":
        this.#opened = body.opened;
        this.total = Math.max(this.total, body.opened);
        this.#finished = body.closed;
        this.#events.changed(this);
        break;
      case "full":
        this.#events.full(this);
        break;
      case "leaving":
        this.#events.leaving(this);
        break;
      case "draining":
        this.#stopped.resolve();
        break;
      case "drained":
        this.state = "draining";
        this.child.shutdown().catch(() => {});
    }
  }

  #end(status: ChildStatus): void {
    this.#timer.cancel();
    const wasAsked = this.state === "draining" || this.#isKilled;
    const early = this.state === "starting" && !this.#hasCalled ? " before it called serve()" : "";
    this.state = "ended";
    this.signal = status.signal;
    const how = status.signal !== undefined ? `by ${status.signal}` : `with code ${status.code}`;
    const error = this.#timedOut ??
      atCaller(
        new Error(
          `${this.child.name} has ended ${how}${early}`,
          status.error === undefined ? {} : { cause: status.error },
        ),
      );
    this.#ready.reject(error);
    this.#over.resolve(error);
    this.#stopped.resolve();
    this.failure = wasAsked ? undefined : error;
    this.#events.ended(this);
  }
}
