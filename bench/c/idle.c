// N connections that do nothing, each known to be accepted since it has had one
// answer, until stdin closes.

#include "load.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

// An event that was left over from the answer is no news.
static void expect_silence(int epoll) {
  struct epoll_event events[64];
  int n = epoll_wait(epoll, events, 64, 0);
  for (int i = 0; i < n; i++)
    if (conn_ended(events[i].data.ptr)) fail("the server closed an idle connection");
}

int run_idle(const struct options *o) {
  struct conn *conns = calloc((size_t)o->connections, sizeof *conns);
  int epoll = epoll_create1(EPOLL_CLOEXEC);
  if (conns == NULL || epoll < 0) fail("cannot start: %s", strerror(errno));
  open_all(conns, o->connections, epoll);
  printf("ready\n");
  fflush(stdout);

  uint64_t deadline = now_ns() + (uint64_t)o->hold_ms * 1000000u;
  struct pollfd waiting[] = {{.fd = 0, .events = POLLIN}, {.fd = epoll, .events = POLLIN}};
  for (;;) {
    uint64_t now = now_ns();
    if (now >= deadline) fail("stdin did not close in %d ms", o->hold_ms);
    if (poll(waiting, 2, 1000) < 0 && errno != EINTR) fail("poll: %s", strerror(errno));
    if (waiting[1].revents != 0) expect_silence(epoll);
    char byte;
    if (waiting[0].revents != 0 && read(0, &byte, 1) <= 0) break;
  }
  printf("{\"mode\":\"idle\",\"connections\":%d}\n", o->connections);
  return 0;
}
