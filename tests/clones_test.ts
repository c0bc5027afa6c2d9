/** Every kind of value in a message: it arrives as structuredClone() makes it, or is refused at the call. */

import { createHistogram } from "node:perf_hooks";
import { assert, assertEquals, assertInstanceOf, assertStringIncludes } from "@std/assert";
import { deadline } from "@std/async";
import { describe, HOST_OBJECTS, PLACES, VALUES } from "./_clones.ts";
import { childTest, moduleOf, oneKindTest, spawn, type TestChild } from "./_process.ts";

const DESCRIBER = moduleOf(`
  import { describe } from "${import.meta.resolve("./_clones.ts")}";
  for await (const { message } of parent().messages()) await parent().send(await describe(message));
`);

/** What a child has received; or a refusal at the call. */
async function sent(child: TestChild, value: unknown): Promise<unknown> {
  try {
    await child.send(value);
  } catch (error) {
    return error;
  }
  const { value: answer } = await deadline(child.messages().next(), 10_000);
  return answer?.message;
}

function cloned(make: () => unknown): { clone: unknown } | undefined {
  try {
    return { clone: structuredClone(make()) };
  } catch {
    return undefined;
  }
}

childTest("Child.send() delivers what structuredClone() makes, or refuses the value at the call", async (kind) => {
  await using child = spawn(kind, DESCRIBER);
  for (const [name, make] of Object.entries(VALUES)) {
    const clone = cloned(make);
    const got = await sent(child, make());
    if (clone === undefined || got instanceof Error) {
      assertInstanceOf(got, DOMException, name);
      assertEquals([name, got.name], [name, "DataCloneError"]);
      const isOfProcess = Object.hasOwn(HOST_OBJECTS, name) || /key|shared memory/.test(name);
      assert(clone === undefined || (kind === "process" && isOfProcess), `${name}: ${got.message}`);
    } else {
      assertEquals(got, await describe(clone.clone), name);
    }
  }
});

childTest("Child.send() finds objects of the host wherever they are in a message", async (kind) => {
  await using child = spawn(kind, DESCRIBER);
  for (const [what, make] of Object.entries(HOST_OBJECTS)) {
    for (const [where, place] of Object.entries(PLACES)) {
      const name = `${what} ${where}`;
      const value = () => place(make());
      const got = await sent(child, value());
      if (kind === "worker") {
        assertEquals(got, await describe(structuredClone(value())), name);
      } else {
        assertInstanceOf(got, DOMException, name);
        assertEquals([name, got.name], [name, "DataCloneError"]);
        assertStringIncludes(got.message, what, name);
      }
    }
  }
});

oneKindTest("process", "Child.send() calls a getter once, and sends what it returned", async (kind) => {
  await using child = spawn(kind, DESCRIBER);
  let calls = 0;
  const value = {
    get a() {
      return calls++ === 0 ? [1] : [new Blob()];
    },
  };
  assertEquals(await sent(child, value), await describe({ a: [1] }));
  assertEquals(calls, 1);
});

// structuredClone() makes another histogram; a thread cannot.
childTest("Child.send() of an object that only its own thread can read loses no message in silence", async (kind) => {
  await using child = spawn(kind, DESCRIBER);
  const got = await Promise.race([child.send([createHistogram()]).catch((error) => error), child.closed]);
  if (kind === "process") {
    assertInstanceOf(got, DOMException);
    assertEquals(got.message, "RecordableHistogram could not be cloned: it belongs to this process");
  } else {
    assertStringIncludes(
      String((await deadline(child.closed, 10_000)).error),
      "an object that this thread cannot read",
    );
  }
});
