/**
 * posix_spawn(3): a program gets a descriptor as its standard input and output.
 * It is written in C and safe beside V8's threads, as fork(2) is not.
 */

import {
  P_PIDFD,
  SIGINFO_SIZE,
  SYS_PIDFD_OPEN,
  SYS_PIDFD_SEND_SIGNAL,
  WEXITED,
  WNOHANG,
} from "../../internal/constants.ts";
import { constants } from "node:os";
import { cString } from "../../internal/c_string.ts";
import { Descriptor } from "../../internal/descriptor.ts";
import { SyscallError } from "../../internal/errors.ts";
import { libc } from "../../internal/libc.ts";
import { lastErrno, syscall, syscallError } from "../../internal/syscall.ts";
import { signalName } from "./signal.ts";

// spawn.h; the structs have 80 and 336 bytes.
const POSIX_SPAWN_SETSIGDEF = 0x04;
const POSIX_SPAWN_SETSIGMASK = 0x08;
const FILE_ACTIONS_SIZE = 128;
const ATTRIBUTES_SIZE = 512;
/** `sigset_t` of glibc, in bytes. */
const SIGSET_SIZE = 128;
// asm-generic/unistd.h and asm/unistd_64.h: the same for both.
// sys/wait.h
const P_PID = 1;
// siginfo_t of asm-generic/siginfo.h: si_code at 8, si_pid at 16 (12 before the padding), si_status at 24.
const CLD_EXITED = 1;

/**
 * Signals that a program keeps ignoring if this one was started so: `nohup` and a shell's background jobs ignore them
 * on purpose, for all that is started below.
 */
const KEPT_SIGNALS = ["SIGHUP", "SIGINT", "SIGQUIT"] as const;
/** What runs scripts that do not say what runs them. */
const SHELL = "/bin/sh";

/** How a program has ended. */
export interface Ended {
  readonly code: number;
  readonly signal: Deno.Signal | undefined;
}

/** What is started. */
export interface Program {
  /** What it is called by: its first argument. */
  readonly command: string;
  /** The absolute path of its file. */
  readonly file: string;
  readonly args: readonly string[];
  /** `NAME=value` each. */
  readonly environment: readonly string[];
  readonly cwd: string | undefined;
}

/**
 * Starts a program; `files[n]` becomes its descriptor n, and it inherits this program's n where that is `undefined`.
 * No signal is blocked there, and all but {@linkcode KEPT_SIGNALS} are as they are by default: Deno ignores SIGPIPE,
 * which programs in a pipeline die of, and a supervisor may have left others ignored. A script without `#!` is run by
 * the shell, as by execvp(3).
 *
 * @returns Its process.
 * @throws {SyscallError} If it cannot be started: ENOENT, EACCES and so on.
 */
export function spawn(program: Program, files: readonly (number | undefined)[]): number {
  try {
    return start(program, files);
  } catch (error) {
    if (!(error instanceof SyscallError && error.code === "ENOEXEC")) throw error;
    return start({ ...program, command: SHELL, file: SHELL, args: [program.file, ...program.args] }, files);
  }
}

function start({ command, file, args, environment, cwd }: Program, files: readonly (number | undefined)[]): number {
  const actions = new Uint8Array(FILE_ACTIONS_SIZE);
  const attributes = new Uint8Array(ATTRIBUTES_SIZE);
  check(libc.posix_spawn_file_actions_init(actions));
  try {
    check(libc.posix_spawnattr_init(attributes));
    try {
      files.forEach((fd, n) => {
        if (fd !== undefined) check(libc.posix_spawn_file_actions_adddup2(actions, fd, n));
      });
      if (cwd !== undefined) {
        check(libc.posix_spawn_file_actions_addchdir_np?.(actions, cString(cwd, "cwd")) ?? constants.errno.ENOSYS);
      }
      check(libc.posix_spawnattr_setflags(attributes, POSIX_SPAWN_SETSIGDEF | POSIX_SPAWN_SETSIGMASK));
      check(libc.posix_spawnattr_setsigmask(attributes, new Uint8Array(SIGSET_SIZE)));
      check(libc.posix_spawnattr_setsigdefault(attributes, standardSignals()));
      const pid = new Int32Array(new ArrayBuffer(128));
      const argv = new StringArray([command, ...args]);
      const envp = new StringArray(environment);
      check(
        libc.posix_spawn(
          new Uint8Array(pid.buffer),
          cString(file, "command"),
          actions,
          attributes,
          argv.pointers,
          envp.pointers,
        ),
      );
      return pid[0] as number;
    } finally {
      libc.posix_spawnattr_destroy(attributes);
    }
  } finally {
    libc.posix_spawn_file_actions_destroy(actions);
  }
}

/** The signals that a program begins with as they are by default, as a `sigset_t`. */
function standardSignals(): Uint8Array<ArrayBuffer> {
  const set = new Uint8Array(SIGSET_SIZE);
  const kept = KEPT_SIGNALS.map((name) => constants.signals[name] as number);
  // 32 and 33 are the C library's own.
  for (let signal = 1; signal < 32; signal++) {
    if (!kept.includes(signal)) set[(signal - 1) >> 3]! |= 1 << ((signal - 1) & 7);
  }
  return set;
}

/** These functions return errno instead of setting it. */
function check(errno: number): void {
  if (errno !== 0) throw syscallError("posix_spawn", errno);
}

/** Texts as C has them: an array of pointers that ends with a null pointer. */
class StringArray {
  readonly pointers: Uint8Array<ArrayBuffer>;
  /** What they point into. It must not move, which small buffers inside V8's heap may. */
  readonly texts: Uint8Array<ArrayBuffer>;

  constructor(texts: readonly string[]) {
    const encoded = texts.map((text) => cString(text));
    this.texts = new Uint8Array(new ArrayBuffer(Math.max(encoded.reduce((sum, { length }) => sum + length, 0), 128)));
    const pointers = new BigUint64Array(new ArrayBuffer(Math.max((texts.length + 1) * 8, 128)));
    let address = BigInt(libc.memcpy_address(this.texts, null, 0));
    let at = 0;
    encoded.forEach((text, i) => {
      this.texts.set(text, at);
      pointers[i] = address;
      at += text.length;
      address += BigInt(text.length);
    });
    this.pointers = new Uint8Array(pointers.buffer);
  }
}

/**
 * pidfd_open(2) of a child that was just started: a descriptor that is readable
 * when it has ended, and never becomes another process. Without one the child
 * is ended.
 */
export function openPidfd(pid: number): number {
  const pidfd = libc.syscall(SYS_PIDFD_OPEN, BigInt(pid), null, 0n);
  if (pidfd >= 0) return pidfd;
  const error = syscallError("pidfd_open", lastErrno());
  libc.kill(pid, constants.signals.SIGKILL);
  libc.waitid(P_PID, pid, new Uint8Array(SIGINFO_SIZE), WEXITED);
  throw error;
}

/** Waits on this thread until a child that was killed has ended, for a second at most, and reaps it. */
export function awaitEnd(pid: number): void {
  const pidfd = libc.syscall(SYS_PIDFD_OPEN, BigInt(pid), null, 0n);
  if (pidfd < 0) return;
  const POLLIN = 1;
  libc.poll(new Uint8Array(new Int32Array([pidfd, POLLIN]).buffer), 1, 1_000);
  libc.close(pidfd);
  // Nobody else waits for it any more.
  libc.waitid(P_PID, pid, new Uint8Array(SIGINFO_SIZE), WEXITED | WNOHANG);
}

/** pidfd_send_signal(2); a process that has ended already is no error. */
export function signalPidfd(pidfd: number, signal: number): void {
  if (libc.pidfd_send_signal(SYS_PIDFD_SEND_SIGNAL, pidfd, signal, null, 0) === 0) return;
  const errno = lastErrno();
  if (errno !== constants.errno.ESRCH) throw syscallError("pidfd_send_signal", errno);
}

/**
 * waitid(2) of a child that may go on; it is no zombie after.
 *
 * @returns `undefined` if it goes on.
 * @throws {SyscallError} `ECHILD` if it has ended and its status is lost.
 */
export function reap(pidfd: number): Ended | undefined {
  const info = new Uint8Array(SIGINFO_SIZE);
  syscall("waitid", P_PIDFD, pidfd, info, WEXITED | WNOHANG);
  const view = new DataView(info.buffer);
  if (view.getInt32(16, true) === 0) return undefined;
  const status = view.getInt32(24, true);
  if (view.getInt32(8, true) === CLD_EXITED) return { code: status, signal: undefined };
  return { code: 128 + status, signal: signalName(status) };
}

/** A descriptor of `/dev/null`, for reading and writing. */
export function openNull(): Descriptor {
  const O_RDWR_CLOEXEC = 0o2000002;
  return new Descriptor(syscall("open", cString("/dev/null"), O_RDWR_CLOEXEC, 0));
}
