/**
 * The C library: the only place that opens it, and the declarations of all
 * that is called in it.
 *
 * Lengths are declared as `i32` and `u32` although C says `size_t`: as such
 * they would come back as BigInt, and none here exceeds 2 GiB.
 */

const FD = "i32";

/** What is called for each connection or message: Deno compiles machine code for it. */
const OFTEN = {
  socket: { parameters: ["i32", "i32", "i32"], result: FD },
  bind: { parameters: [FD, "buffer", "u32"], result: "i32" },
  listen: { parameters: [FD, "i32"], result: "i32" },
  accept4: { parameters: [FD, "buffer", "buffer", "i32"], result: FD },
  connect: { parameters: [FD, "buffer", "u32"], result: "i32" },
  recv: { parameters: [FD, "buffer", "u32", "i32"], result: "i32" },
  send: { parameters: [FD, "buffer", "u32", "i32"], result: "i32" },
  recvfrom: { parameters: [FD, "buffer", "u32", "i32", "buffer", "buffer"], result: "i32" },
  sendto: { parameters: [FD, "buffer", "u32", "i32", "buffer", "u32"], result: "i32" },
  recvmmsg: { parameters: [FD, "buffer", "u32", "i32", "pointer"], result: "i32" },
  sendmmsg: { parameters: [FD, "buffer", "u32", "i32"], result: "i32" },
  recvmsg: { parameters: [FD, "buffer", "i32"], result: "i32" },
  sendmsg: { parameters: [FD, "buffer", "i32"], result: "i32" },
  shutdown: { parameters: [FD, "i32"], result: "i32" },
  close: { parameters: [FD], result: "i32" },
  getsockname: { parameters: [FD, "buffer", "buffer"], result: "i32" },
  getpeername: { parameters: [FD, "buffer", "buffer"], result: "i32" },
  getsockopt: { parameters: [FD, "i32", "i32", "buffer", "buffer"], result: "i32" },
  setsockopt: { parameters: [FD, "i32", "i32", "buffer", "u32"], result: "i32" },
  fcntl: { parameters: [FD, "i32", "i32"], result: "i32" },
  read: { parameters: [FD, "buffer", "u32"], result: "i32" },
  write: { parameters: [FD, "buffer", "u32"], result: "i32" },
  epoll_ctl: { parameters: [FD, "i32", FD, "buffer"], result: "i32" },
  epoll_wait: { parameters: [FD, "buffer", "i32", "i32"], result: "i32" },
  /** Linux 5.11 and glibc 2.35; absent before. */
  epoll_pwait2: { parameters: [FD, "buffer", "i32", "buffer", "pointer", "u32"], result: "i32", optional: true },
  /**
   * {@linkcode epoll_wait} on another thread, whose errno cannot be read. It may return when the memory of a buffer is
   * another's, so the address is one of `ForeignMemory`; so are those below.
   */
  epoll_wait_elsewhere: {
    name: "epoll_wait",
    parameters: [FD, "usize", "i32", "i32"],
    result: "i32",
    nonblocking: true,
  },
  poll: { parameters: ["buffer", "u32", "i32"], result: "i32" },
  ppoll: { parameters: ["buffer", "u32", "buffer", "pointer"], result: "i32" },
  poll_elsewhere: { name: "poll", parameters: ["usize", "u32", "i32"], result: "i32", nonblocking: true },
  select: { parameters: ["i32", "buffer", "buffer", "buffer", "buffer"], result: "i32" },
  select_elsewhere: {
    name: "select",
    parameters: ["i32", "usize", "usize", "usize", "usize"],
    result: "i32",
    nonblocking: true,
  },
  sched_yield_elsewhere: { name: "sched_yield", parameters: [], result: "i32", nonblocking: true },
  __errno_location: { parameters: [], result: "pointer" },
  memcpy: { parameters: ["buffer", "pointer", "u32"], result: "pointer" },
  /** {@linkcode memcpy} of nothing: returns the address of a buffer, without the right to make pointers. */
  memcpy_address: { name: "memcpy", parameters: ["buffer", "pointer", "u32"], result: "usize" },
  /** {@linkcode memcpy} from an address that C has put into a struct; works without the right to make pointers. */
  memcpy_from: { name: "memcpy", parameters: ["buffer", "usize", "u32"], result: "pointer" },
  /** {@linkcode memcpy} to an address, the other way round. */
  memcpy_to: { name: "memcpy", parameters: ["usize", "buffer", "u32"], result: "pointer" },
} as const satisfies Deno.ForeignLibraryInterface;

/** What is called now and then. */
const RARELY = {
  socketpair: { parameters: ["i32", "i32", "i32", "buffer"], result: "i32" },
  ioctl: { parameters: [FD, "u32", "buffer"], result: "i32" },
  open: { parameters: ["buffer", "i32", "i32"], result: FD },
  fchmod: { parameters: [FD, "u32"], result: "i32" },
  dup3: { parameters: [FD, FD, "i32"], result: FD },
  pipe2: { parameters: ["buffer", "i32"], result: "i32" },
  unlink: { parameters: ["buffer"], result: "i32" },
  access: { parameters: ["buffer", "i32"], result: "i32" },
  flock: { parameters: [FD, "i32"], result: "i32" },
  /** stat(2) under a name that every glibc has. */
  newfstatat: { name: "syscall", parameters: ["i64", FD, "buffer", "buffer", "i32"], result: "i32" },
  /** As a way to getdents64(2), pidfd_open(2) and gettid(2), which not every glibc has a name for. */
  syscall: { parameters: ["i64", "i64", "buffer", "i64"], result: "i32" },
  futex: { name: "syscall", parameters: ["i64", "usize", "i32", "u32", "pointer"], result: "i32" },
  pidfd_send_signal: { name: "syscall", parameters: ["i64", "i32", "i32", "pointer", "u32"], result: "i32" },
  getppid: { parameters: [], result: "i32" },
  getuid: { parameters: [], result: "u32" },
  kill: { parameters: ["i32", "i32"], result: "i32" },
  sigaction: { parameters: ["i32", "buffer", "buffer"], result: "i32" },
  prctl: { parameters: ["i32", "u64", "u64", "u64", "u64"], result: "i32" },
  waitid: { parameters: ["i32", "u32", "buffer", "i32"], result: "i32" },
  posix_spawn: { parameters: ["buffer", "buffer", "buffer", "buffer", "buffer", "buffer"], result: "i32" },
  posix_spawn_file_actions_init: { parameters: ["buffer"], result: "i32" },
  posix_spawn_file_actions_adddup2: { parameters: ["buffer", FD, FD], result: "i32" },
  posix_spawn_file_actions_destroy: { parameters: ["buffer"], result: "i32" },
  posix_spawnattr_init: { parameters: ["buffer"], result: "i32" },
  posix_spawnattr_setflags: { parameters: ["buffer", "i16"], result: "i32" },
  posix_spawnattr_setsigmask: { parameters: ["buffer", "buffer"], result: "i32" },
  posix_spawnattr_setsigdefault: { parameters: ["buffer", "buffer"], result: "i32" },
  posix_spawnattr_destroy: { parameters: ["buffer"], result: "i32" },
  getenv: { parameters: ["buffer"], result: "usize" },
  /** The address of a variable of the C library. */
  dlsym: { parameters: ["usize", "buffer"], result: "usize", optional: true },
  posix_spawn_file_actions_addchdir_np: { parameters: ["buffer", "buffer"], result: "i32", optional: true },
  strnlen: { parameters: ["usize", "u32"], result: "u32" },
  realpath: { parameters: ["buffer", "buffer"], result: "pointer" },
  readlink: { parameters: ["buffer", "buffer", "u32"], result: "i32" },
  getxattr: { parameters: ["buffer", "buffer", "buffer", "u32"], result: "i32" },
  eventfd: { parameters: ["u32", "i32"], result: FD },
  epoll_create1: { parameters: ["i32"], result: FD },
  usleep: { parameters: ["u32"], result: "i32" },
  if_nametoindex: { parameters: ["buffer"], result: "u32" },
  if_indextoname: { parameters: ["u32", "buffer"], result: "pointer" },
  getaddrinfo: { parameters: ["buffer", "buffer", "buffer", "buffer"], result: "i32" },
  freeaddrinfo: { parameters: ["usize"], result: "void" },
  calloc: { parameters: ["u32", "u32"], result: "usize" },
  free: { parameters: ["usize"], result: "void" },
  /** memfd_create(2), which not every glibc has a name for. */
  memfd_create: { name: "syscall", parameters: ["i64", "buffer", "u32"], result: FD },
  ftruncate: { parameters: [FD, "i64"], result: "i32" },
  mmap: { parameters: ["usize", "usize", "i32", "i32", FD, "i64"], result: "usize" },
} as const satisfies Deno.ForeignLibraryInterface;

/** The functions of the C library that are called here. */
export type Libc = Deno.StaticForeignLibraryInterface<typeof OFTEN & typeof RARELY>;

const MACHINE = Deno.build.arch === "aarch64" ? "aarch64-linux-gnu" : "x86_64-linux-gnu";

/** By its name where `--allow-ffi` is unlimited, else by the paths that a grant is likely to name. */
const CANDIDATES = [
  "libc.so.6",
  `/lib/${MACHINE}/libc.so.6`,
  `/usr/lib/${MACHINE}/libc.so.6`,
  "/lib64/libc.so.6",
  "/usr/lib64/libc.so.6",
  "/lib/libc.so.6",
  "/usr/lib/libc.so.6",
];

/** The C library's functions; {@linkcode loadLibc} must have succeeded. */
export let libc: Libc;

let loaded: string | undefined;

/** What was opened: a path, or a bare name; `undefined` if nothing was. */
export function loadedLibc(): string | undefined {
  return loaded;
}

/**
 * A last parameter that no callee looks at. Opening the library takes a third of a millisecond for each function that
 * Deno compiles, in each thread anew, and it compiles none with a struct among its parameters.
 */
const NOT_COMPILED = { struct: ["i32"] } as const satisfies Deno.NativeStructType;
const ANY_VALUE = new Uint8Array(4);

function open(path: string): Libc {
  const rarely = Object.entries<Deno.ForeignFunction>(RARELY).map(([name, declaration]) => {
    return [name, { ...declaration, parameters: [...declaration.parameters, NOT_COMPILED] }];
  });
  const { symbols } = Deno.dlopen(path, { ...OFTEN, ...Object.fromEntries(rarely) as typeof RARELY });
  const all: Record<string, unknown> = { ...symbols };
  for (const [name] of rarely) {
    const call = all[name as string] as ((...args: unknown[]) => unknown) | null;
    if (call !== null) all[name as string] = (...args: unknown[]) => call(...args, ANY_VALUE);
  }
  return all as unknown as Libc;
}

function granted(path: string): boolean {
  // As a permission a bare name is a file in the current folder, which is not what dlopen(3) takes it for.
  if (!path.startsWith("/")) return Deno.permissions.querySync({ name: "ffi" }).state === "granted";
  return Deno.permissions.querySync({ name: "ffi", path }).state === "granted";
}

/**
 * Opens the C library, if that is possible here and granted already; never
 * prompts. A grant that was revoked since counts as none.
 *
 * @returns Why it is not possible, `undefined` if it is open.
 */
export function loadLibc(): string | undefined {
  const { os, arch, env } = Deno.build;
  if (os !== "linux") return `the native engine runs on Linux only, not on ${os}`;
  if (arch !== "x86_64" && arch !== "aarch64") return `the native engine does not run on ${arch}`;
  if (env !== "gnu") return `the native engine needs glibc, not ${env ?? "another C library"}`;
  if (loaded !== undefined && granted(loaded)) return undefined;
  let problem = "run with --allow-ffi";
  for (const path of CANDIDATES) {
    if (!granted(path)) continue;
    try {
      libc = open(path);
      loaded = path;
      return undefined;
    } catch (error) {
      problem = `the C library cannot be opened (${error instanceof Error ? error.message : error})`;
    }
  }
  return problem;
}

// Now rather than at the first use, where it is granted: a test of a program
// that uses the library must not be told that it has left a library open.
loadLibc();
