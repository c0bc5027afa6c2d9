/** Memory for chunks of a stream that is taken when bytes are there, not while a connection is idle. */

/** The largest chunk, in bytes. */
export const CHUNK = 64 * 1024;

/** A buffer for the next chunk, shared by all connections of the isolate; `undefined` once a chunk keeps it. */
let spare: Uint8Array<ArrayBuffer> | undefined;

/**
 * Receives a chunk, without waiting.
 *
 * @param receive Fills a buffer, and returns the number of bytes, `null` at end-of-file, `undefined` if it would block.
 * @returns The bytes, in memory of their own.
 */
export function receiveChunk(
  receive: (p: Uint8Array<ArrayBuffer>) => number | null | undefined,
): Uint8Array<ArrayBuffer> | null | undefined {
  const p = spare ??= new Uint8Array(CHUNK);
  const n = receive(p);
  if (typeof n !== "number") return n;
  // A small message must not hold a large buffer, and a large one must not be copied.
  if (n < CHUNK / 2) return p.slice(0, n);
  spare = undefined;
  return p.subarray(0, n);
}
