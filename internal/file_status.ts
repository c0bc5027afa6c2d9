/** What a path names, without a permission: stat(2). The native engine's own checks, which its callers have permitted. */

import { constants } from "node:os";
import { cString } from "./c_string.ts";
import { libc } from "./libc.ts";
import { lastErrno, syscallError } from "./syscall.ts";

// asm/unistd_64.h, asm-generic/unistd.h; fcntl.h, bits/stat.h
const IS_AARCH64 = Deno.build.arch === "aarch64";
const SYS_NEWFSTATAT = IS_AARCH64 ? 79n : 262n;
const AT_FDCWD = -100;
const AT_SYMLINK_NOFOLLOW = 0x100;
const S_IFMT = 0o170000;
const S_IFREG = 0o100000;
const S_IFSOCK = 0o140000;

// struct stat of asm/stat.h and asm-generic/stat.h: st_dev at 0, st_ino at 8.
const STAT_SIZE = 144;
const MODE_AT = IS_AARCH64 ? 16 : 24;
const UID_AT = IS_AARCH64 ? 24 : 28;

/** A file, and which one it is. */
export interface FileStatus {
  readonly device: bigint;
  readonly inode: bigint;
  readonly type: "file" | "socket" | "other";
  /** The user that it belongs to. */
  readonly uid: number;
}

/**
 * Returns what a path names; `undefined` if there is nothing.
 *
 * @param follow Whether a symbolic link stands for what it leads to.
 * @throws {SyscallError} If that cannot be told.
 */
export function statusOf(path: string, follow: boolean): FileStatus | undefined {
  const bytes = new Uint8Array(STAT_SIZE);
  if (libc.newfstatat(SYS_NEWFSTATAT, AT_FDCWD, cString(path), bytes, follow ? 0 : AT_SYMLINK_NOFOLLOW) !== 0) {
    const errno = lastErrno();
    if (errno === constants.errno.ENOENT || errno === constants.errno.ENOTDIR) return undefined;
    throw syscallError("stat", errno);
  }
  const view = new DataView(bytes.buffer);
  const type = view.getUint32(MODE_AT, true) & S_IFMT;
  return {
    device: view.getBigUint64(0, true),
    inode: view.getBigUint64(8, true),
    type: type === S_IFREG ? "file" : type === S_IFSOCK ? "socket" : "other",
    uid: view.getUint32(UID_AT, true),
  };
}

/** Returns whether two are the same file. */
export function isSameFile(a: FileStatus | undefined, b: Pick<FileStatus, "device" | "inode"> | undefined): boolean {
  return a !== undefined && b !== undefined && a.device === b.device && a.inode === b.inode;
}
