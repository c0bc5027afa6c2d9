/**
 * UDP: one socket, many peers.
 *
 * | textbook | here |
 * |---|---|
 * | socket, bind | {@linkcode UdpEndpoint.bind} |
 * | sendto, recvfrom | {@linkcode UdpEndpoint.sendTo}, {@linkcode UdpEndpoint.recvFrom} |
 * | sendmmsg, recvmmsg | {@linkcode UdpEndpoint.sendBatch}, {@linkcode UdpEndpoint.recvBatch} with a {@linkcode DatagramBatch} |
 * | IP_PKTINFO, IPV6_PKTINFO | `packetInfo` of {@linkcode UdpEndpoint.bind}, `localAddress` of {@linkcode UdpEndpoint.sendTo} |
 * | connect, send, recv | {@linkcode UdpEndpoint.connect}, {@linkcode UdpEndpoint.send}, {@linkcode UdpEndpoint.recv} |
 * | close | {@linkcode UdpEndpoint.close}, or `using` |
 *
 * @example Answer everybody
 * ```ts
 * import { UdpEndpoint } from "@c10k/sockets/udp";
 *
 * using server = UdpEndpoint.bind({ hostname: "127.0.0.1", port: 0 });
 * using client = UdpEndpoint.bind({ hostname: "127.0.0.1" });
 * await client.sendTo(new TextEncoder().encode("ping"), server.addr);
 *
 * for await (const [data, address] of server) {
 *   await server.sendTo(data, address).catch(console.error);
 *   break; // a real one goes on
 * }
 * console.log((await client.recvFrom(new Uint8Array(100))).size); // 4
 * ```
 *
 * @module
 */

export { DatagramBatch, type DatagramBatchOptions } from "./datagram_batch.ts";
export type { Datagram, MulticastOptions } from "./driver.ts";
export {
  type BatchRange,
  type RecvOptions,
  type SendBatchOptions,
  type SendToOptions,
  type UdpBindOptions,
  UdpEndpoint,
} from "./udp_endpoint.ts";
export type { Readiness, ReadyInterest } from "../poll/readiness.ts";
export type { WaitOptions } from "../internal/wait.ts";
export { type Engine, type EngineOption, type EngineSupport, engineSupport } from "../internal/engine.ts";
export { SyscallError } from "../internal/errors.ts";
export { SocketOption } from "../internal/socket_option.ts";
