/** `examples/nc.ts` on both engines, with nc and socat at the other end. */

import { type Engine, TcpListener } from "@c10k/sockets/tcp";
import { assert, assertEquals, assertMatch, assertStringIncludes } from "@std/assert";
import { delay } from "@std/async";
import { pipe, Program } from "./_program.ts";
import {
  checksum,
  clientTest,
  decode,
  encode,
  ENGINES,
  freePort,
  oneOf,
  randomBytes,
  readToEnd,
  run,
  socketTest,
  some,
} from "./_util.ts";

const NC = "nc.openbsd";
const MIB = 1024 * 1024;

/** The command line of the example, with no more permissions than the engine needs. */
function example(engine: Engine, ...args: string[]): string[] {
  const permissions = engine === "native" ? ["--allow-net", "--allow-ffi"] : ["--allow-net"];
  return ["run", "--no-prompt", "--quiet", ...permissions, "examples/nc.ts", "--engine", engine, ...args];
}

/** Starts the example as a listener, and returns it with its port. */
async function listen(engine: Engine, ...args: string[]): Promise<[Program, string]> {
  const program = new Program(Deno.execPath(), example(engine, ...args, "-l", "0"));
  const [, port = ""] = await program.until(/listening on 127\.0\.0\.1 (\d+)\ntry it: nc .*\n/);
  return [program, port];
}

for (const engine of oneOf("nc", ENGINES)) {
  clientTest(["socat"], `[${engine}] nc example sends 64 MiB from a pipe and prints all that comes back`, async () => {
    const port = String(freePort());
    await using socat = new Program("socat", ["-d", "-d", `TCP-LISTEN:${port},bind=127.0.0.1`, "EXEC:cat"]);
    await socat.until(/listening on/);
    const data = randomBytes(64 * MIB);
    // 64 MiB back as well, while the first are on their way.
    const echoed = await pipe(Deno.execPath(), example(engine, "127.0.0.1", port), data);
    assertEquals([echoed.length, await checksum(echoed)], [data.length, await checksum(data)]);
  });

  clientTest(
    [NC],
    `[${engine}] nc example -l takes 16 MiB from nc, and sends it something else meanwhile`,
    async () => {
      const [there, back] = [randomBytes(16 * MIB), randomBytes(3 * MIB)];
      const listener = new Deno.Command(Deno.execPath(), {
        args: example(engine, "-l", "0"),
        stdin: "piped",
        stdout: "piped",
        stderr: "piped",
      }).spawn();
      const port = await portOf(listener.stderr);
      const writer = listener.stdin.getWriter();
      const feeding = writer.write(back).then(() => writer.close());
      const [received, printed] = await Promise.all([
        pipe(NC, ["-N", "127.0.0.1", port], there),
        new Response(listener.stdout).bytes(),
        feeding,
      ]);
      assertEquals((await listener.status).code, 0);
      assertEquals([printed.length, await checksum(printed)], [there.length, await checksum(there)]);
      assertEquals([received.length, await checksum(received)], [back.length, await checksum(back)]);
    },
  );

  clientTest([NC], `[${engine}] nc example talks to nc -l, and each hears when the other has finished`, async () => {
    const port = String(freePort());
    await using nc = new Program(NC, ["-lvN", "127.0.0.1", port]);
    await nc.until(/Listening/);
    await using ours = new Program(Deno.execPath(), example(engine, "-v", "127.0.0.1", port));
    await ours.until(/Connection to 127\.0\.0\.1 \d+ succeeded\n/);
    await ours.say("first\n");
    await nc.until(/^first\n/m);
    await nc.say("second\n");
    await ours.until(/^second\n/m);
    await nc.endInput(); // its FIN does not end the other direction
    await ours.say("third\n");
    await nc.until(/^third\n/m);
    assertEquals([await ours.ended(), await nc.ended()], [0, 0]);
    assertEquals([ours.stdout, nc.stdout], ["second\n", "first\nthird\n"]);
  });

  clientTest([NC, "socat"], `[${engine}] nc example -u exchanges datagrams as a client and with -l`, async () => {
    const port = String(freePort());
    await using socat = new Program("socat", ["-d", "-d", `UDP-RECVFROM:${port},bind=127.0.0.1,fork`, "EXEC:cat"]);
    await socat.until(/receiving on|starting/);
    await using client = new Program(Deno.execPath(), example(engine, "-u", "-w", "1", "127.0.0.1", port));
    await client.say("to and fro\n");
    await client.until(/^to and fro\n$/);
    assertEquals(await client.ended(), 0, "after a second of silence");

    const [listener, udpPort] = await listen(engine, "-u", "-w", "1");
    await using ours = listener;
    await using nc = new Program(NC, ["-u", "127.0.0.1", udpPort]);
    await nc.say("hello\n");
    await ours.until(/^hello\n$/m);
    await ours.say("hello yourself\n");
    await nc.until(/^hello yourself\n$/);
    // Others are not heard: the first one is the peer.
    await pipe(NC, ["-u", "-w", "1", "127.0.0.1", udpPort], encode("me too\n"));
    assertEquals(await ours.ended(), 0);
    assertEquals(ours.stdout, "hello\n");
  });

  socketTest(`[${engine}] nc example scans ports, and says what it cannot reach`, async () => {
    using listener = TcpListener.bind({ hostname: "127.0.0.1", port: 0, engine });
    const [open, closed] = [String(listener.addr.port), String(freePort())];
    const found = await run(example(engine, "-zv", "127.0.0.1", open));
    assertEquals(found, { code: 0, stdout: "", stderr: `Connection to 127.0.0.1 ${open} succeeded\n` });
    const refusal = `Cannot connect TCP to 127.0.0.1:${closed}: connection refused (ECONNREFUSED)\n`;
    assertEquals(await run(example(engine, "-z", "127.0.0.1", closed)), { code: 1, stdout: "", stderr: "" });
    assertEquals(await run(example(engine, "127.0.0.1", closed)), { code: 1, stdout: "", stderr: refusal });
    // Over UDP only a connected socket of the kernel's learns it.
    const udp = await run(example(engine, "-u", "-w", "1", "127.0.0.1", closed));
    assertEquals(udp.code, 0, "with nothing sent nobody answers");
    await pipe(
      Deno.execPath(),
      example(engine, "-u", "-w", "1", "127.0.0.1", closed),
      encode("x\n"),
      engine === "native" ? 1 : 0,
    );
  });

  socketTest(
    `[${engine}] nc example ends with 1 when it is reset, and with 0 after -w seconds of silence`,
    async () => {
      using listener = TcpListener.bind({ hostname: "127.0.0.1", port: 0 });
      const args = ["127.0.0.1", String(listener.addr.port)];
      await using reset = new Program(Deno.execPath(), example(engine, ...args));
      using resetter = await listener.accept();
      await resetter.writeAll(encode("before\n"));
      await reset.until(/^before\n/);
      if (resetter.engine === "native") {
        resetter.reset();
        assertEquals(await reset.ended(), 1);
        assertMatch(
          reset.stderr,
          /^Cannot read from TCP connection with .*: connection reset by peer \(ECONNRESET\)\n$/,
        );
      }
      await using silent = new Program(Deno.execPath(), example(engine, "-w", "1", ...args));
      using _conn = await listener.accept();
      assertEquals(await silent.ended(), 0);
    },
  );

  socketTest(`[${engine}] nc example sends what it has read before a signal ends it`, async () => {
    using listener = TcpListener.bind({ hostname: "127.0.0.1", port: 0, engine });
    await using ours = new Program(Deno.execPath(), example(engine, "127.0.0.1", String(listener.addr.port)));
    using conn = await listener.accept();
    const [piece, pipeSize] = ["x".repeat(4096), 64 * 1024];
    let said = 0;
    const saying = (async () => {
      for (; said < 4096; said++) await ours.say(piece);
    })().catch(() => {});
    // Until it stands still, since nobody reads.
    for (let before = -1; said === 0 || said > before; await delay(200)) before = said;
    const begun = said * piece.length - pipeSize;
    ours.kill("SIGTERM");
    const received = await readToEnd(conn);
    assertEquals(await ours.ended(), 143);
    await saying;
    assert(received >= begun, `${received} of ${begun} bytes`);
  }, Deno.build.os === "windows");
}

/** Reads where the example listens from its standard error. */
async function portOf(stderr: ReadableStream<Uint8Array>): Promise<string> {
  let text = "";
  for await (const bytes of stderr) {
    text += decode(bytes);
    const port = /listening on 127\.0\.0\.1 (\d+)\n.*\n/.exec(text)?.[1];
    if (port !== undefined) return port;
  }
  throw new Error(`it does not listen: ${text}`);
}

for (
  const [args, problem] of some(
    2,
    [
      [[], "[HOST] PORT must be given"],
      [["127.0.0.1", "http"], '[HOST] PORT must be given, not "127.0.0.1 http"'],
      [["80-90"], "Several ports are for -z"],
      [["-z", "-u", "80"], "-z goes neither with -l nor with -u"],
      [["-w", "soon", "80"], '-w takes seconds, not "soon"'],
      [["-x", "80"], 'Unknown argument "-x"'],
      [["65536"], "port must be an integer from 1 to 65535, received 65536"],
      [["--engine", "warp", "80"], "engine must be"],
    ] as const,
  )
) {
  Deno.test(`nc example refuses ${args.join(" ") || "nothing"} with one line and exit code 2`, async () => {
    const { code, stdout, stderr } = await run(["run", "--allow-net", "examples/nc.ts", ...args]);
    assertEquals([code, stdout], [2, ""]);
    assertStringIncludes(stderr, problem);
    assertEquals(stderr.trimEnd().split("\n").length, 1);
  });
}
