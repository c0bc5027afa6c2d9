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

/** Returns a copy of the first `end` bytes of `p`, in memory of its own. */
export function copyOf(p: Uint8Array, end: number = sizeOf(p)): Uint8Array<ArrayBuffer> {
  return new Uint8Array(viewOf(p, 0, end));
}
