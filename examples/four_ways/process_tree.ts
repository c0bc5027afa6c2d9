/** What a server costs, with all the processes that it has started: proc(5). */

/** Whether it can be told: on Linux, and with `--allow-all`, without which Deno shows nobody /proc. */
export const CAN_LOOK: boolean = read("/proc/self/stat") !== "";

/** A process and all that come from it, as they are now. */
export function processTree(root: number): number[] {
  const parents = new Map<number, number>();
  for (const { name } of Deno.readDirSync("/proc")) {
    if (!/^\d+$/.test(name)) continue;
    const fields = stat(Number(name));
    if (fields !== undefined) parents.set(Number(name), Number(fields[1]));
  }
  const isBelow = (pid: number | undefined): boolean => pid === root || (!!pid && isBelow(parents.get(pid)));
  return [...parents.keys()].filter(isBelow);
}

/** Memory of processes in bytes; what several share is counted once (`Pss`). */
export function memoryOf(pids: readonly number[]): number {
  return pids.reduce((sum, pid) => {
    const kibibytes = /^Pss:\s+(\d+) kB/m.exec(read(`/proc/${pid}/smaps_rollup`))?.[1];
    return sum + Number(kibibytes ?? 0) * 1024;
  }, 0);
}

/** Clock ticks in a second (`USER_HZ`): the same on all Linux of today. */
const TICKS = 100;

/** Processor time of processes in µs, user and system: of all threads, and of children that have ended. */
export function cpuOf(pids: readonly number[]): number {
  return pids.reduce((sum, pid) => {
    const [utime, stime, cutime, cstime] = (stat(pid) ?? []).slice(11, 15).map(Number);
    return sum + ((utime ?? 0) + (stime ?? 0) + (cutime ?? 0) + (cstime ?? 0)) * 1e6 / TICKS;
  }, 0);
}

/** The fields of `/proc/<pid>/stat` from the third on; the second is a name that may hold anything. */
function stat(pid: number): string[] | undefined {
  const text = read(`/proc/${pid}/stat`);
  return text === "" ? undefined : text.slice(text.lastIndexOf(")") + 2).split(" ");
}

/** Open descriptors that a process started here may have: RLIMIT_NOFILE, which Deno raises as far as it may. */
export function descriptorLimit(): number {
  return Number(/^Max open files\s+\d+\s+(\d+)/m.exec(read("/proc/self/limits"))?.[1] ?? Infinity);
}

/** Ports that the kernel gives to clients of one address. */
export function clientPorts(): number {
  const [first, last] = read("/proc/sys/net/ipv4/ip_local_port_range").trim().split(/\s+/).map(Number);
  return first === undefined || last === undefined ? Infinity : last - first + 1;
}

/** A file of /proc, empty when its process has ended or there is no /proc. */
function read(path: string): string {
  try {
    return Deno.readTextFileSync(path);
  } catch {
    return "";
  }
}
