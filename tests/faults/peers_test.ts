/** Peers that reset, stall or never finish a request, while others keep books. */

import { TcpConn } from "@c10k/sockets/tcp";
import { assert, assertEquals, assertLess } from "@std/assert";
import { delay } from "@std/async";
import { eventually, randomBytes } from "../_util.ts";
import { Books, messageOf, type Order } from "./_books.ts";
import { assertBalanced, faultTest, socketsOf, startServer } from "./_faults.ts";

/** An order of the well-behaved. */
function orderOf(port: number, more: Partial<Order> = {}): Order {
  return { hostname: "127.0.0.1", port, messages: 50, size: 2_000, pace: 5, window: 4, ...more };
}

faultTest("peers that reset at a random byte break no other connection and leave no descriptor", async (model) => {
  await using server = await startServer(model);
  // Deno opens its own sockets for signals half a second after the start.
  await delay(1_000);
  const before = socketsOf(server.pid);
  const books = new Books();
  const good = books.serveAll(10, orderOf(server.port));
  await Promise.all(Array.from({ length: 200 }, async (_, i) => {
    await delay(Math.random() * 250);
    using conn = await TcpConn.connect({ port: server.port, engine: "native" });
    const message = messageOf(i, 0, 2_000);
    const cut = Math.floor(Math.random() * (message.length + 1));
    if (cut > 0) await conn.writeAll(message.subarray(0, cut));
    const part = new Uint8Array(1 + Math.floor(Math.random() * cut));
    if (cut > 0 && Math.random() < 0.5) await conn.read(part);
    conn.reset();
  }));
  await good;
  assertBalanced(books);
  await eventually(() => socketsOf(server.pid) <= before ? true : undefined);
});

faultTest("peers that do not read get backpressure, and later all of their bytes", async (model) => {
  await using server = await startServer(model);
  const slow = await Promise.all(
    Array.from({ length: 4 }, () => TcpConn.connect({ port: server.port, engine: "native" })),
  );
  const data = randomBytes(16 * 1024 * 1024);
  const sending = Promise.allSettled(slow.map((conn) => conn.writeAll(data).then(() => conn.closeWrite())));
  await delay(100);
  const books = new Books();
  await books.serveAll(10, orderOf(server.port));
  assertBalanced(books);
  // Four times 16 MiB are under way: what the kernel's queues do not hold waits in this program.
  assertLess(server.rss(), 300 * 1024 * 1024);
  await Promise.all(slow.map(async (conn) => {
    const p = new Uint8Array(256 * 1024);
    let at = 0;
    for (let n = await conn.read(p); n !== null; n = await conn.read(p)) {
      if (Deno.inspect(p.subarray(0, 16)) !== Deno.inspect(data.subarray(at, at + 16))) {
        throw new Error(`wrong at ${at}`);
      }
      at += n;
    }
    assertEquals(at, data.length);
  }));
  for (const { status } of await sending) assertEquals(status, "fulfilled");
  for (const conn of slow) conn.close();
});

faultTest("5,000 peers that send half a request and no more keep nobody from being served", async (model) => {
  await using server = await startServer(model);
  const half = messageOf(1, 0, 500).subarray(0, 8);
  const idle: TcpConn[] = [];
  try {
    await Promise.all(Array.from({ length: 50 }, async () => {
      for (let i = 0; i < 100; i++) {
        const conn = await TcpConn.connect({ port: server.port, engine: "native", timeout: 60_000 });
        idle.push(conn);
        await conn.writeAll(half);
      }
    }));
    assertEquals(idle.length, 5_000);
    const books = new Books();
    await books.serveAll(20, orderOf(server.port, { pace: 0 }));
    assertBalanced(books);
    // Who comes back to a request that was begun long ago is served as well.
    const p = new Uint8Array(half.length);
    for (const conn of idle.slice(0, 50)) {
      for (let end = 0; end < p.length;) {
        const n = await conn.read(p.subarray(end));
        assert(n !== null, "the server has closed an idle connection");
        end += n;
      }
      assertEquals(p, half);
    }
  } finally {
    for (const conn of idle) conn.close();
  }
});
