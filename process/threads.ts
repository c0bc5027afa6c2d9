/** The kernel's view of threads: which one this is, and what an ended one has left open. */

import { Descriptor } from "../internal/descriptor.ts";
import { engineSupport } from "../internal/engine.ts";
import { libc } from "../internal/libc.ts";
import { belongingsOf, takeFrom } from "../internal/owner.ts";
import { linkOf } from "../internal/socket.ts";
import { cString } from "./unix_socket.ts";

// asm/unistd_64.h, asm-generic/unistd.h; asm-generic/fcntl.h
const SYS_GETTID = Deno.build.arch === "aarch64" ? 178n : 186n;
const O_PATH = 0o10000000;
const O_CLOEXEC = 0o2000000;

/** Milliseconds between two looks whether a thread has ended, and how long it is looked for. */
const LOOK_INTERVAL = 2;
const LOOK_LIMIT = 2_000;

const ONE = new Uint8Array(new BigUint64Array([1n]).buffer);

/** gettid(2); 0 where the native engine is not. */
export function threadId(): number {
  return engineSupport().engine === "native" ? libc.syscall(SYS_GETTID, 0n, null, 0n) : 0;
}

function isRunning(thread: number): boolean {
  const fd = libc.open(cString(`/proc/self/task/${thread}`), O_PATH | O_CLOEXEC, 0);
  if (fd < 0) return false;
  libc.close(fd);
  return true;
}

function isEventFd(fd: number): boolean {
  try {
    return linkOf(fd).includes("eventfd");
  } catch {
    // The thread, which still runs, has closed it meanwhile.
    return false;
  }
}

/**
 * Closes what a thread has left open, once it has ended: as long as it runs,
 * it may close a number itself, and another may have that number at once.
 *
 * @returns Whether it has ended; a thread that never returns to its event loop does not.
 */
export async function closeLeftOpen(owner: number, thread: number): Promise<boolean> {
  if (thread === 0) return true;
  // A wait of its reactor that is on another thread holds it up.
  for (const fd of belongingsOf(owner)) {
    if (isEventFd(fd)) libc.write(fd, ONE, ONE.length);
  }
  for (const end = performance.now() + LOOK_LIMIT; isRunning(thread);) {
    if (performance.now() > end) return false;
    await new Promise((resolve) => setTimeout(resolve, LOOK_INTERVAL));
  }
  for (const fd of takeFrom(owner)) new Descriptor(fd).close();
  return true;
}
