/** What a program does that sits in a network namespace, with a host on the other side of a cable: `_namespace.ts`. */

import { ServerProcess } from "../_util.ts";
import type { Order, Totals, UdpTotals } from "./_books.ts";

const CLIENTS = new URL("./clients.ts", import.meta.url).pathname;
const SERVER = new URL("./server.ts", import.meta.url).pathname;

/** Starts the server on this side. */
export function startServer(model: string, hostname: string): Promise<ServerProcess> {
  return ServerProcess.start(["--allow-all", "--cached-only", SERVER, model, hostname]);
}

async function clients(count: number, order: Order, protocol: "tcp" | "udp"): Promise<unknown> {
  const { code, stdout, stderr } = await new Deno.Command("ip", {
    args: [
      ...["netns", "exec", "peer", Deno.execPath(), "run", "--quiet", "--allow-all", "--cached-only"],
      ...[CLIENTS, String(count), JSON.stringify(order), protocol],
    ],
    env: { NO_COLOR: "1" },
  }).output();
  if (code !== 0) throw new Error(new TextDecoder().decode(stderr));
  return JSON.parse(new TextDecoder().decode(stdout));
}

/** Does an order on many connections from the other side. */
export async function visit(count: number, order: Order): Promise<Totals> {
  return await clients(count, order, "tcp") as Totals;
}

/** The same with datagrams. */
export async function throwAt(order: Order): Promise<UdpTotals> {
  return await clients(1, order, "udp") as UdpTotals;
}

/** Runs a program that must succeed. */
export async function command(name: string, ...args: string[]): Promise<string> {
  const { code, stdout, stderr } = await new Deno.Command(name, { args }).output();
  if (code !== 0) throw new Error(`${name} ${args.join(" ")}: ${new TextDecoder().decode(stderr)}`);
  return new TextDecoder().decode(stdout);
}

/** Shell words: `ip link set va down`. */
export async function shell(line: string): Promise<string> {
  return await command("sh", "-ec", line);
}

/** How badly a cable treats packets: shares in percent, times in ms. */
export interface Treatment {
  loss?: number;
  delay?: number;
  jitter?: number;
  duplicate?: number;
}

/** What a cable has done. */
export interface Treated {
  readonly passed: number;
  readonly lost: number;
  readonly doubled: number;
}

/** A bad cable: `10.8.0.1` here, `10.8.0.2` on the other side. */
export class Cable {
  readonly #child: Deno.ChildProcess;
  readonly #output: ReadableStreamDefaultReader<string>;

  private constructor(child: Deno.ChildProcess, output: ReadableStreamDefaultReader<string>) {
    this.#child = child;
    this.#output = output;
  }

  static async lay({ loss = 0, delay = 0, jitter = 0, duplicate = 0 }: Treatment): Promise<Cable> {
    const folder = await Deno.makeTempDir();
    await command("cc", "-O2", "-Wall", "-o", `${folder}/cable`, new URL("./cable.c", import.meta.url).pathname);
    const args = ["ca", "/run/netns/peer", "cb", ...[loss, delay, jitter, duplicate, 1].map(String)];
    const child = new Deno.Command(`${folder}/cable`, { args, stdin: "piped", stdout: "piped" }).spawn();
    const output = child.stdout.pipeThrough(new TextDecoderStream()).getReader();
    await output.read();
    await Deno.remove(folder, { recursive: true });
    await shell(`
      ip addr add 10.8.0.1/24 dev ca
      ip link set ca up
      ip -n peer addr add 10.8.0.2/24 dev cb
      ip -n peer link set cb up`);
    return new Cable(child, output);
  }

  async remove(): Promise<Treated> {
    await this.#child.stdin.close();
    let text = "";
    for (let part = await this.#output.read(); !part.done; part = await this.#output.read()) text += part.value;
    await this.#child.status;
    return JSON.parse(text);
  }
}
