/** From host names to addresses, for the native engine: getaddrinfo(3), waiting or not. */

import dns from "node:dns";
import { hostKind, type HostPort } from "./address.ts";
import { cString } from "./c_string.ts";
import { SyscallError } from "./errors.ts";
import { libc } from "./libc.ts";
import { AF_INET, decodeSockaddr, encodeSockaddr, SOCKADDR_SIZE } from "./sockaddr.ts";

/** An address as text and as the kernel takes it. */
export interface Resolved extends HostPort {
  sockaddr: Uint8Array<ArrayBuffer>;
  family: "IPv4" | "IPv6";
}

// netdb.h: struct addrinfo, on machines with 64-bit pointers.
const ADDRINFO_SIZE = 48;
const AI_FAMILY = 4;
const AI_SOCKTYPE = 8;
const AI_ADDRLEN = 16;
const AI_ADDR = 24;
const AI_NEXT = 40;
const EAI_AGAIN = -3;

function failed(code: "ENOTFOUND" | "EAI_AGAIN", errno: number): SyscallError {
  return new SyscallError("getaddrinfo", code, errno);
}

function literal(address: HostPort): Resolved {
  const sockaddr = encodeSockaddr(address);
  if (sockaddr === undefined) throw new SyscallError("if_nametoindex", "ENODEV");
  return { ...address, sockaddr, family: sockaddr[0] === AF_INET ? "IPv4" : "IPv6" };
}

/**
 * Resolves a name on this thread and blocks the event loop meanwhile, as `Deno.listen` does: only for calls that return
 * no promise, which are bind, and connect of a UDP endpoint.
 *
 * @param family The only one to take of a name, by default the first that there is.
 * @throws {SyscallError} If it does not resolve.
 */
export function resolveSync({ hostname, port }: HostPort, family?: "IPv4"): Resolved {
  if (hostKind(hostname) !== "name") return literal({ hostname, port });
  const hints = new Uint8Array(ADDRINFO_SIZE);
  const hint = new DataView(hints.buffer);
  hint.setInt32(AI_SOCKTYPE, 1, true);
  if (family !== undefined) hint.setInt32(AI_FAMILY, AF_INET, true);
  const list = new BigUint64Array(1);
  const listBytes = new Uint8Array(list.buffer);
  const result = libc.getaddrinfo(cString(hostname, "hostname"), null, hints, listBytes);
  if (result !== 0) throw failed(result === EAI_AGAIN ? "EAI_AGAIN" : "ENOTFOUND", result);
  const [first] = list as unknown as [bigint];
  try {
    const info = new Uint8Array(ADDRINFO_SIZE);
    const view = new DataView(info.buffer);
    for (let at = first; at !== 0n; at = view.getBigUint64(AI_NEXT, true)) {
      libc.memcpy_from(info, at, ADDRINFO_SIZE);
      const size = view.getUint32(AI_ADDRLEN, true);
      if (size > SOCKADDR_SIZE) continue;
      const sockaddr = new Uint8Array(size);
      libc.memcpy_from(sockaddr, view.getBigUint64(AI_ADDR, true), size);
      return literal({ hostname: decodeSockaddr(sockaddr).hostname, port });
    }
  } finally {
    libc.freeaddrinfo(first);
  }
  throw failed("ENOTFOUND", 0);
}

/**
 * Resolves a name on another thread: for all calls that return a promise. The order is getaddrinfo's
 * (RFC 6724), with the families taken in turn (RFC 8305, section 4).
 *
 * @param signal Ends the wait.
 * @throws {SyscallError} If it does not resolve.
 */
export async function resolveAll({ hostname, port }: HostPort, signal: AbortSignal): Promise<Resolved[]> {
  if (hostKind(hostname) !== "name") return [literal({ hostname, port })];
  // The look-up cannot be taken back; who has cancelled waits for it no longer.
  let abort = () => {};
  const addresses = await new Promise<{ address: string }[]>((resolve, reject) => {
    // Deno's lookup checks the permission for a port too, if it is told which.
    const options = { all: true, verbatim: true, port } as const;
    signal.addEventListener("abort", abort = () => reject(signal.reason));
    dns.lookup(hostname, options, (error, addresses) => error ? reject(error) : resolve(addresses));
  }).catch((error) => {
    signal.throwIfAborted();
    throw failed(error?.code === "EAI_AGAIN" ? "EAI_AGAIN" : "ENOTFOUND", Number(error?.errno) || 0);
  }).finally(() => signal.removeEventListener("abort", abort));
  if (addresses.length === 0) throw failed("ENOTFOUND", 0);
  const resolved = addresses.map(({ address }) => literal({ hostname: address, port }));
  const first = resolved.filter(({ family }) => family === resolved[0]?.family);
  const second = resolved.filter(({ family }) => family !== resolved[0]?.family);
  return first.flatMap((address, i) => second[i] === undefined ? [address] : [address, second[i]])
    .concat(second.slice(first.length));
}
