/** Echo over this library: `ours.ts --engine runtime|native`. */

import { type TcpConn, TcpListener } from "../../tcp/mod.ts";

// 32 KiB, twice the largest message, as in the other servers; `--buffer BYTES` for idle connections.
const BUFFER = Deno.args[2] === "--buffer" ? Number(Deno.args[3]) : 32 * 1024;

async function serve(conn: TcpConn): Promise<void> {
  const buffer = new Uint8Array(BUFFER);
  try {
    for (;;) {
      const n = await conn.read(buffer);
      if (n === null) break;
      await conn.writeAll(buffer.subarray(0, n));
    }
  } catch {
    // A peer that has gone is no concern of the others.
  } finally {
    conn.close();
  }
}

function engine(args: readonly string[]): "runtime" | "native" {
  const [flag, value] = args;
  if (flag === "--engine" && (value === "runtime" || value === "native")) {
    return value;
  }
  console.error("error: say --engine runtime or --engine native");
  Deno.exit(2);
}

function bind(): TcpListener {
  try {
    return TcpListener.bind({
      hostname: "127.0.0.1",
      port: 0,
      engine: engine(Deno.args),
    });
  } catch (error) {
    // One line, which the table shows as the reason why the row is missing.
    console.error(`error: ${error instanceof Error ? error.message : error}`);
    Deno.exit(1);
  }
}

const listener = bind();
console.log(`listening 127.0.0.1:${listener.addr.port}`);
for await (const conn of listener) serve(conn);
