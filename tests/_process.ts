/** The vocabulary of tests that start threads and processes. */

import {
  type Child,
  type Incoming,
  type MovableSocket,
  type ProcessOptions,
  spawnProcess,
  spawnWorker,
} from "@c10k/sockets/process";
import { engineSupport, type TcpConn } from "@c10k/sockets/tcp";
import { UdpEndpoint } from "@c10k/sockets/udp";
import { assert, assertEquals } from "@std/assert";
import { deadline, delay } from "@std/async";
import {
  decode,
  encode,
  eventually,
  type Finished,
  oneOf,
  Pair,
  PATIENCE,
  readExactly,
  runWithin,
  withoutLeaks,
} from "./_util.ts";

export type Kind = "worker" | "process";

/** Whether children of both kinds can be tested here. */
export const NATIVE: boolean = engineSupport().engine === "native";

/** Declares a test for children of both kinds, of which the everyday run has one; it fails if it leaves sockets or processes. */
export function childTest(name: string, fn: (kind: Kind) => Promise<void>, ignore = false): void {
  for (const kind of oneOf(name, ["worker", "process"] as const)) oneKindTest(kind, name, fn, ignore);
}

/** The same for one kind, where the other has nothing of the sort. */
export function oneKindTest(kind: Kind, name: string, fn: (kind: Kind) => Promise<void>, ignore = false): void {
  Deno.test({
    name: `[${kind}] ${name}`,
    ignore: ignore || !NATIVE,
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
  `import { parent, serve } from "${import.meta.resolve("@c10k/sockets/process")}";`,
  `import { TcpConn, TcpListener } from "${import.meta.resolve("@c10k/sockets/tcp")}";`,
  `import { UdpEndpoint } from "${import.meta.resolve("@c10k/sockets/udp")}";`,
].join("\n");

/** A module of this JavaScript, in which the library's names are known. */
export function moduleOf(text: string): string {
  return `data:text/javascript,${encodeURIComponent(`${IMPORTS}\n${text}`)}`;
}

/**
 * Runs a Deno program that may have few descriptors: `fill()` takes all that are left, `free()` gives them back. It
 * ends at its end, whatever it has open.
 */
export function runStarved(source: string): Promise<Finished> {
  const prelude = `
    import { UdpEndpoint } from "@c10k/sockets/udp";
    // Deno opens its own descriptors for signals some time after its start, and panics if there are none by then.
    Deno.addSignalListener("SIGUSR1", () => {});
    const held = [];
    function fill() {
      try {
        while (true) held.push(UdpEndpoint.bind({ hostname: "127.0.0.1", engine: "native" }));
      } catch (error) {
        if (error.code !== "EMFILE") throw error;
      }
    }
    function free() { for (const endpoint of held.splice(0)) endpoint.close(); }
    const named = (error) => [error.name, error.code ?? error.cause?.code];
  `;
  return runWithin(120, `${prelude}\n${source}\nfree();\nDeno.exit(0);`);
}

/** The next message of a child; fails if there is none, or none comes in time. */
// deno-lint-ignore no-explicit-any -- what a child says is checked by what is done with it
export async function next(inbox: AsyncIterator<Incoming>): Promise<Incoming<any>> {
  const { value, done } = await deadline(inbox.next(), PATIENCE);
  if (done) throw new Error("the child has ended");
  return value;
}

/** Runs a test and fails it if it leaves processes. */
export async function withoutOrphans(fn: () => Promise<void>): Promise<void> {
  const before = leftBehind();
  await fn();
  let left = leftBehind().filter((one) => !before.includes(one));
  for (let tries = 0; tries < 1_000 && left.length > 0; tries++) {
    await delay(10);
    const now = leftBehind();
    left = left.filter((one) => now.includes(one));
  }
  assertEquals(left, [], "the test left processes behind");
}

/** Processes that this one has started and that are there, zombies included. */
function leftBehind(): string[] {
  return childrenOf("self").map((pid) => `process ${pid}`);
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

/**
 * The inodes of all TCP and UDP sockets of this network namespace, as links. The kernel leaves one out of a table now and
 * then, where others are closed while it is read, so each is read three times.
 */
export function internetSockets(): Set<string> {
  const links = new Set<string>();
  const tables = ["tcp", "tcp6", "udp", "udp6"];
  for (const table of [...tables, ...tables, ...tables]) {
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
    const status = Deno.readTextFileSync(`/proc/${pid}/status`);
    // The first thread may be a zombie while others still have all that is open.
    return !/^State:\s+[ZX]/m.test(status) || Number(/^Threads:\s+(\d+)/m.exec(status)?.[1]) > 1;
  } catch {
    return false;
  }
}

/** The processes that a process has started and that are there, zombies included. */
function childrenOf(pid: number | "self"): number[] {
  const children: number[] = [];
  try {
    for (const { name } of Deno.readDirSync(`/proc/${pid}/task`)) {
      try {
        const text = Deno.readTextFileSync(`/proc/${pid}/task/${name}/children`);
        children.push(...text.split(" ").filter((child) => child !== "").map(Number));
      } catch { /* the thread has ended; the others may have children */ }
    }
  } catch { /* the process has ended */ }
  return children;
}

/** The processes that a process has started, and those that they have. */
export function descendants(pid: number): number[] {
  return childrenOf(pid).flatMap((child) => [child, ...descendants(child)]);
}

export const ECHO = new URL("./children/echo.ts", import.meta.url);
export const ACTOR = new URL("./children/actor.ts", import.meta.url);

/** How many messages may be unread, as `Child.send` documents. */
export const WINDOW = 256;

/** Sends to a child that answers each message with one, and returns that. */
// deno-lint-ignore no-explicit-any -- what a child says is checked by what is done with it
export async function ask(child: Child, message: unknown, sockets: MovableSocket[] = []): Promise<Incoming<any>> {
  await child.send(message, { sockets });
  return await next(child.messages());
}

/** Sends a text over a connection and checks that it comes back. */
export async function checkEcho(conn: TcpConn, text: string): Promise<void> {
  await conn.writeAll(encode(text));
  assertEquals(decode(await readExactly(conn, encode(text).length)), text);
}

/** Waits until the reactor has what it needs, so that descriptors can be counted. */
export async function warmUp(): Promise<void> {
  using pair = await Pair.open("native");
  const reading = pair.server.read(new Uint8Array(1));
  await pair.client.writeAll(new Uint8Array(1));
  await reading;
}

/** Waits until there are no more descriptors than there were. */
export async function assertDescriptors(before: number): Promise<void> {
  await eventually(() => descriptorLinks().length <= before ? true : undefined).catch(() => {});
  const links = descriptorLinks();
  assert(links.length <= before, `${links.length} descriptors, had ${before}: ${links.join(" ")}`);
}

/** How a promise has ended, as text. */
export function outcome(promise: Promise<unknown>): Promise<string> {
  return promise.then(() => "done", (error) => error.name);
}

/** Whether a promise is still pending after a time in which it could have been settled. */
export async function isPending(promise: Promise<unknown>): Promise<boolean> {
  return await Promise.race([promise.then(() => false, () => false), delay(50).then(() => true)]);
}

/** Says where it can be told to read by a datagram, reads nothing before, then counts what comes before "last". */
export const LATE_READER = moduleOf(`
  const endpoint = UdpEndpoint.bind({ hostname: "127.0.0.1", port: 0 });
  await parent().send(endpoint.addr);
  await endpoint.recvFrom(new Uint8Array(1));
  endpoint.close();
  const seen = [];
  for await (const { message, sockets } of parent().messages()) {
    for (const socket of sockets) socket.close();
    if (message === "last") break;
    seen.push(message);
  }
  await parent().send(seen);
  for await (const _ of parent().messages());
`);

export async function letRead(addr: Deno.NetAddr): Promise<void> {
  using endpoint = UdpEndpoint.bind({ hostname: "127.0.0.1", port: 0, engine: "native" });
  await endpoint.sendTo(new Uint8Array(1), addr);
}
