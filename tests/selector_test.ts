/** The contract of `poll/selector.ts`, for each backend that asks the kernel: what the multiplexer above never does. */

import { assertEquals, assertThrows } from "@std/assert";
import { SyscallError } from "../internal/errors.ts";
import { EpollSelector } from "../poll/epoll.ts";
import { PollSelector } from "../poll/poll.ts";
import { RuntimeSelector } from "../mux/runtime.ts";
import { SelectSelector } from "../poll/select.ts";
import { InterestBit, ReadyBit, type Selector } from "../poll/selector.ts";
import { NATIVE } from "./_process.ts";
import { encode, Pair, withoutLeaks } from "./_util.ts";

const { READABLE, WRITABLE } = InterestBit;

const OPEN: (() => Selector)[] = [EpollSelector, PollSelector, SelectSelector].map((make) => () => new make(8));

/** Runs a test with a selector and a connection whose client's descriptor is `fd`. */
function selectorTest(
  name: string,
  fn: (selector: Selector, pair: Pair, fd: number) => void | Promise<void>,
): void {
  for (const [i, backend] of ["epoll", "poll", "select"].entries()) {
    Deno.test({
      name: `[${backend}] Selector.${name}`,
      ignore: !NATIVE,
      fn: () =>
        withoutLeaks(async () => {
          using pair = await Pair.open("native");
          const selector = (OPEN[i] as () => Selector)();
          try {
            await fn(selector, pair, pair.client.fd as number);
          } finally {
            selector.close();
          }
        }),
    });
  }
}

selectorTest("register() takes a descriptor once, and again when it was unregistered", (selector, _, fd) => {
  selector.register(fd, 1, WRITABLE);
  assertThrows(() => selector.register(fd, 2, READABLE), SyscallError, "EEXIST");
  assertEquals([selector.select(0), selector.generation(0), selector.ready(0)], [1, 1, ReadyBit.WRITABLE]);
  selector.unregister(fd);
  selector.register(fd, 2, READABLE);
  assertEquals(selector.select(0), 0);
});

selectorTest("modify() refuses what is not registered", (selector, _, fd) => {
  assertThrows(() => selector.modify(fd, 1, READABLE), SyscallError, "ENOENT");
  assertThrows(() => selector.modify(5000, 1, READABLE), SyscallError);
  assertEquals(selector.select(0), 0);
});

selectorTest("unregister() of what is not registered does nothing", (selector, { server }, fd) => {
  selector.register(fd, 1, WRITABLE);
  for (const unknown of [server.fd as number, 5000]) selector.unregister(unknown);
  assertEquals([selector.select(0), selector.fd(0)], [1, fd]);
});

selectorTest("select() waits without a limit when that is negative or infinite", async (selector, pair, fd) => {
  selector.register(fd, 1, READABLE);
  for (const limit of [-1, Infinity, 2 ** 45]) {
    const waiting = selector.selectElsewhere(limit);
    await pair.server.writeAll(encode("x"));
    assertEquals([await waiting, selector.fd(0)], [1, fd]);
    // On this thread, too: something is there, so it does not wait.
    assertEquals([selector.select(limit), selector.ready(0)], [1, ReadyBit.READABLE]);
    await pair.client.read(new Uint8Array(1));
  }
});

Deno.test("[runtime] Selector.register() needs somebody to ask, and nothing else is known to it", () => {
  const selector = new RuntimeSelector(8);
  assertThrows(() => selector.register(1, 1, READABLE), TypeError, "nothing to ask");
  selector.modify(1, 1, READABLE);
  selector.unregister(1);
  assertEquals(selector.select(), 0);
  selector.close();
});
