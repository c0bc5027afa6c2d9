/** Options of {@linkcode getAvailablePort}. */
export interface GetAvailablePortOptions {
  /** A port to return if it is free, before any other. */
  preferredPort?: number;
}

/** Returns a TCP port that was free a moment ago, as `getAvailablePort` of @std/net does. */
export function getAvailablePort(options?: GetAvailablePortOptions): number {
  for (const port of [options?.preferredPort, 0]) {
    if (port === undefined) continue;
    try {
      using listener = Deno.listen({ port });
      return listener.addr.port;
    } catch (error) {
      if (port !== 0 && error instanceof Deno.errors.AddrInUse) continue;
      throw error;
    }
  }
  throw new Error("Cannot find an available port");
}
