/**
 * What Deno can read as an item of a permission. A program that has all of a kind is granted any text when it asks, and
 * the child would end with a message about its flags; so items are checked here, as Deno 2.9 reads them.
 */

import { parseIPv4, parseIPv6 } from "../../internal/address.ts";
import { atCaller } from "../../internal/stack.ts";
import { quote } from "../../internal/validate.ts";
import type { Kind } from "./permission_items.ts";

/** The kinds of `--allow-sys`. */
const SYS: ReadonlySet<string> = new Set([
  ...["cpus", "getegid", "getPriority", "gid", "homedir", "hostname", "loadavg", "networkInterfaces", "osRelease"],
  ...["osUptime", "setPriority", "statfs", "systemMemoryInfo", "uid", "userInfo", "username"],
]);

/** Kinds that threads have and no flag can name. */
const SYS_OF_THREADS: ReadonlySet<string> = new Set([
  ...["ca", "inspector", "setegid", "seteuid", "setgid", "setuid", "umask"],
]);

/** Longest domain name, in bytes: RFC 1035, section 2.3.4. */
const LONGEST_NAME = 255;

/**
 * Checks one item of a list.
 *
 * @param kind The kind of permission.
 * @param item The item.
 * @param child The kind of child that is to have it.
 * @throws {TypeError} If Deno cannot read it.
 */
export function checkItem(kind: Kind, item: string, child: "worker" | "process"): void {
  // A comma would begin another item of a flag.
  if (child === "process" && item.includes(",")) {
    throw atCaller(new TypeError(`permissions.${kind} must not hold a comma, received ${quote(item)}`));
  }
  const expected = expectation(kind, item, child);
  if (expected === undefined) return;
  throw atCaller(new TypeError(`permissions.${kind} must hold ${expected}, received ${quote(item)}`));
}

/** What an item should have been; `undefined` if it is that. */
function expectation(kind: Kind, item: string, child: "worker" | "process"): string | undefined {
  switch (kind) {
    case "net":
    case "import":
      return isHost(item) ? undefined : "hosts as 127.0.0.1:8080, [::1], 10.0.0.0/8 or *.example.com";
    case "env":
      return item.includes("=") ? "names of variables" : undefined;
    case "sys": {
      const isKind = SYS.has(item) || (child === "worker" && SYS_OF_THREADS.has(item));
      return isKind ? undefined : "kinds of information on the system as hostname";
    }
    case "ffi":
    case "read":
    case "run":
    case "write":
      return undefined; // paths, of which any text is one
  }
}

function isHost(item: string): boolean {
  if (item.startsWith("unix:")) return item.startsWith("unix:/");
  if (item.startsWith("vsock:")) return isVsock(item);
  const [, bracketed, plain = "", port] = /^(?:\[([^\]]*)\]|([^[\]:]*))(?::\+?(\d+))?$/.exec(item) ?? [];
  if (port !== undefined && Number(port) > 65_535) return false;
  // A zone can be any text.
  if (bracketed !== undefined) return parseIPv6(bracketed.replace(/%.*$/s, "")) !== undefined;
  const [, network, bits] = /^([\d.]+)\/(\d+)$/.exec(plain) ?? [];
  if (network !== undefined) return parseIPv4(network) !== undefined && Number(bits) <= 32;
  const name = plain.replace(/^\*\./, "");
  // A dot can stand at the end. Deno reads some names that no resolver takes.
  return /^[\w#-]+(\.[\w#-]+)*\.?$/.test(name) && name.length <= LONGEST_NAME;
}

/** `vsock:CID:PORT`, of vsock(7). */
function isVsock(item: string): boolean {
  const [, cid, port] = /^vsock:(\d+):(\d+)$/.exec(item) ?? [];
  return cid !== undefined && [cid, port].every((number) => Number(number) < 2 ** 32);
}
