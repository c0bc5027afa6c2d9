/**
 * Which thread a descriptor belongs to. Threads share one table of
 * descriptors, and the kernel knows nothing of Workers: what a Worker that was
 * terminated or has failed leaves open can be found and closed by the thread
 * that started it, and by nobody else.
 *
 * Owners stand in a table of the process's own memory, which every thread
 * reaches before it has heard of its parent: a Worker may open a socket, and
 * fail, in its first statement. Each Worker has a record there, whose address
 * is in the Worker's name and is its number as an owner; 0 is the main thread
 * and everybody unknown. Nothing is written as long as no Worker was started.
 *
 *     record   0 address of the table | 8 thread | 12 whether it is at its end
 *     table    the owner of each descriptor, 64 bits
 */

import { libc } from "./libc.ts";

/** Begins the name of a Worker that is known here; its record's address ends it. */
export const WORKER_MARK = "c10k-sockets ";

// asm/unistd_64.h, asm-generic/unistd.h
const SYS_GETTID = Deno.build.arch === "aarch64" ? 178n : 186n;

/** Descriptors from this number on are not kept track of. */
const MOST_DESCRIPTORS = 1 << 20;
const ENTRY = 8;
const RECORD_SIZE = 16;
const THREAD_AT = 8n;
const END_AT = 12n;

const word = new BigUint64Array(1);
const wordBytes = new Uint8Array(word.buffer);
const half = new Uint32Array(1);
const halfBytes = new Uint8Array(half.buffer);

let table = 0n;
/** The record of this thread. */
let self = 0n;
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
  return table + BigInt(fd * ENTRY);
}

/** Finds the record of this thread, if it is a Worker that has one, and says there that it runs. */
function join(): void {
  joined = true;
  const { name } = globalThis as { name?: unknown };
  if (!("DedicatedWorkerGlobalScope" in globalThis) || typeof name !== "string" || !name.startsWith(WORKER_MARK)) {
    return;
  }
  self = BigInt(`0x${/ @([0-9a-f]+)$/.exec(name)?.[1] ?? "0"}`);
  if (self === 0n) return;
  table = readWord(self);
  mine.set(entryOf(self));
  writeHalf(self + THREAD_AT, libc.syscall(SYS_GETTID, 0n, null, 0n));
  // In this order; endOwner() and threadOf() have the other one.
  ended = readHalf(self + END_AT) !== 0;
}

/** The thread that this is. */
export function thisOwner(): bigint {
  if (!joined) join();
  return self;
}

/**
 * Makes a record for a new Worker, which is its number as an owner. The C
 * library must be loaded.
 */
export function newOwner(): bigint {
  if (!joined) join();
  // Memory that is not written to takes none.
  if (table === 0n) table = allocate(MOST_DESCRIPTORS * ENTRY);
  const record = allocate(RECORD_SIZE);
  libc.memcpy_to(record, entryOf(table), ENTRY);
  return record;
}

function allocate(size: number): bigint {
  const address = libc.calloc(1, size);
  if (address === 0n) throw new Error(`Cannot allocate ${size} bytes`);
  return address;
}

/** The thread of a Worker, 0 if it has not used the C library. */
export function threadOf(owner: bigint): number {
  return readHalf(owner + THREAD_AT);
}

/**
 * Forbids a Worker that was ended to open anything, unless it has already: either
 * {@linkcode threadOf} tells its thread afterwards, or {@linkcode own} fails there.
 */
export function endOwner(owner: bigint): void {
  writeHalf(owner + END_AT, 1);
}

/** Forgets the record of a thread that has ended. */
export function freeOwner(owner: bigint): void {
  libc.free(owner);
}

/**
 * This thread has opened or taken over `fd`.
 *
 * @throws {Deno.errors.Interrupted} If it is a Worker that was ended before it had opened anything.
 */
export function own(fd: number): void {
  if (!joined) join();
  if (ended) throw new Deno.errors.Interrupted("Cannot open a descriptor: this thread was ended");
  if (table !== 0n && fd < MOST_DESCRIPTORS) libc.memcpy_to(entryAt(fd), mine, ENTRY);
}

/** This thread has closed `fd` or given it away. */
export function disown(fd: number): void {
  if (table !== 0n && fd < MOST_DESCRIPTORS) libc.memcpy_to(entryAt(fd), nobody, ENTRY);
}

/** `fd` is on its way to or from the thread `owner`, and goes with it if it ends. */
export function entrust(fd: number, owner: bigint): void {
  if (table !== 0n && fd < MOST_DESCRIPTORS) libc.memcpy_to(entryAt(fd), entryOf(owner), ENTRY);
}

/** What belongs to a thread, of the descriptors below `end`. */
export function belongingsOf(owner: bigint, end: number): number[] {
  const fds: number[] = [];
  if (table === 0n) return fds;
  const chunk = new BigUint64Array(8192);
  const bytes = new Uint8Array(chunk.buffer);
  for (let first = 0; first < Math.min(end, MOST_DESCRIPTORS); first += chunk.length) {
    libc.memcpy_from(bytes, entryAt(first), bytes.length);
    for (let at = chunk.indexOf(owner); at >= 0; at = chunk.indexOf(owner, at + 1)) fds.push(first + at);
  }
  return fds;
}
