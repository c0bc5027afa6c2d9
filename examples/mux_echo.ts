/**
 * The TCP echo server once more, in one thread that watches all sockets and
 * never waits for a single one: select, poll, epoll, or what Deno has.
 *
 *     deno task example:mux
 *     deno run --allow-net --allow-ffi examples/mux_echo.ts --backend select
 *
 * Ctrl-C or SIGTERM: no new connections, open ones may finish for 5 s or until
 * the next Ctrl-C. `examples/echo.ts --model select|poll|epoll` is this, too.
 */

import { type Backend, Multiplexer } from "@c10k/sockets/mux";
import { type TcpConn, TcpListener } from "@c10k/sockets/tcp";
import { parseArgs } from "@std/cli";
import { type EchoServer, type Listen, readListen, refuse, run } from "./echo_models/program.ts";

const USAGE = `Usage: mux_echo.ts [--host 127.0.0.1] [--port 8080] [--backend auto|epoll|poll|select|runtime]`;

/** How long to leave connections in the kernel's queue when descriptors have run out, in milliseconds. */
const PAUSE = 100;

/** A connection, and what did not fit into its send buffer. */
interface Client {
  readonly conn: TcpConn;
  unsent: Uint8Array | undefined;
}

/** Listens, and serves all connections with one multiplexer. */
export function startMux(listen: Omit<Listen, "engine">, backend: Backend | "auto"): EchoServer {
  const mux = new Multiplexer<Client | undefined>({ backend });
  const engine = mux.backend === "runtime" ? "runtime" : "native";
  const listener = TcpListener.bind({ ...listen, engine, onAcceptError: pause });
  /** One buffer for all: what is read is written or copied before the next is read. */
  const buffer = new Uint8Array(16 * 1024);
  let isStopped = false;
  let isDrained = false;
  let wasToldFull = false;

  function add(conn: TcpConn): void {
    try {
      mux.register(conn, { readable: true }, { conn, unsent: undefined });
    } catch (error) {
      // select has no room for it: descriptors from 1,024 on do not fit into an fd_set.
      conn.close();
      if (!wasToldFull) console.error(error instanceof Error ? error.message : error);
      wasToldFull = true;
    }
  }

  /** No descriptor is left: asked again at once, the listener would be ready still. */
  function pause(error: Error): void {
    console.error(error.message);
    if (!mux.has(listener)) return;
    mux.unregister(listener);
    setTimeout(watchListener, PAUSE);
  }

  function watchListener(): void {
    if (!isStopped) mux.register(listener, { readable: true });
  }

  /** Sends what there is room for; what is left waits for room, and until then nothing more is read. */
  function send(client: Client, bytes: Uint8Array): void {
    const { conn } = client;
    const n = conn.tryWrite(bytes) ?? 0;
    if (n < bytes.length) {
      if (client.unsent === undefined) mux.modify(conn, { writable: true });
      client.unsent = client.unsent === undefined ? bytes.slice(n) : bytes.subarray(n);
    } else if (client.unsent !== undefined) {
      client.unsent = undefined;
      mux.modify(conn, { readable: true });
    }
  }

  function serve(client: Client): void {
    const { conn } = client;
    try {
      if (client.unsent !== undefined) return send(client, client.unsent);
      const n = conn.tryRead(buffer);
      if (n === null) conn.close();
      else if (n !== undefined) send(client, buffer.subarray(0, n));
    } catch {
      conn.close(); // a peer that has gone is no event for the others
    }
  }

  async function watch(): Promise<void> {
    for await (const events of mux) {
      for (const { data: client, readable, writable, error } of events) {
        const conn = client === undefined ? listener.tryAccept() : undefined;
        if (conn !== undefined) add(conn);
        else if (client !== undefined && (readable || writable || error)) serve(client);
      }
      if (isDrained && mux.size === 0) break;
    }
  }

  /** Who is in the kernel's queue has connected, and is served; nobody else is. */
  async function stop(): Promise<void> {
    isStopped = true;
    listener.drain();
    for await (const conn of listener) add(conn);
    isDrained = true;
    mux.wake();
  }

  watchListener();
  return {
    addr: listener.addr,
    how: `backend ${mux.backend}`,
    open: () => mux.size,
    stop,
    finished: watch(),
  };
}

if (import.meta.main) {
  const flags = parseArgs(Deno.args.filter((arg) => arg !== "--"), {
    string: ["host", "port", "backend"],
    boolean: ["help"],
    default: { host: "127.0.0.1", port: "8080", backend: "auto" },
    unknown: (arg) => refuse(`Unknown argument "${arg}"`),
  });
  if (flags.help) {
    console.log(USAGE);
    Deno.exit(0);
  }
  const listen = readListen({ ...flags, engine: "auto" });
  // The multiplexer checks the name.
  await run(() => startMux(listen, flags.backend as Backend));
}
