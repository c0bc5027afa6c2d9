/** Names of socket options, as the manual pages spell them. */

/**
 * The socket options that `getOption` and `setOption` take, by the names that
 * [socket(7)](https://man7.org/linux/man-pages/man7/socket.7.html),
 * [tcp(7)](https://man7.org/linux/man-pages/man7/tcp.7.html),
 * [ip(7)](https://man7.org/linux/man-pages/man7/ip.7.html) and
 * [ipv6(7)](https://man7.org/linux/man-pages/man7/ipv6.7.html) give them. They
 * stand for getsockopt(2) and setsockopt(2); flags are 0 or 1.
 *
 * The native engine has all of them, the runtime engine none: see
 * {@linkcode TcpConn.setNoDelay} and {@linkcode TcpConn.setKeepAlive} for what
 * every engine has.
 *
 * @example Name an option
 * ```ts
 * import { SocketOption } from "@c10k/sockets/tcp";
 *
 * const option: SocketOption = SocketOption.TCP_NODELAY;
 * console.log(option); // "TCP_NODELAY", which can be written instead
 * ```
 */
export const SocketOption = {
  /** Size of the receive buffer in bytes; the kernel doubles what is set, and reports the double. */
  SO_RCVBUF: "SO_RCVBUF",
  /** Size of the send buffer in bytes; the kernel doubles what is set, and reports the double. */
  SO_SNDBUF: "SO_SNDBUF",
  /** Seconds that close(2) waits for unsent data; -1 is off, 0 closes with RST. */
  SO_LINGER: "SO_LINGER",
  /** Send keep-alive probes on an idle connection. */
  SO_KEEPALIVE: "SO_KEEPALIVE",
  /** Bind to an address that old connections in TIME_WAIT still use. */
  SO_REUSEADDR: "SO_REUSEADDR",
  /** Let several sockets bind to one address and share what arrives. */
  SO_REUSEPORT: "SO_REUSEPORT",
  /** Microseconds of busy polling of the device on a blocking receive. */
  SO_BUSY_POLL: "SO_BUSY_POLL",
  /** Read-only: the pending error, which reading it clears. */
  SO_ERROR: "SO_ERROR",
  /** Read-only: whether the socket listens. */
  SO_ACCEPTCONN: "SO_ACCEPTCONN",
  /** Priority of what is sent, from 0 to 6. */
  SO_PRIORITY: "SO_PRIORITY",
  /** Mark of what is sent, for routing and filters; needs CAP_NET_ADMIN. */
  SO_MARK: "SO_MARK",
  /** Send small segments at once instead of gathering them (no Nagle). */
  TCP_NODELAY: "TCP_NODELAY",
  /** Send only full segments, until it is cleared or 200 ms have passed. */
  TCP_CORK: "TCP_CORK",
  /** Acknowledge at once; not permanent, the kernel may leave the mode again. */
  TCP_QUICKACK: "TCP_QUICKACK",
  /** Milliseconds that sent data may stay unacknowledged before the connection is dropped (RFC 5482). */
  TCP_USER_TIMEOUT: "TCP_USER_TIMEOUT",
  /** Seconds that accept is put off until data has arrived. */
  TCP_DEFER_ACCEPT: "TCP_DEFER_ACCEPT",
  /** Length of the queue of Fast Open requests on a listener (RFC 7413). */
  TCP_FASTOPEN: "TCP_FASTOPEN",
  /** Bytes of unsent data above which the socket is not writable. */
  TCP_NOTSENT_LOWAT: "TCP_NOTSENT_LOWAT",
  /** Seconds of silence before the first keep-alive probe. */
  TCP_KEEPIDLE: "TCP_KEEPIDLE",
  /** Seconds between keep-alive probes. */
  TCP_KEEPINTVL: "TCP_KEEPINTVL",
  /** Unanswered keep-alive probes before the connection is dropped. */
  TCP_KEEPCNT: "TCP_KEEPCNT",
  /** Largest segment in bytes. */
  TCP_MAXSEG: "TCP_MAXSEG",
  /** SYN retransmissions before connect gives up. */
  TCP_SYNCNT: "TCP_SYNCNT",
  /** Type of service byte of IPv4 packets. */
  IP_TOS: "IP_TOS",
  /** Time to live of IPv4 packets, from 1 to 255. */
  IP_TTL: "IP_TTL",
  /** Send to broadcast addresses; UDP. */
  SO_BROADCAST: "SO_BROADCAST",
  /** Time to live of IPv4 multicast datagrams, from 0 to 255; 1 stays in the local network. */
  IP_MULTICAST_TTL: "IP_MULTICAST_TTL",
  /** Whether IPv4 multicast datagrams come back to sockets of this machine. */
  IP_MULTICAST_LOOP: "IP_MULTICAST_LOOP",
  /** Whether to be given datagrams of all groups that any socket of this machine has joined. */
  IP_MULTICAST_ALL: "IP_MULTICAST_ALL",
  /** Hop limit of IPv6 multicast datagrams, from 0 to 255. */
  IPV6_MULTICAST_HOPS: "IPV6_MULTICAST_HOPS",
  /** Whether IPv6 multicast datagrams come back to sockets of this machine. */
  IPV6_MULTICAST_LOOP: "IPV6_MULTICAST_LOOP",
  /** Number of the interface that IPv6 multicast datagrams leave by. */
  IPV6_MULTICAST_IF: "IPV6_MULTICAST_IF",
  /** Bind to an address that is not (yet) local. */
  IP_FREEBIND: "IP_FREEBIND",
  /** Take IPv6 only, no v4-mapped addresses; set before bind. */
  IPV6_V6ONLY: "IPV6_V6ONLY",
  /** Traffic class byte of IPv6 packets. */
  IPV6_TCLASS: "IPV6_TCLASS",
  /** Hop limit of IPv6 packets, from 1 to 255, -1 for the route's. */
  IPV6_UNICAST_HOPS: "IPV6_UNICAST_HOPS",
} as const;

/**
 * The name of a socket option, one of {@linkcode SocketOption}.
 *
 * @example Take options by name
 * ```ts
 * import { type SocketOption, TcpSocket } from "@c10k/sockets/tcp";
 *
 * const options: [SocketOption, number][] = [["SO_REUSEADDR", 1], ["IP_TTL", 64]];
 * using socket = TcpSocket.open("IPv4");
 * for (const [option, value] of options) socket.setOption(option, value);
 * ```
 */
export type SocketOption = keyof typeof SocketOption;
