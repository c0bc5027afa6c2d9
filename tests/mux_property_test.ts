/** Random operations on all backends at once, over socket pairs, and a model of what each must tell. */

import { type Backend, type Interest, Multiplexer, type ReadyEvent } from "@c10k/sockets/mux";
import { assert, assertEquals } from "@std/assert";
import { delay } from "@std/async";
import fc from "fast-check";
import { eventually, Pair, sized } from "./_util.ts";

const PAIRS = 3;

const interest = fc.record({ readable: fc.boolean(), writable: fc.boolean(), oneshot: fc.boolean() });
const pair = fc.nat(PAIRS - 1);
const operation = fc.oneof(
  fc.record({ kind: fc.constant("register" as const), pair, interest }),
  fc.record({ kind: fc.constant("modify" as const), pair, interest }),
  fc.record({ kind: fc.constant("unregister" as const), pair }),
  fc.record({ kind: fc.constant("send" as const), pair, size: fc.integer({ min: 1, max: 2000 }) }),
  fc.record({ kind: fc.constant("read" as const), pair, size: fc.integer({ min: 1, max: 3000 }) }),
  fc.record({ kind: fc.constant("finish" as const), pair }),
  fc.record({ kind: fc.constant("close" as const), pair }),
);
type Operation = typeof operation extends fc.Arbitrary<infer T> ? T : never;

/** What is known of a pair without asking anybody. */
class Model {
  unread = 0;
  finished = false;
  closed = false;
  /** `undefined`: not registered. */
  interest: Interest | undefined;
  /** A oneshot that has not been told of yet. */
  armed = false;

  arm(interest: Interest): void {
    this.interest = interest;
    this.armed = true;
  }

  /** The flags to be told of. */
  get expected(): string[] {
    if (this.interest === undefined || !this.armed) return [];
    const { readable, writable } = this.interest;
    const flags: string[] = [];
    if (readable && (this.unread > 0 || this.finished)) flags.push("readable");
    if (writable) flags.push("writable");
    return flags;
  }
}

/** One backend, its sockets and the model of them. */
class Subject implements Disposable {
  readonly #backend: Backend;
  readonly #mux: Multiplexer<number>;
  readonly #pairs: Pair[];
  readonly #models = Array.from({ length: PAIRS }, () => new Model());

  private constructor(backend: Backend, pairs: Pair[]) {
    this.#backend = backend;
    this.#mux = new Multiplexer({ backend });
    this.#pairs = pairs;
  }

  static async open(backend: Backend): Promise<Subject> {
    const engine = backend === "runtime" ? "runtime" : "native";
    const opening = Array.from({ length: PAIRS }, () => Pair.open(engine));
    return new Subject(backend, await Promise.all(opening));
  }

  async run(operation: Operation): Promise<void> {
    const mux = this.#mux;
    const model = this.#models[operation.pair] as Model;
    const { client, server } = this.#pairs[operation.pair] as Pair;
    switch (operation.kind) {
      case "register": {
        const error = attempt(() => mux.register(server, operation.interest, operation.pair));
        if (model.closed) return assertEquals(error?.name, "BadResource");
        if (model.interest !== undefined) return assertEquals(error?.name, "AlreadyExists");
        assertEquals(error, undefined);
        return model.arm(operation.interest);
      }
      case "modify": {
        const error = attempt(() => mux.modify(server, operation.interest));
        if (model.closed) return assertEquals(error?.name, "BadResource");
        if (model.interest === undefined) return assertEquals(error?.name, "NotFound");
        assertEquals(error, undefined);
        return model.arm(operation.interest);
      }
      case "unregister": {
        const error = attempt(() => mux.unregister(server));
        if (model.interest === undefined && !model.closed) return assertEquals(error?.name, "NotFound");
        assertEquals(error, undefined);
        model.interest = undefined;
        return;
      }
      case "send":
        if (model.finished || model.closed) return;
        await client.writeAll(new Uint8Array(operation.size));
        model.unread += operation.size;
        return;
      case "read": {
        if (model.closed) return;
        if (model.unread === 0 && !model.finished) {
          return assertEquals(server.tryRead(new Uint8Array(operation.size)), undefined);
        }
        // The runtime engine has it at a later turn.
        const n = await eventually(() => server.tryRead(new Uint8Array(operation.size)));
        if (model.unread === 0) return assertEquals(n, null);
        assert(n !== null && n > 0 && n <= Math.min(model.unread, operation.size));
        model.unread -= n;
        return;
      }
      case "finish":
        if (!model.finished && !model.closed) await client.closeWrite();
        model.finished = true;
        return;
      case "close":
        server.close();
        model.closed = true;
        model.interest = undefined;
    }
  }

  /** Waits until all that is expected has been told, and fails on everything else. */
  async check(): Promise<void> {
    const expected = this.#models.map((model) => model.expected);
    const missing = expected.map((flags) => new Set(flags));
    assertEquals(this.#mux.size, this.#models.filter((model) => model.interest !== undefined).length);
    for (const end = performance.now() + 5_000; performance.now() < end;) {
      const quiet = missing.every((flags) => flags.size === 0);
      // When nothing is expected, a little time for what may come all the same.
      const events = await this.#mux.wait({ timeout: quiet ? (expected.some((flags) => flags.length) ? 0 : 2) : 100 });
      for (const event of events) this.#compare(event, expected[event.data] ?? [], missing[event.data] ?? new Set());
      if (quiet) return;
    }
    const left = missing.map((flags) => [...flags]);
    throw new Error(`[${this.#backend}] not told of ${Deno.inspect(left)}, expected ${Deno.inspect(expected)}`);
  }

  #compare(event: ReadyEvent<number>, expected: string[], missing: Set<string>): void {
    const model = this.#models[event.data] as Model;
    const told = (["readable", "writable"] as const).filter((flag) => event[flag]);
    const context = `[${this.#backend}] told of ${told}, expected ${expected}`;
    assert(told.length > 0 || event.readClosed, context);
    for (const flag of told) {
      assert(expected.includes(flag), context);
      missing.delete(flag);
    }
    if (event.readClosed) assert(model.finished, context);
    assert(!event.error && !event.priority && !event.writeClosed, context);
    if (model.interest?.oneshot) {
      assert(model.armed, context);
      // One event, even if the other flag comes later only.
      model.armed = false;
      missing.clear();
      expected.length = 0;
    }
  }

  [Symbol.dispose](): void {
    this.#mux.close();
    for (const pair of this.#pairs) pair[Symbol.dispose]();
  }
}

function attempt(action: () => void): Error | undefined {
  try {
    action();
    return undefined;
  } catch (error) {
    return error as Error;
  }
}

Deno.test("Multiplexer tells on all backends what a model of the sockets says", async () => {
  const property = fc.asyncProperty(fc.array(operation, { minLength: 5, maxLength: 40 }), async (operations) => {
    for (const backend of Multiplexer.backends()) {
      using subject = await Subject.open(backend);
      for (const operation of operations) {
        await subject.run(operation);
        await subject.check();
      }
    }
  });
  await fc.assert(property, { numRuns: sized(8, 20) });
  await delay(5);
});
