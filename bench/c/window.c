// The measured time between warm-up and drain, and what is known about it.

#include "load.h"

#include <stdio.h>

void window_init(struct window *w, const struct options *o) {
  *w = (struct window){.phase = WARMING, .pid = o->pid};
  w->from_ns = now_ns() + (uint64_t)o->warmup_ms * 1000000u;
  w->to_ns = w->from_ns + (uint64_t)o->duration_ms * 1000000u;
}

void window_update(struct window *w, uint64_t now) {
  if (w->phase == WARMING && now >= w->from_ns) {
    w->phase = MEASURING;
    w->server_us = process_cpu_us(w->pid);
    w->own_us = own_cpu_us();
    w->machine_us = machine_cpu_us();
    w->from_ns = now_ns();
  } else if (w->phase == MEASURING && now >= w->to_ns) {
    w->phase = DRAINING;
    w->to_ns = now_ns();
    w->server_us = w->pid == 0 ? -1 : process_cpu_us(w->pid) - w->server_us;
    w->own_us = own_cpu_us() - w->own_us;
    w->machine_us = machine_cpu_us() - w->machine_us;
  } else if (w->phase == DRAINING && now >= w->to_ns + DRAIN_MS * 1000000ull) {
    w->phase = OVER;
  }
}

void window_print(const struct window *w, const char *mode, const struct options *o, int starved) {
  printf("{\"mode\":\"%s\",\"connections\":%d,\"size\":%d,\"seconds\":%.6f,\"count\":%llu,"
         "\"p50_us\":%.1f,\"p99_us\":%.1f,\"starved\":%d,\"sent\":%llu,\"server_cpu_us\":%lld,\"load_cpu_us\":%lld,\"machine_cpu_us\":%lld}\n",
         mode, o->connections, o->size, (double)(w->to_ns - w->from_ns) / 1e9,
         (unsigned long long)w->done, histogram_us(0.5), histogram_us(0.99), starved, (unsigned long long)w->sent,
         (long long)w->server_us, (long long)w->own_us, (long long)w->machine_us);
}
