/** The benchmark's command: `deno task bench --help`. */

import { HELP, parsePlan, type Plan, UsageError } from "./args.ts";
import { harness } from "./harness.ts";
import { stopAll } from "./processes.ts";

function plan(): Plan {
  try {
    const plan = parsePlan(Deno.args);
    if (plan !== "help") return plan;
    console.log(HELP);
    Deno.exit(0);
  } catch (error) {
    if (!(error instanceof UsageError)) throw error;
    console.error(error.message);
    Deno.exit(2);
  }
}

function cutShort(code: number): () => void {
  return () => {
    stopAll();
    Deno.exit(code);
  };
}

const asked = plan();
Deno.addSignalListener("SIGINT", cutShort(130));
// Windows has none, and says so only when asked.
if (Deno.build.os !== "windows") {
  Deno.addSignalListener("SIGTERM", cutShort(143));
}
try {
  Deno.exitCode = await harness(asked) ? 0 : 1;
} finally {
  stopAll();
}
// The listeners for signals would keep the process alive.
Deno.exit();
