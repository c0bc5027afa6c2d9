// Load generator for echo servers on loopback: one thread, epoll, one line of
// JSON at the end. Any failure ends it with a message and exit code 1.
//
//   load echo  --port P [--connections N] [--size B] [--warmup MS] [--duration MS] [--pid SERVER]
//   load churn --port P [the same]      connections opened, used once and closed
//   load idle  --port P [--connections N] [--hold MS]      until stdin closes
//   load udp   --port P [as echo]       datagrams, 16 under way on each socket
//   load flood --port P [as echo] [--gso 1]   datagrams one way, as many as can be sent

#include "load.h"

#include <dirent.h>
#include <errno.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

_Noreturn void fail(const char *format, ...) {
  va_list arguments;
  va_start(arguments, format);
  fputs("load: ", stderr);
  vfprintf(stderr, format, arguments);
  fputc('\n', stderr);
  va_end(arguments);
  exit(1);
}

static uint64_t clock_ns(clockid_t clock) {
  struct timespec t;
  clock_gettime(clock, &t);
  return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

uint64_t now_ns(void) { return clock_ns(CLOCK_MONOTONIC); }

int64_t own_cpu_us(void) { return (int64_t)(clock_ns(CLOCK_PROCESS_CPUTIME_ID) / 1000); }

// What one process has used, and its children that have ended: fields 14 to 17 of proc_pid_stat(5). -1: it is gone.
static int64_t one_cpu_us(pid_t pid) {
  char path[64], text[1024];
  snprintf(path, sizeof path, "/proc/%d/stat", (int)pid);
  FILE *file = fopen(path, "r");
  if (file == NULL) return -1;
  size_t length = fread(text, 1, sizeof text - 1, file);
  fclose(file);
  text[length] = '\0';
  // The second field is the program's name and may hold spaces and brackets.
  const char *rest = strrchr(text, ')');
  unsigned long user, system;
  long ended_user, ended_system;
  if (rest == NULL || sscanf(rest + 1, " %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %lu %lu %ld %ld", &user, &system,
                             &ended_user, &ended_system) != 4)
    return -1;
  return ((int64_t)(user + system) + ended_user + ended_system) * 1000000 / sysconf(_SC_CLK_TCK);
}

// The same with children that run: each thread has a list of those that it has started.
static int64_t tree_cpu_us(pid_t pid) {
  int64_t total = one_cpu_us(pid);
  if (total < 0) return 0; // it has ended meanwhile
  char path[64 + 256];
  snprintf(path, sizeof path, "/proc/%d/task", (int)pid);
  DIR *tasks = opendir(path);
  for (struct dirent *task; tasks != NULL && (task = readdir(tasks)) != NULL;) {
    if (task->d_name[0] == '.') continue;
    snprintf(path, sizeof path, "/proc/%d/task/%s/children", (int)pid, task->d_name);
    FILE *file = fopen(path, "r");
    if (file == NULL) continue;
    for (int child; fscanf(file, "%d", &child) == 1;) total += tree_cpu_us(child);
    fclose(file);
  }
  if (tasks != NULL) closedir(tasks);
  return total;
}

int64_t process_cpu_us(pid_t pid) {
  if (pid == 0) return -1;
  if (one_cpu_us(pid) < 0) fail("the server (process %d) is gone", (int)pid);
  return tree_cpu_us(pid);
}

// What all cores did but idling, with what a hypervisor took, proc_stat(5).
int64_t machine_cpu_us(void) {
  unsigned long long user, nice, system, irq, softirq, steal;
  FILE *file = fopen("/proc/stat", "r");
  if (file == NULL) fail("cannot open /proc/stat");
  int n = fscanf(file, "cpu %llu %llu %llu %*u %*u %llu %llu %llu", &user, &nice, &system, &irq, &softirq, &steal);
  fclose(file);
  if (n != 6) fail("cannot read /proc/stat");
  return (int64_t)(user + nice + system + irq + softirq + steal) * 1000000 / sysconf(_SC_CLK_TCK);
}

static int number(const char *flag, const char *text, int least, int most) {
  char *end;
  errno = 0;
  long value = text == NULL ? 0 : strtol(text, &end, 10);
  if (text == NULL || *text == '\0' || *end != '\0' || errno != 0 || value < least || value > most)
    fail("%s takes a number from %d to %d", flag, least, most);
  return (int)value;
}

static void out_of_time(int signal) {
  (void)signal;
  static const char message[] = "load: did not end in time\n";
  if (write(2, message, sizeof message - 1) < 0) _exit(2);
  _exit(1);
}

int main(int argc, char **argv) {
  struct options o = {.connections = 100, .size = 64, .warmup_ms = 200, .duration_ms = 1000, .hold_ms = 120000};
  if (argc < 2) fail("say echo, churn, first, idle, udp or flood");
  for (int i = 2; i < argc; i += 2) {
    const char *flag = argv[i], *value = argv[i + 1];
    if (strcmp(flag, "--port") == 0) o.port = (uint16_t)number(flag, value, 1, 65535);
    else if (strcmp(flag, "--connections") == 0) o.connections = number(flag, value, 1, 1000000);
    else if (strcmp(flag, "--size") == 0) o.size = number(flag, value, 1, 1 << 20);
    else if (strcmp(flag, "--warmup") == 0) o.warmup_ms = number(flag, value, 0, 60000);
    else if (strcmp(flag, "--duration") == 0) o.duration_ms = number(flag, value, 1, 60000);
    else if (strcmp(flag, "--hold") == 0) o.hold_ms = number(flag, value, 1, 600000);
    else if (strcmp(flag, "--pid") == 0) o.pid = (pid_t)number(flag, value, 1, INT_MAX);
    else if (strcmp(flag, "--gso") == 0) o.gso = number(flag, value, 0, 1);
    else fail("unknown flag %s", flag);
  }
  if (o.port == 0) fail("--port is missing");

  struct rlimit limit;
  getrlimit(RLIMIT_NOFILE, &limit);
  limit.rlim_cur = limit.rlim_max;
  setrlimit(RLIMIT_NOFILE, &limit);
  if (limit.rlim_cur < (rlim_t)o.connections + 16)
    fail("%d connections need more than the %llu descriptors allowed", o.connections,
         (unsigned long long)limit.rlim_cur);

  signal(SIGPIPE, SIG_IGN);
  // Each phase has its own limit; this one is for what nobody thought of.
  signal(SIGALRM, out_of_time);
  alarm((unsigned)(OPEN_MS + DRAIN_MS + o.warmup_ms + o.duration_ms + o.hold_ms) / 1000 + 10);

  conn_init(o.port, o.size);
  if (strcmp(argv[1], "echo") == 0) return run_echo(&o);
  if (strcmp(argv[1], "churn") == 0) return run_churn(&o, false);
  if (strcmp(argv[1], "first") == 0) return run_churn(&o, true);
  if (strcmp(argv[1], "idle") == 0) return run_idle(&o);
  if (strcmp(argv[1], "udp") == 0) return run_udp(&o);
  if (strcmp(argv[1], "flood") == 0) return run_flood(&o);
  fail("unknown mode %s", argv[1]);
}
