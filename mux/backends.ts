/** The backends of a multiplexer: which can be used here, and which one is the default. */

import { engineSupport } from "../internal/engine.ts";
import { notSupportedError } from "../internal/errors.ts";
import { atCaller } from "../internal/stack.ts";
import { quote } from "../internal/validate.ts";
import { EpollSelector } from "../poll/epoll.ts";
import { PollSelector } from "../poll/poll.ts";
import { SelectSelector } from "../poll/select.ts";
import type { Backend, Selector } from "../poll/selector.ts";
import { RuntimeSelector } from "./runtime.ts";

/** Returns the backends that can be used here and now, the best one first. */
export function usableBackends(): Backend[] {
  return engineSupport().engine === "native" ? ["epoll", "poll", "select", "runtime"] : ["runtime"];
}

/** The one place where the default is chosen: what costs least with many sources, and is granted already. */
export function chooseBackend(backend: unknown): Backend {
  const usable = usableBackends();
  if (backend === "auto") return usable[0] as Backend;
  if (backend !== "epoll" && backend !== "poll" && backend !== "select" && backend !== "runtime") {
    throw atCaller(
      new TypeError(`backend must be "auto", "epoll", "poll", "select" or "runtime", received ${quote(backend)}`),
    );
  }
  if (usable.includes(backend)) return backend;
  throw notSupportedError(`use backend "${backend}"`, engineSupport().reason ?? "");
}

/** Makes the selector of a backend. */
export function makeSelector(backend: Backend, maxEvents: number): Selector {
  switch (backend) {
    case "epoll":
      return new EpollSelector(maxEvents);
    case "poll":
      return new PollSelector(maxEvents);
    case "select":
      return new SelectSelector(maxEvents);
    case "runtime":
      return new RuntimeSelector(maxEvents);
  }
}
