/**
 * Unix sockets that keep the bounds of messages (`SOCK_SEQPACKET` of unix(7)),
 * with descriptors in them. Native engine only.
 */

import { Descriptor } from "../internal/descriptor.ts";
import { interruptedError, socketError, type SyscallError } from "../internal/errors.ts";
import { libc } from "../internal/libc.ts";
import { getSocketStruct, SOCK_CLOEXEC, SOCK_NONBLOCK } from "../internal/socket.ts";
import { atCaller } from "../internal/stack.ts";
import { EAGAIN, syscall, syscallError, takeConnection } from "../internal/syscall.ts";
import { NativeSocket } from "../mux/native_socket.ts";
import type { Source } from "../mux/reactor.ts";
import { ReadyBit } from "../mux/selector.ts";
import { WaitingSide } from "../mux/waiting_side.ts";
import { type Received, receivePacket, sendPacket } from "./scm.ts";

// sys/socket.h, asm-generic/socket.h, sys/un.h
const AF_UNIX = 1;
const SOCK_SEQPACKET = 5;
const SO_PEERCRED = 17;
const PATH_MAX = 108;
const PATH_AT = 2;

/** Bytes of a path at most, with room for what a listener appends until it is published: a dot and its process. */
export const LONGEST_PATH = PATH_MAX - 1 - ".4194304".length;

const READ_SIDE = ReadyBit.READABLE | ReadyBit.READ_CLOSED | ReadyBit.ERROR;
const WRITE_SIDE = ReadyBit.WRITABLE | ReadyBit.WRITE_CLOSED | ReadyBit.ERROR;

/** Who is on the other side, as the kernel saw it when the connection was made. */
export interface Credentials {
  readonly pid: number;
  readonly uid: number;
}

function encodePath(path: string): Uint8Array<ArrayBuffer> {
  const bytes = new TextEncoder().encode(path);
  // With its final zero.
  if (bytes.length >= PATH_MAX) {
    throw atCaller(new RangeError(`path must have less than ${PATH_MAX} bytes, received "${path}"`));
  }
  const sockaddr = new Uint8Array(PATH_AT + bytes.length + 1);
  sockaddr[0] = AF_UNIX;
  sockaddr.set(bytes, PATH_AT);
  return sockaddr;
}

function open(): Descriptor {
  return new Descriptor(syscall("socket", AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
}

/** A path as a system call takes it. */
export function cString(text: string): Uint8Array<ArrayBuffer> {
  return new TextEncoder().encode(`${text}\0`);
}

/** A connected Unix socket. */
export class UnixSocket implements Source {
  readonly #socket: NativeSocket;
  readonly #receiving: WaitingSide;
  readonly #sending: WaitingSide;

  /** Takes over a connected, nonblocking, close-on-exec socket; `name` is what errors call it. */
  constructor(fd: number, name: string) {
    this.#socket = new NativeSocket(fd, this, () => name);
    this.#receiving = new WaitingSide(this.#socket);
    this.#sending = new WaitingSide(this.#socket);
  }

  /** Two ends of one connection: socketpair(2). */
  static pair(type: number = SOCK_SEQPACKET): [number, number] {
    const ends = new Int32Array(2);
    syscall("socketpair", AF_UNIX, type | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, new Uint8Array(ends.buffer));
    return [ends[0] as number, ends[1] as number];
  }

  /**
   * connect(2); a Unix socket is connected at once, or not at all.
   *
   * @throws {SyscallError} If nobody listens there.
   */
  static connect(path: string, name: string): UnixSocket {
    const sockaddr = encodePath(path);
    const socket = open();
    try {
      syscall("connect", socket.fd, sockaddr, sockaddr.length);
      return new UnixSocket(socket.detach(), name);
    } finally {
      socket.close();
    }
  }

  /** `SO_PEERCRED`. */
  get peer(): Credentials {
    return credentialsOf(this.#socket.fd);
  }

  onReady(ready: number): void {
    if (ready & READ_SIDE) this.#receiving.onReady();
    if (ready & WRITE_SIDE) this.#sending.onReady();
  }

  /** Lets a receive that waits keep the process alive, or not. */
  ref(on: boolean): void {
    this.#receiving.ref(on);
  }

  /** Stays open when the program is unloaded, until its process has ended. */
  outlive(): void {
    this.#socket.outlive();
  }

  /** Receives a packet; its data is empty at the end of the connection. */
  receive(): Promise<Received> {
    return this.#receiving.call(() => {
      const received = receivePacket(this.#socket.fd);
      if (typeof received !== "number") return received;
      if (received === -EAGAIN) return undefined;
      throw this.#error("receive on", syscallError("recvmsg", -received));
    }, undefined);
  }

  /** Sends a packet with copies of descriptors, and calls `sent` once the kernel has it. */
  send(
    data: Uint8Array<ArrayBuffer>,
    descriptors: () => number[],
    sent: () => void,
    signal?: AbortSignal,
  ): Promise<true> {
    return this.#sending.call(() => this.#transmit(data, descriptors, sent), signal);
  }

  /** The same without waiting; `undefined` if there is no room. */
  trySend(data: Uint8Array<ArrayBuffer>, descriptors: () => number[], sent: () => void): true | undefined {
    return this.#sending.tryCall(() => this.#transmit(data, descriptors, sent));
  }

  close(): void {
    if (!this.#socket.isOpen) return;
    this.#socket.close();
    this.#receiving.close(() => interruptedError(`receive on ${this.#socket.name}`, "channel"));
    this.#sending.close(() => interruptedError(`send on ${this.#socket.name}`, "channel"));
  }

  #transmit(data: Uint8Array<ArrayBuffer>, descriptors: () => number[], sent: () => void): true | undefined {
    const n = sendPacket(this.#socket.fd, data, descriptors());
    if (n === -EAGAIN) return undefined;
    if (n < 0) throw this.#error("send on", syscallError("sendmsg", -n));
    sent();
    return true;
  }

  #error(action: string, cause: SyscallError): Error {
    return socketError(`${action} ${this.#socket.name}`, cause);
  }
}

function credentialsOf(fd: number): Credentials {
  // struct ucred: pid, uid, gid (linux/socket.h).
  const words = new Uint32Array(3);
  getSocketStruct(fd, SO_PEERCRED, new Uint8Array(words.buffer));
  return { pid: words[0] as number, uid: words[1] as number };
}

/** A listening Unix socket at a path, which it removes when it is closed. */
export class UnixListener implements Source {
  readonly path: string;
  readonly #socket: NativeSocket;
  readonly #accepting: WaitingSide;
  /** Where it is until it is published. */
  readonly #hidden: string;
  #isPublished = false;

  /** bind(2) and listen(2), for nobody but this user, by another name: at no moment is there none that listens. */
  constructor(path: string) {
    this.path = path;
    const name = this.#hidden = `${path}.${Deno.pid}`;
    const sockaddr = encodePath(name);
    const socket = open();
    // Of one that was killed and had the same number, as the first process of a container always has.
    libc.unlink(cString(name));
    try {
      // As fchmod(2) on the socket before bind(2), the mode holds from the start (unix(7)).
      syscall("fchmod", socket.fd, 0o600);
      syscall("bind", socket.fd, sockaddr, sockaddr.length);
      try {
        syscall("listen", socket.fd, 64);
      } catch (error) {
        libc.unlink(cString(name));
        throw error;
      }
      this.#socket = new NativeSocket(socket.detach(), this, () => `control socket ${path}`);
    } finally {
      socket.close();
    }
    this.#accepting = new WaitingSide(this.#socket);
  }

  onReady(): void {
    this.#accepting.onReady();
  }

  ref(on: boolean): void {
    this.#accepting.ref(on);
  }

  /** Puts it at the path, in the place of a socket that is there: rename(2). */
  publish(): this {
    try {
      syscall("rename", cString(this.#hidden), cString(this.path));
    } catch (error) {
      this.close();
      throw error;
    }
    this.#isPublished = true;
    return this;
  }

  /** accept4(2). */
  async accept(signal?: AbortSignal): Promise<UnixSocket> {
    return this.#wrap(await this.#accepting.call(() => this.#take(), signal));
  }

  /** The same without waiting; `undefined` if nobody has connected. */
  tryAccept(): UnixSocket | undefined {
    const fd = this.#accepting.tryCall(() => this.#take());
    return fd === undefined ? undefined : this.#wrap(fd);
  }

  #wrap(fd: number): UnixSocket {
    return new UnixSocket(fd, `connection on ${this.path}`);
  }

  #take(): number | undefined {
    const peer = new Uint8Array(PATH_AT + PATH_MAX);
    const length = new Uint8Array(new Uint32Array([peer.length]).buffer);
    const fd = takeConnection(this.#socket.fd, peer, length, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (fd >= 0) return fd;
    if (fd === -EAGAIN) return undefined;
    throw socketError(`accept on ${this.#socket.name}`, syscallError("accept4", -fd));
  }

  /** Closes it; the path is removed unless it is another's by now. */
  close(keepPath = false): void {
    if (!this.#socket.isOpen) return;
    this.#socket.close();
    if (!this.#isPublished) libc.unlink(cString(this.#hidden));
    else if (!keepPath) libc.unlink(cString(this.path));
    this.#accepting.close(() => interruptedError(`accept on ${this.#socket.name}`, "control socket"));
  }
}
