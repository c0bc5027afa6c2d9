/** Connecting on either engine: one deadline, one signal, one form of error. */

import { formatAddress, type HostPort } from "../internal/address.ts";
import { specified } from "../internal/destination.ts";
import type { Engine } from "../internal/engine.ts";
import { fromRuntimeError, socketError, SyscallError } from "../internal/errors.ts";
import { Timer } from "../internal/timer.ts";
import type { Wait } from "../internal/wait.ts";
import type { ConnDriver } from "./driver.ts";
import { connectNative } from "./native_connect.ts";
import { RuntimeConn } from "./runtime_conn.ts";
import { connectToOther } from "./self_connect.ts";

/** Where and how to connect; checked. */
export interface ConnectOptions extends HostPort {
  engine: Engine;
  /** For how long, name resolution included. */
  wait: Wait | undefined;
  localAddress: string | undefined;
  localPort: number | undefined;
}

/** Makes `attempt` end by a deadline or an abort, with the error that belongs to each. */
export async function withDeadline<T>(
  action: string,
  wait: Wait | undefined,
  attempt: (signal: AbortSignal) => Promise<T & { close(): void }>,
): Promise<T> {
  const { timeout = Infinity, signal } = wait ?? {};
  const over = new AbortController();
  const end = () => over.abort();
  const timer = new Timer(timeout, end);
  signal?.addEventListener("abort", end);
  try {
    const conn = await attempt(over.signal);
    // The end may have come while the finished connection was on its way here.
    if (!over.signal.aborted) return conn;
    conn.close();
  } catch (error) {
    if (!over.signal.aborted) throw error;
  } finally {
    timer.cancel();
    signal?.removeEventListener("abort", end);
  }
  if (signal?.aborted) throw signal.reason;
  throw socketError(action, new SyscallError("connect", "ETIMEDOUT"), `no connection within ${timeout} ms`);
}

/** Connects. */
export function connect(options: ConnectOptions): Promise<ConnDriver> {
  const { engine, hostname, port } = options;
  const action = `connect TCP to ${formatAddress(options)}`;
  return withDeadline<ConnDriver>(action, options.wait, async (signal) => {
    if (engine === "native") return await connectNative(options, signal);
    try {
      return new RuntimeConn(await connectToOther(specified({ hostname, port }), signal));
    } catch (error) {
      if (error instanceof SyscallError) throw socketError(action, error);
      throw signal.aborted ? error : fromRuntimeError(error, action, "connect");
    }
  });
}
