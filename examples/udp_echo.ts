/**
 * A UDP echo server: every datagram goes back to its sender.
 *
 *     deno task example:udp
 *     deno run --allow-net examples/udp_echo.ts --port 8080
 *
 * Ctrl-C or SIGTERM ends it.
 */

import { DatagramBatch, type EngineOption, UdpEndpoint } from "@c10k/sockets/udp";
import { parseArgs } from "@std/cli";

const USAGE = `Usage: udp_echo.ts [--host 127.0.0.1] [--port 8080] [--engine auto|runtime|native]`;

/** Ends the program because of how it was called. */
function refuse(problem: unknown): never {
  console.error(`${problem instanceof Error ? problem.message : problem}. ${USAGE}`);
  Deno.exit(2);
}

const flags = parseArgs(Deno.args, {
  string: ["host", "port", "engine"],
  boolean: ["help"],
  default: { host: "127.0.0.1", port: "8080", engine: "auto" },
  unknown: (arg) => refuse(`Unknown argument "${arg}"`),
});
if (flags.help) {
  console.log(USAGE);
  Deno.exit(0);
}

function bind(): UdpEndpoint {
  const [hostname, port, engine] = [String(flags.host), String(flags.port), String(flags.engine) as EngineOption];
  if (!/^\d{1,5}$/.test(port)) refuse(`--port takes a number from 0 to 65535, not "${port}"`);
  try {
    return UdpEndpoint.bind({ hostname, port: Number(port), engine });
  } catch (error) {
    if (error instanceof TypeError || error instanceof RangeError) refuse(error);
    console.error(error instanceof Error ? error.message : error);
    Deno.exit(1);
  }
}

const endpoint = bind();
for (const signal of Deno.build.os === "windows" ? ["SIGINT"] as const : ["SIGINT", "SIGTERM"] as const) {
  Deno.addSignalListener(signal, () => {
    endpoint.close();
    Deno.exit(0);
  });
}

const { hostname, port } = endpoint.addr;
console.log(`listening on ${hostname.includes(":") ? `[${hostname}]` : hostname}:${port}`);
console.log(`engine ${endpoint.engine}`);
console.log(`try it: nc -u ${hostname} ${port}`);

/** What a batch has received is addressed to its senders already. */
const batch = new DatagramBatch({ datagramSize: 65_535, capacity: 64 });
while (true) {
  try {
    await endpoint.recvBatch(batch);
    await endpoint.sendBatch(batch);
  } catch (error) {
    // One peer that cannot be reached is no event for the others.
    if (endpoint.fd === undefined && endpoint.engine === "native") throw error;
    console.error(error instanceof Error ? error.message : error);
  }
}
