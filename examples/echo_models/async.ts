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

/** The buffer of all connections that are served by {@linkcode echoReady}. */
const shared = new Uint8Array(64 * 1024);

/** The same without a buffer for each connection: an idle one holds none. */
async function echoReady(conn: TcpConn): Promise<void> {
  while (true) {
    await conn.ready({ readable: true });
    const n = conn.tryRead(shared);
    if (n === null) return await conn.closeWrite();
    const sent = conn.tryWrite(shared.subarray(0, n ?? 0)) ?? 0;
    // What the client does not take at once needs a buffer of its own: others read into the shared one meanwhile.
    if (n !== undefined && sent < n) await conn.writeAll(shared.slice(sent, n));
  }
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
export function startAsync(listen: Listen, width: number, way: "async" | "ready" = "async"): EchoServer {
  const listener = TcpListener.bind(listen);
  const open = new Set<Promise<void>>();

  async function serve(conn: TcpConn): Promise<void> {
    try {
      await (way === "ready" ? echoReady : echo)(conn);
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
    how: `${
      width === 1 ? "one connection at a time, " : way === "ready" ? "one buffer for all, " : ""
    }engine ${listener.engine}${why}`,
    open: () => open.size,
    // Who is in the kernel's queue has connected, and is served.
    stop: () => listener.drain(),
    finished: accept(),
  };
}
