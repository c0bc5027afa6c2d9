/** What a pool and its children say to each other. */

import type { Link } from "./link.ts";

/** How a child gets its connections. */
export interface Start {
  readonly do: "start";
  /** The child's number. */
  readonly id: number;
  /** It accepts from the listeners that come with this, or is handed each connection. */
  readonly mode: "accept" | "hand-over";
  /** How many listeners come with this. */
  readonly listeners: number;
  /** Connections at a time. */
  readonly limit: number;
  /** Others accept from the same listeners. */
  readonly shared: boolean;
  /** One connection only, and then the end. */
  readonly once: boolean;
}

/** From the pool to a child. */
export type ToChild =
  | Start
  /** A connection comes with this. */
  | { readonly do: "connection" }
  /** Somebody else may have been woken for a connection and not have taken it. */
  | { readonly do: "look" }
  /** Finish what is open soon: the pool closes, and others wait for room. */
  | { readonly do: "finish" }
  /** Take no more, and finish what is open; `last`: nobody else accepts, so what is in the queue is this child's. */
  | { readonly do: "drain"; readonly last?: boolean }
  /** There are no connections for it: the parent is no pool. */
  | { readonly do: "refuse" };

/** From a child to the pool. */
export type FromChild =
  /** `serve` was called. */
  | { readonly is: "ready" }
  /** How many connections it has had, and has finished. */
  | { readonly is: "counting"; readonly opened: number; readonly closed: number }
  /** It has as many as it may, and does not accept. */
  | { readonly is: "full" }
  /** Somebody else has told it to end, and it waits to be drained. */
  | { readonly is: "leaving" }
  /** It takes no more. */
  | { readonly is: "draining" }
  /** All are finished. */
  | { readonly is: "drained" };

/** Answers a child that wants to serve, and that no pool has started: nothing would ever come. */
export function refuseToServe(link: Link): void {
  link.onPacket = ({ type, body }, sockets) => {
    for (const socket of sockets) socket.close();
    if (type === "pool" && (body as FromChild | undefined)?.is === "ready") {
      link.post({ type: "pool", body: { do: "refuse" } satisfies ToChild }).catch(() => {});
    }
  };
}
