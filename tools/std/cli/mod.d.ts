// Declarations of what this project uses of @std/cli: flags with one value each. The type of what a call returns is the
// real package's: see ../same_types.ts.

type Names = string | undefined;
type Values = Record<string, unknown>;

/** One name, or several. */
type NameList<N extends Names> = N | readonly Extract<N, string>[];

export interface ParseOptions<
  B extends Names = Names,
  S extends Names = Names,
  N extends Names = Names,
  D extends Values | undefined = Values | undefined,
  A extends Values | undefined = Values | undefined,
  Rest extends boolean | undefined = boolean | undefined,
> {
  boolean?: NameList<B>;
  string?: NameList<S>;
  negatable?: NameList<N>;
  default?: D;
  alias?: A;
  "--"?: Rest;
  unknown?: (arg: string, key?: string, value?: unknown) => unknown;
}

/** A boolean is there always, a string if it was given. */
type Given<B extends Names, S extends Names, N extends Names> =
  & { [K in Extract<B, string>]: boolean }
  & { [K in Extract<S, string>]?: K extends N ? string | false : string };

/** A flag with a default is there always. */
type WithDefaults<G, D> = D extends Values ?
    & Omit<G, keyof D>
    & { [K in keyof D]: K extends keyof G ? D[K] | NonNullable<G[K]> : unknown }
  : G;

/** The result has each flag under all of its names. */
type WithAliases<G, A> = { [K in keyof G as K extends keyof A ? K | Extract<A[K], string> : K]: G[K] };

type Simple<T> = { [K in keyof T]: T[K] };

/** Without names of flags nothing is known of them. */
type Flags<B extends Names, S extends Names, N extends Names, D, A> = [B, S] extends [undefined, undefined]
  // deno-lint-ignore no-explicit-any -- as the real one has it
  ? Record<string, any>
  : Values & WithAliases<WithDefaults<Given<B, S, N>, D>, A>;

export function parseArgs<
  B extends Names = undefined,
  S extends Names = undefined,
  N extends Names = undefined,
  D extends Values | undefined = undefined,
  A extends Values | undefined = undefined,
  Rest extends boolean | undefined = undefined,
>(
  args: readonly string[],
  options?: ParseOptions<B, S, N, D, A, Rest>,
): Simple<
  & Flags<B, S, N, D, A>
  & { _: (string | number)[] }
  & (Rest extends true ? { "--": string[] } : unknown)
>;
