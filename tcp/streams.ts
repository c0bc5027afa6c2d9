/**
 * A connection as web streams, as those of a `Deno.TcpConn`: a stream that is
 * cancelled, aborted or fails closes the connection. Only the regular ends
 * differ: end-of-file on the readable leaves the writable open, closing the
 * writable sends FIN and leaves the readable open, and when both are done the
 * connection is closed.
 *
 * A pipe from one connection to another, or to itself, passes chunks from
 * driver to driver, which saves an idle connection the memory of two streams.
 */

import { atCaller } from "../internal/stack.ts";
import { checkBytes } from "../internal/validate.ts";
import type { ConnDriver } from "./driver.ts";
import { type DirectPipe, PipableReadable, PipableWritable, type StreamEnds } from "./pipable.ts";

/** The part of a connection that its streams use. */
type Duplex = Pick<ConnDriver, "read" | "readChunk" | "writeAll" | "closeWrite" | "close">;

/** The two streams of one connection, each made when it is first asked for. */
export class ConnStreams implements StreamEnds {
  readonly #conn: Duplex;
  readonly #cancelCloses: boolean;
  readonly #reasonOf: (error: unknown) => unknown;
  #readable: PipableReadable | undefined;
  #writable: PipableWritable | undefined;
  /** The direct pipe that a side belongs to, also after its end. */
  #pipeOut: DirectPipe | undefined;
  #pipeIn: DirectPipe | undefined;
  #isRead = false;
  #isWritten = false;
  #readDone = false;
  #writeDone = false;
  #cancelled = false;
  /** Why the connection was lost; what the other stream then meets is only that the connection is closed. */
  #failure: unknown;

  /**
   * @param conn The connection.
   * @param cancelCloses Whether cancelling the readable closes the connection, or ends its own direction only.
   * @param reasonOf What the streams fail with instead of an error.
   */
  constructor(conn: Duplex, cancelCloses = true, reasonOf = (error: unknown): unknown => error) {
    this.#conn = conn;
    this.#cancelCloses = cancelCloses;
    this.#reasonOf = reasonOf;
  }

  get readable(): ReadableStream<Uint8Array<ArrayBuffer>> {
    if (this.#readable === undefined) {
      this.#readable = new PipableReadable(this);
      if (this.#pipeOut !== undefined) PipableReadable.join(this.#readable, this.#pipeOut);
    }
    return this.#readable;
  }

  get writable(): WritableStream<Uint8Array<ArrayBufferLike>> {
    if (this.#writable === undefined) {
      this.#writable = new PipableWritable(this);
      if (this.#pipeIn !== undefined) PipableWritable.join(this.#writable, this.#pipeIn);
    }
    return this.#writable;
  }

  /** Fails both, and with them the pipes whose other end is gone. */
  fail(error: Error): void {
    const reason = this.#reasonOf(error);
    this.#isRead = this.#isWritten = true;
    if (this.#readable !== undefined) PipableReadable.fail(this.#readable, reason);
    if (this.#writable !== undefined) PipableWritable.fail(this.#writable, reason);
  }

  beginPipe(from: PipableReadable, destination: WritableStream): Promise<void> | undefined {
    const to = PipableWritable.endsOfUnused(destination);
    if (!(to instanceof ConnStreams) || to.#isWritten || to.#writeDone) return undefined;
    // The platform's pipe knows what to do with streams that have ended.
    if (this.#isRead || this.#cancelled || this.#readDone) return undefined;
    const pipe: DirectPipe = { end: undefined };
    PipableReadable.join(from, pipe);
    PipableWritable.join(destination as PipableWritable, pipe);
    this.#isRead = to.#isWritten = true;
    this.#pipeOut = to.#pipeIn = pipe;
    this.#readable = to.#writable = undefined;
    return this.#pipe(to, pipe);
  }

  async #pipe(to: ConnStreams, pipe: DirectPipe): Promise<void> {
    let isWriting = false;
    try {
      for (let chunk = await this.#conn.readChunk(); chunk !== null; chunk = await this.#conn.readChunk()) {
        isWriting = true;
        await to.#conn.writeAll(chunk, undefined);
        isWriting = false;
      }
      isWriting = true;
      this.#finishRead();
      await to.#endWrite();
      pipe.end = {};
    } catch (error) {
      const failure = (isWriting ? to : this).#failed(error);
      pipe.end = isWriting ? { writeError: failure } : { readError: failure, writeError: failure };
      if (!isWriting) to.#conn.close();
      else if (!this.#readDone) this.cancel();
      throw failure;
    }
  }

  async pull(controller: ReadableByteStreamController): Promise<void> {
    this.#isRead = true;
    // The platform's own consumers, such as Response, do not ask whether the stream is locked by a direct pipe.
    if (this.#pipeOut !== undefined) throw atCaller(new TypeError("The stream belongs to a pipe"));
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

  cancel(): void {
    this.#cancelled = true;
    if (this.#cancelCloses) this.#conn.close();
    else this.#finishRead();
  }

  async write(chunk: Uint8Array, signal: AbortSignal): Promise<void> {
    try {
      if (!this.#isWritten) {
        this.#isWritten = true;
        // At once: the sink's own abort() waits for a write, which may never end.
        signal.addEventListener("abort", () => this.#conn.close());
      }
      if (this.#pipeIn !== undefined) throw atCaller(new TypeError("The stream belongs to a pipe"));
      checkBytes(chunk, "chunk");
      await this.#conn.writeAll(chunk, undefined);
    } catch (error) {
      throw this.#failed(error);
    }
  }

  async close(): Promise<void> {
    this.#isWritten = true;
    try {
      await this.#endWrite();
    } catch (error) {
      throw this.#failed(error);
    }
  }

  abort(): void {
    this.#isWritten = true;
    this.#conn.close();
  }

  async #endWrite(): Promise<void> {
    if (this.#writeDone) return;
    await this.#conn.closeWrite();
    this.#writeDone = true;
    this.#closeIfDone();
  }

  /** A direction that fails ends the connection. */
  #failed(error: unknown): unknown {
    const isClosed = error instanceof Deno.errors.BadResource;
    if (!isClosed) this.#failure ??= error;
    this.#conn.close();
    return this.#reasonOf(this.#failure ?? error);
  }

  #finishRead(): void {
    this.#readDone = true;
    this.#closeIfDone();
  }

  #closeIfDone(): void {
    if (this.#readDone && this.#writeDone) this.#conn.close();
  }
}
