/**
 * Sizes and views of buffers that callers pass, by the intrinsic accessors of
 * typed arrays. A subclass, an own property or `Symbol.species` can override
 * `length`, `byteLength`, `byteOffset`, `buffer`, `subarray` and `slice`;
 * a size that reaches the kernel, and a view that is sent, must not depend on them.
 */

const prototype = Object.getPrototypeOf(Uint8Array.prototype);

/** Returns the accessor `name` of typed arrays as a function of the array. */
function accessor<T>(name: string | symbol): (p: unknown) => T {
  const { get } = Object.getOwnPropertyDescriptor(prototype, name) as PropertyDescriptor;
  return Function.prototype.call.bind(get as () => T);
}

/** The name of the class that made a typed array; `undefined` for any other value, a `Proxy` included. */
const kindOf = accessor<string | undefined>(Symbol.toStringTag);
const byteOffsetOf = accessor<number>("byteOffset");
const valuesOf: (p: Uint8Array) => unknown = Function.prototype.call.bind(prototype.values);

/** Returns the size of a buffer in bytes, 0 if it was transferred away. */
export const sizeOf: (p: Uint8Array) => number = accessor("byteLength");

/** Returns the memory below a buffer. */
export const memoryOf: (p: Uint8Array) => ArrayBufferLike = accessor("buffer");

/** Returns whether a value is a genuine `Uint8Array`, or of a subclass of it. */
export function isBytes(value: unknown): value is Uint8Array {
  return kindOf(value) === "Uint8Array";
}

/**
 * Returns a plain view of a part of `p`, which shares its memory.
 *
 * @param start The first byte, from 0 to the size of `p`.
 * @param end The byte after the last one, from `start` to the size of `p`.
 */
export function viewOf(p: Uint8Array, start = 0, end: number = sizeOf(p)): Uint8Array {
  return new Uint8Array(memoryOf(p), byteOffsetOf(p) + start, end - start);
}

/**
 * Copies `from` to the beginning of `p`, which is at least as large.
 */
export const setBytes: (p: Uint8Array, from: Uint8Array) => void = Function.prototype.call.bind(prototype.set);

/**
 * Returns `p` itself if its `length` is true, else a plain view of the same memory: for an operation of the runtime,
 * whose JavaScript reads `length`. An accessor can answer differently each time, so the operation can still meet a lie;
 * a check of the class and the own properties would take several times as long.
 */
export function plainOf(p: Uint8Array): Uint8Array {
  try {
    if (p.length === sizeOf(p)) return p;
  } catch { /* an accessor that throws */ }
  return viewOf(p);
}

/** Returns whether `p` lies within its buffer: not after the buffer was transferred away, or shrunk before its end. */
export function isInBounds(p: Uint8Array): boolean {
  try {
    // Every method of typed arrays checks this first; it is the only way to tell an empty array from one that is gone.
    valuesOf(p);
    return true;
  } catch {
    return false;
  }
}

/** Returns a copy of the first `end` bytes of `p`, in memory of its own. */
export function copyOf(p: Uint8Array, end: number = sizeOf(p)): Uint8Array<ArrayBuffer> {
  return new Uint8Array(viewOf(p, 0, end));
}
