/** Servers that are stopped, whose children are killed, and whose clock jumps, while books are kept. */

import { assert, assertEquals, assertGreater } from "@std/assert";
import { delay } from "@std/async";
import { assertGone } from "../_pool.ts";
import { eventually } from "../_util.ts";
import { Books, type Order, udpBooks } from "./_books.ts";
import { assertBalanced, faultTest, processesOf, startServer } from "./_faults.ts";

function orderOf(port: number, more: Partial<Order> = {}): Order {
  return { hostname: "127.0.0.1", port, messages: 100, size: 2_000, pace: 5, window: 4, ...more };
}

/** Until the accounts have been open for a while. */
async function underWay(books: Books, count: number): Promise<void> {
  await eventually(() => books.totals().received > count * 5 ? true : undefined);
}

faultTest("a server that is suspended for a second goes on where it was (SIGSTOP, SIGCONT)", async (model) => {
  await using server = await startServer(model);
  const books = new Books();
  const serving = books.serveAll(10, orderOf(server.port));
  await underWay(books, 10);
  const pids = processesOf(server.pid);
  for (const pid of pids) Deno.kill(pid, "SIGSTOP");
  // Who comes meanwhile waits in the kernel's queue.
  const late = books.serveAll(10, orderOf(server.port, { messages: 10 }));
  await delay(1_000);
  for (const pid of pids) Deno.kill(pid, "SIGCONT");
  await Promise.all([serving, late]);
  assertBalanced(books);
});

faultTest("one suspended child of a pool holds up nobody but its own", async (model) => {
  await using server = await startServer(model, { pool: { balance: "shared" } });
  const [, child] = processesOf(server.pid);
  assert(child !== undefined);
  Deno.kill(child, "SIGSTOP");
  // The kernel wakes one of those that wait for a connection; it may be the one that cannot.
  const books = new Books();
  const serving = books.serveAll(20, orderOf(server.port, { messages: 20 }));
  await delay(500);
  Deno.kill(child, "SIGCONT");
  await serving;
  assertBalanced(books);
}, ["process"]);

faultTest("a killed child breaks its own connections and no other", async (model) => {
  await using server = await startServer(model, { pool: { balance: "round-robin", restart: { delay: 1 } } });
  const books = new Books();
  const serving = books.serveAll(20, orderOf(server.port));
  await underWay(books, 20);
  const [, child] = processesOf(server.pid);
  assert(child !== undefined);
  Deno.kill(child, "SIGKILL");
  await serving;
  const { opened, finished, broken, refused, wrong } = books.totals();
  assertEquals([opened, finished, broken, refused, wrong], [20, 10, 10, 0, []]);
  const after = new Books();
  await after.serveAll(20, orderOf(server.port, { messages: 10 }));
  assertBalanced(after);
  const [, ...children] = processesOf(server.pid);
  assertEquals(children.length, 2);
}, ["process"]);

faultTest("a killed parent takes its children along, and nobody gets a wrong byte", async (model) => {
  await using server = await startServer(model);
  const books = new Books();
  const serving = books.serveAll(20, orderOf(server.port));
  await underWay(books, 20);
  const pids = processesOf(server.pid);
  Deno.kill(server.pid, "SIGKILL");
  await assertGone(pids, 1_000);
  await serving;
  const { opened, broken, wrong } = books.totals();
  assertEquals([opened, broken, wrong], [20, 20, []]);
});

const FAKETIME = Deno.build.arch === "x86_64" && Deno.build.os === "linux"
  ? "/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1"
  : "";

function hasFaketime(): boolean {
  try {
    return Deno.statSync(FAKETIME).isFile;
  } catch {
    return false;
  }
}

faultTest(
  `a clock that jumps by a day and back changes nothing${hasFaketime() ? "" : " (missing: faketime)"}`,
  async (model) => {
    if (!hasFaketime() && Deno.env.get("CI") !== "true") return;
    const file = await Deno.makeTempFile();
    try {
      await Deno.writeTextFile(file, "+0");
      await using server = await startServer(model, {
        env: {
          LD_PRELOAD: FAKETIME,
          FAKETIME_TIMESTAMP_FILE: file,
          FAKETIME_NO_CACHE: "1",
          // CLOCK_MONOTONIC does not jump in a kernel either.
          FAKETIME_DONT_FAKE_MONOTONIC: "1",
        },
      });
      const books = new Books();
      const datagrams = udpBooks(orderOf(server.port, { messages: 200 }));
      const serving = books.serveAll(10, orderOf(server.port));
      await underWay(books, 10);
      for (const jump of ["+1d", "-1d", "+0"]) {
        await Deno.writeTextFile(file, jump);
        await delay(150);
      }
      await serving;
      assertBalanced(books);
      const { sent, received, wrong } = await datagrams;
      assertEquals([sent, wrong], [200, []]);
      assertGreater(received, 150);
    } finally {
      await Deno.remove(file);
    }
  },
);
