/** What INFO tells of kv, by section. */

import type { Service } from "./service.ts";
import type { Store } from "./store.ts";

/** The sections, and the lines of each. */
export type Info = ReturnType<Service["info"]>;

/** What the server knows of itself. */
export interface Facts {
  readonly port: number;
  /** When it was started, in ms since 1970. */
  readonly begun: number;
  /** Connections that are open, and all that there were. */
  readonly clients: number;
  readonly connections: number;
  /** Bytes that are kept for clients. */
  readonly held: number;
}

/** Puts it into the words of Redis. */
export function describe(store: Store, { port, begun, clients, connections, held }: Facts): Info {
  const uptime = Math.floor((Date.now() - begun) / 1000);
  const { rss, heapUsed } = Deno.memoryUsage();
  return {
    Server: { redis_version: "7.0.0", redis_mode: "standalone", tcp_port: port, uptime_in_seconds: uptime },
    Clients: { connected_clients: clients },
    Memory: { used_memory: heapUsed, used_memory_rss: rss, client_buffers: held },
    Stats: { total_connections_received: connections },
    ...(store.size > 0 ? { Keyspace: { db0: `keys=${store.size},expires=${store.expiring},avg_ttl=0` } } : {}),
  };
}
