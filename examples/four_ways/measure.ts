/** One way under load: how many clients it holds, what ran out, how fast it answers, and what that costs. */

import { Clients } from "./clients.ts";
import { EchoProcess } from "./echo_process.ts";
import type { News } from "./orders.ts";
import { CAN_LOOK, cpuOf, descriptorLimit, memoryOf, processTree } from "./process_tree.ts";
import { count, type Limit, type Opened, queueOf, whatRanOut } from "./ran_out.ts";
import { Phases, type Step } from "./phases.ts";
import type { Way } from "./ways.ts";

/** What is asked of each way. */
export interface Plan {
  readonly clients: number;
  /** Milliseconds to measure. */
  readonly duration: number;
  /** Milliseconds until the last client must be open. */
  readonly opening: number;
  /** Bytes that a server may take. */
  readonly memory: number;
}

/** What was measured of one way; `undefined` where that cannot be told on this system. */
export interface Figures {
  /** Clients that were answered, and held open together. */
  readonly open: number;
  /** Those that got an answer while it was measured: a server may answer a few again and again. */
  readonly answered: number;
  readonly rate: number;
  /** What half of the clients, and 99 % of them, wait for an answer, in µs: `waits.ts`. */
  readonly p50: number;
  readonly p99: number;
  /** What was measured, in µs: a client that waits as long may wait longer. */
  readonly measured: number;
  /** Bytes for each client that the server has grown by. */
  readonly memory: number | undefined;
  /** µs of processor time for each echo. */
  readonly cpu: number | undefined;
  readonly ranOut: string;
  /** Clients that were disconnected, or not answered in the end, while it was measured. */
  readonly lost: number;
}

/** What so few clients take cannot be told from what a server takes anyway. */
const FEW = 10;
/** What a server takes to start, and clients take for their last answers, more or less, in ms. */
const START_TIME = 1_000;
const END_TIME = 500;
/** How often the memory is looked at while clients are opened, in ms. */
const LOOK = 300;

/** The phases of a way, as parts of its bar, from where to where. */
const PHASES = { start: [0, 0.1], open: [0.1, 0.4], warmUp: [0.4, 0.5], measure: [0.5, 0.9], end: [0.9, 1] } as const;

/** Measures a way; `step` is told how far it is, from 0 to 1, and what it does. */
export async function measure(way: Way, plan: Plan, step: Step): Promise<Figures> {
  using phases = new Phases(step);
  phases.begin(PHASES.start, START_TIME, "starts");
  // The clients' process starts meanwhile.
  await using clients = new Clients();
  await using server = await EchoProcess.start(way, plan.clients);
  const before = CAN_LOOK ? memoryOf(processTree(server.pid)) : undefined;

  const { opened, limit } = await open(server, clients, before ?? 0, plan, phases);
  // When it has disconnected its clients because it ends, that is known soon.
  if (opened.stop === "closed") await Promise.race([server.ended, new Promise((resolve) => setTimeout(resolve, 200))]);
  const ranOut = opened.open === plan.clients ? "nothing" : whatRanOut(server, opened, limit, plan);
  const memory = before === undefined || opened.open < FEW
    ? undefined
    : (memoryOf(processTree(server.pid)) - before) / opened.open;
  if (opened.open === 0) throw new Error(`no client was answered: ${ranOut}`);

  await clients.order({ do: "measure", duration: plan.duration });
  const held = `${count(opened.open)} open`;
  phases.begin(PHASES.warmUp, plan.duration / 4, `${held}, warm up`);
  await until(clients, "begun");
  phases.begin(PHASES.measure, plan.duration, `${held}, measured`);
  const cpu = () => CAN_LOOK ? cpuOf(processTree(server.pid)) : 0;
  const cpuBefore = cpu();
  await until(clients, "counted");
  const used = cpu() - cpuBefore;
  phases.begin(PHASES.end, END_TIME, `${held}, last answers`);
  const { echoes, answered, p50, p99, duration, lost } = await until(clients, "measured");
  // Before the server, which would wait for them.
  await clients[Symbol.asyncDispose]();
  return {
    open: opened.open,
    rate: echoes / duration * 1000,
    ...{ answered, p50, p99, lost, ranOut },
    measured: duration * 1000,
    memory: memory !== undefined && memory > 0 ? memory : undefined,
    cpu: CAN_LOOK ? used / echoes : undefined,
  };
}

/** Opens clients, until all are open or something has run out that is ours to watch: memory and time. */
async function open(
  server: EchoProcess,
  clients: Clients,
  before: number,
  plan: Plan,
  phases: Phases,
): Promise<{ opened: Opened; limit: Limit | undefined }> {
  let limit: Limit | undefined;
  const stop = (why: Limit) => {
    limit ??= why;
    clients.order({ do: "enough", atOnce: why === "end" || why === "turns" }).catch(() => {});
  };
  const began = performance.now();
  const late = setTimeout(() => stop("time"), plan.opening);
  const watch = setInterval(() => {
    if (CAN_LOOK && memoryOf(processTree(server.pid)) - before > plan.memory) stop("memory");
    if (server.hasEnded) stop("end");
  }, LOOK);
  try {
    const { port } = server;
    await clients.order({ do: "open", port, clients: plan.clients, descriptors: descriptorLimit() });
    while (true) {
      const news = await clients.next();
      if (news.is === "opened") return { opened: news, limit };
      if (news.is !== "opening") continue;
      const part = Math.max(news.open / plan.clients, (performance.now() - began) / plan.opening);
      phases.at(PHASES.open, Math.min(part, 1), `${count(news.open)} open`);
      // A server that has accepted them may be slow to start what serves them.
      if (news.silent && queueOf(server) !== 0) stop("turns");
    }
  } finally {
    clearTimeout(late);
    clearInterval(watch);
  }
}

async function until<Is extends News["is"]>(clients: Clients, is: Is): Promise<Extract<News, { is: Is }>> {
  while (true) {
    const news = await clients.next();
    if (news.is === is) return news as Extract<News, { is: Is }>;
  }
}
