/** The vocabulary of tests that start threads and processes. */

import { type Child, type Incoming, type ProcessOptions, spawnProcess, spawnWorker } from "@c10k/sockets/process";
import { engineSupport } from "@c10k/sockets/tcp";
import { assertEquals } from "@std/assert";
import { deadline, delay } from "@std/async";
import { withoutLeaks } from "./_util.ts";

export type Kind = "worker" | "process";

/** Declares a test for children of both kinds; it fails if it leaves sockets, processes or control folders. */
export function childTest(name: string, fn: (kind: Kind) => Promise<void>, ignore = false): void {
  for (const kind of ["worker", "process"] as const) oneKindTest(kind, name, fn, ignore);
}

/** The same for one kind, where the other has nothing of the sort. */
export function oneKindTest(kind: Kind, name: string, fn: (kind: Kind) => Promise<void>, ignore = false): void {
  Deno.test({
    name: `[${kind}] ${name}`,
    ignore: ignore || engineSupport().engine !== "native",
    fn: () => withoutOrphans(() => withoutLeaks(() => fn(kind))),
  });
}

/** A child that `await using` ends. */
export type TestChild = Child & AsyncDisposable;

/** Starts a child of a kind. */
export function spawn(kind: Kind, module: string | URL, options: ProcessOptions = {}): TestChild {
  const child = kind === "worker" ? spawnWorker(module, options) : spawnProcess(module, options);
  return Object.assign(child, {
    async [Symbol.asyncDispose]() {
      child.kill();
      await child.closed;
    },
  });
}

const IMPORTS = [
  `import { parent } from "${import.meta.resolve("@c10k/sockets/process")}";`,
  `import { TcpConn, TcpListener } from "${import.meta.resolve("@c10k/sockets/tcp")}";`,
  `import { UdpEndpoint } from "${import.meta.resolve("@c10k/sockets/udp")}";`,
].join("\n");

/** A module of this JavaScript, in which the library's names are known. */
export function moduleOf(text: string): string {
  return `data:text/javascript,${encodeURIComponent(`${IMPORTS}\n${text}`)}`;
}

/** The next message of a child; fails if there is none, or none comes in 20 s. */
// deno-lint-ignore no-explicit-any -- what a child says is checked by what is done with it
export async function next(inbox: AsyncIterator<Incoming>): Promise<Incoming<any>> {
  const { value, done } = await deadline(inbox.next(), 20_000);
  if (done) throw new Error("the child has ended");
  return value;
}

/** Runs a test and fails it if it leaves processes or control folders. */
export async function withoutOrphans(fn: () => Promise<void>): Promise<void> {
  const before = leftBehind();
  await fn();
  let left = leftBehind().filter((one) => !before.includes(one));
  for (let tries = 0; tries < 1_000 && left.length > 0; tries++) {
    await delay(10);
    const now = leftBehind();
    left = left.filter((one) => now.includes(one));
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
    name.startsWith(`c10k-sockets-${Deno.pid}-`)
  );
  return [...pids.map((pid) => `process ${pid}`), ...folders];
}

/** What the descriptors of a process are, such as `socket:[4711]`, by default of this one; no files and pipes. */
export function descriptorLinks(pid: number | "self" = "self"): string[] {
  const links: string[] = [];
  for (const { name } of Deno.readDirSync(`/proc/${pid}/fd`)) {
    try {
      const link = Deno.readLinkSync(`/proc/${pid}/fd/${name}`);
      if (/^socket:|eventpoll|eventfd/.test(link)) links.push(link);
    } catch { /* the descriptor of this very listing */ }
  }
  return links;
}

/** The inodes of all TCP and UDP sockets of this network namespace, as links. */
export function internetSockets(): Set<string> {
  const links = new Set<string>();
  for (const table of ["tcp", "tcp6", "udp", "udp6"]) {
    for (const line of Deno.readTextFileSync(`/proc/net/${table}`).split("\n").slice(1)) {
      const inode = line.trim().split(/\s+/)[9];
      if (inode !== undefined) links.add(`socket:[${inode}]`);
    }
  }
  return links;
}

/** Whether a process is there and no zombie. */
export function isAlive(pid: number): boolean {
  try {
    return !/^State:\s+[ZX]/m.test(Deno.readTextFileSync(`/proc/${pid}/status`));
  } catch {
    return false;
  }
}

/** The processes that a process has started, and those that they have. */
export function descendants(pid: number): number[] {
  const children: number[] = [];
  try {
    for (const { name } of Deno.readDirSync(`/proc/${pid}/task`)) {
      const text = Deno.readTextFileSync(`/proc/${pid}/task/${name}/children`);
      children.push(...text.split(" ").filter((pid) => pid !== "").map(Number));
    }
  } catch { /* the process, or a thread of it, has ended */ }
  return children.flatMap((child) => [child, ...descendants(child)]);
}
