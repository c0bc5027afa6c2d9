/**
 * Unix sockets that keep the bounds of messages (`SOCK_SEQPACKET` of unix(7)),
 * with descriptors in them. Native engine only.
 */

import { AF_UNIX, F_DUPFD_CLOEXEC, SOCK_SEQPACKET } from "../../internal/constants.ts";
import { socketError, type SyscallError } from "../../internal/errors.ts";
import { getSocketStruct, SOCK_CLOEXEC, SOCK_NONBLOCK } from "../../internal/socket.ts";
import { EAGAIN, syscall, syscallError, takeConnection } from "../../internal/syscall.ts";
import { waitFor } from "../../internal/wait.ts";
import { PolledSocket } from "../../poll/polled_socket.ts";
import type { EventHandler } from "../../poll/reactor.ts";
import { InterestBit, READ_SIDE, WRITE_SIDE } from "../../poll/selector.ts";
import { FunctionSide } from "../../poll/side.ts";
import { type ReceivedPacket, receivePacket, sendPacket } from "./scm.ts";
import {
  type FileIdentity,
  listenAt,
  openUnixSocket,
  removeFile,
  UNIX_ADDRESS_SIZE,
  unixAddress,
} from "./socket_file.ts";

export { cString } from "../../internal/c_string.ts";

// sys/socket.h, asm-generic/socket.h, linux/fcntl.h
const SO_PEERCRED = 17;

/** Who is on the other side, as the kernel saw it when the connection was made. */
export interface Credentials {
  readonly pid: number;
  readonly uid: number;
}

/** A connected Unix socket. */
export class UnixSocket implements EventHandler {
  readonly name: string;
  readonly kind = "channel";
  readonly #socket: PolledSocket;
  readonly #receiving: FunctionSide;
  readonly #sending: FunctionSide;

  /** Takes over a connected, nonblocking, close-on-exec socket; `name` is what errors call it. */
  constructor(fd: number, name: string) {
    this.name = name;
    this.#socket = new PolledSocket(fd, this);
    this.#receiving = new FunctionSide(this.#socket, InterestBit.READABLE, "receive on", "recvmsg");
    this.#sending = new FunctionSide(this.#socket, InterestBit.WRITABLE, "send on", "sendmsg");
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
    const sockaddr = unixAddress(path);
    const socket = openUnixSocket();
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
  receive(): Promise<ReceivedPacket> {
    return this.#receiving.run(() => this.#receive(), undefined);
  }

  /** Receives what is there already, and then the end of the connection: shutdown(2). */
  endReceiving(): void {
    const SHUT_RD = 0;
    if (this.#socket.isOpen) this.#socket.shutdown(SHUT_RD);
  }

  /** Sends a packet with copies of descriptors, and calls `sent` once the kernel has it. */
  send(
    data: Uint8Array<ArrayBuffer>,
    descriptors: () => number[],
    sent: () => void,
    signal?: AbortSignal,
  ): Promise<true> {
    return this.#sending.run(() => this.#transmit(data, descriptors, sent), waitFor(signal));
  }

  /** The same without waiting; `undefined` if there is no room. */
  trySend(data: Uint8Array<ArrayBuffer>, descriptors: () => number[], sent: () => void): true | undefined {
    return this.#sending.tryRun(() => this.#transmit(data, descriptors, sent));
  }

  close(): void {
    if (!this.#socket.isOpen) return;
    this.#socket.close();
    this.#receiving.close();
    this.#sending.close();
  }

  #receive(): ReceivedPacket | undefined {
    const received = receivePacket(this.#socket.fd);
    if (typeof received !== "number") return received;
    if (received === -EAGAIN) return undefined;
    throw this.#error("receive on", syscallError("recvmsg", -received));
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

/** A listening Unix socket at a path, whose file it removes when it is closed. */
export class UnixListener implements EventHandler {
  readonly engine = "native";
  readonly kind = "control socket";
  readonly path: string;
  readonly #socket: PolledSocket;
  readonly #accepting: FunctionSide;
  /** The file that is to be removed: this one has made it, or taken it over. */
  #file: FileIdentity | undefined;

  /**
   * Opens a socket for nobody but this user, which nobody finds before {@linkcode UnixListener.publish}; or takes over
   * `fd`, which listens at the path already.
   */
  constructor(path: string, fd: number = openAt(path)) {
    this.path = path;
    this.#socket = new PolledSocket(fd, this);
    this.#accepting = new FunctionSide(this.#socket, InterestBit.READABLE, "accept on", "accept4");
  }

  /** The descriptor; `undefined` once it is closed. */
  get fd(): number | undefined {
    return this.#socket.isOpen ? this.#socket.fd : undefined;
  }

  /** The file at the path, if it is this one's. */
  get file(): FileIdentity | undefined {
    return this.#file;
  }

  get name(): string {
    return `control socket ${this.path}`;
  }

  onReady(): void {
    this.#accepting.onReady();
  }

  ref(on: boolean): void {
    this.#accepting.ref(on);
  }

  /**
   * Binds it to the path and lets it listen; with a `file`, which it listens at already, that becomes this one's.
   *
   * @throws {SyscallError} If it cannot be bound; it is closed then.
   */
  publish(file?: FileIdentity): this {
    try {
      this.#file = file ?? listenAt(this.path, this.#socket.fd);
    } catch (error) {
      this.close();
      throw error;
    }
    return this;
  }

  /** The same socket by another descriptor, to be sent away; the file stays this one's. */
  copy(): UnixListener {
    return new UnixListener(this.path, syscall("fcntl", this.#socket.fd, F_DUPFD_CLOEXEC, 0));
  }

  /** accept4(2). */
  async accept(signal?: AbortSignal): Promise<UnixSocket> {
    return this.#wrap(await this.#accepting.run(() => this.#accept(), waitFor(signal)));
  }

  #wrap(fd: number): UnixSocket {
    return new UnixSocket(fd, `connection on ${this.path}`);
  }

  #accept(): number | undefined {
    const peer = new Uint8Array(UNIX_ADDRESS_SIZE);
    const length = new Uint8Array(new Uint32Array([peer.length]).buffer);
    const fd = takeConnection(this.#socket.fd, peer, length, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (fd >= 0) return fd;
    if (fd === -EAGAIN) return undefined;
    throw socketError(`accept on ${this.#socket.name}`, syscallError("accept4", -fd));
  }

  /** Closes it, and removes its file unless that is another's by now. */
  close(keepFile = false): void {
    if (!this.#socket.isOpen) return;
    // As long as it listens nobody else takes the path.
    if (!keepFile) removeFile(this.path, this.#file);
    this.#socket.close();
    this.#accepting.close();
  }
}

function openAt(path: string): number {
  // Checked first.
  unixAddress(path);
  const socket = openUnixSocket();
  try {
    // As fchmod(2) on the socket before bind(2), the mode holds from the start (unix(7)).
    syscall("fchmod", socket.fd, 0o600);
    return socket.detach();
  } finally {
    socket.close();
  }
}
