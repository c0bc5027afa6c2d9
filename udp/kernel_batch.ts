/** The kernel's side of a batch of datagrams. */

import type { PolledSocket } from "../poll/polled_socket.ts";
import type { BatchMemory, KernelBatch } from "./datagram_batch.ts";
import { NativeBatch } from "./native_batch.ts";
import { OffloadBatch } from "./offload_batch.ts";

/** Datagrams of a batch that count as one call, so that timers wait for some 5 ms at most while nothing else does. */
const CALL_SIZE = 16;

/** Counts a batch as the calls that it was made instead of, lest others wait for long; returns what it is given. */
export function chargeBatch<T extends number | Error | undefined>(socket: PolledSocket, datagrams: T): T {
  if (typeof datagrams === "number") socket.reactor.charge(Math.ceil(datagrams / CALL_SIZE) - 1);
  return datagrams;
}

/** The kernel's side of a batch, made at its first use. */
export function kernelBatch(memory: BatchMemory): KernelBatch {
  const { gso, gro, info } = memory;
  return memory.kept ??= gso || gro || info !== undefined ? new OffloadBatch(memory) : new NativeBatch(memory);
}
