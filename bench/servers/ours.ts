/** Echo over this library: `ours.ts --engine runtime|native --wait read|ready|timeout|signal`. */

import { type TcpConn, TcpListener } from "../../tcp/mod.ts";

function valueOf(flag: string, ...known: readonly string[]): string {
  const value = Deno.args[Deno.args.indexOf(flag) + 1] ?? "";
  if (Deno.args.includes(flag) && (known.length === 0 || known.includes(value))) return value;
  console.error(`error: say ${flag} ${known.join(" or ")}`);
  Deno.exit(2);
}

const engine = valueOf("--engine", "runtime", "native") as "runtime" | "native";
const wait = valueOf("--wait", "read", "ready", "timeout", "signal");
// 32 KiB, twice the largest message, as in the other servers; `--buffer BYTES` for idle connections.
const BUFFER = Deno.args.includes("--buffer") ? Number(valueOf("--buffer")) : 32 * 1024;
/** Milliseconds. */
const IDLE = 30_000;

/** How a server waits that has a buffer for each connection. */
const READ: Record<string, (conn: TcpConn, buffer: Uint8Array) => Promise<number | null>> = {
  read: (conn, buffer) => conn.read(buffer),
  timeout: (conn, buffer) => conn.read(buffer, { timeout: IDLE }),
  signal: (conn, buffer) => conn.read(buffer, { signal: AbortSignal.timeout(IDLE) }),
};

async function serve(conn: TcpConn, read: (conn: TcpConn, buffer: Uint8Array) => Promise<number | null>) {
  const buffer = new Uint8Array(BUFFER);
  try {
    for (;;) {
      const n = await read(conn, buffer);
      if (n === null) break;
      await conn.writeAll(buffer.subarray(0, n));
    }
  } catch {
    // A peer that has gone is no concern of the others.
  } finally {
    conn.close();
  }
}

const READABLE = { readable: true };
/** One for all connections. */
const shared = new Uint8Array(32 * 1024);

async function serveReady(conn: TcpConn) {
  try {
    for (;;) {
      await conn.ready(READABLE);
      const n = conn.tryRead(shared);
      if (n === null) break;
      if (n === undefined) continue;
      const sent = conn.tryWrite(shared.subarray(0, n)) ?? 0;
      if (sent < n) await conn.writeAll(shared.slice(sent, n));
    }
  } catch {
    // A peer that has gone is no concern of the others.
  } finally {
    conn.close();
  }
}

function bind(): TcpListener {
  try {
    return TcpListener.bind({ hostname: "127.0.0.1", port: 0, engine });
  } catch (error) {
    // One line, which the table shows as the reason why the row is missing.
    console.error(`error: ${error instanceof Error ? error.message : error}`);
    Deno.exit(1);
  }
}

const listener = bind();
console.log(`listening 127.0.0.1:${listener.addr.port}`);
const read = READ[wait];
for await (const conn of listener) {
  if (read === undefined) serveReady(conn);
  else serve(conn, read);
}
