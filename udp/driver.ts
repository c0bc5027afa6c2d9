/**
 * What an engine implements. {@linkcode UdpEndpoint} checks its arguments and
 * hands every call on; the rules are those of `tcp/driver.ts`:
 *
 * - Arguments are valid and the signal is not aborted when a call arrives.
 * - After `close()` every call throws or rejects with `BadResource`, waiting
 *   calls are woken with it, and `close()` itself does nothing.
 * - A cancelled call rejects with `signal.reason`, one whose time is over with
 *   `TimedOut`, and neither reads nor writes the caller's buffer afterwards; its
 *   datagram goes to the next call.
 * - Receives are served in the order of the calls, and so are sends.
 * - What the engine cannot do throws `NotSupported` and names the way out.
 */

import type { HostPort } from "../internal/address.ts";
import type { Engine } from "../internal/engine.ts";
import type { SocketOption } from "../internal/socket_option.ts";
import type { Wait } from "../internal/wait.ts";
import type { Readiness } from "../poll/readiness.ts";
import type { Pollable } from "../poll/pollable.ts";
import type { DatagramBatch } from "./datagram_batch.ts";

/**
 * What {@linkcode UdpEndpoint.recvFrom} returns.
 *
 * @example What did not fit
 * ```ts
 * import { type Datagram, UdpEndpoint } from "@c10k/sockets/udp";
 * import { assertEquals } from "@std/assert";
 *
 * using a = UdpEndpoint.bind({ hostname: "127.0.0.1" });
 * using b = UdpEndpoint.bind({ hostname: "127.0.0.1" });
 *
 * await a.sendTo(new Uint8Array(100), b.addr);
 * const { data, truncated, address }: Datagram = await b.recvFrom(new Uint8Array(60));
 * assertEquals([data.length, truncated, address.port], [60, true, a.addr.port]);
 * ```
 */
export interface Datagram {
  /** What was received: the beginning of the buffer that was given. */
  readonly data: Uint8Array;
  /** Bytes that the sender sent, also if the buffer was smaller. */
  readonly size: number;
  /** The buffer was smaller than the datagram, and the rest is lost. */
  readonly truncated: boolean;
  /** The sender. The same object for the same sender, mostly; it cannot be changed. */
  readonly address: Deno.NetAddr;
  /**
   * The address of this machine to answer from, as `localAddress` of
   * {@linkcode UdpEndpoint.sendTo} takes it. Of a datagram to a multicast or
   * broadcast address it is that of the interface which received it; over IPv6
   * the kernel does not report that one. Only on an endpoint that was bound
   * with `packetInfo`.
   */
  readonly localAddress?: string | undefined;
  /**
   * The address that the datagram was sent to: of this machine, of a multicast
   * group or a broadcast address. Only on an endpoint that was bound with
   * `packetInfo`.
   */
  readonly destination?: string | undefined;
}

/**
 * Which multicast group to join, and where. On the runtime engine with
 * `--unstable-net` there is no multicast, since `Deno.listenDatagram` has it
 * in another form.
 *
 * @example Join on the loopback interface
 * ```ts
 * import { type MulticastOptions, UdpEndpoint } from "@c10k/sockets/udp";
 *
 * using endpoint = UdpEndpoint.bind({ hostname: "0.0.0.0" });
 * const options: MulticastOptions = { group: "239.255.0.1", interface: "127.0.0.1" };
 * endpoint.joinMulticast(options);
 * endpoint.leaveMulticast(options);
 * ```
 */
export interface MulticastOptions {
  /** The group's address, such as `224.0.0.251` or `ff02::fb`, which may have the interface as its zone: `ff02::fb%eth0`. */
  group: string;
  /**
   * Name of an interface, or (IPv4) an address of one; by default the kernel's
   * choice. On the runtime engine IPv4 takes an address only.
   */
  interface?: string;
  /** Take datagrams of this sender only: source-specific multicast (RFC 4607). Native engine only. */
  source?: string;
}

/** A UDP socket. */
export interface UdpDriver {
  readonly engine: Engine;
  readonly fd: number | undefined;
  readonly inode: number | undefined;
  readonly pollable: Pollable;
  readonly addr: Deno.NetAddr;
  readonly peer: Deno.NetAddr | undefined;
  /** The address of the datagram that was given out last, batches aside, if anything can be sent there. */
  readonly lastSender: Deno.NetAddr | undefined;
  /** Waits for what is asked for, bits of `InterestBit`, without a buffer. */
  ready(interest: number, wait: Wait | undefined): Promise<Readiness>;
  sendTo(
    p: Uint8Array,
    to: Deno.NetAddr,
    localAddress: string | undefined,
    wait: Wait | undefined,
  ): Promise<number>;
  recvFrom(p: Uint8Array, peek: boolean, wait: Wait | undefined): Promise<Datagram>;
  trySendTo(p: Uint8Array, to: Deno.NetAddr, localAddress: string | undefined): number | undefined;
  tryRecvFrom(p: Uint8Array, peek: boolean): Datagram | undefined;
  connect(to: HostPort): void;
  disconnect(): void;
  send(p: Uint8Array, wait: Wait | undefined): Promise<number>;
  recvBatch(batch: DatagramBatch, wait: Wait | undefined): Promise<number>;
  sendBatch(batch: DatagramBatch, start: number, end: number, wait: Wait | undefined): Promise<number>;
  tryRecvBatch(batch: DatagramBatch): number | undefined;
  trySendBatch(batch: DatagramBatch, start: number, end: number): number | undefined;
  setMembership(options: MulticastOptions, join: boolean): void;
  setMulticastTtl(ttl: number): void;
  setMulticastLoopback(on: boolean): void;
  setMulticastInterface(name: string): void;
  setBroadcast(on: boolean): void;
  setTtl(ttl: number): void;
  getOption(option: SocketOption): number;
  setOption(option: SocketOption, value: number): void;
  /** Datagrams that found the receive queue full. */
  drops(): number;
  detach(): number;
  ref(): void;
  unref(): void;
  close(): void;
}
