/**
 * The lines of the library that no test reaches, and why: by file and reason,
 * the text of the first line of each block. What stands under {@linkcode RACE}
 * is reached by some runs and not by others.
 */

const OTHER_SYSTEM = "another operating system, machine or C library";
const KERNEL = "the kernel refuses what it has always given";
const RACE = "two events in the same moment, in an order that cannot be brought about";
const GUARD = "its callers do not come there; it stands against a mistake in them";
const NO_REPORT = "runs in processes that write no report: they are killed, or started without its variable";

const UNREACHED: Readonly<Record<string, Readonly<Record<string, readonly string[]>>>> = {
  "internal/ledger.ts": {
    [RACE]: ["const errno = lastErrno();"],
  },
  "internal/libc.ts": {
    [OTHER_SYSTEM]: [
      'if (os !== "linux") return `the native engine runs on Linux only, not on ${os}`;',
      'if (arch !== "x86_64" && arch !== "aarch64") return `the native engine does not run on ${arch}`;',
      'if (env !== "gnu") return `the native engine needs glibc, not ${env ?? "another C library"}`;',
    ],
  },
  "internal/owner.ts": {
    [KERNEL]: ["if (!(error instanceof SyscallError)) throw error;"],
    [GUARD]: ["if (memory === 0n) return fds;"],
  },
  "internal/resolve.ts": {
    [GUARD]: ["if (size > SOCKADDR_SIZE) continue;", 'throw failed("ENOTFOUND", 0);'],
  },
  "mux/native_socket.ts": {
    [GUARD]: ["if (!(error instanceof SyscallError)) throw error;", "poll(): number {"],
  },
  "process/die_with_parent.ts": {
    [NO_REPORT]: [
      "async function dieWithParent([parent, thread]: [number, number], libc: string, interval: number, socket: number) {",
    ],
  },
  "process/hand_over.ts": {
    [KERNEL]: [
      "throw new Deno.errors.WouldBlock(`Cannot hand a connection to ${child.child.name}: it takes none`);",
    ],
  },
  "process/listen_fds.ts": {
    [GUARD]: [
      'if (!(error instanceof SyscallError && error.code === "EBADF")) throw error;',
      "if (!(error instanceof SyscallError)) throw error;",
    ],
  },
  "process/open_sockets.ts": {
    [GUARD]: ["if (!(error instanceof SyscallError)) throw error;"],
    [RACE]: [
      "return Object.assign(new Deno.errors.NotFound(`Cannot ${action}: ${nothing} (ESRCH)`, { cause }), {",
      'if (end < 0) throw syscallError("getdents64", lastErrno());',
    ],
  },
  "process/pool.ts": {
    [GUARD]: ['if (state === "ended") return [];'],
  },
  "process/proc_net.ts": {
    [GUARD]: ["if (!(error instanceof SyscallError)) throw error;"],
  },
  "process/serve.ts": {
    [GUARD]: ["if (this.#listener !== undefined || this.#fd < 0) return;"],
    [RACE]: ["if (conn === undefined) break;"],
  },
  "process/spawn_for.ts": {
    [OTHER_SYSTEM]: [
      'throw notSupportedError(`send ${signal} to ${this.command} on Windows`, "SIGTERM and SIGKILL end it");',
    ],
  },
  "process/spawn_process.ts": {
    [NO_REPORT]: ['throw notSupportedError(`${action} from a compiled program`, "run it with deno, or use threads");'],
  },
  "process/supervisor.ts": {
    [RACE]: [
      'if (this.#isEnding) throw new Deno.errors.Interrupted("Cannot start a child: the pool was closed meanwhile");',
    ],
  },
  "process/unix_socket.ts": {
    [KERNEL]: ["throw error;"],
  },
  "process/upgrade.ts": {
    [KERNEL]: ["return false;"],
  },
  "tcp/native_conn.ts": {
    [KERNEL]: ['if (!(error instanceof SyscallError && error.code === "ENOTCONN")) throw error;'],
  },
  "tcp/native_connect.ts": {
    [GUARD]: ["if (!(error instanceof SyscallError)) throw error;"],
    [RACE]: ["if (won) return conn.close();"],
  },
  "udp/native_endpoint.ts": {
    [OTHER_SYSTEM]: ["} catch { /* the kernel has none */ }"],
    [GUARD]: ["if (!(error instanceof SyscallError)) throw error;"],
  },
};

const ROOT = new URL("..", import.meta.url).pathname;

/** A line with nothing but brackets belongs to the block that it ends. */
function isBracket(text: string): boolean {
  return !/\w/.test(text);
}

function indentOf(line: string): number {
  return line.length - line.trimStart().length;
}

/**
 * What a report in the format of lcov shows as not reached, for no reason that is given here.
 *
 * @returns A line `file:number: text` for each.
 */
export async function unexplained(lcov: string): Promise<string[]> {
  const left: string[] = [];
  for (const record of lcov.split("end_of_record")) {
    const path = /^SF:(.*)$/m.exec(record)?.[1];
    if (path === undefined) continue;
    const file = path.slice(ROOT.length);
    const known = new Set(Object.values(UNREACHED[file] ?? {}).flat());
    const source = (await Deno.readTextFile(path)).split("\n");
    /** How far the first line of a block is indented for which there is a reason; what is deeper belongs to it. */
    let indent = Infinity;
    for (const [, number, count] of record.matchAll(/^DA:(\d+),(\d+)/gm)) {
      const line = source[Number(number) - 1] as string;
      const text = line.trim();
      if (count !== "0") indent = Infinity;
      else if (known.has(text)) indent = indentOf(line);
      else if (!isBracket(text) && indentOf(line) <= indent) {
        indent = Infinity;
        left.push(`${file}:${number}: ${text}`);
      }
    }
  }
  return left;
}
