// Datagrams sent one way as fast as one thread can, from several sockets. The
// server counts them; asked with a datagram of one byte it answers with the
// count, 8 bytes, least significant first.

#define _GNU_SOURCE
#include "load.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/udp.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define BATCH 64
#define LARGEST 65507
#define ANSWER_MS 100
#define ASK 50

static int open_socket(uint16_t port) {
  struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  if (fd < 0 || connect(fd, (struct sockaddr *)&address, sizeof address) != 0) fail("cannot open a socket: %s", strerror(errno));
  return fd;
}

// What the server has counted. Datagrams keep their order, so it has taken all that was sent before.
static uint64_t count_of(int fd) {
  for (int i = 0; i < ASK; i++) {
    uint8_t answer[8];
    while (recv(fd, answer, sizeof answer, MSG_DONTWAIT) >= 0) {
    }
    if (send(fd, "?", 1, 0) < 0 && errno != ECONNREFUSED) fail("send: %s", strerror(errno));
    struct pollfd wait = {.fd = fd, .events = POLLIN};
    if (poll(&wait, 1, ANSWER_MS) != 1) continue;
    if (recv(fd, answer, sizeof answer, MSG_DONTWAIT) != sizeof answer) continue;
    uint64_t count = 0;
    for (int byte = 7; byte >= 0; byte--) count = count << 8 | answer[byte];
    return count;
  }
  fail("the server does not tell its count");
}

// Sends until a time has come, and returns how many datagrams that were.
static uint64_t flood(const int *sockets, int count, struct mmsghdr *headers, int messages, int each, uint64_t until) {
  uint64_t sent = 0;
  for (int i = 0; now_ns() < until; i++) {
    int n = sendmmsg(sockets[i % count], headers, (unsigned)messages, 0);
    if (n < 0 && errno != EINTR && errno != ECONNREFUSED && errno != ENOBUFS) fail("sendmmsg: %s", strerror(errno));
    if (n > 0) sent += (uint64_t)n * (uint64_t)each;
  }
  return sent;
}

int run_flood(const struct options *o) {
  int each = o->gso ? LARGEST / o->size : 1;
  if (each > BATCH) each = BATCH;
  int messages = o->gso ? 1 : BATCH;
  uint8_t *data = malloc((size_t)o->size * (size_t)each);
  int *sockets = malloc((size_t)o->connections * sizeof *sockets);
  if (data == NULL || sockets == NULL || o->size < 2) fail("no memory, or datagrams that are too small");
  memset(data, 'x', (size_t)o->size * (size_t)each);
  for (int i = 0; i < o->connections; i++) sockets[i] = open_socket(o->port);
  int asking = open_socket(o->port);

  static struct iovec vector;
  static struct mmsghdr headers[BATCH];
  static union { struct cmsghdr header; char room[CMSG_SPACE(sizeof(uint16_t))]; } control;
  vector = (struct iovec){data, (size_t)o->size * (size_t)each};
  control.header = (struct cmsghdr){.cmsg_level = SOL_UDP, .cmsg_type = UDP_SEGMENT, .cmsg_len = CMSG_LEN(sizeof(uint16_t))};
  uint16_t size = (uint16_t)o->size;
  memcpy(CMSG_DATA(&control.header), &size, sizeof size);
  for (int i = 0; i < messages; i++) {
    headers[i].msg_hdr = (struct msghdr){.msg_iov = &vector, .msg_iovlen = 1};
    if (!o->gso) continue;
    headers[i].msg_hdr.msg_control = &control;
    headers[i].msg_hdr.msg_controllen = sizeof control;
  }

  struct window w = {.pid = o->pid};
  flood(sockets, o->connections, headers, messages, each, now_ns() + (uint64_t)o->warmup_ms * 1000000u);
  uint64_t before = count_of(asking);
  w.server_us = process_cpu_us(w.pid);
  w.own_us = own_cpu_us();
  w.machine_us = machine_cpu_us();
  w.from_ns = now_ns();
  uint64_t sent = flood(sockets, o->connections, headers, messages, each, w.from_ns + (uint64_t)o->duration_ms * 1000000u);
  w.to_ns = now_ns();
  w.done = count_of(asking) - before;
  w.server_us = w.pid == 0 ? -1 : process_cpu_us(w.pid) - w.server_us;
  w.own_us = own_cpu_us() - w.own_us;
  w.machine_us = machine_cpu_us() - w.machine_us;
  if (w.done > sent) fail("the server counted %llu of %llu", (unsigned long long)w.done, (unsigned long long)sent);
  w.sent = sent;
  window_print(&w, "flood", o, (int)(sent - w.done));
  return 0;
}
