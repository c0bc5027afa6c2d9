/** Calls that wait for the address of a host name, with a name server that does not answer. */

import { assertEquals, assertMatch } from "@std/assert";
import { namespaceTest } from "./_namespace.ts";
import { some } from "./_util.ts";

/** Lets all names be asked of a server that never answers; a lookup fails after a second. */
const SILENT_SERVER = `
  printf 'nameserver 10.9.0.3\\noptions timeout:1 attempts:1\\n' > /run/resolv.conf
  mount --bind /run/resolv.conf /etc/resolv.conf
  "$@"`;

const NATIVE = {
  "TcpConn.connect()": `(to) => TcpConn.connect({ ...to, engine: "native" })`,
  "TcpConn.connect() with a name as localAddress":
    `(to) => TcpConn.connect({ ...to, hostname: "127.0.0.1", localAddress: to.hostname, engine: "native" })`,
  "TcpSocket.connect()": `(to) => TcpSocket.open("IPv4").connect(to)`,
  "UdpEndpoint.sendTo()": `(to) => UdpEndpoint.bind({ engine: "native" }).sendTo(new Uint8Array(1), to)`,
};

const RUNTIME = {
  "TcpConn.connect()": `(to) => TcpConn.connect({ ...to, engine: "runtime" })`,
  "UdpEndpoint.sendTo()": `(to) => UdpEndpoint.bind({ engine: "runtime" }).sendTo(new Uint8Array(1), to)`,
};

for (const [engine, calls] of Object.entries({ native: NATIVE, runtime: RUNTIME })) {
  for (const [name, call] of some(1, Object.entries(calls))) {
    namespaceTest(`[${engine}] ${name} lets timers fire while a name is looked up`, async ({ run }) => {
      const source = `
        import { TcpConn, TcpSocket } from "@c10k/sockets/tcp";
        import { UdpEndpoint } from "@c10k/sockets/udp";
        const call = ${call};
        let ticks = 0;
        setInterval(() => ticks++, 10);
        const { code } = await call({ hostname: "slow.invalid", port: 9 }).catch((error) => error);
        console.log(code, ticks);
        Deno.exit();`;
      const { stdout, stderr } = await run(source, SILENT_SERVER);
      assertEquals(stderr, "");
      // 10 of the 100 that fit in a second: a busy machine fires fewer.
      assertMatch(stdout, /^(EAI_AGAIN|ENOTFOUND) \d{2,}\n$/);
    });
  }
}
