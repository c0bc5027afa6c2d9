/** What commands are, and what they work on. */

import { Refusal } from "./errors.ts";
import type { Replies } from "./replies.ts";
import type { Requests } from "./requests.ts";
import type { Store } from "./store.ts";

/** What commands work on. */
export interface Service {
  readonly store: Store;
  readonly replies: Replies;
  /** What INFO tells, by section. */
  info(): Record<string, Record<string, string | number>>;
}

/** A command. */
export interface Command {
  readonly name: string;
  /** Words, the name among them; at least so many if negative. */
  readonly arity: number;
  /** Does it, and replies. */
  run(request: Requests, service: Service): void;
}

/** The request has too few words, or too many. */
export function wrongCount(name: string): Refusal {
  return new Refusal(`ERR wrong number of arguments for '${name}' command`);
}
