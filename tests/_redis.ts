/** The real Redis, which nobody here wrote. */

import { TcpConn } from "@c10k/sockets/tcp";
import { delay } from "@std/async";
import { Buffer } from "node:buffer";
import { freePort } from "./_util.ts";

/** A redis-server that keeps nothing on disk; `await using` ends it. */
export class Redis implements AsyncDisposable {
  readonly #child: Deno.ChildProcess;

  private constructor(readonly port: number, child: Deno.ChildProcess) {
    this.#child = child;
  }

  /** Starts it and waits until it answers. */
  static async start(): Promise<Redis> {
    for (let attempt = 1;; attempt++) {
      const port = freePort();
      const child = new Deno.Command("redis-server", {
        args: ["--port", `${port}`, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir", "/tmp"],
        stdin: "null",
        stdout: "null",
        stderr: "null",
      }).spawn();
      const redis = new Redis(port, child);
      let hasEnded = false;
      child.status.then(() => hasEnded = true);
      while (!hasEnded) {
        try {
          using conn = await TcpConn.connect({ port });
          await conn.writeAll(Buffer.from("PING\r\n"));
          if (await conn.read(new Uint8Array(16)) === 7) return redis;
        } catch { /* not yet */ }
        await delay(10);
      }
      // Somebody else has taken the port meanwhile.
      if (attempt === 3) throw new Error("redis-server does not start");
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    try {
      this.#child.kill("SIGKILL");
    } catch { /* it has ended already */ }
    await this.#child.status;
  }
}

/** A request as clients send it; each character is a byte. */
export function words(request: readonly string[]): Buffer<ArrayBuffer> {
  return Buffer.from(
    `*${request.length}\r\n${request.map((word) => `$${word.length}\r\n${word}\r\n`).join("")}`,
    "latin1",
  );
}
