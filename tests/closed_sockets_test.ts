/** Calls on closed sockets: each names the system call that it would have made. */

import { Multiplexer } from "@c10k/sockets/mux";
import { type Engine, SyscallError, TcpSocket } from "@c10k/sockets/tcp";
import { DatagramBatch, UdpEndpoint } from "@c10k/sockets/udp";
import { assert, assertEquals } from "@std/assert";
import { ENGINES, engineTest, Pair } from "./_util.ts";

type Call = readonly [syscall: string, call: () => unknown];

async function expectSyscalls(calls: readonly Call[]): Promise<void> {
  for (const [syscall, call] of calls) {
    const error = await (async () => await call())().then(() => undefined, (error) => error);
    assert(error instanceof Deno.errors.BadResource, `${call}: ${Deno.inspect(error)}`);
    assert(error.cause instanceof SyscallError);
    const { code } = error as Error & { code?: string };
    assertEquals([code, error.cause.code, error.cause.syscall], ["EBADF", "EBADF", syscall], String(call));
  }
}

engineTest("calls on a closed TcpConn and TcpListener fail with EBADF and name their system call", async (engine) => {
  using pair = await Pair.open(engine);
  pair.client.close();
  pair.listener.close();
  const p = new Uint8Array(1);
  const { client, listener } = pair;
  await expectSyscalls([
    ["recv", () => client.read(p)],
    ["recv", () => client.peek(p)],
    ["recv", () => client.tryRead(p)],
    ["send", () => client.write(p)],
    ["send", () => client.writeAll(p)],
    ["send", () => client.tryWrite(p)],
    ["shutdown", () => client.closeWrite()],
    ["shutdown", () => client.shutdown("both")],
    ["setsockopt", () => client.setNoDelay()],
    ["setsockopt", () => client.setKeepAlive()],
    ["setsockopt", () => client.setOption("SO_RCVBUF", 4096)],
    ["getsockopt", () => client.getOption("SO_RCVBUF")],
    ["getsockopt", () => client.info()],
    ["getsockopt", () => client.getCongestion()],
    ["setsockopt", () => client.setCongestion("reno")],
    ["ioctl", () => client.queues()],
    ["setsockopt", () => client.reset()],
    ["fcntl", () => client.detach()],
    ["accept4", () => listener.accept()],
    ["accept4", () => listener.tryAccept()],
    ["getsockopt", () => listener.queue()],
    ["epoll_ctl", () => listener.pause()],
    ["epoll_ctl", () => listener.resume()],
    ["fcntl", () => listener.detach()],
  ]);
});

engineTest("calls on a closed UdpEndpoint fail with EBADF and name their system call", async (engine) => {
  const endpoint = UdpEndpoint.bind({ hostname: "127.0.0.1", port: 0, engine });
  const { addr } = endpoint;
  endpoint.close();
  const p = new Uint8Array(1);
  const batch = new DatagramBatch({ capacity: 1, datagramSize: 16 });
  batch.set(0, p, addr);
  await expectSyscalls([
    ["recvfrom", () => endpoint.recvFrom(p)],
    ["recvfrom", () => endpoint.tryRecvFrom(p)],
    ["recvfrom", () => endpoint.recvBatch(batch)],
    ["sendto", () => endpoint.sendTo(p, addr)],
    ["sendto", () => endpoint.trySendTo(p, addr)],
    ["sendto", () => endpoint.sendBatch(batch, { end: 1 })],
    ["connect", () => endpoint.connect(addr)],
    ["connect", () => endpoint.disconnect()],
    ["setsockopt", () => endpoint.setBroadcast(true)],
    ["setsockopt", () => endpoint.setTtl(4)],
    ["setsockopt", () => endpoint.joinMulticast({ group: "224.0.0.251" })],
    ["setsockopt", () => endpoint.leaveMulticast({ group: "224.0.0.251" })],
    ["getsockopt", () => endpoint.getOption("SO_RCVBUF")],
    ["getsockopt", () => endpoint.drops()],
    ["fcntl", () => endpoint.detach()],
  ]);
});

Deno.test({
  name: "[native] calls on a closed TcpSocket fail with EBADF and name their system call",
  ignore: !ENGINES.includes("native" satisfies Engine),
  fn: async () => {
    const socket = TcpSocket.open("IPv4");
    socket.close();
    const addr = { hostname: "127.0.0.1", port: 9 };
    await expectSyscalls([
      ["bind", () => socket.bind(addr)],
      ["listen", () => socket.listen()],
      ["connect", () => socket.connect(addr)],
      ["getsockopt", () => socket.getOption("SO_RCVBUF")],
      ["setsockopt", () => socket.setOption("SO_RCVBUF", 4096)],
    ]);
  },
});

engineTest(
  "calls on a closed Multiplexer, and with a closed source, fail with EBADF and name their system call",
  async (engine) => {
    using pair = await Pair.open(engine);
    const { client, server } = pair;
    const mux = new Multiplexer({ backend: engine === "native" ? "epoll" : "runtime" });
    client.close();
    await expectSyscalls([["epoll_ctl", () => mux.register(client, { readable: true })]]);
    mux.close();
    await expectSyscalls([
      ["epoll_ctl", () => mux.register(server, { readable: true })],
      ["epoll_ctl", () => mux.modify(server, { readable: true })],
      ["epoll_ctl", () => mux.unregister(server)],
      ["epoll_wait", () => mux.wait()],
      ["write", () => mux.wake()],
    ]);
  },
);
