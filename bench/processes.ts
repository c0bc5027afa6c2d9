/** The processes that the benchmark has started, so that none outlives it. */

/** A row that cannot be measured; the message is the reason. */
export class Unavailable extends Error {}

const running = new Set<Deno.ChildProcess>();

/** Starts a process that {@linkcode stopAll} ends. */
export function start(
  command: readonly string[],
  options: Omit<Deno.CommandOptions, "args">,
): Deno.ChildProcess {
  const [program, ...args] = command;
  if (program === undefined) throw new TypeError("Cannot run an empty command");
  const child = new Deno.Command(program, { ...options, args }).spawn();
  running.add(child);
  child.status.finally(() => running.delete(child));
  return child;
}

/** Ends one process: politely, then for certain. */
export async function stop(child: Deno.ChildProcess): Promise<void> {
  if (!running.has(child)) return;
  signal(child, "SIGTERM");
  const timer = setTimeout(() => signal(child, "SIGKILL"), 2000);
  await child.status;
  clearTimeout(timer);
}

/** Ends all processes at once, for an exit that waits for nothing. */
export function stopAll(): void {
  for (const child of running) signal(child, "SIGKILL");
}

function signal(child: Deno.ChildProcess, name: Deno.Signal): void {
  try {
    child.kill(name);
  } catch {
    // It has ended by itself in the meantime.
  }
}

/** What a command prints; {@linkcode Unavailable} with its error if it fails. */
export async function capture(
  command: readonly string[],
  timeout: number,
): Promise<string> {
  let child: Deno.ChildProcess;
  try {
    child = start(command, {
      stdin: "null",
      stdout: "piped",
      stderr: "piped",
      env: { NO_COLOR: "1" },
    });
  } catch (error) {
    if (!(error instanceof Deno.errors.NotFound)) throw error;
    throw new Unavailable(`no ${command[0]} on this machine`);
  }
  let late = false;
  const timer = setTimeout(() => {
    late = true;
    signal(child, "SIGKILL");
  }, timeout);
  const { success, stdout, stderr } = await child.output();
  clearTimeout(timer);
  if (success) return new TextDecoder().decode(stdout).trim();
  throw new Unavailable(
    late
      ? `${command[0]} did not end in ${timeout / 1000} s`
      : reason(new TextDecoder().decode(stderr), `${command[0]} failed`),
  );
}

/** The line of a program's error output that says what went wrong. */
export function reason(stderr: string, otherwise: string): string {
  const lines = stderr.split("\n").map((line) => line.trim())
    .filter((line) => line !== "");
  const line = lines.find((line) => /\berror\b/i.test(line)) ?? lines[0];
  return line?.replace(/^error:\s*/i, "") ?? otherwise;
}
