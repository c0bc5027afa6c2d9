/** The end of a program that was started here, by its pidfd: pidfd_open(2). */

import { SyscallError } from "../../internal/errors.ts";
import { enterProgram } from "../../internal/ledger.ts";
import { PolledSocket } from "../../poll/polled_socket.ts";
import { InterestBit } from "../../poll/selector.ts";
import { FunctionSide } from "../../poll/side.ts";
import { type ChildStatus, LOST } from "./status.ts";
import { reap } from "./posix_spawn.ts";
import { lostStatusError } from "./sigchld.ts";

/** Waits for the end of a program. */
export class ProgramEnd {
  readonly #pidfd: PolledSocket;
  readonly #side: FunctionSide;
  readonly name: string;
  readonly kind = "pidfd";

  /** Takes over a pidfd; `name` is what errors call the program, which can go on when this one is unloaded. */
  constructor(pidfd: number, name: string, goesOn = false) {
    this.name = name;
    this.#pidfd = new PolledSocket(pidfd, this);
    if (goesOn) enterProgram(pidfd);
    this.#side = new FunctionSide(this.#pidfd, InterestBit.READABLE, "wait for the end of", "waitid");
  }

  /** The pidfd; `undefined` once the program has ended. */
  get pidfd(): number | undefined {
    return this.#pidfd.isOpen ? this.#pidfd.fd : undefined;
  }

  onReady(): void {
    this.#side.onReady();
  }

  /** Lets waiting for its end keep this process alive, or not. */
  ref(on: boolean): void {
    this.#side.ref(on);
  }

  /** Resolves when it has ended, and is no zombie any more. */
  async wait(): Promise<ChildStatus> {
    try {
      const { code, signal } = await this.#side.run(() => reap(this.#pidfd.fd), undefined);
      return { success: code === 0, code, signal, error: undefined };
    } catch (error) {
      // Somebody has set SIGCHLD to be ignored since it was started, or has waited for all children.
      if (!(error instanceof SyscallError && error.code === "ECHILD")) throw error;
      return { ...LOST, error: lostStatusError(this.name, error) };
    } finally {
      this.#pidfd.close();
    }
  }

  /** Waits for a program that nobody asks for any more, which must not stay a zombie; this process may end meanwhile. */
  forget(): void {
    this.ref(false);
    this.wait().catch(() => {});
  }
}
