/**
 * The C library with faults in it, in the place of `internal/libc.ts`: an
 * import map puts it there, in processes of tests only (`_process.ts`).
 *
 * A fault is one that the kernel could give for that call at that place, at
 * random from a seed. Two families of them:
 *
 * - **unnoticed** ones, of which no caller may learn: EINTR, "would block"
 *   although something comes right after, less than was asked for, a wait that
 *   ends early, a connection that was gone before accept, no room for it now.
 *   The conformance suites pass under them.
 * - **reported** ones, which fail a call: ENOMEM, ENOBUFS, EPIPE and so on.
 *
 * **Edges.** What edge-triggered epoll has told once it does not tell again. So
 * after a "would block", or a part, that is made up, the descriptor is armed
 * anew: the kernel's state is then that of news that came just after the call.
 */

import { constants } from "node:os";
import * as real from "../../internal/libc.ts";

const { errno } = constants;

/** How often faults of each family occur: one call in so many; 0 is never. */
export interface FaultPlan {
  readonly seed: number;
  readonly unnoticed: number;
  readonly reported: number;
  /**
   * No "would block" and no parts for tryRead() and its like, in tests that
   * know what is there and look once.
   */
  readonly spareTries?: boolean;
}

const EPOLL_CTL_ADD = 1;
const EPOLL_CTL_DEL = 2;
const EPOLL_CTL_MOD = 3;
const EPOLLEXCLUSIVE = 1 << 28;
const EPOLLONESHOT = 1 << 30;
const EPOLLET = 1 << 31;
const AF_UNIX = 1;

/** A transfer of no more than this comes in one piece: no segment is smaller when there is more to send. */
const SEGMENT = 4096;

/** Errors of accept(2) that are another connection's, and those that mean "not now" (its manual page). */
const GONE = [errno.ECONNABORTED, errno.EPROTO, errno.ENETUNREACH, errno.EHOSTUNREACH];
const NO_ROOM = [errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM];

/** What each call may fail with, by its manual page. */
const REPORTED: { readonly [name in keyof real.Libc]?: readonly number[] } = {
  socket: [errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM],
  socketpair: [errno.EMFILE, errno.ENFILE],
  bind: [errno.EADDRINUSE, errno.ENOMEM],
  listen: [errno.EADDRINUSE],
  connect: [errno.EADDRNOTAVAIL, errno.EAGAIN, errno.ENETUNREACH, errno.ENOBUFS],
  recv: [errno.ENOMEM, errno.ECONNRESET, errno.ETIMEDOUT],
  send: [errno.ENOMEM, errno.ENOBUFS, errno.EPIPE, errno.ECONNRESET],
  recvfrom: [errno.ENOMEM, errno.ECONNREFUSED],
  sendto: [errno.ENOMEM, errno.ENOBUFS, errno.EPERM, errno.ECONNREFUSED],
  recvmmsg: [errno.ENOMEM],
  sendmmsg: [errno.ENOMEM, errno.ENOBUFS],
  getsockname: [errno.ENOBUFS],
  getpeername: [errno.ENOBUFS, errno.ENOTCONN],
  getsockopt: [errno.ENOMEM],
  setsockopt: [errno.ENOMEM],
  epoll_create1: [errno.EMFILE, errno.ENFILE, errno.ENOMEM],
  epoll_ctl: [errno.ENOMEM, errno.ENOSPC],
  eventfd: [errno.EMFILE, errno.ENFILE, errno.ENOMEM],
  poll: [errno.ENOMEM],
  select: [errno.ENOMEM],
};

/** How often which fault was given, by call and name. */
export const given: Map<string, number> = new Map();

let plan: FaultPlan | undefined;
let state = 0;

/** Begins with faults, or ends them. */
export function setFaults(next: FaultPlan | undefined): void {
  plan = next;
  state = next?.seed ?? 0;
}

/** A number below `n`: mulberry32, which is as even as is needed here. */
function random(n: number): number {
  state = (state + 0x6d2b79f5) | 0;
  let t = Math.imul(state ^ (state >>> 15), 1 | state);
  t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
  return ((t ^ (t >>> 14)) >>> 0) % n;
}

function chance(oneIn: number | undefined, factor = 1): boolean {
  return oneIn !== undefined && oneIn > 0 && random(oneIn * factor) === 0;
}

function pick<T>(from: readonly T[]): T {
  return from[random(from.length)] as T;
}

/** Whether the call is made by a method of the library that does not wait for a better answer. */
function isTry(): boolean {
  return /\btry[A-Z]\w* \(/.test(new Error().stack ?? "");
}

/** What is registered as edge-triggered: by epoll descriptor and descriptor, the `struct epoll_event`. */
const edges = new Map<number, Map<number, Uint8Array<ArrayBuffer>>>();

function count(call: string, fault: string): void {
  given.set(`${call} ${fault}`, (given.get(`${call} ${fault}`) ?? 0) + 1);
}

/** The library with faults over the one that is open. */
function wrap(libc: real.Libc): real.Libc {
  const { symbols: setter } = Deno.dlopen(real.loadedLibc() as string, {
    errno_location: { name: "__errno_location", parameters: [], result: "pointer" },
    set: { name: "memcpy", parameters: ["pointer", "buffer", "u32"], result: "pointer" },
  });
  const number = new Int32Array(1);

  /** Fails a call as C does: errno is the thread's own. */
  const fail = (call: string, code: number): -1 => {
    count(call, Object.entries(errno).find(([, value]) => value === code)?.[0] ?? String(code));
    number[0] = code;
    setter.set(setter.errno_location(), new Uint8Array(number.buffer), 4);
    return -1;
  };
  /** News comes right after the call that has found none. */
  const arm = (fd: number) => {
    for (const [epoll, registered] of edges) {
      const event = registered.get(fd);
      if (event === undefined) continue;
      if ((new DataView(event.buffer).getUint32(0, true) & EPOLLEXCLUSIVE) === 0) {
        libc.epoll_ctl(epoll, EPOLL_CTL_MOD, fd, event);
      } else {
        libc.epoll_ctl(epoll, EPOLL_CTL_DEL, fd, event);
        libc.epoll_ctl(epoll, EPOLL_CTL_ADD, fd, event);
      }
    }
  };
  const remember = (epoll: number, operation: number, fd: number, event: Uint8Array<ArrayBuffer>) => {
    if (!edges.has(epoll)) edges.set(epoll, new Map());
    const registered = edges.get(epoll) as Map<number, Uint8Array<ArrayBuffer>>;
    const flags = new DataView(event.buffer, event.byteOffset).getUint32(0, true);
    if (operation !== EPOLL_CTL_DEL && (flags & EPOLLET) !== 0 && (flags & EPOLLONESHOT) === 0) {
      registered.set(fd, event.slice());
    } else registered.delete(fd);
  };
  /** How much of a transfer there is for now. */
  const part = (call: string, fd: number, length: number, done: (length: number) => number): number => {
    if (length <= SEGMENT || !chance(plan?.unnoticed, 0.5) || (plan?.spareTries && isTry())) return done(length);
    const n = done(SEGMENT + random(length - SEGMENT));
    if (n <= 0) return n;
    count(call, "part");
    arm(fd);
    return n;
  };
  const wouldBlock = (call: string, fd: number): -1 => {
    // Armed first: errno must be that of the call.
    arm(fd);
    return fail(call, errno.EAGAIN);
  };
  /** A fault in place of a call on a socket that does not wait; `undefined` if there is none now. */
  const fault = (call: keyof real.Libc, fd: number): -1 | undefined => {
    if (!chance(plan?.unnoticed)) return report(call);
    return random(2) === 0 || (plan?.spareTries && isTry()) ? fail(call, errno.EINTR) : wouldBlock(call, fd);
  };
  const report = (call: keyof real.Libc): -1 | undefined => {
    const codes = REPORTED[call];
    return codes !== undefined && chance(plan?.reported) ? fail(call, pick(codes)) : undefined;
  };
  /** A wait that a signal ends, which is possible only if there is time for one. */
  const interrupted = (call: string, timeout: number): -1 | undefined =>
    timeout !== 0 && chance(plan?.unnoticed) ? fail(call, errno.EINTR) : undefined;
  /** Room for one event: the kernel keeps the others for the next wait. */
  const room = (most: number) => chance(plan?.unnoticed, 0.5) ? 1 : most;
  const elsewhere = async (call: string): Promise<-1> => {
    count(call, "EINTR");
    await libc.sched_yield_elsewhere();
    return -1;
  };

  const faulty: { -readonly [name in keyof real.Libc]?: real.Libc[name] } = {
    recv: (fd, p, length, flags) => fault("recv", fd) ?? part("recv", fd, length, (n) => libc.recv(fd, p, n, flags)),
    send: (fd, p, length, flags) => fault("send", fd) ?? part("send", fd, length, (n) => libc.send(fd, p, n, flags)),
    recvfrom: (fd, ...rest) => fault("recvfrom", fd) ?? libc.recvfrom(fd, ...rest),
    sendto: (fd, ...rest) => fault("sendto", fd) ?? libc.sendto(fd, ...rest),
    recvmsg: (fd, ...rest) => fault("recvmsg", fd) ?? libc.recvmsg(fd, ...rest),
    sendmsg: (fd, ...rest) => fault("sendmsg", fd) ?? libc.sendmsg(fd, ...rest),
    recvmmsg(fd, headers, most, ...rest) {
      const failed = fault("recvmmsg", fd);
      if (failed !== undefined) return failed;
      const few = room(most);
      const n = libc.recvmmsg(fd, headers, few, ...rest);
      if (few < most && n > 0) arm(fd);
      return n;
    },
    sendmmsg(fd, headers, most, flags) {
      const failed = fault("sendmmsg", fd);
      if (failed !== undefined) return failed;
      const few = room(most);
      const n = libc.sendmmsg(fd, headers, few, flags);
      if (few < most && n > 0) arm(fd);
      return n;
    },
    accept4(fd, ...rest) {
      if (chance(plan?.unnoticed, 2)) {
        return fail("accept4", pick(plan?.spareTries && isTry() ? GONE : [...GONE, ...NO_ROOM]));
      }
      return fault("accept4", fd) ?? libc.accept4(fd, ...rest);
    },
    close(fd) {
      edges.delete(fd);
      for (const registered of edges.values()) registered.delete(fd);
      const result = libc.close(fd);
      // close(2): the descriptor is free all the same.
      return chance(plan?.unnoticed) ? fail("close", errno.EINTR) : result;
    },
    connect(fd, address, length) {
      // A nonblocking connect(2) on the Internet never returns EINTR: nothing in it waits.
      const failed = (address as Uint8Array)[0] === AF_UNIX ? undefined : report("connect");
      return failed ?? libc.connect(fd, address, length);
    },
    epoll_ctl(epoll, operation, fd, event) {
      if (operation === EPOLL_CTL_ADD) {
        const failed = report("epoll_ctl");
        if (failed !== undefined) return failed;
      }
      const result = libc.epoll_ctl(epoll, operation, fd, event);
      if (result === 0) remember(epoll, operation, fd, event as Uint8Array<ArrayBuffer>);
      return result;
    },
    epoll_wait: (epoll, events, most, timeout) =>
      interrupted("epoll_wait", timeout) ?? libc.epoll_wait(epoll, events, room(most), timeout),
    epoll_wait_elsewhere: (epoll, events, most, timeout) =>
      timeout !== 0 && chance(plan?.unnoticed)
        ? elsewhere("epoll_wait")
        : libc.epoll_wait_elsewhere(epoll, events, room(most), timeout),
    poll: (list, length, timeout) => interrupted("poll", timeout) ?? report("poll") ?? libc.poll(list, length, timeout),
    ppoll: (list, length, time, mask) => interrupted("ppoll", 1) ?? libc.ppoll(list, length, time, mask),
    poll_elsewhere: (list, length, timeout) =>
      timeout !== 0 && chance(plan?.unnoticed) ? elsewhere("poll") : libc.poll_elsewhere(list, length, timeout),
    select(end, ...rest) {
      const time = rest[3] as Uint8Array | null;
      const waits = time === null || time.some((byte) => byte !== 0);
      return interrupted("select", waits ? 1 : 0) ?? report("select") ?? libc.select(end, ...rest);
    },
    select_elsewhere: (...args) => chance(plan?.unnoticed) ? elsewhere("select") : libc.select_elsewhere(...args),
  };
  for (const name of Object.keys(REPORTED) as (keyof real.Libc)[]) {
    if (name in faulty) continue;
    const call = libc[name] as (...args: unknown[]) => unknown;
    Object.assign(faulty, { [name]: (...args: unknown[]) => report(name) ?? call(...args) });
  }
  const pwait2 = libc.epoll_pwait2;
  if (pwait2 !== null) {
    faulty.epoll_pwait2 = (epoll, events, most, time, mask, size) => {
      // A sandbox that does not know the call, in one process of four.
      if (plan !== undefined && plan.unnoticed > 0 && plan.seed % 4 === 0) return fail("epoll_pwait2", errno.ENOSYS);
      return interrupted("epoll_pwait2", 1) ?? pwait2(epoll, events, room(most), time, mask, size);
    };
  }
  return { ...libc, ...faulty };
}

export type Libc = real.Libc;

/** What `internal/libc.ts` exports as such. */
export let libc: real.Libc;

export const loadedLibc: typeof real.loadedLibc = real.loadedLibc;

export function loadLibc(): string | undefined {
  const problem = real.loadLibc();
  if (problem === undefined) libc ??= wrap(real.libc);
  return problem;
}

/** A plan in the environment, for suites that know nothing of all this. */
if (Deno.permissions.querySync({ name: "env", variable: "C10K_FAULTS" }).state === "granted") {
  const text = Deno.env.get("C10K_FAULTS");
  if (text !== undefined) {
    const { log, ...plan } = JSON.parse(text) as FaultPlan & { log: string };
    setFaults(plan);
    // A line for each isolate.
    const tell = () => Deno.writeTextFileSync(log, JSON.stringify([...given]) + "\n", { append: true });
    globalThis.addEventListener("unload", tell);
  }
}

loadLibc();
