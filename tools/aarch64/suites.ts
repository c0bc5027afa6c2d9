/** Which tests `deno task test:aarch64` runs, and which of them need what an emulator may not have. */

/** The test files, of those that reach what differs by machine: layouts, constants, numbers of system calls. */
export const SUITES: readonly string[] = [
  "tests/layout_test.ts",
  "tests/native_test.ts",
  "tests/tcp_conn_test.ts",
  "tests/tcp_listener_test.ts",
  "tests/tcp_regression_test.ts",
  "tests/udp_test.ts",
  "tests/udp_batch_test.ts",
  "tests/udp_local_address_test.ts",
  "tests/udp_reasons_test.ts",
  "tests/mux_test.ts",
  "tests/selector_test.ts",
  "tests/children_test.ts",
  "tests/child_signals_test.ts",
  "tests/sockets_in_messages_test.ts",
  "tests/connection_channel_test.ts",
  "tests/spawn_for_test.ts",
  "tests/socket_file_test.ts",
  "tests/open_sockets_test.ts",
  "tests/pool_test.ts",
  "tests/unload_test.ts",
];

/** Tests that are no part of the run, and why. Nothing of them differs by machine, or a shorter one shows the same. */
export const LEFT_OUT: readonly (readonly [test: RegExp, reason: string])[] = [
  [/^\[runtime\]/, "what the runtime engine calls is Deno's own"],
];

/** What a test needs: the name of a probe in `probe.c`. A test is skipped if that one says that it is missing. */
export const NEEDS: readonly (readonly [test: RegExp, probe: string])[] = [
  [/^\[native\] the two queues: a listener with a backlog of 2/, "TCP_INFO"],
];
