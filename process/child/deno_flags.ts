/**
 * The flags of `deno run` that a caller may add for a process. Deno does not ask for what its flags reach: so only those
 * that are listed here are allowed, and a file, a folder or an address is asked for before it is passed on.
 */

import { resolve } from "node:path/posix";
import { requireNet } from "../../internal/permissions.ts";
import { atCaller } from "../../internal/stack.ts";
import { quote } from "../../internal/validate.ts";
import { moduleUrl } from "./module_url.ts";
import { requireModule, requirePath } from "./module_permission.ts";
import { exactAddress } from "./permission_items.ts";

const NO_VALUE = /^$/;
const NUMBER = /^\d+$/;

/** Flags that grant nothing, run nothing and reach nothing, with the values that they can have. */
const HARMLESS: Readonly<Record<string, RegExp>> = {
  "--cached-only": NO_VALUE,
  "--check": /^(all)?$/,
  "--conditions": /^[\w,-]+$/,
  "--ext": /^\w+$/,
  "--frozen": /^(true|false)?$/,
  "--log-level": /^\w+$/,
  "--no-check": /^(remote)?$/,
  "--no-code-cache": NO_VALUE,
  "--no-config": NO_VALUE,
  "--no-lock": NO_VALUE,
  "--no-npm": NO_VALUE,
  "--no-prompt": NO_VALUE,
  "--no-remote": NO_VALUE,
  "--node-modules-dir": /^(none|manual)$/,
  "--quiet": NO_VALUE,
  "--reload": /^/,
  "--seed": NUMBER,
  "--use-env-proxy": NO_VALUE,
  "--v8-flags": /^/, // each of them is checked, below
  "--vendor": /^false$/,
};

/** `--unstable-net` and the like: they make interfaces available, which need their permissions as before. */
const UNSTABLE = /^--unstable(-[a-z0-9]+)*$/;

/** Flags of V8 that change how much memory it uses and how it compiles. Others write files: `--prof`, `--logfile`. */
const V8_FLAGS: Readonly<Record<string, RegExp>> = {
  "--expose-gc": NO_VALUE,
  "--initial-heap-size": NUMBER,
  "--initial-old-space-size": NUMBER,
  "--jitless": NO_VALUE,
  "--lite-mode": NO_VALUE,
  "--max-heap-size": NUMBER,
  "--max-old-space-size": NUMBER,
  "--max-semi-space-size": NUMBER,
  "--min-semi-space-size": NUMBER,
  "--no-opt": NO_VALUE,
  "--optimize-for-size": NO_VALUE,
  "--single-threaded": NO_VALUE,
  "--stack-size": NUMBER,
  "--stack-trace-limit": NUMBER,
};

type Reach = "read" | "write" | "lock file" | "module" | "listen";

/** Flags that reach something, and how that is asked for. */
const REACHING: Readonly<Record<string, Reach>> = {
  "--cert": "read",
  "--config": "read",
  "--coverage": "write",
  "--cpu-prof-dir": "write",
  "--import-map": "module",
  "--inspect": "listen",
  "--inspect-brk": "listen",
  "--inspect-wait": "listen",
  "--lock": "lock file",
  "--preload": "module",
  "--require": "read",
};

const PERMISSIONS = /^--(allow|deny|ignore)-|^--permission-set(=|$)|^-[a-zA-Z]*[ARWNESIP]/;

const ALLOWED = [...Object.keys(HARMLESS), ...Object.keys(REACHING), "--unstable-…"].toSorted().join(", ");

/** A flag that is allowed, in its long form. */
export interface CheckedFlag {
  readonly text: string;
  readonly name: string;
  readonly value: string;
  /** How its value is asked for; `undefined` if it reaches nothing. */
  readonly reach: Reach | undefined;
}

/**
 * Checks the flags for a process. Deno reads the first argument that is no flag as the module, and stops reading flags
 * there: a value has to stand with its flag.
 *
 * @throws {TypeError} If one of them is not allowed.
 */
export function checkFlags(flags: readonly string[]): CheckedFlag[] {
  const names = new Set<string>();
  return flags.map((given) => {
    const text = longForm(given);
    const at = text.indexOf("=");
    const [name, value] = at < 0 ? [text, ""] : [text.slice(0, at), text.slice(at + 1)];
    if (PERMISSIONS.test(text)) throw refusal("must not hold permissions, use permissions", given);
    if (name === "--env-file") throw refusal("must not hold --env-file, use env", given);
    const reach = Object.hasOwn(REACHING, name) ? REACHING[name] : undefined;
    // Of two Deno takes the last.
    if (names.has(name) && (reach !== undefined || name === "--frozen")) {
      throw refusal(`must hold ${name} once`, given);
    }
    names.add(name);
    if (reach !== undefined) {
      if (value === "") throw refusal(`must hold each flag with its value (${name}=VALUE)`, given);
      if (reach === "listen" && exactAddress(value) === undefined) {
        throw refusal(`must hold ${name} with an address and a port (${name}=127.0.0.1:9229)`, given);
      }
    } else if (name === "--v8-flags") checkV8Flags(value, given);
    else if (!isOneOf(HARMLESS, name, value) && !UNSTABLE.test(text)) {
      throw refusal(`must hold flags that are allowed here, with their values (${ALLOWED})`, given);
    }
    return { text, name, value, reach };
  });
}

/**
 * Asks for what the flags reach. Relative paths are those of the child's folder, and what is asked for is what the child
 * is told.
 *
 * @param folder The child's current folder; `undefined` if that is this program's.
 * @param action What is attempted.
 * @throws {Deno.errors.NotCapable} If this program may not reach it itself.
 */
export function requireFlags(flags: readonly CheckedFlag[], folder: string | undefined, action: string): string[] {
  const isFrozen = flags.some(({ text }) => text === "--frozen" || text === "--frozen=true");
  return flags.map(({ text, name, value, reach }) => {
    if (reach === undefined) return text;
    if (reach === "listen") {
      const address = exactAddress(value) as string;
      const [, hostname = "", port] = /^\[?(.*?)\]?:(\d+)$/.exec(address) ?? [];
      requireNet({ hostname, port: Number(port) }, action);
      return `${name}=${address}`;
    }
    const path = resolve(folder ?? "", value);
    if (reach === "module") {
      const url = moduleUrl(URL.canParse(value) ? value : path);
      requireModule(url, action);
      return `${name}=${url.href}`;
    }
    if (reach !== "write") requirePath("read", path, action);
    // Deno adds to a lock file what it lacks.
    if (reach === "write" || (reach === "lock file" && !isFrozen)) requirePath("write", path, action);
    return `${name}=${path}`;
  });
}

function checkV8Flags(value: string, given: string): void {
  for (const flag of value.split(",")) {
    const [name = "", ...rest] = flag.split("=");
    // V8 reads an underscore as a hyphen.
    if (isOneOf(V8_FLAGS, name.replaceAll("_", "-"), rest.join("="))) continue;
    throw refusal(`must hold flags of V8 that are allowed here (${Object.keys(V8_FLAGS).join(", ")})`, given);
  }
}

function isOneOf(table: Readonly<Record<string, RegExp>>, name: string, value: string): boolean {
  return Object.hasOwn(table, name) && table[name]?.test(value) === true;
}

/** The short flags that are allowed, which can stand together (-qr) if they take no value. */
function longForm(flag: string): string {
  if (/^-[qr]+$/.test(flag)) return flag.includes("r") ? "--reload" : "--quiet";
  const [, letter, value] = /^-([cL])=?(.*)$/s.exec(flag) ?? [];
  if (letter === undefined) return flag.replace(/^--frozen-lockfile(?==|$)/, "--frozen");
  return `${letter === "c" ? "--config" : "--log-level"}=${value}`;
}

function refusal(why: string, flag: string): Error {
  return atCaller(new TypeError(`flags ${why}: received ${quote(flag)}`));
}
