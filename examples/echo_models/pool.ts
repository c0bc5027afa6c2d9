/** Echo by threads or processes: a few that stay, or a fresh one for each connection. */

import { Pool } from "@c10k/sockets/process";
import { type EchoServer, GRACE, type Listen } from "./program.ts";

/** Starts the pool; its children run `echo_child.ts`. */
export async function startPool(
  listen: Listen,
  kind: "worker" | "process",
  per: "pool" | "connection",
  size: number,
): Promise<EchoServer> {
  const module = new URL("../echo_child.ts", import.meta.url);
  const pool = await Pool.start({ kind, per, size, listen, module, grace: GRACE });
  const name = kind === "worker" ? "workers" : "processes";
  return {
    addr: pool.addr,
    how: per === "pool" ? `${size} ${name}` : `fresh ${name}, one for each connection, at most ${size} at a time`,
    open: () => pool.stats().reduce((sum, { active }) => sum + active, 0),
    // The pool hears the signals, too, and SIGHUP, on which it replaces its children.
    stop: () => void pool.close(),
    finished: pool.closed,
  };
}
