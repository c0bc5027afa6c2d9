/**
 * What is done when a program is unloaded. Mostly its process ends then, and the kernel does all of it; but with
 * `deno run --watch` the same process runs it again, and the files of one `deno test` share one. There descriptors, and
 * the children that hold copies of them, would stay.
 *
 * The event comes when the program ends or is to be run again, and in a Worker that closes itself. It does not come for
 * a Worker that is terminated; who has started that closes what it leaves open.
 */

/** The steps, in their order: nothing of this program runs after them. */
export const Unload = {
  /** Asks children to end, and takes back what others find by name. */
  END: 0,
  /** Waits for children: they hold copies of descriptors. */
  AWAIT: 1,
  /** Ends waits that are under way on other threads. */
  WAKE: 2,
  /** Gives these threads the time to return. */
  SETTLE: 3,
  /** Closes descriptors. */
  CLOSE: 4,
  /** Frees memory. */
  FREE: 5,
} as const;

type Step = typeof Unload[keyof typeof Unload];

const actions: readonly Set<() => void>[] = Object.values(Unload).map(() => new Set());
let listens = false;
let isOver = false;

/**
 * Whether this program was unloaded. Its event loop may still turn for a while, as that of `deno test` does: what
 * waited for sockets then waits for ever.
 */
export function isUnloaded(): boolean {
  return isOver;
}

/**
 * Does something when this program is unloaded, at once: promises may not settle any more.
 *
 * @returns A function that takes it back.
 */
export function whenUnloaded(step: Step, action: () => void): () => void {
  if (!listens) {
    listens = true;
    // Listeners are called in their order: those that a program adds at its top, before it opens anything, come first.
    globalThis.addEventListener("unload", unload);
  }
  const actionsThen = actions[step] as Set<() => void>;
  actionsThen.add(action);
  return () => void actionsThen.delete(action);
}

function unload(): void {
  isOver = true;
  for (const step of actions) {
    for (const action of step) {
      try {
        action();
      } catch { /* what follows is still to be done */ }
    }
  }
}
