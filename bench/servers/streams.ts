/** Echo by a pipe from `conn.readable` to `conn.writable`: `streams.ts deno|runtime|native`. */

import { TcpListener } from "../../tcp/mod.ts";

const [engine] = Deno.args;

function bind(): Deno.Listener<Deno.TcpConn, Deno.NetAddr> {
  const options = { hostname: "127.0.0.1", port: 0 };
  if (engine === "deno") return Deno.listen(options);
  if (engine === "runtime" || engine === "native") return TcpListener.bind({ ...options, engine });
  console.error("error: say deno, runtime or native");
  Deno.exit(2);
}

const listener = bind();
console.log(`listening 127.0.0.1:${listener.addr.port}`);
for await (const conn of listener) conn.readable.pipeTo(conn.writable).catch(() => {});
