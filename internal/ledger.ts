/**
 * What the threads of this process have open, for who comes after them. A program that fails under `deno run --watch`
 * is not unloaded: its JavaScript is gone, its descriptors and children stay, and the next run in the same thread would
 * find its ports taken. So that run closes them first.
 *
 * The ledger is memory of the process's own that each run finds again (`shared_memory.ts`). As 32-bit words:
 *
 *     64      for each child process its thread and its number, in pairs
 *     4096    for each descriptor its thread, 0 if it is nobody's
 */

import { cString } from "./c_string.ts";
import { libc } from "./libc.ts";
import { descriptorsEnd, isRunning, threadId, wakeWaits } from "./proc_self.ts";
import { createShared, findShared } from "./shared_memory.ts";

const NAME = "c10k-sockets-ledger-1";
const CHILDREN_AT = 64;
const MOST_CHILDREN = 2_000;
const DESCRIPTORS_AT = 4096;
/** Descriptors from this number on are not kept track of. */
const MOST_DESCRIPTORS = 1 << 20;
const SIZE = 4 * (DESCRIPTORS_AT + MOST_DESCRIPTORS);

// fcntl.h, signal.h, poll.h; asm/unistd_64.h, asm-generic/unistd.h
const O_CLOEXEC = 0o2000000;
const SIGKILL = 9;
const POLLIN = 1;
// sys/wait.h, asm-generic/siginfo.h
const P_PIDFD = 3;
const WNOHANG = 1;
const WEXITED = 4;
const SIGINFO_SIZE = 128;
const SYS_PIDFD_OPEN = 434n;

/** Milliseconds for which a child that was killed, or a thread, is waited for; and microseconds between two looks. */
const LIMIT = 1_000;
const PAUSE = 1_000;
/** Microseconds in which a wait on another thread returns once it was woken. */
const RETURN_TIME = 5_000;

/** Set where the ledger is looked at in this isolate: a second copy of this library must not take the first for gone. */
const MARK = Symbol.for("@c10k/sockets ledger");

const word = new Uint32Array(1);
const wordBytes = new Uint8Array(word.buffer);

/** Where the ledger is, 0 before it was looked for, -1 if there is none to be had. */
let base = 0n;
const mine = new Uint32Array(1);
const mineBytes = new Uint8Array(mine.buffer);
const nobody = new Uint8Array(4);

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

/** The ledgers of this process: more than one if two threads have made theirs at the same time. */
function find(): bigint[] {
  const found: bigint[] = [];
  findShared(NAME, SIZE, (address) => {
    found.push(address);
    return false;
  });
  return found;
}

/** Finds the ledger, and closes what those have left open who were here before. */
function open(): void {
  mine[0] = threadId();
  let ledgers: bigint[];
  try {
    ledgers = find();
    // Not before: what is opened below would be entered.
    base = ledgers[0] ?? createShared(NAME, SIZE);
  } catch {
    // No memory, or no descriptor to look with: this thread has no ledger, and all else works.
    base = -1n;
    return;
  }
  const realm = globalThis as { [MARK]?: boolean };
  // What a Worker leaves open is closed by who has started it, and no run follows it in its thread.
  if (realm[MARK] || "DedicatedWorkerGlobalScope" in globalThis) return;
  Object.defineProperty(realm, MARK, { value: true });
  for (const ledger of ledgers) settle(ledger);
}

/** Closes and ends what an earlier run of this thread has left, and its Workers; if there is nothing of it, nothing. */
function settle(ledger: bigint): void {
  const [self] = mine;
  const fds = readWords(ledger, DESCRIPTORS_AT, Math.min(descriptorsEnd(), MOST_DESCRIPTORS));
  const children = readWords(ledger, CHILDREN_AT, 2 * MOST_CHILDREN);
  const threads = new Set([...fds, ...children.filter((_, i) => i % 2 === 0)]);
  threads.delete(0);
  if (self === undefined || !threads.delete(self)) return;
  // Its Workers were terminated, and end once they are woken. Of a wait by poll(2) or select(2) that is under way the
  // kernel keeps sockets open until it has returned.
  wakeWaits([...fds.keys()].filter((fd) => fds[fd] !== 0));
  libc.usleep(RETURN_TIME);
  awaitThreads(threads);
  const isGone = (thread: number) => thread !== 0 && (thread === self || !isRunning(thread));
  for (let i = 0; i < children.length; i += 2) {
    if (!isGone(children[i] as number)) continue;
    endChild(children[i + 1] as number);
    writeWord(ledger, CHILDREN_AT + i, 0);
  }
  for (const [fd, thread] of fds.entries()) {
    if (!isGone(thread)) continue;
    writeWord(ledger, DESCRIPTORS_AT + fd, 0);
    libc.close(fd);
  }
}

/** Waits for threads, for those that are not of that run only for a while. */
function awaitThreads(threads: ReadonlySet<number>): void {
  for (const late = performance.now() + LIMIT; [...threads].some(isRunning) && performance.now() < late;) {
    libc.usleep(PAUSE);
  }
}

/** Kills the processes that a thread which has ended has started, for they are to end with it. */
export function endChildrenOf(thread: number): void {
  for (const ledger of find()) {
    const children = readWords(ledger, CHILDREN_AT, 2 * MOST_CHILDREN);
    for (let i = 0; i < children.length; i += 2) {
      if (children[i] !== thread) continue;
      endChild(children[i + 1] as number);
      writeWord(ledger, CHILDREN_AT + i, 0);
    }
  }
}

/** Kills a process, if it is a child of this one still, and waits until it has ended; it is no zombie after. */
function endChild(pid: number): void {
  const pidfd = libc.syscall(SYS_PIDFD_OPEN, BigInt(pid), null, 0n);
  if (pidfd < 0) return;
  // Asked once there is a pidfd: from now on the number is no other process's.
  const parent = /^\d+ \(.*\) \S (\d+) /s.exec(readFile(`/proc/${pid}/stat`))?.[1];
  if (parent === String(Deno.pid)) {
    libc.kill(pid, SIGKILL);
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
  libc.memcpy_to(at(base, DESCRIPTORS_AT + fd), mineBytes, 4);
}

/** It has closed `fd`, or given it away. */
export function leave(fd: number): void {
  if (base > 0n && fd < MOST_DESCRIPTORS) libc.memcpy_to(at(base, DESCRIPTORS_AT + fd), nobody, 4);
}

/**
 * This thread has started a child process, which is to end with it.
 *
 * @returns A function that says that it has ended.
 */
export function enterChild(pid: number): () => void {
  if (base === 0n) open();
  if (base < 0n) return () => {};
  const children = readWords(base, CHILDREN_AT, 2 * MOST_CHILDREN);
  const free = children.findIndex((thread, i) => i % 2 === 0 && thread === 0);
  if (free < 0) return () => {};
  writeWord(base, CHILDREN_AT + free + 1, pid);
  writeWord(base, CHILDREN_AT + free, mine[0] as number);
  return () => writeWord(base, CHILDREN_AT + free, 0);
}
