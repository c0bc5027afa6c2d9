/** Tests whose programs could live on what a cache happens to hold pass with an empty one, and with no home. */

import { assertEquals } from "@std/assert";
import { decode, ROOT } from "../_util.ts";

Deno.test({
  name: "tests of programs in a namespace, and of those that systemd starts, pass with an empty cache and home",
  ignore: Deno.build.os !== "linux",
  async fn() {
    const [cache, home] = [await Deno.makeTempDir(), await Deno.makeTempDir()];
    try {
      const filter = "/random batches cross|systemd has opened/";
      const files = ["tests/udp_hosts_test.ts", "tests/listen_fds_test.ts"];
      const { code, stdout, stderr } = await new Deno.Command(Deno.execPath(), {
        args: ["test", "--quiet", "--no-check", "--allow-all", "--filter", filter, ...files],
        cwd: ROOT,
        env: { NO_COLOR: "1", DENO_DIR: cache, HOME: home },
        stdin: "null",
      }).output();
      assertEquals(code, 0, decode(stdout) + decode(stderr));
    } finally {
      await Deno.remove(cache, { recursive: true });
      await Deno.remove(home, { recursive: true });
    }
  },
});
