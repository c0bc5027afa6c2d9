/** Peers that go away at every moment at which a peer can, and what a server must do meanwhile: serve the others. */

import { engineSupport, TcpConn, TcpListener } from "@c10k/sockets/tcp";
import { UdpEndpoint } from "@c10k/sockets/udp";
import { delay } from "@std/async";

/** Closes with RST, where there is a native engine (`SO_LINGER` of zero seconds); else with what is unread unread. */
function reset(conn: TcpConn): void {
  if (conn.engine === "native") conn.reset();
  else conn.close();
}

/** What a peer does before it resets its connection. */
const MOMENTS: readonly ((conn: TcpConn, request: Uint8Array<ArrayBuffer>) => Promise<unknown> | void)[] = [
  // At once: it may be gone before accept().
  () => {},
  () => delay(2),
  // With its request unread, or just read.
  (conn, request) => conn.writeAll(request),
  (conn, request) => conn.writeAll(request).then(() => delay(1)),
  (conn, request) => conn.writeAll(request).then(() => delay(5)),
  // In the midst of a request.
  (conn, request) => conn.writeAll(request.subarray(0, request.length >> 1)).then(() => delay(5)),
  // With its answer on the way, or unread.
  (conn, request) =>
    conn.writeAll(request).then(() => conn.read(new Uint8Array(1), { signal: AbortSignal.timeout(500) })),
  // After its end of the connection.
  (conn, request) => conn.writeAll(request).then(() => conn.closeWrite()),
  (conn) => conn.closeWrite().then(() => delay(2)),
  // While it does not read what the server has to say.
  async (conn, request) => {
    const many = new Uint8Array(request.length * 4_000);
    for (let at = 0; at < many.length; at += request.length) many.set(request, at);
    for (let i = 0; i < 200 && conn.tryWrite(many) !== undefined; i++);
    await delay(20);
  },
];

/** Lets peers connect and go away at different moments, `rounds` times each, all of a round at a time. */
export async function haunt(port: number, request: Uint8Array<ArrayBuffer>, rounds = 2): Promise<void> {
  const { engine } = engineSupport();
  for (let i = 0; i < rounds; i++) {
    await Promise.all(MOMENTS.map(async (act) => {
      try {
        const conn = await TcpConn.connect({ port, engine });
        try {
          await act(conn, request);
        } finally {
          reset(conn);
        }
      } catch { /* the server was faster */ }
    }));
  }
}

/** The same for datagrams: their answers find no socket any more (ICMP), or they are of no use. */
export async function hauntUdp(port: number): Promise<void> {
  for (let i = 0; i < 10; i++) {
    using endpoint = UdpEndpoint.bind({ hostname: "127.0.0.1" });
    const to = { hostname: "127.0.0.1", port };
    for (const size of [0, 1, 3_000, 60_000]) await endpoint.sendTo(new Uint8Array(size), to).catch(() => {});
  }
}

/** From now on such peers come to every listener of this program, as soon as it is bound. */
export function hauntListeners(): void {
  const bind = TcpListener.bind.bind(TcpListener);
  TcpListener.bind = (options) => {
    const listener = bind(options);
    haunt(listener.addr.port, new TextEncoder().encode("hello\n"), 1);
    return listener;
  };
}
