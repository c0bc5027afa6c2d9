/** The vocabulary of tests that start threads and processes. */

import { engineSupport } from "@c10k/sockets/tcp";
import { assertEquals } from "@std/assert";
import { delay } from "@std/async";
import { withoutLeaks } from "./_util.ts";

export type Kind = "worker" | "process";

/** Declares a test for children of both kinds; it fails if it leaves sockets, processes or control folders. */
export function childTest(name: string, fn: (kind: Kind) => Promise<void>): void {
  for (const kind of ["worker", "process"] as const) {
    Deno.test({
      name: `[${kind}] ${name}`,
      ignore: engineSupport().engine !== "native",
      fn: () => withoutOrphans(() => withoutLeaks(() => fn(kind))),
    });
  }
}

/** Runs a test and fails it if it leaves processes or control folders. */
export async function withoutOrphans(fn: () => Promise<void>): Promise<void> {
  const before = leftBehind();
  await fn();
  let left: string[] = [];
  for (let tries = 0; tries < 100; tries++) {
    left = leftBehind().filter((one) => !before.includes(one));
    if (left.length === 0) break;
    await delay(5);
  }
  assertEquals(left, [], "the test left processes or folders behind");
}

/** Processes that this one has started and that are there, zombies included; and folders of control sockets. */
function leftBehind(): string[] {
  const pids: string[] = [];
  for (const { name } of Deno.readDirSync("/proc/self/task")) {
    try {
      const children = Deno.readTextFileSync(`/proc/self/task/${name}/children`);
      pids.push(...children.split(" ").filter((pid) => pid !== ""));
    } catch { /* the thread has ended */ }
  }
  const folders = [...Deno.readDirSync("/tmp")].map(({ name }) => name).filter((name) =>
    name.startsWith("c10k-sockets-")
  );
  return [...pids.map((pid) => `process ${pid}`), ...folders];
}
