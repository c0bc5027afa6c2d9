/**
 * Objects of the host, which `structuredClone` clones within a process and the serialization of V8 does not carry to
 * another one: a Blob arrives there as an empty object, a DOMException as an error without its name. Which classes these
 * are is up to the runtime, so all are refused but those that are known to arrive whole.
 */

/** The classes of the language whose instances have no other objects inside that could be of the host. */
const LEAVES: ReadonlySet<unknown> = new Set([
  ...[Boolean, Number, String, BigInt, Date, RegExp, ArrayBuffer, DataView],
  ...[Int8Array, Uint8Array, Uint8ClampedArray, Int16Array, Uint16Array, Int32Array, Uint32Array],
  ...[Float16Array, Float32Array, Float64Array, BigInt64Array, BigUint64Array],
].map(({ prototype }) => prototype));

/** The classes of errors; of the properties of an error only the cause is cloned. */
const ERRORS: ReadonlySet<unknown> = new Set(
  [Error, EvalError, RangeError, ReferenceError, SyntaxError, TypeError, URIError].map(({ prototype }) => prototype),
);

const { getPrototypeOf, values } = Object;
const [OBJECT, ARRAY, MAP, SET] = [Object.prototype, Array.prototype, Map.prototype, Set.prototype];

/** A longer array may have few elements, and billions of holes. */
const LONGEST = 100_000;

/**
 * Returns the name of an object of the host in a structured clone, if there is one.
 *
 * @param clone The clone, which nobody else has; its arrays are emptied.
 */
export function hostObjectIn(clone: unknown): string | undefined {
  const seen = new Set<object>();
  const see = (value: unknown): void => {
    if (typeof value === "object" && value !== null) seen.add(value);
  };
  see(clone);
  // A set also visits what is added meanwhile.
  for (const object of seen) {
    const prototype: unknown = getPrototypeOf(object);
    if (prototype === OBJECT) {
      for (const value of values(object)) see(value);
    } else if (prototype === ARRAY) {
      const array = object as unknown[];
      if (array.length <= LONGEST) {
        for (let i = 0; i < array.length; i++) see(array[i]);
        // Listing the elements by their names takes many times as long; without them the other properties are left.
        array.length = 0;
      }
      for (const value of values(array)) see(value);
    } else if (prototype === MAP) {
      for (const [key, value] of object as Map<unknown, unknown>) see(key), see(value);
    } else if (prototype === SET) {
      for (const value of object as Set<unknown>) see(value);
    } else if (ERRORS.has(prototype)) {
      see((object as Error).cause);
    } else if (!LEAVES.has(prototype)) {
      return nameOf(object);
    }
  }
  return undefined;
}

function nameOf(object: object): string {
  const { constructor, [Symbol.toStringTag]: tag } = object as {
    constructor?: unknown;
    [Symbol.toStringTag]?: unknown;
  };
  if (typeof tag === "string") return tag;
  return typeof constructor === "function" ? constructor.name : "an object of the host";
}
