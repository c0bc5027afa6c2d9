/**
 * What this program was denied when it was started. Deno does not tell it to
 * programs, so it is read where the kernel has it: the arguments of the process.
 */

import { O_CLOEXEC } from "../../internal/constants.ts";
import { cString } from "../../internal/c_string.ts";
import { libc } from "../../internal/libc.ts";
import { readVariable } from "../../internal/environment.ts";

/** More arguments than this are not read. */
const LONGEST = 1 << 20;

/** The letters that stand for `--allow-net`, `--allow-import` and `--allow-all`. */
const LETTERS = { net: /^-[a-zA-Z]*[NA]/, import: /^-[a-zA-Z]*[IA]/ } as const;

/** Arguments by which permissions come from elsewhere: the configuration has sets of them. */
const ELSEWHERE = /^(-[a-zA-Z]*P|--permission-set)/;

/**
 * Returns the flags that deny hosts to this program.
 *
 * @returns `undefined` if it is not certain that these are all: permissions can come from a configuration or a broker,
 * and a program that has changed its title has written over its arguments. (One that forges them denies itself nothing:
 * who may start a child may start Deno with whatever flags.)
 */
export function denialFlags(kind: "net" | "import"): string[] | undefined {
  if (readVariable("DENO_PERMISSION_BROKER_PATH") !== undefined) return undefined;
  const flags = readArguments();
  if (flags === undefined || flags.some((flag) => ELSEWHERE.test(flag))) return undefined;
  // Some flag must have granted what this program has, after the name of Deno itself: a title begins there.
  const isGranting = (flag: string, i: number) =>
    i > 0 && (flag === "--allow-all" || flag.split("=", 1)[0] === `--allow-${kind}` || LETTERS[kind].test(flag));
  if (!flags.some(isGranting)) return undefined;
  // What looks like one among the program's own arguments denies the child more, which does no harm.
  return flags.filter((flag) => flag.split("=", 1)[0] === `--deny-${kind}`);
}

/** Whether the program's own arguments are there: else something was written over them. */
function endsWith(all: readonly string[], own: readonly string[]): boolean {
  if (own.length === 0) return all.at(-1) !== "";
  return own.length < all.length && own.every((text, i) => text === all[all.length - own.length + i]);
}

/** The arguments of this process: proc_pid_cmdline(5). */
function readArguments(): string[] | undefined {
  const fd = libc.open(cString("/proc/self/cmdline"), O_CLOEXEC, 0);
  if (fd < 0) return undefined;
  try {
    const bytes = new Uint8Array(LONGEST);
    let size = 0;
    for (let n = 1; n > 0 && size < bytes.length; size += Math.max(n, 0)) {
      n = libc.read(fd, bytes.subarray(size), bytes.length - size);
      if (n < 0) return undefined;
    }
    if (size === bytes.length) return undefined;
    const all = new TextDecoder("utf-8", { fatal: true }).decode(bytes.subarray(0, size)).split("\0");
    // A zero ends each of them.
    if (all.pop() !== "") return undefined;
    return endsWith(all, Deno.args) ? all : undefined;
  } catch {
    return undefined; // not UTF-8
  } finally {
    libc.close(fd);
  }
}
