/**
 * The addresses that a socket talks with, as objects and as the kernel takes
 * them, so that neither is built for each datagram of a known peer.
 */

import type { HostPort } from "../internal/address.ts";
import { AF_INET, decodeSockaddr, encodeSockaddr } from "../internal/sockaddr.ts";

/** Peers that are remembered at most; then all are forgotten. */
const MOST_PEERS = 4096;

/** An address in both forms. */
export interface Peer {
  readonly address: Deno.NetAddr;
  readonly sockaddr: Uint8Array<ArrayBuffer>;
}

/** The peers of one socket. */
export class Peers {
  /** By 48 bits for IPv4, by text for IPv6. */
  readonly #byBytes = new Map<number | string, Deno.NetAddr>();
  readonly #byName = new Map<string, Map<number, Peer>>();
  #named = 0;
  #last: Peer | undefined;

  /** The address object for what the kernel wrote. */
  decode(bytes: Uint8Array<ArrayBuffer>): Deno.NetAddr {
    const key = bytes[0] === AF_INET ? keyOf(bytes) : bytes.join();
    let address = this.#byBytes.get(key);
    if (address === undefined) {
      if (this.#byBytes.size >= MOST_PEERS) this.#byBytes.clear();
      address = Object.freeze({ transport: "udp" as const, ...decodeSockaddr(bytes) });
      this.#byBytes.set(key, address);
    }
    return address;
  }

  /** The peer at an address; `undefined` if it is a name, or has the zone of no interface. */
  encode(to: HostPort): Peer | undefined {
    const { hostname, port } = to;
    const last = this.#last;
    if (last !== undefined && last.address.port === port && last.address.hostname === hostname) return last;
    let ports = this.#byName.get(hostname);
    let peer = ports?.get(port);
    if (peer === undefined) {
      const sockaddr = encodeSockaddr(to);
      if (sockaddr === undefined) return undefined;
      if (this.#named++ >= MOST_PEERS) {
        this.#byName.clear();
        this.#named = 0;
        ports = undefined;
      }
      if (ports === undefined) this.#byName.set(hostname, ports = new Map());
      peer = { address: Object.freeze({ transport: "udp" as const, hostname, port }), sockaddr };
      ports.set(port, peer);
    }
    return this.#last = peer;
  }
}

/** Address and port of a `struct sockaddr_in` as one number of 48 bits. */
function keyOf(bytes: Uint8Array): number {
  const high = ((bytes[4] as number) << 16) | ((bytes[5] as number) << 8) | (bytes[6] as number);
  const low = ((bytes[7] as number) << 16) | ((bytes[2] as number) << 8) | (bytes[3] as number);
  return high * 0x1000000 + low;
}
