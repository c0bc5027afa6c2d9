/** `examples/chat.ts` on every backend, with nc and with clients that do not read, break lines anywhere, or vanish. */

import { type Backend, Multiplexer } from "@c10k/sockets/mux";
import { TcpConn } from "@c10k/sockets/tcp";
import { assert, assertEquals, assertLess, assertMatch, assertStringIncludes } from "@std/assert";
import { Program } from "./_program.ts";
import { clientTest, encode, eventually, readText, run, ServerProcess, some, withoutLeaks } from "./_util.ts";

const EXAMPLE = "examples/chat.ts";
const NC = "nc.openbsd";

/** Starts the example with no more permissions than the backend needs. */
function start(backend: Backend): Promise<ServerProcess> {
  const permissions = backend === "runtime" ? ["--allow-net"] : ["--allow-net", "--allow-ffi"];
  return ServerProcess.start([...permissions, EXAMPLE, "--port", "0", "--backend", backend]);
}

/** Somebody at a terminal, who has been welcomed. */
async function join(server: ServerProcess, nick?: string): Promise<Program> {
  const nc = new Program(NC, ["127.0.0.1", String(server.port)]);
  await nc.until(/\* in lobby: .*\n/);
  if (nick !== undefined) await nc.say(`/nick ${nick}\n`);
  if (nick !== undefined) await nc.until(new RegExp(` is ${nick} now\n`));
  return nc;
}

for (const backend of some(2, Multiplexer.backends())) {
  clientTest([NC], `[${backend}] chat example lets people talk in rooms`, async () => {
    await using server = await start(backend);
    await using ann = await join(server, "ann");
    await using bob = await join(server, "bob");
    await ann.until(/\* bob is here|\* guest2 is bob now/);

    // A line in pieces, within a character as well, and several lines in one piece.
    await ann.say("hel");
    await ann.say("lo bob\nhow are you?\n\n  \n");
    await bob.until(/^ann: hello bob\nann: how are you\?\n/m);
    await bob.say("fine, grüße 👋\n");
    await ann.until(/^bob: fine, grüße 👋\n/m);
    assertEquals(ann.stdout.includes("ann: hello"), false, "what one says does not come back");

    await bob.say("/join ann\x1b[31m room\n/nick ann\n/nick a b\n/join kitchen\n/rooms\n");
    await bob.until(/\* ann is taken\n.*\n\* in kitchen: bob\n\* lobby \(1\), kitchen \(1\)\n/s);
    await ann.until(/\* bob goes to kitchen\n/);
    await ann.say("anybody?\n/join kitchen\nhere you are\n/who\n");
    await bob.until(/\* ann is here\nann: here you are\n/);
    await ann.until(/\* in kitchen: ann, bob\n$/);
    assertEquals(bob.stdout.includes("anybody"), false, "what is said in another room");

    await bob.say("\x1b[2J\x07beep\n/quit\nnot said any more\n");
    await ann.until(/^bob: \[2Jbeep\n\* bob leaves\n/m);
    assertEquals(await bob.ended(), 0);
    assert(bob.stdout.endsWith("* goodbye\n"), bob.stdout);
    assertEquals(ann.stdout.includes("not said"), false);
    assertEquals(server.stderr.join(""), "");
  });

  clientTest([NC], `[${backend}] chat example says a long line in pieces, and a last line without an end`, async () => {
    await using server = await start(backend);
    await using ann = await join(server, "ann");
    await using bob = new Program(NC, ["-N", "127.0.0.1", String(server.port)]);
    await bob.until(/in lobby/);
    await bob.say("x".repeat(2500) + "\nthe end");
    await bob.endInput();
    await ann.until(/^guest2: x{1024}\nguest2: x{1024}\nguest2: x{452}\nguest2: the end\n\* guest2 leaves\n/m);
    assertEquals(await bob.ended(), 0);
  });

  clientTest([NC], `[${backend}] chat example notices who vanishes, and tells all at the end`, async () => {
    await using server = await start(backend);
    await using ann = await join(server, "ann");
    await using bob = await join(server, "bob");
    await bob.stop("SIGKILL");
    await ann.until(/\* bob (leaves|is gone)\n/);
    await using eve = await join(server, "bob"); // the name is free again
    const stopping = server.stop("SIGTERM");
    for (const one of [ann, eve]) {
      await one.until(/\* the server stops\n$/);
      await one.endInput();
    }
    assertEquals(await stopping, 0);
    assertEquals([await ann.ended(), await eve.ended()], [0, 0]);
  });

  // Megabytes have to be said until the kernel's buffers are full: poll and select, which differ in nothing here, go without.
  if (backend === "poll" || backend === "select") continue;
  clientTest(
    [NC],
    `[${backend}] chat example drops who does not read, with a notice, and nobody else`,
    () =>
      withoutLeaks(async () => {
        await using server = await start(backend);
        await using ann = await join(server, "ann");
        const engine = backend === "runtime" ? "runtime" : "native";
        using deaf = await TcpConn.connect({ port: server.port, engine });
        await deaf.writeAll(encode("/nick deaf\n"));
        await ann.until(/ is deaf now\n/);
        const before = Deno.build.os === "linux" ? server.rss() : 0;

        // Says some lines and waits until another has heard them, until there is something else to hear.
        using talker = await TcpConn.connect({ port: server.port, engine });
        using ear = await TcpConn.connect({ port: server.port, engine });
        let heard = "";
        const hear = async (pattern: RegExp) => {
          while (!pattern.test(heard)) heard += await readText(ear, 64 * 1024) ?? "(end)";
        };
        await hear(/in lobby.*\n/);
        await talker.writeAll(encode("/nick talker\n"));
        await hear(/talker now\n/);
        const lines = encode(`${"x".repeat(1000)}\n`.repeat(16));
        let sent = 0;
        for (heard = ""; !heard.includes("*"); sent += 16) {
          heard = "";
          await talker.writeAll(lines);
          await hear(/(talker: x{1000}\n(\* .*\n)?){16}/);
        }
        assertStringIncludes(heard, "* deaf reads too slowly\n");

        // Whoever is dropped finds the notice at the end of what was sent before.
        const read = await new Response(deaf.readable).text();
        assertMatch(read.slice(-1100), /\n\* you read too slowly\n$/);
        assertEquals(
          read.split("\n").filter((line) => !/^(\* .*|talker: x{1000}|)$/.test(line)),
          [],
          "no line is torn",
        );
        await ann.say("/quit\n");
        await ann.until(/\* goodbye\n$/);
        assertEquals(ann.stdout.match(/^talker: x{1000}$/gm)?.length, sent, "a reader gets all of it");
        if (before > 0) assertLess((server.rss() - before) / 1024 / 1024, 64, "MiB more");
        assertEquals(server.stderr.join(""), "");
      }),
  );
}

Deno.test("chat example says how to try it", async () => {
  await using server = await start("runtime");
  const all = /^listening on 127\.0\.0\.1:\d+, backend runtime\ntry it: nc 127\.0\.0\.1 \d+\n$/;
  await eventually(() => all.test(server.stdout.join("")) ? true : undefined);
});

for (
  const [args, problem] of some(
    2,
    [
      [["--port", "http"], '--port takes a number, not "http"'],
      [["--port", "65536"], "port must be an integer from 0 to 65535, received 65536"],
      [["--backend", "kqueue"], "backend must be"],
      [["--host", "a b"], 'hostname must be an IP address or a host name, received "a b"'],
      [["--rooms", "5"], 'Unknown argument "--rooms"'],
      [["extra"], 'Unknown argument "extra"'],
    ] as const,
  )
) {
  Deno.test(`chat example refuses ${args.join(" ")} with one line and exit code 2`, async () => {
    const { code, stdout, stderr } = await run(["run", "--allow-net", EXAMPLE, ...args]);
    assertEquals([code, stdout], [2, ""]);
    assertStringIncludes(stderr, problem);
    assertEquals(stderr.trimEnd().split("\n").length, 1);
  });
}
