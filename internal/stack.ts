/**
 * Where an error's stack begins: at the line that has called the library, for that is the one to look at. What the
 * library did is kept in the stack of the `cause`, where there is one.
 *
 * Nothing is paid for by calls that succeed. A call that waits fails in a turn of the event loop in which nothing of the
 * program runs; then the error is thrown by an async function that the call's promise follows, and V8 finds who awaits
 * it.
 */

import "./deno_version.ts";

/** Folders of the library; tests and examples lie beside them. */
const FOLDERS = ["internal", "mux", "poll", "process", "tcp", "tls", "udp", "unix"];
const ROOT = new URL("../", import.meta.url).href;
const LIBRARY = [...FOLDERS.map((folder) => `${ROOT}${folder}/`), `${ROOT}mod.ts`];

/** Frames of the library's own that are captured beyond the limit for all. */
const MOST_OF_OURS = 20;

/** A captured stack, which V8 formats when the property is first read. */
interface Trace {
  readonly stack?: string;
}

/** What is known of an error that was made here. */
class Origin {
  readonly #error: Error;
  readonly #limit: number;
  #made: Trace;
  #awaited: Trace | undefined;
  #stack: string | undefined;

  constructor(error: Error, limit: number) {
    this.#error = error;
    this.#limit = limit;
    this.#made = capture(limit, atCaller);
  }

  /** It is thrown to who awaits or has called the function that calls this. */
  captureAwaited(): void {
    if (this.#stack === undefined) this.#awaited ??= capture(this.#limit, Origin.prototype.captureAwaited);
  }

  get stack(): string {
    return this.#stack ??= this.#format();
  }

  set stack(value: string) {
    this.#stack = value;
  }

  #format(): string {
    const made = framesOf(this.#made);
    const awaited = this.#awaited === undefined ? [] : fromCaller(framesOf(this.#awaited));
    const frames = [awaited, fromCaller(made), made].find(({ length }) => length > 0) ?? [];
    const { name, message } = this.#error;
    return [message === "" ? name : `${name}: ${message}`, ...frames.slice(0, this.#limit)].join("\n");
  }
}

const origins = new WeakMap<Error, Origin>();

/** Captures the stack below a function. */
function capture(limit: number, below: (...args: never[]) => unknown): Trace {
  const trace: Trace = {};
  // Nothing here may throw, also where a program has frozen Error: it would come in the place of the error.
  const isRaised = Reflect.set(Error, "stackTraceLimit", limit + MOST_OF_OURS);
  try {
    Error.captureStackTrace(trace, below);
  } catch { /* a program has put something else in its place */ }
  if (isRaised) Reflect.set(Error, "stackTraceLimit", limit);
  return trace;
}

function framesOf({ stack = "" }: Trace): string[] {
  return String(stack).split("\n").filter((line) => /^\s+at /.test(line));
}

/** The frames from the first one on that is neither the library's nor the runtime's; none if there is none. */
function fromCaller(frames: string[]): string[] {
  const first = frames.findIndex((frame) => {
    // "at name (file:///…:1:2)" or "at file:///…:1:2"; without a place it is the runtime's, or `Promise.all (index 0)`.
    const place = /(?:\(|at (?:async )?)([a-z][a-z0-9+.-]*:.*):\d+:\d+\)?$/i.exec(frame)?.[1];
    return place !== undefined && !/^(ext|node):/.test(place) && !LIBRARY.some((start) => place.startsWith(start));
  });
  return first < 0 ? [] : frames.slice(first);
}

/** Lets the stack of an error that is made here begin at the line that has called the library; returns the error. */
export function atCaller<E extends Error>(error: E): E {
  const limit = (Error as { stackTraceLimit?: unknown }).stackTraceLimit;
  if (typeof limit !== "number" || !(limit > 0)) return error;
  const origin = new Origin(error, limit);
  origins.set(error, origin);
  // The error's own is never asked for: Deno would show that when it ends a program.
  Object.defineProperty(error, "stack", {
    get: () => origin.stack,
    set: (value) => origin.stack = value,
    configurable: true,
    enumerable: false,
  });
  return error;
}

/** What is settled in its order, after a rejection that takes its time; empty if there is none. */
let line: (() => void)[] = [];
/** The next one in the line. */
let next = 0;
/** A rejection takes its time. */
let isTakingTime = false;

/** Rejections in the line from which on their stacks begin where they were made: thousands would stop the event loop. */
const MANY = 64;

/** Whether a promise would overtake one that is to be rejected before it; then `inOrder` settles it. */
export function wouldOvertake(): boolean {
  return isTakingTime;
}

/** Settles a promise after those that are to be rejected before it. */
export function inOrder(settle: () => void): void {
  if (isTakingTime) line.push(settle);
  else settle();
}

/**
 * Rejects a promise by its own `resolve` and `reject`. If the error was made here, its stack begins at the line that
 * awaits the promise, where there is one; that takes some turns of the microtask queue.
 */
export function rejectAtAwait(
  resolve: (value: never) => void,
  reject: (reason: unknown) => void,
  reason: unknown,
): void {
  const origin = reason instanceof Error ? origins.get(reason) : undefined;
  if (origin === undefined) return inOrder(() => reject(reason));
  if (line.length - next >= MANY) return void line.push(() => reject(reason));
  inOrder(() => {
    isTakingTime = true;
    // V8 takes a promise whose only reaction settles another one for followed by that one.
    throwAtAwait(reason, origin).then(resolve, reject);
  });
}

async function throwAtAwait(reason: unknown, origin: Origin): Promise<never> {
  // An async function has a stack of who awaits it once it has awaited something itself.
  await undefined;
  origin.captureAwaited();
  // After the reaction, which is queued when this has thrown.
  queueMicrotask(() => queueMicrotask(goOn));
  throw reason;
}

/** Settles what waits, up to the next one that takes its time. */
function goOn(): void {
  isTakingTime = false;
  while (next < line.length && !isTakingTime) line[next++]?.();
  if (next < line.length) return;
  line = [];
  next = 0;
}

/** Returns an error that was kept, for one who is to have it now: its stack begins at the caller's line. */
export function again<E>(error: E): E {
  if (error instanceof Error) origins.get(error)?.captureAwaited();
  return error;
}
