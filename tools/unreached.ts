/**
 * The lines of the library that no test reaches, and why: by file and reason,
 * the text of the first line of each block. What stands under {@linkcode RACE}
 * is reached by some runs and not by others.
 */

const OTHER_SYSTEM = "another operating system, kernel, machine or C library, or another version of Deno";
const KERNEL = "the kernel refuses what it has always given";
const RACE = "two events in the same moment, in an order that cannot be brought about";
const GUARD = "its callers do not come there; it stands against a mistake in them";
const COST = "takes more time, memory or threads than a test may";
const PRIVILEGED = "the kernel refuses it to users other than root only, and the tests may run as root";
const NO_REPORT = "runs in processes that write no report: they are killed, or started without its variable";

const UNREACHED: Readonly<Record<string, Readonly<Record<string, readonly string[]>>>> = {
  "internal/descriptor.ts": {
    [GUARD]: ["} catch { /* the others are closed still */ }", "if (holders[this.#fd] !== this) return;"],
  },
  "internal/foreign_memory.ts": {
    [KERNEL]: ["if (this.#size === 0) throw new RangeError(`Cannot allocate ${size} bytes`);"],
  },
  "internal/ledger.ts": {
    [KERNEL]: [
      "if (!lock(ledger)) return;",
      "else if (errno !== EINTR && errno !== EAGAIN) return false;",
      "if (base < 0n) return () => {};",
    ],
    [RACE]: [
      "const errno = lastErrno();",
      'if (fd < 0) return "";',
      "if (errno === EDEADLK) return true;",
      "if (errno === ESRCH) writeWord(ledger, 0, 0);",
      "if (pidfd < 0) return;",
    ],
    [COST]: ["if (free < 0) return () => {};"],
    [GUARD]: ["if (base === 0n) open();"],
    [NO_REPORT]: [
      "wake(ledger, () => true);",
      "awaitThreads(threads);",
      "if (isProgram && awaitProgram(fd)) continue;",
      "programs.add(pidfd);",
      "enter(pidfd);",
      "enterProgram(pidfd);",
      "if (programTimer === undefined) {",
      "return true;",
      "function reapPrograms(): void {",
      "function awaitThreads(threads: ReadonlySet<number>): void {",
      "function awaitProgram(pidfd: number): boolean {",
      "if (reapProgram(pidfd)) return false;",
    ],
  },
  "internal/libc.ts": {
    [OTHER_SYSTEM]: [
      'if (os !== "linux") return `the native engine runs on Linux only, not on ${os}`;',
      'if (arch !== "x86_64" && arch !== "aarch64") return `the native engine does not run on ${arch}`;',
      'if (env !== "gnu") return `the native engine needs glibc, not ${env ?? "another C library"}`;',
    ],
  },
  "internal/owner.ts": {
    [KERNEL]: [
      "if (!(error instanceof SyscallError)) throw error;",
      "if (owner === 0n || within === 0n) return undefined;",
      "if (!joined) join();",
      "return 0n;",
      "if (record === undefined) return;",
    ],
    [RACE]: [
      "if (owner === 0n || readWord(recordAt(owner, memory)) !== 0n) continue;",
      "if (record === undefined) continue;",
    ],
    [COST]: ["throw new Error(`Cannot start a thread: ${RECORDS} are known`);"],
    [GUARD]: ["if (memory === 0n) return fds;"],
  },
  "internal/resolve.ts": {
    [GUARD]: ["if (size > SOCKADDR_SIZE) continue;", 'throw failed("ENOTFOUND", 0);'],
  },
  "internal/shared_memory.ts": {
    [OTHER_SYSTEM]: [
      "if (fd < 0) fd = libc.memfd_create(SYS_MEMFD_CREATE, cString(name), MFD_CLOEXEC | MFD_ALLOW_SEALING);",
    ],
    [KERNEL]: [
      'if (fd < 0) throw syscallError("memfd_create", lastErrno());',
      'if (address === MAP_FAILED) throw syscallError("mmap", lastErrno());',
    ],
  },
  "internal/socket.ts": {
    [GUARD]: ["if (!(error instanceof SyscallError)) throw error;"],
  },
  "internal/unload.ts": {
    [GUARD]: ["} catch { /* what follows is still to be done */ }"],
  },
  "poll/polled_socket.ts": {
    [GUARD]: ["if (!(error instanceof SyscallError)) throw error;"],
  },
  "poll/reactor.ts": {
    [RACE]: ["if (isUnloaded()) return;"],
  },
  "poll/trouble_watch.ts": {
    [GUARD]: [
      "if (!(error instanceof SyscallError)) throw error;",
      "else if (error.errno !== EPERM && error.errno !== EBADF) throw error;",
    ],
  },
  "process/child/die_with_parent.ts": {
    [NO_REPORT]: [
      "async function dieWithParent([parent, thread]: [number, number], libc: string, interval: number, socket: number) {",
    ],
  },
  "internal/environment.ts": {
    [OTHER_SYSTEM]: ["if (found === 0n) return initialEnvironment();"],
    [KERNEL]: ["if (fd < 0) return [];"],
  },
  "process/pool/hand_over.ts": {
    [KERNEL]: ["throw new Deno.errors.WouldBlock(`Cannot hand a connection to ${child.child.name}: it takes none`);"],
  },
  "process/child/launch_flags.ts": {
    [KERNEL]: [
      "if (fd < 0) return undefined;",
      "if (n < 0) return undefined;",
      'if (all.pop() !== "") return undefined;',
    ],
  },
  "process/inspect/listen_fds.ts": {
    [GUARD]: [
      'if (!(error instanceof SyscallError && error.code === "EBADF")) throw error;',
      "if (!(error instanceof SyscallError)) throw error;",
    ],
  },
  "process/inspect/open_sockets.ts": {
    [RACE]: [
      "return Object.assign(new Deno.errors.NotFound(`Cannot ${action}: ${nothing} (ESRCH)`, { cause }), {",
      'if (end < 0) throw syscallError("getdents64", lastErrno());',
    ],
    [GUARD]: ["if (!(error instanceof SyscallError)) throw error;"],
  },
  "process/program/pipe_reader.ts": {
    [KERNEL]: [
      "writer.close();",
      "throw error;",
      'if (errno !== EINTR) throw socketError(`read ${this.#pipe.name}`, syscallError("read", errno));',
    ],
    [GUARD]: ["if (!this.#pipe.isOpen) return;"],
  },
  "process/pool/pool.ts": {
    [GUARD]: ['if (state === "ended") return [];'],
  },
  "process/pool/pool_child.ts": {
    [RACE]: ['if (this.state !== "starting") return;'],
  },
  "process/program/posix_spawn.ts": {
    [RACE]: ["if (pidfd < 0) return;"],
  },
  "process/inspect/proc_net.ts": {
    [GUARD]: ["if (!(error instanceof SyscallError)) throw error;"],
  },
  "process/message/process_transport.ts": {
    [COST]: ["if (bytes === undefined) throw refusal;"],
  },
  "process/program/program_end.ts": {
    [GUARD]: ['if (!(error instanceof SyscallError && error.code === "ECHILD")) throw error;'],
  },
  "process/program/program_file.ts": {
    [GUARD]: ["throw error;"],
  },
  "process/pool/serve.ts": {
    [RACE]: ["if (conn === undefined) break;"],
    [GUARD]: ["if (this.#listener !== undefined || this.#fd < 0) return;", "if (this.#fd < 0) return;"],
  },
  "process/message/socket_file.ts": {
    [OTHER_SYSTEM]: ['if (!(error instanceof SyscallError && error.code === "EAGAIN")) return;'],
    [PRIVILEGED]: ['if (error instanceof SyscallError && error.code === "EACCES") return act();'],
    [RACE]: [
      'if (file?.type !== "socket") throw new SyscallError("stat", "ENOENT");',
      "removeFile(path, file);",
      "throw error;",
    ],
  },
  "process/child/spawn_for.ts": {
    [GUARD]: ["if (!lostStatus(error)) throw error;"],
    [OTHER_SYSTEM]: [
      'throw notSupportedError(`send ${signal} to ${this.command} on Windows`, "SIGTERM and SIGKILL end it");',
    ],
  },
  "process/child/spawn_process.ts": {
    [KERNEL]: ["socket.close();", "this.kill();", "return error as Error;"],
    [NO_REPORT]: ['throw notSupportedError(`${action} from a compiled program`, "run it with deno, or use threads");'],
  },
  "process/pool/supervisor.ts": {
    [RACE]: [
      'throw atCaller(new Deno.errors.BadResource("Cannot start a child: the pool was closed meanwhile"));',
      "if (this.#slots[slot] !== undefined) return;",
    ],
  },
  "process/child/thread.ts": {
    [OTHER_SYSTEM]: ["if (!(error instanceof Error)) return String(error);"],
  },
  "process/message/thread_transport.ts": {
    [RACE]: ["} catch { /* no descriptors are left; the next connection tries again */ }"],
    [OTHER_SYSTEM]: [
      'throw notSupportedError("send a socket with so high a descriptor to a thread", "open it with a lower one");',
    ],
  },
  "process/child/thread_end.ts": {
    [RACE]: ["if (performance.now() > end) return takeSockets(owner, new Set());"],
  },
  "process/message/unix_socket.ts": {
    [KERNEL]: ["throw error;"],
  },
  "process/pool/upgrade.ts": {
    [KERNEL]: ["return false;", "for (const other of others) other.close();", "throw error;"],
    [RACE]: ['if (error.code === "ENOENT") return undefined;'],
    [GUARD]: ["if (control === undefined || file === undefined) return undefined;"],
  },
  "process/child/worker_ref.ts": {
    [OTHER_SYSTEM]: ['throw notSupportedError("unref a thread", "this version of Deno has no way to, use a process");'],
  },
  "tcp/native_conn.ts": {
    [KERNEL]: ['if (!(error instanceof SyscallError && error.code === "ENOTCONN")) throw error;'],
  },
  "tcp/native_connect.ts": {
    [RACE]: ["if (won) return conn.close();"],
    [GUARD]: ["if (!(error instanceof SyscallError)) throw error;"],
  },
  "tcp/native_acceptor.ts": {
    [KERNEL]: ["this.#report(error as Error);", "new Descriptor(fd).close();", "throw error;"],
  },
  "tcp/runtime_listener.ts": {
    [KERNEL]: ["this.#left = 0;"],
    [RACE]: ["if (!this.#accepting) this.#ended();"],
    [COST]: ["if (performance.now() > latest && !this.#backoff.waiting) break;"],
  },
  "tcp/self_connect.ts": {
    [RACE]: ["} catch { /* it is gone already */ }"],
  },
  "tcp/streams.ts": {
    [RACE]: ["if (this.#cancelled) return;"],
  },
  "udp/native_endpoint.ts": {
    [OTHER_SYSTEM]: ["} catch { /* the kernel has none */ }"],
    [GUARD]: ["if (!(error instanceof SyscallError)) throw error;"],
  },
  "udp/runtime_sending.ts": {
    [RACE]: ['if (this.#closed) throw closedMeanwhileError(action, "endpoint");'],
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
