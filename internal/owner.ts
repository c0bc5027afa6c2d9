/**
 * Which thread a descriptor belongs to. Threads share one table of
 * descriptors, and the kernel knows nothing of Workers: what a Worker that was
 * terminated or has failed leaves open can be found and closed by the thread
 * that started it, and by nobody else.
 *
 * The table is an array that all these threads share, with the number of the
 * owner for each descriptor; 0 is the main thread and everybody unknown.
 */

/** Descriptors from this number on are not kept track of. */
const MOST_DESCRIPTORS = 1 << 20;
/** Where the numbers of threads come from. */
const NEXT_OWNER = MOST_DESCRIPTORS;

let table: Int32Array<SharedArrayBuffer> | undefined;
let self = 0;
/** What a thread has opened before it was told of the table. */
let early: Set<number> | undefined;

/** Makes this thread remember what it opens, until it joins the table. */
export function expectTable(): void {
  if (table === undefined) early ??= new Set();
}

/** The table, for a new thread. */
export function shareTable(): Int32Array<SharedArrayBuffer> {
  return table ??= new Int32Array(new SharedArrayBuffer((MOST_DESCRIPTORS + 1) * 4));
}

/** A number for a new thread. */
export function newOwner(): number {
  return Atomics.add(shareTable(), NEXT_OWNER, 1) + 1;
}

/** Makes this thread the owner `number`, of what it has opened already, too. */
export function joinTable(shared: Int32Array<SharedArrayBuffer>, number: number): void {
  table = shared;
  self = number;
  for (const fd of early ?? []) own(fd);
  early = undefined;
}

/** This thread has opened or taken over `fd`. */
export function own(fd: number): void {
  if (table === undefined) early?.add(fd);
  else if (fd < MOST_DESCRIPTORS) Atomics.store(table, fd, self);
}

/** This thread has closed `fd` or given it away. */
export function disown(fd: number): void {
  if (table === undefined) early?.delete(fd);
  else if (fd < MOST_DESCRIPTORS) Atomics.store(table, fd, 0);
}

/** `fd` is on its way to or from the thread `number`, and goes with it if it ends. */
export function entrust(fd: number, number: number): void {
  if (table !== undefined && fd < MOST_DESCRIPTORS) Atomics.store(table, fd, number);
}

/** The thread that this is. */
export function thisOwner(): number {
  return self;
}

/** What belongs to a thread that has ended; it belongs to nobody afterwards. */
export function takeFrom(number: number): number[] {
  const left: number[] = [];
  if (table === undefined) return left;
  for (let fd = table.indexOf(number); fd >= 0 && fd < MOST_DESCRIPTORS; fd = table.indexOf(number, fd + 1)) {
    Atomics.store(table, fd, 0);
    left.push(fd);
  }
  return left;
}

/** What belongs to a thread, without taking it. */
export function belongingsOf(number: number): number[] {
  const fds: number[] = [];
  for (let fd = table?.indexOf(number) ?? -1; fd >= 0 && fd < MOST_DESCRIPTORS;) {
    fds.push(fd);
    fd = table?.indexOf(number, fd + 1) ?? -1;
  }
  return fds;
}
