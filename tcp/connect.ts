/** Connecting on either engine: one deadline, one signal, one form of error. */

import { formatAddress, type HostPort } from "../internal/address.ts";
import type { Engine } from "../internal/engine.ts";
import { fromRuntimeError, socketError, SyscallError } from "../internal/errors.ts";
import type { ConnDriver } from "./driver.ts";
import { connectNative } from "./native_connect.ts";
import { RuntimeConn } from "./runtime_conn.ts";
import { connectToOther } from "./self_connect.ts";

/** The longest time that a timer can be set to, in milliseconds: some 24 days. */
const MAX_TIMER = 2 ** 31 - 1;

/** Where and how to connect; checked. */
export interface ConnectOptions extends HostPort {
  engine: Engine;
  /** Milliseconds. */
  timeout: number;
  signal: AbortSignal | undefined;
  localAddress: string | undefined;
  localPort: number | undefined;
}

/** Makes `attempt` end by a deadline or an abort, with the error that belongs to each. */
export async function withDeadline<T>(
  action: string,
  { timeout, signal }: Pick<ConnectOptions, "timeout" | "signal">,
  attempt: (signal: AbortSignal) => Promise<T & { close(): void }>,
): Promise<T> {
  const over = new AbortController();
  const end = () => over.abort();
  const timer = timeout === Infinity ? undefined : setTimeout(end, Math.min(timeout, MAX_TIMER));
  signal?.addEventListener("abort", end);
  try {
    const conn = await attempt(over.signal);
    // The end may have come while the finished connection was on its way here.
    if (!over.signal.aborted) return conn;
    conn.close();
  } catch (error) {
    if (!over.signal.aborted) throw error;
  } finally {
    clearTimeout(timer);
    signal?.removeEventListener("abort", end);
  }
  if (signal?.aborted) throw signal.reason;
  throw socketError(action, new SyscallError("connect", "ETIMEDOUT"), `no connection within ${timeout} ms`);
}

/** Connects. */
export function connect(options: ConnectOptions): Promise<ConnDriver> {
  const { engine, hostname, port } = options;
  const action = `connect TCP to ${formatAddress(options)}`;
  return withDeadline<ConnDriver>(action, options, async (signal) => {
    if (engine === "native") return await connectNative(options, signal);
    try {
      // Deno resolves the name and races its addresses (RFC 8305).
      return new RuntimeConn(await connectToOther({ hostname, port, signal }));
    } catch (error) {
      if (error instanceof SyscallError) throw socketError(action, error);
      throw signal.aborted ? error : fromRuntimeError(error, action, "connect");
    }
  });
}
