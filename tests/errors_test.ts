import { SyscallError } from "@c10k/sockets/tcp";
import { assertEquals, assertInstanceOf, assertStrictEquals } from "@std/assert";
import { acceptTrouble } from "../internal/backoff.ts";
import { fromRuntimeError, socketError } from "../internal/errors.ts";

for (
  const [code, ErrorClass, message] of [
    ["EADDRINUSE", Deno.errors.AddrInUse, "Cannot bind x: address already in use (EADDRINUSE)"],
    ["ECONNREFUSED", Deno.errors.ConnectionRefused, "Cannot bind x: connection refused (ECONNREFUSED)"],
    ["EPIPE", Deno.errors.BrokenPipe, "Cannot bind x: broken pipe (EPIPE)"],
    ["EMFILE", Error, "Cannot bind x: too many open files in this process (EMFILE)"],
    ["ENOSUCHCODE", Error, "Cannot bind x: system call failed (ENOSUCHCODE)"],
  ] as const
) {
  Deno.test(`socketError() makes ${ErrorClass.name} of ${code}`, () => {
    const cause = new SyscallError("bind", code);
    const error = socketError("bind x", cause);
    assertStrictEquals(error.constructor, ErrorClass);
    assertEquals([error.message, error.code], [message, code]);
    assertStrictEquals(error.cause, cause);
    assertEquals(cause.name, "SyscallError");
  });
}

for (
  const [name, thrown, ErrorClass, message, code] of [
    [
      "a code",
      Object.assign(new Deno.errors.AddrInUse("Address already in use (os error 98)"), { code: "EADDRINUSE" }),
      Deno.errors.AddrInUse,
      "Cannot try: address already in use (EADDRINUSE)",
      "EADDRINUSE",
    ],
    [
      "a failed look-up",
      new Error("failed to lookup address information: Name or service not known"),
      Deno.errors.NotFound,
      "Cannot try: host name not found (ENOTFOUND)",
      "ENOTFOUND",
    ],
    [
      "a look-up without an answer",
      new Error("failed to lookup address information: Temporary failure in name resolution"),
      Error,
      "Cannot try: temporary failure in name resolution (EAI_AGAIN)",
      "EAI_AGAIN",
    ],
    [
      "a class alone",
      new Deno.errors.NotCapable("Requires net access"),
      Deno.errors.NotCapable,
      "Cannot try: requires net access",
      undefined,
    ],
    ["something else", "text", Error, "Cannot try: text", undefined],
  ] as const
) {
  Deno.test(`fromRuntimeError() tells ${name} in our form`, () => {
    const error = fromRuntimeError(thrown, "try", "connect") as Error & { code?: string };
    assertStrictEquals(error.constructor, ErrorClass);
    assertEquals([error.message, error.code], [message, code]);
    if (code !== undefined) assertInstanceOf(error.cause, SyscallError);
  });
}

Deno.test("acceptTrouble() knows what a server must survive", () => {
  assertEquals(["ECONNABORTED", "EPROTO"].map(acceptTrouble), ["retry", "retry"]);
  assertEquals(["EMFILE", "ENFILE", "ENOBUFS", "ENOMEM"].map(acceptTrouble), ["wait", "wait", "wait", "wait"]);
  assertEquals(["EBADF", "EINVAL", undefined].map(acceptTrouble), ["fatal", "fatal", "fatal"]);
});
