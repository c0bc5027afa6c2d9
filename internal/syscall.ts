/**
 * The gate for system calls: errno is read in the statement after the call,
 * before anything else can overwrite it.
 *
 * A call that a signal has interrupted (EINTR) is repeated. The calls that wait
 * for events are not made here: these return early instead.
 */

import { constants } from "node:os";
import { sizeOf } from "./bytes.ts";
import { errorNumbers } from "./error_numbers.ts";
import { SyscallError } from "./errors.ts";
import { type Libc, libc } from "./libc.ts";

const { EINTR } = constants.errno;
export const { EAGAIN, EINPROGRESS } = constants.errno;

const errnoBytes = new Uint8Array(4);
const errnoValue = new Int32Array(errnoBytes.buffer);

/** Returns errno of this thread, which must have made the failed call just before. */
export function lastErrno(): number {
  libc.memcpy(errnoBytes, libc.__errno_location(), 4);
  return errnoValue[0] as number;
}

/** Returns the error for a call that failed with `errno`. */
export function syscallError(syscall: string, errno: number): SyscallError {
  return new SyscallError(syscall, errorNumbers.nameOf(errno) ?? `E${errno}`, errno);
}

type Call = {
  [K in keyof Libc]: Libc[K] extends (...args: never[]) => number ? K : never;
}[keyof Libc];

/**
 * Makes a system call.
 *
 * @throws {SyscallError} If the call fails.
 */
export function syscall<K extends Call>(name: K, ...args: Parameters<Libc[K]>): number {
  while (true) {
    const result = (libc[name] as (...args: unknown[]) => number)(...args);
    if (result !== -1) return result;
    const errno = lastErrno();
    if (errno !== EINTR) throw syscallError(name, errno);
  }
}

/** What one call moves at most, in bytes (`MAX_RW_COUNT` of the kernel, read(2)). */
export const LARGEST_TRANSFER = 0x7ffff000;

// Those below are {@linkcode syscall} without a thrown error and without
// an array of arguments: they are called for every message.

/** recv(2); returns the number of bytes, or errno as a negative number. */
export function receive(fd: number, p: Uint8Array, flags: number): number {
  while (true) {
    const n = libc.recv(fd, p as Uint8Array<ArrayBuffer>, Math.min(sizeOf(p), LARGEST_TRANSFER), flags);
    if (n >= 0) return n;
    const errno = lastErrno();
    if (errno !== EINTR) return -errno;
  }
}

/** send(2); returns the number of bytes, or errno as a negative number. */
export function transmit(fd: number, p: Uint8Array, flags: number): number {
  while (true) {
    const n = libc.send(fd, p as Uint8Array<ArrayBuffer>, Math.min(sizeOf(p), LARGEST_TRANSFER), flags);
    if (n >= 0) return n;
    const errno = lastErrno();
    if (errno !== EINTR) return -errno;
  }
}

const peerLength = new Uint32Array(1);
const peerLengthBytes = new Uint8Array(peerLength.buffer);

/** recvfrom(2); writes the sender to `peer`, and returns the number of bytes, or errno as a negative number. */
export function receiveFrom(fd: number, p: Uint8Array, flags: number, peer: Uint8Array<ArrayBuffer>): number {
  while (true) {
    peerLength[0] = peer.byteLength;
    const n = libc.recvfrom(fd, p as Uint8Array<ArrayBuffer>, sizeOf(p), flags, peer, peerLengthBytes);
    if (n >= 0) return n;
    const errno = lastErrno();
    if (errno !== EINTR) return -errno;
  }
}

/** sendto(2), or send(2) if `peer` is null; returns the number of bytes, or errno as a negative number. */
export function transmitTo(fd: number, p: Uint8Array, flags: number, peer: Uint8Array<ArrayBuffer> | null): number {
  while (true) {
    const n = libc.sendto(fd, p as Uint8Array<ArrayBuffer>, sizeOf(p), flags, peer, peer?.byteLength ?? 0);
    if (n >= 0) return n;
    const errno = lastErrno();
    if (errno !== EINTR) return -errno;
  }
}

/** recvmsg(2); returns the number of bytes, or errno as a negative number. */
export function receiveMessage(fd: number, header: Uint8Array<ArrayBuffer>, flags: number): number {
  while (true) {
    const n = libc.recvmsg(fd, header, flags);
    if (n >= 0) return n;
    const errno = lastErrno();
    if (errno !== EINTR) return -errno;
  }
}

/** sendmsg(2); returns the number of bytes, or errno as a negative number. */
export function transmitMessage(fd: number, header: Uint8Array<ArrayBuffer>, flags: number): number {
  while (true) {
    const n = libc.sendmsg(fd, header, flags);
    if (n >= 0) return n;
    const errno = lastErrno();
    if (errno !== EINTR) return -errno;
  }
}

/** recvmmsg(2) into `count` headers; returns the number of datagrams, or errno as a negative number. */
export function receiveMany(fd: number, headers: Uint8Array<ArrayBuffer>, count: number, flags: number): number {
  while (true) {
    const n = libc.recvmmsg(fd, headers, count, flags, null);
    if (n >= 0) return n;
    const errno = lastErrno();
    if (errno !== EINTR) return -errno;
  }
}

/** sendmmsg(2) of `count` headers; returns the number of datagrams, or errno as a negative number. */
export function transmitMany(fd: number, headers: Uint8Array<ArrayBuffer>, count: number, flags: number): number {
  while (true) {
    const n = libc.sendmmsg(fd, headers, count, flags);
    if (n >= 0) return n;
    const errno = lastErrno();
    if (errno !== EINTR) return -errno;
  }
}

/** accept4(2); returns the descriptor, or errno as a negative number. */
export function takeConnection(
  fd: number,
  address: Uint8Array<ArrayBuffer>,
  length: Uint8Array<ArrayBuffer>,
  flags: number,
): number {
  while (true) {
    const result = libc.accept4(fd, address, length, flags);
    if (result >= 0) return result;
    const errno = lastErrno();
    if (errno !== EINTR) return -errno;
  }
}
