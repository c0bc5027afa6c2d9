/**
 * What the kernel knows about a connection: `struct tcp_info` of linux/tcp.h,
 * the same on all machines. Newer kernels append to it, older ones give less,
 * and what they do not give is 0 here.
 */

/**
 * The states of RFC 9293, as ss(8) spells them.
 *
 * @example Wait for the peer to finish
 * ```ts
 * import { TcpConn, TcpListener, type TcpState } from "@c10k/sockets/tcp";
 * import { assertEquals } from "@std/assert";
 *
 * using listener = TcpListener.bind({ hostname: "127.0.0.1", port: 0 });
 * using client = await TcpConn.connect({ port: listener.addr.port });
 * using server = await listener.accept();
 *
 * await server.closeWrite();
 * await client.read(new Uint8Array(1)); // null
 * const state: TcpState = client.info().state;
 * assertEquals(state, "CLOSE_WAIT"); // the peer has finished, this side has not
 * ```
 */
export type TcpState =
  | "ESTABLISHED"
  | "SYN_SENT"
  | "SYN_RECV"
  | "FIN_WAIT1"
  | "FIN_WAIT2"
  | "TIME_WAIT"
  | "CLOSE"
  | "CLOSE_WAIT"
  | "LAST_ACK"
  | "LISTEN"
  | "CLOSING"
  | "NEW_SYN_RECV";

/**
 * `TCP_INFO` of tcp(7), decoded. Times are in microseconds unless the name says otherwise.
 *
 * @example Watch a connection
 * ```ts
 * import { TcpConn, type TcpInfo, TcpListener } from "@c10k/sockets/tcp";
 *
 * using listener = TcpListener.bind({ hostname: "127.0.0.1", port: 0 });
 * using client = await TcpConn.connect({ port: listener.addr.port });
 * using server = await listener.accept();
 *
 * const info: TcpInfo = client.info();
 * console.log(`${info.state}, ${info.rtt} µs, ${info.totalRetransmits} sent again, ${info.bytesReceived} received`);
 * ```
 */
export interface TcpInfo {
  /** State of the connection. */
  readonly state: TcpState;
  /** Smoothed round-trip time in µs. */
  readonly rtt: number;
  /** Variation of the round-trip time in µs. */
  readonly rttVariance: number;
  /** Smallest round-trip time seen lately in µs. */
  readonly minRtt: number;
  /** Retransmission timeout in µs. */
  readonly retransmitTimeout: number;
  /** Congestion window in segments. */
  readonly congestionWindow: number;
  /** Slow start threshold in segments. */
  readonly slowStartThreshold: number;
  /** Segment size for sending in bytes. */
  readonly sendSegmentSize: number;
  /** Segment size for receiving in bytes. */
  readonly receiveSegmentSize: number;
  /** Segments sent and not acknowledged. */
  readonly unacknowledged: number;
  /** Segments taken for lost. */
  readonly lost: number;
  /** Unanswered retransmissions of the oldest segment right now. */
  readonly retransmits: number;
  /** Segments retransmitted since the connection began. */
  readonly totalRetransmits: number;
  /** Largest window the peer may send, in bytes. */
  readonly receiveSpace: number;
  /** Path MTU in bytes. */
  readonly pathMtu: number;
  /** Milliseconds since data was last sent. */
  readonly lastDataSent: number;
  /** Milliseconds since data was last received. */
  readonly lastDataReceived: number;
  /** Bytes acknowledged by the peer. */
  readonly bytesAcknowledged: number;
  /** Bytes received from the peer. */
  readonly bytesReceived: number;
  /** Estimated rate of delivery in bytes per second. */
  readonly deliveryRate: number;
}

/** The option of getsockopt(2), and room for the part of the struct that is decoded. */
export const TCP_INFO = 11;
export const TCP_INFO_SIZE = 168;

/** By the kernel's number (net/tcp_states.h). */
const STATES: readonly (TcpState | undefined)[] = [
  undefined,
  "ESTABLISHED",
  "SYN_SENT",
  "SYN_RECV",
  "FIN_WAIT1",
  "FIN_WAIT2",
  "TIME_WAIT",
  "CLOSE",
  "CLOSE_WAIT",
  "LAST_ACK",
  "LISTEN",
  "CLOSING",
  "NEW_SYN_RECV",
];

/** Returns what stands in the first `length` bytes that the kernel wrote. */
export function decodeTcpInfo(bytes: Uint8Array<ArrayBuffer>, length: number): TcpInfo {
  bytes.fill(0, length);
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const u32 = (offset: number) => view.getUint32(offset, true);
  const u64 = (offset: number) => Number(view.getBigUint64(offset, true));
  return {
    state: STATES[view.getUint8(0)] ?? "CLOSE",
    retransmits: view.getUint8(2),
    retransmitTimeout: u32(8),
    sendSegmentSize: u32(16),
    receiveSegmentSize: u32(20),
    unacknowledged: u32(24),
    lost: u32(32),
    lastDataSent: u32(44),
    lastDataReceived: u32(52),
    pathMtu: u32(60),
    rtt: u32(68),
    rttVariance: u32(72),
    slowStartThreshold: u32(76),
    congestionWindow: u32(80),
    receiveSpace: u32(96),
    totalRetransmits: u32(100),
    bytesAcknowledged: u64(120),
    bytesReceived: u64(128),
    minRtt: u32(148),
    deliveryRate: u64(160),
  };
}

/** Of a listener, tcp_info has the accept queue where a connection has its segments: linux/tcp.h, tcp_get_info(). */
export function decodeAcceptQueue(bytes: Uint8Array<ArrayBuffer>): { length: number; limit: number } {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  return { length: view.getUint32(24, true), limit: view.getUint32(28, true) };
}
