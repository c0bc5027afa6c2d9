/** Children that serve the connections of one listener, and are replaced when they fail. */

import { formatAddress } from "../internal/address.ts";
import { syscall } from "../internal/syscall.ts";
import { checkDuration, checkOptions } from "../internal/validate.ts";
import type { TcpConn } from "../tcp/tcp_conn.ts";
import { TcpListener, type TcpListenOptions } from "../tcp/tcp_listener.ts";
import type { ShutdownOptions } from "./child.ts";
import { PoolChild } from "./pool_child.ts";
import { checkPoolOptions, type PoolOptions, type PoolSettings } from "./pool_options.ts";
import type { Start } from "./pool_protocol.ts";
import { Restarts } from "./restarts.ts";
import { Signals } from "./signals.ts";
import { ControlServer, takeOver } from "./upgrade.ts";

// linux/fcntl.h
const F_DUPFD_CLOEXEC = 1030;

/** Milliseconds until a connection is offered again that the kernel would not pass on. */
const RETRY_DELAY = 10;

/**
 * What {@linkcode Pool.stats} tells of one child.
 *
 * @example Who has served how many
 * ```ts
 * import { type ChildStats, Pool } from "@c10k/sockets/process";
 *
 * const source = `
 *   import { serve } from "${import.meta.resolve("@c10k/sockets/process")}";
 *   await serve((conn) => conn.readable.pipeTo(conn.writable));
 * `;
 * const module = `data:application/typescript,${encodeURIComponent(source)}`; // or a file's URL
 * await using pool = await Pool.start({ kind: "worker", module, size: 2, listen: { hostname: "127.0.0.1", port: 0 } });
 * const line = ({ id, state, active, total }: ChildStats) => `${id} ${state}: ${active} of ${total}`;
 * console.log(pool.stats().map(line)); // "1 serving: 0 of 0", …
 * ```
 */
export interface ChildStats {
  /** The child's number. */
  readonly id: number;
  /** What it is. */
  readonly kind: "worker" | "process";
  /** Its process; `undefined` for a thread. */
  readonly pid: number | undefined;
  /** What it does: a draining one takes no more connections. */
  readonly state: "starting" | "serving" | "draining" | "ended";
  /** Connections that are open. */
  readonly active: number;
  /** Connections since it was started. */
  readonly total: number;
  /** How often a failed child was replaced in its place. */
  readonly restarts: number;
  /** When it was started. */
  readonly since: Date;
}

/**
 * Threads or processes that serve the connections of one listener.
 *
 * The pool keeps the listening socket open: when a child fails, its
 * connections break, and nobody else notices. A child that has failed is
 * replaced, after a delay that doubles; when children fail one after the other
 * and none does any work, the pool closes, and {@linkcode Pool.closed} rejects
 * with the last failure.
 *
 * SIGTERM and SIGINT close the pool, SIGHUP reloads it.
 *
 * @example One process for each core
 * ```ts
 * import { Pool } from "@c10k/sockets/process";
 * import { TcpConn } from "@c10k/sockets/tcp";
 *
 * const source = `
 *   import { serve } from "${import.meta.resolve("@c10k/sockets/process")}";
 *   await serve((conn) => conn.readable.pipeTo(conn.writable));
 * `;
 * await using pool = await Pool.start({
 *   kind: "process",
 *   module: `data:application/typescript,${encodeURIComponent(source)}`,
 *   listen: { hostname: "127.0.0.1", port: 0 },
 *   size: 2,
 * });
 *
 * using conn = await TcpConn.connect({ port: pool.addr.port });
 * await conn.writeAll(new TextEncoder().encode("hello"));
 * await conn.closeWrite();
 * console.log(await new Response(conn.readable).text()); // hello
 * console.log(pool.stats());
 * ```
 */
export class Pool implements AsyncDisposable {
  readonly #settings: PoolSettings;
  readonly #restarts: Restarts;
  readonly #closed = Promise.withResolvers<void>();
  readonly #accepting = new AbortController();
  /** By slot: who serves there now. */
  readonly #children: (PoolChild | undefined)[] = [];
  /** How often a child was replaced, by slot. */
  readonly #replaced: number[] = [];
  /** Those that have no slot yet or no more, and those of one connection each. */
  readonly #others = new Set<PoolChild>();
  /** Connections on their way to a child, and the loops that accept them. */
  readonly #giving = new Set<Promise<void>>();
  readonly #timers = new Set<ReturnType<typeof setTimeout>>();
  readonly #signals: Signals;
  #listeners: TcpListener[] = [];
  #control: ControlServer | undefined;
  #next = 0;
  #starting = 0;
  #reloading: Promise<void> | undefined;
  #closing: Promise<void> | undefined;
  #wake = Promise.withResolvers<void>();

  private constructor(settings: PoolSettings, restarts: Restarts) {
    if (settings === undefined) throw new TypeError("Illegal constructor: use Pool.start");
    this.#settings = settings;
    this.#restarts = restarts;
    this.#signals = new Signals(() => this.close(), () => this.reload());
  }

  /**
   * Starts the children, and resolves once all of them serve.
   *
   * Requires what {@linkcode TcpListener.bind} and {@linkcode spawnWorker} or {@linkcode spawnProcess} require.
   *
   * @param options What the children run, and where to listen.
   * @returns The pool.
   * @throws {Error} If a child fails before it serves; with what it has thrown as `cause`, where that is known.
   * @throws {Deno.errors.AddrInUse} If somebody listens there already.
   * @throws {Deno.errors.NotSupported} If the engine cannot do what is asked for.
   *
   * @example A thread that echoes
   * ```ts
   * import { Pool } from "@c10k/sockets/process";
   *
   * const source = `
   *   import { serve } from "${import.meta.resolve("@c10k/sockets/process")}";
   *   await serve((conn) => conn.readable.pipeTo(conn.writable));
   * `;
   * const module = `data:application/typescript,${encodeURIComponent(source)}`; // or a file's URL
   * await using pool = await Pool.start({ kind: "worker", module, size: 1, listen: { hostname: "127.0.0.1", port: 0 } });
   * console.log(pool.addr.port);
   * ```
   */
  static async start(options: PoolOptions): Promise<Pool> {
    const settings = checkPoolOptions(options);
    const pool = new Pool(settings, new Restarts(options.restart));
    const old = settings.control === undefined ? undefined : await takeOver(settings.control);
    try {
      pool.#listeners = listen(settings, options, old?.listeners ?? []);
      if (settings.per === "pool") await pool.#startAll();
      if (settings.control !== undefined) {
        await old?.drain();
        pool.#control = new ControlServer(settings.control, () => pool.#listeners.map(duplicate), () => pool.close());
      }
      if (pool.#isHandingOver) { for (const listener of pool.#listeners) pool.#keep(pool.#handOver(listener)); }
      if (settings.signals) pool.#signals.listen();
      return pool;
    } catch (error) {
      await pool.close({ grace: 0 });
      throw error;
    } finally {
      old?.close();
    }
  }

  /** Where it listens. */
  get addr(): Deno.NetAddr {
    const [listener] = this.#listeners;
    if (listener === undefined) throw new Deno.errors.BadResource("Cannot tell the address: the pool is closed");
    return listener.addr;
  }

  /** When the pool has closed; rejects if it has given up, because its children failed one after the other. */
  get closed(): Promise<void> {
    return this.#closed.promise;
  }

  /**
   * Tells of each child, those that drain included.
   *
   * @example Two threads, nothing to do yet
   * ```ts
   * import { Pool } from "@c10k/sockets/process";
   *
   * const source = `
   *   import { serve } from "${import.meta.resolve("@c10k/sockets/process")}";
   *   await serve((conn) => conn.readable.pipeTo(conn.writable));
   * `;
   * const module = `data:application/typescript,${encodeURIComponent(source)}`; // or a file's URL
   * await using pool = await Pool.start({ kind: "worker", module, size: 2, listen: { hostname: "127.0.0.1", port: 0 } });
   * console.log(pool.stats().map(({ state, active }) => [state, active])); // serving, 0, twice
   * ```
   */
  stats(): ChildStats[] {
    const current = this.#children.filter((child) => child !== undefined);
    return [...current, ...this.#others].map((child) => ({
      id: child.child.id,
      kind: child.child.kind,
      pid: child.child.pid,
      state: child.state,
      active: child.active,
      total: child.total,
      restarts: this.#replaced[child.slot] ?? 0,
      since: child.since,
    }));
  }

  /**
   * Replaces all children, for a module that has changed: the new ones serve
   * before the old ones drain, and the listening socket stays open.
   *
   * @returns When the new ones serve, and the old ones take no more connections.
   * @throws {Error} If a new child fails before it serves; the old ones stay then.
   *
   * @example Replace the children
   * ```ts
   * import { Pool } from "@c10k/sockets/process";
   *
   * const source = `
   *   import { serve } from "${import.meta.resolve("@c10k/sockets/process")}";
   *   await serve((conn) => conn.readable.pipeTo(conn.writable));
   * `;
   * const module = `data:application/typescript,${encodeURIComponent(source)}`; // or a file's URL
   * await using pool = await Pool.start({ kind: "worker", module, size: 1, listen: { hostname: "127.0.0.1", port: 0 } });
   * await pool.reload();
   * console.log(pool.stats().some(({ state }) => state === "serving")); // true
   * ```
   */
  reload(): Promise<void> {
    if (this.#closing !== undefined) {
      return Promise.reject(new Deno.errors.BadResource("Cannot reload: the pool is closed"));
    }
    const before = this.#reloading ?? Promise.resolve();
    const mine = before.catch(() => {}).then(() => this.#reload());
    this.#reloading = mine;
    return mine;
  }

  /**
   * Closes the pool: takes no more connections, lets those that are open
   * finish, and ends the children. Calling it again waits for the same end.
   *
   * @param options How long connections may take; by default the pool's own grace.
   *
   * @example Within a second
   * ```ts
   * import { Pool } from "@c10k/sockets/process";
   *
   * const source = `
   *   import { serve } from "${import.meta.resolve("@c10k/sockets/process")}";
   *   await serve((conn) => conn.readable.pipeTo(conn.writable));
   * `;
   * const module = `data:application/typescript,${encodeURIComponent(source)}`; // or a file's URL
   * await using pool = await Pool.start({ kind: "worker", module, size: 1, listen: { hostname: "127.0.0.1", port: 0 } });
   * await pool.close({ grace: 1_000 });
   * ```
   */
  close(options: ShutdownOptions = {}): Promise<void> {
    checkOptions(options);
    const grace = checkDuration(options.grace ?? this.#settings.grace, "grace");
    return this.#closing ??= this.#close(grace, undefined);
  }

  /** Closes the pool at the end of an `await using` block. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  get #isHandingOver(): boolean {
    const { balance } = this.#settings;
    return balance === "round-robin" || balance === "least-connections";
  }

  get #serving(): PoolChild[] {
    return this.#children.filter((child) => child?.isServing) as PoolChild[];
  }

  async #startAll(): Promise<void> {
    const slots = Array.from({ length: this.#settings.size }, (_, slot) => slot);
    await Promise.all(slots.map(async (slot) => {
      this.#replaced[slot] = 0;
      this.#install(slot, await this.#startChild(slot));
    }));
  }

  /** Starts a child for a slot, and resolves once it serves. */
  async #startChild(slot: number, once = false): Promise<PoolChild> {
    const { kind, module, child: options, startTimeout } = this.#settings;
    const child = new PoolChild(slot, kind, module, options, startTimeout, {
      changed: (child) => this.#changed(child),
      full: (child) => this.#look(child),
      ended: (child, error) => this.#ended(child, error),
    });
    this.#others.add(child);
    try {
      await child.ready;
      if (this.#closing !== undefined && !once) throw new Deno.errors.Interrupted("The pool was closed meanwhile");
      const listeners = this.#isHandingOver ? [] : this.#listenersOf(slot).map(duplicate);
      await child.start(this.#startOf(child.child.id, once), listeners);
    } catch (error) {
      child.kill();
      this.#others.delete(child);
      throw error;
    }
    return child;
  }

  /** Puts a child that serves into its slot; it may have failed since. */
  #install(slot: number, child: PoolChild): void {
    this.#others.delete(child);
    this.#children[slot] = child;
    if (child.state === "ended") this.#ended(child, child.failure);
    else this.#wakeUp();
  }

  #startOf(id: number, once: boolean): Start {
    const { balance, maxConnections, size } = this.#settings;
    const part = this.#isHandingOver ? Infinity : Math.ceil(maxConnections / size);
    return {
      do: "start",
      id,
      mode: this.#isHandingOver ? "hand-over" : "accept",
      limit: part,
      shared: balance === "shared",
      once,
    };
  }

  /** With a socket for each child, more than children after a takeover, each child has its part of them. */
  #listenersOf(slot: number): TcpListener[] {
    const { balance, size } = this.#settings;
    return balance === "reuseport" ? this.#listeners.filter((_, i) => i % size === slot) : this.#listeners;
  }

  #changed(child: PoolChild): void {
    if (child.hasServed) this.#restarts.succeed();
    this.#wakeUp();
  }

  #wakeUp(): void {
    this.#wake.resolve();
    this.#wake = Promise.withResolvers();
  }

  /** Who was woken for a connection may not take it any more: the others look. */
  #look(child: PoolChild): void {
    if (this.#settings.balance !== "shared" || this.#closing !== undefined) return;
    if (this.#listeners.every((listener) => listener.queue().length === 0)) return;
    for (const other of this.#serving) if (other !== child) other.look();
  }

  #ended(child: PoolChild, error: Error | undefined): void {
    this.#others.delete(child);
    const { slot } = child;
    const wasCurrent = this.#children[slot] === child;
    if (wasCurrent) this.#children[slot] = undefined;
    this.#wakeUp();
    if (error === undefined || this.#closing !== undefined) return;
    if (wasCurrent) {
      this.#look(child);
      this.#replace(slot, child, error);
    }
  }

  /** Puts another child in the place of one that has failed, later each time. */
  #replace(slot: number, failed: { hasServed: boolean; since: Date }, error: unknown): void {
    const delay = this.#restarts.fail(failed);
    if (delay === undefined) return this.#giveUp(error);
    this.#after(delay, async () => {
      const since = new Date();
      try {
        const child = await this.#startChild(slot);
        this.#replaced[slot] = (this.#replaced[slot] ?? 0) + 1;
        // It may have accepted already.
        if (this.#closing !== undefined || this.#children[slot] !== undefined) return void this.#drain(child);
        this.#install(slot, child);
      } catch (error) {
        if (this.#closing === undefined && this.#children[slot] === undefined) {
          this.#replace(slot, { hasServed: false, since }, error);
        }
      }
    });
  }

  #giveUp(error: unknown): void {
    const { failures } = this.#restarts;
    const message = error instanceof Error ? error.message : String(error);
    const reason = new Error(
      `The pool has stopped, since ${failures} children in a row have failed, at last: ${message}`,
      {
        cause: error,
      },
    );
    this.#closing ??= this.#close(0, reason);
  }

  async #reload(): Promise<void> {
    if (this.#closing !== undefined) throw new Deno.errors.BadResource("Cannot reload: the pool is closed");
    if (this.#settings.per === "connection") return; // each child is new
    const slots = [...this.#children.keys()];
    const started = await Promise.allSettled(slots.map((slot) => this.#startChild(slot)));
    const failure = started.find((result) => result.status === "rejected");
    const fresh = started.flatMap((result) => result.status === "fulfilled" ? [result.value] : []);
    if (failure !== undefined || this.#closing !== undefined) {
      for (const child of fresh) this.#drain(child);
      throw failure?.reason ?? new Deno.errors.Interrupted("Cannot reload: the pool was closed meanwhile");
    }
    const old = fresh.map(({ slot }) => this.#children[slot]).filter((child) => child !== undefined);
    for (const child of fresh) this.#install(child.slot, child);
    for (const child of old) this.#drain(child);
    await Promise.all(old.map(({ stopped }) => stopped));
  }

  #drain(child: PoolChild, grace = this.#settings.grace): Promise<void> {
    this.#others.add(child);
    return child.drain(grace);
  }

  async #close(grace: number, failure: Error | undefined): Promise<void> {
    this.#signals.stop();
    this.#control?.close();
    this.#accepting.abort();
    for (const timer of this.#timers) clearTimeout(timer);
    this.#wakeUp();
    if (this.#isHandingOver && failure === undefined) {
      // Who was accepted is served.
      await Promise.race([Promise.all(this.#giving), new Promise((resolve) => this.#after(grace, resolve))]);
      await this.#handOverRest();
    }
    for (const timer of this.#timers) clearTimeout(timer);
    // Children that accept hold the same sockets until they have taken what is in the queue.
    for (const listener of this.#listeners.splice(0)) listener.close();
    const children = [...this.#children, ...this.#others].filter((child) => child !== undefined);
    this.#children.length = 0;
    await Promise.all(children.map((child) => child.state === "starting" ? child.kill() : this.#drain(child, grace)));
    await Promise.all(children.map(({ child }) => child.closed));
    if (failure === undefined) this.#closed.resolve();
    else this.#closed.reject(failure);
  }

  /** Accepts, and hands each connection to a child. */
  async #handOver(listener: TcpListener): Promise<void> {
    const { signal } = this.#accepting;
    try {
      while (!signal.aborted) {
        while (!this.#hasRoom && !signal.aborted) await this.#wake.promise;
        if (signal.aborted) return;
        const conn = await listener.accept({ signal });
        if (this.#settings.per === "connection") this.#keep(this.#giveAlone(conn));
        else await this.#give(conn);
      }
    } catch (error) {
      if (!signal.aborted) this.#closing ??= this.#close(0, error as Error);
    }
  }

  get #hasRoom(): boolean {
    const { per, size, maxConnections } = this.#settings;
    const open = this.#starting + [...this.#serving, ...this.#others].reduce((sum, child) => sum + child.active, 0);
    if (open >= maxConnections) return false;
    if (per === "pool") return this.#serving.length > 0;
    return this.#starting + [...this.#others].filter(({ state }) => state !== "starting").length < size;
  }

  async #give(conn: TcpConn): Promise<void> {
    while (true) {
      const child = this.#choose();
      if (child === undefined) {
        if (this.#closing !== undefined) return conn.close();
        await this.#wake.promise;
        continue;
      }
      try {
        return await child.hand(conn);
      } catch {
        // The connection is still here: another child takes it, or this one later.
        if (child.isServing) await new Promise((resolve) => setTimeout(resolve, RETRY_DELAY));
      }
    }
  }

  /** A fresh child for one connection; others are accepted meanwhile. */
  async #giveAlone(conn: TcpConn): Promise<void> {
    this.#starting++;
    try {
      while (true) {
        const since = new Date();
        try {
          const child = await this.#startChild(0, true);
          return await child.hand(conn);
        } catch (error) {
          if (this.#closing !== undefined) return conn.close();
          const delay = this.#restarts.fail({ hasServed: false, since });
          if (delay === undefined) this.#giveUp(error);
          else await new Promise((resolve) => setTimeout(resolve, delay));
        }
      }
    } finally {
      this.#starting--;
      this.#wakeUp();
    }
  }

  /** What is to be done before the pool closes. */
  #keep(work: Promise<void>): void {
    this.#giving.add(work);
    work.finally(() => this.#giving.delete(work));
  }

  #after(ms: number, then: (value?: unknown) => void): void {
    if (ms === Infinity) return;
    const timer = setTimeout(() => {
      this.#timers.delete(timer);
      then();
    }, ms);
    this.#timers.add(timer);
  }

  #choose(): PoolChild | undefined {
    const children = this.#serving;
    if (children.length === 0) return undefined;
    if (this.#settings.balance === "round-robin") {
      // By slot, so that a child that is missing for a while does not shift the turns of the others.
      for (let tries = 0; tries < this.#children.length; tries++) {
        const child = this.#children[this.#next++ % this.#children.length];
        if (child?.isServing) return child;
      }
    }
    const from = this.#next++ % children.length;
    const inTurn = [...children.slice(from), ...children.slice(0, from)];
    return inTurn.reduce((least, child) => child.active < least.active ? child : least);
  }

  /** What the kernel has finished handshakes with already is served, too. */
  async #handOverRest(): Promise<void> {
    for (const listener of this.#listeners) {
      while (this.#hasRoom) {
        const conn = listener.tryAccept();
        if (conn === undefined) break;
        const child = this.#choose();
        if (child === undefined) conn.close();
        else await child.hand(conn).catch(() => conn.close());
      }
    }
  }

  /** What `console.log` shows. */
  [Symbol.for("Deno.customInspect")](inspect: typeof Deno.inspect, options: Deno.InspectOptions): string {
    const addr = this.#listeners[0]?.addr;
    return `Pool ${inspect({ addr: addr && formatAddress(addr), children: this.stats() }, options)}`;
  }
}

/** The listening sockets: what was taken over, and as many more as are needed. */
function listen(settings: PoolSettings, options: PoolOptions, old: TcpListener[]): TcpListener[] {
  const { balance, size } = settings;
  const listeners = [...old];
  if (listeners.length === 0) {
    listeners.push(options.listener ?? bind(options.listen as TcpListenOptions, balance === "reuseport"));
  } else {
    options.listener?.close();
  }
  try {
    const [first] = listeners;
    while (balance === "reuseport" && listeners.length < size && first !== undefined) {
      const { hostname, port } = first.addr;
      listeners.push(bind({ ...options.listen, hostname, port }, true));
    }
  } catch (error) {
    for (const listener of listeners) listener.close();
    throw error;
  }
  return listeners;
}

function bind(options: TcpListenOptions, reusePort: boolean): TcpListener {
  return TcpListener.bind({ ...options, ...(reusePort ? { reusePort } : {}) });
}

/** The same listening socket by another descriptor, for one who gets a copy. */
function duplicate(listener: TcpListener): TcpListener {
  return TcpListener.fromFd(syscall("fcntl", listener.fd ?? -1, F_DUPFD_CLOEXEC, 0));
}
