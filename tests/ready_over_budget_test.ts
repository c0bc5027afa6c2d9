/**
 * A call that is ready and over the budget of its turn waits for the next turn, not for the kernel: it is not refused
 * where epoll_ctl(2) fails.
 */

import { TcpConn, TcpListener } from "@c10k/sockets/tcp";
import { DatagramBatch, UdpEndpoint } from "@c10k/sockets/udp";
import { assertEquals, assertRejects } from "@std/assert";
import { reactor } from "../poll/reactor.ts";
import { UnixSocket } from "../process/message/unix_socket.ts";
import { decode, encode, ENGINES, Pair, withoutLeaks } from "./_util.ts";

/** Registers a descriptor, so that whoever owns it cannot: EEXIST. */
function occupy(fd: number | undefined): Disposable {
  reactor().register(fd as number, { name: "another", kind: "socket", onReady: () => {} });
  return { [Symbol.dispose]: () => reactor().unregister(fd as number) };
}

/** Uses up what may go ahead in this turn. */
function spendBudget(): void {
  while (reactor().mayProceed());
}

/** Waits until a datagram or bytes are there, or room. */
async function until<T>(attempt: () => T | undefined): Promise<T> {
  for (let tries = 0; tries < 1_000; tries++) {
    const result = attempt();
    if (result !== undefined) return result;
    await new Promise((resolve) => setTimeout(resolve, 2));
  }
  throw new Error("nothing came");
}

/** Makes a call over budget, with and without a signal, on a socket that cannot be registered. */
async function expectServed<T>(fd: number | undefined, call: (signal?: AbortSignal) => Promise<T>): Promise<T[]> {
  using _ = occupy(fd);
  spendBudget();
  const first = call();
  const second = call(new AbortController().signal);
  return [await first, await second];
}

/** Sends two datagrams, and waits until the first has arrived. */
async function sendTwo(from: UdpEndpoint, to: UdpEndpoint): Promise<void> {
  await from.sendTo(encode("ab"), to.addr);
  await from.sendTo(encode("ab"), to.addr);
  await until(() => to.tryRecvFrom(new Uint8Array(2), { peek: true }));
}

function bindUdp(): UdpEndpoint {
  return UdpEndpoint.bind({ hostname: "127.0.0.1", port: 0, engine: "native" });
}

/** A listener with one connection in its queue, which its caller closes. */
async function queued(): Promise<[TcpListener, TcpConn]> {
  const listener = TcpListener.bind({ hostname: "127.0.0.1", port: 0, engine: "native" });
  return [listener, await TcpConn.connect({ hostname: "127.0.0.1", port: listener.addr.port, engine: "native" })];
}

if (ENGINES.includes("native")) {
  Deno.test("a listener that is paused or short of descriptors refuses no accept where epoll_ctl(2) fails", () =>
    withoutLeaks(async () => {
      const [listener, client] = await queued();
      using _listener = listener;
      using _client = client;
      using _ = occupy(listener.fd);
      listener.pause();
      const accepting = listener.accept();
      await new Promise((resolve) => setTimeout(resolve, 5));
      listener.resume();
      (await accepting).close();
    }));

  Deno.test("ready() finds what is there where epoll_ctl(2) fails, and refuses no call behind it", () =>
    withoutLeaks(async () => {
      const [listener, client] = await queued();
      using _listener = listener;
      using _client = client;
      using _ = occupy(listener.fd);
      spendBudget();
      const readying = listener.ready({ readable: true });
      const accepting = listener.accept();
      assertEquals((await readying).readable, true);
      (await accepting).close();
    }));
}

/** Each call that can wait, on sockets that are ready for it twice. */
const CALLS: Readonly<Record<string, () => Promise<void>>> = {
  "TcpConn.read()": async () => {
    using pair = await Pair.open("native");
    await pair.client.writeAll(encode("ab"));
    const p = new Uint8Array(2);
    await pair.server.peek(p);
    const n = await expectServed(pair.server.fd, (signal) => pair.server.read(p.subarray(0, 1), signal && { signal }));
    assertEquals(n, [1, 1]);
  },
  "TcpConn.peek()": async () => {
    using pair = await Pair.open("native");
    await pair.client.writeAll(encode("ab"));
    await pair.server.peek(new Uint8Array(1));
    const options = (signal?: AbortSignal) => signal && { signal };
    const n = await expectServed(pair.server.fd, (signal) => pair.server.peek(new Uint8Array(2), options(signal)));
    assertEquals(n, [2, 2]);
  },
  "TcpConn.readable": async () => {
    using pair = await Pair.open("native");
    await pair.client.writeAll(encode("ab"));
    await pair.server.peek(new Uint8Array(1));
    using _ = occupy(pair.server.fd);
    spendBudget();
    const reader = pair.server.readable.getReader();
    assertEquals(decode((await reader.read()).value as Uint8Array), "ab");
  },
  "TcpConn.write()": async () => {
    using pair = await Pair.open("native");
    const n = await expectServed(pair.client.fd, (signal) => pair.client.write(encode("ab"), signal && { signal }));
    assertEquals(n, [2, 2]);
  },
  "TcpConn.writeAll()": async () => {
    using pair = await Pair.open("native");
    await expectServed(pair.client.fd, (signal) => pair.client.writeAll(encode("ab"), signal && { signal }));
    assertEquals(await pair.server.read(new Uint8Array(8)), 4);
  },
  "TcpConn.closeWrite()": async () => {
    using pair = await Pair.open("native");
    await expectServed(pair.client.fd, () => pair.client.closeWrite());
    assertEquals(await pair.server.read(new Uint8Array(8)), null);
  },
  "TcpListener.accept()": async () => {
    using listener = TcpListener.bind({ hostname: "127.0.0.1", port: 0, engine: "native" });
    using _a = await TcpConn.connect({ hostname: "127.0.0.1", port: listener.addr.port, engine: "native" });
    using _b = await TcpConn.connect({ hostname: "127.0.0.1", port: listener.addr.port, engine: "native" });
    const conns = await expectServed(listener.fd, (signal) => listener.accept(signal && { signal }));
    for (const conn of conns) conn.close();
    assertEquals(conns.length, 2);
  },
  "UdpEndpoint.recvFrom()": async () => {
    using a = bindUdp();
    using b = bindUdp();
    await sendTwo(a, b);
    const got = await expectServed(b.fd, (signal) => b.recvFrom(new Uint8Array(2), signal && { signal }));
    assertEquals(got.map(({ size }) => size), [2, 2]);
  },
  "UdpEndpoint.recvBatch()": async () => {
    using a = bindUdp();
    using b = bindUdp();
    await sendTwo(a, b);
    const batch = new DatagramBatch({ capacity: 1, datagramSize: 16 });
    assertEquals(await expectServed(b.fd, (signal) => b.recvBatch(batch, signal && { signal })), [1, 1]);
  },
  "UdpEndpoint.sendTo()": async () => {
    using a = bindUdp();
    using b = bindUdp();
    const n = await expectServed(a.fd, (signal) => a.sendTo(encode("ab"), b.addr, signal && { signal }));
    assertEquals(n, [2, 2]);
  },
  "UdpEndpoint.sendBatch()": async () => {
    using a = bindUdp();
    using b = bindUdp();
    const batch = new DatagramBatch({ capacity: 1, datagramSize: 16 });
    batch.set(0, encode("ab"), b.addr);
    assertEquals(await expectServed(a.fd, (signal) => a.sendBatch(batch, { end: 1, ...(signal && { signal }) })), [
      1,
      1,
    ]);
  },
  "UnixSocket.receive()": async () => {
    const [here, there] = UnixSocket.pair();
    const [a, b] = [new UnixSocket(here, "a"), new UnixSocket(there, "b")];
    try {
      for (let i = 0; i < 2; i++) a.trySend(encode("ab"), () => [], () => {});
      const got = await expectServed(there, () => b.receive());
      assertEquals(got.map(({ data }) => decode(data)), ["ab", "ab"]);
    } finally {
      a.close();
      b.close();
    }
  },
};

for (const [name, run] of Object.entries(CALLS)) {
  Deno.test({
    name: `[native] ${name} that is ready and over budget is not refused where the kernel watches nothing more`,
    ignore: !ENGINES.includes("native"),
    fn: () => withoutLeaks(run),
  });
}

Deno.test({
  name: "[native] a call that has to wait is refused where the kernel watches nothing more",
  ignore: !ENGINES.includes("native"),
  fn: () =>
    withoutLeaks(async () => {
      using pair = await Pair.open("native");
      for (const options of [undefined, { signal: new AbortController().signal }]) {
        using _ = occupy(pair.server.fd);
        await assertRejects(() => pair.server.read(new Uint8Array(1), options), Deno.errors.AlreadyExists, "EEXIST");
        spendBudget();
        await assertRejects(() => pair.server.peek(new Uint8Array(1), options), Deno.errors.AlreadyExists, "EEXIST");
      }
    }),
});
