/** The reading end of a pipe as a stream: what a process writes to its standard output or error. */

import { F_SETFL, O_CLOEXEC, O_NONBLOCK } from "../../internal/constants.ts";
import { Descriptor } from "../../internal/descriptor.ts";
import { socketError } from "../../internal/errors.ts";
import { libc } from "../../internal/libc.ts";
import { EAGAIN, lastErrno, syscall, syscallError } from "../../internal/syscall.ts";
import { PolledSocket } from "../../poll/polled_socket.ts";
import type { EventHandler } from "../../poll/reactor.ts";
import { InterestBit } from "../../poll/selector.ts";
import { FunctionSide } from "../../poll/side.ts";
import { constants } from "node:os";

const { EINTR } = constants.errno;

/** Bytes of one chunk at most: what a pipe holds (pipe(7)). */
const LARGEST_CHUNK = 65_536;
/** What is read arrives here, so that a stream which waits holds no buffer. */
let buffer: Uint8Array<ArrayBuffer> | undefined;

/** Reads a pipe, when somebody reads the stream. */
export class PipeReader implements EventHandler {
  /** Reads nothing ahead: the writer waits once the pipe is full. */
  readonly readable: ReadableStream<Uint8Array<ArrayBuffer>>;
  readonly name: string;
  readonly kind = "pipe";
  readonly #pipe: PolledSocket;
  readonly #side: FunctionSide;

  private constructor(fd: number, name: string) {
    this.name = name;
    this.#pipe = new PolledSocket(fd, this);
    this.#side = new FunctionSide(this.#pipe, InterestBit.READABLE, "read", "read");
    this.readable = new ReadableStream({
      type: "bytes",
      pull: async (controller) => {
        const chunk = await this.#side.run(() => this.#read(), undefined);
        if (chunk.length > 0) return controller.enqueue(chunk);
        this.#pipe.close();
        controller.close();
        // A reader that has passed a buffer of its own waits for an answer.
        controller.byobRequest?.respond(0);
      },
      cancel: () => this.close(),
    }, { highWaterMark: 0 });
  }

  /** Makes a pipe: pipe2(2). Its writing end is in blocking mode, as programs expect it. */
  static open(name: string): [PipeReader, Descriptor] {
    const ends = new Int32Array(2);
    syscall("pipe2", new Uint8Array(ends.buffer), O_CLOEXEC);
    const writer = new Descriptor(ends[1] as number);
    const reader = new Descriptor(ends[0] as number);
    try {
      syscall("fcntl", reader.fd, F_SETFL, O_NONBLOCK);
      return [new PipeReader(reader.detach(), name), writer];
    } catch (error) {
      writer.close();
      throw error;
    } finally {
      reader.close();
    }
  }

  onReady(): void {
    this.#side.onReady();
  }

  /** Lets a read that waits keep this process alive, or not. */
  ref(on: boolean): void {
    this.#side.ref(on);
  }

  /** Reads no more: the next write ends a program (SIGPIPE), or fails. */
  close(): void {
    if (!this.#pipe.isOpen) return;
    this.#pipe.close();
    this.#side.close();
  }

  /** read(2); empty at the end of the pipe. */
  #read(): Uint8Array<ArrayBuffer> | undefined {
    buffer ??= new Uint8Array(LARGEST_CHUNK);
    while (true) {
      const n = libc.read(this.#pipe.fd, buffer, buffer.length);
      if (n >= 0) return buffer.slice(0, n);
      const errno = lastErrno();
      if (errno === EAGAIN) return undefined;
      if (errno !== EINTR) throw socketError(`read ${this.#pipe.name}`, syscallError("read", errno));
    }
  }
}
