/** The vocabulary of the pool's tests: pools of echo children, and a client that keeps books. */

import { type Balance, Pool, type PoolOptions } from "@c10k/sockets/process";
import { TcpConn } from "@c10k/sockets/tcp";
import { assert, assertEquals } from "@std/assert";
import { deadline, delay } from "@std/async";
import { isAlive } from "./_process.ts";
import { decode, encode, PATIENCE, readText } from "./_util.ts";

/** What a pool's child runs: tests/children/pool_echo.ts. */
export const ECHO = new URL("./children/pool_echo.ts", import.meta.url);

export const BALANCES: readonly Balance[] = ["shared", "reuseport", "round-robin", "least-connections"];

/** Starts a pool of echo children on a free port. */
export function startPool(options: Partial<PoolOptions> & Pick<PoolOptions, "kind">): Promise<Pool> {
  const { listener } = options;
  return Pool.start({
    module: ECHO,
    size: 3,
    signals: false,
    ...(listener === undefined ? { listen: { hostname: "127.0.0.1", port: 0, backlog: 1024 } } : {}),
    ...options,
  });
}

/** Who has served a connection. */
export interface Server {
  readonly child: number;
  readonly pid: number;
  /** Of the child's run. */
  readonly run: string;
}

/** One connection to an echo child, which has said who it is. */
export class Client implements Disposable {
  private constructor(readonly conn: TcpConn, readonly server: Server) {}

  static async open(port: number): Promise<Client> {
    const conn = await TcpConn.connect({ port });
    try {
      let line = "";
      while (!line.endsWith("\n")) {
        const text = await deadline(readText(conn), PATIENCE);
        if (text === null) throw new Error("the connection was closed before anything was said");
        line += text;
      }
      const [child, pid, run] = line.trim().split(" ");
      return new Client(conn, { child: Number(child), pid: Number(pid), run: run ?? "" });
    } catch (error) {
      conn.close();
      throw error;
    }
  }

  /** Sends a text and checks that the same comes back. */
  async echo(text: string): Promise<void> {
    await this.conn.writeAll(encode(text));
    const p = new Uint8Array(encode(text).length);
    for (let end = 0; end < p.length;) {
      const n = await this.conn.read(p.subarray(end));
      if (n === null) throw new Error("the connection was closed before the echo");
      end += n;
    }
    assertEquals(decode(p), text);
  }

  /** Closes this side, and checks that the other closes without another byte. */
  async finish(): Promise<void> {
    await this.conn.closeWrite();
    assertEquals(await readText(this.conn), null);
    this.conn.close();
  }

  [Symbol.dispose](): void {
    this.conn.close();
  }
}

/** Opens a connection, checks an echo, closes it, and tells who has served it. */
export async function visit(port: number, text = "hello"): Promise<Server> {
  using client = await Client.open(port);
  await client.echo(text);
  await client.finish();
  return client.server;
}

/** Makes `count` visits, `width` at a time. */
export async function visits(port: number, count: number, width = 50): Promise<Server[]> {
  const servers: Server[] = [];
  let started = 0;
  await Promise.all(Array.from({ length: width }, async () => {
    while (started++ < count) servers.push(await visitWhenThereIsAPort(port));
  }));
  return servers;
}

/** Thousands of visits a second leave no local port for a while: connect(2) says EAGAIN, before anything was sent. */
async function visitWhenThereIsAPort(port: number): Promise<Server> {
  for (let tries = 0;; tries++) {
    try {
      return await visit(port);
    } catch (error) {
      if (!(error instanceof Deno.errors.WouldBlock) || tries === 600) throw error;
      await delay(100);
    }
  }
}

/** How many visits each child has had. */
export function byChild(servers: readonly Server[]): Map<number, number> {
  const counts = new Map<number, number>();
  for (const { child } of servers) counts.set(child, (counts.get(child) ?? 0) + 1);
  return counts;
}

/** A load of new connections, one after the other each millisecond, until it is stopped. */
export class Load {
  readonly #port: () => number;
  readonly #interval: number;
  readonly #open = new Set<Promise<void>>();
  readonly servers: Server[] = [];
  readonly errors: unknown[] = [];
  #stopped = false;
  readonly #running: Promise<void>;

  constructor(port: () => number, interval = 1) {
    this.#port = port;
    this.#interval = interval;
    this.#running = this.#run();
  }

  async stop(): Promise<void> {
    this.#stopped = true;
    await this.#running;
    await Promise.all(this.#open);
  }

  async #run(): Promise<void> {
    while (!this.#stopped) {
      const visiting = visit(this.#port()).then((server) => void this.servers.push(server), (error) => {
        this.errors.push(error);
      }).finally(() => this.#open.delete(visiting));
      this.#open.add(visiting);
      // No more than the machine can do: what waits is bounded.
      if (this.#open.size > 200) await Promise.race(this.#open);
      await delay(this.#interval);
    }
  }
}

/** A listening socket is gone once the last of its holders has closed it, and resets who comes at that moment. */
export async function untilRefused(port: number): Promise<void> {
  for (let tries = 0; tries < 4_000; tries++, await delay(5)) {
    try {
      (await TcpConn.connect({ port })).close();
    } catch (error) {
      if (error instanceof Deno.errors.ConnectionRefused) return;
    }
  }
  throw new Error("somebody still listens");
}

/** Fails if a process is there after `ms`. */
export async function assertGone(pids: readonly number[], ms: number): Promise<void> {
  const end = performance.now() + ms;
  while (pids.some(isAlive) && performance.now() < end) await delay(5);
  const left = pids.filter(isAlive);
  assert(left.length === 0, `processes ${left} are still there after ${ms} ms`);
}
