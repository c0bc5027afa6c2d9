/** The sending side of a UDP socket of the kernel's own. */

import { formatAddress, hostKind, type HostPort } from "../internal/address.ts";
import { sizeOf } from "../internal/bytes.ts";
import { closedError, closedMeanwhileError, socketError, SyscallError } from "../internal/errors.ts";
import { mayReachAll, refuseDenied, requireNet } from "../internal/permissions.ts";
import { resolveAll } from "../internal/resolve.ts";
import { MSG_NOSIGNAL } from "../internal/socket.ts";
import { EAGAIN, syscallError, transmitTo } from "../internal/syscall.ts";
import { checkSameLength } from "../internal/validate.ts";
import { type Wait, waitFor, waitForAll } from "../internal/wait.ts";
import type { PolledSocket } from "../poll/polled_socket.ts";
import { InterestBit } from "../poll/selector.ts";
import { FunctionSide } from "../poll/side.ts";
import { addressIn, type BatchMemory, type DatagramBatch, localIn, localPeer, memoryOf } from "./datagram_batch.ts";
import { chargeBatch, kernelBatch } from "./kernel_batch.ts";
import { message } from "./native_message.ts";
import { familyOf } from "./packet_info.ts";
import { noAddress, type Peer, type Peers } from "./peer_cache.ts";
import { atCaller } from "../internal/stack.ts";

/** What the sending side needs to know of its endpoint. */
export interface NativeSender {
  readonly addr: Deno.NetAddr;
  /** The address it was bound to before it was connected. */
  readonly bound: string;
  /** What it is connected to. */
  readonly peerInfo: Peer | undefined;
}

/** Sends datagrams, one or many at a time, and waits for room. */
export class NativeSending {
  readonly #endpoint: NativeSender;
  readonly #socket: PolledSocket;
  readonly #peers: Peers;
  readonly #side: FunctionSide;
  /** Ends the look-ups of names, once there was one. */
  #closing: AbortController | undefined;

  constructor(endpoint: NativeSender, socket: PolledSocket, peers: Peers) {
    this.#endpoint = endpoint;
    this.#socket = socket;
    this.#peers = peers;
    this.#side = new FunctionSide(socket, InterestBit.WRITABLE, "send on", "sendto");
  }

  /** The calls that wait for room. */
  get side(): FunctionSide {
    return this.#side;
  }

  sendTo(
    p: Uint8Array,
    to: Deno.NetAddr,
    localAddress: string | undefined,
    wait: Wait | undefined,
  ): Promise<number> {
    if (!this.#socket.isOpen) return Promise.reject(this.#closedError());
    const peer = this.#peers.encode(to.hostname, to.port);
    if (peer === undefined) return this.#sendToName(p, to, localAddress, wait);
    let local: Uint8Array<ArrayBuffer> | undefined;
    try {
      if (localAddress !== undefined) local = localPeer(this.#peers, localAddress, peer);
      this.#permit(to, localAddress);
    } catch (error) {
      return Promise.reject(error);
    }
    return this.#send(p, sizeOf(p), peer, local, to, localAddress, wait);
  }

  trySendTo(p: Uint8Array, to: Deno.NetAddr, localAddress: string | undefined): number | undefined {
    if (!this.#socket.isOpen) throw this.#closedError();
    const peer = this.#peers.encode(to.hostname, to.port);
    if (peer === undefined && hostKind(to.hostname) === "name") {
      throw noAddress(to.hostname);
    }
    const local = localAddress === undefined ? undefined : localPeer(this.#peers, localAddress, peer);
    this.#permit(to, localAddress);
    if (peer === undefined) throw socketError(this.#sendingTo(to), new SyscallError("if_nametoindex", "ENODEV"));
    return this.#side.tryRun(() => this.#transmit(p, peer, local));
  }

  send(p: Uint8Array, wait: Wait | undefined): Promise<number> {
    if (!this.#socket.isOpen) return Promise.reject(this.#closedError());
    return this.#send(p, sizeOf(p), undefined, undefined, undefined, undefined, wait);
  }

  sendBatch(batch: DatagramBatch, start: number, end: number, wait: Wait | undefined): Promise<number> {
    if (!this.#socket.isOpen) return Promise.reject(this.#closedError());
    return waitForAll(wait, () => this.#sendingTo(undefined), async (signal) => {
      const each = waitFor(signal);
      let failure: Error | undefined;
      for (let i = start; i < end;) {
        signal?.throwIfAborted();
        const first = i;
        const sent = await this.#side.run(() => chargeBatch(this.#socket, this.#sendBatch(batch, first, end)), each);
        // One that cannot be reached is no event for the others.
        if (typeof sent !== "number") failure ??= sent;
        i += typeof sent === "number" ? sent : 1;
      }
      if (failure !== undefined) throw failure;
      return end - start;
    });
  }

  trySendBatch(batch: DatagramBatch, start: number, end: number): number | undefined {
    if (!this.#socket.isOpen) throw this.#closedError();
    if (start === end) return 0;
    const sent = this.#side.tryRun(() => this.#sendBatch(batch, start, end));
    if (sent instanceof Error) throw sent;
    return sent;
  }

  /**
   * sendmmsg(2) of the datagrams from `start` to `end`; returns how many it took, why it cannot take the first, or
   * `undefined` if there is no room.
   */
  #sendBatch(batch: DatagramBatch, start: number, end: number): number | Error | undefined {
    const memory = memoryOf(batch);
    if (end > memory.length) throw atCaller(new TypeError("The batch was changed while the call waited"));
    // Each time, since what waits for room can be changed, and permissions too.
    const isPermitted = memory.info === undefined && mayReachAll(this.#socket.reactor.moment);
    const permitted = isPermitted ? end : this.#permitBatch(memory, start, end);
    if (typeof permitted !== "number") return permitted;
    const n = kernelBatch(memory).send(this.#socket.fd, start, permitted);
    if (n >= 0 || n === -EAGAIN) return n >= 0 ? n : undefined;
    const to = memory.nameLengths[start] === 0 ? this.#endpoint.peerInfo?.address : addressIn(memory, start);
    return this.#sendError(to, localIn(memory, start), "sendmmsg", -n);
  }

  /** How far datagrams may be sent, or why not even the first. */
  #permitBatch(memory: BatchMemory, start: number, end: number): number | Error {
    const mayReach = mayReachAll(this.#socket.reactor.moment);
    for (let i = start; i < end; i++) {
      const isNamed = memory.nameLengths[i] !== 0;
      if (isNamed ? mayReach : !memory.info?.locals.has(i)) continue;
      try {
        const localAddress = localIn(memory, i);
        this.#permit(isNamed ? addressIn(memory, i) : undefined, localAddress);
        // The kernel ignores an address of the other family.
        if (!isNamed && localAddress !== undefined) localPeer(this.#peers, localAddress, this.#endpoint.peerInfo);
      } catch (error) {
        return i > start ? i : error as Error;
      }
    }
    return end;
  }

  /**
   * @param size Bytes of `p` when the call began.
   * @param to The destination as the caller gave it, whose permission is checked again after a wait.
   */
  #send(
    p: Uint8Array,
    size: number,
    peer: Peer | undefined,
    local: Uint8Array<ArrayBuffer> | undefined,
    to: HostPort | undefined,
    localAddress: string | undefined,
    wait: Wait | undefined,
  ): Promise<number> {
    let waits = false;
    const sent = this.#side.run(() => {
      if (waits) {
        checkSameLength(p, size);
        if (to !== undefined) this.#permitPeer(to, localAddress, peer as Peer);
      }
      return this.#transmit(p, peer, local);
    }, wait);
    waits = true;
    return sent;
  }

  /** sendto(2), send(2), sendmsg(2); `undefined` if there is no room. */
  #transmit(p: Uint8Array, peer: Peer | undefined, local: Uint8Array<ArrayBuffer> | undefined): number | undefined {
    const { fd } = this.#socket;
    const n = local === undefined
      ? transmitTo(fd, p, MSG_NOSIGNAL, peer === undefined ? null : peer.sockaddr)
      : message().send(fd, p, peer?.sockaddr, local, MSG_NOSIGNAL);
    if (n >= 0 || n === -EAGAIN) return n >= 0 ? n : undefined;
    const from = local === undefined ? undefined : this.#peers.decode(local).hostname;
    throw this.#sendError(
      peer?.address ?? this.#endpoint.peerInfo?.address,
      from,
      local === undefined ? "sendto" : "sendmsg",
      -n,
    );
  }

  #sendError(to: HostPort | undefined, localAddress: string | undefined, call: string, errno: number): Error {
    const cause = syscallError(call, errno);
    const action = this.#sendingTo(to);
    if (localAddress === undefined) return socketError(action, cause);
    // Which one it is depends on the version of the kernel and the family.
    const refused = ["EINVAL", "EADDRNOTAVAIL", "ENETUNREACH"].includes(cause.code);
    const detail = "not an address of this machine from which the destination can be reached";
    return socketError(`${action} from ${localAddress}`, cause, refused ? detail : undefined);
  }

  async #sendToName(
    p: Uint8Array,
    to: HostPort,
    localAddress: string | undefined,
    wait: Wait | undefined,
  ): Promise<number> {
    const action = this.#sendingTo(to);
    const size = sizeOf(p);
    // A local address decides which family of the name's is taken.
    const local = localAddress === undefined ? undefined : localPeer(this.#peers, localAddress, undefined);
    const family = local === undefined ? undefined : familyOf(local);
    this.#permit(to, localAddress);
    try {
      return await waitForAll(wait, () => action, async (signal) => {
        const closed = (this.#closing ??= new AbortController()).signal;
        const resolved = await resolveAll(to, signal === undefined ? closed : AbortSignal.any([signal, closed]));
        const address = resolved.find((one) =>
          (this.#endpoint.addr.hostname.includes(":") || one.family === "IPv4") && (family ?? one.family) === one.family
        );
        if (address === undefined) throw new SyscallError("sendto", "EAFNOSUPPORT");
        const peer = this.#peers.encode(address.hostname, address.port) as Peer;
        this.#permitPeer(to, localAddress, peer);
        if (!this.#socket.isOpen) throw closedMeanwhileError(action, "endpoint", "sendto");
        checkSameLength(p, size);
        return await this.#send(p, size, peer, local, to, localAddress, waitFor(signal));
      });
    } catch (error) {
      throw error instanceof SyscallError ? socketError(action, error) : error;
    }
  }

  /** Checks the permission for a destination, and for a local address as binding to it would need it. */
  #permit(to: HostPort | undefined, localAddress?: string): void {
    if (mayReachAll(this.#socket.reactor.moment)) return;
    const action = this.#sendingTo(to);
    if (to !== undefined) requireNet(to, action);
    if (localAddress === undefined || localAddress === this.#endpoint.bound) return;
    requireNet({ hostname: localAddress, port: this.#endpoint.addr.port }, `${action} from ${localAddress}`);
  }

  /** The same after a wait, in which it can be revoked, also for what the name of the destination stands for. */
  #permitPeer(to: HostPort, localAddress: string | undefined, { address }: Peer): void {
    this.#permit(to, localAddress);
    if (address.hostname !== to.hostname) refuseDenied(address, this.#sendingTo(to));
  }

  #sendingTo(to: HostPort | undefined): string {
    return `send on ${this.#socket.name}${to === undefined ? "" : ` to ${formatAddress(to)}`}`;
  }

  #closedError(): Error {
    return closedError(`send on ${this.#socket.name}`, "endpoint", "sendto");
  }

  /** Wakes all who wait. */
  close(): void {
    this.#closing?.abort(closedMeanwhileError(`send on ${this.#socket.name}`, "endpoint", "sendto"));
    this.#side.close();
  }
}
