/** What stood in the way of more clients. */

import { openSockets } from "@c10k/sockets/process";
import { engineSupport } from "@c10k/sockets/tcp";
import type { EchoProcess } from "./echo_process.ts";
import type { News } from "./orders.ts";
import { CAN_LOOK, clientPorts, descriptorLimit } from "./process_tree.ts";

/** Descriptors that a server or the clients' process has beside one for each client. */
const SPARE = 64;

/** Which limits will stand in the way of so many clients, and what raises them. */
export function foresee(clients: number): string[] {
  const [descriptors, ports] = [clients + SPARE, clientPorts()];
  const problems: string[] = [];
  if (descriptorLimit() < descriptors) {
    problems.push(
      `${count(clients)} clients need ${count(descriptors)} descriptors in one process, and RLIMIT_NOFILE allows ` +
        `${count(descriptorLimit())}. Raise it: "ulimit -n ${descriptors}" as root in the shell that starts this, ` +
        `LimitNOFILE=${descriptors} in a systemd unit, or "* hard nofile ${descriptors}" in /etc/security/limits.conf`,
    );
  }
  if (ports < clients) {
    problems.push(
      `${count(clients)} clients need as many ports, and net.ipv4.ip_local_port_range has ${count(ports)}. ` +
        `Raise it: sysctl -w net.ipv4.ip_local_port_range="${Math.max(65536 - clients - SPARE, 1024)} 65535"`,
    );
  }
  return problems;
}

/** How opening clients has ended. */
export type Opened = Extract<News, { is: "opened" }>;

/** What the parent watches: memory, time, whether the server is still there, and whether it accepts. */
export type Limit = "memory" | "time" | "end" | "turns";

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
  if (limit === "turns") return `turns: the next ${count(queueOf(server) ?? waiting)} wait to be accepted`;
  return `time: ${plan.opening / 1000} s to connect`;
}

/** Connections that the kernel has finished and the server has not taken; `undefined` if that cannot be told. */
export function queueOf(server: EchoProcess): number | undefined {
  if (!CAN_LOOK || engineSupport().engine !== "native") return undefined;
  return openSockets(server.pid).find(({ state }) => state === "LISTEN")?.queues?.receive;
}

/** A number for people. */
export function count(n: number): string {
  return Math.round(n).toLocaleString("en-US");
}
