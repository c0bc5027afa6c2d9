/** Shown by the compiler: the classes stand in for Deno's own. */

import type { TcpConn, TcpConnectOptions, TcpListener, TcpListenOptions } from "@c10k/sockets/tcp";
import { engineTest, Pair } from "./_util.ts";

/** Compiles only if `T` is assignable to `U`. */
type Assignable<T extends U, U> = T;

type _Conn = Assignable<TcpConn, Deno.TcpConn>;
type _Listener = Assignable<TcpListener, Deno.TcpListener>;
type _Connect = Assignable<Pick<Deno.ConnectOptions, "port" | "hostname" | "signal">, TcpConnectOptions>;
type _Listen = Assignable<{ port: number; hostname?: string }, TcpListenOptions>;

function takesConn(_conn: Deno.TcpConn): void {}
function takesListener(_listener: Deno.TcpListener): void {}

engineTest("TcpConn and TcpListener are taken where Deno's own are", async (engine) => {
  using pair = await Pair.open(engine);
  takesConn(pair.client);
  takesListener(pair.listener);
});
