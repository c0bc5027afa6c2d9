/**
 * A process ends when the one that has started it ends, however that came
 * about: from its first statement on, whether it knows of this library or not.
 */

import { loadedLibc } from "../internal/libc.ts";

/**
 * What runs in the child before its own module, from its text alone: nothing is
 * in reach but what is passed.
 *
 * With `--allow-ffi` the kernel ends it, also while it computes (`PR_SET_PDEATHSIG`
 * of prctl(2)); without, it looks from time to time who its parent is.
 */
async function dieWithParent(parent: number, libc: string, interval: number): Promise<void> {
  const SIGKILL = 9n;
  const PR_SET_PDEATHSIG = 1;
  const exitIfAlone = () => {
    if (Deno.ppid !== parent) Deno.exit(1);
  };
  // Not for good: programs may not expect that a library is open.
  const permission = libc.startsWith("/") ? { name: "ffi", path: libc } as const : { name: "ffi" } as const;
  if ((await Deno.permissions.query(permission)).state === "granted") {
    const parameters = ["i32", "u64", "u64", "u64", "u64"] as const;
    const library = Deno.dlopen(libc, { prctl: { parameters, result: "i32" } });
    library.symbols.prctl(PR_SET_PDEATHSIG, SIGKILL, 0n, 0n, 0n);
    library.close();
  } else Deno.unrefTimer(setInterval(exitIfAlone, interval));
  // It may have ended before it was asked for.
  exitIfAlone();
}

/** How often a child without `--allow-ffi` looks, in milliseconds. */
const INTERVAL = 200;

/** The module that does it, for `--preload` of `deno run`; it needs no permission. */
export function dieWithParentModule(): string {
  const call = `await (${dieWithParent})(${Deno.pid}, ${JSON.stringify(loadedLibc() ?? "")}, ${INTERVAL});`;
  return `data:text/javascript,${encodeURIComponent(call)}`;
}
