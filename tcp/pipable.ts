/**
 * The stream objects of a connection: plain streams, except that a pipe between
 * two connections can lock them and pass the bytes beside them.
 *
 * Such a pipe refers to none of its streams: each of them is locked, and learns
 * how the pipe has ended, when the program uses it again. So the streams are
 * collected while the pipe goes on, unless the program holds them.
 */

/** A pipe that passes bytes beside its streams. */
export interface DirectPipe {
  /** How it has ended, `undefined` until then: each stream has failed for a reason, or was closed. */
  end: { readonly readError?: unknown; readonly writeError?: unknown } | undefined;
}

/** What a connection does for its two streams; one object for both, since there are many connections. */
export interface StreamEnds {
  pull(controller: ReadableByteStreamController): Promise<void>;
  cancel(): void;
  write(chunk: Uint8Array, signal: AbortSignal): Promise<void>;
  close(): Promise<void>;
  abort(): void;
  /** Begins a direct pipe to a stream of other ends; `undefined` if there must be a queue. */
  beginPipe(from: PipableReadable, to: WritableStream): Promise<void> | undefined;
}

class PipableSource implements UnderlyingByteSource {
  readonly type = "bytes";
  controller!: ReadableByteStreamController;

  constructor(readonly ends: StreamEnds) {}

  start(controller: ReadableByteStreamController): void {
    this.controller = controller;
  }

  pull(controller: ReadableByteStreamController): Promise<void> {
    return this.ends.pull(controller);
  }

  cancel(): void {
    this.ends.cancel();
  }
}

class Sink implements UnderlyingSink<Uint8Array<ArrayBufferLike>> {
  controller!: WritableStreamDefaultController;

  constructor(readonly ends: StreamEnds) {}

  start(controller: WritableStreamDefaultController): void {
    this.controller = controller;
  }

  write(chunk: Uint8Array, { signal }: WritableStreamDefaultController): Promise<void> {
    return this.ends.write(chunk, signal);
  }

  close(): Promise<void> {
    return this.ends.close();
  }

  abort(): void {
    this.ends.abort();
  }
}

const { getReader } = ReadableStream.prototype;
const { getWriter } = WritableStream.prototype;

let settleReadable: (stream: PipableReadable) => void;
let settleWritable: (stream: PipableWritable) => void;

/** A byte stream that is pulled only when a consumer asks. */
export class PipableReadable extends ReadableStream<Uint8Array<ArrayBuffer>> {
  readonly #source: PipableSource;
  #reader: ReadableStreamDefaultReader | undefined;
  #pipe: DirectPipe | undefined;

  static {
    settleReadable = (stream) => {
      if (stream.#pipe === undefined) return;
      const { end } = stream.#pipe;
      stream.#reader ??= getReader.call(stream) as ReadableStreamDefaultReader;
      if (end === undefined) return;
      stream.#pipe = undefined;
      if ("readError" in end) stream.#source.controller.error(end.readError);
      else stream.#source.controller.close();
      stream.#reader.releaseLock();
    };
  }

  constructor(ends: StreamEnds) {
    const source = new PipableSource(ends);
    super(source as UnderlyingSource, { highWaterMark: 0 });
    this.#source = source;
  }

  override pipeTo(destination: WritableStream<Uint8Array<ArrayBuffer>>, options?: StreamPipeOptions): Promise<void> {
    // With options a pipe can end and leave the bytes of a pending read to the next reader, which takes a queue.
    const direct = options === undefined && !this.locked ? this.#source.ends.beginPipe(this, destination) : undefined;
    return direct ?? super.pipeTo(destination, options);
  }

  /** Lets the stream belong to a pipe until that has ended. */
  static join(stream: PipableReadable, pipe: DirectPipe): void {
    stream.#pipe = pipe;
  }

  static fail(stream: PipableReadable, error: unknown): void {
    stream.#source.controller.error(error);
  }
}

/** A stream that knows whether the program has used it. */
export class PipableWritable extends WritableStream<Uint8Array<ArrayBufferLike>> {
  readonly #sink: Sink;
  #writer: WritableStreamDefaultWriter | undefined;
  #pipe: DirectPipe | undefined;
  #isUsed = false;

  static {
    settleWritable = (stream) => {
      if (stream.#pipe === undefined) return;
      const { end } = stream.#pipe;
      stream.#writer ??= getWriter.call(stream);
      if (end === undefined) return;
      stream.#pipe = undefined;
      if ("writeError" in end) stream.#sink.controller.error(end.writeError);
      else stream.#writer.close().catch(() => {});
      stream.#writer.releaseLock();
    };
  }

  constructor(ends: StreamEnds) {
    const sink = new Sink(ends);
    super(sink);
    this.#sink = sink;
  }

  override getWriter(): WritableStreamDefaultWriter<Uint8Array<ArrayBufferLike>> {
    settleWritable(this);
    const writer = super.getWriter();
    this.#isUsed = true;
    return writer;
  }

  override abort(reason?: unknown): Promise<void> {
    settleWritable(this);
    this.#isUsed = true;
    return super.abort(reason);
  }

  override close(): Promise<void> {
    settleWritable(this);
    this.#isUsed = true;
    return super.close();
  }

  /** The ends of a stream of this class that the program has not used, so that its queue is empty. */
  static endsOfUnused(stream: object): StreamEnds | undefined {
    if (!(Object(stream) === stream && #sink in stream)) return undefined;
    const { controller, ends } = stream.#sink;
    // A pipe of the platform aborts without a call of abort() above.
    return stream.#isUsed || stream.locked || controller.signal.aborted ? undefined : ends;
  }

  /** Lets the stream belong to a pipe until that has ended. */
  static join(stream: PipableWritable, pipe: DirectPipe): void {
    stream.#pipe = pipe;
  }

  static fail(stream: PipableWritable, error: unknown): void {
    stream.#sink.controller.error(error);
  }
}

/** Makes members of a class of streams see what a pipe does before they do what the platform's do. */
function settleFirst<T extends object>(prototype: T, names: readonly PropertyKey[], settle: (stream: T) => void): void {
  for (const name of names) {
    const member = Object.getOwnPropertyDescriptor(Object.getPrototypeOf(prototype), name) as PropertyDescriptor;
    const kind = member.get === undefined ? "value" : "get";
    const call = member[kind] as (...p: unknown[]) => unknown;
    const settled = function (this: T, ...p: unknown[]): unknown {
      settle(this);
      return call.apply(this, p);
    };
    Object.defineProperty(prototype, name, { ...member, [kind]: settled });
  }
}

settleFirst(
  PipableReadable.prototype,
  ["locked", "cancel", "getReader", "pipeThrough", "tee", "values", Symbol.asyncIterator],
  settleReadable,
);
settleFirst(PipableWritable.prototype, ["locked"], settleWritable);
