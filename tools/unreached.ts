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
  "internal/libc.ts": {
    [OTHER_SYSTEM]: [
      'if (os !== "linux") return `the native engine runs on Linux only, not on ${os}`;',
      'if (arch !== "x86_64" && arch !== "aarch64") return `the native engine does not run on ${arch}`;',
      'if (env !== "gnu") return `the native engine needs glibc, not ${env ?? "another C library"}`;',
    ],
  },
  "internal/owner.ts": {
    [KERNEL]: ["if (address === 0n) throw new Error(`Cannot allocate ${size} bytes`);"],
    [GUARD]: ["if (table === 0n) return fds;"],
  },
  "internal/resolve.ts": {
    [GUARD]: ["if (size > SOCKADDR_SIZE) continue;", 'throw failed("ENOTFOUND", 0);'],
  },
  "mux/native_socket.ts": {
    [GUARD]: ["if (!(error instanceof SyscallError)) throw error;", "poll(): number {"],
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
    let last = 0;
    let isKnown = false;
    for (const [, number] of record.matchAll(/^DA:(\d+),0\b/gm)) {
      const line = Number(number);
      const text = (source[line - 1] as string).trim();
      isKnown = known.has(text) || (line === last + 1 && isKnown);
      if (!isKnown && !isBracket(text)) left.push(`${file}:${line}: ${text}`);
      last = line;
    }
  }
  return left;
}
