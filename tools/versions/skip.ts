/** Runs before each test file of `deno task test:versions`: ignores the tests that this version of Deno cannot pass. */

import { isSkipped, SKIPS } from "./skips.ts";

const skips = new Set(SKIPS.filter((skip) => isSkipped(skip, Deno.version.deno)).map(({ name }) => name));
const file = Deno.env.get("SKIPPED_TESTS");

const test = new Proxy(Deno.test, {
  apply(original, _, args: [Deno.TestDefinition | string, ...unknown[]]) {
    const [first, second] = args;
    const definition = typeof first === "string" ? { name: first, fn: second } as Deno.TestDefinition : first;
    if (!skips.has(definition.name)) return Reflect.apply(original, Deno, args);
    if (file !== undefined) Deno.writeTextFileSync(file, `${definition.name}\n`, { append: true });
    return original({ ...definition, ignore: true });
  },
});
Object.defineProperty(Deno, "test", { value: test });
