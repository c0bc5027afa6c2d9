/** How a pool is started. */

import { resolve } from "node:path/posix";
import { checkText } from "../../internal/c_string.ts";
import { chooseEngine, engineSupport } from "../../internal/engine.ts";
import { getSocketOption } from "../../internal/socket.ts";
import { atCaller } from "../../internal/stack.ts";
import { checkBoolean, checkDuration, checkInteger, checkOptions, quote } from "../../internal/validate.ts";
import { pollableOf } from "../../poll/pollable.ts";
import { TcpListener, type TcpListenOptions } from "../../tcp/tcp_listener.ts";
import { GRACE, type ProcessOptions } from "../child/child.ts";
import { moduleUrl } from "../child/module_url.ts";
import type { RestartOptions } from "./restarts.ts";
import { LONGEST_PATH } from "../message/socket_file.ts";

/**
 * Who gets the next connection.
 *
 * @example The least busy child gets the next connection
 * ```ts
 * import { type Balance, Pool } from "@c10k/sockets/process";
 *
 * const source = `
 *   import { serve } from "${import.meta.resolve("@c10k/sockets/process")}";
 *   await serve((conn) => conn.readable.pipeTo(conn.writable));
 * `;
 * const module = `data:application/typescript,${encodeURIComponent(source)}`; // or a file's URL
 * const balance: Balance = "least-connections";
 * await using pool = await Pool.start({
 *   kind: "worker",
 *   module,
 *   size: 2,
 *   balance,
 *   listen: { hostname: "127.0.0.1", port: 0 },
 * });
 * ```
 */
export type Balance = "shared" | "reuseport" | "round-robin" | "least-connections";

/**
 * How {@linkcode Pool.start} starts a pool.
 *
 * @example A process for each connection, eight at most
 * ```ts
 * import { Pool, type PoolOptions } from "@c10k/sockets/process";
 *
 * const source = `
 *   import { serve } from "${import.meta.resolve("@c10k/sockets/process")}";
 *   await serve((conn) => conn.readable.pipeTo(conn.writable));
 * `;
 * const module = `data:application/typescript,${encodeURIComponent(source)}`; // or a file's URL
 * const options: PoolOptions = {
 *   kind: "process",
 *   module,
 *   per: "connection",
 *   size: 8,
 *   listen: { hostname: "127.0.0.1", port: 0 },
 * };
 * await using pool = await Pool.start(options);
 * ```
 */
export interface PoolOptions extends ProcessOptions {
  /**
   * Where the standard output of processes goes. It cannot be read here: children come and go.
   *
   * @default {"inherit"}
   */
  stdout?: "inherit" | "null";
  /**
   * Where the standard error of processes goes.
   *
   * @default {"inherit"}
   */
  stderr?: "inherit" | "null";
  /** Threads or processes. */
  kind: "worker" | "process";
  /** What a child runs: a module that calls {@linkcode serve}. */
  module: string | URL;
  /** Where to listen, as {@linkcode TcpListener.bind} takes it. Either this or `listener`. */
  listen?: TcpListenOptions;
  /** A listener, which belongs to the pool from now on, also if it cannot be started. */
  listener?: TcpListener;
  /**
   * Children, or with `per: "connection"` how many there may be at a time.
   *
   * @default {navigator.hardwareConcurrency}
   */
  size?: number;
  /**
   * Children that stay, or a fresh one for each connection.
   *
   * @default {"pool"}
   */
  per?: "pool" | "connection";
  /**
   * Who gets the next connection.
   *
   * - `"shared"`: all accept from one listening socket; the kernel wakes one that is idle.
   * - `"reuseport"`: each has a listening socket of its own on the same port (`SO_REUSEPORT`), and the kernel chooses
   *   by the connection's addresses. The pool keeps these sockets, so nothing in their queues is lost with a child.
   * - `"round-robin"`: the pool accepts, and hands each connection to the next child.
   * - `"least-connections"`: to the one that has the fewest open.
   *
   * @default {"shared"} on the native engine, else `"round-robin"`
   */
  balance?: Balance;
  /** How children that have failed are replaced. */
  restart?: RestartOptions;
  /**
   * Open connections at most, of all children together; more wait in the kernel's queue. Where the children accept,
   * each may have its part of them, and those that drain after a reload are not counted.
   *
   * @default {Infinity}
   */
  maxConnections?: number;
  /**
   * Milliseconds that children have to finish their connections when the pool closes, unless `close` says else, or is
   * reloaded.
   *
   * @default {10000}
   */
  grace?: number;
  /**
   * Milliseconds within which a child must call {@linkcode serve}.
   *
   * @default {60000}
   */
  startTimeout?: number;
  /**
   * Close the pool on SIGTERM and SIGINT, at once on a second one half a second later or more, and reload it on SIGHUP;
   * from the moment on in which {@linkcode Pool.start} has resolved.
   *
   * @default {true}
   */
  signals?: boolean;
  /**
   * Path of a Unix socket by which a newly started program can take over. If one that was started with the same path
   * runs already, those of its listening sockets are taken that have the address asked for here (with port 0 whatever
   * it has), without refusing a connection, and it is told to drain once the children of this one are up. If that
   * fails before, the other goes on. At most 107 bytes as an absolute path; needs `--allow-read` and `--allow-write` for the path, and makes no
   * other file. A file that is no socket is left alone, and so is a socket that somebody serves.
   */
  control?: string;
}

/** {@linkcode PoolOptions}, checked and with all that was left out. */
export interface PoolSettings {
  readonly kind: "worker" | "process";
  readonly module: URL;
  readonly size: number;
  readonly per: "pool" | "connection";
  readonly balance: Balance;
  readonly maxConnections: number;
  readonly grace: number;
  readonly startTimeout: number;
  readonly signals: boolean;
  readonly control: string | undefined;
  readonly listen: TcpListenOptions | undefined;
  readonly listener: TcpListener | undefined;
  readonly restart: RestartOptions | undefined;
  readonly child: ProcessOptions;
}

const DEFAULT_START_TIMEOUT = 60_000;

function oneOf<T extends string>(value: unknown, name: string, choices: readonly T[]): T {
  if ((choices as readonly unknown[]).includes(value)) return value as T;
  throw atCaller(
    new TypeError(`${name} must be ${choices.map((c) => `"${c}"`).join(" or ")}, received ${quote(value)}`),
  );
}

/** Checks the options before anything is started. */
export function checkPoolOptions(options: PoolOptions): PoolSettings {
  checkOptions(options);
  // Each is read once: what is used is what was checked.
  const { listener, listen: address, maxConnections = Infinity, control } = options;
  if (address !== undefined) checkOptions(address, "listen");
  const listen = address === undefined ? undefined : { ...address };
  const kind = oneOf(options.kind, "kind", ["worker", "process"]);
  const per = oneOf(options.per ?? "pool", "per", ["pool", "connection"]);
  if ((listener === undefined) === (listen === undefined)) {
    throw atCaller(new TypeError("options must have either listen or listener"));
  }
  if (listener !== undefined && !(listener instanceof TcpListener)) {
    throw atCaller(new TypeError(`listener must be a TcpListener, received ${quote(listener)}`));
  }
  if (listener !== undefined && pollableOf(listener)?.isOpen !== true) {
    throw atCaller(new Deno.errors.BadResource("Cannot start a pool: the listener is closed"));
  }
  const engine = listener?.engine ?? chooseEngine(listen?.engine, "start a pool");
  const accepting = per === "pool" ? "shared" : "round-robin";
  const balance = oneOf(options.balance ?? (engine === "native" ? accepting : "round-robin"), "balance", [
    "shared",
    "reuseport",
    "round-robin",
    "least-connections",
  ]);
  if (kind === "process" || balance === "shared" || balance === "reuseport" || control !== undefined) {
    requireNative(
      engine,
      kind === "process" ? "processes" : control !== undefined ? "control" : `balance: "${balance}"`,
    );
  }
  if (per === "connection" && (balance === "shared" || balance === "reuseport")) {
    throw atCaller(new TypeError(`balance must be "round-robin" or "least-connections" with per: "connection"`));
  }
  if (balance === "reuseport" && listener?.fd !== undefined && getSocketOption(listener.fd, "SO_REUSEPORT") !== 1) {
    throw atCaller(new TypeError('listener must be bound with reusePort for balance: "reuseport"'));
  }
  const size = checkInteger(options.size ?? Math.max(navigator.hardwareConcurrency, 1), "size", 1, 10_000);
  if (maxConnections !== Infinity) {
    // What the kernel has given to a child that may have none would never be served.
    const least = balance === "reuseport" ? size : 1;
    checkInteger(maxConnections, "maxConnections", least, 2 ** 31 - 1);
  }
  const { name, permissions, args, env, cwd, flags, stdout, stderr } = options;
  const ofProcesses = Object.entries({ args, env, cwd, flags, stdout, stderr }).find(([, value]) =>
    value !== undefined
  );
  if (kind === "worker" && ofProcesses !== undefined) {
    throw atCaller(new TypeError(`${ofProcesses[0]} is for kind: "process": a thread has what this program has`));
  }
  for (const [which, to] of Object.entries({ stdout, stderr })) {
    if (to !== undefined) oneOf(to, which, ["inherit", "null"]);
  }
  return {
    kind,
    // Found once: neither an object that changes nor another current folder leads later children elsewhere.
    module: moduleUrl(options.module),
    size,
    per,
    balance,
    maxConnections,
    grace: checkDuration(options.grace ?? GRACE, "grace"),
    startTimeout: checkDuration(options.startTimeout ?? DEFAULT_START_TIMEOUT, "startTimeout"),
    signals: checkBoolean(options.signals ?? true, "signals"),
    control: control === undefined ? undefined : checkControl(control),
    listen,
    listener,
    restart: options.restart,
    child: Object.fromEntries(
      Object.entries({ name, permissions, args, env, cwd, flags, stdout, stderr }).filter(([, value]) =>
        value !== undefined
      ),
    ),
  };
}

/**
 * The path of the control socket as the permissions are asked for: absolute, whatever becomes of the current folder,
 * and without `..`, which the kernel would follow from where a symbolic link leads to.
 */
function checkControl(control: unknown): string {
  if (checkText(control, "control") === "" || String(control).endsWith("/")) {
    throw atCaller(new TypeError(`control must be a path of a file, received ${quote(control)}`));
  }
  const path = resolve(String(control));
  const { length } = new TextEncoder().encode(path);
  if (length > LONGEST_PATH) {
    throw atCaller(new RangeError(`control must have at most ${LONGEST_PATH} bytes, has ${length}`));
  }
  return path;
}

function requireNative(engine: "runtime" | "native", what: string): void {
  if (engine === "native") return;
  const reason = engineSupport().reason ?? 'do not ask for engine: "runtime"';
  throw atCaller(new Deno.errors.NotSupported(`Cannot start a pool with ${what} on the runtime engine: ${reason}`));
}
