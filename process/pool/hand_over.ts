/** Accepting for the children: the pool takes each connection and hands it to one of them. */

import { sleep, Timer } from "../../internal/timer.ts";
import type { TcpConn } from "../../tcp/tcp_conn.ts";
import type { TcpListener } from "../../tcp/tcp_listener.ts";
import type { PoolChild } from "./pool_child.ts";
import type { PoolSettings } from "./options.ts";
import type { Supervisor } from "./supervisor.ts";

/** Milliseconds until a connection is offered again that the kernel would not pass on. */
const RETRY_DELAY = 10;

/** Chooses who gets the next connection, for `"round-robin"`, `"least-connections"` and `per: "connection"`. */
export class HandOver {
  readonly #settings: PoolSettings;
  readonly #children: Supervisor;
  readonly #failed: (error: Error) => void;
  readonly #accepting = new AbortController();
  /** Connections on their way to a child, and the loops that accept them. */
  readonly #giving = new Set<Promise<void>>();
  /** Resolves when {@linkcode HandOver.stop} waits no longer. */
  readonly #late = Promise.withResolvers<void>();
  #isLate = false;
  #timer: Timer | undefined;
  #listeners: readonly TcpListener[] = [];
  #next = 0;
  /** Connections that have no child of their own yet. */
  #alone = 0;

  /** `failed` is told why a listener accepts no more. */
  constructor(settings: PoolSettings, children: Supervisor, failed: (error: Error) => void) {
    this.#settings = settings;
    this.#children = children;
    this.#failed = failed;
  }

  start(listeners: readonly TcpListener[]): void {
    this.#listeners = [...listeners];
    for (const listener of listeners) this.#keep(this.#run(listener));
  }

  /**
   * Accepts no more; who was accepted is served, if that is possible within the grace. `last`: no other program accepts
   * from the listeners, so connections in their accept queues are served as well.
   */
  async stop(grace: number, last: boolean): Promise<void> {
    this.#accepting.abort();
    this.#children.wake();
    this.hurry(grace);
    if (last) { for (const listener of this.#listeners) this.#keep(this.#drain(listener)); }
    // Each that is accepted now adds to them.
    while (this.#giving.size > 0 && !this.#isLate) await Promise.race([Promise.all(this.#giving), this.#late.promise]);
    this.#timer?.cancel();
    this.#late.resolve();
  }

  /** Makes the end of {@linkcode HandOver.stop} come sooner. */
  async hurry(grace: number): Promise<void> {
    this.#timer?.cancel();
    this.#timer = new Timer(grace, () => this.#late.resolve());
    await this.#late.promise;
    this.#isLate = true;
    this.#timer.cancel();
  }

  async #run(listener: TcpListener): Promise<void> {
    const { signal } = this.#accepting;
    try {
      while (true) {
        while (!this.#hasRoom && !signal.aborted) await this.#children.changed;
        if (signal.aborted) return;
        const conn = await listener.accept({ signal });
        // Another listener may have taken the last place.
        while (this.#isFull && !signal.aborted) await this.#children.changed;
        if (this.#settings.per === "connection") this.#keep(this.#giveAlone(conn));
        else await this.#give(conn);
      }
    } catch (error) {
      if (!signal.aborted) this.#failed(error as Error);
    }
  }

  get #isFull(): boolean {
    const { maxConnections } = this.#settings;
    if (maxConnections === Infinity) return false;
    return this.#children.all.reduce((sum, { active }) => sum + active, this.#alone) >= maxConnections;
  }

  get #hasRoom(): boolean {
    if (this.#isFull) return false;
    if (this.#settings.per === "pool") return this.#children.serving.some((child) => child?.isBusy === false);
    const theirs = this.#children.all.filter(({ state }) => state !== "starting");
    return this.#alone + theirs.length < this.#settings.size;
  }

  async #give(conn: TcpConn): Promise<void> {
    while (!this.#tryGive(conn)) {
      const isServed = this.#children.serving.some((child) => child !== undefined);
      if (!isServed && this.#children.isEnding) return conn.close();
      // A child will have room, or the kernel will: of that nobody is told.
      await Promise.race([this.#children.changed, ...(isServed ? [sleep(RETRY_DELAY)] : [])]);
    }
  }

  /** Hands a connection to the one whose turn it is, or to another one that can take it. */
  #tryGive(conn: TcpConn): boolean {
    return this.#inTurn().some((child) => {
      try {
        return child.hand(conn);
      } catch {
        // The connection is still here.
        return false;
      }
    });
  }

  #inTurn(): PoolChild[] {
    const slots = this.#children.serving;
    const from = this.#next % slots.length;
    const inTurn = [...slots.slice(from), ...slots.slice(0, from)];
    // A child that is missing for a while does not shift the turns of the others.
    this.#next = from + 1 + Math.max(inTurn.findIndex((child) => child !== undefined), 0);
    // One that does not come to taking what it has gets nothing more, and does not hold up the others.
    const free = inTurn.filter((child) => child !== undefined && !child.isBusy) as PoolChild[];
    return this.#settings.balance === "round-robin" ? free : free.sort((a, b) => a.active - b.active);
  }

  /** A fresh child for one connection; others are accepted meanwhile. */
  async #giveAlone(conn: TcpConn): Promise<void> {
    this.#alone++;
    try {
      while (!this.#children.isEnding) {
        const since = new Date();
        let child: PoolChild | undefined;
        try {
          child = await this.#children.startChild(0, true);
          if (child.hand(conn)) return;
          throw new Deno.errors.WouldBlock(`Cannot hand a connection to ${child.child.name}: it takes none`);
        } catch (error) {
          child?.kill();
          if (this.#children.isEnding) break;
          await sleep(this.#children.fail(0, { hasServed: false, since }, error) ?? 0);
        }
      }
      conn.close();
    } finally {
      this.#alone--;
      this.#children.wake();
    }
  }

  /** Serves what the kernel has finished handshakes with already, as there is room for it. */
  async #drain(listener: TcpListener): Promise<void> {
    listener.drain();
    for await (const conn of listener) {
      if (!this.#hasRoom) this.#children.finish();
      while (!this.#hasRoom && !this.#isLate) await Promise.race([this.#children.changed, this.#late.promise]);
      if (this.#isLate) conn.close();
      else if (this.#settings.per === "connection") this.#keep(this.#giveAlone(conn));
      else await this.#give(conn);
    }
  }

  /** What is to be done before the pool closes. */
  #keep(work: Promise<void>): void {
    this.#giving.add(work);
    work.finally(() => this.#giving.delete(work));
  }
}
