/**
 * The declarations of the stand-ins are those of the real packages, in type: a mistake in one of them is an error here
 * when `@std/…` is the real package, as in `deno task ok:jsr`. In the checkout itself it is the stand-in, and this says
 * nothing.
 */

import type * as assert from "@std/assert";
import type * as async from "@std/async";
import * as cli from "@std/cli";
import type * as net from "@std/net";
import type * as ownAssert from "./assert/mod.d.ts";
import type * as ownAsync from "./async/mod.d.ts";
import type * as ownCli from "./cli/mod.d.ts";
import type * as ownNet from "./net/mod.ts";

/** Whether two types are identical, and not just assignable to each other. */
type Same<A, B> = (<T>() => T extends A ? 1 : 2) extends (<T>() => T extends B ? 1 : 2) ? true : false;

/** The names of the second that are missing in the first, or of another type there. */
type Different<Real, Own> = {
  [K in keyof Own]: K extends keyof Real ? Same<Real[K], Own[K]> extends true ? never : K : K;
}[keyof Own];

/** Fails to check if there is one. */
function none<_Names extends never>(): void {}

none<Different<typeof assert, typeof ownAssert>>();
none<Different<typeof async, typeof ownAsync>>();
none<Different<typeof net, typeof ownNet>>();
none<
  Different<
    { delay: async.DelayOptions; deadline: async.DeadlineOptions; port: net.GetAvailablePortOptions },
    { delay: ownAsync.DelayOptions; deadline: ownAsync.DeadlineOptions; port: ownNet.GetAvailablePortOptions }
  >
>();

// The real parseArgs has other type parameters. What counts is the type of its result, for the ways in which it is
// called here. Nothing below runs.
declare const own: typeof ownCli.parseArgs;
declare const args: string[];
declare const names: string[];
declare const values: Record<string, string>;
declare const fixed: { host: string; port: string };
const { parseArgs } = cli;
const unknown = (arg: string, key?: string) => key === undefined || arg === "";

/** Fails to check if the two are not of the same type. */
function same<A, B>(_a: () => A, _b: () => B, _same: Same<A, B>): void {}

same(() => parseArgs(args), () => own(args), true);
same(() => parseArgs(args, { unknown }), () => own(args, { unknown }), true);
same(
  () => parseArgs(args, { string: ["seed", "seeds"] }),
  () => own(args, { string: ["seed", "seeds"] }),
  true,
);
same(
  () => parseArgs(args, { boolean: ["dry-run"] }),
  () => own(args, { boolean: ["dry-run"] }),
  true,
);
same(
  () => parseArgs(args, { string: ["a"], boolean: ["b", "c"], unknown }),
  () => own(args, { string: ["a"], boolean: ["b", "c"], unknown }),
  true,
);
same(
  () => parseArgs(args, { string: ["a", "x"], boolean: ["b"], default: { a: "1" }, unknown }),
  () => own(args, { string: ["a", "x"], boolean: ["b"], default: { a: "1" }, unknown }),
  true,
);
same(
  () => parseArgs(args, { string: ["a"], default: { a: "1", other: "2" } }),
  () => own(args, { string: ["a"], default: { a: "1", other: "2" } }),
  true,
);
same(
  () => parseArgs(args, { string: ["a"], boolean: ["b"], default: { a: "1" }, "--": true }),
  () => own(args, { string: ["a"], boolean: ["b"], default: { a: "1" }, "--": true }),
  true,
);
same(
  () =>
    parseArgs(args, { boolean: ["pin"], negatable: ["pin"], string: ["x"], default: { pin: true }, alias: { h: "p" } }),
  () => own(args, { boolean: ["pin"], negatable: ["pin"], string: ["x"], default: { pin: true }, alias: { h: "p" } }),
  true,
);
same(
  () => parseArgs(args, { string: names, boolean: ["help"], default: values, unknown }),
  () => own(args, { string: names, boolean: ["help"], default: values, unknown }),
  true,
);
same(
  () => parseArgs(args, { string: names, boolean: ["help"], default: fixed, unknown }),
  () => own(args, { string: names, boolean: ["help"], default: fixed, unknown }),
  true,
);
