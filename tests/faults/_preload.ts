/** Leaves tests out by a pattern in the environment: `--filter` has none that says what not to run. */

const { filter } = JSON.parse(Deno.env.get("C10K_FAULTS") ?? "{}") as { filter: string };
const wanted = new RegExp(filter);
const declare = Deno.test;

Object.assign(
  Deno,
  {
    test(test: Deno.TestDefinition | string, fn?: Deno.TestDefinition["fn"]): void {
      const definition = typeof test === "string" ? { name: test, fn: fn as Deno.TestDefinition["fn"] } : test;
      // How soon another thread returns is a matter of load, and the suites check it where there are no faults.
      if (wanted.test(definition.name)) declare({ ...definition, sanitizeOps: false });
    },
  },
);
