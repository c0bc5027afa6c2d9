/** Whether what is pending on one of Deno's own sockets keeps the process alive. */

/** A socket of Deno's; some kinds have none of these. */
interface Referable {
  ref?(): void;
  unref?(): void;
}

/**
 * Calls `ref` and `unref` of a socket as its state changes.
 *
 * An `unref` comes a microtask late. Otherwise an operation may have completed while its promise is still to be settled:
 * a timer that cancels a call runs at such a time. Deno before 2.9 then counts the operation as unreferenced for ever,
 * and a later one that is pending alone does not keep the process alive.
 */
export class RefSwitch {
  readonly #socket: Referable;
  #isOn = true;

  constructor(socket: Referable) {
    this.#socket = socket;
  }

  set(on: boolean): void {
    if (on === this.#isOn) return;
    this.#isOn = on;
    if (on) this.#socket.ref?.();
    else queueMicrotask(() => this.#isOn || this.#socket.unref?.());
  }
}
