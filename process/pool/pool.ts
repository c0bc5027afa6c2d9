/** Children that serve the connections of one listener, and are replaced when they fail. */

import { formatAddress } from "../../internal/address.ts";
import { again, atCaller, rejectAtAwait } from "../../internal/stack.ts";
import { checkDuration, checkOptions } from "../../internal/validate.ts";
import type { TcpListener } from "../../tcp/tcp_listener.ts";
import type { ShutdownOptions } from "../child/child.ts";
import { HandOver } from "./hand_over.ts";
import { duplicate, listen } from "./listeners.ts";
import { checkPoolOptions, type PoolOptions, type PoolSettings } from "./options.ts";
import { Restarts } from "./restarts.ts";
import { Signals } from "./signals.ts";
import { Supervisor } from "./supervisor.ts";
import { ControlServer, takeOver } from "./upgrade.ts";

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
  readonly state: "starting" | "serving" | "draining";
  /** Connections that are open. */
  readonly active: number;
  /** Connections since it was started. */
  readonly total: number;
  /** How often a child in its place has ended and was replaced; reloads do not count. */
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
 * with the last failure. A child that gets a SIGTERM drains, and another takes
 * its place.
 *
 * SIGTERM and SIGINT to this program close the pool, SIGHUP reloads it.
 *
 * Each child that ends unasked gets one line on standard error: its kind, number and process, its exit code, signal or
 * error, and when the next one starts. Nothing is written about a child that ends because of {@linkcode Pool.close},
 * {@linkcode Pool.reload} or a SIGTERM.
 *
 * A child whose handler never lets its event loop turn is not noticed: what it
 * has waits, and of what is handed over up to 128 connections more.
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
  readonly #children: Supervisor;
  readonly #handOver: HandOver | undefined;
  readonly #closed = Promise.withResolvers<void>();
  readonly #signals: Signals;
  #listeners: TcpListener[] = [];
  #addr: Deno.NetAddr | undefined;
  #control: ControlServer | undefined;
  #reloading: Promise<void> | undefined;
  /** A reload that waits for the one that runs. */
  #nextReload: Promise<void> | undefined;
  #closing: Promise<void> | undefined;
  /** How long connections may take, once the pool closes. */
  #grace = Infinity;

  private constructor(settings: PoolSettings, restarts: Restarts) {
    if (settings === undefined) throw atCaller(new TypeError("Illegal constructor: use Pool.start"));
    this.#settings = settings;
    const fail = (error: Error) => void (this.#closing ??= this.#close(0, error));
    this.#children = new Supervisor(settings, restarts, () => this.#listeners, fail);
    const { balance } = settings;
    const isHandingOver = balance === "round-robin" || balance === "least-connections";
    this.#handOver = isHandingOver ? new HandOver(settings, this.#children, fail) : undefined;
    this.#signals = new Signals(
      // Who asks a second time does not want to wait.
      () => this.close(this.#closing === undefined ? {} : { grace: 0 }),
      () => this.#closing ?? this.reload(),
    );
  }

  /**
   * Starts the children, and resolves once all of them serve.
   *
   * Requires what {@linkcode TcpListener.bind} and {@linkcode spawnWorker} or {@linkcode spawnProcess} require.
   *
   * @param options What the children run, and where to listen.
   * @returns The pool.
   * @throws {Error} If a child fails before it serves; with what it has thrown as `cause`, where that is known.
   * @throws {Deno.errors.TimedOut} If a child does not call {@linkcode serve} in time.
   * @throws {Deno.errors.AddrInUse} If somebody listens there already.
   * @throws {Deno.errors.NotCapable} If a permission is not given.
   * @throws {Deno.errors.NotSupported} If the engine cannot do what is asked for.
   * @throws {Deno.errors.Busy} If another program takes over from the running one already.
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
    const pool = new Pool(settings, new Restarts(settings.restart));
    const { control } = settings;
    let old: Awaited<ReturnType<typeof takeOver>>;
    try {
      if (settings.listener !== undefined) pool.#listeners = [settings.listener];
      old = control === undefined ? undefined : await takeOver(control);
      pool.#listeners = listen(settings, old?.listeners ?? []);
      pool.#addr = pool.#listeners[0]?.addr;
      if (settings.per === "pool") await pool.#children.startAll();
      if (control !== undefined) {
        // What can fail is done before the other one is told to end.
        const answers = () => duplicate(pool.#listeners);
        pool.#control = new ControlServer(control, answers, () => pool.close(), old?.takeControl());
        await old?.drain();
        pool.#control.publish();
      }
      pool.#handOver?.start(pool.#listeners);
      if (settings.signals) pool.#signals.listen();
      return pool;
    } catch (error) {
      await pool.close({ grace: 0 });
      throw again(error);
    } finally {
      old?.close();
    }
  }

  /** Where it listens, or has listened until it was closed. */
  get addr(): Deno.NetAddr {
    return this.#addr as Deno.NetAddr;
  }

  /**
   * When the pool has closed; rejects if it has given up, because its children failed one after the other. A program
   * that does not look at it ends then, as with all rejections that nobody handles.
   */
  get closed(): Promise<void> {
    return this.#closed.promise;
  }

  /**
   * Tells of each child, those that drain included. Children tell what they have accepted and finished after some
   * milliseconds: what has just happened is not counted yet.
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
    return this.#children.all.flatMap((child) => {
      const { state, active, total, since, child: { id, kind, pid } } = child;
      if (state === "ended") return [];
      return { id, kind, pid, state, active, total, restarts: this.#children.replaced(child), since };
    });
  }

  /**
   * Replaces all children, for a module that has changed: the new ones serve
   * before the old ones drain, and the listening socket stays open.
   *
   * Local modules are read again. A reload that is asked for while one runs follows it, once for all that ask.
   *
   * @returns When the new ones serve, and the old ones take no more connections.
   * @throws {Error} If a new child fails before it serves; the old ones stay then.
   * @throws {Deno.errors.BadResource} If the pool is closed.
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
  async reload(): Promise<void> {
    this.#checkOpen();
    if (this.#settings.per === "connection") return; // each child is new
    try {
      await this.#reloadInTurn();
    } catch (error) {
      throw again(error);
    }
  }

  /**
   * Closes the pool: serves the connections that wait in the accept queue,
   * takes no more, lets those that are open finish, and ends the children. Calling it again waits for the same end,
   * which comes sooner if less grace is given.
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
    const { grace: asked } = options;
    const grace = checkDuration(asked ?? this.#settings.grace, "grace");
    if (this.#closing !== undefined && asked !== undefined) this.#hurry(grace);
    return this.#closing ??= this.#close(grace, undefined);
  }

  /** Closes the pool at the end of an `await using` block. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  #checkOpen(): void {
    if (this.#closing !== undefined) throw atCaller(new Deno.errors.BadResource("Cannot reload: the pool is closed"));
  }

  #reloadInTurn(): Promise<void> {
    if (this.#reloading === undefined && this.#nextReload === undefined) return this.#reload();
    const running = this.#reloading ?? Promise.resolve();
    return this.#nextReload ??= running.catch(() => {}).then(() => {
      this.#nextReload = undefined;
      return this.#reload();
    });
  }

  async #reload(): Promise<void> {
    this.#checkOpen();
    this.#reloading = this.#children.renew();
    try {
      await this.#reloading;
    } finally {
      this.#reloading = undefined;
    }
  }

  #hurry(grace: number): void {
    this.#grace = Math.min(this.#grace, grace);
    this.#handOver?.hurry(this.#grace);
    this.#children.hurry(this.#grace);
  }

  async #close(grace: number, failure: Error | undefined): Promise<void> {
    this.#grace = grace;
    const begun = performance.now();
    // Another program that has taken over goes on with what is in the queues.
    const last = grace > 0 && this.#control?.hasSuccessor !== true;
    this.#control?.close();
    await this.#handOver?.stop(grace, last);
    // Children that accept hold the same sockets until they have taken what is in the queue.
    const listeners = this.#listeners.splice(0);
    for (const listener of listeners) listener.close();
    await this.#children.endAll(Math.max(this.#grace - (performance.now() - begun), 0), last);
    this.#signals.stop();
    if (failure === undefined) this.#closed.resolve();
    else rejectAtAwait(this.#closed.resolve, this.#closed.reject, failure);
  }

  /** What `console.log` shows. */
  [Symbol.for("Deno.customInspect")](inspect: typeof Deno.inspect, options: Deno.InspectOptions): string {
    return `Pool ${inspect({ addr: formatAddress(this.addr), children: this.stats() }, options)}`;
  }
}
