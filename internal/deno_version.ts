/**
 * Refuses to load on a Deno that is too old, or that has a fault which the library cannot work around. It is imported by the module that each entry point evaluates first, so
 * that its error comes before any other.
 *
 * Older versions fail here and there, and not clearly. On 2.5 a turn of the event loop by `setImmediate` takes more than
 * a millisecond; on 2.6.0 and 2.6.1 it does not come while a timer is pending (denoland/deno#31642), so waits of the
 * native engine hang. `Worker` of `node:worker_threads` cannot share its environment before 2.7. Sockets of
 * `node:dgram` cannot join multicast groups before one of the later releases of 2.7.
 */

/** The oldest version of Deno that is supported: `deno task test:versions` runs the tests with it. */
export const OLDEST_DENO = "2.7.14";

/**
 * A newer version on which the library does not load. `close()` of a connection of Deno's leaves the socket open there
 * while a read is pending (denoland/deno#35292): the read is never settled, and the peer waits for an end that never
 * comes. 2.8.2 and 2.9 close it.
 */
export const FAULTY_DENO = "2.8.3";

/** Major, minor and patch, and the hyphen of a pre-release, which comes before the release. */
const VERSION = /^(\d+)\.(\d+)\.(\d+)(-)?/;

/** Whether one version comes before another; `false` for one that cannot be read. */
export function isOlder(version: string, other: string): boolean {
  const [a, b] = [VERSION.exec(version), VERSION.exec(other)];
  if (a === null || b === null) return false;
  for (let i = 1; i <= 3; i++) {
    const difference = Number(a[i]) - Number(b[i]);
    if (difference !== 0) return difference < 0;
  }
  return a[4] !== undefined && b[4] === undefined;
}

/**
 * Throws if the library cannot run here.
 *
 * @param runtime The global `Deno`, which other runtimes lack, or have a part of.
 */
export function checkRuntime(runtime: unknown): void {
  const { version, errors } = (runtime ?? {}) as {
    version?: { deno?: unknown } | null;
    errors?: { NotSupported?: ErrorConstructor } | null;
  };
  const found = version?.deno;
  const isFaulty = typeof found === "string" && found.split("+", 1)[0] === FAULTY_DENO;
  if (typeof found === "string" && !isOlder(found, OLDEST_DENO) && !isFaulty) return;
  const what = typeof found === "string" ? `Deno ${found}` : "another runtime";
  const why = isFaulty ? ", where close() leaves a connection open while a read is pending" : "";
  const NotSupported = errors?.NotSupported ?? Error;
  throw new NotSupported(
    `Cannot load @c10k/sockets: it needs Deno ${OLDEST_DENO} or newer, and this is ${what}${why}`,
  );
}

checkRuntime((globalThis as { Deno?: unknown }).Deno);
