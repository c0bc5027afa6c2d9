/** The connected socket. */

import { checkText } from "../internal/c_string.ts";
import { chooseEngine, type Engine, type EngineOption, needsNative } from "../internal/engine.ts";
import {
  checkBoolean,
  checkBytes,
  checkDuration,
  checkHostname,
  checkInteger,
  checkOptions,
  checkPort,
  checkSignal,
  checkSocketOption,
  optional,
  quote,
} from "../internal/validate.ts";
import { checkWait, type Wait, type WaitOptions } from "../internal/wait.ts";
import { announcePollable } from "../poll/pollable.ts";
import { connect } from "./connect.ts";
import type { ConnDriver, KeepAliveTimes } from "./driver.ts";
import { NativeConn } from "./native_conn.ts";
import { checkInterest, type Readiness, type ReadyInterest } from "../poll/readiness.ts";
import { finish } from "./finish.ts";
import type { SocketOption } from "../internal/socket_option.ts";
import { atCaller } from "../internal/stack.ts";
import { ConnStreams } from "./streams.ts";
import type { TcpInfo } from "./tcp_info.ts";

/**
 * How {@linkcode TcpConn.connect} connects.
 *
 * @example A connection for small messages
 * ```ts
 * import { TcpConn, type TcpConnectOptions, TcpListener } from "@c10k/sockets/tcp";
 *
 * using listener = TcpListener.bind({ hostname: "127.0.0.1", port: 0 });
 * const options: TcpConnectOptions = { port: listener.addr.port, timeout: 2_000, noDelay: true };
 * using conn = await TcpConn.connect(options);
 * ```
 */
export interface TcpConnectOptions extends WaitOptions {
  /** The server's port, from 1 to 65535. */
  port: number;
  /**
   * The server's IP address or name. Of a name with several addresses, IPv6
   * and IPv4 are tried in turn (RFC 8305). `0.0.0.0` and `::` are this machine;
   * on Windows that is `127.0.0.1` or `::1`, which the permission is needed for.
   *
   * @default {"127.0.0.1"}
   */
  hostname?: string;
  /**
   * The local IP address to connect from, an IPv6 one with or without brackets; needs `--allow-net` for it, too. If the
   * kernel chooses the port, connections to other servers can share it (`IP_BIND_ADDRESS_NO_PORT`). Native engine only.
   */
  localAddress?: string;
  /** The local port to connect from, from 0 to 65535; 0 lets the kernel choose. Native engine only. */
  localPort?: number;
  /**
   * Send small segments at once (`TCP_NODELAY`).
   *
   * @default {false}
   */
  noDelay?: boolean;
  /**
   * Send keep-alive probes (`SO_KEEPALIVE`). Times are for the native engine only.
   *
   * @default {false}
   */
  keepAlive?: boolean | KeepAliveTimes;
  /**
   * What to build the socket on.
   *
   * @default {"auto"}
   */
  engine?: EngineOption;
}

/** Milliseconds in which a peer is to finish, if nothing else is said. */
const FINISH_TIMEOUT = 5_000;

/**
 * When {@linkcode TcpConn.finish} gives a peer up.
 *
 * @example A peer that may take its time, but send no more than a megabyte
 * ```ts
 * import { type FinishOptions, TcpConn, TcpListener } from "@c10k/sockets/tcp";
 *
 * using listener = TcpListener.bind({ hostname: "127.0.0.1", port: 0 });
 * using client = await TcpConn.connect({ port: listener.addr.port });
 * const server = await listener.accept();
 *
 * client.close();
 * const options: FinishOptions = { timeout: 30_000, size: 1024 * 1024 };
 * await server.finish(options);
 * ```
 */
export interface FinishOptions {
  /**
   * Milliseconds in which the peer has to take what was written, and to finish.
   *
   * @default {5_000}
   */
  timeout?: number;
  /**
   * Bytes that are read and dropped at most.
   *
   * @default {Infinity}
   */
  size?: number;
  /** Closes the connection at once; the call rejects with the signal's reason. */
  signal?: AbortSignal;
}

/** A call of a driver with a buffer. */
type Call<T> = (driver: ConnDriver, p: Uint8Array, wait: Wait | undefined) => Promise<T>;

const READ: Call<number | null> = (driver, p, wait) => driver.read(p, wait);
const PEEK: Call<number | null> = (driver, p, wait) => driver.peek(p, wait);
const READ_FULL: Call<number | null> = (driver, p, wait) => driver.readFull(p, wait);
const WRITE: Call<number> = (driver, p, wait) => driver.write(p, wait);
const WRITE_ALL: Call<void> = (driver, p, wait) => driver.writeAll(p, wait);

let construct: (driver: ConnDriver) => TcpConn;
let disclose: (conn: TcpConn) => ConnDriver;

/**
 * A TCP connection: the socket that `accept` returns on the server and
 * `connect` on the client, usable wherever a `Deno.TcpConn` is.
 *
 * - Calls on one side keep their order: two `writeAll` never mix, and of two
 *   reads the first gets the first bytes.
 * - Cancelling loses nothing. Bytes that arrive after a cancelled read go to
 *   the next one. A cancelled write has sent nothing (native engine) or the
 *   first 64 KiB at most, as a whole (runtime engine); after a cancelled
 *   `writeAll` the peer has the beginning of the data.
 * - The two directions are independent: the peer's end-of-file leaves this
 *   side able to write.
 * - `close()` wakes every call that waits, with `Deno.errors.BadResource`, which
 *   calls after it get, too.
 *
 * Requires `--allow-net`.
 *
 * @example An echo server and its client
 * ```ts
 * import { TcpConn, TcpListener } from "@c10k/sockets/tcp";
 * import { assertEquals } from "@std/assert";
 *
 * using listener = TcpListener.bind({ hostname: "127.0.0.1", port: 0 });
 * using client = await TcpConn.connect({ port: listener.addr.port });
 * using server = await listener.accept();
 *
 * await client.writeAll(new TextEncoder().encode("hello"));
 * await client.closeWrite();
 * await server.readable.pipeTo(server.writable);
 *
 * assertEquals(await new Response(client.readable).text(), "hello");
 * ```
 */
export class TcpConn implements Deno.TcpConn {
  readonly #driver: ConnDriver;
  #streams: ConnStreams | undefined;

  static {
    construct = (driver) => new TcpConn(driver);
    disclose = (conn) => conn.#driver;
    announcePollable((socket) => #driver in socket ? socket.#driver.pollable : undefined);
  }

  private constructor(driver: ConnDriver) {
    if (driver === undefined) {
      throw atCaller(new TypeError("Illegal constructor: use TcpConn.connect or TcpListener.accept"));
    }
    this.#driver = driver;
  }

  /**
   * Connects to a server: socket(2), connect(2).
   *
   * A socket never connects to itself. The kernel lets it when nobody listens on a local port and that port happens to be
   * chosen as the local port of the connection (`net.ipv4.ip_local_port_range`), as it does sooner or later in a loop
   * that waits for a server. Such an attempt is refused like one to any other port on which nobody listens, unless
   * `localPort` names the port.
   *
   * Requires `--allow-net` for the host and port.
   *
   * @param options Where to connect, and how.
   * @returns The connection, once the handshake is done.
   * @throws {TypeError} If an option has the wrong type.
   * @throws {RangeError} If a number is out of range.
   * @throws {Deno.errors.ConnectionRefused} If nobody listens there.
   * @throws {Deno.errors.NotFound} If the name does not resolve.
   * @throws {Deno.errors.TimedOut} If there is no connection within `timeout`.
   * @throws {Deno.errors.NotCapable} If the permission is not given.
   * @throws {Deno.errors.NotSupported} If the engine lacks an option.
   *
   * @example Give up after a second
   * ```ts
   * import { TcpConn, TcpListener } from "@c10k/sockets/tcp";
   *
   * using listener = TcpListener.bind({ hostname: "127.0.0.1", port: 0 });
   * using conn = await TcpConn.connect({ port: listener.addr.port, timeout: 1_000 });
   * console.log(conn.localAddr, conn.remoteAddr);
   * ```
   */
  static async connect(options: TcpConnectOptions): Promise<TcpConn> {
    checkOptions(options);
    const port = checkPort(options.port, "port", 1);
    const hostname = checkHostname(options.hostname ?? "127.0.0.1");
    const noDelay = checkBoolean(options.noDelay ?? false, "noDelay");
    const keepAlive = checkKeepAlive(options.keepAlive ?? false);
    const localAddress = optional(options.localAddress, (value) => checkHostname(value, "localAddress"));
    const localPort = optional(options.localPort, (value) => checkPort(value, "localPort"));
    const engine = chooseEngine(options.engine, "connect TCP");
    const wait = checkWait(options);
    if (engine === "runtime") {
      if (localAddress !== undefined) throw needsNative("choose the local address");
      if (localPort !== undefined) throw needsNative("choose the local port");
      if (keepAlive.times !== undefined) throw needsNative("set keep-alive times");
    }
    const driver = await connect({ engine, hostname, port, wait, localAddress, localPort });
    try {
      if (noDelay) driver.setNoDelay(true);
      if (keepAlive.on) driver.setKeepAlive(true, keepAlive.times);
    } catch (error) {
      driver.close();
      throw error;
    }
    return new TcpConn(driver);
  }

  /**
   * Takes over a connected TCP socket by its descriptor. Native engine only.
   *
   * @param fd The descriptor, which the returned object owns from now on: what `detach()` gave, never the `fd` of an open
   * object, which would close it a second time.
   * @returns The connection.
   * @throws {Deno.errors.NotSupported} If there is no native engine.
   *
   * @example Take over what another object gave away
   * ```ts
   * import { TcpConn, TcpListener } from "@c10k/sockets/tcp";
   * import { assertEquals } from "@std/assert";
   *
   * using listener = TcpListener.bind({ hostname: "127.0.0.1", port: 0 });
   * using client = await TcpConn.connect({ port: listener.addr.port });
   * using server = await listener.accept();
   *
   * using same = TcpConn.fromFd(client.detach());
   * await server.writeAll(new Uint8Array([7]));
   * assertEquals(await same.read(new Uint8Array(9)), 1);
   * ```
   */
  static fromFd(fd: number): TcpConn {
    checkInteger(fd, "fd", 0, 2 ** 31 - 1);
    chooseEngine("native", "take over a descriptor");
    return new TcpConn(NativeConn.adopt(fd));
  }

  /** The address of this side. */
  get localAddr(): Deno.NetAddr {
    return this.#driver.localAddr;
  }

  /** The address of the peer. */
  get remoteAddr(): Deno.NetAddr {
    return this.#driver.remoteAddr;
  }

  /** What the connection is built on. */
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
   * Reads what has arrived, and waits if that is nothing yet: recv(2).
   *
   * @param p Where to put the bytes.
   * @param options For how long to wait.
   * @returns The number of bytes, at least 1 unless `p` is empty; `null` if the peer has finished.
   * @throws {Deno.errors.TimedOut} If its time is over.
   * @throws {Deno.errors.ConnectionReset} If the peer has reset the connection.
   * @throws {Deno.errors.BadResource} If the connection is closed, already or meanwhile.
   *
   * @example Read to end-of-file
   * ```ts
   * import { TcpConn, TcpListener } from "@c10k/sockets/tcp";
   *
   * using listener = TcpListener.bind({ hostname: "127.0.0.1", port: 0 });
   * using client = await TcpConn.connect({ port: listener.addr.port });
   * using server = await listener.accept();
   *
   * await client.writeAll(new TextEncoder().encode("one, two"));
   * await client.closeWrite();
   *
   * const p = new Uint8Array(5);
   * for (let n = await server.read(p); n !== null; n = await server.read(p)) {
   *   console.log(new TextDecoder().decode(p.subarray(0, n))); // "one, ", then "two"
   * }
   * ```
   */
  read(p: Uint8Array, options?: WaitOptions): Promise<number | null> {
    return this.#call(READ, p, options);
  }

  /**
   * Copies what has arrived without taking it: recv(2) with `MSG_PEEK`.
   *
   * @param p Where to put the bytes.
   * @param options For how long to wait.
   * @returns The number of bytes; `null` if the peer has finished.
   * @throws {Deno.errors.TimedOut} If its time is over.
   * @throws {Deno.errors.BadResource} If the connection is closed.
   *
   * @example Look before taking
   * ```ts
   * import { TcpConn, TcpListener } from "@c10k/sockets/tcp";
   * import { assertEquals } from "@std/assert";
   *
   * using listener = TcpListener.bind({ hostname: "127.0.0.1", port: 0 });
   * using client = await TcpConn.connect({ port: listener.addr.port });
   * using server = await listener.accept();
   *
   * await client.writeAll(new TextEncoder().encode("GET"));
   * const p = new Uint8Array(3);
   * assertEquals([await server.peek(p), await server.read(p)], [3, 3]); // the same bytes
   * ```
   */
  peek(p: Uint8Array, options?: WaitOptions): Promise<number | null> {
    return this.#call(PEEK, p, options);
  }

  /**
   * Reads until `p` is full: recv(2) as often as that takes. A call that fails takes nothing: what has come stays for the
   * next read. (On the native engine it is held by this object then, and a {@linkcode Multiplexer} does not know of it.)
   *
   * @param p What to fill.
   * @param options For how long to wait.
   * @returns The number of bytes, which is that of `p`; `null` if the peer has finished before the first byte.
   * @throws {Deno.errors.UnexpectedEof} If the peer has finished after it.
   * @throws {Deno.errors.TimedOut} If `p` is not full within `timeout`.
   * @throws {Deno.errors.ConnectionReset} If the peer has reset the connection.
   * @throws {Deno.errors.BadResource} If the connection is closed, already or meanwhile.
   *
   * @example A message of four bytes
   * ```ts
   * import { TcpConn, TcpListener } from "@c10k/sockets/tcp";
   * import { assertEquals } from "@std/assert";
   *
   * using listener = TcpListener.bind({ hostname: "127.0.0.1", port: 0 });
   * using client = await TcpConn.connect({ port: listener.addr.port });
   * using server = await listener.accept();
   *
   * await client.writeAll(new Uint8Array([1, 2]));
   * await client.writeAll(new Uint8Array([3, 4]));
   * const p = new Uint8Array(4);
   * assertEquals([await server.readFull(p), ...p], [4, 1, 2, 3, 4]);
   * ```
   */
  readFull(p: Uint8Array, options?: WaitOptions): Promise<number | null> {
    return this.#call(READ_FULL, p, options);
  }

  /**
   * Waits until {@linkcode TcpConn.tryRead} or {@linkcode TcpConn.tryWrite} is worth a call, and holds no buffer
   * meanwhile: one buffer serves all connections. As long as something is left it resolves at once, and now and then it
   * resolves although the call finds nothing. Takes its turn among the calls that wait on the same side.
   *
   * The runtime engine reads ahead to know, into a buffer of 4 KiB for each connection.
   *
   * @param interest What to wait for.
   * @param options For how long to wait.
   * @returns What the connection is ready for.
   * @throws {Deno.errors.TimedOut} If its time is over.
   * @throws {TypeError} If there is nothing to wait for.
   * @throws {Deno.errors.BadResource} If the connection is closed, already or meanwhile.
   *
   * @example One buffer for all
   * ```ts
   * import { TcpConn, TcpListener } from "@c10k/sockets/tcp";
   *
   * const p = new Uint8Array(64 * 1024);
   *
   * async function echo(conn: TcpConn): Promise<void> {
   *   while (true) {
   *     await conn.ready({ readable: true });
   *     const n = conn.tryRead(p);
   *     if (n === null) return conn.close();
   *     if (n === undefined) continue;
   *     const sent = conn.tryWrite(p.subarray(0, n)) ?? 0;
   *     if (sent < n) await conn.writeAll(p.slice(sent, n)); // a copy: others read into `p` meanwhile
   *   }
   * }
   *
   * using listener = TcpListener.bind({ hostname: "127.0.0.1", port: 0 });
   * using client = await TcpConn.connect({ port: listener.addr.port });
   * const served = echo(await listener.accept());
   * await client.writeAll(new TextEncoder().encode("hello"));
   * console.log(await client.readFull(new Uint8Array(5))); // 5
   * await client.closeWrite();
   * await served;
   * ```
   */
  ready(interest: ReadyInterest, options?: WaitOptions): Promise<Readiness> {
    let wait: Wait | undefined;
    let bits: number;
    try {
      wait = checkWait(options);
      bits = checkInterest(interest);
    } catch (error) {
      return Promise.reject(error);
    }
    return this.#driver.ready(bits, wait);
  }

  /**
   * Reads without waiting.
   *
   * On the runtime engine the first call starts a read that runs ahead, so
   * the bytes are there at a later turn of the event loop.
   *
   * @param p Where to put the bytes.
   * @returns The number of bytes; `null` if the peer has finished; `undefined` if nothing is there yet.
   * @throws {Deno.errors.BadResource} If the connection is closed.
   *
   * @example See whether something is there
   * ```ts
   * import { TcpConn, TcpListener } from "@c10k/sockets/tcp";
   * import { assertEquals } from "@std/assert";
   *
   * using listener = TcpListener.bind({ hostname: "127.0.0.1", port: 0 });
   * using client = await TcpConn.connect({ port: listener.addr.port });
   * using server = await listener.accept();
   *
   * assertEquals(server.tryRead(new Uint8Array(9)), undefined); // nothing yet
   * ```
   */
  tryRead(p: Uint8Array): number | null | undefined {
    checkBytes(p);
    return this.#driver.tryRead(p);
  }

  /**
   * Writes what the send buffer has room for, and waits if it has none: send(2). Writing nothing returns 0
   * at once, however full the buffer is.
   *
   * @param p The bytes; do not change them until the call is done.
   * @param options For how long to wait.
   * @returns The number of bytes written.
   * @throws {Deno.errors.TimedOut} If its time is over.
   * @throws {Deno.errors.BrokenPipe} If the peer is gone, or the write side is closed.
   * @throws {Deno.errors.ConnectionReset} If the peer has reset the connection.
   * @throws {Deno.errors.BadResource} If the connection is closed, already or meanwhile.
   *
   * @example Send what there is room for
   * ```ts
   * import { TcpConn, TcpListener } from "@c10k/sockets/tcp";
   *
   * using listener = TcpListener.bind({ hostname: "127.0.0.1", port: 0 });
   * using client = await TcpConn.connect({ port: listener.addr.port });
   * using server = await listener.accept();
   *
   * const p = new Uint8Array(10_000_000);
   * const n = await client.write(p);
   * console.log(`${p.length - n} bytes left to send`);
   * ```
   */
  write(p: Uint8Array, options?: WaitOptions): Promise<number> {
    return this.#call(WRITE, p, options);
  }

  /**
   * Writes all of `p`. Later writes wait for it, so data never mixes.
   *
   * @param p The bytes; do not change them until the call is done.
   * @param options For how long to wait.
   * @throws {Deno.errors.TimedOut} If its time is over.
   * @throws {Deno.errors.BrokenPipe} If the peer is gone, or the write side is closed.
   * @throws {Deno.errors.ConnectionReset} If the peer has reset the connection.
   * @throws {Deno.errors.BadResource} If the connection is closed, already or meanwhile.
   *
   * @example Two messages, whole and in order
   * ```ts
   * import { TcpConn, TcpListener } from "@c10k/sockets/tcp";
   * import { assertEquals } from "@std/assert";
   *
   * using listener = TcpListener.bind({ hostname: "127.0.0.1", port: 0 });
   * using client = await TcpConn.connect({ port: listener.addr.port });
   * using server = await listener.accept();
   *
   * const encoder = new TextEncoder();
   * await Promise.all([client.writeAll(encoder.encode("first ")), client.writeAll(encoder.encode("second"))]);
   * await client.closeWrite();
   * assertEquals(await new Response(server.readable).text(), "first second");
   * ```
   */
  writeAll(p: Uint8Array, options?: WaitOptions): Promise<void> {
    return this.#call(WRITE_ALL, p, options);
  }

  /**
   * Writes without waiting.
   *
   * On the runtime engine up to 64 KiB are copied and sent in the background, and
   * up to 64 KiB more are gathered meanwhile; a failure of that is thrown by the next write, and `close()` goes on
   * sending them for up to 5 s.
   *
   * @param p The bytes.
   * @returns The number of bytes taken; `undefined` if there is no room now.
   * @throws {Deno.errors.BrokenPipe} If the peer is gone, or the write side is closed.
   * @throws {Deno.errors.BadResource} If the connection is closed.
   *
   * @example Send, but do not wait for a slow reader
   * ```ts
   * import { TcpConn, TcpListener } from "@c10k/sockets/tcp";
   *
   * using listener = TcpListener.bind({ hostname: "127.0.0.1", port: 0 });
   * using client = await TcpConn.connect({ port: listener.addr.port });
   * using server = await listener.accept();
   *
   * const n = client.tryWrite(new TextEncoder().encode("now or never\n"));
   * if (n === undefined) console.log("the peer reads too slowly");
   * ```
   */
  tryWrite(p: Uint8Array): number | undefined {
    checkBytes(p);
    return this.#driver.tryWrite(p);
  }

  /**
   * What arrives, as a byte stream, up to the peer's end-of-file. Reading ahead
   * starts with the first reader, never before.
   *
   * Cancelling it, and leaving a `for await` loop over it early, closes the connection, as with a `Deno.TcpConn`
   * (`readable.values({ preventCancel: true })` is a loop that does not); so does an error. At end-of-file the
   * connection stays open for writing, and is closed once `writable` is closed, too.
   *
   * On the native engine an idle stream holds no buffer.
   *
   * @example Hang up after the first line
   * ```ts
   * import { TcpConn, TcpListener } from "@c10k/sockets/tcp";
   * import { assertEquals } from "@std/assert";
   *
   * using listener = TcpListener.bind({ hostname: "127.0.0.1", port: 0 });
   * using client = await TcpConn.connect({ port: listener.addr.port });
   * const server = await listener.accept();
   *
   * await client.writeAll(new TextEncoder().encode("bye\n"));
   * for await (const chunk of server.readable) {
   *   console.log(new TextDecoder().decode(chunk));
   *   break;
   * }
   * assertEquals(await client.read(new Uint8Array(1)), null);
   * ```
   */
  get readable(): ReadableStream<Uint8Array<ArrayBuffer>> {
    return (this.#streams ??= new ConnStreams(this.#driver)).readable;
  }

  /**
   * What is sent, as a stream. Closing it sends FIN and leaves `readable`
   * open; aborting it, or an error, closes the connection.
   */
  get writable(): WritableStream<Uint8Array<ArrayBufferLike>> {
    return (this.#streams ??= new ConnStreams(this.#driver)).writable;
  }

  /**
   * Tells the peer that nothing more will be sent (FIN), after what was
   * written before: shutdown(2) with `SHUT_WR`. Reading goes on. Calling it
   * again does nothing.
   *
   * @throws {Deno.errors.BadResource} If the connection is closed.
   *
   * @example Ask, and say that this was all
   * ```ts
   * import { TcpConn, TcpListener } from "@c10k/sockets/tcp";
   * import { assertEquals } from "@std/assert";
   *
   * using listener = TcpListener.bind({ hostname: "127.0.0.1", port: 0 });
   * using client = await TcpConn.connect({ port: listener.addr.port });
   * using server = await listener.accept();
   *
   * await client.writeAll(new TextEncoder().encode("all of it"));
   * await client.closeWrite();
   * assertEquals(await new Response(server.readable).text(), "all of it");
   * await server.writeAll(new TextEncoder().encode("thanks")); // the other direction is still open
   * ```
   */
  closeWrite(): Promise<void> {
    return this.#driver.closeWrite();
  }

  /**
   * Closes one side or both at once: shutdown(2). The runtime engine has
   * `"write"` only.
   *
   * @param how The side: `"read"`, `"write"` or `"both"`.
   * @throws {TypeError} If `how` is something else.
   * @throws {Deno.errors.NotSupported} If the engine cannot.
   * @throws {Deno.errors.BadResource} If the connection is closed.
   *
   * @example Finish without waiting
   * ```ts
   * import { TcpConn, TcpListener } from "@c10k/sockets/tcp";
   * import { assertEquals } from "@std/assert";
   *
   * using listener = TcpListener.bind({ hostname: "127.0.0.1", port: 0 });
   * using client = await TcpConn.connect({ port: listener.addr.port });
   * using server = await listener.accept();
   *
   * client.shutdown("write");
   * assertEquals(await server.read(new Uint8Array(1)), null);
   * ```
   */
  shutdown(how: "read" | "write" | "both"): void {
    if (how !== "read" && how !== "write" && how !== "both") {
      throw atCaller(new TypeError(`how must be "read", "write" or "both", received ${quote(how)}`));
    }
    this.#driver.shutdown(how);
  }

  /**
   * Closes the connection with RST: what was not sent is dropped, and the
   * peer's next call fails with `ConnectionReset`. Native engine only.
   *
   * @throws {Deno.errors.NotSupported} On the runtime engine.
   * @throws {Deno.errors.BadResource} If the connection is closed.
   *
   * @example Break off
   * ```ts
   * import { TcpConn, TcpListener } from "@c10k/sockets/tcp";
   * import { assertRejects } from "@std/assert";
   *
   * using listener = TcpListener.bind({ hostname: "127.0.0.1", port: 0 });
   * using client = await TcpConn.connect({ port: listener.addr.port });
   * using server = await listener.accept();
   *
   * client.reset();
   * await assertRejects(() => server.read(new Uint8Array(1)), Deno.errors.ConnectionReset);
   * ```
   */
  reset(): void {
    this.#driver.reset();
  }

  /**
   * Sends small segments at once instead of gathering them: `TCP_NODELAY` of tcp(7).
   *
   * @param on Whether to.
   *
   * @example Send each keystroke at once
   * ```ts
   * import { TcpConn, TcpListener } from "@c10k/sockets/tcp";
   *
   * using listener = TcpListener.bind({ hostname: "127.0.0.1", port: 0 });
   * using client = await TcpConn.connect({ port: listener.addr.port });
   * using server = await listener.accept();
   *
   * client.setNoDelay();
   * await client.writeAll(new TextEncoder().encode("l"));
   * await client.writeAll(new TextEncoder().encode("s"));
   * ```
   */
  setNoDelay(on: boolean = true): void {
    this.#driver.setNoDelay(checkBoolean(on, "on"));
  }

  /**
   * Sends probes on an idle connection, so that a vanished peer is noticed:
   * `SO_KEEPALIVE` of socket(7).
   *
   * @param on Whether to, or when (native engine only).
   * @throws {Deno.errors.NotSupported} If times are given on the runtime engine.
   *
   * @example First probe after a minute of silence
   * ```ts
   * import { TcpConn, TcpListener } from "@c10k/sockets/tcp";
   *
   * using listener = TcpListener.bind({ hostname: "127.0.0.1", port: 0 });
   * using client = await TcpConn.connect({ port: listener.addr.port });
   * using server = await listener.accept();
   *
   * server.setKeepAlive({ idle: 60, interval: 10, count: 5 });
   * ```
   */
  setKeepAlive(on: boolean | KeepAliveTimes = true): void {
    const keepAlive = checkKeepAlive(on);
    this.#driver.setKeepAlive(keepAlive.on, keepAlive.times);
  }

  /**
   * Reads a socket option: getsockopt(2). Native engine only.
   *
   * @param option The option.
   * @returns Its value.
   * @throws {Deno.errors.NotSupported} On the runtime engine.
   *
   * @example See how large the receive buffer is
   * ```ts
   * import { TcpConn, TcpListener } from "@c10k/sockets/tcp";
   *
   * using listener = TcpListener.bind({ hostname: "127.0.0.1", port: 0 });
   * using client = await TcpConn.connect({ port: listener.addr.port });
   * using server = await listener.accept();
   *
   * console.log(server.getOption("SO_RCVBUF")); // the kernel counts its own overhead, too
   * ```
   */
  getOption(option: SocketOption): number {
    return this.#driver.getOption(checkSocketOption(option));
  }

  /**
   * Sets a socket option: setsockopt(2). Native engine only.
   *
   * @param option The option.
   * @param value Its value.
   * @throws {Deno.errors.NotSupported} On the runtime engine.
   *
   * @example Give up on data that is not acknowledged within 5 s
   * ```ts
   * import { TcpConn, TcpListener } from "@c10k/sockets/tcp";
   * import { assertEquals } from "@std/assert";
   *
   * using listener = TcpListener.bind({ hostname: "127.0.0.1", port: 0 });
   * using client = await TcpConn.connect({ port: listener.addr.port });
   * using server = await listener.accept();
   *
   * server.setOption("TCP_USER_TIMEOUT", 5_000);
   * assertEquals(server.getOption("TCP_USER_TIMEOUT"), 5_000);
   * ```
   */
  setOption(option: SocketOption, value: number): void {
    this.#driver.setOption(checkSocketOption(option), checkInteger(value, "value", -(2 ** 31), 2 ** 32 - 1));
  }

  /**
   * Tells which congestion control is in use: `TCP_CONGESTION` of tcp(7). Native engine only.
   *
   * @returns Its name, such as `"cubic"`.
   * @throws {Deno.errors.NotSupported} On the runtime engine.
   *
   * @example See what is in use
   * ```ts
   * import { TcpConn, TcpListener } from "@c10k/sockets/tcp";
   *
   * using listener = TcpListener.bind({ hostname: "127.0.0.1", port: 0 });
   * using client = await TcpConn.connect({ port: listener.addr.port });
   * using server = await listener.accept();
   *
   * console.log(client.getCongestion()); // cubic
   * ```
   */
  getCongestion(): string {
    return this.#driver.getCongestion();
  }

  /**
   * Chooses the congestion control: `TCP_CONGESTION` of tcp(7). Native engine only.
   *
   * @param name Its name, one of `net.ipv4.tcp_available_congestion_control`.
   * @throws {Deno.errors.NotSupported} On the runtime engine.
   *
   * @example Choose another
   * ```ts
   * import { TcpConn, TcpListener } from "@c10k/sockets/tcp";
   * import { assertEquals } from "@std/assert";
   *
   * using listener = TcpListener.bind({ hostname: "127.0.0.1", port: 0 });
   * using client = await TcpConn.connect({ port: listener.addr.port });
   * using server = await listener.accept();
   *
   * client.setCongestion("reno");
   * assertEquals(client.getCongestion(), "reno");
   * ```
   */
  setCongestion(name: string): void {
    this.#driver.setCongestion(checkText(name, "name"));
  }

  /**
   * Tells what the kernel knows about the connection: `TCP_INFO` of tcp(7). Native engine only.
   *
   * @throws {Deno.errors.NotSupported} On the runtime engine.
   *
   * @example The state and the round-trip time
   * ```ts
   * import { TcpConn, TcpListener } from "@c10k/sockets/tcp";
   *
   * using listener = TcpListener.bind({ hostname: "127.0.0.1", port: 0 });
   * using client = await TcpConn.connect({ port: listener.addr.port });
   * using server = await listener.accept();
   *
   * const { state, rtt, congestionWindow } = client.info();
   * console.log(state, rtt, congestionWindow); // ESTABLISHED 45 10
   * ```
   */
  info(): TcpInfo {
    return this.#driver.info();
  }

  /**
   * Tells how many bytes stand in the kernel's two queues: received and not
   * read, written and not acknowledged (`SIOCINQ` and `SIOCOUTQ` of tcp(7)). Native engine only.
   *
   * @throws {Deno.errors.NotSupported} On the runtime engine.
   *
   * @example See bytes wait to be read
   * ```ts
   * import { TcpConn, TcpListener } from "@c10k/sockets/tcp";
   * import { assertEquals } from "@std/assert";
   *
   * using listener = TcpListener.bind({ hostname: "127.0.0.1", port: 0 });
   * using client = await TcpConn.connect({ port: listener.addr.port });
   * using server = await listener.accept();
   *
   * await client.writeAll(new Uint8Array(1000));
   * await server.peek(new Uint8Array(1)); // they have arrived
   * assertEquals(server.queues().receive, 1000);
   * ```
   */
  queues(): { receive: number; send: number } {
    return this.#driver.queues();
  }

  /**
   * Gives the descriptor away and leaves this object closed. Native engine only.
   *
   * @returns The descriptor, which the caller owns from now on.
   * @throws {Deno.errors.NotSupported} On the runtime engine.
   *
   * @example Give the descriptor away
   * ```ts
   * import { TcpConn, TcpListener } from "@c10k/sockets/tcp";
   * import { assertEquals } from "@std/assert";
   *
   * using listener = TcpListener.bind({ hostname: "127.0.0.1", port: 0 });
   * using client = await TcpConn.connect({ port: listener.addr.port });
   * using server = await listener.accept();
   *
   * const fd = client.detach();
   * assertEquals(client.fd, undefined);
   * TcpConn.fromFd(fd).close();
   * ```
   */
  detach(): number {
    return this.#driver.detach();
  }

  /** Lets waiting calls keep the process alive, as they do unless {@linkcode TcpConn.unref} was called. */
  ref(): void {
    this.#driver.ref();
  }

  /** Lets the process end although reads on this connection wait. */
  unref(): void {
    this.#driver.unref();
  }

  /**
   * Ends the connection so that the peer gets all that was written: sends FIN after it, reads and drops what the peer
   * still sends until it has finished, too, and closes. Just to close, with something unread or still on its way here,
   * makes the kernel send RST, and the peer loses what it has not read yet.
   *
   * @param options When to give the peer up, after which the connection is closed all the same.
   * @returns Once it is closed; also if the peer has reset it, or was given up.
   * @throws {Deno.errors.BadResource} If the connection is closed already.
   * @throws {unknown} The reason of a signal that is aborted.
   *
   * @example Answer, and let the rest of the request be
   * ```ts
   * import { TcpConn, TcpListener } from "@c10k/sockets/tcp";
   * import { assertEquals } from "@std/assert";
   *
   * using listener = TcpListener.bind({ hostname: "127.0.0.1", port: 0 });
   * using client = await TcpConn.connect({ port: listener.addr.port });
   * const server = await listener.accept();
   *
   * await client.writeAll(new Uint8Array(1_000)); // which nobody reads
   * await server.writeAll(new Uint8Array(500_000));
   * const finished = server.finish();
   * assertEquals((await new Response(client.readable).bytes()).length, 500_000);
   * client.close();
   * await finished;
   * ```
   */
  async finish(options: FinishOptions = {}): Promise<void> {
    checkOptions(options);
    const { size = Infinity, timeout = FINISH_TIMEOUT } = options;
    const most = size === Infinity ? size : checkInteger(size, "size", 0, Number.MAX_SAFE_INTEGER);
    const limit = checkDuration(timeout, "timeout");
    await finish(this.#driver, most, { signal: checkSignal(options), timeout: limit });
  }

  /**
   * Closes the connection: close(2). What was written is still sent, but if the peer has sent something that was not read,
   * or goes on sending, the kernel answers with RST, and the peer loses what it has not read: {@linkcode TcpConn.finish}
   * ends a connection whose peer may do so. Waiting calls are woken with `Deno.errors.BadResource`. Calling it again does
   * nothing.
   */
  close(): void {
    this.#driver.close();
  }

  /** Makes a call once its arguments are checked. */
  #call<T>(call: Call<T>, p: Uint8Array, options: WaitOptions | undefined): Promise<T> {
    let wait: Wait | undefined;
    try {
      wait = checkWait(options);
      // Last, since a getter of the options can resize or transfer `p`.
      checkBytes(p);
    } catch (error) {
      return Promise.reject(error);
    }
    return call(this.#driver, p, wait);
  }

  /** What `console.log` shows. */
  [Symbol.for("Deno.customInspect")](inspect: typeof Deno.inspect, options: Deno.InspectOptions): string {
    return `TcpConn ${
      inspect({ localAddr: this.localAddr, remoteAddr: this.remoteAddr, engine: this.engine, fd: this.fd }, options)
    }`;
  }

  /** Closes the connection, at the end of a `using` block. */
  [Symbol.dispose](): void {
    this.close();
  }
}

/** What stands behind the public object, for those who move it. */
export function driverOf(conn: TcpConn): ConnDriver {
  return disclose(conn);
}

/** Makes the public object for a connection that an engine has opened. */
export function wrapConn(driver: ConnDriver): TcpConn {
  return construct(driver);
}

function checkKeepAlive(value: unknown): { on: boolean; times: KeepAliveTimes | undefined } {
  if (typeof value === "boolean") return { on: value, times: undefined };
  if (typeof value !== "object" || value === null) {
    throw atCaller(new TypeError(`keepAlive must be a boolean or an object, received ${quote(value)}`));
  }
  const given = value as KeepAliveTimes;
  const idle = optional(given.idle, (value) => checkInteger(value, "idle", 1, 32767));
  const interval = optional(given.interval, (value) => checkInteger(value, "interval", 1, 32767));
  const count = optional(given.count, (value) => checkInteger(value, "count", 1, 127));
  const times = {
    ...idle !== undefined && { idle },
    ...interval !== undefined && { interval },
    ...count !== undefined && { count },
  };
  return { on: true, times };
}
