// N connected UDP sockets, each with a window of datagrams under way, for a
// fixed time. One that has not come back within LOST_MS is sent again, and
// counts as lost.

#define _GNU_SOURCE
#include "load.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#define WINDOW 16
#define LOST_MS 200

// The head of each datagram; the rest is a pattern.
struct head {
  uint32_t socket, slot;
  uint64_t sequence;
};

struct sender {
  int fd;
  uint64_t sequence[WINDOW], sent_ns[WINDOW];
};

static uint8_t *out[WINDOW], *in[WINDOW];
static struct iovec out_vector[WINDOW], in_vector[WINDOW];
static struct mmsghdr out_header[WINDOW], in_header[WINDOW];
static int size;

static void fill(int position, uint32_t index, uint32_t slot, struct sender *s, uint64_t now) {
  struct head head = {index, slot, ++s->sequence[slot]};
  memcpy(out[position], &head, sizeof head);
  s->sent_ns[slot] = now;
}

static void send_all(struct sender *s, int count) {
  for (int sent = 0; sent < count;) {
    int n = sendmmsg(s->fd, out_header + sent, (unsigned)(count - sent), 0);
    if (n < 0 && errno != EINTR && errno != ECONNREFUSED && errno != EAGAIN) fail("sendmmsg: %s", strerror(errno));
    if (n > 0) sent += n;
  }
}

// Takes what has come back and sends as many anew.
static void take(struct sender *s, uint32_t index, struct window *w) {
  int n = recvmmsg(s->fd, in_header, WINDOW, MSG_DONTWAIT, NULL);
  if (n < 0 && (errno == EAGAIN || errno == EINTR || errno == ECONNREFUSED)) return;
  if (n < 0) fail("recvmmsg: %s", strerror(errno));
  uint64_t now = now_ns();
  int again = 0;
  for (int i = 0; i < n; i++) {
    struct head head;
    if ((int)in_header[i].msg_len != size) fail("an answer of %u bytes", in_header[i].msg_len);
    memcpy(&head, in[i], sizeof head);
    if (head.socket != index || head.slot >= WINDOW) fail("an answer for another socket");
    if (memcmp(in[i] + sizeof head, out[0] + sizeof head, (size_t)size - sizeof head) != 0) fail("an answer that was changed");
    if (head.sequence != s->sequence[head.slot]) continue; // it was given up
    if (w->phase == MEASURING) {
      histogram_add(now - s->sent_ns[head.slot]);
      w->done++;
    }
    fill(again++, index, head.slot, s, now);
  }
  if (w->phase != DRAINING) send_all(s, again);
}

int run_udp(const struct options *o) {
  size = o->size < (int)sizeof(struct head) ? (int)sizeof(struct head) : o->size;
  for (int i = 0; i < WINDOW; i++) {
    out[i] = malloc((size_t)size);
    in[i] = malloc((size_t)size);
    if (out[i] == NULL || in[i] == NULL) fail("no memory");
    for (int j = 0; j < size; j++) out[i][j] = (uint8_t)(j * 7);
    out_vector[i] = (struct iovec){out[i], (size_t)size};
    in_vector[i] = (struct iovec){in[i], (size_t)size};
    out_header[i].msg_hdr = (struct msghdr){.msg_iov = &out_vector[i], .msg_iovlen = 1};
    in_header[i].msg_hdr = (struct msghdr){.msg_iov = &in_vector[i], .msg_iovlen = 1};
  }
  struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(o->port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  struct sender *senders = calloc((size_t)o->connections, sizeof *senders);
  int epoll = epoll_create1(EPOLL_CLOEXEC);
  if (senders == NULL || epoll < 0) fail("cannot start: %s", strerror(errno));
  for (int i = 0; i < o->connections; i++) {
    senders[i].fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    struct epoll_event event = {.events = EPOLLIN, .data.u32 = (uint32_t)i};
    if (senders[i].fd < 0 || connect(senders[i].fd, (struct sockaddr *)&address, sizeof address) != 0 ||
        epoll_ctl(epoll, EPOLL_CTL_ADD, senders[i].fd, &event) != 0)
      fail("cannot open a socket: %s", strerror(errno));
  }

  static struct epoll_event events[EVENTS];
  struct window w;
  window_init(&w, o);
  int lost = 0;
  for (int i = 0; i < o->connections; i++) {
    for (uint32_t slot = 0; slot < WINDOW; slot++) fill((int)slot, (uint32_t)i, slot, &senders[i], now_ns());
    send_all(&senders[i], WINDOW);
  }
  uint64_t checked = now_ns();
  while (w.phase != DRAINING) {
    int n = epoll_wait(epoll, events, EVENTS, 10);
    if (n < 0 && errno != EINTR) fail("epoll_wait: %s", strerror(errno));
    for (int i = 0; i < n; i++) take(&senders[events[i].data.u32], events[i].data.u32, &w);
    uint64_t now = now_ns();
    window_update(&w, now);
    if (now - checked < 20 * 1000000ull) continue;
    checked = now;
    for (int i = 0; i < o->connections; i++) {
      int again = 0;
      for (uint32_t slot = 0; slot < WINDOW; slot++) {
        if (now - senders[i].sent_ns[slot] < LOST_MS * 1000000ull) continue;
        if (w.phase == MEASURING) lost++;
        fill(again++, (uint32_t)i, slot, &senders[i], now);
      }
      send_all(&senders[i], again);
    }
  }
  usleep(20000); // the last answers, so that the next one finds the server at rest
  window_print(&w, "udp", o, lost);
  return 0;
}
