/** When a child that has failed is replaced, and when that is given up. */

import { checkDuration, checkInteger, checkOptions } from "../internal/validate.ts";

/**
 * How a pool replaces children that have failed.
 *
 * @example Give up after three failures in a row
 * ```ts
 * import { Pool, type RestartOptions } from "@c10k/sockets/process";
 *
 * const source = `
 *   import { serve } from "${import.meta.resolve("@c10k/sockets/process")}";
 *   await serve((conn) => conn.readable.pipeTo(conn.writable));
 * `;
 * const module = `data:application/typescript,${encodeURIComponent(source)}`; // or a file's URL
 * const restart: RestartOptions = { delay: 100, limit: 3 };
 * await using pool = await Pool.start({
 *   kind: "worker",
 *   module,
 *   size: 1,
 *   restart,
 *   listen: { hostname: "127.0.0.1", port: 0 },
 * });
 * ```
 */
export interface RestartOptions {
  /**
   * Milliseconds before the first replacement; each one that fails as well doubles them.
   *
   * @default {50}
   */
  delay?: number;
  /**
   * Milliseconds at most.
   *
   * @default {10000}
   */
  maxDelay?: number;
  /**
   * Failures in a row after which the pool gives up: of children that have neither finished a connection nor lived for
   * `healthyAfter`.
   *
   * @default {10}
   */
  limit?: number;
  /**
   * Milliseconds after which a child counts as healthy, though it has finished no connection.
   *
   * @default {5000}
   */
  healthyAfter?: number;
}

/** How far a delay is moved at random, so that children do not fail in step. */
const JITTER = 0.5;

/** Counts failures in a row. */
export class Restarts {
  readonly #delay: number;
  readonly #maxDelay: number;
  readonly #limit: number;
  readonly #healthyAfter: number;
  #failures = 0;

  constructor(options: RestartOptions = {}) {
    checkOptions(options, "restart");
    this.#delay = checkDuration(options.delay ?? 50, "restart.delay");
    this.#maxDelay = checkDuration(options.maxDelay ?? 10_000, "restart.maxDelay");
    this.#limit = checkInteger(options.limit ?? 10, "restart.limit", 1, 1_000_000);
    this.#healthyAfter = checkDuration(options.healthyAfter ?? 5_000, "restart.healthyAfter");
  }

  get failures(): number {
    return this.#failures;
  }

  /** Something has worked. */
  succeed(): void {
    this.#failures = 0;
  }

  /**
   * A child has failed.
   *
   * @returns Milliseconds to wait before the next one; `undefined` if there have been too many.
   */
  fail(child: { hasServed: boolean; since: Date }): number | undefined {
    if (child.hasServed || Date.now() - child.since.getTime() >= this.#healthyAfter) this.succeed();
    if (++this.#failures >= this.#limit) return undefined;
    const delay = Math.min(this.#delay * 2 ** (this.#failures - 1), this.#maxDelay);
    return delay * (1 - JITTER / 2 + JITTER * Math.random());
  }
}
