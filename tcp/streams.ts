/**
 * A connection as web streams. The two sides are independent: end-of-file on
 * the readable leaves the writable open, closing the writable sends FIN and
 * leaves the readable open. When both are done the connection is closed.
 */

/** The part of a connection that its streams use. */
interface Duplex {
  read(p: Uint8Array, options: { signal: AbortSignal }): Promise<number | null>;
  writeAll(p: Uint8Array): Promise<void>;
  closeWrite(): Promise<void>;
  close(): void;
}

/** Size of a read where the stream's consumer brings no buffer, in bytes. */
const CHUNK = 64 * 1024;

/** The two streams of one connection, each made when it is first asked for. */
export class ConnStreams {
  readonly #conn: Duplex;
  #readable: ReadableStream<Uint8Array<ArrayBuffer>> | undefined;
  #writable: WritableStream<Uint8Array<ArrayBufferLike>> | undefined;
  #reading: ReadableByteStreamController | undefined;
  #writing: WritableStreamDefaultController | undefined;
  readonly #pulling = new AbortController();
  #readDone = false;
  #writeDone = false;

  constructor(conn: Duplex) {
    this.#conn = conn;
  }

  get readable(): ReadableStream<Uint8Array<ArrayBuffer>> {
    return this.#readable ??= new ReadableStream(
      {
        type: "bytes",
        start: (controller) => void (this.#reading = controller),
        pull: (controller) => this.#pull(controller),
        cancel: () => {
          // A read that waits must not take what the next one should get.
          this.#pulling.abort();
          this.#finishRead();
        },
      },
      // Nothing is read before somebody asks, so that conn.read() beside the stream misses nothing.
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
      write: async (chunk) => {
        try {
          await this.#conn.writeAll(chunk);
        } catch (error) {
          this.#finishWrite();
          throw error;
        }
      },
      close: async () => {
        await this.#conn.closeWrite();
        this.#finishWrite();
      },
    });
  }

  /** Fails both, and with them the pipes of which nobody is left at the other end. */
  fail(error: Error): void {
    this.#reading?.error(error);
    this.#writing?.error(error);
  }

  async #pull(controller: ReadableByteStreamController): Promise<void> {
    const request = controller.byobRequest;
    const view = request?.view;
    const buffer = view ? new Uint8Array(view.buffer, view.byteOffset, view.byteLength) : new Uint8Array(CHUNK);
    let n: number | null;
    try {
      n = await this.#conn.read(buffer, { signal: this.#pulling.signal });
    } catch (error) {
      if (this.#pulling.signal.aborted) return;
      this.#finishRead();
      throw error;
    }
    if (n === null) {
      this.#finishRead();
      controller.close();
      request?.respond(0);
    } else if (request) {
      request.respond(n);
    } else {
      // A small message must not hold on to a large buffer.
      controller.enqueue(n < CHUNK / 2 ? buffer.slice(0, n) : buffer.subarray(0, n));
    }
  }

  #finishRead(): void {
    this.#readDone = true;
    this.#closeIfDone();
  }

  #finishWrite(): void {
    this.#writeDone = true;
    this.#closeIfDone();
  }

  #closeIfDone(): void {
    if (this.#readDone && this.#writeDone) this.#conn.close();
  }
}
