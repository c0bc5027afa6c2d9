// The yardsticks for UDP: an echo server as a textbook writes it, with one
// system call for each datagram, and one with recvmmsg(2) and sendmmsg(2).
//
//   udp_echo one | many

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
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

int main(int argc, char **argv) {
  struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  socklen_t length = sizeof address;
  int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  check(fd >= 0, "socket");
  check(bind(fd, (struct sockaddr *)&address, length) == 0, "bind");
  check(getsockname(fd, (struct sockaddr *)&address, &length) == 0, "getsockname");
  printf("listening 127.0.0.1:%d\n", ntohs(address.sin_port));
  fflush(stdout);
  if (argc > 1 && strcmp(argv[1], "many") == 0) many(fd);
  else one(fd);
}
