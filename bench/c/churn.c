// Connections opened, used for one message and closed, C of them at a time. They
// end as they should: the client shuts down its side, the server sees the end
// and closes, and the connection counts once the client has seen that.

#include "load.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

int run_churn(const struct options *o, bool first) {
  struct conn *conns = calloc((size_t)o->connections, sizeof *conns);
  int epoll = epoll_create1(EPOLL_CLOEXEC);
  if (conns == NULL || epoll < 0) fail("cannot start: %s", strerror(errno));

  static struct epoll_event events[EVENTS];
  struct window w;
  window_init(&w, o);
  int under_way = o->connections;
  uint32_t index = 0;
  while (index < (uint32_t)o->connections) {
    conn_open(&conns[index], epoll, index);
    index++;
  }
  while (under_way > 0) {
    int n = epoll_wait(epoll, events, EVENTS, 10);
    if (n < 0 && errno != EINTR) fail("epoll_wait: %s", strerror(errno));
    window_update(&w, now_ns());
    if (w.phase == OVER) fail("%d connections did not end", under_way);
    for (int i = 0; i < n; i++) {
      struct conn *c = events[i].data.ptr;
      if (!c->echoed) {
        if (!conn_advance(c, events[i].events)) continue;
        if (first && w.phase == MEASURING) histogram_add(now_ns() - c->started_ns);
        shutdown(c->fd, SHUT_WR);
        continue;
      }
      if (!conn_ended(c)) continue;
      close(c->fd);
      if (w.phase == MEASURING) {
        if (!first) histogram_add(now_ns() - c->started_ns);
        w.done++;
      }
      if (w.phase == DRAINING) under_way--;
      else conn_open(c, epoll, index++);
    }
  }
  window_print(&w, first ? "first" : "churn", o, 0);
  return 0;
}
