/** What the tests of `udp/` have in common. */

import { UdpEndpoint } from "@c10k/sockets/udp";
import type { Engine } from "@c10k/sockets/tcp";
import { ENGINES, withoutLeaks } from "./_util.ts";

export const LOCAL = "127.0.0.1";
export const native = ENGINES.includes("native");

/** {@linkcode engineTest} of what the native engine alone can do. */
export function nativeTest(name: string, fn: (engine: Engine) => Promise<void> | void): void {
  Deno.test({ name: `[native] ${name}`, ignore: !native, fn: () => withoutLeaks(() => fn("native")) });
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
