/** The parent's side of the process that drives the load. */

import { type Child, spawnProcess, spawnWorker } from "@c10k/sockets/process";
import { engineSupport } from "@c10k/sockets/tcp";
import { deadline } from "@std/async";
import type { News, Order } from "./orders.ts";

/** Longer than it may measure, in ms. */
const SILENCE = 120_000;

/** The clients of one way; `await using` disconnects them. */
export class Clients implements AsyncDisposable {
  readonly #child: Child;
  readonly #news: AsyncIterator<{ message: unknown }>;

  constructor() {
    const module = new URL("./load.ts", import.meta.url);
    // A process of its own, so that it takes no processor time of the server's; without descriptors to give, a thread.
    this.#child = engineSupport().engine === "native"
      ? spawnProcess(module, { permissions: { net: "inherit", ffi: "inherit" }, stdout: "null" })
      : spawnWorker(module);
    this.#news = this.#child.messages();
  }

  async order(order: Order): Promise<void> {
    await this.#child.send(order);
  }

  /** The next news; an answer that is not what was sent, and the process's end, are errors. */
  async next(): Promise<News> {
    const { value, done } = await deadline(this.#news.next(), SILENCE).catch((cause) => {
      throw new Error(`the clients' process has said nothing for ${SILENCE / 1000} s`, { cause });
    });
    if (done) throw new Error("the clients' process has ended");
    const news = value.message as News;
    if (news.is === "wrong") throw new Error(`a client was answered wrongly: ${news.why}`);
    return news;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#child.shutdown({ grace: 2_000 });
  }
}
