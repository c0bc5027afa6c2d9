/** Connects to a local port at which nobody listens, from the very same port. */

import { assertEquals } from "@std/assert";
import { namespaceTest } from "./_namespace.ts";
import { ENGINES } from "./_util.ts";

/** With one ephemeral port, each connect to it that does not choose another is answered by itself. */
const ONE_PORT = `echo 45000 45000 > /proc/sys/net/ipv4/ip_local_port_range && exec "$@"`;

const PROGRAM = `
  import { TcpConn, TcpListener, TcpSocket } from "@c10k/sockets/tcp";
  const port = 45000;
  const found = [];
  async function outcome(connect) {
    let result;
    try {
      using conn = await connect();
      const p = new Uint8Array(2);
      await conn.writeAll(new Uint8Array([1, 2]));
      result = "connected, reads " + await conn.read(p);
      conn.reset?.();
    } catch (error) {
      result = [error.constructor === Deno.errors.ConnectionRefused, error.code, error.cause?.syscall].join(" ");
    }
    return result;
  }
`;

const REFUSED = "true ECONNREFUSED connect";

async function run(
  namespace: { run(source: string, script: string): Promise<{ stdout: string; stderr: string }> },
  source: string,
  script = ONE_PORT,
): Promise<unknown> {
  const { stdout, stderr } = await namespace.run(
    `${PROGRAM}${source}\nconsole.log(JSON.stringify(found));`,
    script,
  );
  assertEquals(stderr, "");
  return JSON.parse(stdout);
}

namespaceTest("TcpConn.connect() is refused where it would be connected with itself", async (namespace) => {
  const hosts = ["127.0.0.1", "::1", "0.0.0.0", "::", "::ffff:127.0.0.1", "10.9.0.1", "fd09::1", "localhost"];
  const source = `
    for (const engine of ${JSON.stringify(ENGINES)}) {
      for (const hostname of ${JSON.stringify(hosts)}) {
        for (const options of [{}, { timeout: 5_000 }, { signal: new AbortController().signal }]) {
          found.push([engine, hostname, await outcome(() => TcpConn.connect({ hostname, port, engine, ...options }))]);
          // The server can have its port at once.
          const local = hostname === "localhost" ? "127.0.0.1" : hostname;
          TcpListener.bind({ hostname: local, port, engine }).close();
        }
      }
    }
  `;
  const expected = ENGINES.flatMap((engine) =>
    hosts.flatMap((host) => Array.from({ length: 3 }, () => [engine, host, REFUSED]))
  );
  assertEquals(await run(namespace, source), expected);
});

/** `both` is this host, where nobody listens, and the other one, whose server says who has connected. */
const TWO_HOSTS = `
  printf '10.9.0.1 both\\n10.9.0.2 both\\n' > /run/hosts
  mount --bind /run/hosts /etc/hosts
  ip netns exec peer "$@" peer & peer=$!
  echo 45000 45000 > /proc/sys/net/ipv4/ip_local_port_range
  "$@"; code=$?
  kill $peer; exit $code
`;

namespaceTest("TcpConn.connect() to a name goes on with the next address where it met itself", async (namespace) => {
  const source = `
    if (Deno.args[0] === "peer") {
      using listener = TcpListener.bind({ hostname: "10.9.0.2", port });
      for await (const conn of listener) {
        await conn.readable.cancel();
        conn.close();
      }
    }
    for (const engine of ${JSON.stringify(ENGINES)}) {
      // The first ones wait until the other host serves.
      for (const hostname of ["10.9.0.2", "both"]) {
        for (let tries = 0; tries < 200; tries++) {
          try {
            using conn = await TcpConn.connect({ hostname, port, engine });
            await conn.read(new Uint8Array(1), { signal: AbortSignal.timeout(5_000) });
            found.push(hostname + " is " + conn.remoteAddr.hostname);
            break;
          } catch (error) {
            if (tries === 199) found.push(error.message);
            await new Promise((resolve) => setTimeout(resolve, 20));
          }
        }
      }
    }
  `;
  const expected = ENGINES.flatMap(() => ["10.9.0.2 is 10.9.0.2", "both is 10.9.0.2"]);
  assertEquals(await run(namespace, source, TWO_HOSTS), expected);
});

namespaceTest("[native] a socket is connected with itself where its local port was chosen", async (namespace) => {
  const source = `
    const hostname = "127.0.0.1";
    const to = { hostname, port };
    const connects = {
      localPort: () => TcpConn.connect({ ...to, localPort: port }),
      "localPort and localAddress": () => TcpConn.connect({ ...to, localPort: port, localAddress: hostname }),
      "a bound TcpSocket": () => {
        const socket = TcpSocket.open("IPv4");
        socket.bind(to);
        return socket.connect(to);
      },
      "localPort 0": () => TcpConn.connect({ ...to, localPort: 0 }),
      "localAddress": () => TcpConn.connect({ ...to, localAddress: hostname }),
      "127.0.0.2": () => TcpConn.connect({ port, hostname: "127.0.0.2", localAddress: "127.0.0.2" }),
      "localAddress of IPv6": () => TcpConn.connect({ port, hostname: "::1", localAddress: "::1" }),
      "a zone": () => TcpConn.connect({ port, hostname: "fe80::1%va" }),
      "a zone and a local address": () => TcpConn.connect({ port, hostname: "fe80::1%va", localAddress: "fe80::1%va" }),
      "a TcpSocket": () => TcpSocket.open("IPv4").connect(to),
      "a TcpSocket bound to port 0": () => {
        const socket = TcpSocket.open("IPv4");
        socket.bind({ hostname, port: 0 });
        return socket.connect(to);
      },
    };
    for (const [name, connect] of Object.entries(connects)) found.push([name, await outcome(connect)]);
  `;
  const connected = ["localPort", "localPort and localAddress", "a bound TcpSocket"];
  const refused = [
    "localPort 0",
    "localAddress",
    "127.0.0.2",
    "localAddress of IPv6",
    "a zone",
    "a zone and a local address",
    "a TcpSocket",
    "a TcpSocket bound to port 0",
  ];
  assertEquals(await run(namespace, source, `ip -6 addr add fe80::1/64 dev va nodad; ${ONE_PORT}`), [
    ...connected.map((name) => [name, "connected, reads 2"]),
    ...refused.map((name) => [name, REFUSED]),
  ]);
});
