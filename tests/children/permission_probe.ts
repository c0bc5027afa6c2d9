/**
 * Makes every public call that a permission stands before, and Deno's own call
 * for the same target beside it, and prints what came of each: run by
 * `permission_table_test.ts` with one set of flags, or in a Worker.
 *
 * "let through" is what the permissions do not stop, whatever the kernel says
 * then; "refused" is `NotCapable`; "unsupported" is what an engine cannot do.
 */

import { listenFds, openSockets, Pool, spawnFor, spawnProcess } from "@c10k/sockets/process";
import { type Engine, engineSupport, TcpConn, TcpListener, TcpSocket } from "@c10k/sockets/tcp";
import { DatagramBatch, UdpEndpoint } from "@c10k/sockets/udp";
import { loadedLibc } from "../../internal/libc.ts";

export type Answer = "let through" | "refused" | "unsupported";

/** One call: its name, what Deno answers, what the library answers on an engine. */
export interface Row {
  readonly call: string;
  readonly engine: Engine;
  readonly deno: Answer;
  readonly ours: Answer;
  /** What it threw, if it did. */
  readonly message: string;
}

interface Case {
  readonly call: string;
  /** Deno's own; or the permissions that stand before it. */
  readonly deno: (() => unknown) | Deno.PermissionDescriptor[];
  readonly ours: (engine: Engine) => unknown;
}

const PORT = 9;
const HOSTS = ["127.0.0.1", "127.0.0.2", "::1", "::ffff:127.0.0.1", "localhost", "127.1", "0.0.0.0", "::"];
const ONE = new Uint8Array(1);

type Closes = { close(): void };

function dispose(value: unknown): void {
  try {
    (value as Closes | undefined)?.close?.();
  } catch { /* closed already */ }
}

function net(hostname: string, port: number): Deno.NetPermissionDescriptor {
  return { name: "net", host: `${hostname.includes(":") ? `[${hostname}]` : hostname}:${port}` };
}

/** Lets nothing wait: a handshake that nobody answers is none that was refused. */
async function soon<T>(promise: Promise<T>): Promise<T> {
  let timer: ReturnType<typeof setTimeout> | undefined;
  const late = new Promise<never>((_, reject) => timer = setTimeout(() => reject(new Error("no answer")), 2_000));
  try {
    return await Promise.race([promise, late]);
  } finally {
    clearTimeout(timer);
  }
}

/** What Deno sends a datagram from. */
function denoEndpoint(): Deno.DatagramConn {
  return Deno.listenDatagram({ transport: "udp", hostname: "127.0.0.1", port: 0 });
}

async function denoSend(hostname: string): Promise<void> {
  const endpoint = denoEndpoint();
  try {
    await endpoint.send(ONE, { transport: "udp", hostname, port: PORT });
  } finally {
    endpoint.close();
  }
}

async function withEndpoint(engine: Engine, call: (endpoint: UdpEndpoint) => unknown): Promise<void> {
  using endpoint = UdpEndpoint.bind({ hostname: "127.0.0.1", engine });
  await call(endpoint);
}

/** A socket of the kind that is there, without a permission for it: those of a service manager, or of another thread. */
async function withConn(engine: Engine, call: (conn: TcpConn) => unknown): Promise<void> {
  using listener = TcpListener.bind({ hostname: "127.0.0.1", port: 0, engine });
  using _client = await TcpConn.connect({ port: listener.addr.port, engine });
  using server = await listener.accept();
  await call(server);
}

function nativeOnly(call: (engine: Engine) => unknown): (engine: Engine) => unknown {
  return (engine) => {
    if (engine === "runtime") throw new Deno.errors.NotSupported("native only");
    return call(engine);
  };
}

const CASES: Case[] = [
  ...HOSTS.flatMap((hostname): Case[] => [
    {
      call: `TcpListener.bind ${hostname}:0`,
      deno: () => Deno.listen({ hostname, port: 0 }),
      ours: (engine) => TcpListener.bind({ hostname, port: 0, engine }),
    },
    {
      call: `TcpConn.connect ${hostname}:${PORT}`,
      deno: () => soon(Deno.connect({ hostname, port: PORT })),
      ours: (engine) => TcpConn.connect({ hostname, port: PORT, engine, timeout: 2_000 }),
    },
    {
      call: `UdpEndpoint.bind ${hostname}:0`,
      deno: () => Deno.listenDatagram({ transport: "udp", hostname, port: 0 }),
      ours: (engine) => UdpEndpoint.bind({ hostname, engine }),
    },
    {
      call: `UdpEndpoint.sendTo ${hostname}:${PORT}`,
      deno: () => denoSend(hostname),
      ours: (engine) => withEndpoint(engine, (endpoint) => endpoint.sendTo(ONE, { hostname, port: PORT })),
    },
    {
      call: `UdpEndpoint.connect ${hostname}:${PORT}`,
      deno: () => denoSend(hostname),
      ours: (engine) =>
        withEndpoint(engine, async (endpoint) => {
          await endpoint.connect({ hostname, port: PORT });
          await endpoint.send(ONE);
        }),
    },
    {
      call: `TcpSocket.bind and listen ${hostname}:0`,
      deno: () => Deno.listen({ hostname, port: 0 }),
      ours: nativeOnly(() => {
        using socket = TcpSocket.open(hostname.includes(":") ? "IPv6" : "IPv4");
        socket.bind({ hostname, port: 0 });
        socket.listen().close();
      }),
    },
    {
      call: `TcpSocket.connect ${hostname}:${PORT}`,
      deno: () => soon(Deno.connect({ hostname, port: PORT })),
      ours: nativeOnly(async () => {
        using socket = TcpSocket.open(hostname.includes(":") ? "IPv6" : "IPv4");
        await socket.connect({ hostname, port: PORT }, { timeout: 2_000 });
      }),
    },
  ]),
  ...["127.0.0.1", "127.0.0.2", "::1"].flatMap((hostname): Case[] => [
    {
      call: `UdpEndpoint.trySendTo ${hostname}:${PORT}`,
      deno: () => denoSend(hostname),
      ours: (engine) =>
        withEndpoint(engine, async (endpoint) => {
          endpoint.trySendTo(ONE, { hostname, port: PORT });
          // On the runtime engine a failure is told by the next call.
          await new Promise((resolve) => setTimeout(resolve, 20));
          endpoint.trySendTo(ONE, { hostname, port: PORT });
        }),
    },
    {
      call: `UdpEndpoint.sendBatch ${hostname}:${PORT}`,
      deno: () => denoSend(hostname),
      ours: (engine) =>
        withEndpoint(engine, async (endpoint) => {
          const batch = new DatagramBatch();
          batch.set(0, ONE, { hostname, port: PORT });
          await endpoint.sendBatch(batch);
        }),
    },
    {
      call: `UdpEndpoint.trySendBatch ${hostname}:${PORT}`,
      deno: () => denoSend(hostname),
      ours: (engine) =>
        withEndpoint(engine, async (endpoint) => {
          const batch = new DatagramBatch({ gso: true });
          batch.set(0, ONE, { hostname, port: PORT });
          endpoint.trySendBatch(batch);
          await new Promise((resolve) => setTimeout(resolve, 20));
          endpoint.trySendBatch(batch);
        }),
    },
    {
      call: `TcpConn.connect from ${hostname}:0`,
      deno: [net(hostname, PORT), net(hostname, 0)],
      ours: nativeOnly((engine) =>
        TcpConn.connect({ hostname, port: PORT, localAddress: hostname, localPort: 0, engine })
      ),
    },
  ]),
  {
    call: "TcpSocket.listen without bind",
    deno: [net("0.0.0.0", 0)],
    ours: nativeOnly(() => {
      using socket = TcpSocket.open("IPv4");
      socket.listen().close();
    }),
  },
  {
    call: "UdpEndpoint.joinMulticast",
    deno: async () => {
      const endpoint = denoEndpoint();
      try {
        await endpoint.joinMulticastV4("239.1.2.3", "127.0.0.1");
      } finally {
        endpoint.close();
      }
    },
    ours: (engine) =>
      withEndpoint(engine, (endpoint) => endpoint.joinMulticast({ group: "239.1.2.3", interface: "127.0.0.1" })),
  },
  ...["cat", "/bin/cat"].map((command): Case => ({
    call: `spawnFor ${command}`,
    deno: async () => {
      Deno.listen({ hostname: "127.0.0.1", port: 0 }).close();
      await new Deno.Command(command, { stdin: "null", stdout: "null" }).output();
    },
    ours: (engine) =>
      withConn(engine, async (conn) => {
        const child = spawnFor(conn, command);
        child.kill();
        await child.closed;
      }),
  })),
  {
    // The right to run a program at one path is none to run what has the same name in another folder.
    call: "spawnFor ./true in another folder",
    deno: async () => {
      Deno.listen({ hostname: "127.0.0.1", port: 0 }).close();
      await new Deno.Command("./true", { cwd: "/usr/bin", stdin: "null" }).output();
    },
    ours: (engine) =>
      withConn(engine, async (conn) => {
        const child = spawnFor(conn, "./true", { cwd: "/usr/bin" });
        await child.closed;
      }),
  },
  {
    call: "spawnProcess",
    deno: () => new Deno.Command(Deno.execPath(), { args: ["--version"], stdout: "null" }).output(),
    ours: nativeOnly(async () => {
      const child = spawnProcess("data:text/javascript,", { permissions: "none", stdout: "null", stderr: "null" });
      child.kill();
      await child.closed;
    }),
  },
  {
    call: "spawnProcess with all of --allow-sys",
    deno: async () => {
      await new Deno.Command(Deno.execPath(), { args: ["--version"], stdout: "null" }).output();
      const { state } = Deno.permissions.querySync({ name: "sys" });
      if (state !== "granted") throw new Deno.errors.NotCapable("sys");
    },
    ours: nativeOnly(async () => {
      const permissions = { ffi: "inherit", sys: true } as const;
      const child = spawnProcess("data:text/javascript,", { permissions, stdout: "null", stderr: "null" });
      child.kill();
      await child.closed;
    }),
  },
  {
    call: "Pool.start with a control socket",
    deno: () => {
      Deno.listen({ hostname: "127.0.0.1", port: 0 }).close();
      const path = `/tmp/c10k-probe/${crypto.randomUUID()}`;
      Deno.listen({ transport: "unix", path }).close();
    },
    ours: nativeOnly(async () => {
      const control = `/tmp/c10k-probe/${crypto.randomUUID()}`;
      const listener = TcpListener.bind({ hostname: "127.0.0.1", port: 0, engine: "native" });
      try {
        const pool = await Pool.start({ kind: "worker", per: "connection", module: "data:,", listener, control });
        await pool.close({ grace: 0 });
      } finally {
        listener.close();
      }
    }),
  },
  {
    // The sockets of this very process are its own affair.
    call: "openSockets of another process",
    deno: () => Deno.readTextFileSync("/proc/1/net/tcp"),
    ours: nativeOnly(() => openSockets(1)),
  },
  {
    call: "listenFds",
    deno: () => {},
    ours: nativeOnly(() => listenFds()),
  },
  ...(["TcpListener", "TcpConn", "UdpEndpoint"] as const).map((name): Case => ({
    call: `${name}.fromFd`,
    // With a list in --allow-ffi, the C library's path must stand in it.
    deno: () => query([{ name: "ffi", ...loadedLibc()?.startsWith("/") ? { path: loadedLibc() as string } : {} }]),
    ours: nativeOnly(() => ({ TcpListener, TcpConn, UdpEndpoint })[name].fromFd(0)),
  })),
];

async function answer(call: () => unknown): Promise<[Answer, string]> {
  try {
    dispose(await call());
    return ["let through", ""];
  } catch (error) {
    const message = String(error);
    if (error instanceof Deno.errors.NotCapable) return ["refused", message];
    return [error instanceof Deno.errors.NotSupported ? "unsupported" : "let through", message];
  }
}

function query(descriptors: Deno.PermissionDescriptor[]): void {
  for (const descriptor of descriptors) {
    if (Deno.permissions.querySync(descriptor).state === "granted") continue;
    throw new Deno.errors.NotCapable(JSON.stringify(descriptor));
  }
}

/** Makes all calls. */
export async function probe(): Promise<Row[]> {
  const engines: Engine[] = engineSupport().engine === "native" ? ["runtime", "native"] : ["runtime"];
  const rows: Row[] = [];
  for (const { call, deno, ours } of CASES) {
    const [expected] = await answer(() => Array.isArray(deno) ? query(deno) : deno());
    for (const engine of engines) {
      const [actual, message] = await answer(() => ours(engine));
      rows.push({ call, engine, deno: expected, ours: actual, message });
    }
  }
  return rows;
}

/** The same in a Worker that has these permissions. */
async function probeInWorker(permissions: Deno.PermissionOptions): Promise<Row[]> {
  const worker = new Worker(`${import.meta.url}#worker`, { type: "module", deno: { permissions } });
  try {
    return await new Promise((resolve, reject) => {
      worker.onmessage = ({ data }) => resolve(data);
      worker.onerror = ({ message }) => reject(new Error(message));
    });
  } finally {
    worker.terminate();
  }
}

if (import.meta.url.endsWith("#worker")) {
  (self as unknown as Worker).postMessage(await probe());
} else if (import.meta.main) {
  const [permissions] = Deno.args;
  const rows = permissions === undefined ? await probe() : await probeInWorker(JSON.parse(permissions));
  console.log(JSON.stringify(rows));
  Deno.exit();
}
