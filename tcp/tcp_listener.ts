/** The listening socket. */

import { chooseEngine, type Engine, type EngineOption, needsNative } from "../internal/engine.ts";
import { notSupportedError } from "../internal/errors.ts";
import type { SocketOption } from "../internal/socket_option.ts";
import { atCaller } from "../internal/stack.ts";
import {
  checkBoolean,
  checkHostname,
  checkInteger,
  checkOptions,
  checkPort,
  optional,
  quote,
} from "../internal/validate.ts";
import { announcePollable } from "../poll/pollable.ts";
import type { ListenerDriver } from "./driver.ts";
import { bindNative } from "./native_bind.ts";
import { NativeListener } from "./native_listener.ts";
import { RuntimeListener } from "./runtime_listener.ts";
import { checkWait, type Wait, type WaitOptions } from "../internal/wait.ts";
import { checkInterest, type Readiness, type ReadyInterest } from "../poll/readiness.ts";
import { type TcpConn, wrapConn } from "./tcp_conn.ts";

/**
 * How {@linkcode TcpListener.bind} listens.
 *
 * @example A short queue, both families
 * ```ts
 * import { TcpListener, type TcpListenOptions } from "@c10k/sockets/tcp";
 *
 * const options: TcpListenOptions = { hostname: "::", port: 0, backlog: 16 };
 * using listener = TcpListener.bind(options);
 * console.log(listener.queue()); // { length: 0, limit: 16 }
 * ```
 */
export interface TcpListenOptions {
  /**
   * The port to listen on, from 0 to 65535; with 0 the kernel picks a free one.
   *
   * @default {0}
   */
  port?: number;
  /**
   * The local IP address or name to listen on. `0.0.0.0` is every IPv4
   * interface, `::` every interface with both families (on Windows with IPv6
   * only). The lookup of a name blocks the event loop until the name is
   * resolved.
   *
   * @default {"0.0.0.0"}
   */
  hostname?: string;
  /**
   * Connections that may wait to be accepted; the kernel caps it at
   * `net.core.somaxconn`. Native engine only: the runtime engine has Deno's 511.
   *
   * @default {4096}
   */
  backlog?: number;
  /**
   * Listen although old connections on the port are in TIME_WAIT
   * (`SO_REUSEADDR`). The runtime engine always does.
   *
   * @default {true}
   */
  reuseAddress?: boolean;
  /**
   * Share the port with other listeners (`SO_REUSEPORT`). On the runtime
   * engine Linux with `--unstable-net` only.
   *
   * @default {false}
   */
  reusePort?: boolean;
  /**
   * Take IPv6 only on `::` (`IPV6_V6ONLY`). Native engine only.
   *
   * @default {false}
   */
  ipv6Only?: boolean;
  /** Receive buffer of accepted connections in bytes (`SO_RCVBUF`). Native engine only. */
  receiveBufferSize?: number;
  /** Send buffer of accepted connections in bytes (`SO_SNDBUF`). Native engine only. */
  sendBufferSize?: number;
  /** Seconds that accept is put off until data has arrived (`TCP_DEFER_ACCEPT`). Native engine only. */
  deferAccept?: number;
  /** Length of the queue of Fast Open requests (`TCP_FASTOPEN`, RFC 7413). Native engine only. */
  fastOpen?: number;
  /**
   * Told when connections cannot be accepted for a while because descriptors
   * or memory ran out. They stay in the kernel's queue, and accepting goes on
   * by itself after 5 ms to 1 s.
   */
  onAcceptError?: (error: Error) => void;
  /**
   * What to build the socket on.
   *
   * @default {"auto"}
   */
  engine?: EngineOption;
}

const DEFAULT_BACKLOG = 4096;

/** Options that only the kernel's own socket has, and what an error calls them. */
const NATIVE_OPTIONS = {
  backlog: "the backlog",
  ipv6Only: "IPV6_V6ONLY",
  receiveBufferSize: "the receive buffer size",
  sendBufferSize: "the send buffer size",
  deferAccept: "TCP_DEFER_ACCEPT",
  fastOpen: "TCP_FASTOPEN",
} as const satisfies Partial<Record<keyof TcpListenOptions, string>>;

let construct: (driver: ListenerDriver) => TcpListener;

/**
 * A listening TCP socket, usable wherever a `Deno.TcpListener` is.
 *
 * The kernel shakes hands by itself and queues the finished connections;
 * `accept` takes them out one by one, each as another socket. Several `accept`
 * calls may wait at a time and are served in their order. What a single peer
 * or a shortage of descriptors can cause never ends the loop.
 *
 * Requires `--allow-net`.
 *
 * @example Serve every client
 * ```ts
 * import { TcpConn, TcpListener } from "@c10k/sockets/tcp";
 *
 * using listener = TcpListener.bind({ hostname: "127.0.0.1", port: 0 });
 *
 * async function serve() {
 *   for await (const conn of listener) {
 *     conn.readable.pipeTo(conn.writable).catch(() => conn.close());
 *   }
 * }
 * const serving = serve();
 *
 * using client = await TcpConn.connect({ port: listener.addr.port });
 * await client.writeAll(new TextEncoder().encode("hello"));
 * await client.read(new Uint8Array(100));
 * await client.closeWrite();
 * await client.read(new Uint8Array(100)); // null: the server has finished, too
 *
 * listener.close(); // ends the loop
 * await serving;
 * ```
 */
export class TcpListener implements Deno.Listener<TcpConn, Deno.NetAddr> {
  readonly #driver: ListenerDriver;

  static {
    construct = (driver) => new TcpListener(driver);
    announcePollable((socket) => #driver in socket ? socket.#driver.pollable : undefined);
  }

  private constructor(driver: ListenerDriver) {
    if (driver === undefined) throw atCaller(new TypeError("Illegal constructor: use TcpListener.bind"));
    this.#driver = driver;
  }

  /**
   * Opens a socket, binds it and listens: socket(2), bind(2), listen(2).
   *
   * Requires `--allow-net` for the host and port.
   *
   * @param options Where to listen, and how.
   * @returns The listener.
   * @throws {TypeError} If an option has the wrong type.
   * @throws {RangeError} If a number is out of range.
   * @throws {Deno.errors.AddrInUse} If somebody listens there already.
   * @throws {Deno.errors.AddrNotAvailable} If the address is not local.
   * @throws {Deno.errors.PermissionDenied} If the port needs a privilege.
   * @throws {Deno.errors.NotCapable} If the permission is not given.
   * @throws {Deno.errors.NotSupported} If the engine lacks an option.
   *
   * @example Let the kernel pick a port
   * ```ts
   * import { TcpListener } from "@c10k/sockets/tcp";
   *
   * using listener = TcpListener.bind({ hostname: "127.0.0.1", port: 0 });
   * console.log(`listening on port ${listener.addr.port}`);
   * ```
   */
  static bind(options: TcpListenOptions): TcpListener {
    checkOptions(options);
    // Every option is optional, so options for a Unix socket of Deno.listen would open a port.
    const { transport = "tcp" } = options as { transport?: unknown };
    if (transport !== "tcp") throw atCaller(new TypeError(`transport must be "tcp", received ${quote(transport)}`));
    const { port: asked = 0 } = options;
    const port = checkPort(asked);
    const hostname = checkHostname(options.hostname ?? "0.0.0.0");
    const reuseAddress = checkBoolean(options.reuseAddress ?? true, "reuseAddress");
    const reusePort = checkBoolean(options.reusePort ?? false, "reusePort");
    const native = {
      backlog: optional(options.backlog, (value) => checkInteger(value, "backlog", 0, 2 ** 31 - 1)),
      ipv6Only: optional(options.ipv6Only, (value) => checkBoolean(value, "ipv6Only")),
      receiveBufferSize: optional(
        options.receiveBufferSize,
        (value) => checkInteger(value, "receiveBufferSize", 1, 2 ** 30),
      ),
      sendBufferSize: optional(options.sendBufferSize, (value) => checkInteger(value, "sendBufferSize", 1, 2 ** 30)),
      deferAccept: optional(options.deferAccept, (value) => checkInteger(value, "deferAccept", 0, 32767)),
      fastOpen: optional(options.fastOpen, (value) => checkInteger(value, "fastOpen", 0, 65535)),
    };
    const { onAcceptError } = options;
    if (onAcceptError !== undefined && typeof onAcceptError !== "function") {
      throw atCaller(new TypeError(`onAcceptError must be a function, received ${quote(onAcceptError)}`));
    }
    const engine = chooseEngine(options.engine, "bind TCP listener");
    if (engine === "native") {
      const { backlog = DEFAULT_BACKLOG, ipv6Only = false } = native;
      const socketOptions: [SocketOption, number | undefined][] = [
        ["SO_REUSEADDR", Number(reuseAddress)],
        ["SO_REUSEPORT", Number(reusePort)],
        ["IPV6_V6ONLY", Number(ipv6Only)],
        ["SO_RCVBUF", native.receiveBufferSize],
        ["SO_SNDBUF", native.sendBufferSize],
        ["TCP_DEFER_ACCEPT", native.deferAccept],
        ["TCP_FASTOPEN", native.fastOpen],
      ];
      const given = socketOptions.filter((option): option is [SocketOption, number] => option[1] !== undefined);
      return new TcpListener(bindNative({ hostname, port, backlog, options: given, onAcceptError }));
    }
    for (const [name, what] of Object.entries(NATIVE_OPTIONS)) {
      const value = native[name as keyof typeof NATIVE_OPTIONS];
      if (value !== undefined && value !== false) throw needsNative(`set ${what}`);
    }
    if (!reuseAddress) throw needsNative("bind without SO_REUSEADDR");
    if (reusePort && !runtimeSharesPorts()) {
      throw notSupportedError("share a port on the runtime engine", "run on Linux with --unstable-net or --allow-ffi");
    }
    return new TcpListener(RuntimeListener.bind({ hostname, port, reusePort, onAcceptError }));
  }

  /**
   * Takes over a listening TCP socket by its descriptor. Native engine only.
   *
   * @param fd The descriptor, which the returned object owns from now on: what `detach()` gave, never the `fd` of an open
   * object, which would close it a second time.
   * @returns The listener.
   * @throws {Deno.errors.NotSupported} If there is no native engine.
   *
   * @example Take over a listening socket
   * ```ts
   * import { TcpListener } from "@c10k/sockets/tcp";
   *
   * const listener = TcpListener.bind({ hostname: "127.0.0.1", port: 0 });
   * using same = TcpListener.fromFd(listener.detach());
   * console.log(same.addr);
   * ```
   */
  static fromFd(fd: number): TcpListener {
    checkInteger(fd, "fd", 0, 2 ** 31 - 1);
    chooseEngine("native", "take over a descriptor");
    return new TcpListener(NativeListener.adopt(fd));
  }

  /** The address the socket is bound to, with the port that the kernel picked for 0. */
  get addr(): Deno.NetAddr {
    return this.#driver.addr;
  }

  /** What the listener is built on. */
  get engine(): Engine {
    return this.#driver.engine;
  }

  /** The descriptor; `undefined` on the runtime engine and after `close()` or `detach()`. */
  get fd(): number | undefined {
    return this.#driver.fd;
  }

  /**
   * The number of the socket's inode, which `ss -e` and /proc show; `undefined`
   * on the runtime engine and after `close()` or `detach()`.
   */
  get inode(): number | undefined {
    return this.#driver.inode;
  }

  /**
   * Takes the next connection, and waits if there is none: accept4(2).
   *
   * @param options For how long to wait; a connection that comes later goes to the next `accept`.
   * @returns The connection, another socket than this one.
   * @throws {Deno.errors.TimedOut} If there is none within `timeout`.
   * @throws {Deno.errors.BadResource} If the listener is closed, already or meanwhile.
   *
   * @example Wait for at most 50 ms
   * ```ts
   * import { TcpListener } from "@c10k/sockets/tcp";
   * import { assertRejects } from "@std/assert";
   *
   * using listener = TcpListener.bind({ hostname: "127.0.0.1", port: 0 });
   * await assertRejects(() => listener.accept({ timeout: 50 }), Deno.errors.TimedOut);
   * ```
   */
  async accept(options?: WaitOptions): Promise<TcpConn> {
    return wrapConn(await this.#driver.accept(checkWait(options)));
  }

  /**
   * Waits until {@linkcode TcpListener.tryAccept} is worth a call. On the runtime engine one connection is accepted ahead.
   *
   * @param interest What to wait for: `readable`, of which a listener has nothing else.
   * @param options For how long to wait.
   * @returns What the listener is ready for; now and then a connection is gone before it is accepted.
   * @throws {TypeError} If it is not `readable` that is asked for.
   * @throws {Deno.errors.BadResource} If the listener is closed, already or meanwhile.
   *
   * @example Take all that are there
   * ```ts
   * import { TcpConn, TcpListener } from "@c10k/sockets/tcp";
   *
   * using listener = TcpListener.bind({ hostname: "127.0.0.1", port: 0 });
   * using client = await TcpConn.connect({ port: listener.addr.port });
   * await listener.ready({ readable: true });
   * for (let conn = listener.tryAccept(); conn !== undefined; conn = listener.tryAccept()) conn.close();
   * ```
   */
  ready(interest: ReadyInterest, options?: WaitOptions): Promise<Readiness> {
    let wait: Wait | undefined;
    try {
      wait = checkWait(options);
      checkInterest(interest, false);
    } catch (error) {
      return Promise.reject(error);
    }
    return this.#driver.ready(wait);
  }

  /**
   * Takes a connection without waiting.
   *
   * On the runtime engine the first call starts an accept that runs ahead, so
   * the connection is there at a later turn of the event loop.
   *
   * @returns The connection, `undefined` if none is waiting.
   * @throws {Deno.errors.BadResource} If the listener is closed.
   *
   * @example Nobody is there
   * ```ts
   * import { TcpListener } from "@c10k/sockets/tcp";
   * import { assertEquals } from "@std/assert";
   *
   * using listener = TcpListener.bind({ hostname: "127.0.0.1", port: 0 });
   * assertEquals(listener.tryAccept(), undefined);
   * ```
   */
  tryAccept(): TcpConn | undefined {
    const driver = this.#driver.tryAccept();
    return driver === undefined ? undefined : wrapConn(driver);
  }

  /**
   * Tells how many connections wait to be accepted and how many may: what
   * `ss -lt` shows as Recv-Q and Send-Q. The kernel lets one more wait than the limit says. Native engine only.
   *
   * @throws {Deno.errors.NotSupported} On the runtime engine.
   *
   * @example A connection that nobody has accepted
   * ```ts
   * import { TcpConn, TcpListener } from "@c10k/sockets/tcp";
   * import { assertEquals } from "@std/assert";
   *
   * using listener = TcpListener.bind({ hostname: "127.0.0.1", port: 0, backlog: 8 });
   * using client = await TcpConn.connect({ port: listener.addr.port });
   * assertEquals(listener.queue(), { length: 1, limit: 8 });
   * ```
   */
  queue(): { length: number; limit: number } {
    return this.#driver.queue();
  }

  /**
   * Stops taking connections: calls to `accept` wait until
   * {@linkcode TcpListener.resume}, and the kernel's queue holds what comes.
   * (The runtime engine may have taken one already, which it keeps.)
   *
   * @throws {Deno.errors.BadResource} If the listener is closed.
   *
   * @example Leave connections in the queue
   * ```ts
   * import { TcpConn, TcpListener } from "@c10k/sockets/tcp";
   *
   * using listener = TcpListener.bind({ hostname: "127.0.0.1", port: 0 });
   * listener.pause();
   * const accepting = listener.accept();
   * using client = await TcpConn.connect({ port: listener.addr.port }); // the kernel has shaken hands
   * listener.resume();
   * using server = await accepting;
   * ```
   */
  pause(): void {
    this.#driver.pause();
  }

  /**
   * Goes on after {@linkcode TcpListener.pause}.
   *
   * @throws {Deno.errors.BadResource} If the listener is closed.
   *
   * @example Go on after a while
   * ```ts
   * import { TcpListener } from "@c10k/sockets/tcp";
   *
   * using listener = TcpListener.bind({ hostname: "127.0.0.1", port: 0 });
   * listener.pause();
   * await new Promise((resolve) => setTimeout(resolve, 20));
   * listener.resume();
   * ```
   */
  resume(): void {
    this.#driver.resume();
  }

  /**
   * Stops listening without losing a connection of the accept queue: for a graceful shutdown.
   *
   * {@linkcode TcpListener.close} resets the connections that clients have made and that were not accepted yet. This
   * method accepts all of them first, then closes the socket. `accept`, `tryAccept` and loops over the listener return
   * these connections; after the last one they fail, and loops end, as after `close()`. A listener that is paused keeps
   * them until {@linkcode TcpListener.resume}. A `Multiplexer` stops watching the listener: accept the rest
   * with a loop over it. `close()` closes connections that no call has accepted. `pause()` and `resume()` do not fail any
   * more.
   *
   * On the native engine the queue is empty and the socket closed when the call returns, unless descriptors run out:
   * then the rest is accepted as descriptors are closed. A client whose handshake ends in the microseconds between the
   * last accept4(2) and close(2) is reset. The runtime engine takes some milliseconds to see that no more
   * connections come, and a second at most while clients keep connecting.
   * Clients whose handshake is under way on the network at the end are reset on both.
   *
   * @returns A promise that resolves once the socket is closed, and never rejects. If the listener is closed already,
   * nothing happens.
   *
   * @example Stop on SIGTERM, and serve every client that has connected
   * ```ts
   * import { TcpConn, TcpListener } from "@c10k/sockets/tcp";
   * import { assertEquals } from "@std/assert";
   *
   * using listener = TcpListener.bind({ hostname: "127.0.0.1", port: 0 });
   * const clients = await Promise.all([1, 2, 3].map(() => TcpConn.connect({ port: listener.addr.port })));
   *
   * listener.drain(); // Deno.addSignalListener("SIGTERM", () => listener.drain());
   * let served = 0;
   * for await (const conn of listener) {
   *   served++;
   *   conn.close();
   * }
   * assertEquals(served, 3);
   * for (const client of clients) client.close();
   * ```
   */
  drain(): Promise<void> {
    return this.#driver.drain();
  }

  /**
   * Gives the descriptor away and leaves this object closed. Native engine only.
   *
   * @returns The descriptor, which the caller owns from now on.
   * @throws {Deno.errors.NotSupported} On the runtime engine.
   *
   * @example Give the descriptor away
   * ```ts
   * import { TcpListener } from "@c10k/sockets/tcp";
   *
   * const listener = TcpListener.bind({ hostname: "127.0.0.1", port: 0 });
   * const fd = listener.detach(); // it goes on listening
   * TcpListener.fromFd(fd).close();
   * ```
   */
  detach(): number {
    return this.#driver.detach();
  }

  /** Lets waiting calls keep the process alive, as they do unless {@linkcode TcpListener.unref} was called. */
  ref(): void {
    this.#driver.ref();
  }

  /** Lets the process end although `accept` waits. */
  unref(): void {
    this.#driver.unref();
  }

  /**
   * Stops listening: close(2). Waiting calls are woken with
   * `Deno.errors.BadResource`, and loops over the listener end. Calling it again does nothing.
   *
   * The kernel resets connections that wait to be accepted; {@linkcode TcpListener.drain} accepts them first.
   */
  close(): void {
    this.#driver.close();
  }

  /** What `console.log` shows. */
  [Symbol.for("Deno.customInspect")](inspect: typeof Deno.inspect, options: Deno.InspectOptions): string {
    return `TcpListener ${inspect({ addr: this.addr, engine: this.engine, fd: this.fd }, options)}`;
  }

  /** Closes the listener, at the end of a `using` block. */
  [Symbol.dispose](): void {
    this.close();
  }

  /**
   * Takes connections until the listener is closed. Leaving the loop early
   * leaves the listener open.
   */
  async *[Symbol.asyncIterator](): AsyncIterableIterator<TcpConn> {
    while (true) {
      let conn: TcpConn;
      try {
        conn = await this.accept();
      } catch (error) {
        if (error instanceof Deno.errors.BadResource) return;
        throw error;
      }
      yield conn;
    }
  }
}

/** Makes the public object for a listener that an engine has opened. */
export function wrapListener(driver: ListenerDriver): TcpListener {
  return construct(driver);
}

/** Whether `Deno.listen` obeys `reusePort`; where it does not, it says nothing. */
function runtimeSharesPorts(): boolean {
  // With --unstable-net, and only then, there is a Deno.listenDatagram.
  return Deno.build.os === "linux" && "listenDatagram" in Deno;
}
