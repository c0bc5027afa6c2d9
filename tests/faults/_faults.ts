/** The vocabulary of the fault tests: servers of every model, and books that must balance. */

import { engineSupport } from "@c10k/sockets/tcp";
import { assertEquals } from "@std/assert";
import { descendants, descriptorLinks, internetSockets, withoutOrphans } from "../_process.ts";
import { ServerProcess } from "../_util.ts";
import { Books, type Totals } from "./_books.ts";

/** One program on either engine, and pools. */
export type Model = "runtime" | "native" | "worker" | "process";

export const MODELS: readonly Model[] = engineSupport().engine === "native"
  ? ["runtime", "native", "worker", "process"]
  : ["runtime"];

/** Declares a test once for each model, with the model in its name. */
export function faultTest(name: string, fn: (model: Model) => Promise<void>, models = MODELS): void {
  for (const model of models) {
    Deno.test({
      name: `[${model}] ${name}`,
      ignore: Deno.build.os !== "linux",
      fn: () => withoutOrphans(() => fn(model)),
    });
  }
}

/** How a server is started. */
export interface ServerOptions {
  /** Flags of `deno run`. */
  flags?: string[];
  /** Options of `Pool.start`. */
  pool?: object;
  env?: Record<string, string>;
}

/** Starts tests/faults/server.ts. */
export function startServer(
  model: Model,
  { flags = [], pool = {}, env = {} }: ServerOptions = {},
): Promise<ServerProcess> {
  const args = [...flags, "--allow-all", "tests/faults/server.ts", model, "127.0.0.1", JSON.stringify(pool)];
  return ServerProcess.start(args, env);
}

/** A process and all that it has started. */
export function processesOf(pid: number): number[] {
  return [pid, ...descendants(pid)];
}

/** TCP and UDP sockets that a process and all that it has started have open; the runtime's own pairs come and go. */
export function socketsOf(pid: number): number {
  const links = processesOf(pid).flatMap((one) => descriptorLinks(one));
  const internet = internetSockets();
  return links.filter((link) => internet.has(link)).length;
}

/** Fails unless all have everything that they are owed. */
export function assertBalanced(books: Books | Totals): void {
  const totals = books instanceof Books ? books.totals() : books;
  const { opened, sent } = totals;
  assertEquals(totals, {
    opened,
    finished: opened,
    broken: 0,
    refused: 0,
    sent,
    received: sent,
    wrong: [],
    reasons: {},
  });
}
