/** Echo over this library's multiplexer, in one thread: `ours_mux.ts --backend epoll|poll|select`. */

import { type Backend, Multiplexer } from "../../mux/mod.ts";
import { type TcpConn, TcpListener } from "../../tcp/mod.ts";

/** A connection, and what did not fit into its send buffer. */
interface Client {
  readonly conn: TcpConn;
  unsent: Uint8Array | undefined;
}

// 32 KiB, twice the largest message, as in the other servers.
const buffer = new Uint8Array(32 * 1024);

function start(): [Multiplexer<Client | undefined>, TcpListener] {
  try {
    const mux = new Multiplexer<Client | undefined>({ backend: Deno.args[1] as Backend });
    const engine = mux.backend === "runtime" ? "runtime" : "native";
    return [mux, TcpListener.bind({ hostname: "127.0.0.1", port: 0, engine })];
  } catch (error) {
    // One line, which the table shows as the reason why the row is missing.
    console.error(`error: ${error instanceof Error ? error.message : error}`);
    Deno.exit(1);
  }
}

const [mux, listener] = start();

function acceptAll(): void {
  for (let conn = listener.tryAccept(); conn !== undefined; conn = listener.tryAccept()) {
    try {
      mux.register(conn, { readable: true }, { conn, unsent: undefined });
    } catch (error) {
      // No room in an fd_set: the measurement is void, and says why.
      console.error(`error: ${error instanceof Error ? error.message : error}`);
      Deno.exit(1);
    }
  }
}

/** The rest of a partial write waits for room; until then nothing is read. */
function send(client: Client, bytes: Uint8Array): void {
  const n = client.conn.tryWrite(bytes) ?? 0;
  if (n === bytes.length) {
    if (client.unsent === undefined) return;
    client.unsent = undefined;
    mux.modify(client.conn, { readable: true });
  } else {
    if (client.unsent === undefined) mux.modify(client.conn, { writable: true });
    client.unsent = bytes.slice(n);
  }
}

function serve(client: Client): void {
  try {
    if (client.unsent !== undefined) return send(client, client.unsent);
    const n = client.conn.tryRead(buffer);
    if (n === null) client.conn.close();
    else if (n !== undefined) send(client, n === buffer.length ? buffer : buffer.subarray(0, n));
  } catch {
    client.conn.close(); // a peer that has gone is no concern of the others
  }
}

mux.register(listener, { readable: true });
console.log(`listening 127.0.0.1:${listener.addr.port}`);
while (true) {
  const events = await mux.wait();
  for (let i = 0; i < events.length; i++) {
    const client = events[i]?.data;
    if (client === undefined) acceptAll();
    else serve(client);
  }
}
