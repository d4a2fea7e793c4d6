// Forks a child, which forks a child, in each of which an allocation is made. The last of them prints "NAME ADDRESS SIZE" a line,
// the first with its process id as address, then "ready", and works until the end of standard input.

#include "record.h"
#include <poll.h>
#include <sys/wait.h>

int static_variable[10] = {1, 2, 3};

__attribute__((noinline)) void *allocate_in(size_t size) { void *p = malloc(size); KEEP(p); return p; }

static void name(const char *what, const void *address, size_t size) {
  record_say("%s %llu %zu\n", what, (unsigned long long)(uintptr_t)address, size);
}

int main(int argc, char **argv) {
  int generations = argc > 1 ? atoi(argv[1]) : 2;
  char on_stack[64];
  memset(on_stack, 1, sizeof on_stack);
  void *block = allocate_in(1000);
  for (int generation = 1; generation <= generations; ++generation) {
    pid_t child = fork();
    if (child < 0) record_fail("fork");
    if (child > 0) {
      int status = 0;
      while (waitpid(child, &status, 0) < 0) {}
      return status != 0;
    }
    block = allocate_in(1000 + generation);
  }
  name("process", (void *)(uintptr_t)getpid(), 0);
  name("block", block, 1000 + generations);
  name("static", static_variable, sizeof static_variable);
  name("stack", on_stack, sizeof on_stack);
  record_say("ready\n");
  char byte;
  for (;;) {
    struct pollfd request = {.fd = 0, .events = POLLIN};
    if (poll(&request, 1, 20) > 0 && read(0, &byte, 1) <= 0) break;
    free(allocate_in(2000));
  }
  return on_stack[3] == 1 ? 0 : 1;
}
