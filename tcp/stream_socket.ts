/**
 * A connection that was handed to another thread as its two streams, the only
 * way that the runtime has: what a `Deno.TcpConn` does, over streams that were
 * transferred. The bytes still go through the thread that has the socket.
 */

import { formatAddress } from "../internal/address.ts";
import { copyOf, setBytes, sizeOf, viewOf } from "../internal/bytes.ts";
import { changedBufferError } from "../internal/validate.ts";
import { codeOf, notSupportedError } from "../internal/errors.ts";

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

/** What errors call it; made up when there is one. */
export function nameOf({ remoteAddr }: Pick<RuntimeSocket, "remoteAddr">): string {
  return `TCP connection with ${formatAddress(remoteAddr as Deno.NetAddr)}`;
}

/** What is posted to the other thread. */
export interface MovedConn {
  readonly readable: ReadableStream<Uint8Array<ArrayBuffer>>;
  readonly writable: WritableStream<Uint8Array<ArrayBufferLike>>;
  readonly localAddr: Deno.NetAddr;
  readonly remoteAddr: Deno.NetAddr;
}

/**
 * What the streams of a moved connection fail with: a clone of an error, as the other thread gets it, would have lost
 * its class and its code.
 */
interface SentReason {
  readonly code: string | undefined;
  readonly name: string;
  readonly message: string;
}

/** Returns what to fail the streams with for an error of the connection. */
export function sentReason(error: unknown): SentReason {
  const { name, message } = error instanceof Error ? error : { name: "Error", message: String(error) };
  // The other thread says in its own words what it cannot do.
  return { code: codeOf(error), name, message: message.replace(/^Cannot .*?: /s, "") };
}

/** The error that the other thread has sent a reason of. */
function receivedError(reason: unknown): Error {
  const { code, name, message } = (reason ?? {}) as { [K in keyof SentReason]?: unknown };
  const text = typeof message === "string" ? message : String(reason);
  // Whoever calls makes an error of the class that belongs to the code.
  if (typeof code === "string") return Object.assign(new Error(text), { code });
  const { errors } = Deno;
  const ErrorClass = typeof name === "string" && Object.hasOwn(errors, name)
    ? errors[name as keyof typeof errors]
    : name === "TypeError"
    ? TypeError
    : Error;
  return new ErrorClass(text);
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
  /** The connection has failed, and a call has told of it. */
  #isTold = false;
  /** Set by {@linkcode lose}. */
  #failure: Error | undefined;
  /** Ends the calls that wait for the streams. */
  readonly #ends = new Set<(failure: Error) => void>();
  #closed = false;
  /** Told when it is closed. */
  onClosed: () => void = () => {};

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
      const result = await this.#unlessFailed(this.#reader.read()).catch((reason: unknown) => {
        // As with a socket of the kernel's, one call gets the error, and later reads return end-of-file.
        if (!this.#isTold) throw this.#tell(reason);
        return { done: true, value: undefined } as const;
      });
      if (result.done) return null;
      this.#rest = result.value;
    }
    const n = Math.min(sizeOf(p), sizeOf(this.#rest));
    // The chunk is kept for the next read.
    if (n === 0) throw changedBufferError();
    setBytes(p, viewOf(this.#rest, 0, n));
    this.#rest = viewOf(this.#rest, n);
    return n;
  }

  async write(p: Uint8Array): Promise<number> {
    if (this.#isTold) throw brokenPipe();
    // The stream passes a buffer on when it has the time, and the caller may fill it anew.
    const copy = copyOf(p);
    try {
      if (this.#failure !== undefined) throw this.#failure;
      await this.#unlessFailed(this.#writer.ready);
      await this.#unlessFailed(this.#writer.write(copy));
    } catch (reason) {
      throw this.#isTold ? brokenPipe() : this.#tell(reason);
    }
    return copy.length;
  }

  async closeWrite(): Promise<void> {
    if (this.#isTold) throw notConnected();
    try {
      if (this.#failure !== undefined) throw this.#failure;
      await this.#unlessFailed(this.#writer.close());
    } catch (error) {
      if (this.#failure !== undefined) throw this.#isTold ? notConnected() : this.#tell(error);
      // Of a stream that has failed, close() does not say why: bytes that were written before may be lost.
      const reason = await this.#writer.closed.then(() => error, (reason: unknown) => reason);
      throw this.#isTold ? notConnected() : this.#tell(reason);
    }
  }

  /** Fails it as a reset does, since the thread at the other end of the streams has ended, of which they tell nothing. */
  lose(): void {
    if (this.#failure !== undefined || this.#closed) return;
    const failure = new Deno.errors.ConnectionReset("the thread that the connection came from has ended");
    this.#failure = Object.assign(failure, { code: "ECONNRESET" });
    for (const end of this.#ends) end(failure);
    this.#ends.clear();
  }

  /** The result of a call to the streams, which may never come; an error if the connection fails before. */
  #unlessFailed<T>(result: Promise<T>): Promise<T> {
    // What has come already is there first.
    if (this.#failure !== undefined) return Promise.race([result, Promise.reject(this.#failure)]);
    return new Promise((resolve, reject) => {
      this.#ends.add(reject);
      result.then(resolve, reject).finally(() => this.#ends.delete(reject));
    });
  }

  /** The error of the connection, for the one call that tells of it. */
  #tell(reason: unknown): Error {
    this.#isTold = true;
    return receivedError(reason);
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
    // Nobody takes any more what waits to be written.
    (this.#failure === undefined ? this.#writer.close() : this.#writer.abort(this.#failure)).catch(() => {});
    this.onClosed();
  }
}

function brokenPipe(): Error {
  return Object.assign(new Deno.errors.BrokenPipe("broken pipe"), { code: "EPIPE" });
}

/** What shutdown(2) says after a reset, which is no failure: there is nothing left to close. */
function notConnected(): Error {
  return new Deno.errors.NotConnected("not connected");
}

function noOptions(option: string): Error {
  return notSupportedError(
    `set ${option} on a connection that came from another thread`,
    "set it before the connection is sent, or use --allow-ffi",
  );
}
