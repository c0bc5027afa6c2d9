/**
 * Memory that all threads of this process share, found by what the kernel says
 * is mapped: no address comes from a name, a message or a variable, which any
 * program can write. It is a memfd_create(2) file that only foreign calls of
 * this process can map, of a size that is sealed, and it has no descriptor.
 */

import { O_CLOEXEC } from "./constants.ts";
import { cString } from "./c_string.ts";
import { libc } from "./libc.ts";
import { lastErrno, syscall, syscallError } from "./syscall.ts";

// asm/unistd_64.h, asm-generic/unistd.h; linux/memfd.h, sys/mman.h, linux/fcntl.h
const SYS_MEMFD_CREATE = Deno.build.arch === "aarch64" ? 279n : 319n;
const MFD_CLOEXEC = 1;
const MFD_ALLOW_SEALING = 2;
const MFD_NOEXEC_SEAL = 8;
const PROT_READ_WRITE = 3;
const MAP_SHARED = 1;
const MAP_FAILED = 0xffff_ffff_ffff_ffffn;
const F_ADD_SEALS = 1033;
/** Nobody changes its size, or takes this seal off. */
const F_SEAL_SIZE = 1 | 2 | 4;

/** Where it goes if there is room: below all else, so that it stands in the first line. */
const WANTED_ADDRESS = 0x10_0000_0000n;

/** A line of proc_pid_maps(5): the range, `rw-s`, the offset, the device, the inode and the file. */
const LINE = /^([0-9a-f]+)-([0-9a-f]+) rw-s 0+ 00:[0-9a-f]+ \d+ +\/memfd:(\S+) \(deleted\)$/;

/**
 * Makes shared memory, all zeros; what is not written to takes none.
 *
 * @returns Its address.
 * @throws {SyscallError} If there is none.
 */
export function createShared(name: string, size: number): bigint {
  // A system can insist on the flag (vm.memfd_noexec), and kernels before 6.3 do not have it.
  let fd = libc.memfd_create(SYS_MEMFD_CREATE, cString(name), MFD_CLOEXEC | MFD_NOEXEC_SEAL);
  if (fd < 0) fd = libc.memfd_create(SYS_MEMFD_CREATE, cString(name), MFD_CLOEXEC | MFD_ALLOW_SEALING);
  if (fd < 0) throw syscallError("memfd_create", lastErrno());
  try {
    syscall("ftruncate", fd, BigInt(size));
    syscall("fcntl", fd, F_ADD_SEALS, F_SEAL_SIZE);
    const address = libc.mmap(WANTED_ADDRESS, BigInt(size), PROT_READ_WRITE, MAP_SHARED, fd, 0n);
    if (address === MAP_FAILED) throw syscallError("mmap", lastErrno());
    return address;
  } finally {
    libc.close(fd);
  }
}

/**
 * Finds shared memory of a name and size.
 *
 * @param isRight Says of each that there is whether it is the one.
 * @returns Its address, `undefined` if there is none.
 * @throws {SyscallError} If it cannot be looked for.
 */
export function findShared(name: string, size: number, isRight: (address: bigint) => boolean): bigint | undefined {
  const fd = syscall("open", cString("/proc/self/maps"), O_CLOEXEC, 0);
  try {
    const decoder = new TextDecoder();
    const bytes = new Uint8Array(4096);
    let text = "";
    for (let n = syscall("read", fd, bytes, bytes.length); n > 0; n = syscall("read", fd, bytes, bytes.length)) {
      const lines = (text + decoder.decode(bytes.subarray(0, n), { stream: true })).split("\n");
      text = lines.pop() ?? "";
      for (const line of lines) {
        const [, from, to, file] = LINE.exec(line) ?? [];
        if (file !== name) continue;
        const address = BigInt(`0x${from}`);
        if (BigInt(`0x${to}`) - address === BigInt(size) && isRight(address)) return address;
      }
    }
    return undefined;
  } finally {
    libc.close(fd);
  }
}
