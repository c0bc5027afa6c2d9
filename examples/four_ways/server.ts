/** The echo server as `examples/four_ways.ts` starts it: it ends with its parent, even when that is killed. */

async function endWithParent(): Promise<void> {
  // Nobody writes there: it ends when the parent does.
  for await (const _ of Deno.stdin.readable);
  Deno.exit(0);
}

endWithParent();
await import("../echo.ts");
