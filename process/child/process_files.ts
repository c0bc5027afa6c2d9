/** The descriptors that a new process is started with, and this side of them. */

import { Descriptor } from "../../internal/descriptor.ts";
import { reactor } from "../../poll/reactor.ts";
import { PARENT_FD } from "../../internal/parent_channel.ts";
import { PipeReader } from "../program/pipe_reader.ts";
import { openNull } from "../program/posix_spawn.ts";
import { UnixSocket } from "../message/unix_socket.ts";

/** Where an output of a process goes. */
export type OutputTo = "inherit" | "null" | "piped";

/** Standard input, output and error, and the socket on which it talks to its parent. */
export class ProcessFiles {
  /** By number, what the process gets; `undefined` is inherited. */
  readonly list: (number | undefined)[];
  /** This end of the socket; `undefined` for a process that cannot talk. */
  readonly socket: UnixSocket | undefined;
  readonly stdout: PipeReader | undefined;
  readonly stderr: PipeReader | undefined;
  readonly #null: number;
  /** What is the process's alone, once it is started. */
  readonly #theirs: Descriptor[] = [];

  /** @throws {SyscallError} If there are no more descriptors. */
  constructor(name: string, stdout: OutputTo, stderr: OutputTo, hasSocket: boolean) {
    // What waits for the process must not fail once it runs.
    reactor();
    try {
      this.#null = this.#give(openNull());
      this.list = [this.#null, undefined, undefined];
      this.stdout = this.#output(1, stdout, `standard output of ${name}`);
      this.stderr = this.#output(2, stderr, `standard error of ${name}`);
      if (!hasSocket) return;
      const [near, far] = UnixSocket.pair().map((fd) => new Descriptor(fd)) as [Descriptor, Descriptor];
      this.list[PARENT_FD] = this.#give(far);
      this.socket = new UnixSocket(near.detach(), name);
    } catch (error) {
      this.close();
      throw error;
    }
  }

  /** The process has copies of its own. */
  handedOver(): void {
    for (const descriptor of this.#theirs.splice(0)) descriptor.close();
  }

  /** Lets what waits for the process keep this one alive, or not. */
  ref(on: boolean): void {
    for (const file of [this.socket, this.stdout, this.stderr]) file?.ref(on);
  }

  /** Closes the outputs that nobody reads. */
  cancelOutputs(): void {
    for (const output of [this.stdout, this.stderr]) if (output?.readable.locked === false) output.close();
  }

  /** It could not be started. */
  close(): void {
    this.handedOver();
    for (const file of [this.socket, this.stdout, this.stderr]) file?.close();
  }

  #output(n: 1 | 2, to: OutputTo, name: string): PipeReader | undefined {
    if (to === "inherit") return undefined;
    if (to === "null") {
      this.list[n] = this.#null;
      return undefined;
    }
    const [reader, writer] = PipeReader.open(name);
    this.list[n] = this.#give(writer);
    return reader;
  }

  #give(descriptor: Descriptor): number {
    this.#theirs.push(descriptor);
    return descriptor.fd;
  }
}
