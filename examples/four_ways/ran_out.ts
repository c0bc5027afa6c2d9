/** What stood in the way of more clients. */

import { openSockets } from "@c10k/sockets/process";
import { engineSupport } from "@c10k/sockets/tcp";
import type { EchoProcess } from "./echo_process.ts";
import type { News } from "./orders.ts";
import { CAN_LOOK, clientPorts, descriptorLimit } from "./process_tree.ts";

/** How opening clients has ended. */
export type Opened = Extract<News, { is: "opened" }>;

/** What the parent watches: memory and time, and whether the server is still there. */
export type Limit = "memory" | "time" | "end";

/** What stood in the way of the next client, from what was seen. */
export function whatRanOut(
  server: EchoProcess,
  { stop, waiting }: Opened,
  limit: Limit | undefined,
  plan: { readonly memory: number; readonly opening: number },
): string {
  const code = typeof stop === "object" ? stop.code : undefined;
  const complaint = server.firstComplaint;
  if (server.hasEnded) return `the server ended: ${complaint ?? "it says nothing"}`;
  if (limit === "memory") return `memory: more than ${count(plan.memory / 2 ** 20)} MiB`;
  if (complaint?.includes("FD_SETSIZE")) return complaint.replace(/, received.*/, "");
  if (code === "EMFILE" || complaint?.includes("EMFILE")) {
    return `descriptors: RLIMIT_NOFILE is ${count(descriptorLimit())}`;
  }
  if (code === "EADDRNOTAVAIL") return `client ports: ip_local_port_range has ${count(clientPorts())}`;
  if (code !== undefined) return `the clients: ${code}`;
  if (complaint !== undefined) return complaint;
  if (stop === "closed") return "the server has disconnected a client";
  if (limit === "time") return `time: ${plan.opening / 1000} s to connect`;
  return `turns: the next ${count(queueOf(server) ?? waiting)} wait to be accepted`;
}

/** Connections that the kernel has finished and the server has not taken. */
function queueOf(server: EchoProcess): number | undefined {
  if (!CAN_LOOK || engineSupport().engine !== "native") return undefined;
  return openSockets(server.pid).find(({ state }) => state === "LISTEN")?.queues?.receive;
}

/** A number for people. */
export function count(n: number): string {
  return Math.round(n).toLocaleString("en-US");
}
