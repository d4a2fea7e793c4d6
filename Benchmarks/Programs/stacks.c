// SPDX-License-Identifier: Apache-2.0
// stacks SIZE COUNT STACKS: allocates COUNT blocks of SIZE bytes (0: 16 to 143, at random), each of which by one of
// STACKS call stacks in turns, prints "ready FIRST LAST" (their addresses, in hexadecimal) and keeps them until its
// standard input ends. The stacks differ in the ways down to the allocation: a bit of a stack's number each.
#include "bench.h"

static uint64_t random_state = 88172645463325252u;

static void *allocate(uint64_t size) {
  return malloc(size == 0 ? 16 + (next_random(&random_state) >> 32) % 128 : size);
}

static void *descend(uint64_t size, uint64_t way, uint64_t bits);

static __attribute__((noinline)) void *left(uint64_t size, uint64_t way, uint64_t bits) {
  return escape(descend(size, way, bits));
}

static __attribute__((noinline)) void *right(uint64_t size, uint64_t way, uint64_t bits) {
  return escape(descend(size, way, bits));
}

static __attribute__((noinline)) void *descend(uint64_t size, uint64_t way, uint64_t bits) {
  if (bits <= 1) return escape(allocate(size));
  return escape(way & 1 ? right(size, way >> 1, bits >> 1) : left(size, way >> 1, bits >> 1));
}

int main(int argc, char **argv) {
  uint64_t size = count_argument(argc, argv, 1, 0), count = count_argument(argc, argv, 2, 1000);
  uint64_t stacks = count_argument(argc, argv, 3, 1000);
  void *first = NULL, *last = NULL;
  for (uint64_t i = 0; i < count; i++) {
    last = descend(size, i % stacks, stacks);
    if (last == NULL) {
      fprintf(stderr, "stacks: block %llu could not be allocated\n", (unsigned long long)i);
      return 1;
    }
    if (first == NULL) first = last;
  }
  // No buffer of stdio's own: it would be one block more.
  char line[80];
  int length = snprintf(line, sizeof line, "ready %llx %llx\n", (unsigned long long)(uintptr_t)first,
                        (unsigned long long)(uintptr_t)last);
  if (write(1, line, (size_t)length) != length) return 1;
  while (read(0, line, sizeof line) > 0) continue;
  return 0;
}
