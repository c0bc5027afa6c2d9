/**
 * What a child may be given of a permission that this program has in part. That
 * Deno says "granted" to a text is not enough: a name resolves to addresses,
 * and a host without a port, a pattern or a range holds others, of which some
 * may be denied, and Deno does not tell which. So an item is given only if it
 * stands for itself, or if what this program is denied goes along.
 */

import { resolve } from "node:path/posix";
import { formatIPv4, formatIPv6, hostKind, parseIPv4, parseIPv6 } from "../../internal/address.ts";
import { cString } from "../../internal/c_string.ts";
import { libc } from "../../internal/libc.ts";
import { readEnvironment } from "../../internal/environment.ts";
import { denialFlags } from "./launch_flags.ts";
import { findProgram } from "../program/program_file.ts";

/** The kinds of permissions. */
export const KINDS = ["env", "ffi", "import", "net", "read", "run", "sys", "write"] as const;

/** A kind of permission. */
export type Kind = typeof KINDS[number];

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

/** `PATH_MAX` of limits.h. */
const PATH_MAX = 4096;

const decoder = new TextDecoder();

/** What a child is given instead of an item, or why it is not. */
export type Given = { readonly item: string; readonly denials?: readonly string[] } | { readonly refusal: string };

const LACKS = "which this program has not";

/** Returns whether this program has all of a kind: then there is nothing that could be denied. */
export function hasWhole(kind: Kind): boolean {
  const { state, partial } = query(kind);
  return state === "granted" && !partial;
}

/** Returns whether Deno grants an item, and denies nothing inside it that it can tell. */
export function isGranted(kind: Kind, item: string): boolean {
  try {
    const { state, partial } = query(kind, item);
    return state === "granted" && !partial;
  } catch {
    return false; // Deno cannot read it
  }
}

/** Returns what a child is given for an item of a list, where this program does not have all of the kind. */
export function giveItem(kind: Kind, item: string): Given {
  switch (kind) {
    case "net":
    case "import":
      return giveHost(kind, item);
    case "read":
    case "write":
    case "ffi":
      return givePath(kind, resolve(item));
    case "run":
      return giveProgram(item);
    case "env":
      // A pattern holds variables that are denied.
      return item.includes("*") || !isGranted(kind, item) ? { refusal: LACKS } : { item };
    case "sys":
      return isGranted(kind, item) ? { item } : { refusal: LACKS };
  }
}

/** An address with a port stands for itself, a path as well; all else for what this program may not reach. */
function giveHost(kind: "net" | "import", item: string): Given {
  const socket = kind === "net" ? /^unix:(\/.*)$/s.exec(item)?.[1] : undefined;
  if (socket !== undefined) return givePath("net", resolve(socket), "unix:");
  const exact = exactAddress(item);
  if (exact !== undefined) return isGranted(kind, exact) ? { item: exact } : { refusal: LACKS };
  if (!isGranted(kind, item)) return { refusal: LACKS };
  const denials = isHost(item) ? denialFlags(kind) : undefined;
  if (denials !== undefined) return { item, denials };
  return { refusal: "of which this program may be denied some: name an address with its port, such as 192.0.2.1:80" };
}

/** An address with its port, as Deno writes it; `undefined` if `text` is anything else. */
export function exactAddress(text: string): string | undefined {
  const [, hostname, bracketed, port] = /^(?:([^[\]:]+)|\[([^[\]]+)\]):(\d{1,5})$/.exec(text) ?? [];
  if (port === undefined || Number(port) > 65535) return undefined;
  const ipv4 = hostname === undefined ? undefined : parseIPv4(hostname);
  if (ipv4 !== undefined) return `${formatIPv4(ipv4)}:${Number(port)}`;
  const ipv6 = bracketed === undefined ? undefined : parseIPv6(bracketed);
  if (ipv6 === undefined) return undefined;
  const written = formatIPv6(ipv6);
  // Deno takes a v4-mapped address for the IPv4 address.
  const mapped = /^::ffff:([\d.]+)$/.exec(written)?.[1];
  return `${mapped ?? `[${written}]`}:${Number(port)}`;
}

/** Whether it is a host, with or without a port, and neither a range nor a pattern nor a number in disguise. */
function isHost(text: string): boolean {
  const [, hostname = "", bracketed] = /^(?:([^[\]:]+)|\[([^[\]]+)\])(?::\d{1,5})?$/.exec(text) ?? [];
  if (bracketed !== undefined) return parseIPv6(bracketed) !== undefined;
  if (hostKind(hostname) === "IPv4") return true;
  // A resolver takes 127.1 and 0x7f.1 for addresses.
  return hostKind(hostname) === "name" && !/(^|\.)(0x[0-9a-f]*|\d+)\.?$/i.test(hostname);
}

/** A path, and what it leads to: Deno grants the one, and may deny the other. */
function givePath(kind: "read" | "write" | "ffi" | "run" | "net", path: string, scheme = ""): Given {
  const item = `${scheme}${path}`;
  if (!isGranted(kind, item)) return { refusal: LACKS };
  const real = realPath(path);
  if (real === path) return { item };
  const { state, partial } = query(kind, `${scheme}${real}`);
  const isDenied = state === "denied" || partial;
  return isDenied ? { refusal: `which leads to "${real}", where this program is denied something` } : { item };
}

/** A program by the path that its name means here: the child's `PATH` can be a different one. */
function giveProgram(command: string): Given {
  try {
    return givePath("run", findProgram(command, undefined, readEnvironment(), "find a program"));
  } catch {
    return { refusal: "which there is not, or this program may not run" };
  }
}

function query(kind: Kind, of?: string): Deno.PermissionStatus {
  const descriptor = of === undefined ? { name: kind } : { name: kind, [FIELDS[kind]]: of };
  return Deno.permissions.querySync(descriptor as Deno.PermissionDescriptor);
}

/** Links that are followed, as by the kernel. */
const MOST_LINKS = 40;

/** realpath(3), also of what is not there, or is behind a link to what is not there. */
function realPath(path: string, links = 0): string {
  const text = new Uint8Array(PATH_MAX);
  if (libc.realpath(cString(path), text) !== null) return decoder.decode(text.subarray(0, text.indexOf(0)));
  const slash = path.lastIndexOf("/");
  if (slash < 0 || path === "/" || links > MOST_LINKS) return path;
  const folder = realPath(path.slice(0, slash) || "/", links);
  const here = resolve(folder, path.slice(slash + 1));
  const n = libc.readlink(cString(here), text, text.length);
  return n < 0 ? here : realPath(resolve(folder, decoder.decode(text.subarray(0, n))), links + 1);
}
