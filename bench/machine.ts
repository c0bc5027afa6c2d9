/** What the figures depend on: processor, kernel, versions, limits, cores. */

import { compiler } from "./build.ts";
import { capture, Unavailable } from "./processes.ts";

/** The machine and the versions, for the head of the report and its raw data. */
export interface Machine {
  readonly processor: string;
  readonly cores: number;
  readonly kernel: string;
  readonly deno: string;
  readonly v8: string;
  readonly cc: string;
}

/** Asks the system. */
export async function describe(): Promise<Machine> {
  return {
    processor: /^model name\s*:\s*(.+)$/m.exec(read("/proc/cpuinfo"))?.[1] ??
      Deno.build.arch,
    cores: navigator.hardwareConcurrency,
    kernel: `${Deno.build.os} ${Deno.osRelease()}`,
    deno: Deno.version.deno,
    v8: Deno.version.v8,
    cc: await orElse(compiler(), "none"),
  };
}

/** Open descriptors that a child of this process may have. */
export function descriptorLimit(): number {
  const limit = /^Max open files\s+(\d+)/m.exec(read("/proc/self/limits"))?.[1];
  return limit === undefined ? Infinity : Number(limit);
}

/** The prefixes that keep the server on one core and the load on another. */
export interface Pinning {
  readonly server: readonly string[];
  readonly load: readonly string[];
  readonly text: string;
}

/** Pins if asked to and possible. */
export async function pinning(wanted: boolean): Promise<Pinning> {
  if (!wanted) return { server: [], load: [], text: "not pinned" };
  const cores = allowedCores();
  const [first, second] = cores;
  if (first === undefined || second === undefined) {
    return { server: [], load: [], text: "not pinned, one core only" };
  }
  const taskset = await orElse(capture(["taskset", "--version"], 5000), "");
  if (taskset === "") {
    return { server: [], load: [], text: "not pinned, no taskset" };
  }
  return {
    server: ["taskset", "-c", `${first}`],
    load: ["taskset", "-c", `${second}`],
    text: `server on core ${first}, load on core ${second}`,
  };
}

function allowedCores(): number[] {
  const list = /^Cpus_allowed_list:\s*(\S+)/m.exec(read("/proc/self/status"));
  return (list?.[1] ?? "").split(",").flatMap((range) => {
    const [from, to = from] = range.split("-").map(Number);
    if (from === undefined || to === undefined) return [];
    return Array.from({ length: to - from + 1 }, (_, i) => from + i);
  });
}

function read(path: string): string {
  try {
    return Deno.readTextFileSync(path);
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return "";
    throw error;
  }
}

async function orElse(asked: Promise<string>, otherwise: string) {
  try {
    return await asked;
  } catch (error) {
    if (error instanceof Unavailable) return otherwise;
    throw error;
  }
}
