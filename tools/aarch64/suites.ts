/** Which tests `deno task test:aarch64` runs, and which of them need what an emulator may not have. */

/** A test file, and which of its tests; all where that is not said. */
export interface Suite {
  readonly file: string;
  readonly only?: RegExp;
}

/**
 * Files that reach what differs by machine: layouts, constants, numbers of system calls. Of those that start programs,
 * a test for each way to start one, to end it, and to give it something: each takes seconds under the emulator.
 */
export const SUITES: readonly Suite[] = [
  { file: "tests/mux_test.ts" },
  { file: "tests/native_test.ts" },
  { file: "tests/udp_test.ts" },
  { file: "tests/udp_batch_test.ts" },
  { file: "tests/udp_local_address_test.ts" },
  { file: "tests/tcp_conn_test.ts" },
  { file: "tests/tcp_listener_test.ts" },
  { file: "tests/layout_test.ts" },
  { file: "tests/selector_test.ts" },
  { file: "tests/open_sockets_test.ts", only: /^openSockets\(\) (lists|tells|finds|names|is|reads)/ },
  { file: "tests/socket_file_test.ts", only: /^(UnixListener|takeOver|statusOf)/ },
  { file: "tests/sockets_in_messages_test.ts", only: /^ProcessTransport|^\[process\] (TcpListener|UdpEndpoint)/ },
  { file: "tests/connection_channel_test.ts" },
  { file: "tests/children_test.ts", only: /^\[process\] Child\.kill\(\) (closes|sends)/ },
  { file: "tests/child_signals_test.ts", only: /^\[native\] a status is lost/ },
  { file: "tests/spawn_for_test.ts", only: /lets cat echo|variables and the folder|kill\(\) and shutdown\(\) end/ },
];

/** Tests that are no part of the run, and why. */
export const LEFT_OUT: readonly (readonly [test: RegExp, reason: string])[] = [
  [/^\[runtime\]/, "what the runtime engine calls is Deno's own"],
  [
    /starve|other I\/O|leave others their turn|has its turn|no CPU|without spinning|flat$|grows? nothing|allocate nothing|stay where|keeps its timeout/,
    "they measure time and memory, which are the emulator's",
  ],
  [/^\[(poll|select)\] .*(another Worker|blocks a Worker)/, "each starts a thread, as the same for epoll does"],
  [
    /^\[(poll|select)\] (a closed socket is|more ready sources|an event that comes)/,
    "they try what is above the backends",
  ],
  [
    /closed number that the kernel gives out|watched from its first wait/,
    "thousands of sockets, for rules of JavaScript",
  ],
  [/1 GiB|10,000 sources|200 connections|500 peers|8 MiB|random batches/, "load, of which others have less"],
  [
    /example|takes nothing for an eventfd where|finds no room for|lets the process end|a process ends|no descriptor left|own descriptor finds no room|^a grant/,
    "each starts whole programs, which are made of what the other tests try",
  ],
  [
    /needs the permission|takes stdin|descriptors have run out|shortage of descriptors|too few for the queue|--allow-net alone/,
    "each starts whole programs, for checks of JavaScript",
  ],
];

/** What a test needs: the name of a probe in `probe.c`. A test is skipped if that one says that it is missing. */
export const NEEDS: readonly (readonly [test: RegExp, probe: string])[] = [
  // The length of a listener's queue, and what the kernel tells about a connection.
  [/^\[native\] the two queues: /, "TCP_INFO"],
  [/^\[native\] TcpListener\.queue\(\) and inode are what ss shows/, "TCP_INFO"],
  [/^\[native\] TcpSocket takes options before bind, then listens or connects/, "TCP_INFO"],
  [/^\[native\] TcpListener\.resume\(\) lets others have their turn/, "TCP_INFO"],
  [/^\[native\] TcpConn\.info\(\)/, "TCP_INFO"],
  [/^openSockets\(\) tells how many connections wait for accept/, "TCP_INFO"],
  [/^openSockets\(\) tells what ss -tanp tells of this process/, "TCP_INFO"],
  [/^\[process\] TcpListener sent away accepts there/, "TCP_INFO"],
  [/^\[native\] TcpConn\.getCongestion\(\) and setCongestion\(\) take a name/, "TCP_CONGESTION"],
  [/^\[native\] TcpConn\.setOption\(\) and getOption\(\) reach the kernel, for every option/, "IP_MULTICAST_ALL"],
  [/^\[native\] what is set for an IPv6 endpoint holds for its IPv4 peers/, "IP_MULTICAST_ALL"],
  [/^\[native\] multicast reaches those who have joined/, "MCAST_JOIN_GROUP"],
  [/^\[native\] multicast over IPv[46] takes the interface/, "MCAST_JOIN_GROUP"],
  [/^\[native\] multicast without an interface/, "IP_ADD_MEMBERSHIP"],
  [/^multicast, broadcast and link-local datagrams tell whom/, "MCAST_JOIN_GROUP"],
  [/^a grant for the C library's path is enough/, "the C library's path"],
  [/^openSockets\(\) lists a packet/, "packet socket"],
  [/^openSockets\(\) lists a raw/, "raw socket"],
  [/^openSockets\(\) lists a Multipath TCP/, "Multipath TCP socket"],
  [/^openSockets\(\) lists a socket between/, "vsock socket"],
  [/^openSockets\(\) lists a netlink/, "netlink socket"],
  [/^UnixListener.publish\(\) leaves another user's socket/, "chown to another user"],
  [/^\[process\] (Child|TcpListener|UdpEndpoint|serve)/, "exec"],
  [/in network namespaces/, "exec"],
  [/^\[native\] a flood faster than the reader is dropped by the kernel/, "SO_MEMINFO"],
];
