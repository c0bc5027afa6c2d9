/** Views of memory whose JavaScript-visible properties lie about it. */

import { Buffer } from "node:buffer";
import vm from "node:vm";

export class LyingGetters extends Uint8Array {
  override get length(): number {
    return 65536;
  }
  override get byteLength(): number {
    return 65536;
  }
  override get byteOffset(): number {
    return 0;
  }
  override get buffer(): ArrayBuffer {
    return new ArrayBuffer(65536);
  }
}

class Small extends Uint8Array {
  override get length(): number {
    return 0;
  }
  override get byteLength(): number {
    return 1;
  }
}

class Shapeless extends Uint8Array {
  override get length(): number {
    return undefined as unknown as number;
  }
  override get byteLength(): number {
    throw new Error("byteLength is none of the library's business");
  }
}

class OtherViews extends Uint8Array {
  static get [Symbol.species](): Uint8ArrayConstructor {
    return class extends Uint8Array {
      constructor() {
        super(65536);
      }
    } as unknown as Uint8ArrayConstructor;
  }
}

class OtherMethods extends Uint8Array {
  override subarray(): Uint8Array<ArrayBuffer> {
    return new Uint8Array(65536);
  }
  override slice(): Uint8Array<ArrayBuffer> {
    return new Uint8Array(65536);
  }
  override set(): void {}
  override get [Symbol.toStringTag](): "Uint8Array" {
    return "Float64Array" as "Uint8Array";
  }
  override *[Symbol.iterator](): ArrayIterator<number> {}
}

/** Gives a plain array own properties that lie. */
function own(p: Uint8Array): Uint8Array {
  for (const [name, value] of Object.entries({ length: 65536, byteLength: 65536, byteOffset: 0, constructor: Array })) {
    Object.defineProperty(p, name, { value });
  }
  return Object.defineProperties(p, {
    buffer: { get: () => new ArrayBuffer(65536) },
    subarray: { value: () => new Uint8Array(65536) },
    slice: { value: () => new Uint8Array(65536) },
    set: { value: () => {} },
  });
}

/** A class whose `length` and `byteLength` are the same lie. */
function says(size: unknown): typeof Uint8Array {
  class Liar extends Uint8Array {}
  Object.defineProperties(Liar.prototype, { length: { get: () => size }, byteLength: { get: () => size } });
  return Liar;
}

/** Every second answer is a lie. */
function fickle(p: Uint8Array): Uint8Array {
  for (const [name, lie] of [["length", 0], ["byteLength", 65536], ["byteOffset", 0]] as const) {
    const truth = p[name];
    let asked = 0;
    Object.defineProperty(p, name, { get: () => asked++ % 2 === 0 ? truth : lie });
  }
  return p;
}

function withOwn(p: Uint8Array, properties: PropertyDescriptorMap): Uint8Array {
  return Object.defineProperties(p, properties);
}

/** Each makes a view of `size` bytes at `at`, whose properties may say anything. */
export const LIARS: Record<string, (memory: ArrayBuffer, at: number, size: number) => Uint8Array> = {
  "a subclass with getters": (memory, at, size) => new LyingGetters(memory, at, size),
  "a subclass that says it is empty": (memory, at, size) => new Small(memory, at, size),
  "a subclass without a length": (memory, at, size) => new Shapeless(memory, at, size),
  "Symbol.species": (memory, at, size) => new OtherViews(memory, at, size),
  "a subclass with methods of its own": (memory, at, size) => new OtherMethods(memory, at, size),
  "own properties": (memory, at, size) => own(new Uint8Array(memory, at, size)),
  "no prototype": (memory, at, size) => Object.setPrototypeOf(new Uint8Array(memory, at, size), null),
  "a subclass that says it is longer by a little": (memory, at, size) => new (says(size + 4))(memory, at, size),
  "a subclass of negative size": (memory, at, size) => new (says(-1))(memory, at, size),
  "a subclass of infinite size": (memory, at, size) => new (says(Infinity))(memory, at, size),
  "a subclass whose size is no number": (memory, at, size) => new (says({ valueOf: () => 7 }))(memory, at, size),
  "an array that says another thing each time": (memory, at, size) => fickle(new Uint8Array(memory, at, size)),
  "a species that is no class": (memory, at, size) =>
    withOwn(new Uint8Array(memory, at, size), { constructor: { value: { [Symbol.species]: 7 } } }),
  "an array whose length throws": (memory, at, size) =>
    withOwn(new Uint8Array(memory, at, size), {
      length: {
        get() {
          throw new Error("length is none of the library's business");
        },
      },
    }),
  "another name": (memory, at, size) =>
    withOwn(new Uint8Array(memory, at, size), { [Symbol.toStringTag]: { value: "Float64Array" } }),
  "another prototype": (memory, at, size) => Object.setPrototypeOf(new Uint8Array(memory, at, size), Map.prototype),
  "a Buffer": (memory, at, size) => Buffer.from(memory, at, size),
  "an array of another realm": (memory, at, size) =>
    vm.runInNewContext("new Uint8Array(memory, at, size)", { memory, at, size }) as Uint8Array,
};
