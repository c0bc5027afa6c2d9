// Latencies in buckets 1/32 of a power of two wide: 3 % exact, and the same cost
// for every message however many there are.

#include "load.h"

#define BITS 5

static uint64_t buckets[64 << BITS];
static uint64_t total;

void histogram_add(uint64_t ns) {
  if (ns == 0) ns = 1;
  int power = 63 - __builtin_clzll(ns);
  uint64_t part = power > BITS ? ns >> (power - BITS) : ns << (BITS - power);
  buckets[((unsigned)power << BITS) | (part & ((1u << BITS) - 1))]++;
  total++;
}

double histogram_us(double quantile) {
  uint64_t seen = 0;
  for (unsigned i = 0; i < sizeof buckets / sizeof *buckets; i++) {
    seen += buckets[i];
    if (seen > 0 && (double)seen >= quantile * (double)total) {
      double middle = 1 + ((i & ((1u << BITS) - 1)) + 0.5) / (1u << BITS);
      return middle * (double)(1ull << (i >> BITS)) / 1000;
    }
  }
  return 0;
}
