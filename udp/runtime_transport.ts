/**
 * The two kinds of UDP socket that Deno has: `Deno.listenDatagram`, which
 * exists with `--unstable-net` only, and `node:dgram`, which always does.
 */

import dgram from "node:dgram";
import { formatAddress, hostKind, type HostPort, splitZone } from "../internal/address.ts";
import { notSupportedError } from "../internal/errors.ts";
import { RefSwitch } from "../internal/ref_switch.ts";
import type { MulticastOptions } from "./driver.ts";
import { Addresses } from "./peer_cache.ts";
import { isOfPeer } from "./runtime_reasons.ts";

/** Datagrams that wait to be received at most, and their bytes; more are dropped, as the kernel does. */
const MOST_WAITING = 1024;
const MOST_BYTES = 4 * 1024 * 1024;
/** The largest datagram, in bytes. */
const LARGEST = 65_535;

/** A datagram that has arrived. */
export interface Arrived {
  readonly data: Uint8Array;
  readonly address: Deno.NetAddr;
}

/** Where and how to bind; checked. */
export interface RuntimeBindOptions extends HostPort {
  reuseAddress: boolean;
  ipv6Only: boolean;
}

/** A UDP socket of the runtime. */
export interface RuntimeTransport {
  readonly addr: Deno.NetAddr;
  /** Datagrams that were dropped because nobody received the ones before. */
  readonly drops: number;
  /** A receive is under way, which alone would keep the process alive. */
  readonly isReceiving: boolean;
  /**
   * Takes what has arrived; its data is valid until the next call. Returns `undefined` if nothing has, and `changed` is
   * called when the next one arrives.
   */
  take(): Arrived | undefined;
  /** What {@linkcode RuntimeTransport.take} would take. */
  peek(): Arrived | undefined;
  /**
   * Returns the pending receive, which this begins if nothing has arrived; it settles as `changed` returns or throws.
   * `undefined` if something has arrived, or if datagrams are delivered without a receive.
   */
  receive(): Promise<unknown> | undefined;
  /** Sends a datagram; one at a time, or they may leave in another order. */
  send(p: Uint8Array, to: Deno.NetAddr): Promise<number>;
  /** The node:dgram socket, for options; `undefined` if it is none. */
  readonly node: dgram.Socket | undefined;
  ref(on: boolean): void;
  close(): void;
}

/**
 * Called when something has arrived, or when the socket has failed for a reason that is not one peer's alone. The last
 * call can come after `close()`.
 */
type Changed = (error?: unknown) => unknown;

/** Opens the better of the two. */
export function openTransport(options: RuntimeBindOptions, changed: Changed): RuntimeTransport {
  const { listenDatagram } = Deno as { listenDatagram?: (options: object) => Deno.DatagramConn };
  if (listenDatagram !== undefined && !options.ipv6Only) {
    const { hostname, port, reuseAddress } = options;
    // As the kernel has it, and every other socket.
    const conn = listenDatagram({ transport: "udp", hostname, port, reuseAddress, loopback: true });
    return new DatagramConnTransport(conn, changed);
  }
  return new DgramTransport(options, changed);
}

/** One receive at a time runs ahead; the kernel's queue holds the rest. */
class DatagramConnTransport implements RuntimeTransport {
  readonly addr: Deno.NetAddr;
  readonly drops = 0;
  readonly node = undefined;
  readonly #conn: Deno.DatagramConn;
  readonly #ref: RefSwitch;
  readonly #changed: Changed;
  readonly #buffer = new Uint8Array(LARGEST);
  readonly #addresses = new Addresses();
  #arrived: Arrived | undefined;
  #received: Promise<unknown> | undefined;
  // Made once an endpoint, not once a datagram.
  readonly #onArrival = ([data, from]: [Uint8Array, Deno.Addr]): unknown => {
    const { hostname, port } = from as Deno.NetAddr;
    this.#received = undefined;
    this.#arrived = { data, address: this.#addresses.of(hostname, port) };
    return this.#changed();
  };
  readonly #onFailure = (error: unknown): unknown => {
    if (isOfPeer(error)) return this.#begin();
    this.#received = undefined;
    return this.#changed(error);
  };

  constructor(conn: Deno.DatagramConn, changed: Changed) {
    this.#conn = conn;
    this.#ref = new RefSwitch(conn as Deno.DatagramConn & { ref?(): void; unref?(): void });
    this.#changed = changed;
    const { hostname, port } = conn.addr as Deno.NetAddr;
    this.addr = { transport: "udp", hostname, port };
  }

  get isReceiving(): boolean {
    return this.#received !== undefined;
  }

  take(): Arrived | undefined {
    const arrived = this.peek();
    this.#arrived = undefined;
    return arrived;
  }

  peek(): Arrived | undefined {
    this.receive();
    return this.#arrived;
  }

  receive(): Promise<unknown> | undefined {
    if (this.#arrived !== undefined) return undefined;
    return this.#received ??= this.#begin();
  }

  send(p: Uint8Array, to: Deno.NetAddr): Promise<number> {
    return this.#conn.send(p, to);
  }

  ref(on: boolean): void {
    this.#ref.set(on);
  }

  close(): void {
    this.#conn.close();
  }

  #begin(): Promise<unknown> {
    return this.#conn.receive(this.#buffer).then(this.#onArrival, this.#onFailure);
  }
}

/** Everything that arrives is delivered at once, so it is kept here, but not without limit. */
class DgramTransport implements RuntimeTransport {
  readonly addr: Deno.NetAddr;
  readonly node: dgram.Socket;
  readonly isReceiving = true;
  drops = 0;
  readonly #queue: Arrived[] = [];
  readonly #addresses = new Addresses();
  /** Sends that are under way: if their socket is closed while a name is looked up, node:dgram never calls back. */
  readonly #sends = new Set<(reason: unknown) => void>();
  readonly #hold: number;
  #head = 0;
  #bytes = 0;

  constructor(options: RuntimeBindOptions, changed: Changed) {
    const { hostname, port } = options;
    const kind = hostKind(hostname);
    if (kind === "name") {
      const action = `bind UDP endpoint to ${formatAddress(options)} on the runtime engine`;
      throw notSupportedError(action, "use an IP address, or run with --unstable-net or --allow-ffi");
    }
    const type = kind === "IPv6" ? "udp6" : "udp4";
    const socket = this.node = dgram.createSocket({
      type,
      reuseAddr: options.reuseAddress,
      ipv6Only: options.ipv6Only,
      // An address needs no look-up, and without one bind and send are done when they return. A name has been looked up
      // before; where the permission is for the name alone, Deno looks it up once more.
      lookup: (host: string, _: unknown, done: (error: null, address: string, family: number) => void) => {
        done(null, host, host.includes(":") ? 6 : 4);
      },
    } as dgram.SocketOptions);
    // Before bind: what is under way already Deno neither unreferences nor references any more.
    socket.unref();
    let failure: unknown;
    let isBound = false;
    socket.on("error", (error) => {
      if (!isBound) failure = error;
      else if (!isOfPeer(error)) changed(error);
    });
    socket.bind({ port, address: hostname, exclusive: true });
    if (failure !== undefined) throw failure;
    isBound = true;
    this.#hold = setInterval(() => {}, 2 ** 30) as unknown as number;
    const bound = socket.address();
    this.addr = { transport: "udp", hostname: bound.address, port: bound.port };
    socket.on("message", (data, from) => {
      if (this.#queue.length - this.#head >= MOST_WAITING || this.#bytes + data.length > MOST_BYTES) {
        this.drops++;
        return;
      }
      this.#bytes += data.length;
      const address = this.#addresses.of(from.address, from.port);
      this.#queue.push({ data, address });
      changed();
      // What stays is kept without the 64 KiB that it was received into.
      const last = this.#queue.length - 1;
      if (this.#queue[last]?.data === data) this.#queue[last] = { data: new Uint8Array(data), address };
    });
  }

  take(): Arrived | undefined {
    const arrived = this.peek();
    if (arrived === undefined) return undefined;
    this.#bytes -= arrived.data.length;
    if (++this.#head === this.#queue.length) this.#queue.length = this.#head = 0;
    else if (this.#head > MOST_WAITING) {
      this.#queue.splice(0, this.#head);
      this.#head = 0;
    }
    return arrived;
  }

  peek(): Arrived | undefined {
    return this.#queue[this.#head];
  }

  // Each datagram is delivered without a call.
  receive(): undefined {}

  send(p: Uint8Array, { hostname, port }: Deno.NetAddr): Promise<number> {
    return new Promise((resolve, reject) => {
      this.node.send(p, port, hostname, (error, n) => {
        this.#sends.delete(reject);
        if (error) reject(error);
        else resolve(n);
      });
      this.#sends.add(reject);
    });
  }

  // The socket itself is unreferenced for good, and a timer holds the process.
  ref(on: boolean): void {
    if (on) Deno.refTimer(this.#hold);
    else Deno.unrefTimer(this.#hold);
  }

  close(): void {
    clearInterval(this.#hold);
    this.node.close();
    for (const reject of this.#sends) reject(new Deno.errors.BadResource("Socket was closed"));
  }
}

/** Joins or leaves a group by node:dgram, which names an interface by an address of it, or with IPv6 as a zone. */
export function setNodeMembership(node: dgram.Socket, options: MulticastOptions, join: boolean): void {
  const [group, zone] = splitZone(options.group);
  const local = nodeInterface(options.interface ?? zone, hostKind(group) === "IPv6");
  if (join) node.addMembership(group, local);
  else node.dropMembership(group, local);
}

/** An interface as node:dgram takes it. */
export function nodeInterface(name: string, isIPv6: boolean): string;
export function nodeInterface(name: string | undefined, isIPv6: boolean): string | undefined;
export function nodeInterface(name: string | undefined, isIPv6: boolean): string | undefined {
  if (name === undefined) return undefined;
  if (isIPv6) return `::%${name}`;
  if (hostKind(name) === "IPv4") return name;
  throw notSupportedError(
    `choose the interface ${name} by its name for IPv4 on the runtime engine`,
    "give one of its addresses, or run with --allow-ffi",
  );
}
