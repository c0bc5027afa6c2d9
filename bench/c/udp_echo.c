// The yardsticks for UDP: an echo server as a textbook writes it, with one
// system call for each datagram, and one with recvmmsg(2) and sendmmsg(2).
//
// With --sink they count what comes, and answer a datagram of one byte with the
// count; `gro` takes what arrived together as one message (UDP_GRO).
//
//   udp_echo one|many|gro [--sink]

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/udp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#define BATCH 64
#define BUFFER 2048

static void check(int good, const char *call) {
  if (good) return;
  perror(call);
  exit(1);
}

static void one(int fd) {
  static char buffer[BUFFER];
  for (;;) {
    struct sockaddr_in peer;
    socklen_t length = sizeof peer;
    ssize_t n = recvfrom(fd, buffer, sizeof buffer, 0, (struct sockaddr *)&peer, &length);
    if (n < 0) continue; // EINTR
    sendto(fd, buffer, (size_t)n, 0, (struct sockaddr *)&peer, length);
  }
}

static void many(int fd) {
  static char buffers[BATCH][BUFFER];
  static struct sockaddr_in peers[BATCH];
  static struct iovec vectors[BATCH];
  static struct mmsghdr headers[BATCH];
  for (;;) {
    for (int i = 0; i < BATCH; i++) {
      vectors[i] = (struct iovec){buffers[i], BUFFER};
      headers[i].msg_hdr = (struct msghdr){
          .msg_name = &peers[i], .msg_namelen = sizeof peers[i], .msg_iov = &vectors[i], .msg_iovlen = 1};
    }
    int n = recvmmsg(fd, headers, BATCH, MSG_WAITFORONE, NULL);
    if (n < 0) continue;
    for (int i = 0; i < n; i++) vectors[i].iov_len = headers[i].msg_len;
    for (int sent = 0; sent < n;) {
      int m = sendmmsg(fd, headers + sent, (unsigned)(n - sent), 0);
      if (m < 0 && errno != EINTR) break;
      if (m > 0) sent += m;
    }
  }
}

// The whole messages of `n`, and the answers to those who ask.
static void count(int fd, const struct mmsghdr *headers, int n, int is_gro) {
  static uint64_t received;
  for (int i = 0; i < n; i++) {
    unsigned length = headers[i].msg_len;
    const struct cmsghdr *control = is_gro ? CMSG_FIRSTHDR(&headers[i].msg_hdr) : NULL;
    int size = (int)length;
    if (control != NULL && control->cmsg_level == SOL_UDP && control->cmsg_type == UDP_GRO) memcpy(&size, CMSG_DATA(control), sizeof size);
    if (length == 1) {
      uint8_t answer[8];
      for (int byte = 0; byte < 8; byte++) answer[byte] = (uint8_t)(received >> (8 * byte));
      sendto(fd, answer, sizeof answer, 0, headers[i].msg_hdr.msg_name, headers[i].msg_hdr.msg_namelen);
    } else if (size > 0) {
      received += (length + (unsigned)size - 1) / (unsigned)size;
    }
  }
}

static void sink(int fd, int messages, int is_gro) {
  static char buffers[BATCH][65536];
  static struct sockaddr_in peers[BATCH];
  static struct iovec vectors[BATCH];
  static struct mmsghdr headers[BATCH];
  static char controls[BATCH][CMSG_SPACE(sizeof(int))];
  int on = 1;
  if (is_gro) check(setsockopt(fd, SOL_UDP, UDP_GRO, &on, sizeof on) == 0, "UDP_GRO");
  for (;;) {
    for (int i = 0; i < messages; i++) {
      vectors[i] = (struct iovec){buffers[i], is_gro ? sizeof buffers[i] : BUFFER};
      headers[i].msg_hdr = (struct msghdr){
          .msg_name = &peers[i], .msg_namelen = sizeof peers[i], .msg_iov = &vectors[i], .msg_iovlen = 1};
      if (!is_gro) continue;
      headers[i].msg_hdr.msg_control = controls[i];
      headers[i].msg_hdr.msg_controllen = sizeof controls[i];
    }
    int n = recvmmsg(fd, headers, (unsigned)messages, MSG_WAITFORONE, NULL);
    if (n > 0) count(fd, headers, n, is_gro);
  }
}

static void sink_one(int fd) {
  static char buffer[BUFFER];
  for (;;) {
    struct sockaddr_in peer;
    socklen_t length = sizeof peer;
    ssize_t n = recvfrom(fd, buffer, sizeof buffer, 0, (struct sockaddr *)&peer, &length);
    if (n < 0) continue;
    struct mmsghdr header = {.msg_len = (unsigned)n, .msg_hdr = {.msg_name = &peer, .msg_namelen = length}};
    count(fd, &header, 1, 0);
  }
}

int main(int argc, char **argv) {
  struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  socklen_t length = sizeof address;
  int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  check(fd >= 0, "socket");
  check(bind(fd, (struct sockaddr *)&address, length) == 0, "bind");
  check(getsockname(fd, (struct sockaddr *)&address, &length) == 0, "getsockname");
  printf("listening 127.0.0.1:%d\n", ntohs(address.sin_port));
  fflush(stdout);
  int is_sink = argc > 2 && strcmp(argv[2], "--sink") == 0;
  if (is_sink && strcmp(argv[1], "one") == 0) sink_one(fd);
  else if (is_sink) sink(fd, BATCH, strcmp(argv[1], "gro") == 0);
  else if (argc > 1 && strcmp(argv[1], "many") == 0) many(fd);
  else one(fd);
}
