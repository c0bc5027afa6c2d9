/** Streams and options as code written for `Deno.TcpConn` and `Deno.Listener` relies on them, on every engine. */

import { TcpConn, TcpListener } from "@c10k/sockets/tcp";
import { UdpEndpoint } from "@c10k/sockets/udp";
import { assert, assertEquals, assertRejects, assertThrows } from "@std/assert";
import { delay } from "@std/async";
import net from "node:net";
import { encode, engineTest, Pair, readText, readToEnd } from "./_util.ts";

const HOST = "127.0.0.1";

/** Ways to hang up by the streams of `conn`, whose peer has sent a few bytes. */
const WAYS: Record<string, (conn: TcpConn) => Promise<unknown>> = {
  "cancelling readable": (conn) => conn.readable.cancel(),
  "cancelling readable's reader": async (conn) => {
    const reader = conn.readable.getReader();
    await reader.read();
    await reader.cancel(new Error("enough"));
  },
  "cancelling readable's reader while a read waits": async (conn) => {
    const reader = conn.readable.getReader();
    await reader.read();
    const reading = reader.read();
    await reader.cancel();
    assertEquals((await reading).done, true);
  },
  "cancelling a BYOB reader while a read waits": async (conn) => {
    const reader = conn.readable.getReader({ mode: "byob" });
    await reader.read(new Uint8Array(16));
    const reading = reader.read(new Uint8Array(16));
    await reader.cancel();
    assertEquals((await reading).done, true);
  },
  "leaving a loop over readable": async (conn) => {
    for await (const _ of conn.readable) break;
  },
  "an error in a loop over readable": async (conn) => {
    await assertRejects(async () => {
      for await (const _ of conn.readable) throw new Error("not understood");
    });
  },
  "cancelling both branches of tee()": async (conn) => {
    await Promise.all(conn.readable.tee().map((branch) => branch.cancel()));
  },
  "a pipe to a stream that fails": async (conn) => {
    const failing = new WritableStream({ write: () => Promise.reject(new Error("full")) });
    await assertRejects(() => conn.readable.pipeTo(failing), Error, "full");
  },
  "cancelling readable while writable's writer is held": async (conn) => {
    const writer = conn.writable.getWriter();
    await writer.write(encode("half an answer"));
    await conn.readable.cancel();
    await assertRejects(() => writer.write(encode("the rest")), Deno.errors.BadResource);
  },
  "cancelling readable after writable was closed": async (conn) => {
    await conn.writable.close();
    await conn.readable.cancel();
  },
  "aborting writable": (conn) => conn.writable.abort(new Error("stop")),
  "aborting writable's writer while readable is held": async (conn) => {
    const reader = conn.readable.getReader();
    await reader.read();
    const reading = reader.read();
    await delay(1); // the stream begins to read
    await conn.writable.getWriter().abort();
    await assertRejects(() => reading, Deno.errors.BadResource);
  },
  "a chunk that is no Uint8Array": async (conn) => {
    const writer = conn.writable.getWriter();
    await assertRejects(() => writer.write("text" as unknown as Uint8Array<ArrayBuffer>), TypeError);
  },
};

for (const [way, hangUp] of Object.entries(WAYS)) {
  engineTest(`TcpConn is closed by ${way}, and the peer notices`, async (engine) => {
    using pair = await Pair.open(engine);
    await pair.client.writeAll(encode("hello"));
    await pair.server.peek(new Uint8Array(1));
    await hangUp(pair.server);
    // End-of-file, or a reset where bytes were left unread.
    await readToEnd(pair.client).catch((error) => assert(error instanceof Deno.errors.ConnectionReset, error));
    await assertRejects(() => pair.server.read(new Uint8Array(1)), Deno.errors.BadResource);
  });
}

engineTest("TcpConn.readable whose lock is released, or loop keeps it, leaves the connection open", async (engine) => {
  using pair = await Pair.open(engine);
  await pair.client.writeAll(encode("one"));
  for await (const _ of pair.server.readable.values({ preventCancel: true })) break;
  const reader = pair.server.readable.getReader();
  reader.releaseLock();
  await pair.client.writeAll(encode("two"));
  assertEquals(await readText(pair.server), "two");
  await pair.server.writeAll(encode("three"));
  assertEquals(await readText(pair.client), "three");
});

engineTest("TcpConn is closed when the peer resets it, and both streams say that it did", async (engine) => {
  using listener = TcpListener.bind({ hostname: HOST, port: 0, engine });
  for (const first of ["readable", "writable"] as const) {
    const socket = net.connect(listener.addr.port, HOST);
    socket.on("error", () => {});
    await new Promise((resolve) => socket.once("connect", resolve));
    const conn = await listener.accept();
    const [reader, writer] = [conn.readable.getReader(), conn.writable.getWriter()];
    const reading = first === "readable" ? reader.read() : undefined;
    reading?.catch(() => {});
    await delay(1);
    const closed = new Promise((resolve) => socket.once("close", resolve));
    socket.resetAndDestroy();
    await closed;
    if (reading !== undefined) await assertRejects(() => reading, Deno.errors.ConnectionReset);
    const errors = [Deno.errors.ConnectionReset, Deno.errors.BrokenPipe];
    const failure = await writer.write(encode("late")).then(() => writer.write(encode("later"))).catch((error) =>
      error
    );
    assert(errors.some((kind) => failure instanceof kind), `${first}: ${failure}`);
    const other = reading === undefined ? await reader.read().catch((error) => error) : failure;
    assert(errors.some((kind) => other instanceof kind), `${first}: ${other}`);
    await assertRejects(() => conn.read(new Uint8Array(1)), Deno.errors.BadResource);
  }
});

engineTest(
  "TcpConn.close() ends locked streams: a waiting read is interrupted, later calls find it closed",
  async (engine) => {
    using pair = await Pair.open(engine);
    const [reader, writer] = [pair.server.readable.getReader(), pair.server.writable.getWriter()];
    const reading = reader.read();
    await delay(1); // the stream begins to read
    pair.server.close();
    await assertRejects(() => reading, Deno.errors.BadResource);
    await assertRejects(() => writer.write(encode("x")), Deno.errors.BadResource);
    assertEquals(await readToEnd(pair.client), 0);
  },
);

engineTest("TcpListener.bind() and UdpEndpoint.bind() let the kernel pick the port if none is given", (engine) => {
  for (const options of [{ engine }, { engine, port: undefined }, { engine, hostname: undefined }]) {
    using listener = TcpListener.bind(options as { engine: typeof engine });
    using endpoint = UdpEndpoint.bind(options as { engine: typeof engine });
    for (const { addr } of [listener, endpoint]) {
      assertEquals(addr.hostname, "0.0.0.0");
      assert(addr.port > 0);
    }
  }
});

engineTest("TcpConn.connect() needs a port", async (engine) => {
  const options = { hostname: HOST, engine } as unknown as { port: number };
  await assertRejects(() => TcpConn.connect(options), TypeError, "port must be a number");
});

engineTest("TcpListener.bind() refuses a transport that is not TCP", (engine) => {
  const options = { transport: "unix", path: "/tmp/x", engine } as unknown as { port: number };
  assertThrows(() => TcpListener.bind(options), TypeError, 'transport must be "tcp"');
  using _ = TcpListener.bind({ transport: "tcp", hostname: HOST, engine } as unknown as { port: number });
});
