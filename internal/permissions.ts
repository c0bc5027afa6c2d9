/**
 * The permissions of the native engine. A foreign call goes around
 * `--allow-net`, so the library asks for the very host and port itself, and
 * refuses as Deno does.
 */

import { fromRuntimeError } from "./errors.ts";
import { formatAddress, type HostPort, splitZone } from "./address.ts";
import { atCaller } from "./stack.ts";

function descriptor({ hostname, port }: HostPort): Deno.NetPermissionDescriptor {
  return { name: "net", host: formatAddress({ hostname: splitZone(hostname)[0], port }) };
}

/**
 * Checks that the program may bind to or connect to an address, by the name
 * that it asked for. Where Deno itself would prompt, this does.
 *
 * @param action What is attempted, for the error.
 * @throws {Deno.errors.NotCapable} If it may not.
 */
export function requireNet(address: HostPort, action: string): void {
  const wanted = descriptor(address);
  let state: Deno.PermissionState;
  try {
    ({ state } = Deno.permissions.querySync(wanted));
    if (state === "prompt") ({ state } = Deno.permissions.requestSync(wanted));
  } catch (error) {
    // A host that Deno cannot read.
    throw fromRuntimeError(error, action, "getaddrinfo");
  }
  if (state !== "granted") throw refusal(wanted, action);
}

let everywhere: Deno.PermissionStatus | undefined;
let askedAt: number | undefined;

/**
 * Whether every address may be reached, for calls that are made for each
 * datagram: without hosts in `--allow-net` and `--deny-net` only the whole can
 * be revoked.
 *
 * The status follows what this thread revokes at once. Another thread can
 * revoke it too, and then nothing is told here, so it is asked for again
 * whenever `moment` is another one; not each time, since asking takes longer
 * than sending.
 *
 * @param moment A number that changes as time goes on: `Reactor.moment`.
 */
export function mayReachAll(moment: number): boolean {
  if (everywhere === undefined || moment !== askedAt) {
    everywhere = Deno.permissions.querySync({ name: "net" });
    askedAt = moment;
  }
  return everywhere.state === "granted" && !everywhere.partial;
}

/**
 * Checks that an address that a permitted name has resolved to is not itself
 * denied, so that a name cannot get around `--deny-net`.
 *
 * @throws {Deno.errors.NotCapable} If it is.
 */
export function refuseDenied(address: HostPort, action: string): void {
  const resolved = descriptor(address);
  if (Deno.permissions.querySync(resolved).state === "denied") throw refusal(resolved, action);
}

/**
 * Checks that the program may reach an address, without a prompt: for what the
 * runtime has refused in words of its own.
 *
 * @throws {Deno.errors.NotCapable} If it may not.
 */
export function refuseUnlessGranted(address: HostPort, action: string): void {
  const wanted = descriptor(address);
  if (Deno.permissions.querySync(wanted).state !== "granted") throw refusal(wanted, action);
}

function refusal({ host }: Deno.NetPermissionDescriptor, action: string): Error {
  return atCaller(
    new Deno.errors.NotCapable(
      `Cannot ${action}: requires net access to "${host}", run again with the --allow-net flag`,
    ),
  );
}
