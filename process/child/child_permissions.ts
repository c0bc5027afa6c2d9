/** What a child may do: never more than its parent, and less if it is told so. */

import { resolve } from "node:path/posix";
import { isText } from "../../internal/c_string.ts";
import { loadedLibc } from "../../internal/libc.ts";
import { atCaller } from "../../internal/stack.ts";
import { checkOptions, quote } from "../../internal/validate.ts";
import type { ChildPermissions, SpawnOptions } from "./child.ts";
import { denialFlags } from "./launch_flags.ts";
import { giveItem, hasWhole, isGranted, type Kind, KINDS } from "./permission_items.ts";
import { checkItem } from "./permission_syntax.ts";

/** The kinds whose items are paths. */
const PATHS: readonly Kind[] = ["ffi", "read", "write"];

/**
 * From where a program may import without a flag: what Deno's `--allow-import` has by default. A child that is not told
 * otherwise has the same, but what this program is denied of it.
 */
const DEFAULT_IMPORTS = [
  "deno.land:443",
  "jsr.io:443",
  "esm.sh:443",
  "raw.esm.sh:443",
  "cdn.jsdelivr.net:443",
  "raw.githubusercontent.com:443",
  "gist.githubusercontent.com:443",
];

/** Checks the option for a kind of child, and returns a copy, which stays as it was checked. */
export function checkPermissions(
  value: unknown,
  child: "worker" | "process",
): NonNullable<SpawnOptions["permissions"]> {
  if (value === undefined || value === "inherit") return "inherit";
  if (value === "none") return value;
  if (typeof value === "string") {
    throw atCaller(new TypeError(`permissions must be "inherit", "none" or an object, received ${quote(value)}`));
  }
  checkOptions(value, "permissions");
  const checked: ChildPermissions = {};
  for (const [name, what] of Object.entries(value as Record<string, unknown>)) {
    const kind = KINDS.find((kind) => kind === name);
    if (kind === undefined) {
      throw atCaller(new TypeError(`permissions must name ${KINDS.join(", ")}, received ${quote(name)}`));
    }
    if (what === undefined) continue;
    const list = Array.isArray(what) ? [...what] : undefined;
    if (list?.every((item): item is string => isText(item) && item !== "")) {
      for (const item of list) checkItem(kind, item, child);
      checked[kind] = list;
    } else if (typeof what === "boolean" || what === "inherit") checked[kind] = what;
    else {throw atCaller(
        new TypeError(`permissions.${kind} must be a boolean, "inherit" or strings, received ${quote(what)}`),
      );}
  }
  return checked;
}

/**
 * The flags of `deno run` for a process.
 *
 * @param permissions What {@linkcode checkPermissions} has returned.
 * @param action What is attempted.
 * @throws {Deno.errors.NotCapable} If this program may not do as much itself.
 */
export function permissionFlags(permissions: NonNullable<SpawnOptions["permissions"]>, action: string): string[] {
  return KINDS.flatMap((kind) => {
    const what = permissions === "inherit" ? "inherit" : permissions === "none" ? undefined : permissions[kind];
    const flags = flagsOf(kind, what, action);
    return kind === "import" && flags.length === 0 ? defaultImports() : flags;
  });
}

function flagsOf(kind: Kind, what: ChildPermissions[Kind], action: string): string[] {
  if (what === undefined || what === false) return [];
  if (what === "inherit") return inherited(kind);
  if (what === true) {
    // Without knowing what --deny flags leave out, all would be more than this program has.
    if (hasWhole(kind)) return [`--allow-${kind}`];
    throw refusal(kind, undefined, "which this program has not", action);
  }
  if (what.length === 0) return [];
  const denials = new Set<string>();
  const isWhole = hasWhole(kind);
  const items = what.map((item) => {
    // A relative path is this program's, wherever the child's current folder is.
    if (isWhole) return PATHS.includes(kind) ? resolve(item) : item;
    if (kind === "import" && DEFAULT_IMPORTS.includes(item) && isGranted(kind, item)) return item;
    const given = giveItem(kind, item);
    if ("refusal" in given) throw refusal(kind, item, given.refusal, action);
    for (const flag of given.denials ?? []) denials.add(flag);
    return given.item;
  });
  const bent = items.find((item) => item.includes(","));
  if (bent !== undefined) throw refusal(kind, bent, "whose path holds a comma", action);
  return [`--allow-${kind}=${items.join(",")}`, ...merged(kind, denials)];
}

/** Deno takes a flag once. */
function merged(kind: Kind, flags: ReadonlySet<string>): string[] {
  if (flags.size === 0) return [];
  const lists = [...flags].map((flag) => flag.slice(`--deny-${kind}=`.length));
  return [lists.includes("") ? `--deny-${kind}` : `--deny-${kind}=${lists.join(",")}`];
}

function defaultImports(): string[] {
  const granted = DEFAULT_IMPORTS.filter((host) => isGranted("import", host));
  const denials = merged("import", new Set(denialFlags("import") ?? []));
  return granted.length === 0 ? ["--deny-import"] : [`--allow-import=${granted.join(",")}`, ...denials];
}

/**
 * What can be handed on of a kind. Deno tells whether something is granted,
 * not what all is: a kind that is granted in part is not handed on, except for
 * the C library, whose path is known.
 */
function inherited(kind: Kind): string[] {
  if (hasWhole(kind)) return [`--allow-${kind}`];
  const path = kind === "ffi" ? loadedLibc() : undefined;
  return path !== undefined && path.startsWith("/") ? [`--allow-ffi=${path}`] : [];
}

function refusal(kind: Kind, item: string | undefined, why: string, action: string): Error {
  const what = item === undefined ? kind : `${kind} access to ${quote(item)}`;
  return atCaller(
    new Deno.errors.NotCapable(
      `Cannot ${action}: the child would get ${what}, ${why}, run again with the --allow-${kind} flag`,
    ),
  );
}
