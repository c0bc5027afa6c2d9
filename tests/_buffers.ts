/** Arrays that say untrue things about themselves, and such as few programs use. */

import { Buffer } from "node:buffer";
import { runInNewContext } from "node:vm";

/** Bytes around an array that belong to somebody else. */
export const MARGIN = 32;

/** What another's bytes are. */
export const FOREIGN = 0xee;

/** What the whole memory of an array is made of: it, in the middle of another's. */
type Memory = Uint8Array<ArrayBufferLike>;

/** What an array can say instead of the truth. */
const LIES: readonly (readonly [name: string, properties: Record<string | symbol, unknown>])[] = [
  ["longer", { length: 65_536, byteLength: 65_536 }],
  ["longer by a little", { length: 24, byteLength: 24 }],
  ["shorter", { length: 1, byteLength: 1 }],
  ["empty", { length: 0, byteLength: 0 }],
  ["of negative size", { length: -1, byteLength: -1 }],
  ["of no number", { length: NaN, byteLength: undefined }],
  ["of infinite size", { length: Infinity, byteLength: Infinity }],
  ["elsewhere", { byteOffset: 0, buffer: new ArrayBuffer(8) }],
  ["nowhere", { byteOffset: -8, buffer: undefined }],
];

/** What its methods can do instead. */
const METHODS: Record<string | symbol, unknown> = Object.fromEntries(
  ["subarray", "slice", "set", "fill", "at", "copyWithin", "values"].map((name) => [
    name,
    () => new Uint8Array(64).fill(FOREIGN),
  ]),
);
METHODS[Symbol.iterator] = function* () {
  yield FOREIGN;
};
METHODS[Symbol.toPrimitive] = () => 65_536;

/** A class with accessors, as a program would write it. */
function subclass(properties: Record<string | symbol, unknown>, more: PropertyDescriptorMap = {}): typeof Uint8Array {
  class Odd extends Uint8Array {}
  for (const key of Reflect.ownKeys(properties)) {
    Object.defineProperty(Odd.prototype, key, { get: () => properties[key], configurable: true });
  }
  return Object.defineProperties(Odd, more);
}

function own(p: Memory, properties: Record<string | symbol, unknown>): Memory {
  for (const key of Reflect.ownKeys(properties)) Object.defineProperty(p, key, { value: properties[key] });
  return p;
}

/** The answer of every second question is another one. */
function fickle(p: Memory): Memory {
  for (const [key, lie] of [["length", 0], ["byteLength", 65_536], ["byteOffset", 0]] as const) {
    const truth = p[key];
    let asked = 0;
    Object.defineProperty(p, key, { get: () => asked++ % 2 === 0 ? truth : lie });
  }
  return p;
}

type Make = (memory: Memory, size: number) => Memory;

function view(Class: typeof Uint8Array): Make {
  return (memory, size) => new Class(memory.buffer, memory.byteOffset + MARGIN, size);
}

const plain = view(Uint8Array);

class Other extends Uint8Array {
  static get [Symbol.species]() {
    return Float64Array as unknown as Uint8ArrayConstructor;
  }
}

/** Every array, as a function that makes it of a part of a memory. */
export const ODD_ARRAYS: readonly (readonly [name: string, make: Make])[] = [
  ["plain", plain],
  ...LIES.flatMap(([name, properties]) =>
    [
      [`a subclass that is ${name}`, view(subclass(properties))],
      [`an array with own properties that is ${name}`, (memory, size) => own(plain(memory, size), properties)],
    ] as [string, Make][]
  ),
  ["a subclass with other methods", view(subclass(METHODS))],
  ["an array with other methods of its own", (memory, size) => own(plain(memory, size), METHODS)],
  ["an array that says another thing each time", (memory, size) => fickle(plain(memory, size))],
  ["Symbol.species", view(Other)],
  ["Symbol.species that is no class", view(subclass({}, { [Symbol.species]: { value: 7 } }))],
  ["another constructor", (memory, size) => own(plain(memory, size), { constructor: Float64Array })],
  ["no constructor", (memory, size) => own(plain(memory, size), { constructor: undefined })],
  ["another name", (memory, size) => own(plain(memory, size), { [Symbol.toStringTag]: "Float64Array" })],
  ["a class of another name", view(subclass({ [Symbol.toStringTag]: "ArrayBuffer" }))],
  ["no prototype", (memory, size) => Object.setPrototypeOf(plain(memory, size), null)],
  ["the prototype of another class", (memory, size) => Object.setPrototypeOf(plain(memory, size), Map.prototype)],
  ["a frozen prototype chain", (memory, size) => Object.preventExtensions(plain(memory, size))],
  ["a Buffer", (memory, size) => Buffer.from(memory.buffer as ArrayBuffer, memory.byteOffset + MARGIN, size)],
  ["a constructor of another realm", view(runInNewContext("Uint8Array"))],
];

/** Memory for an array of `size` bytes between those of somebody else. */
export function memoryFor(size: number, buffer: ArrayBufferLike = new ArrayBuffer(size + 2 * MARGIN)): Memory {
  return new Uint8Array(buffer, 0, size + 2 * MARGIN).fill(FOREIGN);
}

/** Memories of other kinds than an `ArrayBuffer`. */
export const ODD_MEMORIES: readonly (readonly [name: string, make: (size: number) => Memory])[] = [
  [
    "resizable",
    (size) => memoryFor(size, new ArrayBuffer(size + 2 * MARGIN, { maxByteLength: 2 * size + 2 * MARGIN })),
  ],
  ["shared", (size) => memoryFor(size, new SharedArrayBuffer(size + 2 * MARGIN))],
  [
    "shared and growable",
    (size) => memoryFor(size, new SharedArrayBuffer(size + 2 * MARGIN, { maxByteLength: 2 * size + 2 * MARGIN })),
  ],
  [
    "WebAssembly's",
    (size) => memoryFor(size, new WebAssembly.Memory({ initial: Math.ceil((size + 2 * MARGIN) / 65_536) }).buffer),
  ],
  ["of another realm", (size) => memoryFor(size, runInNewContext(`new ArrayBuffer(${size + 2 * MARGIN})`))],
];

/** Values that are no bytes, although they claim to be. */
export const NO_BYTES: readonly (readonly [name: string, value: unknown])[] = [
  ["a proxy", new Proxy(new Uint8Array(16), {})],
  ["a proxy that forwards", new Proxy(new Uint8Array(16), { get: (target, key) => Reflect.get(target, key, target) })],
  ["a revoked proxy", revoked()],
  ["an object with the prototype", Object.create(Uint8Array.prototype)],
  ["an object that says so", {
    length: 4,
    byteLength: 4,
    byteOffset: 0,
    buffer: new ArrayBuffer(4),
    [Symbol.toStringTag]: "Uint8Array",
  }],
  ["an array", [1, 2, 3]],
  ["a text", "bytes"],
  ["an ArrayBuffer", new ArrayBuffer(16)],
  ["a DataView", new DataView(new ArrayBuffer(16))],
  ["an array of wider items", own(new Uint16Array(8) as unknown as Memory, { [Symbol.toStringTag]: "Uint8Array" })],
  ["null", null],
];

function revoked(): unknown {
  const { proxy, revoke } = Proxy.revocable(new Uint8Array(16), {});
  revoke();
  return proxy;
}
