/** What signals ask a pool for. */

import type { Os } from "../../internal/error_numbers.ts";

/** Signals that end a pool, and those that replace its children. */
interface PoolSignals {
  readonly ending: readonly Deno.Signal[];
  readonly reloading: readonly Deno.Signal[];
}

/**
 * Returns the signals that a pool listens for. On Windows they are events of the console: Ctrl-C, Ctrl-Break, and the
 * end of the session. SIGHUP is its window being closed, after which the process is ended.
 */
export function poolSignals(os: Os = Deno.build.os): PoolSignals {
  return os === "windows"
    ? { ending: ["SIGINT", "SIGBREAK", "SIGTERM"], reloading: [] }
    : { ending: ["SIGINT", "SIGTERM"], reloading: ["SIGHUP"] };
}

/** Milliseconds in which a signal is the same one again: a task runner passes on the Ctrl-C that the terminal sends. */
const SAME = 500;

/** Listens for the signals of {@linkcode poolSignals} until it is told to stop. */
export class Signals {
  readonly #end: () => void;
  readonly #reload: () => void;
  #listens = false;

  constructor(end: () => unknown, reload: () => Promise<unknown>) {
    let asked = -Infinity;
    this.#end = () => {
      const now = performance.now();
      if (now - asked < SAME) return;
      asked = now;
      end();
    };
    // A reload that fails leaves everything as it was, which somebody should be told.
    this.#reload = () => void reload().catch((error) => console.error(error));
  }

  listen(): void {
    this.#listens = true;
    for (const [signal, listener] of this.#all()) Deno.addSignalListener(signal, listener);
  }

  stop(): void {
    if (!this.#listens) return;
    this.#listens = false;
    for (const [signal, listener] of this.#all()) Deno.removeSignalListener(signal, listener);
  }

  #all(): (readonly [Deno.Signal, () => void])[] {
    const { ending, reloading } = poolSignals();
    return [
      ...ending.map((signal) => [signal, this.#end] as const),
      ...reloading.map((signal) => [signal, this.#reload] as const),
    ];
  }
}
