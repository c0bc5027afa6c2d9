// Declarations of what this project uses of @std/cli.

export interface ParseOptions {
  boolean?: readonly string[];
  string?: readonly string[];
  collect?: readonly string[];
  negatable?: readonly string[];
  default?: Record<string, unknown>;
  alias?: Record<string, string | readonly string[]>;
  "--"?: boolean;
  unknown?: (arg: string, key?: string, value?: unknown) => unknown;
}
// The real signature infers a type per flag; callers here narrow the values
// themselves, which also type-checks against the real one.
export function parseArgs(
  args: readonly string[],
  options?: ParseOptions,
): { [flag: string]: unknown; _: (string | number)[] };
