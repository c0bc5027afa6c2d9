/** Which sockets a process has open. */

import { O_CLOEXEC, O_DIRECTORY } from "../../internal/constants.ts";
import { cString } from "../../internal/c_string.ts";
import { Descriptor } from "../../internal/descriptor.ts";
import { chooseEngine } from "../../internal/engine.ts";
import { socketError, SyscallError } from "../../internal/errors.ts";
import { libc } from "../../internal/libc.ts";
import { atCaller } from "../../internal/stack.ts";
import { lastErrno, syscall, syscallError } from "../../internal/syscall.ts";
import { checkInteger } from "../../internal/validate.ts";
import {
  type RawAddr,
  readTables,
  type SocketLine,
  type SocketProtocol,
  type SocketState,
  type SocketType,
  type Tables,
  type Wanted,
} from "./proc_net.ts";

/**
 * One descriptor that refers to a socket.
 *
 * @example What listens
 * ```ts
 * import { openSockets, type SocketInfo } from "@c10k/sockets/process";
 * import { TcpListener } from "@c10k/sockets/tcp";
 *
 * using listener = TcpListener.bind({ hostname: "127.0.0.1", port: 0 });
 * const listening = ({ state }: SocketInfo) => state === "LISTEN";
 * console.log(openSockets().filter(listening).map(({ fd, inode }) => [fd, inode]));
 * ```
 */
export interface SocketInfo {
  /** The descriptor. Duplicates of one have the same {@linkcode SocketInfo.inode}. */
  readonly fd: number;
  /** The number of the socket's inode, which `ss -e` and /proc show; the same in all processes that share it. */
  readonly inode: number;
  /** What the socket speaks. */
  readonly protocol: SocketProtocol;
  /** Its type; `undefined` for netlink, where it means nothing. */
  readonly type: SocketType | undefined;
  /** Its state; `undefined` for netlink and packet sockets, which have none. */
  readonly state: SocketState | undefined;
  /** Its own address on the internet, as the kernel has it; without a zone, which /proc does not tell. */
  readonly localAddr: Deno.NetAddr | RawAddr | undefined;
  /** The peer's address; `undefined` for a listener, and for what is not connected. */
  readonly remoteAddr: Deno.NetAddr | RawAddr | undefined;
  /** What a Unix socket is bound to; an abstract address begins with `@`. */
  readonly path: string | undefined;
  /**
   * What waits in the kernel; `undefined` for Unix and packet sockets, of
   * which /proc does not tell it.
   *
   * Of a connection: the bytes that were received and not read, and those that
   * were written and not acknowledged, where an end of the stream counts as
   * one. Of a TCP listener, `receive` is the number of connections that wait to
   * be accepted. Of datagrams it is the memory that they take, in bytes, which
   * is more than they carry.
   */
  readonly queues: { readonly receive: number; readonly send: number } | undefined;
  /** The user that the socket belongs to; `undefined` for Unix and netlink sockets. */
  readonly uid: number | undefined;
  /** Messages that found the receive queue full and were dropped; `undefined` for TCP, Unix and packet sockets. */
  readonly drops: number | undefined;
  /** Why no more than fd, inode and protocol is known; `undefined` if all was read that the kernel tells. */
  readonly unread: string | undefined;
}

/**
 * The kernel's names of protocols (`struct proto`), and the table of each. A
 * socket has the name that it was made with, of which two are not certain: a
 * Multipath TCP socket stands in TCP's tables once it carries TCP, and
 * `IPV6_ADDRFORM` of ipv6(7) moves a socket to IPv4's.
 */
const PROTOCOLS: ReadonlyMap<string, SocketProtocol> = new Map([
  ["TCP", "tcp"],
  ["TCPv6", "tcp6"],
  ["UDP", "udp"],
  ["UDPv6", "udp6"],
  ["UDP-Lite", "udplite"],
  ["UDPLITEv6", "udplite6"],
  ["RAW", "raw"],
  ["RAWv6", "raw6"],
  ["PING", "icmp"],
  ["PINGv6", "icmp6"],
  ["UNIX", "unix"],
  ["UNIX-STREAM", "unix"],
  ["NETLINK", "netlink"],
  ["PACKET", "packet"],
]);

/** How often a socket that is open is looked for: the first time in the table of its protocol, then in all. */
const LOOKS = 2;

/**
 * Tells which sockets a process has open, as `ss -anp` and /proc tell it.
 *
 * It takes what stands in `/proc/<pid>/fd`, and looks the sockets up in
 * `/proc/<pid>/net`, the tables of the process's own network namespace
 * (proc_pid_fd(5), proc_net(5)). A socket that is in no table is listed too, and
 * {@linkcode SocketInfo.unread} says why nothing more is known. A descriptor
 * that is closed meanwhile is left out. Sockets of other kinds than TCP and UDP
 * are listed as well, pipes and files are not.
 *
 * The time it takes grows with the number of sockets in the namespace that speak
 * the same protocols, not in the process alone.
 *
 * Requires the native engine: Linux and `--allow-ffi`. For another process it
 * requires `--allow-all`, as Deno itself does to read its folder in /proc, and
 * the kernel's leave to inspect it, which is given to the same user and to root
 * (`PTRACE_MODE_READ` of ptrace(2)).
 *
 * @param pid The process; by default this one, with all its Workers.
 * @returns The sockets, in the order of their descriptors.
 * @throws {Deno.errors.NotCapable} If it is another process, and `--allow-all` is not given.
 * @throws {Deno.errors.NotFound} If there is no such process.
 * @throws {Deno.errors.NotSupported} If there is no native engine.
 * @throws {Deno.errors.PermissionDenied} If the kernel does not let this process inspect the other.
 * @throws {RangeError} If `pid` is not an integer from 1 to 2147483647.
 * @throws {TypeError} If `pid` is not a number.
 *
 * @example Find a listener, and the connections that wait for it
 * ```ts
 * import { openSockets } from "@c10k/sockets/process";
 * import { TcpListener } from "@c10k/sockets/tcp";
 *
 * using listener = TcpListener.bind({ hostname: "127.0.0.1", port: 0 });
 * for (const { fd, protocol, state, localAddr, queues, unread } of openSockets()) {
 *   if (localAddr?.port === listener.addr.port) console.log(fd, protocol, state, queues?.receive); // 9 tcp listen 0
 *   if (unread !== undefined) console.log(fd, protocol, unread);
 * }
 * ```
 */
export function openSockets(pid?: number): SocketInfo[] {
  if (pid !== undefined) checkInteger(pid, "pid", 1, 2 ** 31 - 1);
  const action = pid === undefined ? "list open sockets" : `list open sockets of process ${pid}`;
  chooseEngine("native", action);
  const isOther = pid !== undefined && pid !== Deno.pid;
  if (isOther) requireAll(`/proc/${pid}`, action);
  const folder = isOther ? `/proc/${pid}` : "/proc/self";
  try {
    return list(folder);
  } catch (error) {
    if (!(error instanceof SyscallError)) throw error;
    throw inspectionError(action, error, isOther ? `there is no process ${pid}` : "/proc is not mounted");
  }
}

/** A descriptor that was found to be a socket. */
interface Found extends Wanted {
  readonly fd: number;
  /** What the kernel calls its protocol, if it says so. */
  readonly name: string | undefined;
}

function list(folder: string): SocketInfo[] {
  const sockets: SocketInfo[] = [];
  let wanted = descriptorsIn(folder).map((fd) => socketAt(folder, fd)).filter((found) => found !== undefined);
  // The kernel writes a table page by page, and between two pages a line may move past the reader.
  for (let look = 1; look <= LOOKS && wanted.length > 0; look++) {
    const { lines, failures } = readTables(
      `${folder}/net`,
      look === 1 ? wanted : wanted.map(({ inode }) => ({ inode })),
    );
    const missing: Found[] = [];
    for (const found of wanted) {
      const line = lines.get(found.inode);
      if (line !== undefined) {
        sockets.push(socketInfo(found, line));
        continue;
      }
      const again = socketAt(folder, found.fd);
      if (again?.inode !== found.inode) continue; // it was closed, and is rightly in no table
      if (look < LOOKS) missing.push(again);
      else sockets.push(socketInfo(again, {}, reasonFor(`${folder}/net`, again, failures)));
    }
    wanted = missing;
  }
  return sockets.sort((a, b) => a.fd - b.fd);
}

function socketInfo(
  { fd, inode, protocol = "unknown" }: Found,
  line: Partial<SocketLine>,
  unread?: string,
): SocketInfo {
  const { type, state, localAddr, remoteAddr, path, queues, uid, drops } = line;
  return {
    fd,
    inode,
    protocol: line.protocol ?? protocol,
    type,
    state,
    localAddr,
    remoteAddr,
    path,
    queues,
    uid,
    drops,
    unread,
  };
}

/** Why a socket was found in no table. */
function reasonFor(folder: string, { protocol, name }: Found, failures: Tables["failures"]): string {
  // Where nothing tells its table, it may be in any of those that could not be read.
  const suspects = [...failures].filter(([table]) => protocol === table || protocol === undefined);
  const reasons = suspects.map(([table, error]) => `cannot read ${folder}/${table} (${error.message})`);
  if (protocol === undefined) reasons.unshift(`in no table of ${folder}, protocol ${name ?? "not told"}`);
  else if (reasons.length === 0) {
    reasons.push(`not in ${folder}/${protocol}: unused, reset, or of another network namespace`);
  }
  return reasons.join("; ");
}

/** Everything that can be granted: `--allow-all`. */
const KINDS = ["env", "ffi", "import", "net", "read", "run", "sys", "write"] as const;

/**
 * Checks that this program may read in another process's folder. Deno leaves
 * that to programs that may do everything, and neither prompts for it nor takes
 * a path in `--allow-read` for it.
 *
 * @throws {Deno.errors.NotCapable} If it may not.
 */
function requireAll(path: string, action: string): void {
  for (const name of KINDS) {
    const { state, partial } = Deno.permissions.querySync({ name });
    if (state === "granted" && !partial) continue;
    throw atCaller(
      new Deno.errors.NotCapable(
        `Cannot ${action}: requires all access to "${path}", run again with the --allow-all flag`,
      ),
    );
  }
}

/** The error for a process whose descriptors cannot be read; `nothing` says what it means that they are not there. */
function inspectionError(action: string, cause: SyscallError, nothing: string): Error {
  switch (cause.code) {
    case "ENOENT":
      return socketError(action, cause, nothing);
    case "ESRCH": // it ended meanwhile
      return Object.assign(new Deno.errors.NotFound(`Cannot ${action}: ${nothing} (ESRCH)`, { cause }), {
        code: "ESRCH",
      });
    case "EACCES":
    case "EPERM":
      return socketError(action, cause, "the kernel does not let this process inspect it");
    default:
      return socketError(action, cause);
  }
}

/** Bytes for the target of a link, of which only `socket:[…]` matters, and for a protocol's name (net/sock.h: 32). */
const text = new Uint8Array(64);
const decoder = new TextDecoder();

/** The socket that a descriptor refers to; `undefined` if it is closed, or no socket. */
function socketAt(folder: string, fd: number): Found | undefined {
  const path = cString(`${folder}/fd/${fd}`);
  try {
    const n = syscall("readlink", path, text, text.length);
    const inode = /^socket:\[(\d+)\]$/.exec(decoder.decode(text.subarray(0, n)))?.[1];
    if (inode === undefined) return undefined;
    const name = protocolNameAt(path);
    return { fd, inode: Number(inode), name, protocol: PROTOCOLS.get(name ?? "") };
  } catch (error) {
    if (error instanceof SyscallError && error.code === "ENOENT") return undefined;
    throw error;
  }
}

const PROTOCOL_ATTRIBUTE = cString("system.sockprotoname");

/** The kernel's name of a socket's protocol, which net/socket.c keeps as an attribute of its inode: getxattr(2). */
function protocolNameAt(path: Uint8Array<ArrayBuffer>): string | undefined {
  const n = libc.getxattr(path, PROTOCOL_ATTRIBUTE, text, text.length);
  return n > 0 ? decoder.decode(text.subarray(0, n - 1)) : undefined;
}

// asm/unistd_64.h, asm-generic/unistd.h; asm-generic/fcntl.h
const SYS_GETDENTS64 = Deno.build.arch === "aarch64" ? 61n : 217n;

const ENTRIES_SIZE = 32 * 1024;

/** Where `struct linux_dirent64` has the length of an entry and its name, which ends with a zero (getdents(2)). */
const LENGTH_AT = 16;
const NAME_AT = 19;

/**
 * The numbers in a process's `fd` folder, in no order.
 *
 * @throws {SyscallError} If the folder cannot be read.
 */
function descriptorsIn(folder: string): number[] {
  const directory = new Descriptor(syscall("open", cString(`${folder}/fd`), O_DIRECTORY | O_CLOEXEC, 0));
  try {
    const fds: number[] = [];
    const entries = new Uint8Array(ENTRIES_SIZE);
    const view = new DataView(entries.buffer);
    while (true) {
      const end = libc.syscall(SYS_GETDENTS64, BigInt(directory.fd), entries, BigInt(entries.length));
      if (end < 0) throw syscallError("getdents64", lastErrno());
      if (end === 0) return fds;
      for (let at = 0; at < end; at += view.getUint16(at + LENGTH_AT, true)) {
        const name = entries.subarray(at + NAME_AT, entries.indexOf(0, at + NAME_AT));
        const fd = Number(decoder.decode(name));
        if (Number.isInteger(fd)) fds.push(fd); // neither "." nor ".."
      }
    }
  } finally {
    directory.close();
  }
}
