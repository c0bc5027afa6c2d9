/*
 * A cable between two network namespaces that treats packets as badly as it is
 * told to: it loses, delays, swaps and doubles them, both ways alike. Made of
 * two TUN devices (Documentation/networking/tuntap.rst), since not every
 * kernel has netem.
 *
 *     cable HERE NETNS THERE LOSS% DELAY_MS JITTER_MS DUPLICATE% SEED
 *
 * It says "ready" once both devices are there, and ends at end-of-file on its
 * standard input with the counts of what it has done, as JSON.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <poll.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

enum { MOST = 8192, LARGEST = 2048 };

struct packet {
  double due;
  int to;
  int length;
  char data[LARGEST];
};

static struct packet *queue[MOST];
static int queued;

static void fail(const char *what) {
  perror(what);
  exit(1);
}

static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec * 1e3 + t.tv_nsec / 1e6;
}

static int hits(double percent) { return drand48() * 100 < percent; }

static int device(const char *name) {
  struct ifreq request;
  memset(&request, 0, sizeof request);
  request.ifr_flags = IFF_TUN | IFF_NO_PI;
  strncpy(request.ifr_name, name, IFNAMSIZ - 1);
  int fd = open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC);
  if (fd < 0 || ioctl(fd, TUNSETIFF, &request) < 0) fail(name);
  return fd;
}

/* Sorted by when they are due; what comes last goes where it belongs. */
static void put(const struct packet *from, double due) {
  if (queued == MOST) return;
  struct packet *packet = malloc(sizeof *packet);
  if (packet == NULL) fail("malloc");
  memcpy(packet, from, sizeof *packet);
  packet->due = due;
  int at = queued++;
  for (; at > 0 && queue[at - 1]->due > due; at--) queue[at] = queue[at - 1];
  queue[at] = packet;
}

int main(int count, char **args) {
  if (count != 9) return 2;
  double loss = atof(args[4]), delay = atof(args[5]), jitter = atof(args[6]), duplicate = atof(args[7]);
  srand48(atol(args[8]));
  int home = open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC), there = open(args[2], O_RDONLY | O_CLOEXEC);
  if (home < 0 || there < 0) fail(args[2]);
  int ends[2];
  ends[0] = device(args[1]);
  if (setns(there, CLONE_NEWNET) < 0) fail("setns");
  ends[1] = device(args[3]);
  if (setns(home, CLONE_NEWNET) < 0) fail("setns");
  puts("ready");
  fflush(stdout);

  long passed = 0, lost = 0, doubled = 0;
  struct pollfd watched[3] = {{ends[0], POLLIN, 0}, {ends[1], POLLIN, 0}, {0, POLLIN, 0}};
  while (1) {
    int wait = queued == 0 ? 1000 : (int)(queue[0]->due - now() + 0.999);
    if (poll(watched, 3, wait < 0 ? 0 : wait) < 0) fail("poll");
    char byte;
    if (watched[2].revents != 0 && read(0, &byte, 1) == 0) break;
    for (int i = 0; i < 2; i++) {
      static struct packet packet;
      while ((packet.length = read(ends[i], packet.data, LARGEST)) > 0) {
        packet.to = ends[1 - i];
        if (hits(loss)) {
          lost++;
          continue;
        }
        put(&packet, now() + delay + drand48() * jitter);
        if (hits(duplicate)) {
          doubled++;
          put(&packet, now() + delay + drand48() * jitter);
        }
      }
    }
    while (queued > 0 && queue[0]->due <= now()) {
      struct packet *packet = queue[0];
      if (write(packet->to, packet->data, packet->length) == packet->length) passed++;
      memmove(queue, queue + 1, --queued * sizeof *queue);
      free(packet);
    }
  }
  printf("{\"passed\": %ld, \"lost\": %ld, \"doubled\": %ld}\n", passed, lost, doubled);
  return 0;
}
