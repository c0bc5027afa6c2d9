/** One way under load: how many clients it holds, what ran out, how fast it answers, and what that costs. */

import { Clients } from "./clients.ts";
import { EchoProcess } from "./echo_process.ts";
import type { News } from "./orders.ts";
import { CAN_LOOK, cpuOf, descriptorLimit, memoryOf, processTree } from "./process_tree.ts";
import { count, type Limit, type Opened, queueOf, whatRanOut } from "./ran_out.ts";
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
  readonly rate: number;
  readonly p50: number;
  readonly p99: number;
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
/** How often the memory is looked at while clients are opened, in ms. */
const LOOK = 300;

/** Measures a way; `step` is told how far it is, from 0 to 1. */
export async function measure(way: Way, plan: Plan, step: (part: number, text: string) => void): Promise<Figures> {
  step(0, "starts");
  // The clients' process starts meanwhile.
  await using clients = new Clients();
  await using server = await EchoProcess.start(way, plan.clients);
  const before = CAN_LOOK ? memoryOf(processTree(server.pid)) : undefined;

  const { opened, limit } = await open(server, clients, before ?? 0, plan, step);
  // When it has disconnected its clients because it ends, that is known soon.
  if (opened.stop === "closed") await Promise.race([server.ended, new Promise((resolve) => setTimeout(resolve, 200))]);
  const ranOut = opened.open === plan.clients ? "nothing" : whatRanOut(server, opened, limit, plan);
  const memory = before === undefined || opened.open < FEW
    ? undefined
    : (memoryOf(processTree(server.pid)) - before) / opened.open;
  if (opened.open === 0) throw new Error(`no client was answered: ${ranOut}`);

  await clients.order({ do: "measure", duration: plan.duration });
  step(0.5, `${count(opened.open)} open`);
  await until(clients, "begun");
  const cpu = () => CAN_LOOK ? cpuOf(processTree(server.pid)) : 0;
  const cpuBefore = cpu();
  const began = performance.now();
  const bar = setInterval(() => {
    step(0.5 + Math.min((performance.now() - began) / plan.duration, 1) / 2, `${count(opened.open)} open`);
  }, 100);
  try {
    // Counted after the last echo, which is within some ms.
    const timer = new Promise((resolve) => setTimeout(resolve, plan.duration));
    const used = timer.then(() => cpu() - cpuBefore);
    const { echoes, p50, p99, lost } = await until(clients, "measured");
    return {
      open: opened.open,
      rate: echoes / plan.duration * 1000,
      ...{ p50, p99, lost, ranOut },
      memory: memory !== undefined && memory > 0 ? memory : undefined,
      cpu: CAN_LOOK ? await used / echoes : undefined,
    };
  } finally {
    clearInterval(bar);
  }
}

/** Opens clients, until all are open or something has run out that is ours to watch: memory and time. */
async function open(
  server: EchoProcess,
  clients: Clients,
  before: number,
  plan: Plan,
  step: (part: number, text: string) => void,
): Promise<{ opened: Opened; limit: Limit | undefined }> {
  let limit: Limit | undefined;
  const stop = (why: Limit) => {
    limit ??= why;
    clients.order({ do: "enough", atOnce: why === "end" || why === "turns" }).catch(() => {});
  };
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
      step(news.open / plan.clients / 2, `${count(news.open)} open`);
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
