/**
 * What a socket tells a multiplexer about itself. The modules of the sockets
 * announce here how to ask theirs, for nothing in this folder knows them.
 */

interface PollableBase {
  /** What errors call it. */
  readonly name: string;
  readonly isOpen: boolean;
  /** It accepts nothing for now, so there is no use in reporting that it could. */
  readonly isPaused: boolean;
  /** Begins to notify `watcher`; returns how to stop that. */
  watch(watcher: Watcher): () => void;
}

/** A socket of the native engine: the kernel reports its readiness. */
export interface NativePollable extends PollableBase {
  readonly engine: "native";
  /** The descriptor; it must not be read once the socket is closed. */
  readonly fd: number;
}

/** A socket of the runtime engine, which reports its readiness itself. */
export interface RuntimePollable extends PollableBase {
  readonly engine: "runtime";
  /**
   * Returns what is ready, as bits of `ReadyBit`. Starts what has to run ahead for `interest`, bits of `InterestBit`, and
   * to meet an error, which is reported whatever the interest is; `READ_CLOSED` alone is not, if there is none in
   * reading.
   */
  poll(interest: number): number;
}

/** A socket as the multiplexer sees it. */
export type Pollable = NativePollable | RuntimePollable;

/** Whom a socket tells of itself. */
export interface Watcher {
  /** The answer of `isPaused`, and on the runtime engine of `poll`, may be another one. */
  changed(): void;
  /** The descriptor is open still, and will be closed or given away right after. */
  closing(): void;
}

/** The watchers of one socket. */
export class Watchers {
  readonly #watchers = new Set<Watcher>();

  get isEmpty(): boolean {
    return this.#watchers.size === 0;
  }

  add(watcher: Watcher): () => void {
    this.#watchers.add(watcher);
    return () => void this.#watchers.delete(watcher);
  }

  changed(): void {
    for (const watcher of this.#watchers) watcher.changed();
  }

  closing(): void {
    for (const watcher of [...this.#watchers]) watcher.closing();
  }
}

const ways: ((socket: object) => Pollable | undefined)[] = [];

/** Announces a class of sockets: how to get at the {@linkcode Pollable} of one, `undefined` if it is another's. */
export function announcePollable(way: (socket: object) => Pollable | undefined): void {
  ways.push(way);
}

/** The {@linkcode Pollable} behind a socket of this library, `undefined` if it is something else. */
export function pollableOf(socket: object): Pollable | undefined {
  for (const way of ways) {
    const pollable = way(socket);
    if (pollable !== undefined) return pollable;
  }
  return undefined;
}
