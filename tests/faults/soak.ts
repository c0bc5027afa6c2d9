/**
 * A long run with books: connections come and go, datagrams beside them, and
 * the pools that serve them are reloaded all the while.
 *
 *     deno task soak                  # 30 minutes
 *     deno task soak --minutes 2
 *
 * Exit code 1 when anything was lost, memory has grown or descriptors were left.
 */

import { parseArgs } from "@std/cli";
import { delay } from "@std/async";
import { SingleBar } from "cli-progress";
import Table from "cli-table3";
import { mean, median, quantile } from "simple-statistics";
import { processesOf, socketsOf } from "./_faults.ts";
import { Books, type Order, udpBooks, type UdpTotals } from "./_books.ts";

const HELP = `deno task soak [flags]

  --minutes N       how long (30)
  --connections N   open at a time (5000)
  --churn N         opened and closed each second (500)
  --reload S        seconds between two reloads (60)
  --json FILE       write the figures`;

function refuse(problem: string): never {
  console.error(`${problem}\n${HELP}`);
  Deno.exit(2);
}

const flags = parseArgs(Deno.args, {
  string: ["minutes", "connections", "churn", "reload", "json"],
  boolean: ["help"],
  default: { minutes: "30", connections: "5000", churn: "500", reload: "60" },
  unknown: (arg) => refuse(`Unknown argument "${arg}"`),
});
if (flags.help) {
  console.log(HELP);
  Deno.exit(0);
}

function positive(name: "minutes" | "connections" | "churn" | "reload"): number {
  const value = Number(flags[name]);
  return value > 0 && value < 1e6 ? value : refuse(`--${name} must be a positive number, not "${flags[name]}"`);
}

const [minutes, connections, churn, reloadEvery] = [
  positive("minutes"),
  positive("connections"),
  positive("churn"),
  positive("reload"),
];
/** Seconds that a connection lives. */
const lifetime = connections / churn;
/** Seconds between two messages of a connection, and its messages. */
const PACE = 1;
const messages = Math.max(1, Math.round(lifetime / PACE));
const SAMPLE_INTERVAL = 5_000;
/** Growth is counted from here on: caches and compilers have settled. */
const settled = Math.min(5, minutes / 6) * 60_000;

/** What is looked at every few seconds, of the server with all its children. */
interface Look {
  readonly at: number;
  /** Resident bytes: of the program with its threads, and of the processes that are up. */
  readonly rss: number;
  readonly childRss: number;
  readonly threads: number;
  readonly open: number;
}

function statusOf(pid: number, field: string): number {
  return Number(new RegExp(`^${field}:\\s+(\\d+)`, "m").exec(Deno.readTextFileSync(`/proc/${pid}/status`))?.[1]);
}

function look(pid: number, at: number, open: number): Look {
  // A child may end in the midst of this.
  const children = processesOf(pid).slice(1).flatMap((child) => {
    try {
      return [statusOf(child, "VmRSS") * 1024];
    } catch {
      return [];
    }
  }).filter((rss) => rss > 0); // one that has ended has none
  const childRss = children.length === 0 ? 0 : mean(children);
  return { at, rss: statusOf(pid, "VmRSS") * 1024, childRss, threads: statusOf(pid, "Threads"), open };
}

/**
 * By how much the second half is over the first, after settling. Memory goes up and down over minutes, so what is
 * compared is a low (0.1) or a high quantile (0.9) of each.
 */
function growth(looks: readonly Look[], key: "rss" | "childRss" | "threads", share: number): number {
  const half = Math.max(1, Math.floor(looks.length / 2));
  const values = looks.map((look) => look[key]);
  return quantile(values.slice(-half), share) / quantile(values.slice(0, half), share) - 1;
}

/** Datagrams that found the server's queue full: the last column of /proc/net/udp. */
function dropsAt(port: number): number {
  const hex = port.toString(16).toUpperCase().padStart(4, "0");
  const line = Deno.readTextFileSync("/proc/net/udp").split("\n").find((line) => line.includes(`:${hex} 0`));
  return Number(line?.trim().split(/\s+/).at(-1) ?? 0);
}

const server = new Deno.Command(Deno.execPath(), {
  args: ["run", "--quiet", "--allow-all", new URL("./soak_server.ts", import.meta.url).pathname, String(lifetime * 3)],
  stdin: "null",
  stdout: "piped",
}).spawn();
const output = server.stdout.pipeThrough(new TextDecoderStream()).getReader();
const ports: { tcp: number[]; udp: number } = JSON.parse((await output.read()).value ?? "");
let hasEnded = false;
server.status.then(() => hasEnded = true);

const begun = performance.now();
const end = begun + minutes * 60_000;
const stop = new AbortController();
Deno.addSignalListener("SIGINT", () => stop.abort());
const isOver = () => performance.now() >= end || stop.signal.aborted || hasEnded;
// A child may still be about to close or to get its copy of a listener.
let before = 0;
for (let tries = 0; tries < 20; tries++) {
  before = Math.max(before, socketsOf(server.pid));
  await delay(50);
}
const books = new Books();
const visits = new Set<Promise<unknown>>();
const udp: UdpTotals = { sent: 0, received: 0, duplicates: 0, reordered: 0, dropped: 0, wrong: [] };
const looks: Look[] = [];
let reloads = 0;

/** Opens connections at the rate that is asked for, and a fresh one for each that is done. */
async function churning(): Promise<void> {
  let opened = 0;
  while (!isOver()) {
    const due = Math.floor((performance.now() - begun) / 1_000 * churn);
    for (; opened < due && books.open < connections * 1.2; opened++) {
      const order: Order = {
        hostname: "127.0.0.1",
        port: ports.tcp[opened % ports.tcp.length] as number,
        messages,
        size: 1_000,
        pace: PACE * 1_000,
        patience: 60_000,
      };
      const visit = books.serve(order).finally(() => visits.delete(visit));
      visits.add(visit);
    }
    // What could not be opened in time is not made up for later.
    opened = due;
    await delay(10);
  }
}

async function datagrams(): Promise<void> {
  while (!isOver()) {
    const order = {
      hostname: "127.0.0.1",
      port: ports.udp,
      messages: 1_000,
      size: 1_200,
      pace: 10,
      batch: 2,
      settle: 10_000,
    };
    const totals = await udpBooks(order);
    for (const key of ["sent", "received", "duplicates", "reordered", "dropped"] as const) udp[key] += totals[key];
    udp.wrong.push(...totals.wrong);
  }
}

async function reloading(): Promise<void> {
  for (let next = begun + reloadEvery * 1_000; !isOver();) {
    await delay(100);
    if (performance.now() < next) continue;
    server.kill("SIGHUP");
    reloads++;
    next += reloadEvery * 1_000;
  }
}

async function looking(): Promise<void> {
  const bar = new SingleBar({
    format: "{bar} {percentage} % | {open} open, {opened} in all, {messages} messages, {reloads} reloads, {rss} MiB",
    noTTYOutput: true,
    notTTYSchedule: 60_000,
  });
  bar.start(Math.round(minutes * 60), 0, { open: 0, opened: 0, messages: 0, reloads: 0, rss: 0 });
  while (!isOver()) {
    await delay(SAMPLE_INTERVAL);
    if (hasEnded) break;
    const at = performance.now() - begun;
    const now = look(server.pid, at, books.open);
    looks.push(now);
    const { opened, received } = books.totals();
    const rss = Math.round(now.rss / 2 ** 20);
    bar.update(Math.round(at / 1_000), { open: books.open, opened, messages: received, reloads, rss });
  }
  bar.stop();
}

await Promise.all([churning(), datagrams(), reloading(), looking()]);
await Promise.all(visits);
const failed = hasEnded;
// The old children of the last reload may still be there.
for (let tries = 0; !hasEnded && socketsOf(server.pid) > before && tries < 300; tries++) await delay(100);
const after = hasEnded ? 0 : socketsOf(server.pid);
const drops = dropsAt(ports.udp) + udp.dropped;
const took = (performance.now() - begun) / 60_000;
if (!hasEnded) server.kill("SIGTERM");
const { code } = await server.status;
await output.cancel();

const totals = books.totals();
const later = looks.filter(({ at }) => at >= settled);
const lost = udp.sent - udp.received;
const percent = (share: number) => `${(share * 100).toFixed(2)} %`;
const MIB = 2 ** 20;
const rows: [string, string, boolean][] = [
  ["minutes", took.toFixed(1), true],
  ["connections opened", String(totals.opened), totals.opened > 0],
  ["open at a time, median", String(median(later.map(({ open }) => open))), true],
  ["finished with all that they were owed", String(totals.finished), totals.finished === totals.opened],
  [
    "broken or refused",
    `${totals.broken} or ${totals.refused} ${JSON.stringify(totals.reasons)}`,
    totals.broken + totals.refused === 0,
  ],
  ["messages sent, received", `${totals.sent}, ${totals.received}`, totals.sent === totals.received],
  [
    "wrong bytes",
    totals.wrong.concat(udp.wrong).slice(0, 5).join("; ") || "none",
    totals.wrong.length + udp.wrong.length === 0,
  ],
  ["datagrams sent, received", `${udp.sent}, ${udp.received}`, udp.sent > 0],
  ["datagrams lost, of them counted as dropped", `${lost}, ${drops}`, lost <= drops],
  ["reloads", String(reloads), true],
  [
    "RSS of the program, first and last",
    `${Math.round((later[0]?.rss ?? 0) / MIB)}, ${Math.round((later.at(-1)?.rss ?? 0) / MIB)} MiB`,
    true,
  ],
  ["growth of its least RSS after settling", percent(growth(later, "rss", 0.1)), growth(later, "rss", 0.1) < 0.02],
  ["growth of its greatest RSS after settling", percent(growth(later, "rss", 0.9)), growth(later, "rss", 0.9) < 0.02],
  ["growth of a process's RSS, which is replaced at each reload", percent(growth(later, "childRss", 0.5)), true],
  ["threads, first and last", `${later[0]?.threads}, ${later.at(-1)?.threads}`, growth(later, "threads", 0.5) < 0.02],
  ["sockets before and after", `${before}, ${after}`, after <= before],
  ["the server's exit code", failed ? `${code}, before the end` : String(code), code === 0 && !failed],
];
const table = new Table({ style: { head: [], border: [], compact: true } });
for (const [name, value, isRight] of rows) table.push([name, value, isRight ? "" : "WRONG"]);
console.log(table.toString());
if (typeof flags.json === "string" && flags.json !== "") {
  await Deno.writeTextFile(flags.json, JSON.stringify({ totals, udp, drops, reloads, looks }, undefined, 2) + "\n");
}
Deno.exit(rows.every(([, , isRight]) => isRight) ? 0 : 1);
