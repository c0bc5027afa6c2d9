/** Calls of the kernel that only tests make: descriptors that are no sockets of this library. */

import { ENGINES } from "./_util.ts";

const HAS_KERNEL = ENGINES.includes("native");

const SYMBOLS = {
  pipe2: { parameters: ["buffer", "i32"], result: "i32" },
  socket: { parameters: ["i32", "i32", "i32"], result: "i32" },
  socketpair: { parameters: ["i32", "i32", "i32", "buffer"], result: "i32" },
  bind: { parameters: ["i32", "buffer", "u32"], result: "i32" },
  connect: { parameters: ["i32", "buffer", "u32"], result: "i32" },
  getsockname: { parameters: ["i32", "buffer", "buffer"], result: "i32" },
  eventfd: { parameters: ["u32", "i32"], result: "i32" },
  open: { parameters: ["buffer", "i32"], result: "i32" },
  fcntl: { parameters: ["i32", "i32", "i32"], result: "i32" },
  read: { parameters: ["i32", "buffer", "u32"], result: "i32" },
  write: { parameters: ["i32", "buffer", "u32"], result: "i32" },
  send: { parameters: ["i32", "buffer", "u32", "i32"], result: "i32" },
  shutdown: { parameters: ["i32", "i32"], result: "i32" },
  close: { parameters: ["i32"], result: "i32" },
  syscall: { parameters: ["u32", "i32", "u32"], result: "i32" },
} as const;

export const kernel = HAS_KERNEL
  ? Deno.dlopen("libc.so.6", SYMBOLS).symbols
  : undefined as unknown as Deno.StaticForeignLibraryInterface<typeof SYMBOLS>;

const AF_UNIX = 1;
const AF_INET = 2;
const SOCK_STREAM = 1;
const SOCK_DGRAM = 2;
const O_WRONLY = 1;
const O_CLOEXEC = 0o2000000;
const NONBLOCK_CLOEXEC = 0o4000 | O_CLOEXEC;
const SYS_PIDFD_OPEN = 434;
export const MSG_OOB = 1;

function checked(result: number): number {
  if (result < 0) throw new Error("the system call failed");
  return result;
}

/** Descriptors that are closed at the end of a `using` block, if they still are open. */
export class Descriptors implements Disposable {
  readonly #open = new Set<number>();

  #keep<T extends number[]>(...fds: T): T {
    for (const fd of fds) this.#open.add(fd);
    return fds;
  }

  /** The reading and the writing end. */
  pipe(): [number, number] {
    const fds = new Int32Array(2);
    checked(kernel.pipe2(new Uint8Array(fds.buffer), NONBLOCK_CLOEXEC));
    return this.#keep(fds[0] as number, fds[1] as number);
  }

  /** Two connected stream sockets. */
  pair(): [number, number] {
    const fds = new Int32Array(2);
    checked(kernel.socketpair(AF_UNIX, SOCK_STREAM | NONBLOCK_CLOEXEC, 0, new Uint8Array(fds.buffer)));
    return this.#keep(fds[0] as number, fds[1] as number);
  }

  /** Two UDP sockets, the second connected to the first. */
  udp(): [number, number] {
    const address = new Uint8Array([AF_INET, 0, 0, 0, 127, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0]);
    const a = checked(kernel.socket(AF_INET, SOCK_DGRAM | NONBLOCK_CLOEXEC, 0));
    const b = checked(kernel.socket(AF_INET, SOCK_DGRAM | NONBLOCK_CLOEXEC, 0));
    checked(kernel.bind(a, address, 16));
    checked(kernel.getsockname(a, address, new Uint8Array(new Uint32Array([16]).buffer)));
    checked(kernel.connect(b, address, 16));
    return this.#keep(a, b);
  }

  eventfd(): number {
    return this.#keep(checked(kernel.eventfd(0, NONBLOCK_CLOEXEC)))[0] as number;
  }

  /** A descriptor of a process, readable once it has ended. */
  pidfd(pid: number): number {
    return this.#keep(checked(kernel.syscall(SYS_PIDFD_OPEN, pid, 0)))[0] as number;
  }

  file(path: string, how: "read" | "write" = "read"): number {
    const flags = O_CLOEXEC | (how === "write" ? O_WRONLY : 0);
    return this.#keep(checked(kernel.open(new TextEncoder().encode(path + "\0"), flags)))[0] as number;
  }

  /** A duplicate with a number of at least `least`. */
  duplicate(fd: number, least = 0): number {
    return this.#keep(checked(kernel.fcntl(fd, 1030, least)))[0] as number;
  }

  write(fd: number, bytes: Uint8Array<ArrayBuffer> | number): number {
    const p = typeof bytes === "number" ? new Uint8Array(bytes) : bytes;
    return kernel.write(fd, p, p.length);
  }

  /** Reads once; the number of bytes, negative if there is nothing. */
  read(fd: number, size = 65536): number {
    return kernel.read(fd, new Uint8Array(size), size);
  }

  close(fd: number): void {
    this.#open.delete(fd);
    kernel.close(fd);
  }

  [Symbol.dispose](): void {
    for (const fd of this.#open) kernel.close(fd);
  }
}
