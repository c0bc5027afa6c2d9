/** Compiles the C programs, once as long as their sources stay the same. */

import { capture, start, Unavailable } from "./processes.ts";

const SOURCES = `${import.meta.dirname}/c`;
const BUILD = `${import.meta.dirname}/.build`;
const FLAGS = ["-O2", "-Wall", "-Wextra"];

const LOAD = [
  "load.c",
  "conn.c",
  "histogram.c",
  "window.c",
  "echo.c",
  "churn.c",
  "idle.c",
  "udp.c",
  "flood.c",
];

/** The load generator's path. */
export function buildLoad(): Promise<string> {
  return build("load", LOAD, ["load.h"]);
}

/** The path of the server that others are compared with. */
export function buildYardstick(): Promise<string> {
  return build("epoll_echo", ["epoll_echo.c"], []);
}

/** The path of the UDP server that others are compared with. */
export function buildUdpYardstick(): Promise<string> {
  return build("udp_echo", ["udp_echo.c"], []);
}

/** The compiler's own name for itself. */
export async function compiler(): Promise<string> {
  return (await capture(["cc", "--version"], 5000)).split("\n")[0] ?? "";
}

async function build(
  name: string,
  sources: readonly string[],
  headers: readonly string[],
): Promise<string> {
  if (Deno.build.os !== "linux") throw new Unavailable("needs Linux (epoll)");
  const target = `${BUILD}/${name}`;
  if (isFresh(target, [...sources, ...headers])) return target;
  Deno.mkdirSync(BUILD, { recursive: true });
  // Built aside and renamed: a run that is cut short leaves no half program.
  const draft = `${target}.${Deno.pid}`;
  const files = sources.map((file) => `${SOURCES}/${file}`);
  await run(["cc", ...FLAGS, "-o", draft, ...files]);
  Deno.renameSync(draft, target);
  return target;
}

async function run(command: readonly string[]): Promise<void> {
  let child: Deno.ChildProcess;
  try {
    child = start(command, { stdin: "null", stderr: "inherit" });
  } catch (error) {
    if (!(error instanceof Deno.errors.NotFound)) throw error;
    throw new Unavailable(
      "no C compiler: install one (Debian: apt install gcc libc6-dev)",
    );
  }
  const { success } = await child.status;
  if (!success) throw new Unavailable("cc failed, see its messages above");
}

function isFresh(target: string, sources: readonly string[]): boolean {
  try {
    const built = modified(target);
    return sources.every((file) => modified(`${SOURCES}/${file}`) < built);
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return false;
    throw error;
  }
}

function modified(path: string): number {
  return Deno.statSync(path).mtime?.getTime() ?? 0;
}
