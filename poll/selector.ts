/**
 * What a backend of readiness implements, with every rule in this one place.
 *
 * Rules for every implementation:
 *
 * - A registration belongs to a descriptor's number *and* a generation, which
 *   its events carry. The kernel hands a closed number out again at once; who
 *   registers counts generations, and drops events of old ones.
 * - `unregister` comes before the descriptor is closed. Closing alone is not
 *   enough: a duplicate elsewhere keeps a registration alive.
 * - Timeouts are in milliseconds. Fractions are rounded up where the kernel
 *   takes whole ones, so that a wait never ends early and 0.4 does not spin;
 *   negative or infinite means no limit.
 * - A wait may return early with no event (EINTR, a spurious wake-up). A ready
 *   flag is a hint: the call may still find that it would block.
 * - Errors and hang-ups are reported whether asked for or not.
 * - Events stand in the selector until the next wait, and are read by index:
 *   nothing is allocated for an event.
 * - While a wait elsewhere is under way no other wait is made; registering is
 *   allowed, and takes effect at once where the selector is `live`, else with
 *   the next wait.
 * - When there is more than fits into the events of one wait, the next one
 *   begins where it ended: nobody is passed over twice.
 * - A descriptor that was closed without being unregistered is silent, but on
 *   epoll as long as a duplicate of it is open.
 */

import type { RuntimePollable } from "./pollable.ts";

/** What to be told of; bits of an interest. */
export const InterestBit = {
  READABLE: 1,
  WRITABLE: 2,
  /** Out-of-band data. */
  PRIORITY: 4,
  /** Tell of changes, not of states: once for each arrival. */
  EDGE: 8,
  /** Tell once, then nothing until modified. */
  ONESHOT: 16,
  /** Wake one of several selectors that wait for the same descriptor. */
  EXCLUSIVE: 32,
} as const;

/** What happened; bits of an event. */
export const ReadyBit = {
  READABLE: 1,
  WRITABLE: 2,
  PRIORITY: 4,
  /** The peer has finished, or the read side is shut down. */
  READ_CLOSED: 8,
  /** Nothing can be written any more. */
  WRITE_CLOSED: 16,
  ERROR: 32,
} as const;

/** What stays so once it has been told. */
export const LASTING: number = ReadyBit.READ_CLOSED | ReadyBit.WRITE_CLOSED | ReadyBit.PRIORITY;
/** What makes a read, and what makes a write, worth a call: room or data, an end, or an error to fetch. */
export const MAY_READ: number = ReadyBit.READABLE | ReadyBit.READ_CLOSED | ReadyBit.ERROR;
export const MAY_WRITE: number = ReadyBit.WRITABLE | ReadyBit.WRITE_CLOSED | ReadyBit.ERROR;

/** Events that can let a call go on which receives, or one which sends. */
export const READ_SIDE: number = ReadyBit.READABLE | ReadyBit.READ_CLOSED | ReadyBit.PRIORITY | ReadyBit.ERROR;
export const WRITE_SIDE: number = ReadyBit.WRITABLE | ReadyBit.WRITE_CLOSED | ReadyBit.ERROR;

/**
 * The ways to learn of readiness.
 *
 * @example Ask for the oldest
 * ```ts
 * import { type Backend, Multiplexer } from "@c10k/sockets/mux";
 *
 * const backend: Backend = "select";
 * if (Multiplexer.backends().includes(backend)) {
 *   using mux = new Multiplexer({ backend });
 *   console.log(mux.backend);
 * }
 * ```
 */
export type Backend = "epoll" | "poll" | "select" | "runtime";

/** A backend. */
export interface Selector {
  readonly backend: Backend;
  /** The bits of {@linkcode InterestBit} that it knows. */
  readonly supports: number;
  /** Whether a wait elsewhere takes in what changes meanwhile; if not, who changes something ends that wait. */
  readonly live: boolean;
  /**
   * The shortest wait on this thread, in milliseconds, to which shorter ones
   * are rounded up; infinite if it cannot wait on this thread at all.
   */
  readonly finestWait: number;
  /** `pollable` is for the runtime backend, which asks the socket instead of the kernel; `fd` is just a name there. */
  register(fd: number, generation: number, interest: number, pollable?: RuntimePollable): void;
  modify(fd: number, generation: number, interest: number): void;
  unregister(fd: number): void;
  /** Waits on this thread and returns the number of events. */
  select(timeout: number): number;
  /** Waits without holding this thread and resolves to the number of events. */
  selectElsewhere(timeout: number): Promise<number>;
  /** The descriptor of the event at `index`. */
  fd(index: number): number;
  /** The generation it was registered with. */
  generation(index: number): number;
  /** What happened: bits of {@linkcode ReadyBit}. */
  ready(index: number): number;
  close(): void;
}
