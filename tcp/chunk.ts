/** Memory for chunks of a stream that is taken when bytes are there, not while a connection is idle. */

/** The largest chunk, in bytes. */
export const CHUNK = 64 * 1024;

/** The buffer that the next chunk is received into, shared by all connections of the isolate. */
let spare: Uint8Array<ArrayBuffer> | undefined;

/** Returns a buffer to receive a chunk into, to be used before anything else runs. */
export function chunkBuffer(): Uint8Array<ArrayBuffer> {
  return spare ??= new Uint8Array(CHUNK);
}

/** Returns the first `n` bytes of {@linkcode chunkBuffer}, in memory of their own. */
export function takeChunk(n: number): Uint8Array<ArrayBuffer> {
  const p = chunkBuffer();
  // A small message must not hold a large buffer, and a large one must not be copied.
  if (n < CHUNK / 2) return p.slice(0, n);
  spare = undefined;
  return p.subarray(0, n);
}
