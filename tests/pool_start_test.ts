/** Pool.start() of children that end, or are too late, at the moment in which they are told to serve. */

import { assert, assertRejects } from "@std/assert";
import { PoolChild } from "../process/pool/pool_child.ts";
import { childTest, isAlive, moduleOf, oneKindTest } from "./_process.ts";
import { replaced } from "./_util.ts";

const nothing = () => {};
const EVENTS = { changed: nothing, full: nothing, leaving: nothing, ended: nothing };
const START = {
  do: "start",
  id: 1,
  mode: "hand-over",
  listeners: 0,
  limit: Infinity,
  shared: false,
  once: false,
} as const;

for (const isKnown of [true, false]) {
  oneKindTest(
    "process",
    `Pool.start() tells how a child has ended that dies once it has called serve(), ${
      isKnown ? "and is known to have" : "and is not known to have"
    }`,
    async (kind) => {
      const poolChild = new PoolChild(0, kind, moduleOf("await serve(() => {});"), {}, 60_000, EVENTS);
      await poolChild.ready;
      const pid = poolChild.child.pid as number;
      Deno.kill(pid, "SIGKILL");
      if (isKnown) await poolChild.child.closed;
      // No turn of the event loop, in which this program could learn of the end.
      while (isAlive(pid));
      const error = await assertRejects(() => poolChild.start(START, []), Error, "has ended by SIGKILL");
      assert(!(error instanceof Deno.errors.BrokenPipe));
      assert(!error.message.includes("before it called serve()"));
    },
  );
}

childTest("Pool.start() tells that a child was too late, also if it calls serve() as it is ended", async (kind) => {
  const module = "data:text/javascript,setInterval(() => {}, 1000)";
  const poolChild = new PoolChild(0, kind, module, {}, 50, EVENTS);
  const { child } = poolChild;
  // Its message comes when its time is over, and before it is known to have ended.
  const kill = child.kill.bind(child);
  using _ = replaced(child, "kill", () => {
    kill();
    child.link.onPacket?.({ type: "pool", body: { is: "ready" } }, []);
  });
  await assertRejects(() => poolChild.ready, Deno.errors.TimedOut, "has not called serve() in 50 ms");
});
