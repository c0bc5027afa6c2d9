/** The permission to start a program natively: a foreign call goes around `--allow-run`. */

import { atCaller } from "../../internal/stack.ts";

/** Variables with which a program runs other code than its own, as Deno has them. */
function isLoaderVariable(variable: string): boolean {
  return /^(LD_|DYLD_)[^=]*=./.test(variable);
}

/**
 * Asks for the permission to start a file, as Deno does.
 *
 * @param environment `NAME=value` each.
 * @throws {Deno.errors.NotCapable} If it is not given.
 */
export function requireRun(file: string, environment: readonly string[], action: string): void {
  const wanted: Deno.RunPermissionDescriptor = { name: "run", command: file };
  let { state } = Deno.permissions.querySync(wanted);
  if (state === "prompt") ({ state } = Deno.permissions.requestSync(wanted));
  if (state !== "granted") {
    throw atCaller(
      new Deno.errors.NotCapable(
        `Cannot ${action}: requires run access to "${file}", run again with the --allow-run flag`,
      ),
    );
  }
  const loader = environment.find(isLoaderVariable);
  if (loader !== undefined && Deno.permissions.querySync({ name: "run" }).state !== "granted") {
    const name = loader.slice(0, loader.indexOf("="));
    throw atCaller(
      new Deno.errors.NotCapable(`Cannot ${action}: requires --allow-run without a list, for ${name} is set`),
    );
  }
}
