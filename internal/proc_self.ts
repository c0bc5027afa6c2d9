/** Threads and descriptors of this process as the kernel lists them in /proc/self. */

import { F_DUPFD_CLOEXEC, O_CLOEXEC } from "./constants.ts";
import { constants } from "node:os";
import { cString } from "./c_string.ts";
import { libc } from "./libc.ts";
import { lastErrno } from "./syscall.ts";

// asm-generic/fcntl.h
const { ENOENT, ESRCH } = constants.errno;

const ONE = new Uint8Array(new BigUint64Array([1n]).buffer);

// asm/unistd_64.h, asm-generic/unistd.h
const SYS_GETTID = Deno.build.arch === "aarch64" ? 178n : 186n;

/** Returns the number of this thread, gettid(2), which no other thread of the machine has as long as it runs. */
export function threadId(): number {
  return libc.syscall(SYS_GETTID, 0n, null, 0n);
}

/** Returns whether a thread of this process still runs. Needs no descriptor, of which none may be left. */
export function isRunning(thread: number): boolean {
  if (libc.readlink(cString(`/proc/self/task/${thread}/cwd`), new Uint8Array(1), 1) >= 0) return true;
  const errno = lastErrno();
  return errno !== ENOENT && errno !== ESRCH;
}

/** Returns more than any descriptor that is open: the size of the table, `FDSize` of proc_pid_status(5). */
export function descriptorsEnd(): number {
  const text = new Uint8Array(4096);
  const fd = libc.open(cString("/proc/self/status"), O_CLOEXEC, 0);
  if (fd < 0) return Infinity;
  const n = libc.read(fd, text, text.length);
  libc.close(fd);
  return Number(/^FDSize:\s+(\d+)/m.exec(new TextDecoder().decode(text.subarray(0, Math.max(n, 0))))?.[1] ?? Infinity);
}

/**
 * Ends the waits that are under way elsewhere, by the eventfds among the descriptors of another thread. That thread may
 * still run and close them: by way of a copy, nothing is written to the object that has the number by then.
 */
export function wakeWaits(fds: Iterable<number>): void {
  const link = new Uint8Array(64);
  for (const fd of fds) {
    const copy = libc.fcntl(fd, F_DUPFD_CLOEXEC, 0);
    if (copy < 0) continue;
    const n = libc.readlink(cString(`/proc/self/fd/${copy}`), link, link.length);
    if (new TextDecoder().decode(link.subarray(0, Math.max(n, 0))).includes("eventfd")) {
      libc.write(copy, ONE, ONE.length);
    }
    libc.close(copy);
  }
}
