/** How one program takes over from another by the control socket, and what goes wrong on the way. */

import { Pool, type PoolOptions } from "@c10k/sockets/process";
import { TcpListener } from "@c10k/sockets/tcp";
import { UdpEndpoint } from "@c10k/sockets/udp";
import { assert, assertEquals, assertRejects } from "@std/assert";
import { deadline, delay } from "@std/async";
import { reactor } from "../poll/reactor.ts";
import { Link } from "../process/message/link.ts";
import { duplicate } from "../process/pool/listeners.ts";
import { ProcessTransport } from "../process/message/process_transport.ts";
import { UnixListener, UnixSocket } from "../process/message/unix_socket.ts";
import { ControlServer, takeOver } from "../process/pool/upgrade.ts";
import { Client, ECHO, untilRefused, visit, visits } from "./_pool.ts";
import { moduleOf, NATIVE, oneKindTest, runStarved } from "./_process.ts";
import { eventually, long, openDescriptors, ROOT, run, socketTest } from "./_util.ts";

/** A test with a pool that others can take over from; a thread is the least that a pool takes. */
function upgradeTest(name: string, fn: (running: Pool, options: PoolOptions & { control: string }) => Promise<void>) {
  oneKindTest("worker", name, async (kind) => {
    const folder = await Deno.makeTempDir();
    try {
      const listen = { hostname: "127.0.0.1", port: 0 };
      const options = { kind, module: ECHO, size: 1, signals: false, control: `${folder}/control`, listen } as const;
      await using running = await Pool.start(options);
      await fn(running, options);
    } finally {
      await Deno.remove(folder, { recursive: true });
    }
  });
}

const FAILING = moduleOf(`throw new Error("a bad release");`);

upgradeTest("Pool.start() takes the listener over from a running pool, which closes", async (running, options) => {
  const { port } = running.addr;
  await using next = await Pool.start(options);
  assertEquals(next.addr.port, port);
  await running.closed;
  await visit(port);
  // The path is the new one's by now.
  assert((await Deno.lstat(options.control)).isSocket);
  await next.close();
  await assertRejects(() => Deno.lstat(options.control), Deno.errors.NotFound);
});

upgradeTest("Pool.start() that fails after a takeover leaves the running pool whole", async (running, options) => {
  const { port } = running.addr;
  for (let i = 0; i < 2; i++) {
    await assertRejects(() => Pool.start({ ...options, module: FAILING }), Error, "before it called serve()");
    await visit(port);
    assertEquals([...Deno.readDirSync(options.control.replace(/\/control$/, ""))].map(({ name }) => name), ["control"]);
  }
  await using next = await Pool.start(options);
  assertEquals(next.addr.port, port);
});

long(upgradeTest)("Pool goes on when a program is killed that was taking over", async (running, options) => {
  const program = `
    import { takeOver } from "${new URL("process/pool/upgrade.ts", ROOT)}";
    const { listeners } = await takeOver(${JSON.stringify(options.control)});
    console.log(listeners.length);
    Deno.kill(Deno.pid, "SIGKILL");
  `;
  const { stdout } = await run(["run", "--quiet", "--allow-all", moduleOf(program)]);
  assertEquals(stdout, "1\n");
  const { port } = running.addr;
  await visit(port);
  await using next = await Pool.start(options);
  assertEquals(next.addr.port, port);
});

long(upgradeTest)("Pool.start() refuses to take over while another one does", async (running, options) => {
  const { addr } = running;
  const asked = Promise.withResolvers<void>();
  const told = Promise.withResolvers<Response>();
  const server = Deno.serve({ hostname: "127.0.0.1", port: 0, onListen: () => {} }, () => {
    asked.resolve();
    return told.promise;
  });
  // Its child comes up when it is told to.
  const slow = moduleOf(`
    await (await fetch("http://127.0.0.1:${server.addr.port}")).text();
    await import("${ECHO}");
  `);
  const first = Pool.start({ ...options, module: slow });
  await asked.promise;
  await assertRejects(() => Pool.start(options), Deno.errors.Busy, "another one takes over already");
  await visit(addr.port);
  told.resolve(new Response());
  await using next = await first;
  assertEquals(next.addr, addr);
  await server.shutdown();
});

upgradeTest("Pool.start() leaves a listener alone that has another address", async (running, options) => {
  const other = TcpListener.bind({ hostname: "127.0.0.1", port: 0 });
  const { port } = running.addr;
  const { listen: _, ...others } = options;
  await using next = await Pool.start({ ...others, listener: other });
  assertEquals(next.addr, other.addr);
  await running.closed;
  await visit(next.addr.port);
  await untilRefused(port);
});

upgradeTest("Pool survives what a forged client says to its control socket", async (running, options) => {
  const before = openDescriptors();
  const [mine, theirs] = UnixSocket.pair();
  for (const [descriptors, text] of [[[], "?"], [[mine, theirs], "\x01nonsense"], [[mine], "\x00"]] as const) {
    const socket = UnixSocket.connect(options.control, "the pool");
    await socket.send(new TextEncoder().encode(text), () => [...descriptors], () => {});
    // It is cut, once it is understood that nothing can be.
    if (text !== "\x00") await socket.receive().catch(() => {});
    socket.close();
  }
  new UnixSocket(mine, "a pair").close();
  new UnixSocket(theirs, "a pair").close();
  await eventually(() => openDescriptors() <= before ? true : undefined);
  const { port } = running.addr;
  await visit(port);
  await using next = await Pool.start(options);
  assertEquals(next.addr.port, port);
});

upgradeTest(
  "Pool.start() that cannot bind beside what it has taken over leaves it running",
  async (running, options) => {
    const { port } = running.addr;
    await assertRejects(() => Pool.start({ ...options, balance: "reuseport", size: 2 }), Deno.errors.AddrInUse);
    await visit(port);
  },
);

long(upgradeTest)(
  "Pool [round-robin] serves from several sockets no more at a time than it may",
  async (_, options) => {
    // As many sockets for one port as there are children.
    const control = `${options.control}2`;
    await using old = await Pool.start({ ...options, control, balance: "reuseport", size: 2 });
    const { port } = old.addr;
    await using next = await Pool.start({ ...options, control, balance: "round-robin", maxConnections: 1 });
    await old.closed;
    assertEquals(next.addr.port, port);
    const first = await Client.open(port);
    // The kernel deals these out among the sockets.
    const others = Array.from({ length: 16 }, () => Client.open(port));
    const early = await Promise.race([...others, delay(50)]);
    assertEquals(early, undefined, "two were served at a time");
    await first.finish();
    await Promise.all(others.map(async (opening) => await (await opening).finish()));
  },
);

/** A test with the path of a control socket. */
function controlTest(name: string, fn: (control: string) => Promise<void>, ignore = false): void {
  socketTest(name, async () => {
    const folder = await Deno.makeTempDir();
    try {
      await fn(`${folder}/control`);
    } finally {
      await Deno.remove(folder, { recursive: true });
    }
  }, ignore || !NATIVE);
}

controlTest("takeOver() tells what is no control socket from one that nobody serves", async (control) => {
  assertEquals(await takeOver(control), undefined);
  const other = Deno.listen({ transport: "unix", path: control });
  await assertRejects(() => takeOver(control), Error, "not a control socket");
  other.close();
  // One that a program has left behind is removed.
  assertEquals(await takeOver(control), undefined);
  await assertRejects(() => Deno.lstat(control), Deno.errors.NotFound);
  await Deno.writeTextFile(control, "a file");
  await assertRejects(() => takeOver(control), Deno.errors.AlreadyExists, "there is a file that is no socket");
});

controlTest("takeOver() is told why the other one has nothing to give", async (control) => {
  using open = TcpListener.bind({ hostname: "127.0.0.1", port: 0, engine: "native" });
  const closed = TcpListener.bind({ hostname: "127.0.0.1", port: 0, engine: "native" });
  closed.close();
  // The first one is copied, and its copy closed.
  const server = new ControlServer(control, () => duplicate([open, closed]), () => {});
  server.publish();
  await assertRejects(() => takeOver(control), Deno.errors.Busy, "EBADF");
  server.close();
});

controlTest("a control socket closes what it has copied for one who is gone before the answer", async (control) => {
  using listener = TcpListener.bind({ hostname: "127.0.0.1", port: 0, engine: "native" });
  let copies = 0;
  const server = new ControlServer(control, () => (copies++, duplicate([listener])), () => {});
  server.publish();
  // Whatever is noticed first: that the first one is gone, or that the next one asks.
  using endpoint = UdpEndpoint.bind({ hostname: "127.0.0.1", engine: "native" });
  const before = openDescriptors();
  for (let calls = 100; calls < 135; calls++) {
    // After a wait the budget is whole again.
    const waiting = endpoint.recvFrom(new Uint8Array(1));
    await delay(3);
    await endpoint.sendTo(new Uint8Array(1), endpoint.addr);
    await waiting;
    for (let i = 0; i < calls; i++) reactor().mayProceed();
    const link = new Link("the pool");
    link.attach(new ProcessTransport(UnixSocket.connect(control, "the pool"), link, () => {}));
    await link.post({ type: "pool", body: { ask: "listeners" } }, []);
    link.close(new Error("The test is over"));
    const takeover = await takeOver(control);
    assertEquals(takeover?.listeners.length, 1);
    for (const taken of takeover?.listeners ?? []) taken.close();
    takeover?.close();
  }
  assertEquals(copies, 70);
  await eventually(() => openDescriptors() <= before ? true : undefined);
  server.close();
});

controlTest("a control socket closes what comes with a question", async (control) => {
  const server = new ControlServer(control, () => [], () => {});
  server.publish();
  const listener = TcpListener.bind({ hostname: "127.0.0.1", port: 0, engine: "native" });
  const { port } = listener.addr;
  const link = new Link("the pool");
  link.attach(new ProcessTransport(UnixSocket.connect(control, "the pool"), link, () => {}));
  await link.post({ type: "pool", body: { ask: "drain" } }, [listener]);
  await untilRefused(port);
  link.close(new Error("The test is over"));
  server.close();
});

controlTest("takeOver() says that the other one has ended instead of an answer", async (control) => {
  const forger = new UnixListener(control).publish();
  const ended = assertRejects(() => takeOver(control), Error, "it has ended");
  const socket = await forger.accept();
  await socket.receive();
  socket.close();
  await ended;
  forger.close();
});

controlTest("takeOver() closes what comes with a refusal, and drain() says why it was refused", async (control) => {
  for (const last of ["refused", "cut"]) {
    const forger = new UnixListener(control).publish();
    const listener = TcpListener.bind({ hostname: "127.0.0.1", port: 0, engine: "native" });
    const serving = (async () => {
      const link = new Link("the victim");
      link.onPacket = ({ body }) => {
        if ((body as { ask: string }).ask === "listeners") link.post({ type: "pool", body: { tell: "listeners" } });
        else if (last === "cut") link.close(new Error("The line is cut"));
        else link.post({ type: "pool", body: { tell: "refused", why: "not now" } }, [listener]);
      };
      const socket = await forger.accept();
      await new Promise<void>((resolve) => link.attach(new ProcessTransport(socket, link, () => resolve())));
      link.close(new Error("The test is over"));
    })();
    const takeover = await takeOver(control);
    if (last === "refused") await assertRejects(async () => await takeover?.drain(), Deno.errors.Busy, "not now");
    // Who has ended needs not be told.
    else await takeover?.drain();
    takeover?.close();
    await serving;
    assertEquals(listener.fd === undefined, last === "refused");
    listener.close();
    forger.close();
  }
});

/** Makes the kernel take this thread for one of another user, which root may. */
function asNobody<T>(call: () => T): T {
  const libc = Deno.dlopen("libc.so.6", {
    // Of this thread alone, as the C library's own setresuid(3) is not.
    syscall: { parameters: ["i64", "i64", "i64", "i64"], result: "i64" },
  });
  const SYS_SETRESUID = Deno.build.arch === "aarch64" ? 147n : 117n;
  const become = (uid: bigint) => assertEquals(libc.symbols.syscall(SYS_SETRESUID, -1n, uid, -1n), 0n);
  become(65_534n);
  try {
    return call();
  } finally {
    become(0n);
    libc.close();
  }
}

controlTest("programs of different users do not take over from each other (as root)", async (control) => {
  Deno.chmodSync(control.replace(/\/control$/, ""), 0o777);
  const foreign = asNobody(() => new UnixListener(control).publish());
  await assertRejects(() => takeOver(control), Deno.errors.PermissionDenied, "it is another user's");
  foreign.close();
  const server = new ControlServer(control, () => [], () => {});
  server.publish();
  // Who has the right to connect may not ask all the same.
  Deno.chmodSync(control, 0o666);
  const stranger = asNobody(() => UnixSocket.connect(control, "the pool"));
  assertEquals((await deadline(stranger.receive(), 5_000)).data.length, 0);
  stranger.close();
  server.close();
}, Deno.uid() !== 0);

long(Deno.test)({
  name: "Pool answers who wants to take over later, when descriptors have run out",
  ignore: !NATIVE,
  async fn() {
    const folder = await Deno.makeTempDir();
    const internal = (name: string) => JSON.stringify(new URL(`process/${name}.ts`, ROOT));
    try {
      const { stdout, stderr } = await runStarved(`
        import { Link } from ${internal("message/link")};
        import { ProcessTransport } from ${internal("message/process_transport")};
        import { UnixSocket } from ${internal("message/unix_socket")};
        import { ControlServer } from ${internal("pool/upgrade")};
        const control = "${folder}/control";
        const server = new ControlServer(control, () => [], () => {});
        server.publish();
        const link = new Link("the pool");
        const answered = new Promise((resolve) => link.onPacket = ({ body }) => resolve(body));
        link.attach(new ProcessTransport(UnixSocket.connect(control, "the pool"), link, () => {}));
        fill();
        await link.post({ type: "pool", body: { ask: "listeners" } });
        console.log(await Promise.race([answered, new Promise((resolve) => setTimeout(resolve, 20, "nothing"))]));
        free();
        console.log((await answered).tell);`);
      assertEquals([stdout, stderr], ["nothing\nlisteners\n", ""]);
    } finally {
      await Deno.remove(folder, { recursive: true });
    }
  },
});

long(oneKindTest)(
  "worker",
  "Pool [round-robin] keeps what several sockets have accepted for a child that takes nothing",
  async () => {
    const folder = await Deno.makeTempDir();
    try {
      const options = { module: ECHO, signals: false, control: `${folder}/control` };
      const listen = { hostname: "127.0.0.1", port: 0, backlog: 1024 };
      await using old = await Pool.start({ ...options, kind: "worker", listen, balance: "reuseport", size: 2 });
      await using next = await Pool.start({ ...options, kind: "process", listen, balance: "round-robin", size: 1 });
      await old.closed;
      const pid = next.stats()[0]?.pid as number;
      Deno.kill(pid, "SIGSTOP");
      // No more than 128 are handed to it; each socket has taken another one before that is known.
      const visiting = visits(next.addr.port, 160, 160);
      await eventually(() => next.stats()[0]?.total === 128 ? true : undefined);
      Deno.kill(pid, "SIGCONT");
      assertEquals((await visiting).length, 160);
      assertEquals(next.stats()[0]?.total, 160);
    } finally {
      await Deno.remove(folder, { recursive: true });
    }
  },
);
