// What the three kinds of load share: options, clocks, and one connection that
// sends a message and gets it back.
#ifndef LOAD_H
#define LOAD_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

struct options {
  uint16_t port;
  int connections;
  int size;
  int warmup_ms;
  int duration_ms;
  int hold_ms;
  pid_t pid; // the server, 0: its CPU time is not asked for
  bool gso;
};

struct conn {
  int fd;
  bool echoed; // the first message has come back, so the server has accepted
  uint32_t index;
  uint32_t count; // messages in the measured window
  uint32_t sent;
  uint32_t received;
  uint64_t sequence;
  uint64_t started_ns;
};

// More than this many unanswered at a time could overflow a server's accept
// queue (511 in some), and a SYN that is dropped comes again only after 1 s.
#define OPENING 128
#define EVENTS 1024
#define OPEN_MS 30000
#define DRAIN_MS 5000

_Noreturn void fail(const char *format, ...) __attribute__((format(printf, 1, 2)));
uint64_t now_ns(void);
int64_t own_cpu_us(void);
int64_t process_cpu_us(pid_t pid);
int64_t machine_cpu_us(void);

// conn.c
void conn_init(uint16_t port, int size);
void conn_open(struct conn *c, int epoll, uint32_t index);
void conn_start(struct conn *c, uint64_t now);
// Goes on with what is under way. True: the whole message has come back.
bool conn_advance(struct conn *c, uint32_t events);
// True: the server has closed its side too.
bool conn_ended(struct conn *c);
void open_all(struct conn *conns, int count, int epoll);

// window.c
enum phase { WARMING, MEASURING, DRAINING, OVER };
struct window {
  enum phase phase;
  pid_t pid;
  uint64_t from_ns, to_ns;
  uint64_t done;
  uint64_t sent; // one way, of which `done` have arrived
  int64_t server_us, own_us, machine_us; // CPU time
};
void window_init(struct window *w, const struct options *o);
void window_update(struct window *w, uint64_t now);
void window_print(const struct window *w, const char *mode, const struct options *o, int starved);

// histogram.c
void histogram_add(uint64_t ns);
double histogram_us(double quantile);

int run_echo(const struct options *o);
// `first`: the time of a connection is that to its answer, not to its end.
int run_churn(const struct options *o, bool first);
int run_idle(const struct options *o);
int run_udp(const struct options *o);
int run_flood(const struct options *o);

#endif
