// What the machine that this runs on can do, an emulated one in particular: for each name of the table below, the bare
// system call, without the library. Prints a line for each:
//
//     NAME ok
//     NAME missing: why
//
// tools/aarch64/needs.ts says which test needs which.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/errqueue.h>
#include <linux/futex.h>
#include <linux/sock_diag.h>
#include <linux/tcp.h>
#include <net/if.h>
#include <netinet/in.h>
#include <netinet/udp.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <spawn.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/select.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#ifndef SO_MEMINFO
#define SO_MEMINFO 55
#endif
#ifndef SO_COOKIE
#define SO_COOKIE 57
#endif

static const char *self;

// Ends the probe: what it needs is missing.
static void missing(const char *format, ...) {
  va_list list;
  va_start(list, format);
  printf("missing: ");
  vprintf(format, list);
  printf("\n");
  fflush(stdout);
  _exit(1);
}

// The result of a call that must not fail.
static int must(int result, const char *what) {
  if (result < 0) missing("%s: %s", what, strerror(errno));
  return result;
}

static struct sockaddr_in local(int port) {
  struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(port)};
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  return address;
}

static int bound(int type, struct sockaddr_in *address) {
  int fd = must(socket(AF_INET, type | SOCK_CLOEXEC, 0), "socket");
  *address = local(0);
  socklen_t length = sizeof *address;
  must(bind(fd, (struct sockaddr *)address, length), "bind");
  must(getsockname(fd, (struct sockaddr *)address, &length), "getsockname");
  return fd;
}

// A TCP connection: client, server and listener.
static void connected(int fds[3]) {
  struct sockaddr_in address;
  fds[2] = bound(SOCK_STREAM, &address);
  must(listen(fds[2], 2), "listen");
  fds[0] = must(socket(AF_INET, SOCK_STREAM, 0), "socket");
  must(connect(fds[0], (struct sockaddr *)&address, sizeof address), "connect");
  fds[1] = must(accept4(fds[2], NULL, NULL, SOCK_CLOEXEC), "accept4");
}

// Sets an integer and reads it back.
static void set_int(int fd, int level, int option, int value, const char *name) {
  int got = -1;
  socklen_t length = sizeof got;
  if (setsockopt(fd, level, option, &value, sizeof value) < 0) missing("setsockopt of %s: %s", name, strerror(errno));
  if (getsockopt(fd, level, option, &got, &length) < 0) missing("getsockopt of %s: %s", name, strerror(errno));
  if (got != value) missing("%s was set to %d and reads as %d", name, value, got);
}

static void tcp_info(void) {
  int fds[3];
  connected(fds);
  unsigned char bytes[256];
  socklen_t length = sizeof bytes;
  must(getsockopt(fds[0], IPPROTO_TCP, TCP_INFO, bytes, &length), "getsockopt of TCP_INFO");
  if (length < 104) missing("getsockopt of TCP_INFO gives %u bytes, the kernel 104 or more", length);
}

static void tcp_congestion(void) {
  int fds[3];
  connected(fds);
  char name[16] = "";
  socklen_t length = sizeof name;
  must(getsockopt(fds[0], IPPROTO_TCP, TCP_CONGESTION, name, &length), "getsockopt of TCP_CONGESTION");
  if (length != sizeof name) missing("getsockopt of TCP_CONGESTION gives %u bytes, the kernel 16", length);
  must(setsockopt(fds[0], IPPROTO_TCP, TCP_CONGESTION, name, strlen(name)), "setsockopt of TCP_CONGESTION");
}

static void ip_multicast_all(void) {
  struct sockaddr_in address;
  set_int(bound(SOCK_DGRAM, &address), IPPROTO_IP, IP_MULTICAST_ALL, 0, "IP_MULTICAST_ALL");
}

static void so_linger(void) {
  struct sockaddr_in address;
  int fd = bound(SOCK_STREAM, &address);
  struct linger on = {.l_onoff = 1, .l_linger = 0}, got = {0};
  socklen_t length = sizeof got;
  must(setsockopt(fd, SOL_SOCKET, SO_LINGER, &on, sizeof on), "setsockopt of SO_LINGER");
  must(getsockopt(fd, SOL_SOCKET, SO_LINGER, &got, &length), "getsockopt of SO_LINGER");
  if (got.l_onoff == 0 || length != sizeof got) missing("SO_LINGER was set, and reads as off");
}

static void so_meminfo(void) {
  struct sockaddr_in address;
  int fd = bound(SOCK_DGRAM, &address);
  uint32_t info[SK_MEMINFO_VARS] = {0};
  socklen_t length = sizeof info;
  must(getsockopt(fd, SOL_SOCKET, SO_MEMINFO, info, &length), "getsockopt of SO_MEMINFO");
  if (length != sizeof info) missing("getsockopt of SO_MEMINFO gives %u bytes, the kernel %zu", length, sizeof info);
}

static void so_peercred(void) {
  int fds[2];
  must(socketpair(AF_UNIX, SOCK_STREAM, 0, fds), "socketpair");
  struct ucred peer = {0};
  socklen_t length = sizeof peer;
  must(getsockopt(fds[0], SOL_SOCKET, SO_PEERCRED, &peer, &length), "getsockopt of SO_PEERCRED");
  if (length != sizeof peer || peer.pid != getpid()) missing("SO_PEERCRED names process %d, not this one", peer.pid);
}

static void mcast_join(void) {
  struct sockaddr_in address;
  int fd = bound(SOCK_DGRAM, &address);
  struct group_req group = {.gr_interface = if_nametoindex("lo")};
  struct sockaddr_in *to = (struct sockaddr_in *)&group.gr_group;
  to->sin_family = AF_INET;
  inet_pton(AF_INET, "239.1.2.3", &to->sin_addr);
  must(setsockopt(fd, IPPROTO_IP, MCAST_JOIN_GROUP, &group, sizeof group), "setsockopt of MCAST_JOIN_GROUP");
}

static void ip_membership(void) {
  struct sockaddr_in address;
  int fd = bound(SOCK_DGRAM, &address);
  struct ip_mreqn group = {.imr_ifindex = if_nametoindex("lo")};
  inet_pton(AF_INET, "239.1.2.3", &group.imr_multiaddr);
  must(setsockopt(fd, IPPROTO_IP, IP_ADD_MEMBERSHIP, &group, sizeof group), "setsockopt of IP_ADD_MEMBERSHIP");
}

static void multicast_if(void) {
  struct sockaddr_in address;
  int fd = bound(SOCK_DGRAM, &address);
  struct ip_mreqn group = {.imr_ifindex = if_nametoindex("lo")};
  must(setsockopt(fd, IPPROTO_IP, IP_MULTICAST_IF, &group, sizeof group), "setsockopt of IP_MULTICAST_IF");
  int six = must(socket(AF_INET6, SOCK_DGRAM, 0), "socket");
  set_int(six, IPPROTO_IPV6, IPV6_MULTICAST_IF, if_nametoindex("lo"), "IPV6_MULTICAST_IF");
}

// IPv4's options on a socket of IPv6, whose IPv4 peers they are for.
static void ip_on_ipv6(void) {
  int fd = must(socket(AF_INET6, SOCK_DGRAM, 0), "socket");
  set_int(fd, IPPROTO_IP, IP_TTL, 5, "IP_TTL");
  set_int(fd, IPPROTO_IP, IP_MULTICAST_TTL, 5, "IP_MULTICAST_TTL");
  set_int(fd, IPPROTO_IP, IP_MULTICAST_LOOP, 0, "IP_MULTICAST_LOOP");
  set_int(fd, IPPROTO_IP, IP_TOS, 4, "IP_TOS");
}

// One datagram with a control message, sent by sendmmsg and read by recvmmsg.
static void exchange(int from, int to, struct sockaddr_in *address, void *data, size_t size, struct cmsghdr *control,
                     size_t control_size, struct msghdr *got) {
  struct iovec out = {data, size};
  struct mmsghdr sent = {.msg_hdr = {.msg_name = address, .msg_namelen = sizeof *address, .msg_iov = &out,
                                     .msg_iovlen = 1, .msg_control = control, .msg_controllen = control_size}};
  must(sendmmsg(from, &sent, 1, 0), "sendmmsg");
  struct mmsghdr received = {.msg_hdr = *got};
  must(recvmmsg(to, &received, 1, 0, NULL), "recvmmsg");
  *got = received.msg_hdr;
}

static void mmsg(void) {
  struct sockaddr_in a, b, name;
  int from = bound(SOCK_DGRAM, &a), to = bound(SOCK_DGRAM, &b);
  char bytes[3][8], in[3][8];
  struct iovec out[3], into[3];
  struct mmsghdr sent[3], got[3];
  memset(sent, 0, sizeof sent);
  memset(got, 0, sizeof got);
  for (int i = 0; i < 3; i++) {
    memset(bytes[i], '0' + i, sizeof bytes[i]);
    out[i] = (struct iovec){bytes[i], 2 + i};
    into[i] = (struct iovec){in[i], 8};
    sent[i].msg_hdr = (struct msghdr){.msg_name = &b, .msg_namelen = sizeof b, .msg_iov = &out[i], .msg_iovlen = 1};
    got[i].msg_hdr = (struct msghdr){.msg_name = &name, .msg_namelen = sizeof name, .msg_iov = &into[i], .msg_iovlen = 1};
  }
  if (must(sendmmsg(from, sent, 3, 0), "sendmmsg") != 3) missing("sendmmsg does not send all three datagrams");
  if (must(recvmmsg(to, got, 3, MSG_DONTWAIT, NULL), "recvmmsg") != 3) missing("recvmmsg does not read all three");
  for (int i = 0; i < 3; i++) {
    if (got[i].msg_len != 2u + i || in[i][0] != '0' + i) missing("datagram %d is not what was sent", i);
  }
  if (name.sin_port != a.sin_port) missing("recvmmsg does not say who has sent");
  // A second read with one header less waiting: nothing there, and no datagram.
  if (recvmmsg(to, got, 3, MSG_DONTWAIT, NULL) != -1 || errno != EAGAIN) missing("recvmmsg of an empty queue is no EAGAIN");
}

static void ip_pktinfo(void) {
  struct sockaddr_in a, b;
  int from = bound(SOCK_DGRAM, &a), to = bound(SOCK_DGRAM, &b), on = 1;
  must(setsockopt(to, IPPROTO_IP, IP_PKTINFO, &on, sizeof on), "setsockopt of IP_PKTINFO");
  union { char room[64]; struct cmsghdr head; } out = {0}, in = {0};
  out.head = (struct cmsghdr){.cmsg_level = IPPROTO_IP, .cmsg_type = IP_PKTINFO, .cmsg_len = CMSG_LEN(sizeof(struct in_pktinfo))};
  struct in_pktinfo info = {.ipi_spec_dst = a.sin_addr};
  memcpy(CMSG_DATA(&out.head), &info, sizeof info);
  char data[8] = "x", into[8];
  struct iovec room = {into, sizeof into};
  struct msghdr got = {.msg_iov = &room, .msg_iovlen = 1, .msg_control = in.room, .msg_controllen = sizeof in.room};
  exchange(from, to, &b, data, 1, &out.head, CMSG_SPACE(sizeof info), &got);
  struct cmsghdr *message = CMSG_FIRSTHDR(&got);
  if (!message || message->cmsg_type != IP_PKTINFO) missing("no IP_PKTINFO comes with a datagram");
  memcpy(&info, CMSG_DATA(message), sizeof info);
  if (info.ipi_addr.s_addr != htonl(INADDR_LOOPBACK)) missing("IP_PKTINFO has another address than 127.0.0.1");
}

static void ipv6_pktinfo(void) {
  struct sockaddr_in6 b = {.sin6_family = AF_INET6, .sin6_addr = IN6ADDR_LOOPBACK_INIT};
  socklen_t length = sizeof b;
  int from = must(socket(AF_INET6, SOCK_DGRAM, 0), "socket"), to = must(socket(AF_INET6, SOCK_DGRAM, 0), "socket"), on = 1;
  must(bind(to, (struct sockaddr *)&b, length), "bind");
  must(getsockname(to, (struct sockaddr *)&b, &length), "getsockname");
  must(setsockopt(to, IPPROTO_IPV6, IPV6_RECVPKTINFO, &on, sizeof on), "setsockopt of IPV6_RECVPKTINFO");
  union { char room[64]; struct cmsghdr head; } out = {0}, in = {0};
  out.head = (struct cmsghdr){.cmsg_level = IPPROTO_IPV6, .cmsg_type = IPV6_PKTINFO, .cmsg_len = CMSG_LEN(sizeof(struct in6_pktinfo))};
  struct in6_pktinfo info = {.ipi6_addr = IN6ADDR_LOOPBACK_INIT};
  memcpy(CMSG_DATA(&out.head), &info, sizeof info);
  char data[8] = "x", into[8];
  struct iovec sent = {data, 1}, room = {into, sizeof into};
  struct msghdr head = {.msg_name = &b, .msg_namelen = length, .msg_iov = &sent, .msg_iovlen = 1,
                        .msg_control = out.room, .msg_controllen = CMSG_SPACE(sizeof info)};
  must(sendmsg(from, &head, 0), "sendmsg");
  struct msghdr got = {.msg_iov = &room, .msg_iovlen = 1, .msg_control = in.room, .msg_controllen = sizeof in.room};
  must(recvmsg(to, &got, 0), "recvmsg");
  struct cmsghdr *message = CMSG_FIRSTHDR(&got);
  if (!message || message->cmsg_type != IPV6_PKTINFO) missing("no IPV6_PKTINFO comes with a datagram");
}

static void udp_gro(void) {
  struct sockaddr_in address;
  int on = 1;
  must(setsockopt(bound(SOCK_DGRAM, &address), SOL_UDP, UDP_GRO, &on, sizeof on), "setsockopt of UDP_GRO");
}

static void udp_segment(void) {
  struct sockaddr_in a, b;
  int from = bound(SOCK_DGRAM, &a), to = bound(SOCK_DGRAM, &b);
  union { char room[64]; struct cmsghdr head; } out = {0};
  out.head = (struct cmsghdr){.cmsg_level = SOL_UDP, .cmsg_type = UDP_SEGMENT, .cmsg_len = CMSG_LEN(sizeof(uint16_t))};
  uint16_t size = 100;
  memcpy(CMSG_DATA(&out.head), &size, sizeof size);
  char data[250] = {0}, into[250];
  struct iovec room = {into, sizeof into};
  struct msghdr got = {.msg_iov = &room, .msg_iovlen = 1};
  exchange(from, to, &b, data, sizeof data, &out.head, CMSG_SPACE(sizeof size), &got);
  ssize_t next = recv(to, into, sizeof into, MSG_DONTWAIT);
  if (next != 100) missing("250 bytes in segments of 100 do not arrive as 100, 100 and 50");
}

static void scm_rights(void) {
  int fds[2], pair[2];
  must(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, fds), "socketpair");
  must(pipe(pair), "pipe");
  union { char room[CMSG_SPACE(2 * sizeof(int))]; struct cmsghdr head; } out = {0}, in = {0};
  out.head = (struct cmsghdr){.cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS, .cmsg_len = CMSG_LEN(2 * sizeof(int))};
  memcpy(CMSG_DATA(&out.head), pair, sizeof pair);
  char byte = 'x';
  struct iovec one = {&byte, 1};
  struct msghdr sent = {.msg_iov = &one, .msg_iovlen = 1, .msg_control = out.room, .msg_controllen = sizeof out.room};
  must(sendmsg(fds[0], &sent, 0), "sendmsg");
  struct msghdr got = {.msg_iov = &one, .msg_iovlen = 1, .msg_control = in.room, .msg_controllen = sizeof in.room};
  must(recvmsg(fds[1], &got, MSG_CMSG_CLOEXEC), "recvmsg");
  struct cmsghdr *message = CMSG_FIRSTHDR(&got);
  if (!message || message->cmsg_type != SCM_RIGHTS || message->cmsg_len != CMSG_LEN(sizeof pair)) {
    missing("two descriptors do not arrive in SCM_RIGHTS");
  }
  memcpy(pair, CMSG_DATA(message), sizeof pair);
  must(write(pair[1], &byte, 1), "write to a descriptor that arrived");
  if (fcntl(pair[0], F_GETFD) != FD_CLOEXEC) missing("MSG_CMSG_CLOEXEC does not mark what arrives");
}

// 253 descriptors, the most that one message can carry.
static void scm_rights_many(void) {
  enum { MOST = 253 };
  int fds[2], file = must(open("/dev/null", O_RDONLY), "open");
  must(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, fds), "socketpair");
  static union { char room[CMSG_SPACE(MOST * sizeof(int))]; struct cmsghdr head; } out, in;
  out.head = (struct cmsghdr){.cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS, .cmsg_len = CMSG_LEN(MOST * sizeof(int))};
  for (int i = 0; i < MOST; i++) ((int *)CMSG_DATA(&out.head))[i] = file;
  char byte = 'x';
  struct iovec one = {&byte, 1};
  struct msghdr sent = {.msg_iov = &one, .msg_iovlen = 1, .msg_control = out.room, .msg_controllen = sizeof out.room};
  must(sendmsg(fds[0], &sent, 0), "sendmsg of 253 descriptors");
  struct msghdr got = {.msg_iov = &one, .msg_iovlen = 1, .msg_control = in.room, .msg_controllen = sizeof in.room};
  must(recvmsg(fds[1], &got, MSG_CMSG_CLOEXEC), "recvmsg of 253 descriptors");
  struct cmsghdr *message = CMSG_FIRSTHDR(&got);
  if (!message || message->cmsg_len != CMSG_LEN(MOST * sizeof(int))) missing("253 descriptors do not all arrive");
}

static void siocoutq(void) {
  int fds[3], unsent = -1, unread = -1;
  connected(fds);
  must(write(fds[0], "hello", 5), "write");
  struct pollfd readable = {.fd = fds[1], .events = POLLIN};
  must(poll(&readable, 1, 1000), "poll");
  must(ioctl(fds[0], TIOCOUTQ, &unsent), "ioctl of SIOCOUTQ");
  must(ioctl(fds[1], FIONREAD, &unread), "ioctl of SIOCINQ");
  if (unread != 5) missing("SIOCINQ gives %d bytes, not 5", unread);
}

static void epoll(void) {
  int fds[2], epoll = must(epoll_create1(EPOLL_CLOEXEC), "epoll_create1");
  must(pipe(fds), "pipe");
  struct epoll_event event = {.events = EPOLLIN | EPOLLET | EPOLLRDHUP, .data = {.u64 = 0x1122334455667788}}, got;
  must(epoll_ctl(epoll, EPOLL_CTL_ADD, fds[0], &event), "epoll_ctl");
  must(write(fds[1], "x", 1), "write");
  if (epoll_wait(epoll, &got, 1, 1000) != 1 || got.data.u64 != event.data.u64) missing("epoll_wait loses an event");
}

static void epoll_exclusive(void) {
  int epoll = must(epoll_create1(EPOLL_CLOEXEC), "epoll_create1");
  struct epoll_event event = {.events = EPOLLIN | EPOLLEXCLUSIVE};
  must(epoll_ctl(epoll, EPOLL_CTL_ADD, eventfd(0, 0), &event), "epoll_ctl with EPOLLEXCLUSIVE");
}

static void epoll_pwait2_(void) {
  int epoll = must(epoll_create1(EPOLL_CLOEXEC), "epoll_create1");
  struct timespec time = {.tv_nsec = 1000};
  struct epoll_event event;
  must(syscall(SYS_epoll_pwait2, epoll, &event, 1, &time, NULL, 8), "epoll_pwait2");
}

static void memfd(void) {
  int fd = must(syscall(SYS_memfd_create, "probe", 1), "memfd_create");
  must(ftruncate(fd, 4096), "ftruncate");
  if (mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0) == MAP_FAILED) missing("mmap: %s", strerror(errno));
}

// The process's memory by name, as the library finds what an earlier run has left.
static void proc_maps(void) {
  int fd = must(syscall(SYS_memfd_create, "probe-of-maps", 1), "memfd_create");
  must(ftruncate(fd, 4096), "ftruncate");
  char *memory = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0), line[512];
  if (memory == MAP_FAILED) missing("mmap: %s", strerror(errno));
  FILE *maps = fopen("/proc/self/maps", "r");
  while (maps && fgets(line, sizeof line, maps)) {
    if (strstr(line, "probe-of-maps") && strtoull(line, NULL, 16) == (uintptr_t)memory) return;
  }
  missing("/proc/self/maps does not list a memfd by its name and at its address");
}

static void pidfd(void) {
  pid_t pid = must(fork(), "fork");
  if (pid == 0) _exit(pause());
  int fd = must(syscall(SYS_pidfd_open, pid, 0), "pidfd_open");
  must(syscall(SYS_pidfd_send_signal, fd, SIGKILL, NULL, 0), "pidfd_send_signal");
  struct pollfd ended = {.fd = fd, .events = POLLIN};
  if (poll(&ended, 1, 5000) != 1) missing("a pidfd is not readable when its process has ended");
  siginfo_t info;
  memset(&info, 0, sizeof info);
  must(waitid(3 /* P_PIDFD */, fd, &info, WEXITED), "waitid of a pidfd");
  if (info.si_pid != pid || info.si_status != SIGKILL || info.si_code != CLD_KILLED) missing("waitid does not say how the process has ended");
}

static void pi_futex(void) {
  static uint32_t word;
  must(syscall(SYS_futex, &word, FUTEX_LOCK_PI, 0, NULL), "futex FUTEX_LOCK_PI");
  if (word != (uint32_t)syscall(SYS_gettid)) missing("FUTEX_LOCK_PI does not enter its thread");
  must(syscall(SYS_futex, &word, FUTEX_UNLOCK_PI, 0, NULL), "futex FUTEX_UNLOCK_PI");
}

static void parent_death(void) {
  int signal = 0;
  must(prctl(PR_SET_PDEATHSIG, SIGKILL), "prctl PR_SET_PDEATHSIG");
  must(prctl(PR_GET_PDEATHSIG, &signal), "prctl PR_GET_PDEATHSIG");
  if (signal != SIGKILL) missing("PR_SET_PDEATHSIG is not kept");
}

// An aarch64 program that starts one, itself.
static void exec_(void) {
  pid_t pid = must(fork(), "fork");
  if (pid == 0) {
    execl(self, self, "--exec", NULL);
    _exit(errno == ENOEXEC ? 41 : 40);
  }
  int status;
  must(waitpid(pid, &status, 0), "waitpid");
  if (WEXITSTATUS(status) != 42) missing("aarch64 programs cannot start others: the kernel does not know their format (binfmt_misc)");
}

// posix_spawn(3) reports by its result that there is no such program: it relies on memory shared with the child.
static void spawn_errno(void) {
  char *args[] = {"/nonexistent/program", NULL};
  pid_t pid;
  int result = posix_spawn(&pid, args[0], NULL, NULL, args, args);
  if (result != ENOENT) missing("posix_spawn of a program that does not exist gives %d, not ENOENT", result);
}

// The environment and the name of a program, as /proc shows them to others.
static void proc_cmdline(void) {
  char text[4096] = "";
  int out[2];
  must(pipe(out), "pipe");
  pid_t pid = must(fork(), "fork");
  if (pid == 0) {
    dup2(out[1], 1);
    close(out[0]);
    execl(self, "probe-by-another-name", "--pause", NULL);
    _exit(1);
  }
  char path[64];
  close(out[1]);
  must(read(out[0], text, 1), "read");
  snprintf(path, sizeof path, "/proc/%d/cmdline", pid);
  int fd = must(open(path, O_RDONLY), path);
  ssize_t n = read(fd, text, sizeof text - 1);
  kill(pid, SIGKILL);
  waitpid(pid, NULL, 0);
  if (n < 1 || strcmp(text, "probe-by-another-name") != 0) missing("%s begins with %.100s", path, text);
}

// The limit of descriptors holds for the program.
static void rlimit_nofile(void) {
  struct rlimit limit = {20, 20}, got;
  must(setrlimit(RLIMIT_NOFILE, &limit), "setrlimit");
  must(getrlimit(RLIMIT_NOFILE, &got), "getrlimit");
  if (got.rlim_cur != 20) missing("setrlimit of RLIMIT_NOFILE has no effect");
  for (int i = 0; i < 20; i++) if (dup(0) < 0 && errno == EMFILE) return;
  missing("more descriptors can be opened than RLIMIT_NOFILE allows");
}

static void stat_layout(void) {
  struct stat status;
  unsigned char bytes[256] = {0};
  must(syscall(SYS_newfstatat, AT_FDCWD, "/dev/null", bytes, 0), "newfstatat");
  must(stat("/dev/null", &status), "stat");
  if (memcmp(bytes + offsetof(struct stat, st_mode), &status.st_mode, 4) != 0) missing("newfstatat has another layout than stat(2)");
}

// A signal that is blocked and one that is ignored, as the next program gets them.
static void sigchld_ignored(void) {
  signal(SIGCHLD, SIG_IGN);
  pid_t pid = must(fork(), "fork");
  if (pid == 0) _exit(0);
  if (waitpid(pid, NULL, 0) != -1 || errno != ECHILD) missing("a child leaves a status although SIGCHLD is ignored");
}

static void netlink_socket(void) {
  must(socket(AF_NETLINK, SOCK_RAW, 0), "socket of netlink");
}

static void mptcp_socket(void) {
  must(socket(AF_INET, SOCK_STREAM, 262), "socket of Multipath TCP");
}

static void packet_socket(void) {
  must(socket(AF_PACKET, SOCK_RAW, 0), "socket of packets");
}

static void vsock_socket(void) {
  must(socket(AF_VSOCK, SOCK_STREAM, 0), "socket between virtual machines");
}

static void raw_socket(void) {
  must(socket(AF_INET, SOCK_RAW, 1), "raw socket");
}

static void chown_(void) {
  char path[] = "/tmp/probe-XXXXXX";
  int fd = must(mkstemp(path), "mkstemp");
  int result = fchown(fd, 12345, 12345);
  int reason = errno;
  unlink(path);
  errno = reason;
  must(result, "fchown to another user");
}

// The path that Debian's packages give the C library, for which a permission can be granted.
static void libc_path(void) {
#ifdef __aarch64__
  must(open("/lib/aarch64-linux-gnu/libc.so.6", O_RDONLY), "open of /lib/aarch64-linux-gnu/libc.so.6");
#endif
}

static const struct { const char *name; void (*run)(void); } PROBES[] = {
  {"TCP_INFO", tcp_info},
  {"TCP_CONGESTION", tcp_congestion},
  {"IP_MULTICAST_ALL", ip_multicast_all},
  {"SO_LINGER", so_linger},
  {"SO_MEMINFO", so_meminfo},
  {"SO_PEERCRED", so_peercred},
  {"MCAST_JOIN_GROUP", mcast_join},
  {"IP_ADD_MEMBERSHIP", ip_membership},
  {"IP_MULTICAST_IF", multicast_if},
  {"IP options of IPv6 sockets", ip_on_ipv6},
  {"recvmmsg", mmsg},
  {"IP_PKTINFO", ip_pktinfo},
  {"IPV6_PKTINFO", ipv6_pktinfo},
  {"UDP_GRO", udp_gro},
  {"UDP_SEGMENT", udp_segment},
  {"SCM_RIGHTS", scm_rights},
  {"SCM_RIGHTS of 253", scm_rights_many},
  {"SIOCOUTQ", siocoutq},
  {"epoll", epoll},
  {"EPOLLEXCLUSIVE", epoll_exclusive},
  {"epoll_pwait2", epoll_pwait2_},
  {"memfd_create", memfd},
  {"/proc/self/maps", proc_maps},
  {"pidfd", pidfd},
  {"PI futex", pi_futex},
  {"PR_SET_PDEATHSIG", parent_death},
  {"exec", exec_},
  {"posix_spawn's errno", spawn_errno},
  {"/proc/PID/cmdline", proc_cmdline},
  {"RLIMIT_NOFILE", rlimit_nofile},
  {"struct stat", stat_layout},
  {"SIGCHLD ignored", sigchld_ignored},
  {"netlink socket", netlink_socket},
  {"Multipath TCP socket", mptcp_socket},
  {"packet socket", packet_socket},
  {"vsock socket", vsock_socket},
  {"raw socket", raw_socket},
  {"chown to another user", chown_},
  {"the C library's path", libc_path},
};

int main(int argc, char **argv) {
  self = argv[0];
  if (argc > 1 && strcmp(argv[1], "--exec") == 0) return 42;
  if (argc > 1 && strcmp(argv[1], "--pause") == 0) {
    alarm(10);
    return write(1, "x", 1) == 1 ? pause() : 1;
  }
  for (size_t i = 0; i < sizeof PROBES / sizeof *PROBES; i++) {
    printf("%s ", PROBES[i].name);
    fflush(stdout);
    // In a process of its own: a probe can crash or hang, the emulator with it.
    pid_t pid = fork();
    if (pid == 0) {
      alarm(20);
      PROBES[i].run();
      printf("ok\n");
      fflush(stdout);
      _exit(0);
    }
    int status = 0;
    waitpid(pid, &status, 0);
    if (WIFSIGNALED(status)) printf("missing: the probe ended by signal %d\n", WTERMSIG(status));
  }
  return 0;
}
