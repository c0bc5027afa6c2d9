// What differs between operating systems: each case names the system that it comes from, and runs on all of them.

import { TcpConn, TcpListener } from "@c10k/sockets/tcp";
import { UdpEndpoint } from "@c10k/sockets/udp";
import { assertEquals, assertStrictEquals } from "@std/assert";
import dgram from "node:dgram";
import { constants } from "node:os";
import { acceptTrouble, runtimeAcceptTrouble } from "../internal/backoff.ts";
import { mapped, specified } from "../internal/destination.ts";
import { ErrorNumbers, type Os } from "../internal/error_numbers.ts";
import { codeOf, fromRuntimeError, type SyscallError } from "../internal/errors.ts";
import { syscallError } from "../internal/syscall.ts";
import { reasonOfFailedKill } from "../process/program/failed_kill.ts";
import { moduleUrl } from "../process/child/module_url.ts";
import { poolSignals } from "../process/pool/signals.ts";
import { RuntimeWriter } from "../tcp/runtime_writer.ts";
import type { RuntimeSocket } from "../tcp/stream_socket.ts";
import { certainReason, isOfPeer } from "../udp/runtime_reasons.ts";
import { decode, replaced, socketTest } from "./_util.ts";

/** What `constants.errno` of node:os holds on each system, as far as the cases below need it. */
const CONSTANTS = {
  linux: {
    ...{ EPERM: 1, EINTR: 4, EIO: 5, EAGAIN: 11, EWOULDBLOCK: 11, EINVAL: 22, ENFILE: 23, EMFILE: 24, EPIPE: 32 },
    ...{ EPROTO: 71, EMSGSIZE: 90, EPROTOTYPE: 91, ENOTSUP: 95, EOPNOTSUPP: 95, EADDRINUSE: 98, EADDRNOTAVAIL: 99 },
    ...{ ENETDOWN: 100, ENETUNREACH: 101, ENETRESET: 102, ECONNABORTED: 103, ECONNRESET: 104, ENOTCONN: 107 },
    ...{ ETIMEDOUT: 110, ECONNREFUSED: 111, EHOSTUNREACH: 113 },
  },
  darwin: {
    ...{ EPERM: 1, EINTR: 4, EIO: 5, EINVAL: 22, ENFILE: 23, EMFILE: 24, EPIPE: 32, EAGAIN: 35, EWOULDBLOCK: 35 },
    ...{ EMSGSIZE: 40, EPROTOTYPE: 41, ENOTSUP: 45, EADDRINUSE: 48, EADDRNOTAVAIL: 49, ENETDOWN: 50, ENETUNREACH: 51 },
    ...{ ENETRESET: 52, ECONNABORTED: 53, ECONNRESET: 54, ENOTCONN: 57, ETIMEDOUT: 60, ECONNREFUSED: 61 },
    ...{ EHOSTUNREACH: 65, EPROTO: 100, EOPNOTSUPP: 102 },
  },
  windows: {
    // The C library's, which the system never reports.
    ...{ EPERM: 1, EINTR: 4, EIO: 5, ENXIO: 6, ENOEXEC: 8, EDOM: 33, EADDRINUSE: 100, ECONNREFUSED: 107 },
    ...{ WSAEINTR: 10004, WSAEACCES: 10013, WSAEINVAL: 10022, WSAEMFILE: 10024, WSAEWOULDBLOCK: 10035 },
    ...{ WSAEMSGSIZE: 10040, WSAENOPROTOOPT: 10042, WSAEOPNOTSUPP: 10045, WSAEADDRINUSE: 10048 },
    ...{ WSAEADDRNOTAVAIL: 10049, WSAENETDOWN: 10050, WSAENETUNREACH: 10051, WSAENETRESET: 10052 },
    ...{ WSAECONNABORTED: 10053, WSAECONNRESET: 10054, WSAENOBUFS: 10055, WSAENOTCONN: 10057, WSAESHUTDOWN: 10058 },
    ...{ WSAETIMEDOUT: 10060, WSAECONNREFUSED: 10061, WSAEHOSTDOWN: 10064, WSAEHOSTUNREACH: 10065 },
    ...{ WSASYSNOTREADY: 10091, WSA_E_NO_MORE: 10110 },
  },
} as const satisfies Partial<Record<Os, Record<string, number>>>;

const numbersOf = (os: keyof typeof CONSTANTS) => new ErrorNumbers(os, CONSTANTS[os]);

/** An error as the runtime makes it: of the class that it has for the system's, mostly with a code. */
function thrown(ErrorClass: new (message: string) => Error, message: string, code?: string): Error {
  return Object.assign(new ErrorClass(message), code === undefined ? {} : { code });
}

const { errors } = Deno;

/** What the runtime throws on each system, and the class, code and number that a user of the library gets. */
const THROWN: readonly [os: keyof typeof CONSTANTS, Error, new () => Error, string, number][] = [
  [
    "linux",
    thrown(errors.AddrInUse, "Address already in use (os error 98)", "EADDRINUSE"),
    errors.AddrInUse,
    "EADDRINUSE",
    98,
  ],
  [
    "darwin",
    thrown(errors.AddrInUse, "Address already in use (os error 48)", "EADDRINUSE"),
    errors.AddrInUse,
    "EADDRINUSE",
    48,
  ],
  [
    "windows",
    thrown(
      errors.AddrInUse,
      "Only one usage of each socket address (protocol/network address/port) is normally permitted. (os error 10048)",
      "EADDRINUSE",
    ),
    errors.AddrInUse,
    "EADDRINUSE",
    10048,
  ],
  // In the language of the user, and for the ports that another service of Windows has reserved.
  [
    "windows",
    thrown(errors.PermissionDenied, "Der Zugriff auf einen Socket war unzulässig. (os error 10013)", "EACCES"),
    errors.PermissionDenied,
    "EACCES",
    10013,
  ],
  [
    "windows",
    thrown(errors.ConnectionRefused, "…actively refused it. (os error 10061)", "ECONNREFUSED"),
    errors.ConnectionRefused,
    "ECONNREFUSED",
    10061,
  ],
  [
    "windows",
    thrown(Error, "The remote computer refused the network connection. (os error 1225)", "ECONNREFUSED"),
    errors.ConnectionRefused,
    "ECONNREFUSED",
    1225,
  ],
  [
    "windows",
    thrown(Error, "The specified network name is no longer available. (os error 64)", "ECONNRESET"),
    errors.ConnectionReset,
    "ECONNRESET",
    64,
  ],
  [
    "windows",
    thrown(errors.AddrNotAvailable, "…is not valid in its context. (os error 10049)", "EADDRNOTAVAIL"),
    errors.AddrNotAvailable,
    "EADDRNOTAVAIL",
    10049,
  ],
  // The runtime has no code for these.
  [
    "windows",
    thrown(Error, "A socket operation encountered a dead network. (os error 10050)"),
    Error,
    "ENETDOWN",
    10050,
  ],
  [
    "windows",
    thrown(Error, "A socket operation failed because the destination host was down. (os error 10064)"),
    Error,
    "EHOSTDOWN",
    10064,
  ],
  [
    "windows",
    thrown(Error, "The attempted operation is not supported… (os error 10045)"),
    errors.NotSupported,
    "EOPNOTSUPP",
    10045,
  ],
  ["linux", thrown(Error, "Host is down (os error 112)"), Error, "EHOSTDOWN", 112],
  ["linux", thrown(Error, "Machine is not on the network (os error 64)"), Error, "ENONET", 64],
  ["linux", thrown(Error, "Too many open files in system (os error 23)"), Error, "ENFILE", 23],
  ["darwin", thrown(Error, "Host is down (os error 64)"), Error, "EHOSTDOWN", 64],
  // Names that some systems have two of.
  [
    "linux",
    thrown(errors.NotSupported, "Operation not supported (os error 95)", "ENOTSUP"),
    errors.NotSupported,
    "EOPNOTSUPP",
    95,
  ],
  [
    "darwin",
    thrown(errors.NotSupported, "Operation not supported (os error 45)", "ENOTSUP"),
    errors.NotSupported,
    "EOPNOTSUPP",
    45,
  ],
  ["darwin", thrown(Error, "Operation not supported on socket (os error 102)"), errors.NotSupported, "EOPNOTSUPP", 102],
  ["linux", thrown(errors.WouldBlock, "operation would block", "EWOULDBLOCK"), errors.WouldBlock, "EAGAIN", 11],
  ["darwin", thrown(errors.WouldBlock, "operation would block", "EWOULDBLOCK"), errors.WouldBlock, "EAGAIN", 35],
  ["windows", thrown(errors.WouldBlock, "… (os error 10035)", "EAGAIN"), errors.WouldBlock, "EAGAIN", 10035],
  ["windows", thrown(errors.Interrupted, "… (os error 10004)", "ECANCELED"), errors.Interrupted, "EINTR", 10004],
  // A write to a connection that its peer is about to reset.
  ["darwin", thrown(Error, "Protocol wrong type for socket (os error 41)"), errors.ConnectionReset, "ECONNRESET", 41],
  ["windows", thrown(errors.BrokenPipe, "… (os error 10058)", "EPIPE"), errors.BrokenPipe, "EPIPE", 10058],
  // Without a number: that of the system.
  [
    "windows",
    thrown(errors.ConnectionRefused, "connection refused", "ECONNREFUSED"),
    errors.ConnectionRefused,
    "ECONNREFUSED",
    10061,
  ],
  [
    "darwin",
    thrown(errors.ConnectionRefused, "connection refused", "ECONNREFUSED"),
    errors.ConnectionRefused,
    "ECONNREFUSED",
    61,
  ],
  // Look-ups: in the words of each C library, and on Windows by a number.
  [
    "linux",
    thrown(Error, "failed to lookup address information: Name or service not known"),
    errors.NotFound,
    "ENOTFOUND",
    0,
  ],
  [
    "darwin",
    thrown(Error, "failed to lookup address information: nodename nor servname provided, or not known"),
    errors.NotFound,
    "ENOTFOUND",
    0,
  ],
  [
    "windows",
    thrown(errors.NotFound, "No such host is known. (os error 11001)", "ENOENT"),
    errors.NotFound,
    "ENOTFOUND",
    11001,
  ],
  [
    "windows",
    thrown(errors.NotFound, "…the requested data was not found. (os error 11004)", "ENOENT"),
    errors.NotFound,
    "ENOTFOUND",
    11004,
  ],
  [
    "windows",
    thrown(Error, "…a temporary error during hostname resolution… (os error 11002)"),
    Error,
    "EAI_AGAIN",
    11002,
  ],
  [
    "linux",
    thrown(Error, "failed to lookup address information: Temporary failure in name resolution"),
    Error,
    "EAI_AGAIN",
    0,
  ],
  ["linux", thrown(Error, "failed to lookup address information: Try again"), Error, "EAI_AGAIN", 0], // musl
];

Deno.test("fromRuntimeError() gives an error of any operating system the same class and code, and its own number", () => {
  for (const [os, error, ErrorClass, code, number] of THROWN) {
    const told = fromRuntimeError(error, "try", "connect", numbersOf(os)) as Error & { code?: string };
    const { errno, syscall } = told.cause as SyscallError;
    const lookup = code === "ENOTFOUND" || code === "EAI_AGAIN";
    assertEquals([told.code, errno, syscall], [code, number, lookup ? "getaddrinfo" : "connect"], `${os}: ${error}`);
    assertStrictEquals(told.constructor, ErrorClass, `${os}: ${error}`);
  }
});

Deno.test("codeOf() does not take the numbers of Windows for those of its C library", () => {
  const windows = numbersOf("windows");
  const code = (number: number) => codeOf(new Error(`… (os error ${number})`), windows);
  assertEquals([1, 5, 33, 100, 107].map(code), [undefined, "EPERM", undefined, undefined, undefined]);
  assertEquals(code(10110), undefined, "WSA_E_NO_MORE is no error of sockets");
});

Deno.test("ErrorNumbers has the numbers of this system", () => {
  const { os } = Deno.build;
  const numbers = new ErrorNumbers(os, { ...constants.errno });
  if (os !== "linux" && os !== "darwin" && os !== "windows") return;
  for (const [name, number] of Object.entries(CONSTANTS[os]) as [string, number][]) {
    if (os === "windows" && !name.startsWith("WSAE")) continue;
    assertEquals(numbers.numberOf(name.replace(/^WSA/, "")), number, name);
  }
});

Deno.test("syscallError() names every error that accept(2) of Linux must survive", () => {
  const linux: Record<number, string> = {
    64: "ENONET",
    112: "EHOSTDOWN",
    95: "EOPNOTSUPP",
    71: "EPROTO",
    100: "ENETDOWN",
  };
  for (const [number, name] of Object.entries(linux)) {
    const code = Deno.build.os === "linux"
      ? syscallError("accept4", Number(number)).code
      : numbersOf("linux").nameOf(Number(number));
    assertEquals([code, acceptTrouble(code)], [name, "retry"]);
  }
});

Deno.test("runtimeAcceptTrouble() lets no connection that is gone end a server, on any operating system", () => {
  const gone: [Os, string][] = [["linux", "ENOTCONN"], ["darwin", "EINVAL"], ["windows", "ENOTCONN"]];
  for (const os of ["linux", "darwin", "windows"] as const) {
    gone.push([os, "ECONNABORTED"], [os, "ECONNRESET"]);
    assertEquals(runtimeAcceptTrouble("EMFILE", os), "wait");
    assertEquals(runtimeAcceptTrouble("EBADF", os), "fatal");
  }
  for (const [os, code] of gone) assertEquals(runtimeAcceptTrouble(code, os), "retry", `${os}: ${code}`);
  assertEquals(runtimeAcceptTrouble("EINVAL", "linux"), "fatal");
});

socketTest(
  "TcpListener.accept() on the runtime engine goes on after what a connection that is gone can cause",
  async () => {
    // As macOS has it: the runtime asks for the address of a connection that was reset before it was accepted.
    const failures = [thrown(TypeError, "Invalid argument (os error 22)", "EINVAL"), new errors.NotConnected("gone")];
    Object.assign(failures[1] as Error, { code: "ENOTCONN" });
    using inner = Deno.listen({ hostname: "127.0.0.1", port: 0 });
    const accept = inner.accept.bind(inner);
    inner.accept = () => {
      const failure = failures.pop();
      return failure === undefined ? accept() : Promise.reject(failure);
    };
    using _listen = replaced(Deno, "listen", () => inner);
    using _os = replaced(Deno, "build", { ...Deno.build, os: "darwin" });
    using listener = TcpListener.bind({ hostname: "127.0.0.1", port: 0, engine: "runtime" });
    const accepting = listener.accept();
    using client = await TcpConn.connect({ port: listener.addr.port, engine: "runtime" });
    using server = await accepting;
    assertEquals([failures.length, server.remoteAddr.port], [0, client.localAddr.port]);
  },
);

Deno.test("TcpConn.closeWrite() on the runtime engine takes a connection that is gone for closed, as each system reports it", async () => {
  for (const ErrorClass of [errors.NotConnected, errors.ConnectionReset, errors.ConnectionAborted]) {
    const conn = { closeWrite: () => Promise.reject(new ErrorClass("gone")) } as unknown as RuntimeSocket;
    await new RuntimeWriter(conn).end();
  }
});

Deno.test("moduleUrl() reads paths of Windows there, and a backslash as part of a name elsewhere", () => {
  const windows: Record<string, string> = {
    "C:\\app\\child.ts": "file:///C:/app/child.ts",
    "c:/app/child.ts": "file:///c:/app/child.ts",
    "D:\\a b\\100%#1?\\child.ts": "file:///D:/a%20b/100%25%231%3F/child.ts",
    "\\\\server\\share\\child.ts": "file://server/share/child.ts",
    "file:///C:/app/child.ts": "file:///C:/app/child.ts",
    "https://example.com/child.ts": "https://example.com/child.ts",
    "data:text/javascript,1": "data:text/javascript,1",
  };
  for (const [module, url] of Object.entries(windows)) assertEquals(moduleUrl(module, "windows").href, url);
  // Relative ones are in the current folder.
  assertEquals(moduleUrl("tests\\a.ts", "windows").href.endsWith("/tests/a.ts"), true);
  if (Deno.build.os === "windows") return;
  assertEquals(moduleUrl("/app/a\\b.ts").href, "file:///app/a%5Cb.ts");
  assertEquals(moduleUrl("/app/a%20b#1?.ts").href, "file:///app/a%2520b%231%3F.ts");
  assertEquals(moduleUrl("../x/./y.ts").href, new URL("../x/y.ts", `file://${Deno.cwd()}/`).href);
  assertEquals(moduleUrl("C:/app/child.ts").protocol, "c:");
});

Deno.test("Pool listens for the signals that its operating system has", () => {
  assertEquals(poolSignals("windows"), { ending: ["SIGINT", "SIGBREAK", "SIGTERM"], reloading: [] });
  for (const os of ["linux", "darwin"] as const) {
    assertEquals(poolSignals(os), { ending: ["SIGINT", "SIGTERM"], reloading: ["SIGHUP"] });
  }
  const { ending, reloading } = poolSignals();
  for (const signal of [...ending, ...reloading]) {
    const listener = () => {};
    Deno.addSignalListener(signal, listener);
    Deno.removeSignalListener(signal, listener);
  }
});

Deno.test("Child.kill() of a program on the runtime engine tells an end from a signal that cannot be sent", () => {
  const invalid = new TypeError("Invalid signal: 1");
  const over = new TypeError("Child process has already terminated");
  assertEquals(reasonOfFailedKill(invalid, "SIGHUP", "windows"), "cannot send");
  assertEquals(reasonOfFailedKill(over, "SIGHUP", "windows"), "ended");
  assertEquals(reasonOfFailedKill(new errors.PermissionDenied("…(os error 5)"), "SIGKILL", "windows"), "ended");
  assertEquals(reasonOfFailedKill(new errors.PermissionDenied("EPERM"), "SIGKILL", "linux"), undefined);
  for (const os of ["linux", "darwin"] as const) {
    assertEquals(reasonOfFailedKill(over, "SIGTERM", os), "ended");
    assertEquals(reasonOfFailedKill(new errors.NotFound("ESRCH"), "SIGTERM", os), "ended");
    assertEquals(reasonOfFailedKill(invalid, "SIGHUP", os), "no such signal");
    assertEquals(reasonOfFailedKill(invalid, "SIGNOTHING" as Deno.Signal, os), "no such signal");
  }
});

Deno.test("specified() makes a destination of an unspecified address on Windows, where it is none", () => {
  const to = (hostname: string, os: Os) => specified({ hostname, port: 80, transport: "tcp" }, os);
  const expected = {
    "0.0.0.0": "127.0.0.1",
    "::": "::1",
    "0:0::0": "::1",
    "127.0.0.1": "127.0.0.1",
    "0.0.0.1": "0.0.0.1",
  };
  for (const [hostname, reached] of Object.entries(expected)) {
    assertEquals(to(hostname, "windows"), { hostname: reached, port: 80, transport: "tcp" });
    for (const os of ["linux", "darwin"] as const) assertEquals(to(hostname, os).hostname, hostname);
  }
  assertEquals(to("example.com", "windows").hostname, "example.com");
});

Deno.test("mapped() writes an IPv4 destination of an IPv6 socket as macOS has to have it", () => {
  const to = { hostname: "192.0.2.1", port: 53 };
  assertEquals(mapped(to, true, "darwin"), { hostname: "::ffff:192.0.2.1", port: 53 });
  for (const [isIPv6, os] of [[false, "darwin"], [true, "linux"], [true, "windows"]] as const) {
    assertStrictEquals(mapped(to, isIPv6, os), to);
  }
  for (const hostname of ["::1", "example.com", "::ffff:192.0.2.1"]) {
    assertEquals(mapped({ hostname, port: 1 }, true, "darwin").hostname, hostname);
  }
});

socketTest(
  "UdpEndpoint.sendTo() of an IPv6 endpoint on the runtime engine reaches IPv4 in the form that macOS takes",
  async () => {
    using receiver = UdpEndpoint.bind({ hostname: "127.0.0.1", engine: "runtime" });
    using sender = UdpEndpoint.bind({ hostname: "::", engine: "runtime" });
    const to = mapped(receiver.addr, true, "darwin");
    assertEquals(to.hostname, "::ffff:127.0.0.1");
    await sender.sendTo(new TextEncoder().encode("hello"), to);
    const { data, address } = await receiver.recvFrom(new Uint8Array(16));
    assertEquals([decode(data), address.hostname, address.port], ["hello", "127.0.0.1", sender.addr.port]);
  },
  Deno.build.os === "windows",
);

socketTest(
  "UdpEndpoint.sendTo() and TcpConn.connect() reach an unspecified address as Windows has to have it",
  async () => {
    using receiver = UdpEndpoint.bind({ hostname: "127.0.0.1", engine: "runtime" });
    using listener = TcpListener.bind({ hostname: "127.0.0.1", port: 0, engine: "runtime" });
    using _os = replaced(Deno, "build", { ...Deno.build, os: "windows" });
    using sender = UdpEndpoint.bind({ hostname: "127.0.0.1", engine: "runtime" });
    const any = { hostname: "0.0.0.0", port: receiver.addr.port };
    const p = new Uint8Array(16);
    await sender.sendTo(new TextEncoder().encode("one"), any);
    assertEquals(decode((await receiver.recvFrom(p)).data), "one");
    assertEquals(sender.trySendTo(new TextEncoder().encode("two"), any), 3);
    assertEquals(decode((await receiver.recvFrom(p)).data), "two");
    // What it could not send to is told by the address that it has tried.
    const error = await sender.sendTo(new Uint8Array(65_508), any).catch((error) => error.message);
    assertEquals(error.includes(` to 127.0.0.1:${any.port}: `), true, error);
    using conn = await TcpConn.connect({ hostname: "0.0.0.0", port: listener.addr.port, engine: "runtime" });
    using _server = await listener.accept();
    assertEquals(conn.remoteAddr.hostname, "127.0.0.1");
  },
);

Deno.test("certainReason() knows that an IPv6 endpoint has no IPv4 on Windows", () => {
  const from = { hostname: "::", ipv6Only: false, mayBroadcast: false };
  for (const hostname of ["127.0.0.1", "::ffff:127.0.0.1"]) {
    assertEquals(certainReason(1, { hostname, port: 9 }, from, "windows")?.code, "ENETUNREACH");
    for (const os of ["linux", "darwin"] as const) {
      assertEquals(certainReason(1, { hostname, port: 9 }, from, os), undefined);
    }
  }
  assertEquals(certainReason(1, { hostname: "::1", port: 9 }, from, "windows"), undefined);
  assertEquals(
    certainReason(1, { hostname: "127.0.0.1", port: 9 }, { ...from, hostname: "0.0.0.0" }, "windows"),
    undefined,
  );
});

Deno.test("isOfPeer() knows what a peer that cannot be reached makes a receive fail with, on each system", () => {
  const unknown = Object.assign(new Error("recvmsg UNKNOWN"), { code: "UNKNOWN", syscall: "recvmsg" });
  assertEquals(isOfPeer(unknown, "windows"), true);
  assertEquals(isOfPeer(unknown, "linux"), false);
  for (const os of ["linux", "darwin", "windows"] as const) {
    assertEquals(isOfPeer(thrown(errors.ConnectionReset, "… (os error 10054)", "ECONNRESET"), os), true);
    assertEquals(isOfPeer(thrown(errors.ConnectionRefused, "connection refused", "ECONNREFUSED"), os), true);
    assertEquals(isOfPeer(thrown(Error, "time to live expired", "ENETRESET"), os), true);
    assertEquals(isOfPeer(thrown(Error, "no buffer space", "ENOBUFS"), os), false);
    assertEquals(isOfPeer("text", os), false);
  }
});

socketTest(
  "UdpEndpoint.recvFrom() on node:dgram goes on after a datagram that found nobody, as Windows reports it",
  async () => {
    const sockets: dgram.Socket[] = [];
    const { createSocket } = dgram;
    using _socket = replaced(dgram, "createSocket", (options: dgram.SocketOptions) => {
      const socket = createSocket(options);
      sockets.push(socket);
      return socket;
    });
    using _os = replaced(Deno, "build", { ...Deno.build, os: "windows" });
    using endpoint = UdpEndpoint.bind({ hostname: "127.0.0.1", engine: "runtime" });
    const receiving = endpoint.recvFrom(new Uint8Array(16));
    sockets[0]?.emit("error", Object.assign(new Error("recvmsg UNKNOWN"), { code: "UNKNOWN", syscall: "recvmsg" }));
    using client = UdpEndpoint.bind({ hostname: "127.0.0.1", engine: "runtime" });
    await client.sendTo(new TextEncoder().encode("hello"), endpoint.addr);
    assertEquals(decode((await receiving).data), "hello");
  },
  "listenDatagram" in Deno,
);
