/** Books over cables that lose, delay, swap and double packets, and over interfaces that go away. */

import { assert, assertEquals, assertGreater, assertLessOrEqual } from "@std/assert";
import { namespaceTest } from "../_namespace.ts";
import type { Totals, UdpTotals } from "./_books.ts";
import { assertBalanced, MODELS } from "./_faults.ts";
import type { Treated } from "./two_hosts.ts";

/** Runs a program in the namespace and returns what it prints as JSON. */
function networkTest<T>(name: string, source: string, check: (result: T) => void): void {
  namespaceTest(name, async ({ run }) => {
    const { code, stdout, stderr } = await run(
      `import { Cable, shell, startServer, throwAt, visit } from "${import.meta.resolve("./two_hosts.ts")}";
       import { delay } from "@std/async";
       ${source}`,
    );
    assertEquals([code, stderr], [0, ""]);
    check(JSON.parse(stdout));
  });
}

/** What a bad cable does to all models, one after the other. */
interface OverCable {
  readonly tcp: Record<string, Totals>;
  readonly udp: Record<string, UdpTotals>;
  readonly treated: Treated;
}

function overCable(treatment: string): string {
  return `
    const cable = await Cable.lay(${treatment});
    const tcp = {}, udp = {};
    await Promise.all(${JSON.stringify(MODELS)}.map(async (model) => {
      await using server = await startServer(model, "10.8.0.1");
      const order = { hostname: "10.8.0.1", port: server.port, size: 1200 };
      [tcp[model], udp[model]] = await Promise.all([
        visit(10, { ...order, messages: 20, pace: 0, window: 8 }),
        throwAt({ ...order, messages: 400, pace: 2, settle: 1_500 }),
      ]);
    }));
    console.log(JSON.stringify({ tcp, udp, treated: await cable.remove() }));`;
}

/** What holds on any cable: TCP has all of it, and no datagram is anything that nobody sent. */
function assertDelivered({ tcp, udp }: OverCable, duplicates: boolean): void {
  for (const model of MODELS) {
    assertBalanced(tcp[model] as Totals);
    const books = udp[model] as UdpTotals;
    assertEquals([books.sent, books.wrong], [400, []]);
    if (!duplicates) assertEquals(books.duplicates, 0);
  }
}

networkTest<OverCable>(
  "a cable that loses 5 % of the packets costs TCP nothing, and datagrams are counted",
  overCable("{ loss: 5 }"),
  (result) => {
    assertDelivered(result, false);
    assertGreater(result.treated.lost, 0);
    const lost = MODELS.reduce((sum, model) => sum + 400 - (result.udp[model]?.received ?? 0), 0);
    // Each datagram crosses the cable twice: 9.75 % of them, give or take what chance and a busy machine do.
    const share = lost / (400 * MODELS.length);
    assert(share > 0.04 && share < 0.2, `${lost} datagrams were lost`);
  },
);

networkTest<OverCable>("a cable of 100 ms loses nothing", overCable("{ delay: 100 }"), (result) => {
  assertDelivered(result, false);
  for (const model of MODELS) assertEquals([model, result.udp[model]?.received], [model, 400]);
});

networkTest<OverCable>(
  "a cable that swaps and doubles packets costs TCP nothing, and datagrams are counted",
  overCable("{ delay: 5, jitter: 20, duplicate: 10 }"),
  (result) => {
    assertDelivered(result, true);
    for (const model of MODELS) {
      const books = result.udp[model] as UdpTotals;
      assertEquals([model, books.received], [model, 400]);
      assertGreater(books.reordered, 0);
      // One is doubled on the way there, its two answers on the way back.
      assertGreater(books.duplicates, 20);
      assertLessOrEqual(books.duplicates, 200);
    }
  },
);

/** Does something to the good cable while books are kept on it by all models. */
function meanwhile(what: string): string {
  return `
    const tcp = {}, udp = {};
    await using stack = new AsyncDisposableStack();
    const servers = await Promise.all(
      ${JSON.stringify(MODELS)}.map(async (model) => stack.use(await startServer(model, "0.0.0.0"))),
    );
    const visits = servers.map(async (server, i) => {
      const model = ${JSON.stringify(MODELS)}[i];
      const order = { hostname: "10.9.0.1", port: server.port, size: 1200 };
      [tcp[model], udp[model]] = await Promise.all([
        visit(10, { ...order, messages: 100, pace: 20, window: 8 }),
        throwAt({ ...order, messages: 1_000, pace: 5 }),
      ]);
    });
    // Until the books are open on the other side.
    while ((await shell("ss -Htn state established 'sport = :" + servers[0].port + "'")).split("\\n").length < 10) await delay(50);
    ${what}
    await Promise.all(visits);
    const again = await Promise.all(servers.map((server) =>
      visit(5, { hostname: "10.9.0.1", port: server.port, size: 1200, messages: 5, pace: 0 })));
    console.log(JSON.stringify({ tcp, udp, again }));`;
}

interface OverInterface extends OverCable {
  readonly again: Totals[];
}

for (
  const [what, script] of [
    [
      "an interface that goes down for a second",
      `await shell("ip link set va down"); await delay(1_000); await shell("ip link set va up");`,
    ],
    [
      "an address that is removed from its interface for a second",
      `await shell("ip addr del 10.9.0.1/24 dev va"); await delay(1_000); await shell("ip addr add 10.9.0.1/24 dev va");`,
    ],
    [
      "a firewall that drops everything for a second",
      `await shell("iptables -I INPUT -i va -j DROP"); await delay(1_000); await shell("iptables -D INPUT -i va -j DROP");`,
    ],
  ] as const
) {
  networkTest<OverInterface>(`${what} breaks no connection and ends no server`, meanwhile(script), (result) => {
    for (const model of MODELS) {
      assertBalanced(result.tcp[model] as Totals);
      const { sent, received, wrong } = result.udp[model] as UdpTotals;
      assertEquals(wrong, []);
      assert(received < sent, `${received} of ${sent} datagrams have come, though there was a second without any`);
      assertGreater(received, 0);
    }
    for (const totals of result.again) assertBalanced(totals);
  });
}
