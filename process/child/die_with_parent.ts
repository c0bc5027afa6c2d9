/**
 * A process ends when the one that has started it ends, however that came
 * about: from its first statement on, whether it knows of this library or not.
 */

import { loadedLibc } from "../../internal/libc.ts";
import { threadId } from "../../internal/proc_self.ts";
import { PARENT_FD } from "../../internal/parent_channel.ts";

/**
 * What runs in the child before its own module, from its text alone: nothing is
 * in reach but what is passed.
 *
 * With `--allow-ffi` the kernel ends it, also while it computes, when the thread
 * that has started it ends (`PR_SET_PDEATHSIG` of prctl(2)). Without, it looks
 * from time to time who its parent is, and whoever has started that thread ends
 * it (`closeLeftOpen()` in `threads.ts`). Its end of the socket between the two
 * becomes close-on-exec, so that no program which it starts inherits it.
 */
async function dieWithParent([parent, thread]: [number, number], libc: string, interval: number, socket: number) {
  const SIGKILL = 9n;
  const PR_SET_PDEATHSIG = 1;
  const F_SETFD = 2;
  const FD_CLOEXEC = 1;
  const exitIfAlone = () => {
    if (Deno.ppid !== parent) Deno.exit(1);
  };
  // Not for good: programs may not expect that a library is open.
  const permission = libc.startsWith("/") ? { name: "ffi", path: libc } as const : { name: "ffi" } as const;
  if ((await Deno.permissions.query(permission)).state === "granted") {
    const library = Deno.dlopen(
      libc,
      {
        prctl: { parameters: ["i32", "u64", "u64", "u64", "u64"], result: "i32" },
        fcntl: { parameters: ["i32", "i32", "i32"], result: "i32" },
        syscall: { parameters: ["i64", "i64", "i64", "i64"], result: "i64" },
      } as const,
    );
    library.symbols.prctl(PR_SET_PDEATHSIG, SIGKILL, 0n, 0n, 0n);
    if (socket >= 0) library.symbols.fcntl(socket, F_SETFD, FD_CLOEXEC);
    // Signal 0 only asks whether the thread is there.
    const SYS_TGKILL = Deno.build.arch === "aarch64" ? 131n : 234n;
    if (library.symbols.syscall(SYS_TGKILL, BigInt(parent), BigInt(thread), 0n) !== 0n) Deno.exit(1);
    library.close();
  } else Deno.unrefTimer(setInterval(exitIfAlone, interval));
  // It may have ended before it was asked for.
  exitIfAlone();
}

/** How often a child without `--allow-ffi` looks, in milliseconds. */
const INTERVAL = 200;

/**
 * The module that does it, for `--preload` of `deno run`; it needs no permission.
 *
 * @param hasSocket The process gets {@linkcode PARENT_FD}.
 */
export function dieWithParentModule(hasSocket: boolean): string {
  const values = [[Deno.pid, threadId()], loadedLibc() ?? "", INTERVAL, hasSocket ? PARENT_FD : -1].map((value) =>
    JSON.stringify(value)
  );
  const call = `await (${dieWithParent})(${values.join(", ")});`;
  return `data:text/javascript,${encodeURIComponent(call)}`;
}
