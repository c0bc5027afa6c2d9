/** The flags of `deno run` that a caller may add: none that decides what runs, or what it may do. */

import { atCaller } from "../../internal/stack.ts";
import { quote } from "../../internal/validate.ts";

/** What a child may do is said in one place only, where it is checked. */
const PERMISSIONS = /^--(allow|deny|ignore)-|^--permission-set(=|$)/;
const PERMISSION_LETTERS = /[ARWNESIP]/;

/** With these the module does not run. */
const INSTEAD = /^--(help|version|tunnel|connected)(=|$)|^--v8-flags=(.*[,\s])?-+(help|version)\b/;
const INSTEAD_LETTERS = /[hV]/;

/** With nothing behind them these take the next argument, which is the module. */
const WITH_VALUE = new Set([
  "--cert",
  "--conditions",
  "--config",
  "--ext",
  "--import-map",
  "--inspect-publish-uid",
  "--location",
  "--lock",
  "--log-level",
  "--min-dep-age",
  "--node-modules-linker",
  "--preload",
  "--require",
  "--seed",
]);

/**
 * Checks the flags for a process. Deno reads the first argument that is no flag as the module, and stops reading flags
 * there: a value has to stand with its flag.
 *
 * @throws {TypeError} If one of them would do more than its own.
 */
export function checkFlags(flags: readonly string[]): void {
  for (const flag of flags) {
    if (!/^--?[^-]/.test(flag)) {
      throw refusal("must hold flags, each with its value (--config=FILE)", flag);
    }
    const letters = lettersOf(flag);
    if (PERMISSIONS.test(flag) || PERMISSION_LETTERS.test(letters)) {
      throw refusal("must not hold permissions, use permissions", flag);
    }
    if (INSTEAD.test(flag) || INSTEAD_LETTERS.test(letters)) {
      throw refusal("must not hold what runs instead of the module", flag);
    }
    if (WITH_VALUE.has(flag) || (/[cL]$/.test(letters) && flag === `-${letters}`)) {
      throw refusal(`must hold each flag with its value (${flag}=VALUE)`, flag);
    }
  }
}

/** The short flags in an argument, which can stand together (-qr), up to the first that takes a value. */
function lettersOf(flag: string): string {
  if (flag.startsWith("--")) return "";
  const [, letters = ""] = /^-([^=cL]*[cL]?)/.exec(flag) ?? [];
  return letters;
}

function refusal(why: string, flag: string): Error {
  return atCaller(new TypeError(`flags ${why}: received ${quote(flag)}`));
}
