/**
 * A UDP echo server: every datagram goes back to its sender.
 *
 *     deno task example:udp
 *     deno run --allow-net examples/udp_echo.ts --port 8080
 *     deno run --allow-net --allow-ffi examples/udp_echo.ts --backend epoll
 *
 * Ctrl-C or SIGTERM ends it. `examples/echo.ts udp` is this, too.
 */

import { type Backend, Multiplexer } from "@c10k/sockets/mux";
import { type Datagram, DatagramBatch, engineSupport, UdpEndpoint } from "@c10k/sockets/udp";
import { parseArgs } from "@std/cli";
import { type EchoServer, type Listen, readListen, refuse, run } from "./echo_models/program.ts";

const USAGE = `Usage: udp_echo.ts [--host 127.0.0.1] [--port 8080] [--engine auto|runtime|native]
  [--backend epoll|poll|select|runtime]`;

/** Binds, and answers: with calls that wait, or told by a multiplexer what would not. */
export function startUdp(listen: Listen, backend: Backend | undefined): EchoServer {
  const mux = backend === undefined ? undefined : new Multiplexer({ backend });
  const engine = mux === undefined ? listen.engine : mux.backend === "runtime" ? "runtime" : "native";
  // On all addresses each answer has to leave from the one that was asked: a connected client takes no other.
  const isNative = engine === "native" || engine === "auto" && engineSupport().engine === "native";
  const packetInfo = isNative && /^(0\.0\.0\.0|::)$/.test(listen.hostname);
  const endpoint = UdpEndpoint.bind({ ...listen, engine, packetInfo });
  let isStopped = false;

  async function answer(): Promise<void> {
    /** What a batch has received goes back to its senders, from where they have sent it to. */
    const batch = new DatagramBatch({ datagramSize: 65_535, capacity: 64 });
    while (!isStopped) {
      try {
        await endpoint.recvBatch(batch);
        await endpoint.sendBatch(batch);
      } catch (error) {
        if (!isStopped) report(error);
      }
    }
  }

  return {
    addr: endpoint.addr,
    how: `engine ${endpoint.engine}${mux === undefined ? "" : `, backend ${mux.backend}`}`,
    open: () => 0,
    stop() {
      isStopped = true;
      endpoint.close();
      mux?.wake();
    },
    finished: mux === undefined ? answer() : watch(mux, endpoint, () => isStopped),
  };
}

/** Datagrams that one event may be good for, before others have their turn. */
const MOST = 64;

async function watch(mux: Multiplexer, endpoint: UdpEndpoint, isStopped: () => boolean): Promise<void> {
  const p = new Uint8Array(65_535);
  /** What there was no room to send for. Until there is, nothing more is received. */
  let unsent: Datagram | undefined;
  mux.register(endpoint, { readable: true });
  for await (const _ of mux) {
    if (isStopped()) break;
    const wasWaiting = unsent !== undefined;
    for (let i = 0; i < MOST; i++) {
      try {
        const datagram: Datagram | undefined = unsent ?? endpoint.tryRecvFrom(p);
        unsent = undefined;
        if (datagram === undefined) break;
        const { data, address, localAddress } = datagram;
        if (endpoint.trySendTo(data, address, { localAddress }) === undefined) {
          unsent = datagram;
          break;
        }
      } catch (error) {
        report(error);
      }
    }
    if (wasWaiting !== (unsent !== undefined)) {
      mux.modify(endpoint, wasWaiting ? { readable: true } : { writable: true });
    }
  }
}

/** One peer that cannot be reached is no event for the others. */
function report(error: unknown): void {
  if (error instanceof Deno.errors.BadResource) throw error;
  console.error(error instanceof Error ? error.message : error);
}

if (import.meta.main) {
  const flags = parseArgs(Deno.args.filter((arg) => arg !== "--"), {
    string: ["host", "port", "engine", "backend"],
    boolean: ["help"],
    default: { host: "127.0.0.1", port: "8080", engine: "auto" },
    unknown: (arg) => refuse(`Unknown argument "${arg}"`),
  });
  if (flags.help) {
    console.log(USAGE);
    Deno.exit(0);
  }
  const listen = readListen(flags);
  // The multiplexer checks the name.
  await run(() => startUdp(listen, flags.backend as Backend | undefined), "nc -u");
}
