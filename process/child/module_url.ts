/** The module that a child runs, and what errors call the child. */

import { posix, win32 } from "node:path";
import { pathToFileURL } from "node:url";
import { checkText } from "../../internal/c_string.ts";
import type { Os } from "../../internal/error_numbers.ts";
import { atCaller } from "../../internal/stack.ts";

/** Refuses the URL of a file whose path has a zero byte. */
function checkFile(url: URL): URL {
  if (url.protocol === "file:") checkText(url.pathname.replaceAll("%00", "\0"), "module");
  return url;
}

/**
 * The absolute address of a module, of which a relative path is looked for in the current folder.
 *
 * @param os The operating system whose paths it may be.
 */
export function moduleUrl(module: unknown, os: Os = Deno.build.os): URL {
  // A copy: what the caller's own object says can change.
  if (module instanceof URL) return checkFile(new URL(module));
  if (typeof module !== "string") {
    throw atCaller(new TypeError(`module must be a string or a URL, received ${typeof module}`));
  }
  checkText(module, "module");
  const isWindows = os === "windows";
  // The letter of a drive looks like the scheme of a URL.
  const hasDrive = isWindows && /^[a-z]:[\\/]/i.test(module);
  if (!hasDrive && URL.canParse(module)) return checkFile(new URL(module));
  return pathToFileURL((isWindows ? win32 : posix).resolve(module), { windows: isWindows });
}

/** What errors call a child. */
export function childName(kind: "worker" | "process", id: number, module: URL, name: unknown): string {
  if (name !== undefined && typeof name !== "string") throw atCaller(new TypeError(`name must be a string`));
  const file = module.protocol === "data:" ? "data: module" : module.pathname.split("/").at(-1);
  return `${kind} ${id} (${name ?? file})`;
}
