/** What a thread that has ended leaves open is closed by who has started it. */

import { O_CLOEXEC } from "../../internal/constants.ts";
import { Descriptor } from "../../internal/descriptor.ts";
import { closeAbandoned, endChildrenOf } from "../../internal/ledger.ts";
import { libc } from "../../internal/libc.ts";
import { belongingsOf, endOwner, freeOwner, threadOf } from "../../internal/owner.ts";
import { descriptorsEnd, isRunning, wakeWaits } from "../../internal/proc_self.ts";
import { linkOf } from "../../internal/socket.ts";
import { ProgramEnd } from "../program/program_end.ts";
import { UnixSocket } from "../message/unix_socket.ts";

/** Milliseconds between two looks whether a thread has ended, and how long it is looked for. */
const LOOK_INTERVAL = 2;
const LOOK_LIMIT = 2_000;
/** Milliseconds between two looks after that. */
const LATE_INTERVAL = 100;
/** Milliseconds for which a thread is waited for when the program is unloaded; and microseconds between two looks. */
const UNLOAD_LIMIT = 1_000;
const UNLOAD_PAUSE = 500;

/**
 * Waits until a Worker that was ended runs no more: as long as it does, it may
 * close a number itself, and another may have that number at once.
 *
 * @returns Whether it has ended; a thread that never returns to its event loop does not.
 */
export async function whenThreadEnds(owner: bigint): Promise<boolean> {
  endOwner(owner);
  const thread = threadOf(owner);
  if (thread === 0) return true;
  wakeWaits(belongingsOf(owner, descriptorsEnd()));
  for (const end = performance.now() + LOOK_LIMIT; isRunning(thread);) {
    if (performance.now() > end) return false;
    await new Promise((resolve) => setTimeout(resolve, LOOK_INTERVAL));
  }
  return true;
}

/**
 * Ends the processes of a thread that was ended and runs on, and closes its sockets: an inert socket takes their
 * numbers, which stay the thread's. What the thread reads there is at its end, and what it writes fails. Its epoll goes
 * with them, so that the kernel wakes nobody for sockets that the thread has shared.
 *
 * @param inert What was put there before, as links of `/proc`.
 */
function takeSockets(owner: bigint, inert: Set<string>): void {
  endChildrenOf(threadOf(owner));
  const taken = belongingsOf(owner, descriptorsEnd()).filter((fd) => {
    const link = linkOf(fd);
    return /^socket:|\[eventpoll\]$/.test(link) && !inert.has(link);
  });
  if (taken.length === 0) return;
  let near: Descriptor | undefined;
  try {
    const ends = UnixSocket.pair().map((fd) => new Descriptor(fd)) as [Descriptor, Descriptor];
    near = ends[0];
    ends[1].close();
    inert.add(linkOf(near.fd));
    // The thread closes nothing any more (mayClose() in internal/owner.ts), so each number is what it was.
    for (const fd of taken) libc.dup3(near.fd, fd, O_CLOEXEC);
  } catch {
    // No descriptors are left; it is tried again.
  } finally {
    near?.close();
  }
}

/**
 * Waits on this thread until one that was ended runs no more, and closes what it has left open: no promise settles any
 * more. What does not end soon loses its sockets, and keeps the rest.
 */
export function closeLeftOpenNow(owner: bigint): void {
  endOwner(owner);
  const thread = threadOf(owner);
  if (thread !== 0) {
    wakeWaits(belongingsOf(owner, descriptorsEnd()));
    for (const end = performance.now() + UNLOAD_LIMIT; isRunning(thread);) {
      if (performance.now() > end) return takeSockets(owner, new Set());
      libc.usleep(UNLOAD_PAUSE);
    }
  }
  closeLeftOpen(owner);
}

/** Closes what a thread has left open; it must have ended. */
export function closeLeftOpen(owner: bigint): void {
  const thread = threadOf(owner);
  if (thread !== 0) endChildrenOf(thread);
  for (const fd of belongingsOf(owner, descriptorsEnd())) {
    // A program that it has started goes on, and is this one's to wait for.
    if (linkOf(fd).includes("pidfd")) new ProgramEnd(fd, "program", true).forget();
    else new Descriptor(fd).close();
  }
  // One that has not begun yet still looks at its record.
  if (thread !== 0) freeOwner(owner);
  // Threads that it has started have ended with it.
  closeAbandoned();
}

/** The same for one that runs on: its sockets at once, and the rest when it has ended. */
export function closeLeftOpenLater(owner: bigint): void {
  endOwner(owner);
  const thread = threadOf(owner);
  const inert = new Set<string>();
  takeSockets(owner, inert);
  const timer = setInterval(() => {
    // Others may have been on their way to it, or just being opened.
    if (isRunning(thread)) return takeSockets(owner, inert);
    clearInterval(timer);
    closeLeftOpen(owner);
  }, LATE_INTERVAL);
  Deno.unrefTimer(timer);
}
