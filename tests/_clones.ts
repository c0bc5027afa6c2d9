/** What can stand in a message, and a description that tells two of them apart; parents and children import it. */

import { Buffer } from "node:buffer";
import { createSecretKey } from "node:crypto";

class Custom extends TypeError {
  readonly detail = 1;
  override readonly name = "Custom";
}

const MODULE = new Uint8Array([0, 97, 115, 109, 1, 0, 0, 0]);

function sparse(length: number): unknown[] {
  const list: unknown[] = [1, , 3];
  list[length - 1] = "last";
  return Object.assign(list, { extra: "x" });
}

function cyclic(): unknown {
  const value: Record<string, unknown> = { list: [], map: new Map(), set: new Set() };
  value["self"] = value;
  (value["list"] as unknown[]).push(value, value["map"], value["list"]);
  (value["map"] as Map<unknown, unknown>).set(value, value["set"]).set("map", value["map"]);
  (value["set"] as Set<unknown>).add(value).add(value["list"]);
  value["error"] = new Error("cyclic", { cause: value });
  return value;
}

/** 16 different bytes. */
function memory(length = 16, options?: { maxByteLength: number }): ArrayBuffer {
  const buffer = new ArrayBuffer(length, options);
  new Uint8Array(buffer).forEach((_, i, bytes) => bytes[i] = i + 1);
  return buffer;
}

function sharing(): unknown {
  const buffer = memory();
  return { a: new Uint8Array(buffer, 3, 5), buffer, b: [new Uint16Array(buffer, 4), new DataView(buffer, 1, 2)] };
}

const key = await crypto.subtle.generateKey({ name: "AES-GCM", length: 128 }, true, ["encrypt"]);
const pair = await crypto.subtle.generateKey({ name: "ECDSA", namedCurve: "P-256" }, false, ["sign", "verify"]);

/** What belongs to its own process, where `structuredClone` makes another one, and what a refusal calls it. */
export const HOST_OBJECTS: Readonly<Record<string, () => unknown>> = {
  "Blob": () => new Blob(["text"], { type: "text/plain" }),
  "File": () => new File(["text"], "name.txt", { lastModified: 5 }),
  "CryptoKey": () => key,
  "DOMException": () => new DOMException("the message", "AbortError"),
  "WebAssembly.Module": () => new WebAssembly.Module(MODULE),
  "WebAssembly.Memory": () => new WebAssembly.Memory({ initial: 1, maximum: 2, shared: true }),
  "SharedArrayBuffer": () => new SharedArrayBuffer(8),
  "KeyObject": () => createSecretKey(Buffer.from("0123456789abcdef")),
};

/** Places in which a value can stand. */
export const PLACES: Readonly<Record<string, (value: unknown) => unknown>> = {
  "alone": (value) => value,
  "in an object": (value) => ({ a: { b: value } }),
  "in an array": (value) => [1, [value]],
  "behind holes": (value) => [, , value],
  "in a long sparse array": (value) => Object.assign([], { 4_000_000_000: value }),
  "as a property of an array": (value) => Object.assign([1], { extra: value }),
  "as a key of a map": (value) => new Map([[value, 1]]),
  "as a value of a map": (value) => new Map([["a", new Map([[{}, value]])]]),
  "in a set": (value) => new Set([new Set([value])]),
  "as the cause of an error": (value) => new RangeError("outer", { cause: new Error("inner", { cause: value }) }),
  "in an object that claims to be a buffer": (value) =>
    Object.create(ArrayBuffer.prototype, { a: { value, enumerable: true } }),
  "behind a getter": (value) => ({
    get a() {
      return [value];
    },
  }),
  "behind a cycle": (value) => {
    const list: unknown[] = [];
    list.push(list, value, list);
    return list;
  },
};

/** All that is tried once. */
export const VALUES: Readonly<Record<string, () => unknown>> = {
  ...HOST_OBJECTS,
  "undefined": () => undefined,
  "null": () => null,
  "numbers": () => [0, -0, NaN, Infinity, -Infinity, 2 ** 31, -(2 ** 31) - 1, 2 ** 53, 5e-324, 1.5],
  "-0": () => -0,
  "NaN": () => NaN,
  "bigints": () => [0n, -1n, 2n ** 64n, -(2n ** 200n)],
  "texts": () => ["", "latin \xe9", "\u{1F600}", "\ud800x", "\0", "x".repeat(70_000), "\u20ac".repeat(70_000)],
  "boxed primitives": () => [new Number(-0), new String("x\u20ac"), new Boolean(false), new Boolean(true), Object(5n)],
  "dates": () => [new Date(5), new Date(NaN), new Date(-8.64e15)],
  "regular expressions": () => [/a/gu, Object.assign(/a\/b/y, { lastIndex: 3 })],
  "a sparse array": () => sparse(10),
  "a very long sparse array": () => sparse(4_000_000_000),
  "an empty array of some length": () => new Array(5),
  "an object with numbers as keys": () => ({ 2: "b", 1: "a", z: 1, "-1": 2, 4294967295: 3 }),
  "an object with __proto__ as a key": () => JSON.parse('{"__proto__":{"x":1}}'),
  "an object without a prototype": () => Object.assign(Object.create(null), { a: 1 }),
  "an object that claims to be a buffer": () =>
    Object.create(ArrayBuffer.prototype, { a: { value: [1], enumerable: true } }),
  "an instance of a class": () => new Custom("x"),
  "hidden properties and symbols": () => Object.defineProperty({ a: 1, [Symbol.iterator]: 2 }, "b", { value: 2 }),
  "a frozen object": () => Object.freeze({ a: Object.freeze([1]) }),
  "a cyclic value": cyclic,
  "one object twice": () => ((one) => [one, one, { one }])({ x: 1 }),
  "maps and sets": () => new Map<unknown, unknown>([[new Set([1, "2", {}]), new Map([[NaN, -0]])], [0n, undefined]]),
  "properties of a map": () => Object.assign(new Map([[1, 2]]), { x: 1 }),
  "errors": () =>
    [Error, EvalError, RangeError, ReferenceError, SyntaxError, TypeError, URIError].map((E) => new E("m")),
  "an error of a subclass with a cause": () =>
    new Custom("x", { cause: new RangeError("c", { cause: { deep: [1] } }) }),
  "an error of Deno's": () => new Deno.errors.NotFound("x"),
  "an error of several": () => new AggregateError([new Error("a")], "m"),
  "an error with properties": () => Object.assign(new Error("x"), { code: "ECODE" }),
  "an error with another name": () => Object.assign(new Error("x"), { name: "RangeError" }),
  "a buffer": () => memory(),
  "a resizable buffer": () => memory(4, { maxByteLength: 32 }),
  "views with offsets": () => [
    ...[Int8Array, Uint8ClampedArray, Int16Array, Uint16Array, Int32Array, Float32Array].map((T) =>
      new T(memory(), 4, 2)
    ),
    new Float16Array(memory(), 2, 3),
    new Float64Array(memory(), 8),
    new BigInt64Array(memory(), 8),
    new BigUint64Array(memory(), 0, 1),
    new DataView(memory(), 3, 4),
  ],
  "a view with an offset": () => new Uint8Array(memory(), 5, 6),
  "a DataView with an offset": () => new DataView(memory(), 5, 6),
  "a Float64Array with an offset": () => new Float64Array(memory(32), 8, 2),
  "an empty view": () => new Uint8Array(memory(), 16),
  "views that follow the length of their buffer": () =>
    ((buffer) => [new Uint8Array(buffer), new DataView(buffer, 2)])(memory(4, { maxByteLength: 8 })),
  "views that share a buffer": sharing,
  "a Buffer": () => Buffer.from(memory(), 2, 4),
  "a view on shared memory": () => new Uint8Array(new SharedArrayBuffer(8)),
  "a pair of keys": () => pair,
  "ImageData": () => new ImageData(2, 2),
  "FormData": () => new FormData(),
  "a signal": () => new AbortController().signal,
  "an event": () => new Event("x"),
  "an address of Deno's": () => ({ ...Deno.networkInterfaces()[0] }),
  "a stream": () => new ReadableStream(),
  "a sink": () => new WritableStream(),
  "a transformer": () => new TransformStream(),
  "a URL": () => new URL("http://localhost"),
  "headers": () => new Headers({ a: "b" }),
  "a response": () => new Response("x"),
  "a request": () => new Request("http://localhost"),
  "a port": () => {
    const { port1, port2 } = new MessageChannel();
    port2.close();
    port1.close();
    return port1;
  },
  "an instance of WebAssembly": () => new WebAssembly.Instance(new WebAssembly.Module(MODULE)),
  "unshared memory of WebAssembly": () => new WebAssembly.Memory({ initial: 1 }),
  "a weak map": () => new WeakMap(),
  "a generator": () => (function* () {})(),
  "an iterator": () => [1].values(),
  "a promise": () => Promise.resolve(),
  "a proxy": () => new Proxy({ a: 1 }, {}),
  "a boxed symbol": () => Object(Symbol("s")),
  "a formatter": () => new Intl.NumberFormat(),
  "arguments": () =>
    (function () {
      return arguments;
    })(),
};

/** Tells everything about a value that a clone has: two values with the same description are equal. */
export async function describe(value: unknown): Promise<string> {
  const numbers = new Map<unknown, number>();
  return await text(value, numbers);
}

async function text(value: unknown, numbers: Map<unknown, number>): Promise<string> {
  if (typeof value === "bigint") return `${value}n`;
  if (typeof value === "number") return Object.is(value, -0) ? "-0" : `${value}`;
  if (typeof value === "string") return JSON.stringify(value);
  if (typeof value !== "object" || value === null) return String(value);
  const known = numbers.get(value);
  if (known !== undefined) return `#${known}`;
  numbers.set(value, numbers.size);
  const parts: string[] = [];
  for (const key of Object.keys(value)) {
    // The bytes are told once, with the buffer.
    if (ArrayBuffer.isView(value) && /^\d+$/.test(key)) continue;
    parts.push(`${key}: ${await text((value as Record<string, unknown>)[key], numbers)}`);
  }
  const add = async (name: string, part: unknown) => void parts.push(`<${name}> ${await text(part, numbers)}`);
  if (Array.isArray(value)) await add("length", value.length);
  if (value instanceof Map) { for (const entry of value) await add("entry", [...entry]); }
  if (value instanceof Set) { for (const entry of value) await add("entry", entry); }
  if (value instanceof Date) await add("time", value.getTime());
  if (value instanceof RegExp) await add("pattern", [value.source, value.flags, value.lastIndex]);
  if (value instanceof Number || value instanceof String || value instanceof Boolean || value instanceof BigInt) {
    await add("primitive", value.valueOf());
  }
  if (value instanceof Error) {
    const { name, message, cause } = value;
    await add("error", [name, message, Object.hasOwn(value, "cause"), cause, typeof value.stack]);
  }
  if (value instanceof DOMException) await add("code", value.code);
  if (value instanceof ArrayBuffer) {
    await add("bytes", [...new Uint8Array(value)].join());
    await add("size", [value.resizable, value.maxByteLength]);
  }
  if (ArrayBuffer.isView(value)) {
    await add("view", [value.byteOffset, value.byteLength, value.buffer]);
    if (value.buffer instanceof ArrayBuffer && value.buffer.resizable) {
      // Whether it follows the length of its buffer.
      const { byteLength, maxByteLength } = value.buffer;
      value.buffer.resize(maxByteLength);
      await add("longer", value.byteLength);
      value.buffer.resize(byteLength);
    }
  }
  if (value instanceof SharedArrayBuffer) await add("size", value.byteLength);
  if (value instanceof Blob) await add("content", [value.type, await value.text()]);
  if (value instanceof File) await add("file", [value.name, value.lastModified]);
  if (value instanceof CryptoKey) {
    const { type, extractable, algorithm, usages } = value;
    await add("key", [type, extractable, JSON.stringify(algorithm), ...usages]);
  }
  const { constructor } = Object.getPrototypeOf(value) ?? {};
  return `${numbers.get(value)} ${constructor?.name} ${Object.prototype.toString.call(value)} {${parts.join(", ")}}`;
}
