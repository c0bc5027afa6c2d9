/** The end of a program that was started here, by its pidfd: pidfd_open(2). */

import { NativeSocket } from "../mux/native_socket.ts";
import { WaitingSide } from "../mux/waiting_side.ts";
import { type Ended, reap } from "./posix_spawn.ts";

/** Waits for the end of a program. */
export class ProgramEnd {
  readonly #pidfd: NativeSocket;
  readonly #side: WaitingSide;

  /** Takes over a pidfd; `name` is what errors call the program. */
  constructor(pidfd: number, name: string) {
    this.#pidfd = new NativeSocket(pidfd, this, () => name);
    this.#side = new WaitingSide(this.#pidfd);
  }

  /** The pidfd; `undefined` once the program has ended. */
  get pidfd(): number | undefined {
    return this.#pidfd.isOpen ? this.#pidfd.fd : undefined;
  }

  onReady(): void {
    this.#side.onReady();
  }

  /** Resolves when it has ended, and is no zombie any more. */
  async wait(): Promise<Ended> {
    try {
      return await this.#side.call(() => reap(this.#pidfd.fd), undefined);
    } finally {
      this.#pidfd.close();
    }
  }

  /** Waits for a program that nobody asks for any more, which must not stay a zombie; this process may end meanwhile. */
  forget(): void {
    this.#side.ref(false);
    this.wait().catch(() => {});
  }
}
