/** Bad input and refused calls: the class, the code and the message of each, on every engine. */

import { type Engine, SyscallError, TcpConn, TcpListener } from "@c10k/sockets/tcp";
import { assert, assertEquals, assertInstanceOf, assertStrictEquals, assertStringIncludes } from "@std/assert";
import { ENGINES, engineTest } from "./_util.ts";

type ErrorClass = abstract new (...args: never[]) => Error;

interface Case {
  name: string;
  call: (engine: Engine) => unknown;
  ErrorClass: ErrorClass;
  /** The whole message, or a pattern where a part of it varies. */
  message: string | RegExp;
  code?: string;
  syscall?: string;
}

const bind = (options: object) => (engine: Engine) =>
  TcpListener.bind({ hostname: "127.0.0.1", port: 0, engine, ...options });
const connect = (options: object) => (engine: Engine) => TcpConn.connect({ port: 1, engine, ...options });

const cases: Case[] = [];

for (
  const [port, ErrorClass, problem] of [
    [-1, RangeError, "received -1"],
    [65536, RangeError, "received 65536"],
    [1.5, RangeError, "received 1.5"],
    [NaN, RangeError, "received NaN"],
    [Infinity, RangeError, "received Infinity"],
    ["80", TypeError, 'received "80"'],
    [null, TypeError, "received null"],
    [80n, TypeError, "received 80n"],
  ] as const
) {
  const rule = ErrorClass === TypeError ? "port must be a number" : "port must be an integer from";
  const shown = Deno.inspect(port);
  const message = (min: number) =>
    ErrorClass === TypeError ? `${rule}, ${problem}` : `${rule} ${min} to 65535, ${problem}`;
  cases.push({ name: `bind to port ${shown}`, call: bind({ port }), ErrorClass, message: message(0) });
  cases.push({ name: `connect to port ${shown}`, call: connect({ port }), ErrorClass, message: message(1) });
}
cases.push({
  name: "connect to port 0",
  call: connect({ port: 0 }),
  ErrorClass: RangeError,
  message: "port must be an integer from 1 to 65535, received 0",
});

for (const [hostname, shown] of [["", '""'], ["a b", '"a b"'], [7, "7"], ["[127.0.0.1]", '"[127.0.0.1]"']] as const) {
  const message = typeof hostname === "string"
    ? `hostname must be an IP address or a host name, received ${shown}`
    : `hostname must be a string, received ${shown}`;
  cases.push({ name: `bind to host ${shown}`, call: bind({ hostname }), ErrorClass: TypeError, message });
  cases.push({ name: `connect to host ${shown}`, call: connect({ hostname }), ErrorClass: TypeError, message });
}

for (
  const [option, value, ErrorClass, message] of [
    ["backlog", "9", TypeError, 'backlog must be a number, received "9"'],
    ["backlog", -1, RangeError, "backlog must be an integer from 0 to 2147483647, received -1"],
    ["reusePort", 1, TypeError, "reusePort must be a boolean, received 1"],
    ["reuseAddress", "no", TypeError, 'reuseAddress must be a boolean, received "no"'],
    ["ipv6Only", 0, TypeError, "ipv6Only must be a boolean, received 0"],
    ["receiveBufferSize", 0, RangeError, "receiveBufferSize must be an integer from 1 to 1073741824, received 0"],
    ["onAcceptError", 1, TypeError, "onAcceptError must be a function, received 1"],
    ["engine", "fast", TypeError, 'engine must be "auto", "runtime" or "native", received "fast"'],
  ] as const
) {
  cases.push({
    name: `bind with ${option} ${Deno.inspect(value)}`,
    call: bind({ [option]: value }),
    ErrorClass,
    message,
  });
}
for (
  const [option, value, ErrorClass, message] of [
    ["timeout", -1, RangeError, "timeout must be at least 0 ms, received -1"],
    ["timeout", NaN, RangeError, "timeout must be at least 0 ms, received NaN"],
    ["timeout", "1s", TypeError, 'timeout must be a number of milliseconds, received "1s"'],
    ["noDelay", "yes", TypeError, 'noDelay must be a boolean, received "yes"'],
    ["keepAlive", 5, TypeError, "keepAlive must be a boolean or an object, received 5"],
    ["signal", {}, TypeError, "signal must be an AbortSignal, received {}"],
    ["localPort", 70000, RangeError, "localPort must be an integer from 0 to 65535, received 70000"],
  ] as const
) {
  cases.push({
    name: `connect with ${option} ${Deno.inspect(value)}`,
    call: connect({ [option]: value }),
    ErrorClass,
    message,
  });
}
for (const options of [undefined, null, 80]) {
  const message = `options must be an object, received ${options}`;
  cases.push({
    name: `bind(${options})`,
    call: () => TcpListener.bind(options as never),
    ErrorClass: TypeError,
    message,
  });
  cases.push({
    name: `connect(${options})`,
    call: () => TcpConn.connect(options as never),
    ErrorClass: TypeError,
    message,
  });
}

cases.push(
  {
    name: "bind to a name that does not resolve",
    call: bind({ hostname: "nosuch.invalid", port: 80 }),
    ErrorClass: Error,
    message: /^Cannot bind TCP listener to nosuch\.invalid:80: .* \((ENOTFOUND|EAI_AGAIN)\)$/,
    syscall: "getaddrinfo",
  },
  {
    name: "connect to a name that does not resolve",
    call: connect({ hostname: "nosuch.invalid", port: 80 }),
    ErrorClass: Error,
    message: /^Cannot connect TCP to nosuch\.invalid:80: .* \((ENOTFOUND|EAI_AGAIN)\)$/,
    syscall: "getaddrinfo",
  },
  {
    name: "bind to an address that is not local",
    // TEST-NET-2 of RFC 5737 belongs to nobody.
    call: bind({ hostname: "198.51.100.7" }),
    ErrorClass: Deno.errors.AddrNotAvailable,
    message: "Cannot bind TCP listener to 198.51.100.7:0: address not available (EADDRNOTAVAIL)",
    code: "EADDRNOTAVAIL",
    syscall: "bind",
  },
  {
    name: "connect where nobody listens",
    call: connect({ port: 1 }),
    ErrorClass: Deno.errors.ConnectionRefused,
    message: "Cannot connect TCP to 127.0.0.1:1: connection refused (ECONNREFUSED)",
    code: "ECONNREFUSED",
    syscall: "connect",
  },
  {
    name: "connect over IPv6 where nobody listens",
    call: connect({ hostname: "[::1]", port: 1 }),
    ErrorClass: Deno.errors.ConnectionRefused,
    message: "Cannot connect TCP to [::1]:1: connection refused (ECONNREFUSED)",
    code: "ECONNREFUSED",
    syscall: "connect",
  },
);

async function failureOf(call: () => unknown): Promise<Error & { code?: string }> {
  try {
    const result = await call();
    (result as Disposable)[Symbol.dispose]();
  } catch (error) {
    return error as Error;
  }
  throw new Error("the call succeeded");
}

for (const { name, call, ErrorClass, message, code, syscall } of cases) {
  engineTest(`TCP refuses to ${name}`, async (engine) => {
    const error = await failureOf(() => call(engine));
    assertInstanceOf(error, ErrorClass);
    if (typeof message === "string") assertEquals(error.message, message);
    else assert(message.test(error.message), error.message);
    if (code !== undefined) assertEquals(error.code, code);
    if (syscall !== undefined) {
      const cause = error.cause;
      assertInstanceOf(cause, SyscallError);
      assertEquals([cause.syscall, cause.code], [syscall, error.code]);
      if (code !== undefined) assert(cause.errno > 0);
    }
  });
}

engineTest("TCP refuses to bind to a port in use", async (engine) => {
  using taken = TcpListener.bind({ hostname: "127.0.0.1", port: 0, engine });
  const { port } = taken.addr;
  const error = await failureOf(() => TcpListener.bind({ hostname: "127.0.0.1", port, engine }));
  assertStrictEquals(error.constructor, Deno.errors.AddrInUse);
  assertEquals(error.message, `Cannot bind TCP listener to 127.0.0.1:${port}: address already in use (EADDRINUSE)`);
  assertEquals(error.code, "EADDRINUSE");
  assertEquals((error.cause as SyscallError).syscall, "bind");
});

Deno.test("TCP on the runtime engine says what it cannot do, and the way out", async () => {
  using listener = TcpListener.bind({ hostname: "127.0.0.1", port: 0, engine: "runtime" });
  using client = await TcpConn.connect({ port: listener.addr.port, engine: "runtime" });
  using server = await listener.accept();
  const table: [string, () => unknown][] = [
    ["set the backlog", () => bind({ backlog: 16 })("runtime")],
    ["set IPV6_V6ONLY", () => bind({ ipv6Only: true })("runtime")],
    ["set the receive buffer size", () => bind({ receiveBufferSize: 4096 })("runtime")],
    ["set the send buffer size", () => bind({ sendBufferSize: 4096 })("runtime")],
    ["set TCP_DEFER_ACCEPT", () => bind({ deferAccept: 1 })("runtime")],
    ["set TCP_FASTOPEN", () => bind({ fastOpen: 16 })("runtime")],
    ["bind without SO_REUSEADDR", () => bind({ reuseAddress: false })("runtime")],
    ["choose the local address", () => connect({ localAddress: "127.0.0.1" })("runtime")],
    ["choose the local port", () => connect({ localPort: 0 })("runtime")],
    ["set keep-alive times", () => connect({ keepAlive: { idle: 1 } })("runtime")],
    ["see the accept queue", () => listener.queue()],
    ["detach the descriptor", () => listener.detach()],
    ["detach the descriptor", () => client.detach()],
    ["get SO_RCVBUF", () => client.getOption("SO_RCVBUF")],
    ["set SO_RCVBUF", () => client.setOption("SO_RCVBUF", 4096)],
    ["set keep-alive times", () => client.setKeepAlive({ idle: 1 })],
    ["get TCP_INFO", () => client.info()],
    ["see the kernel's queues of a connection", () => client.queues()],
    ["reset a connection", () => client.reset()],
    ["shut down reading", () => client.shutdown("read")],
    ["shut down both sides", () => client.shutdown("both")],
  ];
  for (const [action, call] of table) {
    const error = await failureOf(call);
    assertStrictEquals(error.constructor, Deno.errors.NotSupported);
    assertStringIncludes(error.message, `Cannot ${action} on the runtime engine: run with --allow-ffi`);
  }
  assertEquals([listener.fd, client.fd, server.fd], [undefined, undefined, undefined]);
  const shared = await failureOf(() => bind({ reusePort: true })("runtime"));
  assertEquals(
    shared.message,
    "Cannot share a port on the runtime engine: run on Linux with --unstable-net or --allow-ffi",
  );
});

Deno.test("TCP on the native engine says why there is none", { ignore: ENGINES.includes("native") }, async () => {
  for (
    const [action, call] of [
      ["bind TCP listener", () => bind({})("native")],
      ["connect TCP", () => connect({})("native")],
      ["take over a descriptor", () => TcpListener.fromFd(3)],
      ["take over a descriptor", () => TcpConn.fromFd(3)],
    ] as const
  ) {
    const error = await failureOf(call);
    assertStrictEquals(error.constructor, Deno.errors.NotSupported);
    assert(error.message.startsWith(`Cannot ${action} on the native engine: `), error.message);
  }
});
