/**
 * What the threads of this process have open, for who comes after them. A program that fails under `deno run --watch`
 * is not unloaded, nor is a Worker that is terminated: their JavaScript is gone, their descriptors and children stay,
 * and the next run would find its ports taken. So each thread first closes what belongs to threads that run no more,
 * and to an earlier run of its own.
 *
 * What a Worker of this library leaves open is closed by the thread that has started it, as long as that one runs.
 *
 * The ledger is memory of the process's own that each run finds again (`shared_memory.ts`). As 32-bit words:
 *
 *     0       which thread closes what others have left, a futex(2)
 *     64      for each child process its thread and its number, in pairs
 *     4096    for each descriptor its thread, 0 if it is nobody's, and the thread that has started that one, or 0
 */

import {
  O_CLOEXEC,
  P_PIDFD,
  POLLIN,
  SIGINFO_SIZE,
  SIGKILL,
  SYS_PIDFD_OPEN,
  SYS_PIDFD_SEND_SIGNAL,
  WEXITED,
  WNOHANG,
} from "./constants.ts";
import { constants } from "node:os";
import { cString } from "./c_string.ts";
import { libc } from "./libc.ts";
import { starterThread } from "./owner.ts";
import { descriptorsEnd, isRunning, threadId, wakeWaits } from "./proc_self.ts";
import { createShared, findShared } from "./shared_memory.ts";
import { lastErrno } from "./syscall.ts";
import { isUnloaded } from "./unload.ts";

const NAME = "c10k-sockets-ledger-2";
const CHILDREN_AT = 64;
const MOST_CHILDREN = 2_000;
const DESCRIPTORS_AT = 4096;
/** Descriptors from this number on are not kept track of. */
const MOST_DESCRIPTORS = 1 << 20;
const ENTRY = 8;
const SIZE = 4 * DESCRIPTORS_AT + ENTRY * MOST_DESCRIPTORS;
/** With the thread of a pidfd: its process is a program that goes on when its starter has ended. */
const PROGRAM = 2 ** 31;

// fcntl.h, signal.h, poll.h; asm/unistd_64.h, asm-generic/unistd.h
// sys/wait.h, asm-generic/siginfo.h
const SYS_FUTEX = Deno.build.arch === "aarch64" ? 98n : 202n;
// linux/futex.h
const FUTEX_LOCK_PI = 6;
const FUTEX_UNLOCK_PI = 7;

/** Milliseconds for which a child that was killed, or a thread, is waited for; and microseconds between two looks. */
const LIMIT = 1_000;
const PAUSE = 1_000;
/** Microseconds in which a wait on another thread returns once it was woken. */
const RETURN_TIME = 5_000;
/** Milliseconds between two looks whether a program of an earlier run has ended. */
const PROGRAM_INTERVAL = 500;

/** Set where the ledger is looked at in this isolate: a second copy of this library must not take the first for gone. */
const MARK = Symbol.for("@c10k/sockets ledger");

const word = new Uint32Array(1);
const wordBytes = new Uint8Array(word.buffer);

/** Where the ledger is, 0 before it was looked for, -1 if there is none to be had. */
let base = 0n;
const mine = new Uint32Array(2);
const mineBytes = new Uint8Array(mine.buffer);
const nobody = new Uint8Array(ENTRY);
/** The pidfds of programs that earlier runs have started and that go on. */
const programs = new Set<number>();
let programTimer: ReturnType<typeof setInterval> | undefined;

function at(table: bigint, index: number): bigint {
  return table + BigInt(index * 4);
}

function writeWord(table: bigint, index: number, value: number): void {
  word[0] = value;
  libc.memcpy_to(at(table, index), wordBytes, 4);
}

function readWords(table: bigint, index: number, count: number): Uint32Array {
  const words = new Uint32Array(count);
  libc.memcpy_from(new Uint8Array(words.buffer), at(table, index), count * 4);
  return words;
}

/** A file of /proc, which has no size; empty if it cannot be read. */
function readFile(path: string): string {
  const fd = libc.open(cString(path), O_CLOEXEC, 0);
  if (fd < 0) return "";
  const decoder = new TextDecoder();
  const chunk = new Uint8Array(64 * 1024);
  let text = "";
  for (let n = libc.read(fd, chunk, chunk.length); n > 0; n = libc.read(fd, chunk, chunk.length)) {
    text += decoder.decode(chunk.subarray(0, n), { stream: true });
  }
  libc.close(fd);
  return text;
}

/** The ledgers of this process: mostly one, but two threads may make theirs at the same time. */
function find(): bigint[] {
  const found: bigint[] = [];
  findShared(NAME, SIZE, (address) => {
    found.push(address);
    return false;
  });
  return found;
}

/** Where the entry of a descriptor is. */
function entryAt(ledger: bigint, fd: number): bigint {
  return at(ledger, DESCRIPTORS_AT) + BigInt(fd * ENTRY);
}

/** Finds the ledger, and closes what those have left open who were here before. */
function open(): void {
  mine[0] = threadId();
  let ledgers: bigint[];
  try {
    mine[1] = starterThread();
    ledgers = find();
    if (ledgers.length === 0) {
      createShared(NAME, SIZE);
      // Another thread may have made one at the same time: both use the first.
      ledgers = find();
    }
    // Not before: what is opened for that would be entered.
    base = ledgers[0] ?? -1n;
  } catch {
    // No memory, or no descriptor to look with: this thread has no ledger, and all else works.
    base = -1n;
    return;
  }
  const realm = globalThis as { [MARK]?: boolean };
  // A realm that is at its end adopts nothing: the next one does.
  if (realm[MARK] || isUnloaded()) return;
  Object.defineProperty(realm, MARK, { value: true });
  for (const ledger of ledgers) settle(ledger, true);
}

/** Finds the ledger before a thread is started. */
export function openLedger(): void {
  if (base === 0n) open();
}

/** Closes what is left of threads that run no more, and that no thread is there to close. */
export function closeAbandoned(): void {
  if (base > 0n && !isUnloaded()) settle(base, false);
}

/** Closes and ends what threads that are gone have left; `isFirst` if this thread has entered nothing yet. */
function settle(ledger: bigint, isFirst: boolean): void {
  const threads = threadsIn(ledger);
  const self = mine[0] as number;
  const hasRun = threads.delete(self) && isFirst;
  // Its Workers were terminated, and end once they are woken.
  if (hasRun && !("DedicatedWorkerGlobalScope" in globalThis)) {
    wake(ledger, () => true);
    awaitThreads(threads);
  }
  const ended = new Set([...threads].filter((thread) => !isRunning(thread)));
  if (ended.size === 0 && !hasRun) return;
  const isGone = (thread: number) => (hasRun && thread === self) || ended.has(thread);
  const starters = new Map<number, boolean>([[0, false], [self, !isFirst]]);
  const isAbandoned = ([thread, starter]: Entry) => {
    if (!isGone(thread)) return false;
    if (!starters.has(starter)) starters.set(starter, isRunning(starter));
    return !starters.get(starter);
  };
  // One thread at a time: a number that was closed can be another's at once.
  if (!lock(ledger)) return;
  try {
    endChildren(ledger, isGone);
    // Of a wait by poll(2) or select(2) that is under way the kernel keeps sockets open until it has returned.
    wake(ledger, isAbandoned);
    for (const [fd, entry] of entries(ledger)) {
      if (!isAbandoned(entry)) continue;
      libc.memcpy_to(entryAt(ledger, fd), nobody, ENTRY);
      const [, , isProgram] = entry;
      if (isProgram && awaitProgram(fd)) continue;
      libc.close(fd);
    }
  } finally {
    unlock(ledger);
  }
}

/** What is entered of a descriptor: its thread, the thread that has started that one, and whether it is a program's. */
type Entry = readonly [thread: number, starter: number, isProgram: boolean];

/** The entries of all descriptors that have one, by number. */
function* entries(ledger: bigint): Generator<readonly [fd: number, entry: Entry]> {
  const words = readWords(ledger, DESCRIPTORS_AT, 2 * Math.min(descriptorsEnd(), MOST_DESCRIPTORS));
  for (let i = 0; i < words.length; i += 2) {
    const thread = words[i] as number;
    if (thread !== 0) yield [i / 2, [thread % PROGRAM, words[i + 1] as number, thread >= PROGRAM]];
  }
}

function threadsIn(ledger: bigint): Set<number> {
  const children = readWords(ledger, CHILDREN_AT, 2 * MOST_CHILDREN).filter((_, i) => i % 2 === 0);
  const threads = new Set(children);
  for (const [, [thread]] of entries(ledger)) threads.add(thread);
  threads.delete(0);
  return threads;
}

/** Ends the waits of threads, and gives them the time to return. */
function wake(ledger: bigint, isTheirs: (entry: Entry) => boolean): void {
  const fds = [...entries(ledger)].filter(([, entry]) => isTheirs(entry)).map(([fd]) => fd);
  if (fds.length === 0) return;
  wakeWaits(fds);
  libc.usleep(RETURN_TIME);
}

/**
 * Takes the lock of the ledger. The kernel knows the thread that has it: the lock of one that has ended meanwhile, or
 * of an earlier run of this one, keeps no other from it.
 *
 * @returns Whether it is this thread's; there are kernels without such a lock.
 */
function lock(ledger: bigint): boolean {
  const { EDEADLK, EINTR, EAGAIN, ESRCH } = constants.errno;
  while (libc.futex(SYS_FUTEX, ledger, FUTEX_LOCK_PI, 0, null) !== 0) {
    const errno = lastErrno();
    if (errno === EDEADLK) return true;
    if (errno === ESRCH) writeWord(ledger, 0, 0);
    else if (errno !== EINTR && errno !== EAGAIN) return false;
  }
  return true;
}

function unlock(ledger: bigint): void {
  libc.futex(SYS_FUTEX, ledger, FUTEX_UNLOCK_PI, 0, null);
}

/** Reaps a program that has ended; `false` if it still runs. */
function reapProgram(pidfd: number): boolean {
  const info = new Uint8Array(SIGINFO_SIZE);
  // It fails if the status is lost, and leaves si_pid 0 while the program runs.
  return libc.waitid(P_PIDFD, pidfd, info, WEXITED | WNOHANG) !== 0 || info.subarray(16, 20).some((byte) => byte !== 0);
}

/** Takes over the pidfd of a program, which must not stay a zombie; `false` if it has ended. */
function awaitProgram(pidfd: number): boolean {
  if (reapProgram(pidfd)) return false;
  programs.add(pidfd);
  enter(pidfd);
  enterProgram(pidfd);
  if (programTimer === undefined) {
    programTimer = setInterval(reapPrograms, PROGRAM_INTERVAL);
    Deno.unrefTimer(programTimer);
  }
  return true;
}

function reapPrograms(): void {
  for (const pidfd of programs) {
    if (!reapProgram(pidfd)) continue;
    programs.delete(pidfd);
    leave(pidfd);
    libc.close(pidfd);
  }
  if (programs.size > 0) return;
  clearInterval(programTimer);
  programTimer = undefined;
}

/** Waits for threads, for those that are not of that run only for a while. */
function awaitThreads(threads: ReadonlySet<number>): void {
  for (const late = performance.now() + LIMIT; [...threads].some(isRunning) && performance.now() < late;) {
    libc.usleep(PAUSE);
  }
}

/** Kills the processes that a thread which was ended has started, for they are to end with it. */
export function endChildrenOf(thread: number): void {
  let ledgers: bigint[];
  try {
    ledgers = find();
  } catch {
    // No descriptor is left to look with.
    ledgers = base > 0n ? [base] : [];
  }
  for (const ledger of ledgers) {
    const isLocked = lock(ledger);
    endChildren(ledger, (starter) => starter === thread);
    if (isLocked) unlock(ledger);
  }
}

function endChildren(ledger: bigint, isTheirs: (thread: number) => boolean): void {
  const children = readWords(ledger, CHILDREN_AT, 2 * MOST_CHILDREN);
  for (let i = 0; i < children.length; i += 2) {
    const thread = children[i] as number;
    if (thread === 0 || !isTheirs(thread)) continue;
    endChild(children[i + 1] as number);
    writeWord(ledger, CHILDREN_AT + i, 0);
  }
}

/** Kills a process, if it is a child of this one still, and waits until it has ended; it is no zombie after. */
function endChild(pid: number): void {
  const pidfd = libc.syscall(SYS_PIDFD_OPEN, BigInt(pid), null, 0n);
  if (pidfd < 0) return;
  // Asked once there is a pidfd: from now on the number is no other process's.
  const parent = /^\d+ \(.*\) \S (\d+) /s.exec(readFile(`/proc/${pid}/stat`))?.[1];
  if (parent === String(Deno.pid)) {
    libc.pidfd_send_signal(SYS_PIDFD_SEND_SIGNAL, pidfd, SIGKILL, null, 0);
    libc.poll(new Uint8Array(new Int32Array([pidfd, POLLIN]).buffer), 1, LIMIT);
    // The one that has waited for it is gone.
    libc.waitid(P_PIDFD, pidfd, new Uint8Array(SIGINFO_SIZE), WEXITED | WNOHANG);
  }
  libc.close(pidfd);
}

/** This thread has opened or taken over `fd`. */
export function enter(fd: number): void {
  if (base === 0n) open();
  if (base < 0n || fd >= MOST_DESCRIPTORS) return;
  libc.memcpy_to(entryAt(base, fd), mineBytes, ENTRY);
}

/** It has closed `fd`, or given it away. */
export function leave(fd: number): void {
  if (base > 0n && fd < MOST_DESCRIPTORS) libc.memcpy_to(entryAt(base, fd), nobody, ENTRY);
}

/** A pidfd of this thread's is that of a program that goes on when the thread has ended, as inetd's do. */
export function enterProgram(pidfd: number): void {
  if (base > 0n && pidfd < MOST_DESCRIPTORS) writeWord(base, DESCRIPTORS_AT + 2 * pidfd, PROGRAM + (mine[0] as number));
}

/** Whether a descriptor of this thread's stays open when it is unloaded: the next run waits for the program. */
export function isKept(fd: number): boolean {
  if (base <= 0n || fd < 0 || fd >= MOST_DESCRIPTORS) return false;
  const [thread = 0] = readWords(base, DESCRIPTORS_AT + 2 * fd, 1);
  return thread >= PROGRAM && !reapProgram(fd);
}

/**
 * This thread has started a child process, which is to end with it.
 *
 * @returns A function that says that it has ended.
 */
export function enterChild(pid: number): () => void {
  if (base === 0n) open();
  if (base < 0n) return () => {};
  const isLocked = lock(base);
  try {
    const children = readWords(base, CHILDREN_AT, 2 * MOST_CHILDREN);
    const free = children.findIndex((thread, i) => i % 2 === 0 && thread === 0);
    if (free < 0) return () => {};
    writeWord(base, CHILDREN_AT + free + 1, pid);
    writeWord(base, CHILDREN_AT + free, mine[0] as number);
    return () => writeWord(base, CHILDREN_AT + free, 0);
  } finally {
    if (isLocked) unlock(base);
  }
}
