/** openSockets(): the descriptor table, against the sockets that a test opens, and against ss(8). */

import { openSockets, type SocketInfo } from "@c10k/sockets/process";
import { TcpConn, TcpListener } from "@c10k/sockets/tcp";
import { UdpEndpoint } from "@c10k/sockets/udp";
import { assert, assertEquals, assertMatch, assertStrictEquals, assertThrows } from "@std/assert";
import { formatAddress } from "../internal/address.ts";
import { readTables } from "../process/inspect/proc_net.ts";
import { Descriptors, kernel } from "./_kernel.ts";
import { namespaceTest } from "./_namespace.ts";
import { runStarved } from "./_process.ts";
import {
  decode,
  encode,
  ENGINES,
  eventually,
  hasCommand,
  long,
  Pair,
  ROOT,
  runDeno,
  ServerProcess,
  sized,
  some,
  withoutLeaks,
} from "./_util.ts";

const native = ENGINES.includes("native");

/** Declares a test for the native engine, which must leave no descriptors open. */
function nativeTest(name: string, fn: () => Promise<void> | void, ignore = false): void {
  Deno.test({ name, ignore: !native || ignore, fn: () => withoutLeaks(fn) });
}

/** The socket with a descriptor; fails if it is not listed. */
function socketOf(fd: number | undefined, pid?: number): SocketInfo {
  const socket = openSockets(pid).find((socket) => socket.fd === fd);
  assert(socket !== undefined, `descriptor ${fd} is not listed`);
  return socket;
}

const UNTOLD = {
  type: undefined,
  state: undefined,
  localAddr: undefined,
  remoteAddr: undefined,
  path: undefined,
  queues: undefined,
  uid: undefined,
  drops: undefined,
  unread: undefined,
};

const UID = Deno.uid() ?? 0;

// --- TCP

for (const engine of ENGINES) {
  nativeTest(`openSockets() lists a listener and both ends of a connection of the ${engine} engine`, async () => {
    using pair = await Pair.open(engine);
    const { listener, client, server } = pair;
    const sockets = openSockets().filter(({ localAddr, remoteAddr }) =>
      localAddr?.port === listener.addr.port || remoteAddr?.port === listener.addr.port
    );
    assertEquals(sockets.length, 3);
    const told = (local: Deno.NetAddr, remote: Deno.NetAddr | undefined) => {
      const found = sockets.find(({ localAddr, remoteAddr }) =>
        localAddr?.port === local.port && remoteAddr?.port === remote?.port
      );
      assert(found !== undefined);
      const { fd, inode, ...rest } = found;
      assert(inode > 0);
      assertEquals(rest, {
        ...UNTOLD,
        protocol: "tcp",
        type: "stream",
        state: remote === undefined ? "LISTEN" : "ESTABLISHED",
        localAddr: local,
        remoteAddr: remote,
        queues: { receive: 0, send: 0 },
        uid: UID,
      });
      return { fd, inode };
    };
    const found = [
      told(listener.addr, undefined),
      told(client.localAddr, client.remoteAddr),
      told(server.localAddr, server.remoteAddr),
    ];
    if (engine === "native") {
      assertEquals(found.map(({ fd }) => fd), [listener.fd, client.fd, server.fd]);
      assertEquals(found.map(({ inode }) => inode), [listener.inode, client.inode, server.inode]);
    }
  });
}

nativeTest("openSockets() tells the bytes in a connection's receive queue", async () => {
  using pair = await Pair.open("native");
  await pair.client.writeAll(new Uint8Array(12_345));
  await eventually(() => pair.server.queues().receive === 12_345 || undefined);
  assertEquals(socketOf(pair.server.fd).queues, { receive: 12_345, send: 0 });
  assertEquals(socketOf(pair.client.fd).queues, { receive: 0, send: pair.client.queues().send });
});

nativeTest("openSockets() tells the bytes in a connection's send queue", async () => {
  using pair = await Pair.open("native");
  const p = new Uint8Array(64 * 1024);
  while (pair.client.tryWrite(p) !== undefined);
  // Acknowledgements may be on their way still.
  await eventually(() => {
    const { queues } = socketOf(pair.client.fd);
    assert(queues !== undefined);
    return queues.send > 0 && queues.send === pair.client.queues().send || undefined;
  });
});

nativeTest("openSockets() tells how many connections wait for accept", async () => {
  using listener = TcpListener.bind({ hostname: "127.0.0.1", port: 0, engine: "native" });
  using stack = new DisposableStack();
  for (let i = 0; i < 3; i++) stack.use(await TcpConn.connect({ port: listener.addr.port, engine: "native" }));
  await eventually(() => listener.queue().length === 3 || undefined);
  assertEquals(socketOf(listener.fd).queues, { receive: 3, send: 0 });
});

nativeTest("openSockets() tells the states of a connection that is closed on one side", async () => {
  using pair = await Pair.open("native");
  await pair.client.closeWrite();
  await eventually(() => socketOf(pair.client.fd).state === "FIN_WAIT2" || undefined);
  assertEquals(socketOf(pair.server.fd).state, "CLOSE_WAIT");
  // The end of the stream is in the queue too.
  assertEquals(socketOf(pair.server.fd).queues, { receive: 1, send: 0 });
});

nativeTest("openSockets() tells IPv6 addresses, v4-mapped ones as the kernel has them", async () => {
  using listener = TcpListener.bind({ hostname: "::", port: 0, engine: "native" });
  const { port } = listener.addr;
  assertEquals(socketOf(listener.fd).protocol, "tcp6");
  assertEquals(socketOf(listener.fd).localAddr, { transport: "tcp", hostname: "::", port });
  for (const [hostname, seen] of [["::1", "::1"], ["127.0.0.1", "::ffff:127.0.0.1"]] as const) {
    const accepted = listener.accept();
    using client = await TcpConn.connect({ hostname, port, engine: "native" });
    using server = await accepted;
    const { protocol, localAddr, remoteAddr, state } = socketOf(server.fd);
    assertEquals([protocol, state], ["tcp6", "ESTABLISHED"]);
    assertEquals(localAddr, { transport: "tcp", hostname: seen, port });
    assertEquals(remoteAddr, { transport: "tcp", hostname: seen, port: client.localAddr.port });
    assertEquals(socketOf(client.fd).protocol, hostname === "::1" ? "tcp6" : "tcp");
  }
});

// --- UDP

nativeTest("openSockets() lists UDP endpoints, connected or not", () => {
  using a = UdpEndpoint.bind({ hostname: "127.0.0.1", port: 0, engine: "native" });
  using b = UdpEndpoint.bind({ hostname: "127.0.0.1", port: 0, engine: "native" });
  b.connect(a.addr);
  const { fd: _fd, inode, ...rest } = socketOf(a.fd);
  assertEquals(inode, a.inode);
  assertEquals(rest, {
    ...UNTOLD,
    protocol: "udp",
    type: "dgram",
    state: "UNCONNECTED",
    localAddr: a.addr,
    queues: { receive: 0, send: 0 },
    uid: UID,
    drops: 0,
  });
  const { state, localAddr, remoteAddr } = socketOf(b.fd);
  assertEquals([state, localAddr, remoteAddr], ["ESTABLISHED", b.addr, a.addr]);
});

nativeTest("openSockets() tells what waits for a UDP endpoint, and what was dropped", () => {
  using to = UdpEndpoint.bind({ hostname: "::1", port: 0, receiveBufferSize: 4096, engine: "native" });
  using from = UdpEndpoint.bind({ hostname: "::1", port: 0, engine: "native" });
  const p = new Uint8Array(1000);
  from.trySendTo(p, to.addr);
  const { protocol, queues, drops } = socketOf(to.fd);
  assertEquals([protocol, drops], ["udp6", 0]);
  assert(queues !== undefined && queues.receive >= p.length);
  // On the loopback a datagram has arrived, or was dropped, when send returns.
  const sent = 50;
  for (let i = 1; i < sent; i++) from.trySendTo(p, to.addr);
  const dropped = socketOf(to.fd).drops;
  let received = 0;
  while (to.tryRecvFrom(p) !== undefined) received++;
  assertEquals(dropped, sent - received);
  assert(received < sent);
});

// --- other families

nativeTest("openSockets() lists Unix sockets with their paths", async () => {
  const folder = await Deno.makeTempDir();
  try {
    const path = `${folder}/a name: with spaces`;
    using listener = Deno.listen({ transport: "unix", path });
    const accepted = listener.accept();
    using _client = await Deno.connect({ transport: "unix", path });
    using _server = await accepted;
    const named = openSockets().filter((socket) => socket.path === path);
    const common = { ...UNTOLD, protocol: "unix", type: "stream", path };
    assertEquals(
      named.map(({ fd: _fd, inode: _inode, ...rest }) => rest).sort((a, b) => a.state === b.state ? 0 : 1),
      [{ ...common, state: "LISTEN" }, { ...common, state: "ESTABLISHED" }] as typeof named,
    );
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
});

const AF_UNIX = 1;
const AF_INET = 2;
const AF_INET6 = 10;
const AF_NETLINK = 16;
const AF_PACKET = 17;
const AF_VSOCK = 40;
const SOCK_STREAM = 1;
const SOCK_DGRAM = 2;
const SOCK_RAW = 3;
const SOCK_SEQPACKET = 5;
const SOCK_CLOEXEC = 0o2000000;
const ETH_P_ARP = 0x0608; // in the network's order
const IPPROTO_ICMP = 1;
const IPPROTO_MPTCP = 262;

for (
  const [what, domain, type, protocol, expected] of [
    ["a Unix datagram socket", AF_UNIX, SOCK_DGRAM, 0, { protocol: "unix", type: "dgram", state: "UNCONNECTED" }],
    ["a Unix seqpacket socket", AF_UNIX, SOCK_SEQPACKET, 0, {
      protocol: "unix",
      type: "seqpacket",
      state: "UNCONNECTED",
    }],
    ["a netlink socket without address", AF_NETLINK, SOCK_RAW, 0, {
      protocol: "netlink",
      unread: "not in /proc/self/net/netlink: unused, reset, or of another network namespace",
    }],
    ["a packet socket", AF_PACKET, SOCK_RAW, ETH_P_ARP, { protocol: "packet", type: "raw", uid: UID }],
    ["a raw socket", AF_INET, SOCK_RAW, IPPROTO_ICMP, {
      protocol: "raw",
      type: "raw",
      state: "UNCONNECTED",
      localAddr: { transport: "raw", hostname: "0.0.0.0", port: IPPROTO_ICMP },
      queues: { receive: 0, send: 0 },
      uid: UID,
      drops: 0,
    }],
    ["a TCP socket without address", AF_INET, SOCK_STREAM, 0, {
      protocol: "tcp",
      unread: "not in /proc/self/net/tcp: unused, reset, or of another network namespace",
    }],
    ["a UDP socket without address", AF_INET6, SOCK_DGRAM, 0, {
      protocol: "udp6",
      unread: "not in /proc/self/net/udp6: unused, reset, or of another network namespace",
    }],
    ["a Multipath TCP socket without address", AF_INET, SOCK_STREAM, IPPROTO_MPTCP, {
      protocol: "unknown",
      unread: "in no table of /proc/self/net, protocol MPTCP",
    }],
    ["a socket between virtual machines", AF_VSOCK, SOCK_STREAM, 0, {
      protocol: "unknown",
      unread: "in no table of /proc/self/net, protocol AF_VSOCK",
    }],
  ] as const
) {
  const open = () => native ? kernel.socket(domain, type | SOCK_CLOEXEC, protocol) : -1;
  const probe = open();
  if (probe >= 0) kernel.close(probe);
  // Some need privilege, others a kernel with the protocol.
  nativeTest(`openSockets() lists ${what}`, () => {
    const fd = open();
    try {
      const { fd: _fd, inode, ...rest } = socketOf(fd);
      assert(inode > 0);
      assertEquals(rest, { ...UNTOLD, ...expected } as typeof rest);
    } finally {
      kernel.close(fd);
    }
  }, probe < 0);
}

nativeTest("openSockets() lists a netlink socket", () => {
  const fd = kernel.socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, 0);
  try {
    const sockaddr = new Uint8Array(12);
    sockaddr[0] = AF_NETLINK;
    assertEquals(kernel.bind(fd, sockaddr, sockaddr.length), 0);
    const { fd: _fd, inode: _inode, ...rest } = socketOf(fd);
    assertEquals(rest, { ...UNTOLD, protocol: "netlink", queues: { receive: 0, send: 0 }, drops: 0 });
  } finally {
    kernel.close(fd);
  }
});

const mptcp = native ? kernel.socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, IPPROTO_MPTCP) : -1;
if (mptcp >= 0) kernel.close(mptcp);

nativeTest("openSockets() finds a Multipath TCP socket that carries TCP in TCP's table", () => {
  using listener = TcpListener.bind({ hostname: "127.0.0.1", port: 0, engine: "native" });
  const fd = kernel.socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, IPPROTO_MPTCP);
  try {
    const { port } = listener.addr;
    const sockaddr = new Uint8Array([AF_INET, 0, port >> 8, port & 255, 127, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0]);
    assertEquals(kernel.connect(fd, sockaddr, sockaddr.length), 0);
    const { protocol, state, remoteAddr, unread } = socketOf(fd);
    assertEquals([protocol, state, remoteAddr, unread], ["tcp", "ESTABLISHED", listener.addr, undefined]);
  } finally {
    kernel.close(fd);
  }
}, mptcp < 0);

long(nativeTest)("openSockets() names a connection that was reset, which is in no table any more", async () => {
  using pair = await Pair.open("native");
  pair.client.reset();
  const socket = await eventually(() => {
    const socket = socketOf(pair.server.fd);
    return socket.unread === undefined ? undefined : socket;
  });
  assertEquals([socket.protocol, socket.state, socket.inode], ["tcp", undefined, pair.server.inode]);
});

// --- the descriptor table

nativeTest("openSockets() is sorted by descriptor, and lists duplicates with one inode", () => {
  using descriptors = new Descriptors();
  using listener = TcpListener.bind({ hostname: "127.0.0.1", port: 0, engine: "native" });
  descriptors.duplicate(listener.fd as number, 500);
  descriptors.duplicate(listener.fd as number, 100);
  const sockets = openSockets();
  const fds = sockets.map(({ fd }) => fd);
  assertEquals(fds, fds.toSorted((a, b) => a - b));
  assertEquals(new Set(fds).size, fds.length);
  const same = sockets.filter(({ inode }) => inode === listener.inode);
  assertEquals(same.map(({ fd }) => fd), [listener.fd as number, 100, 500]);
  assertEquals(new Set(same.map(({ localAddr }) => localAddr?.port)), new Set([listener.addr.port]));
});

nativeTest("openSockets() lists sockets only, and leaves nothing open", () => {
  using descriptors = new Descriptors();
  const others = [...descriptors.pipe(), descriptors.eventfd(), descriptors.file("/dev/null")];
  const sockets = () => {
    const found = new Map<number, string>();
    for (const { name } of Deno.readDirSync("/proc/self/fd")) {
      try {
        found.set(Number(name), Deno.readLinkSync(`/proc/self/fd/${name}`));
      } catch { /* the descriptor of this very listing */ }
    }
    return found;
  };
  const before = sockets();
  const listed = openSockets();
  assertEquals(sockets(), before);
  const links = [...before].filter(([, link]) => link.startsWith("socket:")).sort(([a], [b]) => a - b);
  assertEquals(listed.map(({ fd, inode }) => [fd, `socket:[${inode}]`]), links as [number, string][]);
  assert(!listed.some(({ fd }) => others.includes(fd)));
});

nativeTest("openSockets() reads a table of more descriptors than one getdents64 gives", () => {
  using descriptors = new Descriptors();
  const [a] = descriptors.pair();
  const copies = Array.from({ length: 2_000 }, () => descriptors.duplicate(a));
  const { inode } = socketOf(a);
  const listed = openSockets().filter((socket) => socket.inode === inode);
  assertEquals(listed.map(({ fd }) => fd), [a, ...copies]);
});

nativeTest("openSockets(Deno.pid) is this process", () => {
  using _listener = TcpListener.bind({ hostname: "127.0.0.1", port: 0, engine: "native" });
  assertEquals(openSockets(Deno.pid), openSockets());
});

long(nativeTest)("openSockets() leaves out what is closed while it looks, and never fails", async () => {
  const library = import.meta.resolve("@c10k/sockets/tcp");
  const source = `
    import { TcpConn, TcpListener } from "${library}";
    const listener = TcpListener.bind({ hostname: "127.0.0.1", port: 0, engine: "native" });
    postMessage("running");
    let isRunning = true;
    addEventListener("message", () => isRunning = false);
    const open = [];
    while (isRunning) {
      open.push(...await Promise.all([TcpConn.connect({ port: listener.addr.port }), listener.accept()]));
      if (open.length > 20) open.splice(0, 2).forEach((conn) => conn.reset());
      await new Promise((resolve) => setTimeout(resolve)); // to hear the message
    }
    for (const conn of open) conn.reset();
    listener.close();
    postMessage("stopped");
    close();`;
  const worker = new Worker(URL.createObjectURL(new Blob([source], { type: "application/typescript" })), {
    type: "module",
  });
  const heard = () => new Promise((resolve) => worker.onmessage = ({ data }) => resolve(data));
  assertEquals(await heard(), "running");
  using pair = await Pair.open("native");
  const mine = [pair.listener, pair.client, pair.server];
  const inodes = mine.map(({ inode }) => inode);
  const seen = new Set<number>();
  for (let i = 0; i < sized(5, 30) || seen.size < sized(20, 60); i++) {
    const sockets = openSockets();
    for (const { inode } of sockets) seen.add(inode);
    // What stays open is in every list, and told in full.
    const stayed = mine.map(({ fd }) => sockets.find((socket) => socket.fd === fd));
    assertEquals(stayed.map((socket) => socket?.inode), inodes);
    assertEquals(stayed.map((socket) => socket?.unread), [undefined, undefined, undefined]);
    for (const { protocol, unread } of sockets) {
      if (unread !== undefined) assertMatch(`${protocol} ${unread}`, /^tcp not in /);
    }
  }
  const stopped = heard();
  worker.postMessage("stop");
  assertEquals(await stopped, "stopped");
});

// --- against ss(8)

/** What `ss` prints of one descriptor. */
interface Printed {
  state: string;
  receive: number;
  send: number;
  local: string;
  remote: string;
  inode: number;
}

const SS_STATES: Readonly<Record<string, string>> = { ESTAB: "ESTABLISHED", UNCONN: "UNCONNECTED" };

/** The sockets of a process as `ss -anpe` prints them, by descriptor. */
async function ss(flags: string, pid: number): Promise<Map<number, Printed>> {
  const { stdout } = await new Deno.Command("ss", { args: ["-HOne", flags], stdin: "null" }).output();
  const printed = new Map<number, Printed>();
  for (const line of decode(stdout).split("\n")) {
    // Where sockets can be of several types, the type comes first.
    const [state = "", receive, send, local = "", remote = ""] = line.replace(/^u_\w+/, "").trim().split(/\s+/);
    const inode = Number(/ ino:(\d+)/.exec(line)?.[1]);
    for (const [, fd] of line.matchAll(new RegExp(`pid=${pid},fd=(\\d+)`, "g"))) {
      const name = SS_STATES[state] ?? state.replaceAll("-", "_").replace(/_(\d)$/, "$1");
      printed.set(Number(fd), { state: name, receive: Number(receive), send: Number(send), local, remote, inode });
    }
  }
  return printed;
}

/** The same of {@linkcode openSockets}. */
function asPrinted({ state, localAddr, remoteAddr, queues, inode, protocol }: SocketInfo): Printed {
  const any = protocol.endsWith("6") ? "[::]:*" : "0.0.0.0:*";
  assert(state !== undefined && localAddr !== undefined && queues !== undefined);
  const remote = remoteAddr === undefined ? any : formatAddress(remoteAddr);
  return { state, ...queues, local: formatAddress(localAddr), remote, inode };
}

/** `ss` writes the wildcard of a dual-stack socket as `*`, and shows the backlog where a listener sends nothing. */
function unified({ state, send, local, remote, ...rest }: Printed): Printed {
  return {
    ...rest,
    state,
    send: state === "LISTEN" ? 0 : send,
    local: local.replace(/^\*:/, "[::]:"),
    remote: remote === "*:*" ? "[::]:*" : remote,
  };
}

/** Whether a socket is local. If the cache was empty, Deno still holds the connection by which it got the packages. */
function isHere({ local }: Printed): boolean {
  return /^(127\.|0\.0\.0\.0:|\[::1?\]:|\[::ffff:127\.)/.test(local);
}

/** Compares what both tell of a process, and returns how many sockets that are. */
async function compare(kind: "tcp" | "udp", pid: number): Promise<number> {
  const ours = openSockets(pid).filter(({ protocol }) => protocol === kind || protocol === `${kind}6`)
    .map((socket) => [socket.fd, asPrinted(socket)] as const).filter(([, printed]) => isHere(printed));
  const theirs = [...await ss(kind === "tcp" ? "-tap" : "-uap", pid)]
    .map(([fd, printed]) => [fd, unified(printed)] as const).filter(([, printed]) => isHere(printed));
  assertEquals(new Map(ours), new Map(theirs.sort(([a], [b]) => a - b)));
  return ours.length;
}

const withSs = hasCommand("ss") ? "with ss" : "missing: ss";

nativeTest(`openSockets() tells what ss -tanp tells of this process (${withSs})`, async () => {
  // Those of the runtime itself, such as a connection by which it has downloaded packages.
  const before = await compare("tcp", Deno.pid);
  using four = await Pair.open("native");
  using runtime = await Pair.open("runtime");
  using six = TcpListener.bind({ hostname: "::1", port: 0, engine: "native" });
  using dual = TcpListener.bind({ hostname: "::", port: 0, engine: "native" });
  using _waiting = await TcpConn.connect({ hostname: "::1", port: six.addr.port, engine: "native" });
  using _mapped = await TcpConn.connect({ hostname: "127.0.0.1", port: dual.addr.port, engine: "native" });
  using _server = await dual.accept();
  await four.client.writeAll(encode("unread"));
  await runtime.server.closeWrite();
  await eventually(() => four.client.queues().send === 0 || undefined);
  await eventually(() => six.queue().length === 1 || undefined);
  await eventually(() => openSockets().some(({ state }) => state === "FIN_WAIT2") || undefined);
  assertEquals(await compare("tcp", Deno.pid) - before, 11);
}, !hasCommand("ss"));

nativeTest(`openSockets() tells what ss -uanp tells of this process (${withSs})`, async () => {
  using a = UdpEndpoint.bind({ hostname: "127.0.0.1", port: 0, engine: "native" });
  using b = UdpEndpoint.bind({ hostname: "::", port: 0, engine: "native" });
  using c = UdpEndpoint.bind({ hostname: "127.0.0.1", port: 0, engine: "native" });
  c.connect(a.addr);
  await c.send(encode("unread"));
  assertStrictEquals(b.peer, undefined);
  assertEquals(await compare("udp", Deno.pid), 3);
}, !hasCommand("ss"));

for (const engine of ENGINES) {
  long(nativeTest)(
    `openSockets(pid) tells what ss -tanp tells of a server on the ${engine} engine (${withSs})`,
    async () => {
      const flags = ["--allow-net", ...(engine === "native" ? ["--allow-ffi"] : [])];
      await using server = await ServerProcess.start([...flags, "examples/echo.ts", "--port", "0", "--engine", engine]);
      using client = await TcpConn.connect({ port: server.port, engine: "native" });
      await client.writeAll(encode("x"));
      await client.read(new Uint8Array(1));
      // Our acknowledgement may be delayed, and their byte is in their send queue until then.
      await eventually(() =>
        openSockets(server.pid).every(({ queues }) => queues === undefined || queues.send === 0) || undefined
      );
      assertEquals(await compare("tcp", server.pid), 2);
      const [listener, conn] = openSockets(server.pid).filter(({ protocol }) => protocol === "tcp");
      assertEquals([listener?.state, listener?.localAddr?.port], ["LISTEN", server.port]);
      assertEquals(conn?.remoteAddr, client.localAddr);
    },
    !hasCommand("ss"),
  );
}

nativeTest(`openSockets() tells what ss -xap tells of Unix sockets (${withSs})`, async () => {
  using descriptors = new Descriptors();
  descriptors.pair();
  const ours = openSockets().filter(({ protocol }) => protocol === "unix");
  const theirs = await ss("-xap", Deno.pid);
  // Their two columns of an address are the path and the inode.
  assertEquals(
    ours.map(({ fd, state, path, inode }) => [fd, state, path ?? "*", String(inode)]),
    [...theirs].map(([fd, { state, local, remote }]) => [fd, state, local, remote]).sort(([a], [b]) =>
      Number(a) - Number(b)
    ) as never[],
  );
}, !hasCommand("ss"));

namespaceTest("openSockets(pid) reads the tables of the process's own network namespace", async ({ run }) => {
  const source = `
    import { openSockets } from "@c10k/sockets/process";
    const source = 'Deno.listen({ hostname: "10.9.0.2", port: 4567 }).accept(); console.log("listening")';
    const child = new Deno.Command("ip", {
      args: ["netns", "exec", "peer", Deno.execPath(), "eval", source],
      stdout: "piped",
    }).spawn();
    await child.stdout[Symbol.asyncIterator]().next();
    const [listener] = openSockets(child.pid).filter(({ protocol }) => protocol === "tcp");
    console.log(listener.state, listener.localAddr.hostname, listener.localAddr.port, listener.unread);
    child.kill("SIGKILL");
    await child.status;`;
  const { stdout, stderr } = await run(source);
  assertEquals([stdout, stderr], ["LISTEN 10.9.0.2 4567 undefined\n", ""]);
});

// --- what cannot be read

nativeTest("openSockets(pid) of a process that has ended throws NotFound", async () => {
  const child = new Deno.Command(Deno.execPath(), { args: ["--version"], stdout: "null" }).spawn();
  await child.status;
  const error = assertThrows(() => openSockets(child.pid), Deno.errors.NotFound);
  assertEquals(
    error.message,
    `Cannot list open sockets of process ${child.pid}: there is no process ${child.pid} (ENOENT)`,
  );
  assertEquals((error as { code?: string }).code, "ENOENT");
  assertEquals((error.cause as { syscall?: string }).syscall, "open");
});

for (
  const [value, ErrorClass, message] of [
    ["1", TypeError, `pid must be a number, received "1"`],
    [null, TypeError, "pid must be a number, received null"],
    [1n, TypeError, "pid must be a number, received 1n"],
    [0, RangeError, "pid must be an integer from 1 to 2147483647, received 0"],
    [-1, RangeError, "pid must be an integer from 1 to 2147483647, received -1"],
    [1.5, RangeError, "pid must be an integer from 1 to 2147483647, received 1.5"],
    [NaN, RangeError, "pid must be an integer from 1 to 2147483647, received NaN"],
    [2 ** 31, RangeError, "pid must be an integer from 1 to 2147483647, received 2147483648"],
  ] as const
) {
  Deno.test(`openSockets(${Deno.inspect(value)}) throws ${ErrorClass.name}`, () => {
    assertThrows(() => openSockets(value as unknown as number), ErrorClass as typeof Error, message);
  });
}

/** A program that prints whether a process has a TCP socket, or what was thrown. */
const list = (pid: string) => `
  import { openSockets } from "@c10k/sockets/process";
  Deno.permissions.requestSync = () => { throw new Error("asked"); };
  try {
    console.log(openSockets(${pid}).map(({ protocol }) => protocol).filter((protocol) => protocol === "tcp")[0] ?? "none");
  } catch (error) {
    console.log(error.name + ": " + error.message);
  }`;

const needsAll = (pid: string) =>
  `NotCapable: Cannot list open sockets of process ${pid}: requires all access to "/proc/${pid}", ` +
  "run again with the --allow-all flag";
const most = ["env", "ffi", "import", "net", "read", "run", "sys"].map((kind) => `--allow-${kind}`);

for (
  const [flags, pid, expected] of some(6, [
    [["--allow-ffi"], "", "none"],
    [["--allow-ffi", "--deny-read"], "", "none"],
    [["--allow-ffi", "--deny-read"], "Deno.pid", "none"],
    [["--allow-ffi"], "1", needsAll("1")],
    [["--allow-ffi", "--allow-read"], "1", needsAll("1")],
    [["--allow-ffi", "--allow-read=/proc/1", "--allow-sys"], "1", needsAll("1")],
    [most, "1", needsAll("1")],
    [["--allow-all", "--deny-read=/etc"], "1", needsAll("1")],
    [["--allow-all", "--deny-net=127.0.0.1"], "1", needsAll("1")],
    // Whether there is such a process is nobody's business either.
    [["--allow-ffi"], "2147483647", needsAll("2147483647")],
    [
      ["--allow-all"],
      "2147483647",
      "NotFound: Cannot list open sockets of process 2147483647: there is no process 2147483647 (ENOENT)",
    ],
    [[...most, "--allow-write"], String(Deno.pid), "tcp"],
    [["--allow-all"], String(Deno.pid), "tcp"],
  ] as [string[], string, string][])
) {
  const name = `openSockets(${pid === String(Deno.pid) ? "parent" : pid}) with [${flags.join(" ")}]`;
  nativeTest(name, async () => {
    using _listener = TcpListener.bind({ hostname: "127.0.0.1", port: 0, engine: "native" });
    const { code, stdout, stderr } = await runDeno(flags, list(pid));
    assertEquals([code, stdout, stderr], [0, `${expected}\n`, ""]);
  });
}

Deno.test("openSockets() without the native engine throws NotSupported", async () => {
  const { stdout } = await runDeno(["--allow-net"], list(""));
  assertMatch(
    stdout,
    /^NotSupported: Cannot list open sockets on the native engine: (run with --allow-ffi|the native)/,
  );
});

nativeTest("openSockets() says that descriptors have run out", async () => {
  const { stdout, stderr } = await runStarved(`
    import { openSockets } from "@c10k/sockets/process";
    fill();
    try { openSockets(); } catch (error) { console.log(error.message); }
    free();
    console.log(openSockets().length > 0);`);
  assertEquals([stdout, stderr], [
    "Cannot list open sockets: too many open files in this process (EMFILE)\ntrue\n",
    "",
  ]);
});

const canDrop = UID === 0 && hasCommand("setpriv");

nativeTest("openSockets(pid) of another user's process throws PermissionDenied (as root, with setpriv)", async () => {
  const folder = await Deno.makeTempDir();
  try {
    await Deno.chmod(folder, 0o777);
    await Deno.writeTextFile(`${folder}/list.ts`, list(String(Deno.pid)));
    const config = new URL("deno.json", ROOT).pathname;
    const { stdout, stderr } = await new Deno.Command("setpriv", {
      args: ["--reuid=65534", "--clear-groups", Deno.execPath()].concat(
        ["run", "--quiet", "--allow-all", "--no-lock", "--config", config, `${folder}/list.ts`],
      ),
      env: {
        DENO_DIR: `${folder}/deno`,
        NO_COLOR: "1",
        // That user may write nowhere else.
        ...(Deno.env.has("DENO_COVERAGE_DIR") ? { DENO_COVERAGE_DIR: `${folder}/coverage` } : {}),
      },
      stdin: "null",
    }).output();
    assertEquals(
      [decode(stdout), decode(stderr)],
      [
        `PermissionDenied: Cannot list open sockets of process ${Deno.pid}: ` +
        "the kernel does not let this process inspect it (EACCES)\n",
        "",
      ],
    );
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
}, !canDrop);

// --- the tables

const HEADER = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n";

const wanted = (...inodes: number[]) => inodes.map((inode) => ({ inode }));

function tcpLine(i: number): string {
  const port = (i % 0xffff).toString(16).toUpperCase().padStart(4, "0");
  return `${String(i).padStart(4)}: 0100007F:${port} 0200007F:01BB 01 0000000A:0000000B ` +
    `01:00000014 00000000  1000        0 ${1_000_000 + i} 1 00000000df099984 20 4 30 10 -1   `;
}

long(Deno.test)("readTables() finds lines in a table of 100,000, and in chunks that end anywhere", async () => {
  if (!native) return;
  const folder = await Deno.makeTempDir();
  try {
    const lines = Array.from({ length: 100_000 }, (_, i) => tcpLine(i));
    await Deno.writeTextFile(`${folder}/tcp`, HEADER + lines.map((line) => line + "\n").join(""));
    const inodes = Array.from({ length: 1_000 }, (_, i) => 1_000_000 + 99 * i);
    const { lines: found, failures } = readTables(folder, wanted(...inodes, 1_099_999, 7));
    assertEquals(new Set(found.keys()), new Set([...inodes, 1_099_999]));
    assertEquals(found.get(1_000_099), {
      protocol: "tcp",
      type: "stream",
      state: "ESTABLISHED",
      localAddr: { transport: "tcp", hostname: "127.0.0.1", port: 99 },
      remoteAddr: { transport: "tcp", hostname: "127.0.0.2", port: 443 },
      queues: { receive: 11, send: 10 },
      uid: 1000,
      drops: undefined,
    });
    // Those that are not there are named.
    assertMatch(failures.get("tcp6")?.message ?? "", /^open: not found \(ENOENT\)$/);
    assertStrictEquals(failures.get("tcp"), undefined);
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
});

Deno.test("readTables() reads each family's line", async () => {
  if (!native) return;
  const folder = await Deno.makeTempDir();
  try {
    const files = {
      tcp6: "   0: 000080FE00000000FF005450B6AD1DFE:1F90 0000000000000000FFFF00000100007F:C350 08 " +
        "00000000:00000001 00:00000000 00000000     5        0 11 1 0000000000000000 20 4 30 10 -1\n",
      unix: "Num       RefCount Protocol Flags    Type St Inode Path\n" +
        "0000000000000000: 00000002 00000000 00010000 0005 01    21 /run/a  b \n" +
        "0000000000000000: 00000002 00000000 00000000 0002 01 12345 @abstract\n" +
        "0000000000000000: 00000003 00000000 00000000 0001 03    22\n",
      icmp6: "    7: 00000000000000000000000001000000:0017 00000000000000000000000000000000:0000 07 " +
        "00000000:00000300 00:00000000 00000000     0        0 31 2 0000000000000000 4294967295\n",
      packet: "sk               RefCnt Type Proto  Iface R Rmem   User   Inode\n" +
        "000000008d85b2da 3      2    0003   2     1 0      33     41\n",
    };
    for (const [name, text] of Object.entries(files)) await Deno.writeTextFile(`${folder}/${name}`, text);
    const { lines } = readTables(folder, wanted(11, 21, 22, 12345, 31, 41));
    const internet = { queues: { receive: 1, send: 0 }, uid: 5, drops: undefined };
    assertEquals(lines.get(11), {
      protocol: "tcp6",
      type: "stream",
      state: "CLOSE_WAIT",
      localAddr: { transport: "tcp", hostname: "fe80::5054:ff:fe1d:adb6", port: 8080 },
      remoteAddr: { transport: "tcp", hostname: "::ffff:127.0.0.1", port: 50000 },
      ...internet,
    });
    assertEquals(lines.get(21), { protocol: "unix", type: "seqpacket", state: "LISTEN", path: "/run/a  b " });
    assertEquals(lines.get(12345), { protocol: "unix", type: "dgram", state: "UNCONNECTED", path: "@abstract" });
    assertEquals(lines.get(22), { protocol: "unix", type: "stream", state: "ESTABLISHED", path: undefined });
    assertEquals(lines.get(31), {
      protocol: "icmp6",
      type: "dgram",
      state: "UNCONNECTED",
      localAddr: { transport: "icmp", hostname: "::1", port: 23 },
      remoteAddr: undefined,
      queues: { receive: 768, send: 0 },
      uid: 0,
      drops: 4_294_967_295,
    });
    assertEquals(lines.get(41), { protocol: "packet", type: "dgram", uid: 33 });
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
});
