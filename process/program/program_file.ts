/**
 * Which file a command is. It is found once, as Deno finds it; the permission
 * is asked for that very path, and that path is started.
 */

import { resolve } from "node:path/posix";
import { cString } from "../../internal/c_string.ts";
import { socketError, SyscallError } from "../../internal/errors.ts";
import { statusOf } from "../../internal/file_status.ts";
import { libc } from "../../internal/libc.ts";
import { readVariable } from "../../internal/environment.ts";

// unistd.h
const X_OK = 1;

/**
 * Finds a program. A command with a slash is a path in the program's own
 * folder to be; a name is looked for in the folders of the `PATH` that the
 * program gets, where `~` stands for the home folder and a relative folder is
 * one of this program's.
 *
 * @returns Its absolute path, without `.` and `..`, which links would make ambiguous.
 * @throws {Deno.errors.NotFound} If no folder of `PATH` has such a program.
 */
export function findProgram(
  command: string,
  cwd: string | undefined,
  environment: readonly string[],
  action: string,
): string {
  if (command.includes("/")) return resolve(cwd ?? "", command);
  for (const folder of searchPath(environment) ?? []) {
    const path = resolve(folder, command);
    if (isProgram(path)) return path;
  }
  throw socketError(action, new SyscallError("posix_spawn", "ENOENT"));
}

/** Whether a folder of `PATH` is relative, so that it depends on a current folder. */
export function hasRelativeFolders(environment: readonly string[]): boolean {
  return searchPath(environment)?.some((folder) => !folder.startsWith("/")) ?? false;
}

/** The folders of `PATH`, with the home folder for a tilde; those that are not known are left out. */
function searchPath(environment: readonly string[]): string[] | undefined {
  const path = environment.find((variable) => variable.startsWith("PATH="))?.slice("PATH=".length);
  return path?.split(":").flatMap((folder) => {
    if (folder !== "~" && !folder.startsWith("~/")) return folder;
    const home = readVariable("HOME");
    return home === undefined || home === "" ? [] : `${home}${folder.slice(1)}`;
  });
}

function isProgram(path: string): boolean {
  try {
    return statusOf(path, true)?.type === "file" && libc.access(cString(path), X_OK) === 0;
  } catch (error) {
    // A folder that cannot be searched, for example.
    if (error instanceof SyscallError) return false;
    throw error;
  }
}
