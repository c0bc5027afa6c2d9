/** What older versions of Deno cannot do, and why: the tests that `deno task test:versions` skips. */

import { isOlder } from "../../internal/deno_version.ts";

/** A test that is skipped on versions before one. */
export interface Skip {
  /** Its whole name. */
  readonly name: string;
  /** The first version of Deno on which it passes. */
  readonly before: string;
  readonly reason: string;
  /** Only the full size has it: `TEST_SIZE=full deno task test:versions`. */
  readonly long?: boolean;
}

/** Whether a version is one of those. */
export function isSkipped({ before }: Skip, version: string): boolean {
  return isOlder(version, before);
}

const PORT_LEAKS = "Deno leaves the message ports of transferred streams open, which the resource sanitizer reports";

export const SKIPS: readonly Skip[] = [
  {
    name: "Waker.fromFd() takes nothing for an eventfd where there is no /proc to tell (in network namespaces)",
    before: "2.9.0",
    reason: "Deno itself does not start without /proc: it panics",
  },
  {
    name: "[worker] Child.send() refuses what cannot be cloned at once, and disturbs no other message",
    before: "2.9.0",
    reason: "Deno clones a URL, as an object with nothing in it",
  },
  {
    name: "[worker] a thread that sends what Deno cannot receive is ended, and its parent goes on",
    before: "2.8.0",
    reason: "node:perf_hooks has no createHistogram(), which the test sends",
  },
  {
    name: "serve() [runtime] closes the connection of a handler that fails",
    before: "2.8.0",
    reason: PORT_LEAKS,
    long: true,
  },
  {
    name:
      "[worker] Child.shutdown() ends a thread once its module is done, though a connection of the runtime engine went to it",
    before: "2.8.0",
    reason: PORT_LEAKS,
  },
  {
    name: "a connection that its peer has reset tells the same in a thread, to which it came as streams, as elsewhere",
    before: "2.8.0",
    reason: PORT_LEAKS,
    long: true,
  },
  {
    name: "[runtime] TCP refuses to connect to a name that does not resolve",
    before: "2.8.0",
    reason: "Deno.connect leaves the resource of its signal open when it fails",
  },
];
