/** The UDP socket. */

import { hostKind, parseIPv4, parseIPv6, splitZone } from "../internal/address.ts";
import { copyOf } from "../internal/bytes.ts";
import { isText } from "../internal/c_string.ts";
import { chooseEngine, type Engine, type EngineOption, needsNative } from "../internal/engine.ts";
import type { SocketOption } from "../internal/socket_option.ts";
import { atCaller } from "../internal/stack.ts";
import {
  checkBoolean,
  checkBytes,
  checkHostname,
  checkInteger,
  checkOptions,
  checkPort,
  checkSocketOption,
  quote,
} from "../internal/validate.ts";
import { checkWait, type Wait, type WaitOptions } from "../internal/wait.ts";
import { announcePollable } from "../poll/pollable.ts";
import { checkInterest, type Readiness, type ReadyInterest } from "../poll/readiness.ts";
import { checkLocalAddress, type DatagramBatch, isBatch, memoryOf } from "./datagram_batch.ts";
import type { Datagram, MulticastOptions, UdpDriver } from "./driver.ts";
import { NativeEndpoint } from "./native_endpoint.ts";
import { RuntimeEndpoint } from "./runtime_endpoint.ts";
import { needsLocal } from "./runtime_sending.ts";

/**
 * How {@linkcode UdpEndpoint.bind} binds.
 *
 * @example Room for a burst
 * ```ts
 * import { type UdpBindOptions, UdpEndpoint } from "@c10k/sockets/udp";
 *
 * const options: UdpBindOptions = { hostname: "127.0.0.1", port: 0, receiveBufferSize: 1024 * 1024 };
 * using endpoint = UdpEndpoint.bind(options);
 * console.log(endpoint.addr);
 * ```
 */
export interface UdpBindOptions {
  /**
   * The port, from 0 to 65535; with 0 the kernel picks a free one.
   *
   * @default {0}
   */
  port?: number;
  /**
   * The local IP address or name. `0.0.0.0` is every IPv4 interface, `::`
   * every interface with both families (on Windows with IPv6 only). The lookup
   * of a name blocks the event loop until the name is resolved; on the runtime
   * engine a name needs `--unstable-net`.
   *
   * @default {"0.0.0.0"}
   */
  hostname?: string;
  /**
   * Let several sockets bind to one address, as multicast receivers do
   * (`SO_REUSEADDR`); the last one gets what is sent to that address alone.
   *
   * @default {false}
   */
  reuseAddress?: boolean;
  /**
   * Share the port with other sockets, and what arrives among them
   * (`SO_REUSEPORT`). Native engine only.
   *
   * @default {false}
   */
  reusePort?: boolean;
  /**
   * Allow sending to broadcast addresses (`SO_BROADCAST`). On the runtime
   * engine with `--unstable-net` that is always allowed.
   *
   * @default {false}
   */
  broadcast?: boolean;
  /**
   * Take IPv6 only on `::` (`IPV6_V6ONLY`).
   *
   * @default {false}
   */
  ipv6Only?: boolean;
  /**
   * Report for each datagram which address it was sent to, as
   * {@linkcode Datagram.localAddress}, so that the answer can leave from there
   * (`IP_PKTINFO` of ip(7), `IPV6_RECVPKTINFO` of ipv6(7) and RFC 3542). On a
   * wildcard address the kernel would choose the address of the answer by its
   * routes, and a connected client would not hear it. Native engine only.
   *
   * @default {false}
   */
  packetInfo?: boolean;
  /** Receive buffer in bytes (`SO_RCVBUF`). Native engine only. */
  receiveBufferSize?: number;
  /** Send buffer in bytes (`SO_SNDBUF`). Native engine only. */
  sendBufferSize?: number;
  /**
   * What to build the socket on.
   *
   * @default {"auto"}
   */
  engine?: EngineOption;
}

/**
 * Options of {@linkcode UdpEndpoint.recvFrom}.
 *
 * @example Look, and leave it there
 * ```ts
 * import { type RecvOptions, UdpEndpoint } from "@c10k/sockets/udp";
 * import { assertEquals } from "@std/assert";
 *
 * using a = UdpEndpoint.bind({ hostname: "127.0.0.1" });
 * using b = UdpEndpoint.bind({ hostname: "127.0.0.1" });
 *
 * await a.sendTo(new Uint8Array(3), b.addr);
 * const options: RecvOptions = { peek: true };
 * const p = new Uint8Array(100);
 * assertEquals((await b.recvFrom(p, options)).size, (await b.recvFrom(p)).size);
 * ```
 */
export interface RecvOptions extends WaitOptions {
  /**
   * Leave the datagram for the next call: `MSG_PEEK`.
   *
   * @default {false}
   */
  peek?: boolean;
}

/**
 * Options of {@linkcode UdpEndpoint.sendTo}.
 *
 * @example Answer from the address that was asked
 * ```ts
 * import { engineSupport, type SendToOptions, UdpEndpoint } from "@c10k/sockets/udp";
 * import { assertEquals } from "@std/assert";
 *
 * if (engineSupport().engine === "native") {
 *   using server = UdpEndpoint.bind({ hostname: "0.0.0.0", packetInfo: true });
 *   using client = UdpEndpoint.bind({ hostname: "127.0.0.1" });
 *   const p = new Uint8Array(100);
 *
 *   await client.sendTo(new Uint8Array(3), { hostname: "127.0.0.2", port: server.addr.port });
 *   const { data, address, localAddress } = await server.recvFrom(p);
 *   const options: SendToOptions = localAddress === undefined ? {} : { localAddress };
 *   await server.sendTo(data, address, options);
 *   assertEquals((await client.recvFrom(p)).address.hostname, "127.0.0.2");
 * }
 * ```
 */
export interface SendToOptions extends WaitOptions {
  /**
   * The address of this machine that the datagram leaves from, with the
   * endpoint's port; by default the kernel's choice. A link-local address has
   * its interface as zone. Native engine only.
   */
  localAddress?: string | undefined;
}

/**
 * Which datagrams of a batch to send.
 *
 * @example Go on where there was no room
 * ```ts
 * import { type BatchRange, DatagramBatch, UdpEndpoint } from "@c10k/sockets/udp";
 *
 * using endpoint = UdpEndpoint.bind({ hostname: "127.0.0.1" });
 * const batch = new DatagramBatch();
 * for (let i = 0; i < 9; i++) batch.set(i, new Uint8Array([i]), endpoint.addr);
 *
 * const rest: BatchRange = { start: endpoint.trySendBatch(batch) ?? 0 };
 * endpoint.trySendBatch(batch, rest); // what is left, if anything
 * ```
 */
export interface BatchRange {
  /**
   * The number of the first.
   *
   * @default {0}
   */
  start?: number;
  /** The number after that of the last; by default all are sent from `start` on. */
  end?: number;
}

/**
 * Options of {@linkcode UdpEndpoint.sendBatch}.
 *
 * @example All but the first, within a second
 * ```ts
 * import { DatagramBatch, type SendBatchOptions, UdpEndpoint } from "@c10k/sockets/udp";
 *
 * using endpoint = UdpEndpoint.bind({ hostname: "127.0.0.1" });
 * const batch = new DatagramBatch();
 * for (let i = 0; i < 9; i++) batch.set(i, new Uint8Array([i]), endpoint.addr);
 *
 * const options: SendBatchOptions = { start: 1, timeout: 1_000 };
 * console.log(await endpoint.sendBatch(batch, options)); // 8
 * ```
 */
export interface SendBatchOptions extends BatchRange, WaitOptions {}

/**
 * A UDP socket: one socket, many peers, no connection. Datagrams arrive whole,
 * each once, twice or never, and in any order (RFC 768).
 *
 * Cancelling loses nothing: a datagram that arrives later goes to the next
 * call. `close()` wakes every call that waits, with `Deno.errors.BadResource`.
 *
 * That a peer is not there (ICMP) no call is told, but on a connected endpoint.
 * What can be known at once is told by the send: in a server's loop catch it,
 * or one client's address ends the service for all.
 *
 * Requires `--allow-net`, for where it is bound and for each destination: with
 * `--allow-net=127.0.0.1:8080` a server is bound, and may answer nobody; with
 * `--allow-net=127.0.0.1` it may answer clients of this machine.
 *
 * @example Ask and answer
 * ```ts
 * import { UdpEndpoint } from "@c10k/sockets/udp";
 *
 * using server = UdpEndpoint.bind({ hostname: "127.0.0.1" });
 * using client = UdpEndpoint.bind({ hostname: "127.0.0.1" });
 *
 * await client.sendTo(new TextEncoder().encode("hello"), server.addr);
 * const p = new Uint8Array(2048);
 * const { data, address } = await server.recvFrom(p);
 * await server.sendTo(data, address);
 * console.log(new TextDecoder().decode((await client.recvFrom(p)).data));
 * ```
 */
export class UdpEndpoint {
  readonly #driver: UdpDriver;

  static {
    announcePollable((socket) => #driver in socket ? socket.#driver.pollable : undefined);
  }

  private constructor(driver: UdpDriver) {
    if (driver === undefined) throw atCaller(new TypeError("Illegal constructor: use UdpEndpoint.bind"));
    this.#driver = driver;
  }

  /**
   * Opens a socket and binds it: socket(2), bind(2).
   *
   * Requires `--allow-net` for the host and port.
   *
   * @param options Where, and how.
   * @returns The endpoint.
   * @throws {TypeError} If an option has the wrong type.
   * @throws {RangeError} If a number is out of range.
   * @throws {Deno.errors.AddrInUse} If somebody is bound there already.
   * @throws {Deno.errors.AddrNotAvailable} If the address is not local.
   * @throws {Deno.errors.NotCapable} If the permission is not given.
   * @throws {Deno.errors.NotSupported} If the engine lacks an option.
   *
   * @example Let the kernel pick a port
   * ```ts
   * import { UdpEndpoint } from "@c10k/sockets/udp";
   *
   * using endpoint = UdpEndpoint.bind({ hostname: "127.0.0.1" });
   * console.log(endpoint.addr.port);
   * ```
   */
  static bind(options: UdpBindOptions = {}): UdpEndpoint {
    checkOptions(options);
    const port = checkPort(options.port ?? 0);
    const hostname = checkHostname(options.hostname ?? "0.0.0.0");
    const flag = (name: "reuseAddress" | "reusePort" | "broadcast" | "ipv6Only" | "packetInfo") =>
      checkBoolean(options[name] ?? false, name);
    const [reuseAddress, reusePort, broadcast, ipv6Only, packetInfo] = [
      flag("reuseAddress"),
      flag("reusePort"),
      flag("broadcast"),
      flag("ipv6Only"),
      flag("packetInfo"),
    ];
    const { receiveBufferSize, sendBufferSize } = options;
    if (receiveBufferSize !== undefined) checkInteger(receiveBufferSize, "receiveBufferSize", 1, 2 ** 30);
    if (sendBufferSize !== undefined) checkInteger(sendBufferSize, "sendBufferSize", 1, 2 ** 30);
    if (chooseEngine(options.engine, "bind UDP endpoint") === "native") {
      const given: [SocketOption, number | undefined][] = [
        ["SO_REUSEADDR", Number(reuseAddress)],
        ["SO_REUSEPORT", Number(reusePort)],
        ["SO_BROADCAST", Number(broadcast)],
        ["IPV6_V6ONLY", Number(ipv6Only)],
        ["SO_RCVBUF", receiveBufferSize],
        ["SO_SNDBUF", sendBufferSize],
      ];
      const set = given.filter((option): option is [SocketOption, number] => option[1] !== undefined);
      return new UdpEndpoint(NativeEndpoint.bind({ hostname, port, options: set, packetInfo }));
    }
    // node:dgram takes buffer sizes, and then receives nothing.
    if (receiveBufferSize !== undefined) throw needsNative("set the receive buffer size");
    if (sendBufferSize !== undefined) throw needsNative("set the send buffer size");
    if (reusePort) throw needsNative("share a port");
    if (packetInfo) throw needsLocal("report the local address of datagrams");
    const endpoint = RuntimeEndpoint.bind({ hostname, port, reuseAddress, ipv6Only });
    if (broadcast) endpoint.setBroadcast(true);
    return new UdpEndpoint(endpoint);
  }

  /**
   * Takes over a UDP socket by its descriptor. Native engine only.
   *
   * @param fd The descriptor, which the returned object owns from now on: what `detach()` gave, never the `fd` of an
   * open object, which would close it a second time.
   * @returns The endpoint.
   * @throws {TypeError} If it is no UDP socket.
   * @throws {Deno.errors.NotSupported} If there is no native engine.
   *
   * @example Take over what another object gave away
   * ```ts
   * import { UdpEndpoint } from "@c10k/sockets/udp";
   *
   * const endpoint = UdpEndpoint.bind({ hostname: "127.0.0.1" });
   * using same = UdpEndpoint.fromFd(endpoint.detach());
   * console.log(same.addr);
   * ```
   */
  static fromFd(fd: number): UdpEndpoint {
    checkInteger(fd, "fd", 0, 2 ** 31 - 1);
    chooseEngine("native", "take over a descriptor");
    return new UdpEndpoint(NativeEndpoint.adopt(fd));
  }

  /** The address the socket is bound to, with the port that the kernel picked for 0. */
  get addr(): Deno.NetAddr {
    return this.#driver.addr;
  }

  /** What the endpoint is built on. */
  get engine(): Engine {
    return this.#driver.engine;
  }

  /** The descriptor; `undefined` on the runtime engine and after `close()` or `detach()`. */
  get fd(): number | undefined {
    return this.#driver.fd;
  }

  /** The number of the socket's inode, which `ss -e` and /proc show; `undefined` where there is no descriptor. */
  get inode(): number | undefined {
    return this.#driver.inode;
  }

  /** The only peer, after {@linkcode UdpEndpoint.connect}; else `undefined`. */
  get peer(): Deno.NetAddr | undefined {
    return this.#driver.peer;
  }

  /**
   * Sends a datagram: sendto(2).
   *
   * Requires `--allow-net` for the host and port.
   *
   * @param p What to send, up to 65,507 bytes over IPv4; do not change it until the call is done.
   * @param to Where to send it. An object that `recvFrom` has returned costs least, a name is looked up each time.
   * @param options For how long to wait for room, and the local address that the datagram leaves from. That one
   * needs `--allow-net` for it and the endpoint's port, as binding to it would.
   * @returns The number of bytes, all of `p`; they have left this program, which does not mean that they arrive.
   * @throws {Deno.errors.TimedOut} If its time is over.
   * @throws {Error} If the datagram is too large (`EMSGSIZE`), or there is no way to the peer (`EHOSTUNREACH`, …): in
   * a server's loop catch what one peer's address can cause. Also if `localAddress` is not an address of this machine
   * (`EINVAL`).
   * @throws {TypeError} If an argument has the wrong type, `localAddress` is no address or not of the destination's
   * family, or `p` was resized or transferred while the call waited: then nothing is sent.
   * @throws {Deno.errors.PermissionDenied} If it is a broadcast address, and that was not allowed.
   * @throws {Deno.errors.NotCapable} If the permission is not given.
   * @throws {Deno.errors.NotSupported} If `localAddress` is given on the runtime engine.
   * @throws {Deno.errors.BadResource} If the endpoint is closed.
   *
   * @example To another endpoint
   * ```ts
   * import { UdpEndpoint } from "@c10k/sockets/udp";
   *
   * using a = UdpEndpoint.bind({ hostname: "127.0.0.1" });
   * using b = UdpEndpoint.bind({ hostname: "127.0.0.1" });
   *
   * await a.sendTo(new TextEncoder().encode("ping"), b.addr);
   * ```
   */
  sendTo(p: Uint8Array, to: { hostname: string; port: number }, options?: SendToOptions): Promise<number> {
    let wait: Wait | undefined;
    let address: Deno.NetAddr;
    let localAddress: string | undefined;
    try {
      const { lastSender } = this.#driver;
      // A server's answer goes to an address that was made here, and cannot have been changed.
      address = lastSender !== undefined && to === lastSender ? lastSender : checkAddress(to);
      if (options !== undefined) {
        wait = checkWait(options);
        localAddress = checkLocalAddress(options);
      }
      // Last, since the getters of an object can resize or transfer `p`.
      checkBytes(p);
    } catch (error) {
      return Promise.reject(error);
    }
    return this.#driver.sendTo(p, address, localAddress, wait);
  }

  /**
   * Receives a datagram, and waits if there is none yet: recvfrom(2).
   *
   * @param p Where to put it; what does not fit is lost, and `truncated` tells so.
   * @param options For how long to wait, and whether to leave the datagram there.
   * @returns The datagram; its `data` is a view of the beginning of `p`.
   * @throws {Deno.errors.TimedOut} If its time is over.
   * @throws {Deno.errors.ConnectionRefused} On a connected endpoint, if nobody listens there.
   * @throws {Deno.errors.BadResource} If the endpoint is closed, already or meanwhile.
   *
   * @example Who has sent it
   * ```ts
   * import { UdpEndpoint } from "@c10k/sockets/udp";
   *
   * using a = UdpEndpoint.bind({ hostname: "127.0.0.1" });
   * using b = UdpEndpoint.bind({ hostname: "127.0.0.1" });
   *
   * await a.sendTo(new TextEncoder().encode("ping"), b.addr);
   * const { data, address } = await b.recvFrom(new Uint8Array(2048));
   * console.log(new TextDecoder().decode(data), address.port);
   * ```
   */
  recvFrom(p: Uint8Array, options?: RecvOptions): Promise<Datagram> {
    let wait: Wait | undefined;
    let peek: boolean;
    try {
      wait = checkWait(options);
      peek = checkBoolean(options?.peek ?? false, "peek");
      checkBytes(p);
    } catch (error) {
      return Promise.reject(error);
    }
    return this.#driver.recvFrom(p, peek, wait);
  }

  /**
   * Sends a datagram without waiting.
   *
   * On the runtime engine it is copied and sent in the background, after those
   * before it; why one failed is thrown by the next `trySendTo` or `trySendBatch`.
   *
   * Requires `--allow-net` for the host and port.
   *
   * @param p What to send.
   * @param to Where to send it: an address, no name.
   * @param options The local address that the datagram leaves from, as in {@linkcode UdpEndpoint.sendTo}.
   * @returns The number of bytes; `undefined` if there is no room now.
   * @throws {Error} As {@linkcode UdpEndpoint.sendTo}.
   *
   * @example Send, or drop it
   * ```ts
   * import { UdpEndpoint } from "@c10k/sockets/udp";
   *
   * using a = UdpEndpoint.bind({ hostname: "127.0.0.1" });
   * using b = UdpEndpoint.bind({ hostname: "127.0.0.1" });
   *
   * const n = a.trySendTo(new Uint8Array([1, 2, 3]), b.addr);
   * if (n === undefined) console.log("no room in the send buffer");
   * ```
   */
  trySendTo(
    p: Uint8Array,
    to: { hostname: string; port: number },
    options?: { localAddress?: string | undefined },
  ): number | undefined {
    const address = checkAddress(to);
    const localAddress = options === undefined ? undefined : checkLocalAddress(options);
    checkBytes(p);
    return this.#driver.trySendTo(p, address, localAddress);
  }

  /**
   * Waits until {@linkcode UdpEndpoint.tryRecvFrom} or {@linkcode UdpEndpoint.trySendTo} is worth a call, and holds no
   * buffer meanwhile. As long as something is left it resolves at once, and now and then it resolves although the call
   * finds nothing: the kernel drops a datagram with a wrong checksum when it is received. Takes its turn among the calls
   * that wait.
   *
   * @param interest What to wait for.
   * @param options For how long to wait.
   * @returns What the endpoint is ready for.
   * @throws {Deno.errors.TimedOut} If its time is over.
   * @throws {TypeError} If there is nothing to wait for.
   * @throws {Deno.errors.BadResource} If the endpoint is closed, already or meanwhile.
   *
   * @example Take all that are there
   * ```ts
   * import { UdpEndpoint } from "@c10k/sockets/udp";
   *
   * using a = UdpEndpoint.bind({ hostname: "127.0.0.1" });
   * using b = UdpEndpoint.bind({ hostname: "127.0.0.1" });
   * await a.sendTo(new TextEncoder().encode("ping"), b.addr);
   *
   * const p = new Uint8Array(2048);
   * await b.ready({ readable: true });
   * for (let got = b.tryRecvFrom(p); got !== undefined; got = b.tryRecvFrom(p)) console.log(got.size); // 4
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
   * Receives a datagram without waiting.
   *
   * On the runtime engine the first call starts a receive that runs ahead, so
   * the datagram is there at a later turn of the event loop.
   *
   * @param p Where to put it; what does not fit is lost, and `truncated` tells so.
   * @param options Whether to leave the datagram there.
   * @returns The datagram, `undefined` if there is none.
   * @throws {Deno.errors.ConnectionRefused} On a connected endpoint, if nobody listens there.
   * @throws {Deno.errors.BadResource} If the endpoint is closed.
   *
   * @example Nothing is there
   * ```ts
   * import { UdpEndpoint } from "@c10k/sockets/udp";
   * import { assertEquals } from "@std/assert";
   *
   * using a = UdpEndpoint.bind({ hostname: "127.0.0.1" });
   * using b = UdpEndpoint.bind({ hostname: "127.0.0.1" });
   *
   * assertEquals(a.tryRecvFrom(new Uint8Array(100)), undefined);
   * ```
   */
  tryRecvFrom(p: Uint8Array, options?: { peek?: boolean }): Datagram | undefined {
    const peek = checkBoolean(options?.peek ?? false, "peek");
    checkBytes(p);
    return this.#driver.tryRecvFrom(p, peek);
  }

  /**
   * Talks to one peer only from now on: connect(2). `send` needs no address,
   * and that nobody listens there (ICMP) is told, with `ECONNREFUSED`, to the
   * next call. What others send is not received, but for what they had sent
   * before. Nothing is sent. The lookup of a name blocks the event loop until
   * the name is resolved: pass an IP address where that matters. Native engine
   * only.
   *
   * Requires `--allow-net` for the host and port.
   *
   * @param to The peer.
   * @throws {Deno.errors.NotCapable} If the permission is not given.
   * @throws {Deno.errors.NotSupported} On the runtime engine.
   *
   * @example One peer, no address with each datagram
   * ```ts
   * import { UdpEndpoint } from "@c10k/sockets/udp";
   * import { assertEquals } from "@std/assert";
   *
   * using a = UdpEndpoint.bind({ hostname: "127.0.0.1" });
   * using b = UdpEndpoint.bind({ hostname: "127.0.0.1" });
   *
   * a.connect(b.addr);
   * b.connect(a.addr);
   * await a.send(new Uint8Array(5));
   * assertEquals(await b.recv(new Uint8Array(100)), 5);
   * ```
   */
  connect(to: { hostname: string; port: number }): void {
    this.#driver.connect(checkAddress(to));
  }

  /**
   * Talks to everybody again: connect(2) with `AF_UNSPEC`. Native engine only.
   *
   * @throws {Deno.errors.NotSupported} On the runtime engine.
   *
   * @example Talk to everybody again
   * ```ts
   * import { UdpEndpoint } from "@c10k/sockets/udp";
   * import { assertEquals } from "@std/assert";
   *
   * using a = UdpEndpoint.bind({ hostname: "127.0.0.1" });
   * using b = UdpEndpoint.bind({ hostname: "127.0.0.1" });
   *
   * a.connect(b.addr);
   * a.disconnect();
   * assertEquals(a.peer, undefined);
   * ```
   */
  disconnect(): void {
    this.#driver.disconnect();
  }

  /**
   * Sends a datagram to the peer of a connected endpoint: send(2). Native engine only.
   *
   * @param p What to send.
   * @param options For how long to wait for room.
   * @returns The number of bytes.
   * @throws {Deno.errors.TimedOut} If its time is over.
   * @throws {Deno.errors.ConnectionRefused} If nobody listened there when something was sent before.
   * @throws {Error} If the endpoint is not connected (`EDESTADDRREQ`).
   *
   * @example Hear that nobody listens
   * ```ts
   * import { UdpEndpoint } from "@c10k/sockets/udp";
   * import { assertRejects } from "@std/assert";
   *
   * using endpoint = UdpEndpoint.bind({ hostname: "127.0.0.1" });
   * const gone = UdpEndpoint.bind({ hostname: "127.0.0.1" });
   * endpoint.connect(gone.addr);
   * gone.close();
   * await endpoint.send(new Uint8Array(1)); // answered by ICMP
   * await assertRejects(() => endpoint.recv(new Uint8Array(1)), Deno.errors.ConnectionRefused);
   * ```
   */
  send(p: Uint8Array, options?: WaitOptions): Promise<number> {
    let wait: Wait | undefined;
    try {
      wait = checkWait(options);
      checkBytes(p);
    } catch (error) {
      return Promise.reject(error);
    }
    return this.#driver.send(p, wait);
  }

  /**
   * Receives a datagram's data alone: recv(2) with `MSG_TRUNC`.
   *
   * @param p Where to put it; what does not fit is lost.
   * @param options For how long to wait, and whether to leave the datagram there.
   * @returns Bytes that the sender sent: more than `p` has if the rest is lost. 0 is an empty datagram, not an end.
   * @throws {Deno.errors.TimedOut} If its time is over.
   * @throws {Deno.errors.ConnectionRefused} On a connected endpoint, if nobody listens there.
   * @throws {Deno.errors.BadResource} If the endpoint is closed, already or meanwhile.
   *
   * @example From the peer
   * ```ts
   * import { UdpEndpoint } from "@c10k/sockets/udp";
   * import { assertEquals } from "@std/assert";
   *
   * using a = UdpEndpoint.bind({ hostname: "127.0.0.1" });
   * using b = UdpEndpoint.bind({ hostname: "127.0.0.1" });
   *
   * a.connect(b.addr);
   * await b.sendTo(new Uint8Array(7), a.addr);
   * assertEquals(await a.recv(new Uint8Array(100)), 7);
   * ```
   */
  async recv(p: Uint8Array, options?: RecvOptions): Promise<number> {
    return (await this.recvFrom(p, options)).size;
  }

  /**
   * Receives what has arrived, many datagrams at once, and waits if that is
   * none: recvmmsg(2). On the runtime engine one by one.
   *
   * @param batch Where to put them.
   * @param options For how long to wait.
   * @returns How many; `batch.length` is that, too.
   * @throws {Deno.errors.TimedOut} If its time is over.
   * @throws {Deno.errors.ConnectionRefused} On a connected endpoint, if nobody listens there.
   * @throws {Deno.errors.BadResource} If the endpoint is closed, already or meanwhile.
   *
   * @example Everything that has arrived
   * ```ts
   * import { DatagramBatch, UdpEndpoint } from "@c10k/sockets/udp";
   * import { assertEquals } from "@std/assert";
   *
   * using a = UdpEndpoint.bind({ hostname: "127.0.0.1" });
   * using b = UdpEndpoint.bind({ hostname: "127.0.0.1" });
   * const batch = new DatagramBatch({ capacity: 8, datagramSize: 100 });
   *
   * for (let i = 0; i < 3; i++) await a.sendTo(new Uint8Array([i]), b.addr);
   * let n = 0;
   * while (n < 3) n += await b.recvBatch(batch); // 3 at once, mostly
   * assertEquals(n, 3);
   * ```
   */
  recvBatch(batch: DatagramBatch, options?: WaitOptions): Promise<number> {
    let wait: Wait | undefined;
    try {
      checkBatch(batch);
      wait = checkWait(options);
    } catch (error) {
      return Promise.reject(error);
    }
    return this.#driver.recvBatch(batch, wait);
  }

  /**
   * Sends the datagrams of a batch, each to its address: sendmmsg(2). One that
   * cannot be sent keeps back no other.
   *
   * Requires `--allow-net` for each host and port.
   *
   * @param batch The datagrams; do not change them until the call is done.
   * @param options Which of them, and for how long to wait for room; what was sent before is sent.
   * @returns How many were sent: all of them.
   * @throws {Error} Once all others are sent, why the first that could not be was not, as
   * {@linkcode UdpEndpoint.sendTo}.
   * @throws {Deno.errors.BadResource} If the endpoint is closed meanwhile.
   *
   * @example Three at once
   * ```ts
   * import { DatagramBatch, UdpEndpoint } from "@c10k/sockets/udp";
   * import { assertEquals } from "@std/assert";
   *
   * using a = UdpEndpoint.bind({ hostname: "127.0.0.1" });
   * using b = UdpEndpoint.bind({ hostname: "127.0.0.1" });
   * const batch = new DatagramBatch({ capacity: 8, datagramSize: 100 });
   *
   * for (let i = 0; i < 3; i++) batch.set(i, new Uint8Array([i]), b.addr);
   * assertEquals(await a.sendBatch(batch), 3);
   * ```
   */
  sendBatch(batch: DatagramBatch, options?: SendBatchOptions): Promise<number> {
    let wait: Wait | undefined;
    let range: readonly [start: number, end: number];
    try {
      checkBatch(batch);
      wait = checkWait(options);
      range = checkRange(batch, options);
    } catch (error) {
      return Promise.reject(error);
    }
    return this.#driver.sendBatch(batch, ...range, wait);
  }

  /**
   * Receives what has arrived without waiting.
   *
   * @param batch Where to put it.
   * @returns How many datagrams; `undefined` if there is none.
   * @throws {Deno.errors.ConnectionRefused} On a connected endpoint, if nobody listens there.
   * @throws {Deno.errors.BadResource} If the endpoint is closed.
   *
   * @example Nothing is there
   * ```ts
   * import { DatagramBatch, UdpEndpoint } from "@c10k/sockets/udp";
   * import { assertEquals } from "@std/assert";
   *
   * using a = UdpEndpoint.bind({ hostname: "127.0.0.1" });
   * using b = UdpEndpoint.bind({ hostname: "127.0.0.1" });
   * const batch = new DatagramBatch({ capacity: 8, datagramSize: 100 });
   *
   * assertEquals(b.tryRecvBatch(batch), undefined);
   * ```
   */
  tryRecvBatch(batch: DatagramBatch): number | undefined {
    checkBatch(batch);
    return this.#driver.tryRecvBatch(batch);
  }

  /**
   * Sends what there is room for without waiting: sendmmsg(2).
   *
   * Requires `--allow-net` for each host and port.
   *
   * @param batch The datagrams.
   * @param options Which of them to send.
   * @returns How many were sent, fewer if there is no room for more or the next cannot be sent; `undefined` if there is
   * no room for any. Go on with `start` there.
   * @throws {Error} If the first cannot be sent, as {@linkcode UdpEndpoint.sendTo}.
   *
   * @example Send what there is room for
   * ```ts
   * import { DatagramBatch, UdpEndpoint } from "@c10k/sockets/udp";
   * import { assertEquals } from "@std/assert";
   *
   * using a = UdpEndpoint.bind({ hostname: "127.0.0.1" });
   * using b = UdpEndpoint.bind({ hostname: "127.0.0.1" });
   * const batch = new DatagramBatch({ capacity: 8, datagramSize: 100 });
   *
   * batch.set(0, new Uint8Array([1]), b.addr);
   * assertEquals(a.trySendBatch(batch), 1);
   * ```
   */
  trySendBatch(batch: DatagramBatch, options?: BatchRange): number | undefined {
    checkBatch(batch);
    return this.#driver.trySendBatch(batch, ...checkRange(batch, options));
  }

  /**
   * Joins a multicast group: setsockopt(2) with `MCAST_JOIN_GROUP` or, with a
   * source, `MCAST_JOIN_SOURCE_GROUP` (RFC 3678). Bind to the group's port, on
   * `0.0.0.0` or `::`, with `reuseAddress` if others on this machine do so too.
   *
   * @param options The group, and where.
   * @throws {TypeError} If the group is no multicast address, or an option has the wrong type.
   * @throws {Error} If there is no such interface (`ENODEV`), no route to choose one by, or the group was joined
   * already.
   * @throws {Deno.errors.NotSupported} If the runtime engine lacks an option: see {@linkcode MulticastOptions}.
   *
   * @example Receive what is sent to a group
   * ```ts
   * import { UdpEndpoint } from "@c10k/sockets/udp";
   *
   * const group = "239.255.0.1";
   * using receiver = UdpEndpoint.bind({ port: 0, reuseAddress: true });
   * receiver.joinMulticast({ group, interface: "127.0.0.1" });
   *
   * using sender = UdpEndpoint.bind();
   * sender.setMulticastInterface("127.0.0.1");
   * await sender.sendTo(new TextEncoder().encode("all"), { hostname: group, port: receiver.addr.port });
   * console.log((await receiver.recvFrom(new Uint8Array(2048))).size); // 3
   * ```
   */
  joinMulticast(options: MulticastOptions): void {
    this.#driver.setMembership(checkMulticast(options), true);
  }

  /**
   * Leaves a multicast group that was joined with the same options.
   *
   * @param options The group, and where.
   * @throws {Error} If it was not joined.
   *
   * @example With the same options
   * ```ts
   * import { UdpEndpoint } from "@c10k/sockets/udp";
   *
   * using endpoint = UdpEndpoint.bind({ hostname: "0.0.0.0" });
   * const membership = { group: "239.255.0.1", interface: "127.0.0.1" };
   * endpoint.joinMulticast(membership);
   * endpoint.leaveMulticast(membership);
   * ```
   */
  leaveMulticast(options: MulticastOptions): void {
    this.#driver.setMembership(checkMulticast(options), false);
  }

  /**
   * Sets how far multicast datagrams go: `IP_MULTICAST_TTL`, `IPV6_MULTICAST_HOPS`.
   *
   * @param ttl Hops, from 0 to 255; 1, the default, stays in the local network.
   *
   * @example As far as four routers
   * ```ts
   * import { UdpEndpoint } from "@c10k/sockets/udp";
   *
   * using endpoint = UdpEndpoint.bind({ hostname: "0.0.0.0" });
   * endpoint.setMulticastTtl(4);
   * ```
   */
  setMulticastTtl(ttl: number): void {
    this.#driver.setMulticastTtl(checkInteger(ttl, "ttl", 0, 255));
  }

  /**
   * Chooses whether sockets of this machine get its multicast datagrams too:
   * `IP_MULTICAST_LOOP`, `IPV6_MULTICAST_LOOP`.
   *
   * @param on Whether they do.
   *
   * @example Not to this machine
   * ```ts
   * import { UdpEndpoint } from "@c10k/sockets/udp";
   *
   * using endpoint = UdpEndpoint.bind({ hostname: "0.0.0.0" });
   * endpoint.setMulticastLoopback(false);
   * ```
   */
  setMulticastLoopback(on: boolean): void {
    this.#driver.setMulticastLoopback(checkBoolean(on, "on"));
  }

  /**
   * Chooses the interface that multicast datagrams leave by: `IP_MULTICAST_IF`, `IPV6_MULTICAST_IF`.
   *
   * @param name Its name, or (IPv4) one of its addresses.
   *
   * @example Leave by one interface
   * ```ts
   * import { UdpEndpoint } from "@c10k/sockets/udp";
   *
   * using endpoint = UdpEndpoint.bind({ hostname: "0.0.0.0" });
   * endpoint.setMulticastInterface("127.0.0.1");
   * ```
   */
  setMulticastInterface(name: string): void {
    if (!isText(name) || name === "") {
      throw atCaller(new TypeError(`name must be the name of an interface, received ${quote(name)}`));
    }
    this.#driver.setMulticastInterface(name);
  }

  /**
   * Allows sending to broadcast addresses: `SO_BROADCAST`.
   *
   * @param on Whether to.
   *
   * @example Allow it later than bind
   * ```ts
   * import { UdpEndpoint } from "@c10k/sockets/udp";
   *
   * using endpoint = UdpEndpoint.bind({ hostname: "0.0.0.0" });
   * endpoint.setBroadcast(true);
   * ```
   */
  setBroadcast(on: boolean = true): void {
    this.#driver.setBroadcast(checkBoolean(on, "on"));
  }

  /**
   * Sets how far datagrams go: `IP_TTL`, `IPV6_UNICAST_HOPS`.
   *
   * @param ttl Hops, from 1 to 255.
   *
   * @example No farther than the next router
   * ```ts
   * import { UdpEndpoint } from "@c10k/sockets/udp";
   *
   * using endpoint = UdpEndpoint.bind({ hostname: "0.0.0.0" });
   * endpoint.setTtl(1);
   * ```
   */
  setTtl(ttl: number): void {
    this.#driver.setTtl(checkInteger(ttl, "ttl", 1, 255));
  }

  /**
   * Reads a socket option: getsockopt(2). Native engine only.
   *
   * @param option The option.
   * @returns Its value.
   *
   * @example How large the receive buffer is
   * ```ts
   * import { UdpEndpoint } from "@c10k/sockets/udp";
   *
   * using endpoint = UdpEndpoint.bind({ hostname: "0.0.0.0" });
   * console.log(endpoint.getOption("SO_RCVBUF"));
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
   *
   * @example Mark datagrams for low delay
   * ```ts
   * import { UdpEndpoint } from "@c10k/sockets/udp";
   *
   * using endpoint = UdpEndpoint.bind({ hostname: "0.0.0.0" });
   * endpoint.setOption("IP_TOS", 0x10);
   * ```
   */
  setOption(option: SocketOption, value: number): void {
    this.#driver.setOption(checkSocketOption(option), checkInteger(value, "value", -(2 ** 31), 2 ** 32 - 1));
  }

  /**
   * Counts the datagrams that were dropped because the receive queue was full:
   * the kernel's counter (`SO_MEMINFO` of sock_diag(7)).
   *
   * On the runtime engine the kernel's is not known. What is counted there is
   * what node:dgram had delivered and the queue of this library, of 1,024
   * datagrams and 4 MiB, had no room for; with `--unstable-net` there is no such
   * queue, and the count is 0.
   *
   * @returns How many since the socket was opened.
   *
   * @example See whether the reader keeps up
   * ```ts
   * import { UdpEndpoint } from "@c10k/sockets/udp";
   *
   * using endpoint = UdpEndpoint.bind({ hostname: "0.0.0.0" });
   * if (endpoint.drops() > 0) console.log("too slow, or too small a buffer");
   * ```
   */
  drops(): number {
    return this.#driver.drops();
  }

  /**
   * Gives the descriptor away and leaves this object closed. Native engine only.
   *
   * @returns The descriptor, which the caller owns from now on.
   *
   * @example Give the descriptor away
   * ```ts
   * import { UdpEndpoint } from "@c10k/sockets/udp";
   *
   * const endpoint = UdpEndpoint.bind({ hostname: "127.0.0.1" });
   * UdpEndpoint.fromFd(endpoint.detach()).close();
   * ```
   */
  detach(): number {
    return this.#driver.detach();
  }

  /** Lets waiting receives keep the process alive, as they do unless {@linkcode UdpEndpoint.unref} was called. */
  ref(): void {
    this.#driver.ref();
  }

  /** Lets the process end although a receive waits. */
  unref(): void {
    this.#driver.unref();
  }

  /** Closes the socket: close(2). Calls that wait are woken. Calling it again does nothing. */
  close(): void {
    this.#driver.close();
  }

  /** What `console.log` shows. */
  [Symbol.for("Deno.customInspect")](inspect: typeof Deno.inspect, options: Deno.InspectOptions): string {
    return `UdpEndpoint ${inspect({ addr: this.addr, engine: this.engine, fd: this.fd }, options)}`;
  }

  /** Closes the endpoint, at the end of a `using` block. */
  [Symbol.dispose](): void {
    this.close();
  }

  /**
   * Receives datagrams until the endpoint is closed, each in memory of its own.
   * Breaking out of the loop leaves the endpoint open.
   * What {@linkcode UdpEndpoint.recvFrom} throws the loop throws, too, but that it is closed.
   */
  async *[Symbol.asyncIterator](): AsyncIterableIterator<[Uint8Array, Deno.NetAddr]> {
    const p = new Uint8Array(65_535);
    while (true) {
      let datagram: Datagram;
      try {
        datagram = await this.recvFrom(p);
      } catch (error) {
        if (error instanceof Deno.errors.BadResource) return;
        throw error;
      }
      yield [copyOf(datagram.data), datagram.address];
    }
  }
}

/** The last host that was found right: most datagrams go where the one before went, or where one came from. */
let known = "";

/** Checks where to send to. What is returned was read once, so that it is what was checked, whatever `to` does. */
function checkAddress(to: unknown): Deno.NetAddr {
  checkOptions(to, "to");
  const { hostname, port } = to as Deno.NetAddr;
  checkPort(port, "port", 1);
  if (hostname === known) return { transport: "udp", hostname, port };
  return { transport: "udp", hostname: known = checkHostname(hostname), port };
}

function checkBatch(value: unknown): void {
  if (!isBatch(value)) throw atCaller(new TypeError(`batch must be a DatagramBatch, received ${quote(value)}`));
}

/** Which datagrams of a batch are meant. */
function checkRange(batch: DatagramBatch, options: BatchRange | undefined): readonly [start: number, end: number] {
  if (options !== undefined) checkOptions(options);
  const { start = 0, end } = options ?? {};
  // A subclass can override `length`.
  const { length } = memoryOf(batch);
  const last = end === undefined ? length : checkInteger(end, "end", 0, length);
  return [checkInteger(start, "start", 0, last), last];
}

function checkMulticast(options: MulticastOptions): MulticastOptions {
  checkOptions(options);
  const { group, source, interface: local } = options;
  const kind = isMulticast(group);
  if (kind === undefined) throw atCaller(new TypeError(`group must be a multicast address, received ${quote(group)}`));
  const sender = source === undefined ? undefined : checkHostname(source, "source");
  if (sender !== undefined && hostKind(sender) !== kind) {
    throw atCaller(new TypeError(`source must be an ${kind} address, received ${quote(source)}`));
  }
  if (local !== undefined && (!isText(local) || local === "")) {
    throw atCaller(new TypeError(`interface must be the name of an interface, received ${quote(local)}`));
  }
  // Read once, so that it is what was checked.
  return { group, ...local !== undefined && { interface: local }, ...sender !== undefined && { source: sender } };
}

/** The family of a multicast address; `undefined` if it is none. */
function isMulticast(group: unknown): "IPv4" | "IPv6" | undefined {
  if (typeof group !== "string") return undefined;
  const ipv4 = parseIPv4(group);
  if (ipv4 !== undefined) return (ipv4[0] as number) >> 4 === 14 ? "IPv4" : undefined;
  return parseIPv6(splitZone(group)[0])?.[0] === 0xff ? "IPv6" : undefined;
}
