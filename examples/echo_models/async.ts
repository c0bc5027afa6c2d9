/** Echo the usual way of TypeScript: one thread, and an async function for each connection. */

import { engineSupport, type TcpConn, TcpListener } from "@c10k/sockets/tcp";
import type { EchoServer, Listen } from "./program.ts";

/** Sends back what arrives, until the client has finished and has all its echoes. */
async function echo(conn: TcpConn): Promise<void> {
  const p = new Uint8Array(16 * 1024);
  for (let n = await conn.read(p); n !== null; n = await conn.read(p)) {
    await conn.writeAll(p.subarray(0, n));
  }
  await conn.closeWrite();
}

/** A client that goes away is no event for the others; anything else is worth a line. */
function report(error: unknown): void {
  const { ConnectionReset, BrokenPipe, NotConnected, TimedOut, BadResource } = Deno.errors;
  const usual = [ConnectionReset, BrokenPipe, NotConnected, TimedOut, BadResource];
  if (!usual.some((ErrorClass) => error instanceof ErrorClass)) console.error(error);
}

/**
 * Serves `width` connections at a time: `Infinity` is the usual way, and 1 is
 * where the story of servers begins, the others waiting in the kernel's queue.
 */
export function startAsync(listen: Listen, width: number): EchoServer {
  const listener = TcpListener.bind(listen);
  const open = new Set<Promise<void>>();

  async function serve(conn: TcpConn): Promise<void> {
    try {
      await echo(conn);
    } catch (error) {
      report(error);
    } finally {
      conn.close();
    }
  }

  async function accept(): Promise<void> {
    for await (const conn of listener) {
      const done = serve(conn).finally(() => open.delete(done));
      open.add(done);
      while (open.size >= width) await Promise.race(open);
    }
    await Promise.all(open);
  }

  const { reason } = engineSupport();
  const why = listener.engine === "runtime" && reason !== undefined ? `: ${reason}` : "";
  return {
    addr: listener.addr,
    how: `${width === 1 ? "one connection at a time, " : ""}engine ${listener.engine}${why}`,
    open: () => open.size,
    // Who is in the kernel's queue has connected, and is served.
    stop: () => listener.drain(),
    finished: accept(),
  };
}
