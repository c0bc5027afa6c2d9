/**
 * Variables of the environment that say to Deno what its flags say. What a child may do is said in one place only, where
 * it is checked.
 */

import { readVariable } from "../../internal/environment.ts";
import { atCaller } from "../../internal/stack.ts";

/** Those that grant nothing, run nothing, and name no file and no address. */
const HARMLESS: ReadonlySet<string> = new Set([
  ...["DENO_AUTH_TOKENS", "DENO_CONDITIONS", "DENO_NO_PACKAGE_JSON", "DENO_NO_PROMPT", "DENO_NO_UPDATE_CHECK"],
  ...["DENO_TLS_CA_STORE", "DENO_TRACE_PERMISSIONS"],
]);

/** Those without Deno's name: flags, telemetry, and files that Deno reads or writes. */
const OTHERS: ReadonlySet<string> = new Set([
  ...["NODE_EXTRA_CA_CERTS", "NODE_OPTIONS", "NPM_CONFIG_REGISTRY", "OTEL_DENO", "SSLKEYLOGFILE", "XDG_CACHE_HOME"],
]);

/**
 * Checks the variables that a process gets in addition. One that this program has with the same value changes nothing.
 *
 * @throws {TypeError} If one of them would decide what Deno does there.
 */
export function checkVariables(env: Readonly<Record<string, string>>): void {
  for (const [name, value] of Object.entries(env)) {
    const isDenos = OTHERS.has(name) || (name.startsWith("DENO_") && !HARMLESS.has(name));
    if (!isDenos || readVariable(name) === value) continue;
    const use = name === "DENO_PERMISSION_BROKER_PATH" ? "permissions" : "flags";
    throw atCaller(new TypeError(`env must not hold ${name}, use ${use}`));
  }
}
