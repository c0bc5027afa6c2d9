/** Programs that go on when the kernel refuses: `reported_faults.ts`, in a process whose C library has faults. */

import { assert, assertEquals } from "@std/assert";
import { ENGINES } from "../_util.ts";
import { SEED, seeds } from "./_options.ts";
import { testUnderFaults } from "./_process.ts";

/** Rounds for each seed: so many that also the rarest fault below is given. */
const ROUNDS = 150;

Deno.test({
  name: `calls that fail say so, have done nothing, and leave nothing behind, seeds from ${SEED}`,
  ignore: !ENGINES.includes("native"),
  async fn() {
    const rounds = ROUNDS * seeds(1).length;
    const plan = { seed: SEED, unnoticed: 0, reported: 0 };
    const args = ["--seed", String(SEED), "--seeds", String(rounds)];
    const { code, stdout, stderr, given } = await testUnderFaults(["tests/faults/reported_faults.ts"], /./, plan, args);
    assertEquals(code, 0, `under seeds from ${SEED}: ${stdout}\n${stderr}`);
    assert(stdout.includes(`ok | ${rounds + 1} passed`), stdout);
    for (const fault of ["recv ENOMEM", "send EPIPE", "epoll_ctl ENOMEM", "socket EMFILE", "connect ENOBUFS"]) {
      assert((given.get(fault) ?? 0) > 0, `${fault} was not given`);
    }
  },
});
