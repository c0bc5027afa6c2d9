/** Constants of the C library and of the kernel that several files need; the same on x86_64 and aarch64, unless said. */

import "./deno_version.ts";

// fcntl.h, linux/fcntl.h
export const O_NONBLOCK = 0o4000;
export const O_CLOEXEC = 0o2000000;
export const O_DIRECTORY = Deno.build.arch === "aarch64" ? 0o40000 : 0o200000;
export const F_GETFD = 1;
export const F_SETFD = 2;
export const F_GETFL = 3;
export const F_SETFL = 4;
export const F_DUPFD_CLOEXEC = 1030;
export const FD_CLOEXEC = 1;

// sys/socket.h, asm-generic/socket.h, netinet/in.h
export const AF_UNIX = 1;
export const SOCK_SEQPACKET = 5;
export const SHUT_RD = 0;
export const SOL_SOCKET = 1;
export const SO_TYPE = 3;
export const SO_PROTOCOL = 38;
export const IPPROTO_IP = 0;
export const IPPROTO_TCP = 6;
export const IPPROTO_UDP = 17;
export const IPPROTO_IPV6 = 41;

// poll.h
export const POLLIN = 0x1;

// sys/wait.h, asm-generic/siginfo.h
export const P_PIDFD = 3;
export const WNOHANG = 1;
export const WEXITED = 4;
export const SIGINFO_SIZE = 128;
export const SIGKILL = 9;

// asm-generic/unistd.h
export const SYS_PIDFD_OPEN = 434n;
export const SYS_PIDFD_SEND_SIGNAL = 424n;
