// N connections, each with exactly one message under way, for a fixed time.

#include "load.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>

int run_echo(const struct options *o) {
  struct conn *conns = calloc((size_t)o->connections, sizeof *conns);
  int epoll = epoll_create1(EPOLL_CLOEXEC);
  if (conns == NULL || epoll < 0) fail("cannot start: %s", strerror(errno));
  open_all(conns, o->connections, epoll);

  static struct epoll_event events[EVENTS];
  struct window w;
  window_init(&w, o);
  int under_way = o->connections;
  for (int i = 0; i < o->connections; i++) conn_start(&conns[i], now_ns());
  while (under_way > 0) {
    int n = epoll_wait(epoll, events, EVENTS, 10);
    if (n < 0 && errno != EINTR) fail("epoll_wait: %s", strerror(errno));
    window_update(&w, now_ns());
    if (w.phase == OVER) fail("%d messages did not come back", under_way);
    for (int i = 0; i < n; i++) {
      struct conn *c = events[i].data.ptr;
      if (!conn_advance(c, events[i].events)) continue;
      uint64_t now = now_ns();
      if (w.phase == MEASURING) {
        histogram_add(now - c->started_ns);
        c->count++;
        w.done++;
      }
      if (w.phase == DRAINING) under_way--;
      else conn_start(c, now);
    }
  }
  int starved = 0;
  for (int i = 0; i < o->connections; i++) starved += conns[i].count == 0;
  window_print(&w, "echo", o, starved);
  return 0;
}
