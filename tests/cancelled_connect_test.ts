/** A connect that is given up at about the moment when it succeeds leaves no connection behind, on every engine. */

import { TcpConn } from "@c10k/sockets/tcp";
import { assert, assertEquals, assertRejects } from "@std/assert";
import { delay } from "@std/async";
import { engineTest, eventually, replaced, socketTest } from "./_util.ts";

/** A server that waits for the end of each connection; the client side is what is tested. */
class Server implements Disposable {
  readonly #listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  /** Connections that the client has not closed. */
  open = 0;
  onAccept = () => {};

  constructor() {
    this.#serve();
  }

  get port(): number {
    return this.#listener.addr.port;
  }

  async #serve(): Promise<void> {
    for await (const conn of this.#listener) {
      this.open++;
      this.onAccept();
      conn.read(new Uint8Array(1)).catch(() => {}).finally(() => {
        conn.close();
        this.open--;
      });
    }
  }

  /** Resolves once the client has closed all that the kernel has accepted up to now. */
  async ended(): Promise<void> {
    await delay(5);
    await eventually(() => this.open === 0 ? true : undefined, 5_000);
  }

  [Symbol.dispose](): void {
    this.#listener.close();
  }
}

/** When to abort, after connect was called. */
const MOMENTS: Record<string, (abort: () => void, server: Server, i: number) => void> = {
  "the server accepts": (abort, server) => server.onAccept = abort,
  "a timer of 0 ms": (abort) => void setTimeout(abort, 0),
  "a timer of 1 ms": (abort) => void setTimeout(abort, 1),
  "an immediate": (abort) => void setImmediate(abort),
  "some microtasks": async (abort, _, i) => {
    for (let turns = i; turns > 0; turns--) await undefined;
    abort();
  },
  "the loop was blocked": (abort) => {
    for (const end = performance.now() + 0.3; performance.now() < end;);
    setTimeout(abort, 0);
  },
};

for (const hostname of ["127.0.0.1", "localhost"]) {
  engineTest(`TcpConn.connect() to ${hostname}, aborted when it succeeds, leaves nothing open`, async (engine) => {
    using server = new Server();
    for (const moment of Object.values(MOMENTS)) {
      for (let i = 0; i < 25; i++) {
        server.onAccept = () => {};
        const [reason, abort] = [new Error("enough"), new AbortController()];
        const { port } = server;
        const connecting = TcpConn.connect({ hostname, port, engine, signal: abort.signal });
        moment(() => abort.abort(reason), server, 2 * i);
        const result = await connecting.catch((error) => error);
        if (result instanceof TcpConn) result.close();
        else assertEquals(result, reason);
      }
    }
    server.onAccept = () => {};
    for (let i = 0; i < 25; i++) {
      const options = { hostname, port: server.port, engine, timeout: i / 10 };
      const result = await TcpConn.connect(options).catch((error) => error);
      if (result instanceof TcpConn) result.close();
      else assert(result instanceof Deno.errors.TimedOut, result);
    }
    (await TcpConn.connect({ hostname, port: server.port, engine })).close();
    await server.ended();
  });
}

/** Deno calls it last, when the connection exists. */
const removeListener = Object.getOwnPropertySymbols(AbortSignal.prototype)
  .find(({ description }) => description?.includes("remove"));

socketTest("[runtime] TcpConn.connect() aborted when Deno has the connection closes it", async () => {
  using server = new Server();
  const abort = new AbortController();
  const prototype = AbortSignal.prototype as unknown as Record<symbol, (...p: unknown[]) => void>;
  const remove = prototype[removeListener as symbol] as (...p: unknown[]) => void;
  using _ = replaced(prototype, removeListener as symbol, function (this: AbortSignal, ...p: unknown[]) {
    abort.abort(new Error("enough"));
    remove.apply(this, p);
  });
  const options = { port: server.port, engine: "runtime", signal: abort.signal } as const;
  await assertRejects(() => TcpConn.connect(options), Error, "enough");
  await server.ended();
}, removeListener === undefined);

socketTest("[runtime] TcpConn.connect() aborts no operation of a Deno that could drop the connection", async () => {
  const made = Promise.withResolvers<{ closed: number; [Symbol.dispose](): void }>();
  let isAborted = false;
  using _ = replaced(Deno, "connect", ({ signal }: { signal: AbortSignal }) => {
    signal.addEventListener("abort", () => isAborted = true);
    return made.promise;
  });
  const abort = new AbortController();
  const connecting = TcpConn.connect({ port: 9, engine: "runtime", signal: abort.signal });
  abort.abort(new Error("enough"));
  await assertRejects(() => connecting, Error, "enough");
  const conn = { closed: 0, [Symbol.dispose]: () => void conn.closed++ };
  made.resolve(conn);
  await delay(0);
  assertEquals([isAborted, conn.closed], [false, 1]);
});
