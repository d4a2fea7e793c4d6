// A program with one address of each kind, for queries: it prints "NAME ADDRESS SIZE" a line, then "ready", then waits for
// the end of its standard input.

#include "record.h"

int static_variable[10] = {1, 2, 3};

__attribute__((noinline)) void *allocate_for_query(size_t size) { void *p = malloc(size); KEEP(p); return p; }
__attribute__((noinline)) void *zeroed_for_query(size_t size) { void *p = calloc(1, size); KEEP(p); return p; }

static void name(const char *what, const void *address, size_t size) {
  record_say("%s %llu %zu\n", what, (unsigned long long)(uintptr_t)address, size);
}

int main(void) {
  char on_stack[64];
  memset(on_stack, 1, sizeof on_stack);
  // Blocks of their own size class on both sides, so that the freed one is not merged or handed out again.
  void *block = allocate_for_query(1000);
  void *neighbour = allocate_for_query(1000);
  void *freed = allocate_for_query(1000);
  void *last = allocate_for_query(1000);
  void *zeroed = zeroed_for_query(5000);
  void *empty = allocate_for_query(0);
  void *large = allocate_for_query(300u << 20);
  void *mapping = mmap(NULL, 1 << 20, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  void *hole = mmap(NULL, 1 << 20, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  munmap(hole, 1 << 20);
  free(freed);
  name("block", block, 1000);
  name("neighbour", neighbour, 1000);
  name("freed", freed, 1000);
  name("last", last, 1000);
  name("zeroed", zeroed, 5000);
  name("empty", empty, 0);
  name("large", large, 300u << 20);
  name("static", static_variable, sizeof static_variable);
  name("stack", on_stack, sizeof on_stack);
  name("mapping", mapping, 1 << 20);
  name("unmapped", hole, 1 << 20);
  name("code", (const void *)(uintptr_t)main, 1);
  record_say("ready\n");
  char byte;
  while (read(0, &byte, 1) > 0) {}
  return on_stack[3] == 1 ? 0 : 1;
}
