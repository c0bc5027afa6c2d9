/**
 * This process's variables, read where the C library has them: a variable of
 * the library's own needs no permission, and a program that is started in this
 * one's name gets all, whatever this one may read.
 */

import { O_CLOEXEC } from "./constants.ts";
import { cString } from "./c_string.ts";
import { libc } from "./libc.ts";
import { PARENT_VARIABLE } from "./parent_channel.ts";

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
  if (found === 0n) return initialEnvironment();
  let at = pointerAt(found);
  const variables: string[] = [];
  while (at !== 0n) {
    const text = pointerAt(at);
    if (text === 0n) break;
    variables.push(textAt(text));
    at += BigInt(POINTER);
  }
  return variables;
}

/**
 * The variables that this process was started with, as they are now: glibc before 2.34 has dlsym(3) in a library of its
 * own. What was set since is not among them.
 */
export function initialEnvironment(): string[] {
  const fd = libc.open(cString("/proc/self/environ"), O_CLOEXEC, 0);
  if (fd < 0) return [];
  const decoder = new TextDecoder("utf-8", { ignoreBOM: true });
  const chunk = new Uint8Array(65_536);
  let text = "";
  for (let n = libc.read(fd, chunk, chunk.length); n > 0; n = libc.read(fd, chunk, chunk.length)) {
    text += decoder.decode(chunk.subarray(0, n), { stream: true });
  }
  libc.close(fd);
  return text.split("\0").flatMap((variable) => {
    const name = variable.slice(0, Math.max(variable.indexOf("="), 0));
    const value = name === "" ? undefined : readVariable(name);
    return value === undefined ? [] : `${name}=${value}`;
  });
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
  return new TextDecoder("utf-8", { ignoreBOM: true }).decode(bytes);
}
