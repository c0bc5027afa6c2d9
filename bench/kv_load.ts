/** Runs redis-benchmark, the load that Redis's authors made, and reads what it says. */

import { capture, reason, start, Unavailable } from "./processes.ts";
import type { Traffic } from "./load.ts";
import type { Work } from "./works.ts";

/** Keys that requests pick from at random, all of which are there. */
const KEYS = 100_000;
/** Requests of the first run, whose rate says how many make up a round. */
const FIRST = 20_000;
const CONNECTING = 5_000;

/** What a server did in the run before, in requests per second. */
const rates = new WeakMap<object, number>();

interface Target {
  readonly port: number;
  /** User and system time of all threads, in ms. */
  cpu(): number;
}

/** Requests for about the given time, ms; the first run of a server is shorter, and gives it its keys. */
export async function runKv(
  prefix: readonly string[],
  work: Work,
  server: Target,
  duration: number,
): Promise<Traffic> {
  let rate = rates.get(server);
  if (rate === undefined) {
    await capture(["redis-benchmark", "--version"], 5_000);
    await fill(server.port);
  }
  const count = rate === undefined ? FIRST : Math.max(Math.round(rate * duration / 1000), 1000);
  const [serverBefore, loadBefore, machineBefore, begun] = [
    server.cpu(),
    childrenCpu(),
    machineCpu(),
    performance.now(),
  ];
  const child = start([
    ...prefix,
    ...["redis-benchmark", "-p", `${server.port}`, "-c", `${work.connections}`, "-n", `${count}`],
    ...["-r", `${KEYS}`, "-d", `${work.size}`, "--csv", ...work.load ?? []],
  ], { stdin: "null", stdout: "piped", stderr: "piped" });
  const { success, stdout, stderr } = await child.output();
  const seconds = (performance.now() - begun) / 1000;
  const text = new TextDecoder().decode(stdout);
  if (!success) throw new Unavailable(reason(new TextDecoder().decode(stderr) || text, "redis-benchmark failed"));
  const [cpu, loadCpu, machine] = [
    server.cpu() - serverBefore,
    childrenCpu() - loadBefore,
    machineCpu() - machineBefore,
  ];
  const column = columnsOf(text);
  rate = column("rps");
  rates.set(server, rate);
  return {
    value: rate,
    cpu: cpu * 1000 / count,
    p50: column("p50_latency_ms") * 1000,
    p99: column("p99_latency_ms") * 1000,
    starved: 0,
    serverBusy: cpu / 1000 / seconds,
    loadBusy: loadCpu / 1000 / seconds,
    othersBusy: (machine - cpu - loadCpu) / 1000 / seconds,
  };
}

/** The last line's columns by name; a server that answers with errors gives none. */
function columnsOf(csv: string): (name: string) => number {
  const lines = csv.trim().split("\n").map((line) => line.split(",").map((cell) => cell.replaceAll('"', "")));
  const [names, values] = [lines.find((line) => line[0] === "test") ?? [], lines.at(-1) ?? []];
  return (name) => {
    const value = Number(values[names.indexOf(name)]);
    if (value > 0) return value;
    throw new Unavailable(`redis-benchmark told no ${name}: ${csv.trim().slice(0, 200)}`);
  };
}

/** Sets all keys that redis-benchmark may ask for, and sees that it was done. */
async function fill(port: number): Promise<void> {
  using conn = await connect(port);
  const values = Array.from({ length: KEYS }, (_, i) => `SET key:${String(i).padStart(12, "0")} xxx\r\n`).join("");
  const replies = "+OK\r\n".length * KEYS;
  const received = (async () => {
    const p = new Uint8Array(64 * 1024);
    let count = 0;
    while (count < replies) {
      const n = await conn.read(p);
      if (n === null) break;
      count += n;
    }
    return count;
  })();
  const bytes = new TextEncoder().encode(values);
  for (let at = 0; at < bytes.length;) at += await conn.write(bytes.subarray(at));
  if (await received !== replies) throw new Unavailable("the server did not take the keys");
}

/** redis-server does not say when it listens. */
async function connect(port: number): Promise<Deno.TcpConn> {
  for (const end = performance.now() + CONNECTING;;) {
    try {
      return await Deno.connect({ port });
    } catch (error) {
      if (performance.now() > end) {
        throw new Unavailable(`cannot connect: ${error instanceof Error ? error.message : ""}`);
      }
      await new Promise((resolve) => setTimeout(resolve, 10));
    }
  }
}

/** CPU time of the processes that this one has started and that have ended, in ms. */
function childrenCpu(): number {
  const text = Deno.readTextFileSync("/proc/self/stat");
  const fields = text.slice(text.lastIndexOf(")") + 2).split(" ");
  return (Number(fields[13]) + Number(fields[14])) * 10;
}

/** CPU time of everything, in ms; what a hypervisor took is none of it, but was not there either. */
function machineCpu(): number {
  const [, user, nice, system, , , irq, softirq, steal] = Deno.readTextFileSync("/proc/stat").split(/\s+/).map(Number);
  return [user, nice, system, irq, softirq, steal].reduce<number>((sum, ticks) => sum + (ticks ?? 0), 0) * 10;
}
