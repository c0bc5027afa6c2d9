/** What the kernel knows about a connection. */

/** The states of RFC 9293, as ss(8) spells them. */
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

/** `TCP_INFO` of tcp(7), decoded. Times are in microseconds unless the name says otherwise. */
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
