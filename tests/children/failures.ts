/** What calls on a connection come to, in words; tests run it on connections here and in threads. */

import type { TcpConn } from "@c10k/sockets/tcp";

/** The calls, by name. One that does not wait is made until it has something to tell. */
const CALLS: Record<string, (conn: TcpConn) => Promise<unknown>> = {
  "read": (conn) => conn.read(new Uint8Array(10)),
  "read with a signal": (conn) => conn.read(new Uint8Array(10), { signal: AbortSignal.timeout(10_000) }),
  "peek": (conn) => conn.peek(new Uint8Array(10)),
  "tryRead": async (conn) => {
    const deadline = performance.now() + 10_000;
    while (performance.now() < deadline) {
      const n = conn.tryRead(new Uint8Array(10));
      if (n !== undefined) return n;
      await new Promise((resolve) => setTimeout(resolve, 1));
    }
  },
  "write": (conn) => writing(() => conn.write(new Uint8Array(10))),
  "writeAll": (conn) => writing(() => conn.writeAll(new Uint8Array(10))),
  "writeAll with a signal": (conn) =>
    writing(() => conn.writeAll(new Uint8Array(10), { signal: AbortSignal.timeout(10_000) })),
  "closeWrite": (conn) => conn.closeWrite(),
  "readable": async (conn) => (await conn.readable.getReader().read()).done,
};

/** Writes until it fails: the first bytes after a reset may be accepted. */
async function writing(write: () => Promise<unknown>): Promise<never> {
  const deadline = performance.now() + 10_000;
  while (performance.now() < deadline) {
    await write();
    await new Promise((resolve) => setTimeout(resolve, 1));
  }
  throw new Error("no write has failed");
}

/** Makes the calls one after the other. */
export async function outcomes(conn: TcpConn, names: string[]): Promise<string[]> {
  const told: string[] = [];
  for (const name of names) {
    try {
      told.push(`${name}: ${await CALLS[name]?.(conn)}`);
    } catch (error) {
      if (!(error instanceof Error)) throw error;
      const { code, cause } = error as Error & { code?: string; cause?: { syscall?: string; code?: string } };
      const message = error.message.replace(/[\d.]+:\d+/, "the peer");
      told.push(`${name}: ${error.constructor.name} ${code} ${cause?.syscall} ${cause?.code} ${message}`);
    }
  }
  return told;
}
