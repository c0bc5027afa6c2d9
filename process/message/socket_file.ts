/**
 * The file of a Unix socket: made under its own name only, in the place of one
 * that nobody serves any more, and removed by whoever has made it.
 */

import { AF_UNIX, O_CLOEXEC, O_DIRECTORY, SOCK_SEQPACKET } from "../../internal/constants.ts";
import { dirname } from "node:path/posix";
import { cString } from "../../internal/c_string.ts";
import { Descriptor } from "../../internal/descriptor.ts";
import { socketError, SyscallError } from "../../internal/errors.ts";
import { type FileStatus, isSameFile, statusOf } from "../../internal/file_status.ts";
import { libc } from "../../internal/libc.ts";
import { SOCK_CLOEXEC, SOCK_NONBLOCK } from "../../internal/socket.ts";
import { syscall } from "../../internal/syscall.ts";
import { atCaller } from "../../internal/stack.ts";

// sys/socket.h, sys/un.h, asm-generic/fcntl.h, sys/file.h
const SUN_PATH_SIZE = 108;
const PATH_AT = 2;
const LOCK_EX_NB = 2 | 4;

/** Largest `struct sockaddr_un`, in bytes. */
export const UNIX_ADDRESS_SIZE = PATH_AT + SUN_PATH_SIZE;
/** Bytes of a path at most: a zero ends it. */
export const LONGEST_PATH = SUN_PATH_SIZE - 1;

/** How often the folder's lock is tried, a millisecond apart. */
const LOCK_TRIES = 100;

/** Which file it is; the number of an inode is not used again as long as the socket is open. */
export type FileIdentity = Pick<FileStatus, "device" | "inode">;

/**
 * Returns a path as bind(2) and connect(2) take it.
 *
 * @throws {TypeError} If it has a zero, which would end it there, or a lone surrogate.
 * @throws {RangeError} If it is too long.
 */
export function unixAddress(path: string): Uint8Array<ArrayBuffer> {
  const bytes = cString(path, "path");
  if (bytes.length > SUN_PATH_SIZE) {
    throw atCaller(new RangeError(`path must have less than ${SUN_PATH_SIZE} bytes, received "${path}"`));
  }
  const sockaddr = new Uint8Array(PATH_AT + bytes.length);
  sockaddr[0] = AF_UNIX;
  sockaddr.set(bytes, PATH_AT);
  return sockaddr;
}

/** Opens a socket that keeps the bounds of messages: `SOCK_SEQPACKET` of unix(7). */
export function openUnixSocket(): Descriptor {
  return new Descriptor(syscall("socket", AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
}

/**
 * Binds a socket to a path and lets it listen, under no other name at any moment.
 *
 * @returns The file that it has made.
 * @throws {SyscallError} If it cannot be bound.
 * @throws {Deno.errors.AddrInUse} If the path is served.
 * @throws {Deno.errors.AlreadyExists} If there is a file that is no socket.
 */
export function listenAt(path: string, fd: number): FileIdentity {
  const address = unixAddress(path);
  return locked(path, () => {
    removeUnserved(path);
    syscall("bind", fd, address, address.length);
    const file = statusOf(path, false);
    try {
      syscall("listen", fd, 64);
      if (file?.type !== "socket") throw new SyscallError("stat", "ENOENT");
    } catch (error) {
      removeFile(path, file);
      throw error;
    }
    return file;
  });
}

/**
 * Removes the socket that a program has left behind that was killed.
 *
 * @throws {Deno.errors.AddrInUse} If somebody serves it.
 * @throws {Deno.errors.AlreadyExists} If it is no socket.
 * @throws {Deno.errors.PermissionDenied} If it is another user's.
 */
export function removeLeftBehind(path: string): void {
  locked(path, () => removeUnserved(path));
}

/** Removes the file of a path, unless it is a different one by now. */
export function removeFile(path: string, file: FileIdentity | undefined): void {
  if (file !== undefined && isSameFile(statusOf(path, false), file)) libc.unlink(cString(path));
}

/**
 * Checks that a path is free, or is a socket.
 *
 * @returns The socket, `undefined` if there is nothing.
 * @throws {Deno.errors.AlreadyExists} If it is something else, a symbolic link included.
 */
export function socketAt(path: string): FileStatus | undefined {
  const found = statusOf(path, false);
  if (found === undefined || found.type === "socket") return found;
  throw atCaller(new Deno.errors.AlreadyExists(`Cannot listen on ${path}: there is a file that is no socket`));
}

function removeUnserved(path: string): void {
  const found = socketAt(path);
  if (found === undefined) return;
  if (found.uid !== libc.getuid()) {
    throw atCaller(new Deno.errors.PermissionDenied(`Cannot listen on ${path}: there is another user's socket`));
  }
  if (isServed(path)) {
    throw socketError(`listen on ${path}`, new SyscallError("bind", "EADDRINUSE"));
  }
  removeFile(path, found);
}

/** Whether a call to connect reaches somebody, or somebody who speaks differently. */
function isServed(path: string): boolean {
  const address = unixAddress(path);
  const socket = openUnixSocket();
  try {
    syscall("connect", socket.fd, address, address.length);
    return true;
  } catch (error) {
    return !(error instanceof SyscallError && (error.code === "ECONNREFUSED" || error.code === "ENOENT"));
  } finally {
    socket.close();
  }
}

/**
 * Calls `act` while no other program of this library does the same in the same
 * folder: flock(2). Two that find one socket unserved would both remove it, and
 * the second one what the first has just bound. Where the folder cannot be read
 * there is no lock.
 */
function locked<T>(path: string, act: () => T): T {
  let folder: Descriptor;
  try {
    folder = new Descriptor(syscall("open", cString(dirname(path)), O_DIRECTORY | O_CLOEXEC, 0));
  } catch (error) {
    if (error instanceof SyscallError && error.code === "EACCES") return act();
    throw error;
  }
  try {
    lock(folder.fd, path);
    return act();
  } finally {
    folder.close();
  }
}

function lock(fd: number, path: string): void {
  for (let tries = 1;; tries++) {
    try {
      syscall("flock", fd, LOCK_EX_NB);
      return;
    } catch (error) {
      // Some file systems have no locks.
      if (!(error instanceof SyscallError && error.code === "EAGAIN")) return;
    }
    if (tries === LOCK_TRIES) {
      throw atCaller(new Deno.errors.Busy(`Cannot listen on ${path}: its folder is locked by another program (flock)`));
    }
    libc.usleep(1_000);
  }
}
