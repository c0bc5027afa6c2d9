/** Network namespaces that a test makes for itself; they go away with its processes. */

import { decode, type Finished, hasCommand, ROOT, run as runDeno } from "./_util.ts";

/**
 * Two hosts on one cable: this side has `10.9.0.1` and `fd09::1` on `va`, the
 * other side, the namespace `peer`, `10.9.0.2` and `fd09::2` on `vb`. Packets
 * to `10.9.0.3` and `fd09::3` are sent and never answered.
 */
const CABLE = `
  set -e
  mount -t tmpfs none /run
  mkdir -p /run/netns
  ip netns add peer
  ip link add va type veth peer name vb netns peer
  ip link set lo up
  ip addr add 10.9.0.1/24 dev va
  ip -6 addr add fd09::1/64 dev va nodad
  ip link set va up
  ip -n peer link set lo up
  ip -n peer addr add 10.9.0.2/24 dev vb
  ip -n peer -6 addr add fd09::2/64 dev vb nodad
  ip -n peer link set vb up
  ip neigh add 10.9.0.3 lladdr 02:00:00:00:00:03 dev va
  ip -6 neigh add fd09::3 lladdr 02:00:00:00:00:03 dev va
`;

async function inNamespace(script: string, ...args: string[]): Promise<Finished> {
  const { code, stdout, stderr } = await new Deno.Command("unshare", {
    args: ["--net", "--mount", "sh", "-c", CABLE + script, "sh", ...args],
    cwd: ROOT,
    env: { NO_COLOR: "1" },
    stdin: "null",
  }).output();
  return { code, stdout: decode(stdout), stderr: decode(stderr) };
}

/** Why namespaces cannot be made here; `undefined` if they can. */
async function obstacle(): Promise<string | undefined> {
  if (Deno.build.os !== "linux") return "Linux only";
  const missing = ["unshare", "ip", "mount"].filter((command) => !hasCommand(command));
  if (missing.length > 0) return `missing: ${missing.join(", ")}`;
  const { code, stderr } = await inNamespace("true");
  return code === 0 ? undefined : stderr.trim().split("\n").at(-1) ?? "unshare failed";
}

const reason = await obstacle();

/** What a test in namespaces can do. */
export interface Namespace {
  /** Runs a Deno program from text on this side, in the shell script's last line `"$@"`. */
  run(source: string, script?: string): Promise<Finished>;
}

/**
 * Declares a test that runs programs on two hosts joined by a cable. Without
 * the privilege it is ignored, with the reason in its name; with `CI=true` it fails.
 */
export function namespaceTest(name: string, fn: (namespace: Namespace) => Promise<void>): void {
  Deno.test({
    name: reason === undefined ? `${name} (in network namespaces)` : `${name} (no network namespaces: ${reason})`,
    ignore: reason !== undefined && Deno.env.get("CI") !== "true",
    async fn() {
      if (reason !== undefined) throw new Error(`Cannot make network namespaces: ${reason}`);
      await fn({ run });
    },
  });
}

async function run(source: string, script = `"$@"`): Promise<Finished> {
  const file = await Deno.makeTempFile({ suffix: ".ts" });
  try {
    await Deno.writeTextFile(file, source);
    // As the lock has it: a cache that was filled by it has no versions to choose from.
    const flags = ["--config", new URL("deno.json", ROOT).pathname, "--frozen"];
    // There is no network in the namespace. What the program imports is here before that, whatever the cache held.
    const cached = await runDeno(["cache", "--quiet", ...flags, file]);
    if (cached.code !== 0) return cached;
    return await inNamespace(
      script,
      Deno.execPath(),
      "run",
      "--allow-all",
      "--no-prompt",
      "--cached-only",
      ...flags,
      file,
    );
  } finally {
    await Deno.remove(file);
  }
}
