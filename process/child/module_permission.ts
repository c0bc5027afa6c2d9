/**
 * The permission for what Deno reaches for a process before anything of it runs. Deno asks for neither the module that
 * `deno run` names nor the files of its flags; a thread's module it asks for.
 */

import { fileURLToPath } from "node:url";
import { atCaller } from "../../internal/stack.ts";
import { giveItem, hasWhole, isGranted } from "./permission_items.ts";

/**
 * Asks for the permission to load a module, as Deno does for that of a Worker. Its imports are not known here.
 *
 * @throws {Deno.errors.NotCapable} If it is not given.
 */
export function requireModule(module: URL, action: string): void {
  switch (module.protocol) {
    case "file:":
      return requirePath("read", fileURLToPath(module), action);
    case "http:":
    case "https:":
      return requireImport(`${module.hostname}:${module.port || (module.protocol === "http:" ? 80 : 443)}`, action);
    case "jsr:":
      return requireImport("jsr.io:443", action);
    default:
      // Deno asks for nothing else: data: has its text with it, and npm: comes from the registry of the configuration.
  }
}

/**
 * Asks for the permission to read or write a path, for the path itself and for what a link there leads to.
 *
 * @throws {Deno.errors.NotCapable} If it is not given.
 */
export function requirePath(kind: "read" | "write", path: string, action: string): void {
  ask({ name: kind, path });
  if (!hasWhole(kind) && "refusal" in giveItem(kind, path)) throw refusal(kind, path, action);
}

function requireImport(host: string, action: string): void {
  ask({ name: "import", host });
  if (!isGranted("import", host)) throw refusal("import", host, action);
}

/** Where Deno itself would prompt, this does. */
function ask(wanted: Deno.PermissionDescriptor): void {
  if (Deno.permissions.querySync(wanted).state === "prompt") Deno.permissions.requestSync(wanted);
}

function refusal(kind: "read" | "write" | "import", what: string, action: string): Error {
  return atCaller(
    new Deno.errors.NotCapable(
      `Cannot ${action}: requires ${kind} access to "${what}", run again with the --allow-${kind} flag`,
    ),
  );
}
