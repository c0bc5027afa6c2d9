/** Echo over `Deno.listen`: what a user of Deno has without this library. */

// 32 KiB, twice the largest message, as in the other servers; `--buffer BYTES` for idle connections.
const BUFFER = Deno.args[0] === "--buffer" ? Number(Deno.args[1]) : 32 * 1024;

async function serve(conn: Deno.TcpConn): Promise<void> {
  const buffer = new Uint8Array(BUFFER);
  try {
    for (;;) {
      const n = await conn.read(buffer);
      if (n === null) break;
      for (let sent = 0; sent < n;) {
        sent += await conn.write(buffer.subarray(sent, n));
      }
    }
  } catch {
    // A peer that has gone is no concern of the others.
  } finally {
    conn.close();
  }
}

const listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
console.log(`listening 127.0.0.1:${listener.addr.port}`);
for await (const conn of listener) serve(conn);
