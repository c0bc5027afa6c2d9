/** What signals ask a pool for. */

const ENDING: readonly Deno.Signal[] = ["SIGINT", "SIGTERM"];
/** Milliseconds in which a signal is the same one again: a task runner passes on the Ctrl-C that the terminal sends. */
const SAME = 500;

/** Listens for SIGINT and SIGTERM, and for SIGHUP, until it is told to stop. */
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
    // Windows has SIGINT only, and says so when it is asked for another.
    const ending = Deno.build.os === "windows" ? ENDING.slice(0, 1) : ENDING;
    const all = ending.map((signal) => [signal, this.#end] as const);
    return Deno.build.os === "windows" ? all : [...all, ["SIGHUP", this.#reload] as const];
  }
}
