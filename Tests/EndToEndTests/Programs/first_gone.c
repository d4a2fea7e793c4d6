// The first thread of this program ends before the others (pthread_exit in main). A worker then allocates, prints
// "NAME ADDRESS SIZE" a line and "ready", and works until the end of standard input.

#include "record.h"
#include <pthread.h>

int static_variable[10] = {1, 2, 3};

__attribute__((noinline)) void *allocate_late(size_t size) { void *p = malloc(size); KEEP(p); return p; }

static void name(const char *what, const void *address, size_t size) {
  record_say("%s %llu %zu\n", what, (unsigned long long)(uintptr_t)address, size);
}

static int first_has_ended(void) {
  char path[64], state[256] = "";
  snprintf(path, sizeof path, "/proc/%d/stat", getpid());
  int file = open(path, O_RDONLY | O_CLOEXEC);
  if (file < 0 || read(file, state, sizeof state - 1) <= 0) record_fail("no /proc/PID/stat");
  close(file);
  return strstr(state, ") Z ") != NULL;
}

static void *churn(void *unused) {
  (void)unused;
  for (;;) {
    free(allocate_late(50));
    usleep(5000);
  }
  return NULL;
}

static void *work(void *unused) {
  (void)unused;
  while (!first_has_ended()) usleep(1000);
  char on_stack[64];
  memset(on_stack, 1, sizeof on_stack);
  void *block = allocate_late(777);
  void *mapping = mmap(NULL, 1 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  pthread_t other;
  pthread_create(&other, NULL, churn, NULL);
  name("block", block, 777);
  name("static", static_variable, sizeof static_variable);
  name("mapping", mapping, 1 << 20);
  name("stack", on_stack, sizeof on_stack);
  name("code", (const void *)(uintptr_t)work, 1);
  record_say("ready\n");
  char byte;
  while (read(0, &byte, 1) > 0) {}
  _exit(on_stack[3] == 1 ? 0 : 1);
}

int main(void) {
  pthread_t thread;
  pthread_create(&thread, NULL, work, NULL);
  pthread_exit(NULL);
}
