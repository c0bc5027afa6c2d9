/** A descriptor of the native engine and its registration with the reactor. */

import { Descriptor } from "../internal/descriptor.ts";
import { socketError, SyscallError } from "../internal/errors.ts";
import { inodeOf } from "../internal/socket.ts";
import { syscall } from "../internal/syscall.ts";
import { pollNow } from "./poll.ts";
import { LASTING, ReadyBit } from "./selector.ts";
import { type NativePollable, type Watcher, Watchers } from "./pollable.ts";
import { type EventHandler, type Reactor, reactor } from "./reactor.ts";

/** Calls in a row that found what they needed, after which a socket is busy. */
const BUSY = 64;

/** What listeners and connections have in common below their driver. */
export class PolledSocket extends Descriptor implements NativePollable {
  readonly reactor: Reactor = reactor();
  /** What the kernel has told and does not take back, and an error until it is thrown, as bits of `ReadyBit`. */
  told = 0;
  /** Others wait for the same socket, and one of all is enough to be woken. */
  isShared = false;
  /**
   * It is registered no longer once it is busy: the kernel would tell of each message that comes, and of each that has
   * gone, which costs it 4 % of what a datagram does. Registering anew can be refused as the first time.
   */
  leavesWhenBusy = false;
  readonly #source: EventHandler;
  #registered = false;
  /** Sides of the socket on which a call waits, and calls since one last did. */
  #heldSides = 0;
  #unheld = 0;
  #watchers: Watchers | undefined;
  #isPaused = false;

  /** Takes over `fd`; `source` is told of what happens on it, once that is asked for. */
  constructor(fd: number, source: EventHandler) {
    super(fd);
    this.#source = source;
  }

  get isPaused(): boolean {
    return this.#isPaused;
  }

  /** Stops or goes on being told of as readable to multiplexers. */
  set isPaused(on: boolean) {
    if (on === this.#isPaused) return;
    this.#isPaused = on;
    this.#watchers?.changed();
  }

  get engine(): "native" {
    return "native";
  }

  /** What errors call the socket. */
  get name(): string {
    return this.#source.name;
  }

  /** What it is, for the errors of those who wait when it is closed. */
  get kind(): string {
    return this.#source.kind;
  }

  get inode(): number | undefined {
    return this.isOpen ? inodeOf(this.fd) : undefined;
  }

  /**
   * Registers with the reactor, before a call waits: many connections are served without one that does. The kernel
   * tells at once of what is there already.
   *
   * @returns Why it cannot, `undefined` if it can.
   */
  register(): Error | undefined {
    this.#unheld = 0;
    if (this.#registered) return undefined;
    try {
      this.reactor.register(this.fd, this.#source, this.isShared);
      this.#registered = true;
      return undefined;
    } catch (error) {
      // The kernel limits what may be watched (ENOSPC), and memory.
      return error instanceof SyscallError ? socketError(`wait for ${this.name}`, error) : error as Error;
    }
  }

  /** The reactor gets the events of this socket. */
  get isRegistered(): boolean {
    return this.#registered;
  }

  /** What it is ready for now, as bits of `ReadyBit`: poll(2); `interest` has bits of `InterestBit`. */
  readyNow(interest: number): number {
    if (!this.isOpen) return 0;
    const ready = pollNow(this.fd, interest);
    this.told |= ready & (LASTING | ReadyBit.ERROR);
    return ready;
  }

  /** A call begins to wait on one side, for the kernel or for a turn: {@linkcode Reactor.hold}. */
  hold(ref: boolean): void {
    this.#heldSides++;
    this.reactor.hold(ref);
  }

  /** No call waits on that side any more. */
  release(ref: boolean): void {
    this.#heldSides--;
    this.reactor.release(ref);
  }

  /** A call on one side found what it needed, and did not wait. */
  proceeded(): void {
    if (!this.leavesWhenBusy || ++this.#unheld < BUSY || this.#heldSides > 0) return;
    this.#unheld = 0;
    this.#unregister();
  }

  /** Makes system calls in the words of this library; `action` ends in what the socket is called. */
  attempt<T>(action: string, call: (fd: number) => T): T {
    try {
      return call(this.fd);
    } catch (error) {
      if (!(error instanceof SyscallError)) throw error;
      throw socketError(`${action} ${this.name}`, error);
    }
  }

  /** shutdown(2). */
  shutdown(how: number): void {
    try {
      this.attempt("shut down", (fd) => syscall("shutdown", fd, how));
    } catch (error) {
      // A connection that the peer has reset has no side left to close.
      if (!(error instanceof Deno.errors.NotConnected)) throw error;
    }
  }

  watch(watcher: Watcher): () => void {
    return (this.#watchers ??= new Watchers()).add(watcher);
  }

  /** Gives the descriptor away; closing does so, too. */
  override detach(): number {
    if (this.isOpen) this.#watchers?.closing();
    this.#unregister();
    return super.detach();
  }

  /** Leaves the reactor and all multiplexers; the descriptor stays open. */
  leave(): void {
    if (this.isOpen) this.#watchers?.closing();
    this.#unregister();
  }

  #unregister(): void {
    if (!this.#registered) return;
    this.#registered = false;
    this.reactor.unregister(this.fd);
  }
}
