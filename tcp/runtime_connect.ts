/**
 * Connecting on Deno's own operation.
 *
 * Deno drops a connection whose signal is aborted at the moment when it is made: after the operation it calls
 * `signal.throwIfAborted()`, and the connection that exists by then stays open with no owner. So Deno gets a signal
 * of its own, on which that method does nothing: an abort still ends the operation, and a connection that was faster
 * arrives here, where it is closed.
 */

import type { HostPort } from "../internal/address.ts";

/**
 * Connects, and gives up when `signal` is aborted. A connection that is made all the same is resolved to if the call
 * has not been rejected yet, for the caller to close, and is closed here otherwise.
 *
 * @throws What Deno throws, or the signal's reason.
 */
export function connectRuntime({ hostname, port }: HostPort, signal: AbortSignal): Promise<Deno.TcpConn> {
  const ending = new AbortController();
  let isSafe = false;
  Object.defineProperty(ending.signal, "throwIfAborted", { value: () => void (isSafe = true) });
  // Deno resolves the name and races its addresses (RFC 8305).
  const connecting = Deno.connect({ hostname, port, signal: ending.signal });
  return new Promise((resolve, reject) => {
    let isOver = false;
    const onAbort = () => {
      if (isSafe) return ending.abort();
      // A Deno that has not called the method above may drop a connection. Its operation goes on by itself, until the
      // kernel gives up at the latest.
      isOver = true;
      reject(signal.reason);
    };
    signal.addEventListener("abort", onAbort);
    connecting.then((conn) => isOver ? conn[Symbol.dispose]() : resolve(conn), reject)
      .finally(() => signal.removeEventListener("abort", onAbort));
  });
}
