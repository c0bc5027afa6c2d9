/** The socket before it listens or connects. */

import { formatAddress, type HostPort } from "../internal/address.ts";
import { Descriptor } from "../internal/descriptor.ts";
import { chooseEngine } from "../internal/engine.ts";
import { closedError, socketError, SyscallError } from "../internal/errors.ts";
import { refuseDenied, requireNet } from "../internal/permissions.ts";
import { resolveAll } from "../internal/resolve.ts";
import { addressOf, getSocketOption, setSocketOption } from "../internal/socket.ts";
import type { SocketOption } from "../internal/socket_option.ts";
import { atCaller } from "../internal/stack.ts";
import { syscall } from "../internal/syscall.ts";
import {
  checkHostname,
  checkInteger,
  checkOptions,
  checkPort,
  checkSocketOption,
  quote,
} from "../internal/validate.ts";
import { withDeadline } from "./connect.ts";
import { permittedLocal } from "./native_bind.ts";
import type { NativeConn } from "./native_conn.ts";
import { openTcp, shakeHands } from "./native_connect.ts";
import { NativeListener } from "./native_listener.ts";
import { checkWait, type WaitOptions } from "../internal/wait.ts";
import { type TcpConn, wrapConn } from "./tcp_conn.ts";
import { type TcpListener, wrapListener } from "./tcp_listener.ts";

/**
 * The calls of the textbook one by one: socket, setsockopt, bind, then listen
 * or connect. Native engine only; {@linkcode TcpListener.bind} and
 * {@linkcode TcpConn.connect} do it in one step on every engine.
 *
 * The first `listen` or `connect` takes the descriptor over, whatever comes of
 * it, and leaves this object closed.
 *
 * Requires `--allow-net` and `--allow-ffi`.
 *
 * @example Options that must be set before bind
 * ```ts
 * import { engineSupport, TcpSocket } from "@c10k/sockets/tcp";
 *
 * if (engineSupport().engine === "native") {
 *   using socket = TcpSocket.open("IPv4");
 *   socket.setOption("SO_REUSEADDR", 1);
 *   socket.setOption("SO_RCVBUF", 64 * 1024);
 *   socket.bind({ hostname: "127.0.0.1", port: 0 });
 *   using listener = socket.listen(128);
 *   console.log(listener.addr);
 * }
 * ```
 */
export class TcpSocket implements Disposable {
  readonly #descriptor: Descriptor;
  readonly #family: "IPv4" | "IPv6";
  /** The local port was chosen by the caller. */
  #hasOwnPort = false;

  private constructor(descriptor: Descriptor, family: "IPv4" | "IPv6") {
    // A number would be anybody's descriptor, which close() would close.
    if (!(descriptor instanceof Descriptor)) throw atCaller(new TypeError("Illegal constructor: use TcpSocket.open"));
    this.#descriptor = descriptor;
    this.#family = family;
  }

  /**
   * Opens a socket: socket(2) with `AF_INET` or `AF_INET6`, and `SOCK_STREAM`.
   *
   * @param family The address family: `"IPv4"` or `"IPv6"`.
   * @returns The socket.
   * @throws {Deno.errors.NotSupported} If there is no native engine.
   *
   * @example One of each family
   * ```ts
   * import { TcpSocket } from "@c10k/sockets/tcp";
   *
   * using four = TcpSocket.open("IPv4");
   * using six = TcpSocket.open("IPv6");
   * console.log(four.fd, six.fd);
   * ```
   */
  static open(family: "IPv4" | "IPv6"): TcpSocket {
    if (family !== "IPv4" && family !== "IPv6") {
      throw atCaller(new TypeError(`family must be "IPv4" or "IPv6", received ${quote(family)}`));
    }
    chooseEngine("native", "open TCP socket");
    try {
      return new TcpSocket(new Descriptor(openTcp(family)), family);
    } catch (error) {
      throw error instanceof SyscallError ? socketError("open TCP socket", error) : error;
    }
  }

  /** The descriptor; `undefined` once the socket is closed, listens or connects. */
  get fd(): number | undefined {
    return this.#descriptor.isOpen ? this.#descriptor.fd : undefined;
  }

  /**
   * Reads a socket option: getsockopt(2).
   *
   * @param option The option.
   * @returns Its value.
   *
   * @example The time to live
   * ```ts
   * import { TcpSocket } from "@c10k/sockets/tcp";
   *
   * using socket = TcpSocket.open("IPv4");
   * console.log(socket.getOption("IP_TTL")); // 64
   * ```
   */
  getOption(option: SocketOption): number {
    checkSocketOption(option);
    return this.#attempt(`get ${option} of TCP socket`, "getsockopt", (fd) => getSocketOption(fd, option));
  }

  /**
   * Sets a socket option: setsockopt(2).
   *
   * @param option The option.
   * @param value Its value.
   *
   * @example Before bind
   * ```ts
   * import { TcpSocket } from "@c10k/sockets/tcp";
   *
   * using socket = TcpSocket.open("IPv4");
   * socket.setOption("SO_REUSEADDR", 1);
   * socket.bind({ hostname: "127.0.0.1", port: 0 });
   * ```
   */
  setOption(option: SocketOption, value: number): void {
    checkSocketOption(option);
    const to = checkInteger(value, "value", -(2 ** 31), 2 ** 32 - 1);
    this.#attempt(`set ${option} on TCP socket`, "setsockopt", (fd) => setSocketOption(fd, option, to));
  }

  /**
   * Gives the socket its local address: bind(2). The lookup of a name blocks the
   * event loop until the name is resolved.
   *
   * Requires `--allow-net` for the host and port.
   *
   * @param addr A local host and a port; 0 lets the kernel choose.
   * @throws {Deno.errors.AddrInUse} If somebody is bound to it.
   * @throws {Deno.errors.NotCapable} If the permission is not given.
   *
   * @example Bind, then listen
   * ```ts
   * import { TcpSocket } from "@c10k/sockets/tcp";
   *
   * using socket = TcpSocket.open("IPv4");
   * socket.bind({ hostname: "127.0.0.1", port: 0 });
   * using listener = socket.listen();
   * console.log(listener.addr);
   * ```
   */
  bind(addr: { hostname: string; port: number }): void {
    checkOptions(addr, "addr");
    const address = { hostname: checkHostname(addr.hostname), port: checkPort(addr.port) };
    const action = `bind TCP socket to ${formatAddress(address)}`;
    this.#attempt(action, "bind", (fd) => {
      const { sockaddr } = permittedLocal(address, action);
      syscall("bind", fd, sockaddr, sockaddr.length);
      this.#hasOwnPort = address.port !== 0;
    });
  }

  /**
   * Makes it a listening socket: listen(2).
   *
   * An unbound socket listens on a port that the kernel picks, on all
   * addresses; that requires `--allow-net` for `0.0.0.0:0` or `[::]:0`.
   *
   * @param backlog Connections that may wait to be accepted, 4096 if left out.
   * @returns The listener, which owns the descriptor from now on.
   *
   * @example A queue for 16
   * ```ts
   * import { TcpSocket } from "@c10k/sockets/tcp";
   * import { assertEquals } from "@std/assert";
   *
   * using socket = TcpSocket.open("IPv4");
   * socket.bind({ hostname: "127.0.0.1", port: 0 });
   * using listener = socket.listen(16);
   * assertEquals(listener.queue().limit, 16);
   * ```
   */
  listen(backlog: number = 4096): TcpListener {
    checkInteger(backlog, "backlog", 0, 2 ** 31 - 1);
    const action = "listen on TCP socket";
    return this.#attempt(action, "listen", (fd) => {
      // Bound already, or else the kernel binds it to all addresses now.
      if (!this.#isBound(fd)) requireNet(this.#anyAddress(), action);
      syscall("listen", fd, backlog);
      return wrapListener(this.#descriptor.passTo(() => new NativeListener(fd)));
    });
  }

  /**
   * Connects to a server: connect(2). To itself a socket connects only if {@linkcode TcpSocket.bind} has chosen its port.
   *
   * Requires `--allow-net` for the host and port.
   *
   * @param addr The server's host, of the socket's family, and its port.
   * @param option A deadline, and a signal.
   * @returns The connection, which owns the descriptor from now on.
   * @throws {Deno.errors.ConnectionRefused} If nobody listens there.
   * @throws {Deno.errors.TimedOut} If there is no connection within `timeout`.
   * @throws {Deno.errors.NotCapable} If the permission is not given.
   *
   * @example From a port of one's own choice
   * ```ts
   * import { TcpListener, TcpSocket } from "@c10k/sockets/tcp";
   *
   * using listener = TcpListener.bind({ hostname: "127.0.0.1", port: 0 });
   * using socket = TcpSocket.open("IPv4");
   * socket.bind({ hostname: "127.0.0.1", port: 0 });
   * using conn = await socket.connect(listener.addr);
   * console.log(conn.localAddr);
   * ```
   */
  async connect(addr: { hostname: string; port: number }, options?: WaitOptions): Promise<TcpConn> {
    checkOptions(addr, "addr");
    const address = { hostname: checkHostname(addr.hostname), port: checkPort(addr.port, "port", 1) };
    const wait = checkWait(options);
    const action = `connect TCP to ${formatAddress(address)}`;
    if (!this.#descriptor.isOpen) throw closedError(action, "socket", "connect");
    requireNet(address, action);
    return wrapConn(
      await withDeadline<NativeConn>(action, wait, async (over) => {
        const owner = new Descriptor(this.#descriptor.detach());
        try {
          const to = (await resolveAll(address, over)).find(({ family }) => family === this.#family);
          if (to === undefined) throw new SyscallError("connect", "EAFNOSUPPORT");
          refuseDenied(to, action);
          over.throwIfAborted();
          return await shakeHands(owner.detach(), to, this.#hasOwnPort, over);
        } catch (error) {
          throw error instanceof SyscallError ? socketError(action, error) : error;
        } finally {
          owner.close();
        }
      }),
    );
  }

  /** Closes the socket: close(2). Calling it again, or after `listen` or `connect`, does nothing. */
  close(): void {
    this.#descriptor.close();
  }

  /** Closes the socket, at the end of a `using` block. */
  [Symbol.dispose](): void {
    this.close();
  }

  #anyAddress(): HostPort {
    return { hostname: this.#family === "IPv4" ? "0.0.0.0" : "::", port: 0 };
  }

  #isBound(fd: number): boolean {
    return addressOf(fd, "getsockname").port !== 0;
  }

  #attempt<T>(action: string, syscall: string, call: (fd: number) => T): T {
    if (!this.#descriptor.isOpen) throw closedError(action, "socket", syscall);
    try {
      return call(this.#descriptor.fd);
    } catch (error) {
      throw error instanceof SyscallError ? socketError(action, error) : error;
    }
  }
}
