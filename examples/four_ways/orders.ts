/** What the parent tells the process that drives the load, and what it hears of it. */

import type { Waits } from "./waits.ts";

/** What to do. */
export type Order =
  /** Connect so many clients; RLIMIT_NOFILE is `descriptors`. */
  | { readonly do: "open"; readonly port: number; readonly clients: number; readonly descriptors: number }
  /** Open no more, and wait for those that have begun, or not even for them. */
  | { readonly do: "enough"; readonly atOnce: boolean }
  /** Let all clients that were opened ask and wait, again and again, for these ms. */
  | { readonly do: "measure"; readonly duration: number };

/** Why no more clients could be opened. */
export type Stop =
  /** As many as were asked for are open. */
  | "all"
  /** The parent has said so. */
  | "enough"
  /** A new client was disconnected, without an answer. */
  | "closed"
  /** An error of connect(2), such as `EMFILE`. */
  | { readonly code: string };

/** What has happened. */
export type News =
  /** How many are open; `silent`: some are, and no other has been answered for a while. */
  | { readonly is: "opening"; readonly open: number; readonly silent: boolean }
  | { readonly is: "opened"; readonly open: number; readonly stop: Stop; readonly waiting: number }
  /** The measured time begins. */
  | { readonly is: "begun" }
  /** It has ended, and clients wait for their last answers. */
  | { readonly is: "counted" }
  /** They have them; `lost` clients were disconnected or got no last answer. `duration` is what was measured, in ms. */
  | Waits & { readonly is: "measured"; readonly duration: number; readonly lost: number }
  /** An answer was not what had been sent: nothing that was measured counts. */
  | { readonly is: "wrong"; readonly why: string };
