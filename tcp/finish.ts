/** How a connection is ended so that the peer gets all that was written to it. */

import { Deadline } from "../internal/deadline.ts";
import type { Wait } from "../internal/wait.ts";
import { InterestBit } from "../poll/selector.ts";
import { chunkBuffer } from "./chunk.ts";
import type { ConnDriver } from "./driver.ts";

/** The part of a connection that is used here. */
type Ending = Pick<ConnDriver, "isWriting" | "closeWrite" | "ready" | "tryRead" | "close">;

/**
 * Sends FIN, drops what the peer still sends, up to `size` bytes, and closes when the peer has finished as well.
 *
 * @throws The reason of the signal, once that is aborted; or that the connection was closed by somebody else.
 */
export async function finish(conn: Ending, size: number, wait: Wait): Promise<void> {
  let isGivenUp = false;
  try {
    const dropped = conn.tryRead(chunkBuffer());
    // Mostly the peer has finished already: then close(2) sends FIN, and no RST.
    if (dropped === null && !conn.isWriting) return;
    isGivenUp = await dropWithin(conn, size - (dropped ?? 0), wait);
  } catch (error) {
    // A peer that has reset the connection wants nothing more.
    if (error instanceof Deno.errors.BadResource) throw error;
  } finally {
    conn.close();
  }
  if (isGivenUp) wait.signal?.throwIfAborted();
}

/** Returns whether it was given up. */
async function dropWithin(conn: Ending, size: number, { signal, timeout }: Wait): Promise<boolean> {
  let isGivenUp = false;
  const giveUp = () => {
    isGivenUp = true;
    conn.close();
  };
  const deadline = new Deadline(giveUp);
  if (timeout !== Infinity) deadline.set(timeout);
  signal?.addEventListener("abort", giveUp);
  try {
    await conn.closeWrite();
    await drop(conn, size);
  } catch (error) {
    if (!isGivenUp) throw error;
  } finally {
    deadline.clear();
    signal?.removeEventListener("abort", giveUp);
  }
  return isGivenUp;
}

async function drop(conn: Ending, size: number): Promise<void> {
  for (let left = size; left > 0;) {
    const n = conn.tryRead(chunkBuffer());
    if (n === null) return;
    if (n === undefined) await conn.ready(InterestBit.READABLE, undefined);
    else left -= n;
  }
}
