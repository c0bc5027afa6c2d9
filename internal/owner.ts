/**
 * Which thread a descriptor belongs to. Threads share one table of
 * descriptors, and the kernel does not track Workers: what a Worker that was
 * terminated or has failed leaves open can be found and closed by the thread
 * that started it, and by nobody else.
 *
 * Owners stand in memory of the process, which every thread finds before it has
 * heard of its parent (`shared_memory.ts`): a Worker may open a socket, and
 * fail, in its first statement. A Worker's number as an owner is random, and
 * stands at the end of its name; its low bits say which record is its own, and
 * the record says whether there is such a Worker. So a name that somebody else
 * has made up leads to no record, and never to an address. The owner 0 is the
 * main thread and everybody unknown. Nothing is written as long as no Worker
 * was started.
 *
 *     records   one for each Worker: 0 owner u64 | 8 thread u32 | 12 whether it is at its end u32 | 16 its starter u32
 *     entries   the owner of each descriptor, u64
 */

import { SyscallError } from "./errors.ts";
import { libc, loadedLibc } from "./libc.ts";
import { threadId } from "./proc_self.ts";
import { createShared, findShared } from "./shared_memory.ts";

/** Begins the name of a Worker that this library has started. */
export const WORKER_MARK = "c10k-sockets ";

/** The layout has a number: another version of this library may be in the same process. */
const MEMORY_NAME = "c10k-sockets-owners-2";
const RECORDS = 1 << 18;
const RECORD_SIZE = 24;
const THREAD_AT = 8n;
const END_AT = 12n;
const STARTER_AT = 16n;
/** Descriptors from this number on are not kept track of; the kernel has no more unless `fs.nr_open` was raised. */
const MOST_DESCRIPTORS = 1 << 20;
const ENTRY = 8;
const ENTRIES_AT = RECORDS * RECORD_SIZE;
const MEMORY_SIZE = ENTRIES_AT + MOST_DESCRIPTORS * ENTRY;

/** How often a free record is looked for. */
const TRIES = 1_000;

const word = new BigUint64Array(1);
const wordBytes = new Uint8Array(word.buffer);
const half = new Uint32Array(1);
const halfBytes = new Uint8Array(half.buffer);

/** The address of the memory, 0 until this thread has found or made it. */
let memory = 0n;
/** The number of this thread as an owner. */
let self = 0n;
/** The address of its record, 0 if it has none. */
let selfRecord = 0n;
/** What is written for each descriptor. */
const mine = new Uint8Array(ENTRY);
const nobody = new Uint8Array(ENTRY);
/** Whether this thread has looked for its record. */
let joined = false;
/** It was ended before it had opened anything, and nobody would close that. */
let ended = false;

function readWord(address: bigint): bigint {
  libc.memcpy_from(wordBytes, address, wordBytes.length);
  return word[0] as bigint;
}

function readHalf(address: bigint): number {
  libc.memcpy_from(halfBytes, address, halfBytes.length);
  return half[0] as number;
}

function writeHalf(address: bigint, value: number): void {
  half[0] = value;
  libc.memcpy_to(address, halfBytes, halfBytes.length);
}

const entry = new BigUint64Array(1);
const entryBytes = new Uint8Array(entry.buffer);

/** The bytes of an owner's number, until the next call. */
function entryOf(owner: bigint): Uint8Array<ArrayBuffer> {
  entry[0] = owner;
  return entryBytes;
}

/** Where the owner of a descriptor stands. */
function entryAt(fd: number): bigint {
  return memory + BigInt(ENTRIES_AT + fd * ENTRY);
}

/** Where the record of an owner is, if it has one: inside the memory, whatever the number. */
function recordAt(owner: bigint, within: bigint): bigint {
  return within + BigInt(Number(owner % BigInt(RECORDS)) * RECORD_SIZE);
}

/** The record of an owner; `undefined` if it has none. */
function recordOf(owner: bigint, within: bigint = memory): bigint | undefined {
  if (owner === 0n || within === 0n) return undefined;
  const record = recordAt(owner, within);
  return readWord(record) === owner ? record : undefined;
}

/** Finds the record of this thread, if it is a Worker that has one, and says there that it runs. */
function join(): void {
  const owner = ownerIn((globalThis as { name?: unknown }).name);
  if (owner !== 0n && "DedicatedWorkerGlobalScope" in globalThis) {
    const found = findShared(MEMORY_NAME, MEMORY_SIZE, (address) => recordOf(owner, address) !== undefined);
    if (found !== undefined) take(owner, found);
  }
  joined = true;
}

function take(owner: bigint, found: bigint): void {
  const record = recordAt(owner, found);
  const thread = threadId();
  const taken = readHalf(record + THREAD_AT);
  // A Worker with a copy of another one's name.
  if (taken !== 0 && taken !== thread) return;
  memory = found;
  self = owner;
  selfRecord = record;
  mine.set(entryOf(owner));
  writeHalf(record + THREAD_AT, thread);
  // In this order; endOwner() and threadOf() have the other one.
  ended = readHalf(record + END_AT) !== 0;
}

/** The owner that a Worker's name tells, 0 if it tells none. */
function ownerIn(name: unknown): bigint {
  if (typeof name !== "string" || !name.startsWith(WORKER_MARK)) return 0n;
  return BigInt(`0x${/ @([0-9a-f]{1,16})$/.exec(name)?.[1] ?? "0"}`);
}

/** The name of a Worker that this library starts; `name` is what errors call it. */
export function workerName(name: string, owner: bigint): string {
  return `${WORKER_MARK}${name}${owner === 0n ? "" : ` @${owner.toString(16).padStart(16, "0")}`}`;
}

/** What errors call this Worker; `undefined` if it is none that this library has started. */
export function childThreadName(): string | undefined {
  const { name } = globalThis as { name?: unknown };
  if (!("DedicatedWorkerGlobalScope" in globalThis) || typeof name !== "string") return undefined;
  if (!name.startsWith(WORKER_MARK)) return undefined;
  return /^(worker \d+ \(.*\))(?: @[0-9a-f]{16})?$/s.exec(name.slice(WORKER_MARK.length))?.[1];
}

/** The thread that this is. */
export function thisOwner(): bigint {
  if (!joined) join();
  return self;
}

/**
 * Makes a record for a new Worker, and its number as an owner: 0, as the
 * number of one that is not kept track of, where there is no memory for it
 * (no /proc, or memfd_create(2) is forbidden). The C library must be loaded.
 */
export function newOwner(): bigint {
  if (!joined) join();
  if (memory === 0n) {
    try {
      memory = findShared(MEMORY_NAME, MEMORY_SIZE, () => true) ?? createShared(MEMORY_NAME, MEMORY_SIZE);
    } catch (error) {
      if (!(error instanceof SyscallError)) throw error;
      return 0n;
    }
  }
  for (let tries = 0; tries < TRIES; tries++) {
    const [owner = 0n] = crypto.getRandomValues(new BigUint64Array(1));
    if (owner === 0n || readWord(recordAt(owner, memory)) !== 0n) continue;
    libc.memcpy_to(recordAt(owner, memory), entryOf(owner), ENTRY);
    // Two threads may write to one record at the same moment: then the one that reads the other's number tries
    // again. If it has read its own before, its Worker has no record, and is as unknown as any other.
    const record = recordOf(owner);
    if (record === undefined) continue;
    writeHalf(record + STARTER_AT, threadId());
    return owner;
  }
  throw new Error(`Cannot start a thread: ${RECORDS} are known`);
}

/** The thread that has started this one, and closes what it leaves open; 0 if this is no Worker of this library. */
export function starterThread(): number {
  if (!joined) join();
  return selfRecord === 0n ? 0 : readHalf(selfRecord + STARTER_AT);
}

/** The thread of a Worker, 0 if it has not used the C library. */
export function threadOf(owner: bigint): number {
  const record = recordOf(owner);
  return record === undefined ? 0 : readHalf(record + THREAD_AT);
}

/**
 * Forbids a Worker that was ended to open anything, and to close what it has. If it has not opened anything yet, either
 * {@linkcode threadOf} tells its thread afterwards, or {@linkcode own} fails there.
 */
export function endOwner(owner: bigint): void {
  const record = recordOf(owner);
  if (record !== undefined) writeHalf(record + END_AT, 1);
}

/** Forgets the record of a thread that has ended. */
export function freeOwner(owner: bigint): void {
  const record = recordOf(owner);
  if (record === undefined) return;
  writeHalf(record + THREAD_AT, 0);
  writeHalf(record + END_AT, 0);
  libc.memcpy_to(record, nobody, ENTRY);
}

/** This thread runs on although its starter has ended it, and closes what is entered as its own. */
function isGivenUp(): boolean {
  return selfRecord !== 0n && !ended && readHalf(selfRecord + END_AT) !== 0;
}

/**
 * This thread has opened or taken over `fd`.
 *
 * @throws {Deno.errors.Interrupted} If it is a Worker that was ended.
 */
export function own(fd: number): void {
  if (!joined) join();
  if (ended || isGivenUp()) throw new Deno.errors.Interrupted("Cannot open a descriptor: this thread was ended");
  if (memory !== 0n && fd < MOST_DESCRIPTORS) libc.memcpy_to(entryAt(fd), mine, ENTRY);
}

/**
 * Whether this thread may close `fd`, which was its own. One that runs on after its end may not: its starter puts
 * something else in the place of what is entered for it, and must not hit a number that was closed meanwhile and is
 * somebody else's by now. So `fd` is entered again, and closed by the starter.
 */
export function mayClose(fd: number): boolean {
  if (fd >= MOST_DESCRIPTORS || !isGivenUp()) return true;
  libc.memcpy_to(entryAt(fd), mine, ENTRY);
  return false;
}

/** The same for one that {@linkcode own} has refused: it is entered only if it was on its way to this thread. */
export function mayCloseRefused(fd: number): boolean {
  return fd >= MOST_DESCRIPTORS || !isGivenUp() || readWord(entryAt(fd)) !== self;
}

/** This thread has closed `fd` or given it away. */
export function disown(fd: number): void {
  if (memory !== 0n && fd < MOST_DESCRIPTORS) libc.memcpy_to(entryAt(fd), nobody, ENTRY);
}

/** `fd` is on its way to or from the thread `owner`, and goes with it if it ends. */
export function entrust(fd: number, owner: bigint): void {
  if (memory !== 0n && fd < MOST_DESCRIPTORS) libc.memcpy_to(entryAt(fd), entryOf(owner), ENTRY);
}

/** Returns whether the table has an entry for a descriptor. */
export function isTracked(fd: number): boolean {
  return fd < MOST_DESCRIPTORS;
}

/** Whether a number that another thread has posted is a descriptor on its way to or from the thread `owner`. */
export function isEntrusted(fd: unknown, owner: bigint): fd is number {
  if (memory === 0n || owner === 0n || !Number.isInteger(fd)) return false;
  const number = fd as number;
  return number >= 0 && number < MOST_DESCRIPTORS && readWord(entryAt(number)) === owner;
}

/** What belongs to a thread, of the descriptors below `end`. */
export function belongingsOf(owner: bigint, end: number): number[] {
  const fds: number[] = [];
  if (memory === 0n) return fds;
  const chunk = new BigUint64Array(8192);
  const bytes = new Uint8Array(chunk.buffer);
  for (let first = 0; first < Math.min(end, MOST_DESCRIPTORS); first += chunk.length) {
    libc.memcpy_from(bytes, entryAt(first), bytes.length);
    for (let at = chunk.indexOf(owner); at >= 0; at = chunk.indexOf(owner, at + 1)) fds.push(first + at);
  }
  return fds;
}

// At once, as long as there are descriptors to find the record with; what fails is tried again by the first call.
if (loadedLibc() !== undefined) {
  try {
    join();
  } catch { /* own() tells */ }
}
