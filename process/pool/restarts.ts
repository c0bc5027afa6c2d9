/** When a child that has failed is replaced, and when that is given up. */

import { checkDuration, checkInteger, checkOptions } from "../../internal/validate.ts";

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
   * Failures in a row, in one child's place, after which the pool gives up: of children that have neither finished a
   * connection nor lived for `healthyAfter`. As long as another child is healthy it goes on, in the end at intervals of
   * `maxDelay`.
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

/** What is known of a child. */
export interface Life {
  /** It has finished a connection. */
  readonly hasServed: boolean;
  readonly since: Date;
}

/** Counts failures in a row, by slot: what fails at the same time in several does not follow one upon the other. */
export class Restarts {
  readonly #delay: number;
  readonly #maxDelay: number;
  readonly #limit: number;
  readonly #healthyAfter: number;
  readonly #failures: number[] = [];

  constructor(options: RestartOptions = {}) {
    checkOptions(options, "restart");
    this.#delay = checkDuration(options.delay ?? 50, "restart.delay");
    this.#maxDelay = checkDuration(options.maxDelay ?? 10_000, "restart.maxDelay");
    this.#limit = checkInteger(options.limit ?? 10, "restart.limit", 1, 1_000_000);
    this.#healthyAfter = checkDuration(options.healthyAfter ?? 5_000, "restart.healthyAfter");
  }

  /** How many have failed in a row in this slot. */
  failures(slot: number): number {
    return this.#failures[slot] ?? 0;
  }

  /** Something has worked. */
  succeed(): void {
    this.#failures.fill(0);
  }

  /** It has finished a connection, or lived for long enough. */
  isHealthy({ hasServed, since }: Life): boolean {
    return hasServed || Date.now() - since.getTime() >= this.#healthyAfter;
  }

  /**
   * A child has failed.
   *
   * @param slot Its place.
   * @param child What it had done.
   * @param others The children that are left: as long as one of them is healthy, nothing is given up.
   * @returns Milliseconds to wait before the next one; `undefined` if there have been too many.
   */
  fail(slot: number, child: Life, others: readonly Life[]): number | undefined {
    const failures = this.#failures[slot] = this.isHealthy(child) ? 1 : this.failures(slot) + 1;
    if (failures >= this.#limit && !others.some((other) => this.isHealthy(other))) return undefined;
    // No more doublings than a number has room for.
    const delay = Math.min(this.#delay * 2 ** Math.min(failures - 1, 30), this.#maxDelay);
    return delay * (1 - JITTER / 2 + JITTER * Math.random());
  }
}
