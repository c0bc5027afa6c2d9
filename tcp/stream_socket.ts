/**
 * A connection that was handed to another thread as its two streams, the only
 * way that the runtime has: what a `Deno.TcpConn` does, over streams that were
 * transferred. The bytes still go through the thread that has the socket.
 */

import { copyOf, setBytes, sizeOf, viewOf } from "../internal/bytes.ts";
import { notSupportedError } from "../internal/errors.ts";

/** What {@linkcode RuntimeConn} uses of a `Deno.TcpConn`. */
export type RuntimeSocket = Pick<
  Deno.TcpConn,
  | "localAddr"
  | "remoteAddr"
  | "read"
  | "write"
  | "closeWrite"
  | "setNoDelay"
  | "setKeepAlive"
  | "ref"
  | "unref"
  | typeof Symbol.dispose
>;

/** What is posted to the other thread. */
export interface MovedConn {
  readonly readable: ReadableStream<Uint8Array<ArrayBuffer>>;
  readonly writable: WritableStream<Uint8Array<ArrayBufferLike>>;
  readonly localAddr: Deno.NetAddr;
  readonly remoteAddr: Deno.NetAddr;
}

const NOTHING = new Uint8Array(0);

/** {@linkcode RuntimeSocket} over two streams. */
export class StreamSocket implements RuntimeSocket {
  readonly localAddr: Deno.NetAddr;
  readonly remoteAddr: Deno.NetAddr;
  readonly #reader: ReadableStreamDefaultReader<Uint8Array>;
  readonly #writer: WritableStreamDefaultWriter<Uint8Array>;
  /** Of the last chunk, what no read has taken yet. */
  #rest: Uint8Array = NOTHING;
  #closed = false;

  constructor({ readable, writable, localAddr, remoteAddr }: MovedConn) {
    this.localAddr = localAddr;
    this.remoteAddr = remoteAddr;
    this.#reader = readable.getReader();
    this.#writer = writable.getWriter();
    // Failures are told by reads and writes.
    this.#reader.closed.catch(() => {});
    this.#writer.closed.catch(() => {});
  }

  async read(p: Uint8Array): Promise<number | null> {
    while (sizeOf(this.#rest) === 0) {
      const { done, value } = await this.#reader.read();
      if (done) return null;
      this.#rest = value;
    }
    const n = Math.min(sizeOf(p), sizeOf(this.#rest));
    // The chunk is kept for the next read.
    if (n === 0) throw new TypeError("p was resized or transferred away while the read waited");
    setBytes(p, viewOf(this.#rest, 0, n));
    this.#rest = viewOf(this.#rest, n);
    return n;
  }

  async write(p: Uint8Array): Promise<number> {
    // The stream passes a buffer on when it has the time, and the caller may fill it anew.
    const copy = copyOf(p);
    await this.#writer.ready;
    await this.#writer.write(copy);
    return copy.length;
  }

  async closeWrite(): Promise<void> {
    await this.#writer.close();
  }

  setNoDelay(): void {
    throw noOptions("TCP_NODELAY");
  }

  setKeepAlive(): void {
    throw noOptions("SO_KEEPALIVE");
  }

  ref(): void {}

  unref(): void {}

  /** Sends what was written, and closes. */
  [Symbol.dispose](): void {
    if (this.#closed) return;
    this.#closed = true;
    this.#reader.cancel().catch(() => {});
    this.#writer.close().catch(() => {});
  }
}

function noOptions(option: string): Error {
  return notSupportedError(
    `set ${option} on a connection that came from another thread`,
    "set it before the connection is sent, or use --allow-ffi",
  );
}
