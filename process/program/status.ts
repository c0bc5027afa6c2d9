/** How threads and processes end. */

/**
 * How a child has ended.
 *
 * @example How a thread has ended
 * ```ts
 * import { type ChildStatus, spawnWorker } from "@c10k/sockets/process";
 *
 * const source = `
 *   import { parent } from "${import.meta.resolve("@c10k/sockets/process")}";
 *   for await (const { message } of parent().messages()) await parent().send("got " + message);
 * `;
 * const module = `data:application/typescript,${encodeURIComponent(source)}`; // or a file's URL
 *
 * const child = spawnWorker(module);
 * const status: ChildStatus = await child.shutdown();
 * console.log(status.success, status.code); // true 0
 * ```
 */
export interface ChildStatus {
  /** It has ended by itself, and without an error. */
  readonly success: boolean;
  /**
   * The exit code; for a thread 0, or 1 after an error; 128 and the signal's number after a signal. −1 if it is not
   * known: the status of a process is lost if this one ignores SIGCHLD, and `error` says so.
   */
  readonly code: number;
  /** The signal that has ended it; for a thread that was killed `"SIGKILL"`. */
  readonly signal: Deno.Signal | undefined;
  /**
   * What it has thrown, where that is known: of a thread. Of a process: why it was ended by the library, or why its
   * status is not known.
   */
  readonly error: Error | undefined;
}

/** What is known of a process whose status is lost. */
export const LOST = { success: false, code: -1, signal: undefined } as const satisfies Omit<ChildStatus, "error">;
