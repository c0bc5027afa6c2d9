/** Sockets that a service manager has opened before it started this program: sd_listen_fds(3). */

import {
  F_GETFD,
  F_SETFD,
  FD_CLOEXEC,
  IPPROTO_TCP,
  IPPROTO_UDP,
  SO_PROTOCOL,
  SO_TYPE,
} from "../../internal/constants.ts";
import { chooseEngine } from "../../internal/engine.ts";
import { SyscallError } from "../../internal/errors.ts";
import { getSocketStruct } from "../../internal/socket.ts";
import { atCaller } from "../../internal/stack.ts";
import { syscall } from "../../internal/syscall.ts";
import { checkOptions, quote } from "../../internal/validate.ts";
import { TcpListener } from "../../tcp/tcp_listener.ts";
import { UdpEndpoint } from "../../udp/udp_endpoint.ts";
import { readVariable } from "../../internal/environment.ts";

/** The first descriptor that is passed: `SD_LISTEN_FDS_START`. */
const FIRST = 3;
/** More than any process may have (`fs.nr_open`). */
const MOST = 1 << 20;

// asm-generic/socket.h, asm-generic/fcntl.h
const SO_ACCEPTCONN = 30;
const TYPES: readonly (string | undefined)[] = [undefined, "stream", "datagram", "raw", undefined, "seqpacket"];

/**
 * Which of the sockets {@linkcode listenFds} returns.
 *
 * @example Those of one unit
 * ```ts
 * import { listenFds, type ListenFdsOptions } from "@c10k/sockets/process";
 *
 * const options: ListenFdsOptions = { name: "web.socket" };
 * console.log(listenFds(options).length); // 0, unless systemd has started this program
 * ```
 */
export interface ListenFdsOptions {
  /** Those of one name: `FileDescriptorName=` of systemd.socket(5), by default the name of the socket unit. */
  name?: string;
}

/** One that was passed, and is not taken yet. */
interface Passed {
  readonly fd: number;
  readonly name: string;
}

let passed: Passed[] | undefined;

function wrong(what: string): Error {
  return atCaller(new Deno.errors.InvalidData(`Cannot take the sockets of the service manager: ${what}`));
}

function whole(name: string, value: string, most: number): number {
  if (/^\d{1,10}$/.test(value) && Number(value) <= most) return Number(value);
  throw wrong(`${name} must be a whole number up to ${most}, is ${quote(value)}`);
}

/** What the variables say, which are for this process only if they name it. */
function readPassed(): Passed[] {
  const pid = readVariable("LISTEN_PID");
  const count = readVariable("LISTEN_FDS");
  if (pid === undefined || count === undefined) return [];
  if (whole("LISTEN_PID", pid, 2 ** 31 - 1) !== Deno.pid) return [];
  const names = readVariable("LISTEN_FDNAMES")?.split(":");
  const fds = Array.from({ length: whole("LISTEN_FDS", count, MOST) }, (_, i) => FIRST + i);
  if (names !== undefined && names.length !== fds.length) {
    throw wrong(`LISTEN_FDNAMES has ${names.length} names, LISTEN_FDS ${fds.length} descriptors`);
  }
  const named = fds.map((fd, i) => ({ fd, name: names?.[i] ?? "unknown" }));
  return named.filter(({ fd }) => closeOnExec(fd));
}

/**
 * Whatever becomes of it: programs that are started from here do not get it. This marks it for the other threads of
 * this process, too, which see the same variables: what is passed to a program cannot be close-on-exec.
 *
 * @returns Whether it was not marked yet.
 */
function closeOnExec(fd: number): boolean {
  try {
    const flags = syscall("fcntl", fd, F_GETFD, 0);
    if ((flags & FD_CLOEXEC) !== 0) return false;
    syscall("fcntl", fd, F_SETFD, flags | FD_CLOEXEC);
    return true;
  } catch (error) {
    if (!(error instanceof SyscallError && error.code === "EBADF")) throw error;
    // Another thread may have closed what it has taken.
    if ("DedicatedWorkerGlobalScope" in globalThis) return false;
    throw wrong(`descriptor ${fd} is not open`);
  }
}

function option(fd: number, number: number): number {
  const value = new Int32Array(1);
  getSocketStruct(fd, number, new Uint8Array(value.buffer));
  return value[0] as number;
}

type Take = (fd: number) => TcpListener | UdpEndpoint;

/** How to take a descriptor; refuses what this library has no class for. */
function takerOf({ fd, name }: Passed): Take {
  let kind: string;
  try {
    const protocol = option(fd, SO_PROTOCOL);
    const listens = option(fd, SO_ACCEPTCONN) === 1;
    if (protocol === IPPROTO_TCP && listens) return (fd) => TcpListener.fromFd(fd);
    if (protocol === IPPROTO_UDP) return (fd) => UdpEndpoint.fromFd(fd);
    const type = TYPES[option(fd, SO_TYPE)] ?? "unknown";
    kind = protocol === IPPROTO_TCP ? "a connected TCP socket" : `a ${type} socket of another protocol`;
  } catch (error) {
    if (!(error instanceof SyscallError)) throw error;
    kind = "no socket";
  }
  throw atCaller(
    new Deno.errors.NotSupported(
      `Cannot take descriptor ${fd} ("${name}") of the service manager: it is ${kind}; ` +
        "TCP listeners and UDP sockets can be taken",
    ),
  );
}

/**
 * Takes the sockets that systemd, or another service manager, has bound and
 * passed to this program: `LISTEN_FDS`, `LISTEN_PID` and `LISTEN_FDNAMES` of
 * sd_listen_fds(3). A service so started needs no right to bind a low port, and
 * no connection is refused while it restarts.
 *
 * Each socket is returned once. They stand in the order of the unit's
 * `ListenStream=` and `ListenDatagram=`. Native engine only; no permission but
 * `--allow-ffi` is needed, since somebody else has bound them. The variables
 * name this very process: `ExecStart=` must run `deno` itself, not a shell or a
 * task that runs it.
 *
 * @param options Which of them.
 * @returns The sockets; none if the program was not started that way.
 * @throws {Deno.errors.InvalidData} If the variables make no sense.
 * @throws {Deno.errors.NotSupported} If one is of a kind that this library has no class for, such as a Unix socket; none
 * is taken then. Or if there is no native engine.
 *
 * @example Be activated, or listen oneself
 * ```ts
 * import { listenFds } from "@c10k/sockets/process";
 * import { TcpListener } from "@c10k/sockets/tcp";
 *
 * const [passed] = listenFds();
 * using listener = passed instanceof TcpListener ? passed : TcpListener.bind({ hostname: "127.0.0.1", port: 0 });
 * console.log(listener.addr);
 * ```
 */
export function listenFds(options: ListenFdsOptions = {}): (TcpListener | UdpEndpoint)[] {
  checkOptions(options);
  const { name } = options;
  if (name !== undefined && typeof name !== "string") {
    throw atCaller(new TypeError(`name must be a string, received ${quote(name)}`));
  }
  chooseEngine("native", "take the sockets of the service manager");
  passed ??= readPassed();
  const wanted = passed.filter((one) => name === undefined || one.name === name);
  const takers = wanted.map(takerOf);
  passed = passed.filter((one) => !wanted.includes(one));
  return wanted.flatMap(({ fd }, i) => takers[i]?.(fd) ?? []);
}
