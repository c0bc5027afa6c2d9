// The yardstick: an echo server as a textbook writes it. One thread, epoll, level
// triggered, nonblocking sockets.

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#define BUFFER (32 * 1024)
#define EVENTS 1024

// A connection, and what could not be sent yet.
struct client {
  int fd;
  size_t from, to;
  char *unsent;
};

static int epoll;

static void check(bool good, const char *call) {
  if (good) return;
  perror(call);
  exit(1);
}

static void watch(struct client *c, uint32_t events, int operation) {
  struct epoll_event event = {.events = events, .data.ptr = c};
  check(epoll_ctl(epoll, operation, c->fd, &event) == 0, "epoll_ctl");
}

static void drop(struct client *c) {
  close(c->fd); // epoll forgets it too
  free(c->unsent);
  free(c);
}

static void accept_all(int listener) {
  for (;;) {
    int fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (fd < 0 && (errno == EINTR || errno == ECONNABORTED)) continue;
    if (fd < 0 && errno == EAGAIN) return;
    check(fd >= 0, "accept4");
    struct client *c = calloc(1, sizeof *c);
    check(c != NULL, "calloc");
    c->fd = fd;
    watch(c, EPOLLIN, EPOLL_CTL_ADD);
  }
}

// The rest of a partial write waits for room; until then nothing is read.
static void keep(struct client *c, const char *bytes, size_t length) {
  c->unsent = malloc(length);
  check(c->unsent != NULL, "malloc");
  memcpy(c->unsent, bytes, length);
  c->from = 0;
  c->to = length;
  watch(c, EPOLLOUT, EPOLL_CTL_MOD);
}

static void on_readable(struct client *c) {
  static char buffer[BUFFER];
  ssize_t n = read(c->fd, buffer, sizeof buffer);
  if (n < 0 && (errno == EAGAIN || errno == EINTR)) return;
  if (n <= 0) {
    drop(c);
    return;
  }
  ssize_t sent = send(c->fd, buffer, (size_t)n, MSG_NOSIGNAL);
  if (sent < 0 && errno != EAGAIN && errno != EINTR) {
    drop(c);
    return;
  }
  if (sent < n) keep(c, buffer + (sent < 0 ? 0 : sent), (size_t)(n - (sent < 0 ? 0 : sent)));
}

static void on_writable(struct client *c) {
  ssize_t sent = send(c->fd, c->unsent + c->from, c->to - c->from, MSG_NOSIGNAL);
  if (sent < 0 && (errno == EAGAIN || errno == EINTR)) return;
  if (sent < 0) {
    drop(c);
    return;
  }
  c->from += (size_t)sent;
  if (c->from < c->to) return;
  free(c->unsent);
  c->unsent = NULL;
  watch(c, EPOLLIN, EPOLL_CTL_MOD);
}

int main(void) {
  struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  socklen_t length = sizeof address;
  int on = 1;
  int listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  check(listener >= 0, "socket");
  // Connections inherit it from the listening socket.
  check(setsockopt(listener, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on) == 0, "setsockopt");
  check(bind(listener, (struct sockaddr *)&address, length) == 0, "bind");
  check(listen(listener, SOMAXCONN) == 0, "listen");
  check(getsockname(listener, (struct sockaddr *)&address, &length) == 0, "getsockname");
  epoll = epoll_create1(EPOLL_CLOEXEC);
  check(epoll >= 0, "epoll_create1");
  struct client listening = {.fd = listener};
  watch(&listening, EPOLLIN, EPOLL_CTL_ADD);
  printf("listening 127.0.0.1:%d\n", ntohs(address.sin_port));
  fflush(stdout);

  struct epoll_event events[EVENTS];
  for (;;) { // until SIGTERM
    int n = epoll_wait(epoll, events, EVENTS, -1);
    check(n >= 0 || errno == EINTR, "epoll_wait");
    for (int i = 0; i < n; i++) {
      struct client *c = events[i].data.ptr;
      if (c == &listening) accept_all(listener);
      else if (c->unsent != NULL) on_writable(c);
      else on_readable(c);
    }
  }
}
