/**
 * The addresses that a socket talks with, as objects and as the kernel takes
 * them, so that neither is built for each datagram of a known peer.
 *
 * What has a zone is not kept: an interface can be renamed, or be replaced by
 * another one of its name, and what was kept would lead astray for good.
 */

import { AF_INET, AF_INET6, decodeSockaddr, encodeSockaddr } from "../internal/sockaddr.ts";
import { atCaller } from "../internal/stack.ts";

/** Room for a `struct sockaddr_in6`, on a boundary of 8 bytes. */
export const NAME_SIZE = 32;
/** Peers that are remembered at most; then all are forgotten. */
const MOST_PEERS = 4096;

/** An address in both forms. */
export interface Peer {
  readonly address: Deno.NetAddr;
  readonly sockaddr: Uint8Array<ArrayBuffer>;
}

/** Something for each host and port. */
class ByHost<T> {
  readonly #hosts = new Map<string, Map<number, T>>();
  #count = 0;

  get(hostname: string, port: number): T | undefined {
    return this.#hosts.get(hostname)?.get(port);
  }

  set(hostname: string, port: number, value: T): void {
    if (this.#count++ >= MOST_PEERS) {
      this.#hosts.clear();
      this.#count = 1;
    }
    const ports = this.#hosts.get(hostname);
    if (ports === undefined) this.#hosts.set(hostname, new Map([[port, value]]));
    else ports.set(port, value);
  }
}

/** Address objects, one for each address. */
export class Addresses {
  readonly #known = new ByHost<Deno.NetAddr>();
  /** The last one with each port: to compare a name takes less than to look it up. */
  readonly #byPort = new Map<number, Deno.NetAddr>();

  of(hostname: string, port: number): Deno.NetAddr {
    const last = this.#byPort.get(port);
    if (last !== undefined && last.hostname === hostname) return last;
    let address = this.#known.get(hostname, port);
    if (address === undefined) this.#known.set(hostname, port, address = frozen(hostname, port));
    if (this.#byPort.size >= MOST_PEERS) this.#byPort.clear();
    this.#byPort.set(port, address);
    return address;
  }
}

/** The peers of one socket. */
export class Peers {
  /** By 48 bits for IPv4, by 144 bits as text for IPv6. */
  readonly #byBytes = new Map<number | string, Deno.NetAddr>();
  readonly #byName = new ByHost<Peer>();
  #last: Peer | undefined;

  /** The address object for what the kernel wrote into `bytes` from `at` on. */
  decode(bytes: Uint8Array<ArrayBuffer>, at = 0): Deno.NetAddr {
    const key = keyOf(bytes, at);
    let address = key === undefined ? undefined : this.#byBytes.get(key);
    if (address === undefined) {
      const { hostname, port } = decodeSockaddr(bytes.subarray(at));
      address = frozen(hostname, port);
      if (key === undefined) return address;
      if (this.#byBytes.size >= MOST_PEERS) this.#byBytes.clear();
      this.#byBytes.set(key, address);
    }
    return address;
  }

  /** The peer at an address; `undefined` if it is a name, or has the zone of no interface. */
  encode(hostname: string, port: number): Peer | undefined {
    const last = this.#last;
    if (last !== undefined && last.address.port === port && last.address.hostname === hostname) return last;
    let peer = this.#byName.get(hostname, port);
    if (peer === undefined) {
      const sockaddr = encodeSockaddr({ hostname, port });
      if (sockaddr === undefined) return undefined;
      peer = { address: frozen(hostname, port), sockaddr };
      if (hostname.includes("%")) return peer;
      this.#byName.set(hostname, port, peer);
    }
    return this.#last = peer;
  }
}

/** The error for a name where it would have to be looked up, which takes time. */
export function noAddress(hostname: string): TypeError {
  return atCaller(new TypeError(`hostname must be an IP address here, received "${hostname}"`));
}

function frozen(hostname: string, port: number): Deno.NetAddr {
  return Object.freeze({ transport: "udp", hostname, port });
}

/** Address and port of a `struct sockaddr_in` or `sockaddr_in6`, in the least room; `undefined` if it has a zone. */
function keyOf(bytes: Uint8Array, at: number): number | string | undefined {
  const pair = (i: number) => ((bytes[at + i] as number) << 8) | (bytes[at + i + 1] as number);
  const family = bytes[at];
  if (family === AF_INET) return pair(4) * 2 ** 32 + pair(6) * 2 ** 16 + pair(2);
  if (family !== AF_INET6 || (pair(24) | pair(26)) !== 0) return undefined;
  return String.fromCharCode(pair(2), pair(8), pair(10), pair(12), pair(14), pair(16), pair(18), pair(20), pair(22));
}
