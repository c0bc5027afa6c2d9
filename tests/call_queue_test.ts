import { assert, assertEquals } from "@std/assert";
import fc from "fast-check";
import { CallQueue } from "../internal/call_queue.ts";

Deno.test("CallQueue behaves like an array from which some leave early", () => {
  const operation = fc.oneof(
    fc.constant({ kind: "push" } as const),
    fc.constant({ kind: "shift" } as const),
    fc.nat(20).map((index) => ({ kind: "leave", index } as const)),
    fc.constant({ kind: "drain" } as const),
  );
  fc.assert(fc.property(fc.array(operation, { maxLength: 200 }), (operations) => {
    const queue = new CallQueue<{ id: number; settled: boolean }>();
    let model: { id: number; settled: boolean }[] = [];
    for (const [id, op] of operations.entries()) {
      if (op.kind === "push") {
        const item = { id, settled: false };
        queue.push(item);
        model.push(item);
      } else if (op.kind === "shift") {
        assertEquals(queue.shift(), model.shift());
      } else if (op.kind === "leave") {
        const [gone] = model.splice(op.index, 1);
        if (gone) gone.settled = true;
      } else {
        assertEquals(queue.drain(), model);
        model = [];
      }
      assertEquals(queue.first, model[0]);
    }
  }));
});

Deno.test("CallQueue that never runs empty does not grow", () => {
  const queue = new CallQueue<{ settled: boolean }>();
  queue.push({ settled: false });
  for (let i = 0; i < 100_000; i++) {
    queue.push({ settled: false });
    assert(queue.shift() !== undefined);
  }
  assertEquals(queue.drain().length, 1);
});
