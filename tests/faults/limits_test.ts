/** Servers that run out of descriptors, buffers and memory: they wait until there is more, and lose nobody. */

import { assert, assertEquals, assertGreater } from "@std/assert";
import { delay } from "@std/async";
import { eventually, hasCommand, isMeasured } from "../_util.ts";
import { Books, type Order } from "./_books.ts";
import { assertBalanced, faultTest, type Model, processesOf, startServer } from "./_faults.ts";
import { command } from "./two_hosts.ts";

function orderOf(port: number, more: Partial<Order> = {}): Order {
  return { hostname: "127.0.0.1", port, messages: 5, size: 1_000, pace: 10, ...more };
}

/** Whether a process has a handler for SIGHUP, signal 1: proc_pid_status(5). */
function catchesHangup(pid: number): boolean {
  const mask = /^SigCgt:\s+([0-9a-f]+)/m.exec(Deno.readTextFileSync(`/proc/${pid}/status`))?.[1];
  return (BigInt(`0x${mask}`) & 1n) === 1n;
}

faultTest("a server with too few descriptors (EMFILE) serves all, one after the other", async (model) => {
  await using server = await startServer(model);
  // The runtime makes itself a pair of sockets for signals shortly after the start, and panics if it cannot.
  await eventually(() => processesOf(server.pid).every(catchesHangup) ? true : undefined);
  const books = new Books();
  for (const pid of processesOf(server.pid)) {
    const open = [...Deno.readDirSync(`/proc/${pid}/fd`)].length;
    await command("prlimit", `--nofile=${open + 12}:${open + 12}`, "--pid", String(pid));
  }
  await books.serveAll(150, orderOf(server.port));
  assertBalanced(books);
});

/** Makes the kernel's answers wrong for a while, in all threads and processes of a server. */
async function withInjected(pid: number, calls: string, fault: string, fn: () => Promise<void>): Promise<number> {
  const log = await Deno.makeTempFile();
  const pids = processesOf(pid).flatMap((pid) => ["-p", String(pid)]);
  const strace = new Deno.Command("strace", {
    args: ["-f", "-qq", "-o", log, "-e", `trace=${calls}`, "-e", `inject=${calls}:${fault}`, ...pids],
    stderr: "null",
  }).spawn();
  try {
    const isTraced = () => /TracerPid:\s+[1-9]/.test(Deno.readTextFileSync(`/proc/${pid}/status`));
    for (let tries = 0; !isTraced(); tries++) {
      assert(tries < 1_000, "strace does not attach");
      await delay(10);
    }
    await fn();
  } finally {
    try {
      strace.kill("SIGINT");
    } catch { /* it has ended with the server */ }
    await strace.status;
  }
  const injected = (await Deno.readTextFile(log)).split("INJECTED").length - 1;
  await Deno.remove(log);
  return injected;
}

const TRACED = hasCommand("strace") || Deno.env.get("CI") === "true";

for (
  const [errno, calls, fault] of [
    ["ENFILE", "accept4", "error=ENFILE:when=2+3"],
    ["ECONNABORTED", "accept4", "error=ECONNABORTED:when=1+2"],
    ["ENOMEM", "accept4", "error=ENOMEM:when=2+3"],
    ["ENOBUFS", "accept4", "error=ENOBUFS:when=2+3"],
  ] as const
) {
  faultTest(`accept4(2) that fails with ${errno} ends no loop and loses no connection (strace)`, async (model) => {
    if (!TRACED) return;
    await using server = await startServer(model);
    const books = new Books();
    const injected = await withInjected(server.pid, calls, fault, () => books.serveAll(30, orderOf(server.port)));
    assertGreater(injected, 0);
    assertBalanced(books);
    await books.serveAll(10, orderOf(server.port));
    assertBalanced(books);
  });
}

const CGROUP = "/sys/fs/cgroup";

/** A control group with a limit of memory, of either version; `undefined` if none can be made here. */
function limitedGroup(bytes: number): { path: string; failures(): number } | undefined {
  const isSecond = exists(`${CGROUP}/cgroup.controllers`);
  const path = `${CGROUP}/${isSecond ? "" : "memory/"}sockets-test-${Deno.pid}`;
  try {
    Deno.mkdirSync(path);
    Deno.writeTextFileSync(`${path}/${isSecond ? "memory.max" : "memory.limit_in_bytes"}`, String(bytes));
    const failures = () => {
      const text = Deno.readTextFileSync(`${path}/${isSecond ? "memory.events" : "memory.oom_control"}`);
      return Number(/oom_kill (\d+)/.exec(text)?.[1] ?? 0);
    };
    return { path, failures };
  } catch {
    try {
      Deno.removeSync(path);
    } catch { /* it was never made */ }
    return undefined;
  }
}

/** A group can be removed once its processes are gone. */
function removed(path: string): true | undefined {
  try {
    Deno.removeSync(path);
    return true;
  } catch {
    return undefined;
  }
}

function exists(path: string): boolean {
  try {
    Deno.statSync(path);
    return true;
  } catch {
    return false;
  }
}

const probe = limitedGroup(64 * 1024 * 1024);
if (probe !== undefined) Deno.removeSync(probe.path);

faultTest(
  `a server with little memory (cgroup${
    probe === undefined ? ": none can be made here" : ""
  }) holds up 64 clients that do not read`,
  async (model: Model) => {
    // Measuring coverage takes memory as well.
    const group = limitedGroup((isMeasured ? 1_000 : 400) * 1024 * 1024);
    if (group === undefined) return;
    try {
      await using server = await startServer(model);
      for (const pid of processesOf(server.pid)) Deno.writeTextFileSync(`${group.path}/cgroup.procs`, String(pid));
      const books = new Books();
      // Each may have 2 MiB under way, and reads nothing as long as the first answer is on its way.
      await books.serveAll(64, orderOf(server.port, { messages: 128, size: 16_384, pace: 0, window: 128 }));
      assertBalanced(books);
      assertEquals(group.failures(), 0);
      await server.stop("SIGKILL");
    } finally {
      await eventually(() => removed(group.path));
    }
  },
);
