/** Which of the two engines a socket sits on. */

import { notSupportedError } from "./errors.ts";
import { loadLibc } from "./libc.ts";
import { atCaller } from "./stack.ts";
import { quote } from "./validate.ts";

/**
 * What a socket is built on: `"runtime"` is Deno's own operations, on every
 * OS with `--allow-net` alone; `"native"` is the kernel's sockets through
 * libc, on Linux with `--allow-ffi` too.
 *
 * @example Tell on what a socket sits
 * ```ts
 * import { type Engine, TcpListener } from "@c10k/sockets/tcp";
 *
 * using listener = TcpListener.bind({ hostname: "127.0.0.1", port: 0 });
 * const engine: Engine = listener.engine;
 * console.log(engine); // native, with --allow-ffi on Linux
 * ```
 */
export type Engine = "runtime" | "native";

/**
 * An engine, or `"auto"` for the best one that is supported and already granted.
 *
 * @example Stay on the runtime
 * ```ts
 * import { type EngineOption, TcpListener } from "@c10k/sockets/tcp";
 * import { assertEquals } from "@std/assert";
 *
 * const engine: EngineOption = "runtime";
 * using listener = TcpListener.bind({ hostname: "127.0.0.1", port: 0, engine });
 * assertEquals(listener.fd, undefined);
 * ```
 */
export type EngineOption = "auto" | Engine;

/**
 * What {@linkcode engineSupport} tells.
 *
 * @example Say why it is not the native engine
 * ```ts
 * import { type EngineSupport, engineSupport } from "@c10k/sockets/tcp";
 *
 * const support: EngineSupport = engineSupport();
 * if (support.engine === "runtime") console.log(support.reason); // run with --allow-ffi
 * ```
 */
export interface EngineSupport {
  /** The engine that `"auto"` picks here and now. */
  readonly engine: Engine;
  /** Why that is not the native engine, `undefined` if it is. */
  readonly reason: string | undefined;
}

/**
 * Tells which engine `engine: "auto"` picks, and why it is not the native one.
 *
 * Never asks for a permission. Requires no permission.
 *
 * @returns The engine and the reason.
 *
 * @example See what this machine gives
 * ```ts
 * import { engineSupport } from "@c10k/sockets/tcp";
 *
 * const { engine, reason } = engineSupport();
 * console.log(engine, reason ?? "");
 * ```
 */
export function engineSupport(): EngineSupport {
  const reason = loadLibc();
  return { engine: reason === undefined ? "native" : "runtime", reason };
}

/**
 * Returns the engine to use for an `engine` option.
 *
 * @param option What the caller asked for, `undefined` for `"auto"`.
 * @param action What is attempted, for the error.
 */
export function chooseEngine(option: unknown, action: string): Engine {
  switch (option) {
    case "runtime":
      return "runtime";
    case undefined:
    case "auto":
      return engineSupport().engine;
    case "native": {
      const { engine, reason } = engineSupport();
      if (engine === "native") return engine;
      throw notSupportedError(`${action} on the native engine`, reason ?? "");
    }
    default:
      throw atCaller(new TypeError(`engine must be "auto", "runtime" or "native", received ${quote(option)}`));
  }
}

/**
 * Returns the error for what needs the kernel's own socket.
 *
 * @param action What is attempted.
 * @param instead A way out that stays on the runtime engine, if there is one.
 */
export function needsNative(action: string, instead?: string): Error {
  const wayOut = engineSupport().engine === "native" ? ' and without engine: "runtime"' : "";
  const ways = `${instead === undefined ? "" : `${instead}, or `}run with --allow-ffi${wayOut}`;
  return notSupportedError(`${action} on the runtime engine`, ways);
}
