// One connection with at most one message under way. Registered once and edge
// triggered, so that the generator makes two system calls a message: send, recv.

#include "load.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

// 28,000 ports and less belong to one source address; connections that were
// closed keep theirs for a while.
#define SOURCES 200

static uint16_t server_port;
static int message_size;
static int stamp_size;
static unsigned char *message; // what is sent: a stamp of its own, then a pattern
static unsigned char *input;

void conn_init(uint16_t port, int size) {
  server_port = port;
  message_size = size;
  stamp_size = size < 8 ? size : 8;
  message = malloc((size_t)size);
  input = malloc((size_t)size + 1);
  if (message == NULL || input == NULL) fail("out of memory");
  for (int i = 0; i < size; i++) message[i] = (unsigned char)(i * 31 + (i >> 8) * 7);
}

// Tells the messages of all connections apart, so that bytes which end up with
// the wrong connection are seen.
static void stamp(const struct conn *c) {
  uint64_t value = ((uint64_t)c->index << 40) ^ c->sequence;
  memcpy(message, &value, (size_t)stamp_size);
}

void conn_open(struct conn *c, int epoll, uint32_t index) {
  int on = 1;
  memset(c, 0, sizeof *c);
  c->index = index;
  c->started_ns = now_ns();
  c->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  if (c->fd < 0) fail("cannot open socket %u: %s", index, strerror(errno));
  // The port is chosen at connect, when the four-tuple is known.
  setsockopt(c->fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &on, sizeof on);
  setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
  struct sockaddr_in address = {.sin_family = AF_INET};
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK + index % SOURCES);
  if (bind(c->fd, (struct sockaddr *)&address, sizeof address) < 0)
    fail("cannot bind connection %u: %s", index, strerror(errno));
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  address.sin_port = htons(server_port);
  if (connect(c->fd, (struct sockaddr *)&address, sizeof address) < 0 && errno != EINPROGRESS)
    fail("cannot connect %u: %s", index, strerror(errno));
  struct epoll_event event = {.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET, .data.ptr = c};
  if (epoll_ctl(epoll, EPOLL_CTL_ADD, c->fd, &event) < 0) fail("epoll_ctl: %s", strerror(errno));
}

static void conn_send(struct conn *c) {
  if (c->sent == (uint32_t)message_size) return;
  stamp(c);
  ssize_t n = send(c->fd, message + c->sent, (size_t)message_size - c->sent, MSG_NOSIGNAL);
  if (n >= 0) c->sent += (uint32_t)n;
  else if (errno != EAGAIN) fail("connection %u: send: %s", c->index, strerror(errno));
}

void conn_start(struct conn *c, uint64_t now) {
  c->sequence++;
  c->sent = c->received = 0;
  c->started_ns = now;
  conn_send(c);
}

bool conn_advance(struct conn *c, uint32_t events) {
  if (events & EPOLLOUT) conn_send(c);
  if (!(events & (EPOLLIN | EPOLLRDHUP | EPOLLERR | EPOLLHUP))) return false;
  // One byte more than is due: less than asked for means that the socket is
  // empty, and a byte too many is noticed.
  size_t due = (size_t)message_size - c->received;
  ssize_t n = recv(c->fd, input, due + 1, 0);
  if (n < 0 && errno == EAGAIN) return false;
  if (n < 0) fail("connection %u: %s", c->index, strerror(errno));
  if (n == 0) fail("connection %u: closed by the server", c->index);
  if ((size_t)n > due) fail("connection %u: more bytes came back than were sent", c->index);
  stamp(c);
  if (c->received + (uint32_t)n > c->sent || memcmp(input, message + c->received, (size_t)n) != 0)
    fail("connection %u: other bytes came back than were sent", c->index);
  c->received += (uint32_t)n;
  if (c->received < (uint32_t)message_size) return false;
  c->echoed = true;
  return true;
}

bool conn_ended(struct conn *c) {
  ssize_t n = recv(c->fd, input, 1, 0);
  if (n < 0 && errno == EAGAIN) return false;
  if (n < 0) fail("connection %u: %s", c->index, strerror(errno));
  if (n > 0) fail("connection %u: bytes came after the last message", c->index);
  return true;
}

void open_all(struct conn *conns, int count, int epoll) {
  struct epoll_event events[OPENING];
  uint64_t deadline = now_ns() + OPEN_MS * 1000000ull;
  int opened = 0, echoed = 0;
  while (echoed < count) {
    while (opened < count && opened - echoed < OPENING) {
      conn_open(&conns[opened], epoll, (uint32_t)opened);
      opened++;
    }
    int n = epoll_wait(epoll, events, OPENING, 100);
    if (n < 0 && errno != EINTR) fail("epoll_wait: %s", strerror(errno));
    for (int i = 0; i < n; i++)
      if (conn_advance(events[i].data.ptr, events[i].events)) echoed++;
    if (now_ns() > deadline) fail("%d of %d connections had an answer in %d s", echoed, count, OPEN_MS / 1000);
  }
}
