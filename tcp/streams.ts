/**
 * A connection as web streams, as those of a `Deno.TcpConn`: a stream that is
 * cancelled, aborted or fails closes the connection. Only the regular ends
 * differ: end-of-file on the readable leaves the writable open, closing the
 * writable sends FIN and leaves the readable open, and when both are done the
 * connection is closed.
 */

import { checkBytes } from "../internal/validate.ts";
import type { ConnDriver } from "./driver.ts";

/** The part of a connection that its streams use. */
type Duplex = Pick<ConnDriver, "read" | "readChunk" | "writeAll" | "closeWrite" | "close">;

/** The two streams of one connection, each made when it is first asked for. */
export class ConnStreams {
  readonly #conn: Duplex;
  readonly #cancelCloses: boolean;
  #readable: ReadableStream<Uint8Array<ArrayBuffer>> | undefined;
  #writable: WritableStream<Uint8Array<ArrayBufferLike>> | undefined;
  #reading: ReadableByteStreamController | undefined;
  #writing: WritableStreamDefaultController | undefined;
  #readDone = false;
  #writeDone = false;
  #cancelled = false;
  /** Why the connection was lost; what the other stream then meets is only that the connection is closed. */
  #failure: unknown;

  /**
   * @param conn The connection.
   * @param cancelCloses Whether cancelling the readable closes the connection, or ends its own direction only.
   */
  constructor(conn: Duplex, cancelCloses = true) {
    this.#conn = conn;
    this.#cancelCloses = cancelCloses;
  }

  get readable(): ReadableStream<Uint8Array<ArrayBuffer>> {
    return this.#readable ??= new ReadableStream(
      {
        type: "bytes",
        start: (controller) => void (this.#reading = controller),
        pull: (controller) => this.#pull(controller),
        cancel: () => {
          this.#cancelled = true;
          if (this.#cancelCloses) this.#conn.close();
          else this.#finishRead();
        },
      },
      // Nothing is read before a consumer asks, so that conn.read() beside the stream misses nothing.
      { highWaterMark: 0 },
    );
  }

  get writable(): WritableStream<Uint8Array<ArrayBufferLike>> {
    return this.#writable ??= new WritableStream({
      // At once: the sink's own abort() would wait for a write that may never end.
      start: (controller) => {
        this.#writing = controller;
        controller.signal.addEventListener("abort", () => this.#conn.close());
      },
      write: (chunk) =>
        this.#attempt(async () => {
          checkBytes(chunk, "chunk");
          await this.#conn.writeAll(chunk, undefined);
        }),
      close: () =>
        this.#attempt(async () => {
          await this.#conn.closeWrite();
          this.#writeDone = true;
          this.#closeIfDone();
        }),
    });
  }

  /** Fails both, and with them the pipes whose other end is gone. */
  fail(error: Error): void {
    this.#reading?.error(error);
    this.#writing?.error(error);
  }

  async #pull(controller: ReadableByteStreamController): Promise<void> {
    const request = controller.byobRequest;
    const view = request?.view;
    try {
      const read = view
        ? await this.#conn.read(new Uint8Array(view.buffer, view.byteOffset, view.byteLength), undefined)
        : await this.#conn.readChunk();
      if (this.#cancelled) return;
      if (read === null) {
        controller.close();
        request?.respond(0);
        this.#finishRead();
      } else if (typeof read === "number") {
        request?.respond(read);
      } else {
        controller.enqueue(read);
      }
    } catch (error) {
      if (!this.#cancelled) throw this.#failed(error);
    }
  }

  async #attempt(call: () => Promise<void>): Promise<void> {
    try {
      await call();
    } catch (error) {
      throw this.#failed(error);
    }
  }

  /** A direction that fails ends the connection. */
  #failed(error: unknown): unknown {
    const isClosed = error instanceof Deno.errors.Interrupted || error instanceof Deno.errors.BadResource;
    if (!isClosed) this.#failure ??= error;
    this.#conn.close();
    return this.#failure ?? error;
  }

  #finishRead(): void {
    this.#readDone = true;
    this.#closeIfDone();
  }

  #closeIfDone(): void {
    if (this.#readDone && this.#writeDone) this.#conn.close();
  }
}
