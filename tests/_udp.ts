/** What the tests of `udp/` have in common. */

import { UdpEndpoint } from "@c10k/sockets/udp";
import type { Engine } from "@c10k/sockets/tcp";
import { ENGINES, engineTest } from "./_util.ts";

export const LOCAL = "127.0.0.1";
export const native = ENGINES.includes("native");

/** {@linkcode engineTest} of what the native engine alone can do. */
export function nativeTest(name: string, fn: (engine: Engine) => Promise<void> | void): void {
  if (native) engineTest(name, (engine) => engine === "native" ? fn(engine) : undefined);
}

/** Two endpoints on loopback; `using` closes both. */
export class Two implements Disposable {
  readonly a: UdpEndpoint;
  readonly b: UdpEndpoint;

  constructor(engine: Engine, hostname = LOCAL) {
    this.a = UdpEndpoint.bind({ hostname, engine });
    this.b = UdpEndpoint.bind({ hostname, engine });
  }

  [Symbol.dispose](): void {
    this.a.close();
    this.b.close();
  }
}
