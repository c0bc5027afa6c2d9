/**
 * Runs before a test file (`deno test --preload`) and stands between it and `Deno.test`: writes down which tests the
 * file declares, and lets only some of them run. Which is in the file that `AARCH64_PLAN` names.
 */

import type { Declared, Plan } from "./plan.ts";

const plan: Plan = JSON.parse(Deno.readTextFileSync(Deno.env.get("AARCH64_PLAN") as string));
const declare = Deno.test;

interface Definition {
  name?: string;
  ignore?: boolean;
}

/** Takes the place of `Deno.test`, in each of its forms: the name is the first argument, or in it. */
function test(...args: unknown[]): void {
  const [first, second] = args;
  const definition = (typeof first === "string" ? second : first) as Definition;
  const name = typeof first === "string" ? first : definition.name as string;
  const declared: Declared = { file: Deno.mainModule, name, ignore: definition.ignore === true };
  Deno.writeTextFileSync(plan.log, JSON.stringify(declared) + "\n", { append: true });
  if (!plan.run[Deno.mainModule]?.includes(name)) return;
  Reflect.apply(declare, Deno, args);
}

Object.assign(Deno, { test: Object.assign(test, declare) });
