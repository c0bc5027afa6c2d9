/** The sending side of a UDP socket on Deno's own operations. */

import { formatAddress, hostKind, type HostPort } from "../internal/address.ts";
import { copyOf, memoryOf as memoryBelow, sizeOf, viewOf } from "../internal/bytes.ts";
import { mapped, specified } from "../internal/destination.ts";
import { needsNative } from "../internal/engine.ts";
import {
  closedError,
  closedMeanwhileError,
  codeOf,
  fromRuntimeError,
  socketError,
  SyscallError,
} from "../internal/errors.ts";
import { CallQueue, PendingCall } from "../internal/call_queue.ts";
import { refuseDenied, refuseUnlessGranted, requireNet } from "../internal/permissions.ts";
import { resolveAll } from "../internal/resolve.ts";
import { checkSameLength } from "../internal/validate.ts";
import { type Wait, waitFor, waitForAll } from "../internal/wait.ts";
import { type Readiness, readinessOf, readyAtOnce } from "../poll/readiness.ts";
import { InterestBit, ReadyBit } from "../poll/selector.ts";
import { addressIn, type BatchMemory, type DatagramBatch, dataIn, localIn, memoryOf } from "./datagram_batch.ts";
import { noAddress } from "./peer_cache.ts";
import { certainReason, LARGEST_OVER_IPV4, likelyReason, type Reason, type Sender } from "./runtime_reasons.ts";
import type { RuntimeTransport } from "./runtime_transport.ts";
import { again, atCaller } from "../internal/stack.ts";

/** Sends that may be on their way when one more is tried. */
const MOST_SENDS = 1024;

/** What an endpoint is told by its sending side. */
export interface SendingEvents {
  /** A send begins. */
  begun(): void;
  /** A send is done; there was no room before it if `wasFull`. */
  done(wasFull: boolean): void;
}

/** Sends datagrams one after the other: of those that are under way together Deno polls the last one first. */
export class RuntimeSending implements Sender {
  readonly hostname: string;
  readonly ipv6Only: boolean;
  readonly #name: string;
  readonly #transport: RuntimeTransport;
  readonly #events: SendingEvents;
  /** Where every destination is taken as it is, which each datagram asks. */
  readonly #isLinux = Deno.build.os === "linux";
  #mayBroadcast: boolean;
  /** The last host that nothing but the size of a datagram can speak against. */
  #reachable: string | undefined;
  #count = 0;
  #last: Promise<number> = Promise.resolve(0);
  /** Calls that wait for room. */
  readonly #waiting = new CallQueue<PendingCall<void>>();
  /** Why a send failed that nobody waits for. */
  #failure: Error | undefined;
  /** Ends the look-ups of names, once there was one. */
  #closing: AbortController | undefined;
  #closed = false;
  // Made once an endpoint, not once a datagram.
  readonly #onSent = (n: number): number => {
    this.#events.done(this.#count-- === MOST_SENDS);
    for (const call of this.#waiting.drain()) call.resolve();
    return n;
  };

  constructor(transport: RuntimeTransport, name: string, ipv6Only: boolean, events: SendingEvents) {
    this.#transport = transport;
    this.#name = name;
    this.#events = events;
    this.hostname = transport.addr.hostname;
    this.ipv6Only = ipv6Only;
    // Deno.listenDatagram lets broadcasts out always.
    this.#mayBroadcast = transport.node === undefined;
  }

  get mayBroadcast(): boolean {
    return this.#mayBroadcast;
  }

  set mayBroadcast(on: boolean) {
    this.#mayBroadcast = on;
    this.#reachable = undefined;
  }

  /** Sends that are under way. */
  get count(): number {
    return this.#count;
  }

  get hasRoom(): boolean {
    return this.#count < MOST_SENDS;
  }

  /** There is room. */
  get isKnownReady(): boolean {
    return this.hasRoom;
  }

  /** Waits for room. */
  async ready(wait: Wait | undefined): Promise<Readiness> {
    const found = readinessOf(ReadyBit.WRITABLE, InterestBit.WRITABLE);
    if (this.hasRoom) return await readyAtOnce(found);
    const call = new PendingCall<void>(wait, () => `wait for ${this.#name}`, () => this.#waiting.compact());
    this.#waiting.push(call);
    await call.promise;
    return found;
  }

  sendTo(p: Uint8Array, address: Deno.NetAddr, wait: Wait | undefined): Promise<number> {
    if (this.#closed) return Promise.reject(this.#closedError());
    const to = this.#reachedAs(address);
    const problem = this.#problem(sizeOf(p), to);
    if (problem !== undefined) return Promise.reject(problem);
    // Cheaper than to look at the name.
    if (to.hostname !== this.#reachable && hostKind(to.hostname) === "name") {
      return waitForAll(wait, () => this.#sending(to), (signal) => this.#sendToName(p, to, signal));
    }
    return wait === undefined ? this.#send(p, sizeOf(p), to) : this.#sendOrEnd(p, to, wait);
  }

  #sendOrEnd(p: Uint8Array, to: Deno.NetAddr, wait: Wait): Promise<number> {
    const size = sizeOf(p);
    return waitForAll(wait, () => this.#sending(to), (signal) => this.#sendOrAbort(p, size, to, signal as AbortSignal));
  }

  trySendTo(p: Uint8Array, address: Deno.NetAddr): number | undefined {
    if (this.#closed) throw this.#closedError();
    const to = this.#reachedAs(address);
    const problem = this.#problem(sizeOf(p), to);
    if (problem !== undefined) throw problem;
    if (to.hostname !== this.#reachable && hostKind(to.hostname) === "name") throw noAddress(to.hostname);
    this.throwFailure();
    if (!this.hasRoom) return undefined;
    // A datagram may get lost anyway; what can be known is told by the next call.
    const copy = copyOf(p);
    this.#send(copy, copy.length, to).catch((error) => this.#failure ??= error);
    return copy.length;
  }

  sendBatch(batch: DatagramBatch, start: number, end: number, wait: Wait | undefined): Promise<number> {
    if (this.#closed) return Promise.reject(this.#closedError());
    const action = () => `send on ${this.#name}`;
    return waitForAll(wait, action, (signal) => this.#sendBatch(batch, start, end, signal));
  }

  async #sendBatch(
    batch: DatagramBatch,
    start: number,
    end: number,
    signal: AbortSignal | undefined,
  ): Promise<number> {
    const each = waitFor(signal);
    let failure: unknown;
    for (let i = start; i < end; i++) {
      try {
        signal?.throwIfAborted();
        const memory = memoryOf(batch);
        if (i >= memory.length) throw atCaller(new TypeError("The batch was changed while the call waited"));
        await this.sendTo(dataIn(memory, i), destinationIn(memory, i), each);
      } catch (error) {
        if (this.#closed || signal?.aborted || error instanceof TypeError) throw error;
        // One that cannot be reached is no event for the others.
        failure ??= error;
      }
    }
    if (failure !== undefined) throw failure;
    return end - start;
  }

  trySendBatch(batch: DatagramBatch, start: number, end: number): number | undefined {
    if (this.#closed) throw this.#closedError();
    this.throwFailure();
    const memory = memoryOf(batch);
    for (let i = start; i < end; i++) {
      try {
        const to = destinationIn(memory, i);
        if (this.trySendTo(dataIn(memory, i), to) === undefined) return i > start ? i - start : undefined;
      } catch (error) {
        if (i > start) return i - start;
        throw error;
      }
    }
    return end - start;
  }

  throwFailure(): void {
    const failure = this.#failure;
    this.#failure = undefined;
    if (failure !== undefined) throw again(failure);
  }

  close(): void {
    this.#closed = true;
    for (const call of this.#waiting.drain()) {
      call.reject(closedMeanwhileError(`wait for ${this.#name}`, "endpoint", "epoll_wait"));
    }
    this.#closing?.abort(closedMeanwhileError(`send on ${this.#name}`, "endpoint", "sendto"));
  }

  /** A destination in the form that this system takes. */
  #reachedAs(to: Deno.NetAddr): Deno.NetAddr {
    return this.#isLinux ? to : specified(mapped(to, this.hostname.includes(":")));
  }

  /** Looks a name up, and sends to what the socket can reach of it. */
  async #sendToName(p: Uint8Array, to: Deno.NetAddr, signal: AbortSignal | undefined): Promise<number> {
    const size = sizeOf(p);
    const action = this.#sending(to);
    let address: Deno.NetAddr;
    try {
      requireNet(to, action);
      const closed = (this.#closing ??= new AbortController()).signal;
      const found = await resolveAll(to, signal === undefined ? closed : AbortSignal.any([signal, closed]));
      const best = found.find((one) => certainReason(size, one, this) === undefined) ?? found[0] as HostPort;
      refuseDenied(best, action);
      address = this.#reachedAs({ transport: "udp", hostname: best.hostname, port: to.port });
    } catch (error) {
      throw error instanceof SyscallError ? socketError(action, error) : error;
    }
    if (this.#closed) throw closedMeanwhileError(action, "endpoint", "sendto");
    checkSameLength(p, size);
    const problem = this.#problem(size, address);
    if (problem !== undefined) throw problem;
    const granted = isGranted(address);
    // With the permission for the name alone Deno has to look it up once more, and the bytes must stay meanwhile.
    const bytes = granted || size === 0 ? p : copyOf(p);
    const target = granted ? address : to;
    return await (signal === undefined
      ? this.#send(bytes, size, target)
      : this.#sendOrAbort(bytes, size, target, signal));
  }

  /** What Deno has begun cannot be taken back: the call ends without it. */
  async #sendOrAbort(p: Uint8Array, size: number, to: Deno.NetAddr, signal: AbortSignal): Promise<number> {
    signal.throwIfAborted();
    const { promise, reject } = Promise.withResolvers<never>();
    const abort = () => reject(signal.reason);
    signal.addEventListener("abort", abort);
    try {
      return await Promise.race([this.#send(p, size, to, signal), promise]);
    } finally {
      signal.removeEventListener("abort", abort);
    }
  }

  /** @param size Bytes of `p` when the call began. */
  #send(p: Uint8Array, size: number, to: Deno.NetAddr, signal?: AbortSignal): Promise<number> {
    const sent = this.#count++ === 0 ? this.#begin(p, to, signal) : this.#beginAfterLast(p, size, to, signal);
    this.#last = sent;
    this.#events.begun();
    return sent.then(this.#onSent, (error) => {
      this.#onSent(0);
      throw this.#sendError(error, to, signal);
    });
  }

  /** Hands a datagram to Deno: of what can change meanwhile a copy. */
  #begin(p: Uint8Array, to: Deno.NetAddr, signal: AbortSignal | undefined): Promise<number> {
    if (sizeOf(p) === 0) return this.#transport.send(new Uint8Array(0), to);
    return this.#transport.send(signal !== undefined || isResizable(p) ? copyOf(p) : viewOf(p), to);
  }

  #beginAfterLast(p: Uint8Array, size: number, to: Deno.NetAddr, signal: AbortSignal | undefined): Promise<number> {
    const begin = () => {
      signal?.throwIfAborted();
      checkSameLength(p, size);
      return this.#begin(p, to, signal);
    };
    return this.#last.then(begin, begin);
  }

  #sendError(error: unknown, to: Deno.NetAddr, signal: AbortSignal | undefined): unknown {
    if (signal?.aborted) return signal.reason;
    // The buffer was taken away.
    if (error instanceof TypeError && codeOf(error) === undefined) return error;
    const action = this.#sending(to);
    if (this.#closed) return closedMeanwhileError(action, "endpoint", "sendto");
    try {
      // node:dgram does not say that it was the permission.
      refuseUnlessGranted(to, action);
    } catch (refusal) {
      return refusal;
    }
    // What is no name is looked up for its zone alone.
    const isZone = codeOf(error) === "ENOTFOUND" && hostKind(to.hostname) !== "name";
    const reason = isZone ? { code: "ENODEV" } : codeOf(error) === "UNKNOWN" ? likelyReason(to, this) : undefined;
    return reason === undefined ? fromRuntimeError(error, action, "sendto") : this.#error(reason, to);
  }

  /** Why a datagram cannot be sent, if that is known now: Deno's own answer has no code, and node:dgram's is late. */
  #problem(size: number, to: HostPort): Error | undefined {
    if (to.hostname === this.#reachable && size <= LARGEST_OVER_IPV4) return undefined;
    const reason = certainReason(size, to, this);
    if (reason !== undefined) {
      try {
        // Without the permission for the destination the program learns nothing else about it.
        requireNet(to, this.#sending(to));
        return this.#error(reason, to);
      } catch (refusal) {
        return refusal as Error;
      }
    }
    if (hostKind(to.hostname) !== "name") this.#reachable = to.hostname;
    return undefined;
  }

  #error({ code, detail }: Reason, to: HostPort): Error {
    const call = code === "ENODEV" ? "if_nametoindex" : "sendto";
    return socketError(this.#sending(to), new SyscallError(call, code), detail);
  }

  #sending(to: HostPort): string {
    return `send on ${this.#name} to ${formatAddress(to)}`;
  }

  #closedError(): Error {
    return closedError(`send on ${this.#name}`, "endpoint", "sendto");
  }
}

/** Returns the error for what concerns local addresses. */
export function needsLocal(action: string): Error {
  return needsNative(action, "bind one endpoint for each local address");
}

function destinationIn(memory: BatchMemory, i: number): Deno.NetAddr {
  if (memory.nameLengths[i] === 0) throw needsNative("send without an address");
  const localAddress = localIn(memory, i);
  if (localAddress !== undefined) throw needsLocal(`send from ${localAddress}`);
  return addressIn(memory, i);
}

function isGranted({ hostname, port }: HostPort): boolean {
  const host = formatAddress({ hostname, port });
  return Deno.permissions.querySync({ name: "net", host }).state === "granted";
}

const { get: resizable } = Object.getOwnPropertyDescriptor(ArrayBuffer.prototype, "resizable") as PropertyDescriptor;

/** Whether a buffer can lose memory while Deno reads it; shared memory never does. */
function isResizable(p: Uint8Array): boolean {
  const memory = memoryBelow(p);
  return memory instanceof ArrayBuffer && (resizable as () => boolean).call(memory);
}
