/**
 * What an engine implements. {@linkcode TcpListener} and {@linkcode TcpConn}
 * check their arguments and pass every call on. They choose the engine when a
 * socket is opened, and do not ask for it afterwards.
 *
 * Rules for every implementation:
 *
 * - Arguments are valid and the signal is not aborted when a call arrives.
 * - After `close()` every call throws or rejects with `BadResource`, waiting
 *   calls are woken with it, and `close()` itself does nothing.
 * - A cancelled call rejects with `signal.reason` at once, one whose time is
 *   over with `TimedOut`, and neither reads nor writes the caller's buffer
 *   afterwards.
 * - Calls on the same side of a socket are served in the order of the calls.
 * - Errors are in the form of `internal/errors.ts`.
 * - What the engine cannot do throws `NotSupported` and names the way out.
 */

import type { Engine } from "../internal/engine.ts";
import type { Readiness } from "../poll/readiness.ts";
import type { Pollable } from "../poll/pollable.ts";
import type { SocketOption } from "../internal/socket_option.ts";
import type { Wait } from "../internal/wait.ts";
import type { TcpInfo } from "./tcp_info.ts";

/** What both kinds of socket have. */
export interface SocketDriver {
  readonly engine: Engine;
  /** The descriptor, `undefined` where there is none to be had. */
  readonly fd: number | undefined;
  /** The number of the socket's inode, likewise. */
  readonly inode: number | undefined;
  /** What a multiplexer asks and watches. */
  readonly pollable: Pollable;
  /** Gives the descriptor away and leaves the driver closed. */
  detach(): number;
  ref(): void;
  unref(): void;
  close(): void;
}

/** A listening socket. */
export interface ListenerDriver extends SocketDriver {
  readonly addr: Deno.NetAddr;
  /** Waits for a connection, and takes none. */
  ready(wait: Wait | undefined): Promise<Readiness>;
  accept(wait: Wait | undefined): Promise<ConnDriver>;
  /** `undefined` if no connection is waiting. */
  tryAccept(): ConnDriver | undefined;
  queue(): { length: number; limit: number };
  pause(): void;
  resume(): void;
  /**
   * Stops listening, but keeps the connections of the queue for `accept` and `tryAccept`, which fail as after `close()`
   * once there is none left. Resolves once the socket is closed; never rejects.
   */
  drain(): Promise<void>;
}

/** A connected socket. */
export interface ConnDriver extends SocketDriver {
  /** A write waits for room. */
  readonly isWriting: boolean;
  /** Throws `Busy` if it cannot be given to another owner whole. */
  checkMove(): void;
  readonly localAddr: Deno.NetAddr;
  readonly remoteAddr: Deno.NetAddr;
  /** `null`: the peer has finished. */
  read(p: Uint8Array, wait: Wait | undefined): Promise<number | null>;
  peek(p: Uint8Array, wait: Wait | undefined): Promise<number | null>;
  /** Reads as much as `p` has room for, or nothing if it fails; `null`: the peer has finished before the first byte. */
  readFull(p: Uint8Array, wait: Wait | undefined): Promise<number | null>;
  /** Waits for what is asked for, bits of `InterestBit`, without a buffer. */
  ready(interest: number, wait: Wait | undefined): Promise<Readiness>;
  /** Reads up to 64 KiB into new memory, of which an idle connection holds as little as the engine allows. */
  readChunk(): Promise<Uint8Array<ArrayBuffer> | null>;
  write(p: Uint8Array, wait: Wait | undefined): Promise<number>;
  writeAll(p: Uint8Array, wait: Wait | undefined): Promise<void>;
  /** `undefined`: would block. */
  tryRead(p: Uint8Array): number | null | undefined;
  tryWrite(p: Uint8Array): number | undefined;
  /** Sends FIN after what was written before. */
  closeWrite(): Promise<void>;
  shutdown(how: "read" | "write" | "both"): void;
  reset(): void;
  setNoDelay(on: boolean): void;
  setKeepAlive(on: boolean, times: KeepAliveTimes | undefined): void;
  getOption(option: SocketOption): number;
  setOption(option: SocketOption, value: number): void;
  getCongestion(): string;
  setCongestion(name: string): void;
  info(): TcpInfo;
  queues(): { receive: number; send: number };
}

/**
 * When keep-alive probes are sent; what is left out stays as the kernel has it.
 *
 * @example Notice a vanished peer within half a minute
 * ```ts
 * import { type KeepAliveTimes, TcpConn, TcpListener } from "@c10k/sockets/tcp";
 *
 * const keepAlive: KeepAliveTimes = { idle: 15, interval: 5, count: 3 };
 * using listener = TcpListener.bind({ hostname: "127.0.0.1", port: 0 });
 * using conn = await TcpConn.connect({ port: listener.addr.port, keepAlive });
 * ```
 */
export interface KeepAliveTimes {
  /** Seconds of silence before the first probe (`TCP_KEEPIDLE`), from 1 to 32767. */
  idle?: number;
  /** Seconds between probes (`TCP_KEEPINTVL`), from 1 to 32767. */
  interval?: number;
  /** Unanswered probes before the connection is given up (`TCP_KEEPCNT`), from 1 to 127. */
  count?: number;
}
