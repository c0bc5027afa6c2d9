/**
 * This process's variables, read where the C library has them: a variable of
 * the library's own needs no permission, and a program that is started in this
 * one's name gets all, whatever this one may read.
 */

import { cString } from "../internal/c_string.ts";
import { libc } from "../internal/libc.ts";
import { PARENT_VARIABLE } from "./names.ts";

/** Largest value that is read, in bytes: `MAX_ARG_STRLEN` of the kernel. */
const LONGEST = 131_072;
const POINTER = 8;

/** getenv(3). */
export function readVariable(name: string): string | undefined {
  const address = libc.getenv(cString(name));
  return address === 0n ? undefined : textAt(address);
}

/** `environ` of environ(7): all variables, in the form `NAME=value`. */
export function readEnvironment(): string[] {
  const found = libc.dlsym?.(0n, cString("environ")) ?? 0n;
  let at = found === 0n ? 0n : pointerAt(found);
  const variables: string[] = [];
  while (at !== 0n) {
    const text = pointerAt(at);
    if (text === 0n) break;
    variables.push(textAt(text));
    at += BigInt(POINTER);
  }
  return variables;
}

/** This program's variables with more of them, as `NAME=value`, and without what is for this process alone. */
export function environmentWith(more: Record<string, string> = {}): string[] {
  const kept = readEnvironment().filter((variable) => {
    const name = variable.slice(0, variable.indexOf("="));
    return name !== PARENT_VARIABLE && !Object.hasOwn(more, name);
  });
  return [...kept, ...Object.entries(more).map(([name, value]) => `${name}=${value}`)];
}

function pointerAt(address: bigint): bigint {
  const bytes = new Uint8Array(POINTER);
  libc.memcpy_from(bytes, address, POINTER);
  return new DataView(bytes.buffer).getBigUint64(0, true);
}

function textAt(address: bigint): string {
  const bytes = new Uint8Array(libc.strnlen(address, LONGEST));
  libc.memcpy_from(bytes, address, bytes.length);
  return new TextDecoder().decode(bytes);
}
