/**
 * The tables of sockets in `/proc/<pid>/net`: one file a protocol, one line a
 * socket (proc_net(5)). They are read through libc, since Deno itself opens
 * /proc only with all permissions.
 */

import { O_CLOEXEC } from "../../internal/constants.ts";
import { formatIPv4, formatIPv6 } from "../../internal/address.ts";
import { cString } from "../../internal/c_string.ts";
import { Descriptor } from "../../internal/descriptor.ts";
import { SyscallError } from "../../internal/errors.ts";
import { syscall } from "../../internal/syscall.ts";
import type { TcpState } from "../../tcp/tcp_info.ts";

/**
 * What a socket speaks: the name of its table in `/proc/net`, or `"unknown"`
 * for a protocol that has none. An IPv6 socket is `"tcp6"` even where it
 * carries IPv4.
 *
 * @example Count by protocol
 * ```ts
 * import { openSockets, type SocketProtocol } from "@c10k/sockets/process";
 * import { UdpEndpoint } from "@c10k/sockets/udp";
 *
 * using endpoint = UdpEndpoint.bind({ hostname: "127.0.0.1" });
 *
 * const counts = new Map<SocketProtocol, number>();
 * for (const { protocol } of openSockets()) counts.set(protocol, (counts.get(protocol) ?? 0) + 1);
 * console.log(counts.get("udp")); // 1
 * ```
 */
export type SocketProtocol =
  | "tcp"
  | "tcp6"
  | "udp"
  | "udp6"
  | "udplite"
  | "udplite6"
  | "raw"
  | "raw6"
  | "icmp"
  | "icmp6"
  | "unix"
  | "netlink"
  | "packet"
  | "unknown";

/**
 * The states of {@linkcode TcpState}, for the other protocols, too: what is not
 * connected is `"UNCONNECTED"`, and so is a TCP socket before `connect`.
 *
 * @example What is not connected
 * ```ts
 * import { openSockets, type SocketState } from "@c10k/sockets/process";
 * import { UdpEndpoint } from "@c10k/sockets/udp";
 *
 * using endpoint = UdpEndpoint.bind({ hostname: "127.0.0.1" });
 *
 * const state: SocketState = "UNCONNECTED";
 * console.log(openSockets().some((socket) => socket.fd === endpoint.fd && socket.state === state)); // true
 * ```
 */
export type SocketState = Exclude<TcpState, "CLOSE" | "NEW_SYN_RECV"> | "UNCONNECTED";

/**
 * The type that was given to socket(2): `SOCK_STREAM` and so on.
 *
 * @example Datagrams alone
 * ```ts
 * import { openSockets, type SocketType } from "@c10k/sockets/process";
 * import { UdpEndpoint } from "@c10k/sockets/udp";
 *
 * using endpoint = UdpEndpoint.bind({ hostname: "127.0.0.1" });
 *
 * const type: SocketType = "dgram";
 * console.log(openSockets().filter((socket) => socket.type === type).length);
 * ```
 */
export type SocketType = "stream" | "dgram" | "seqpacket" | "raw";

/**
 * The address of a socket on the internet layer, which has no ports.
 *
 * @example Sockets without ports
 * ```ts
 * import { openSockets, type RawAddr } from "@c10k/sockets/process";
 *
 * const isRaw = (addr: { transport: string } | undefined): addr is RawAddr => addr?.transport === "raw";
 * console.log(openSockets().filter(({ localAddr }) => isRaw(localAddr)).length); // 0
 * ```
 */
export interface RawAddr {
  /** `"raw"`, or `"icmp"` for the sockets that ping without privilege: `IPPROTO_ICMP` of icmp(7). */
  transport: "raw" | "icmp";
  /** An IPv4 address, or an IPv6 address without brackets. */
  hostname: string;
  /** What the kernel keeps in the port's place: the IP protocol, of an ICMP socket the identifier. */
  port: number;
}

/** What a table tells of a socket; `undefined` is what it does not tell. */
export interface SocketLine {
  readonly protocol: SocketProtocol;
  readonly type?: SocketType | undefined;
  readonly state?: SocketState | undefined;
  readonly localAddr?: Deno.NetAddr | RawAddr | undefined;
  readonly remoteAddr?: Deno.NetAddr | RawAddr | undefined;
  readonly path?: string | undefined;
  readonly queues?: { readonly receive: number; readonly send: number } | undefined;
  readonly uid?: number | undefined;
  readonly drops?: number | undefined;
}

/** By the kernel's number (net/tcp_states.h), for all protocols. */
const STATES: readonly (SocketState | undefined)[] = [
  undefined,
  "ESTABLISHED",
  "SYN_SENT",
  "SYN_RECV",
  "FIN_WAIT1",
  "FIN_WAIT2",
  "TIME_WAIT",
  "UNCONNECTED",
  "CLOSE_WAIT",
  "LAST_ACK",
  "LISTEN",
  "CLOSING",
  "SYN_RECV",
];

/** By the kernel's number (linux/net.h). */
const TYPES: readonly (SocketType | undefined)[] = [undefined, "stream", "dgram", "raw", undefined, "seqpacket"];

/** `__SO_ACCEPTCON` of linux/net.h: the socket listens. */
const ACCEPTS = 1 << 16;
/** `SS_CONNECTED` of linux/net.h. */
const CONNECTED = 3;

/** How the lines of one file are read. */
interface Table {
  readonly protocol: SocketProtocol;
  /** The column of the inode, from 0. */
  readonly inode: number;
  readonly read: (columns: readonly string[], line: string) => SocketLine;
}

/**
 * `tcp4_seq_show`, `udp4_seq_show`, `raw_sock_seq_show` and their IPv6 kin:
 *
 *     sl  local  remote  st  tx_queue:rx_queue  tr:when  retrnsmt  uid  timeout  inode  [ref  pointer  drops]
 */
function internet(protocol: SocketProtocol, type: SocketType, transport: "tcp" | "udp" | "raw" | "icmp"): Table {
  return {
    protocol,
    inode: 9,
    read(columns) {
      const [, local = "", remote = "", state = "", queues = ""] = columns;
      const [send = "", receive = ""] = queues.split(":");
      return {
        protocol,
        type,
        state: STATES[parseInt(state, 16)],
        localAddr: decodeAddress(local, transport),
        remoteAddr: /^0+:0+$/.test(remote) ? undefined : decodeAddress(remote, transport),
        queues: { receive: parseInt(receive, 16), send: parseInt(send, 16) },
        uid: Number(columns[7]),
        // What follows a TCP socket's inode is something else.
        drops: transport === "tcp" ? undefined : Number(columns[12]),
      };
    },
  };
}

/** Words of 32 bits in the machine's order, which is little-endian here, and a port in hexadecimal digits. */
function decodeAddress(text: string, transport: "tcp" | "udp" | "raw" | "icmp"): Deno.NetAddr | RawAddr {
  const [words = "", port = ""] = text.split(":");
  const bytes = new Uint8Array(words.length / 2);
  const view = new DataView(bytes.buffer);
  for (let at = 0; at < bytes.length; at += 4) {
    view.setUint32(at, parseInt(words.slice(2 * at, 2 * at + 8), 16), true);
  }
  const hostname = bytes.length === 4 ? formatIPv4(bytes) : formatIPv6(bytes);
  return { transport, hostname, port: parseInt(port, 16) };
}

/** `unix_seq_show`: Num RefCount Protocol Flags Type St Inode [Path]; the path may hold spaces. */
const UNIX: Table = {
  protocol: "unix",
  inode: 6,
  read([, , , flags = "", type = "", state = ""], line) {
    const path = /^(?:\S+ +){6}\d+ (.+)$/.exec(line)?.[1];
    const listens = (parseInt(flags, 16) & ACCEPTS) !== 0;
    const unlistening = parseInt(state, 16) === CONNECTED ? "ESTABLISHED" : "UNCONNECTED";
    return { protocol: "unix", type: TYPES[parseInt(type, 16)], state: listens ? "LISTEN" : unlistening, path };
  },
};

/** `netlink_native_seq_show`: sk Eth Pid Groups Rmem Wmem Dump Locks Drops Inode. */
const NETLINK: Table = {
  protocol: "netlink",
  inode: 9,
  read: ([, , , , receive, send, , , drops]) => ({
    protocol: "netlink",
    queues: { receive: Number(receive), send: Number(send) },
    drops: Number(drops),
  }),
};

/** `packet_seq_show`: sk RefCnt Type Proto Iface R Rmem User Inode. */
const PACKET: Table = {
  protocol: "packet",
  inode: 8,
  read: ([, , type, , , , , uid]) => ({ protocol: "packet", type: TYPES[Number(type)], uid: Number(uid) }),
};

const TABLES: readonly Table[] = [
  internet("tcp", "stream", "tcp"),
  internet("tcp6", "stream", "tcp"),
  UNIX,
  internet("udp", "dgram", "udp"),
  internet("udp6", "dgram", "udp"),
  NETLINK,
  PACKET,
  internet("raw", "raw", "raw"),
  internet("raw6", "raw", "raw"),
  internet("icmp", "dgram", "icmp"),
  internet("icmp6", "dgram", "icmp"),
  internet("udplite", "dgram", "udp"),
  internet("udplite6", "dgram", "udp"),
];

/** A socket that is looked for. */
export interface Wanted {
  readonly inode: number;
  /** Where to look for it; everywhere, if that is not known. */
  readonly protocol?: SocketProtocol | undefined;
}

/** What {@linkcode readTables} found, and which tables it could not read. */
export interface Tables {
  readonly lines: Map<number, SocketLine>;
  readonly failures: Map<SocketProtocol, SyscallError>;
}

/**
 * Looks up sockets in the tables of a network namespace, and reads none
 * without need: that of TCP can have as many lines as the machine has
 * connections.
 *
 * @param folder The folder with the tables, for example `/proc/self/net`.
 * @param wanted The sockets that are looked for.
 * @returns The lines by their inodes; what is in no table is not among them.
 */
export function readTables(folder: string, wanted: readonly Wanted[]): Tables {
  const tables: Tables = { lines: new Map(), failures: new Map() };
  for (const { protocol: table, inode: column, read } of TABLES) {
    const inodes = new Set<number>();
    for (const { inode, protocol = table } of wanted) {
      if (protocol === table && !tables.lines.has(inode)) inodes.add(inode);
    }
    if (inodes.size === 0) continue;
    try {
      for (const line of linesOf(`${folder}/${table}`)) {
        const inode = integerAt(line, column);
        if (inodes.delete(inode)) tables.lines.set(inode, read(line.trim().split(/ +/), line));
      }
    } catch (error) {
      if (!(error instanceof SyscallError)) throw error;
      tables.failures.set(table, error);
    }
  }
  return tables;
}

const SPACE = 0x20;

/** The integer in a column, without taking the line apart: most lines are of other sockets. */
function integerAt(line: string, column: number): number {
  let at = 0;
  for (let i = 0; i <= column; i++) {
    while (line.charCodeAt(at) === SPACE) at++;
    if (i === column) break;
    while (at < line.length && line.charCodeAt(at) !== SPACE) at++;
  }
  return parseInt(line.slice(at, at + 20), 10);
}

// asm-generic/fcntl.h
/** A table is written a page at a time; this leaves room for what later kernels do. */
const CHUNK_SIZE = 64 * 1024;

/** The lines of a file, which may be longer than memory should hold. */
function* linesOf(path: string): Generator<string, void, void> {
  const file = new Descriptor(syscall("open", cString(path), O_CLOEXEC, 0));
  try {
    const chunk = new Uint8Array(CHUNK_SIZE);
    const decoder = new TextDecoder();
    let rest = "";
    for (let n = syscall("read", file.fd, chunk, chunk.length); n > 0;) {
      const lines = (rest + decoder.decode(chunk.subarray(0, n), { stream: true })).split("\n");
      rest = lines.pop() ?? "";
      yield* lines;
      n = syscall("read", file.fd, chunk, chunk.length);
    }
  } finally {
    file.close();
  }
}
