/** What a child may do: never more than its parent, and less if it is told so. */

import { loadedLibc } from "../internal/libc.ts";
import { atCaller } from "../internal/stack.ts";
import { checkOptions, quote } from "../internal/validate.ts";
import type { ChildPermissions, SpawnOptions } from "./child.ts";

const KINDS = ["env", "ffi", "import", "net", "read", "run", "sys", "write"] as const;

type Kind = typeof KINDS[number];

/** How a query names what a list of a kind holds. */
const FIELDS = {
  env: "variable",
  ffi: "path",
  import: "host",
  net: "host",
  read: "path",
  run: "command",
  sys: "kind",
  write: "path",
} as const satisfies Record<Kind, string>;

function state(kind: Kind, of?: string): Deno.PermissionStatus {
  const descriptor = of === undefined ? { name: kind } : { name: kind, [FIELDS[kind]]: of };
  return Deno.permissions.querySync(descriptor as Deno.PermissionDescriptor);
}

/** Checks the option's types. */
export function checkPermissions(value: unknown): NonNullable<SpawnOptions["permissions"]> {
  if (value === undefined || value === "inherit") return "inherit";
  if (value === "none") return value;
  if (typeof value === "string") {
    throw atCaller(new TypeError(`permissions must be "inherit", "none" or an object, received ${quote(value)}`));
  }
  checkOptions(value, "permissions");
  for (const [kind, what] of Object.entries(value as object)) {
    if (!(KINDS as readonly string[]).includes(kind)) {
      throw atCaller(new TypeError(`permissions must name ${KINDS.join(", ")}, received ${quote(kind)}`));
    }
    const isList = Array.isArray(what) && what.every((item) => typeof item === "string" && item !== "");
    if (what !== undefined && typeof what !== "boolean" && what !== "inherit" && !isList) {
      throw atCaller(
        new TypeError(`permissions.${kind} must be a boolean, "inherit" or strings, received ${quote(what)}`),
      );
    }
  }
  return value as ChildPermissions;
}

/**
 * The flags of `deno run` for a process.
 *
 * @throws {Deno.errors.NotCapable} If this program may not do as much itself.
 */
export function permissionFlags(permissions: NonNullable<SpawnOptions["permissions"]>, action: string): string[] {
  if (permissions === "none") return [];
  return KINDS.flatMap((kind) => {
    const what = permissions === "inherit" ? "inherit" : permissions[kind];
    if (what === undefined || what === false) return [];
    if (what === "inherit") return inherited(kind);
    if (what === true) {
      // Without knowing what --deny flags leave out, all would be more than this program has.
      const { state: granted, partial } = state(kind);
      if (granted !== "granted" || partial) throw refusal(kind, undefined, action);
      return [`--allow-${kind}`];
    }
    // A comma would begin another item.
    const bad = what.find((item) => item.includes(","));
    if (bad !== undefined) {
      throw atCaller(new TypeError(`permissions.${kind} must not hold a comma, received ${quote(bad)}`));
    }
    const whole = state(kind);
    const hasAll = whole.state === "granted" && !whole.partial;
    // A relative path is this program's, wherever the child's current folder is.
    const items = what.map((item) => isPath(kind) && !item.startsWith("/") ? `${Deno.cwd()}/${item}` : item);
    for (const [i, item] of items.entries()) {
      if (!hasAll && !mayHave(kind, item)) throw refusal(kind, what[i], action);
    }
    return items.length === 0 ? [] : [`--allow-${kind}=${items.join(",")}`];
  });
}

function isPath(kind: Kind): boolean {
  return FIELDS[kind] === "path";
}

/** Whether this program has an item of a list itself, with all that it stands for. */
function mayHave(kind: Kind, item: string): boolean {
  // A pattern may stand for what a --deny flag leaves out, which Deno does not tell.
  if (item.includes("*")) return false;
  const { state: granted, partial } = state(kind, item);
  return granted === "granted" && !partial;
}

/**
 * What can be handed on of a kind. Deno tells whether something is granted,
 * not what all is: a kind that is granted in part is not handed on, except for
 * the C library, whose path is known.
 */
function inherited(kind: Kind): string[] {
  const { state: granted, partial } = state(kind);
  if (granted === "granted" && !partial) return [`--allow-${kind}`];
  const path = kind === "ffi" ? loadedLibc() : undefined;
  return path !== undefined && path.startsWith("/") ? [`--allow-ffi=${path}`] : [];
}

function refusal(kind: Kind, item: string | undefined, action: string): Error {
  const what = item === undefined ? kind : `${kind} access to ${quote(item)}`;
  return atCaller(
    new Deno.errors.NotCapable(
      `Cannot ${action}: the child would get ${what}, which this program has not, run again with the --allow-${kind} flag`,
    ),
  );
}
