// SPDX-License-Identifier: Apache-2.0
// hold SIZE COUNT [KEPT]: allocates COUNT blocks of SIZE bytes, prints "ready FIRST LAST" (their addresses, in
// hexadecimal) and keeps them until its standard input ends. The blocks are not written to: what is measured is the
// index of them. With SIZE 0 their sizes are random, 16 to 143 bytes, and a tenth of them is freed again, scattered.
// With KEPT all blocks but the first KEPT are freed at the end; SIZE must be at least 8, to chain them.
#include "bench.h"

int main(int argc, char **argv) {
  uint64_t size = count_argument(argc, argv, 1, 24), count = count_argument(argc, argv, 2, 1000);
  uint64_t kept = count_argument(argc, argv, 3, count), random = 88172645463325252u;
  void *first = NULL, *last = NULL, *unwanted = NULL;
  for (uint64_t i = 0; i < count; i++) {
    last = escape(malloc(size == 0 ? 16 + (next_random(&random) >> 32) % 128 : size));
    if (last == NULL) {
      fprintf(stderr, "hold: block %llu of %llu bytes could not be allocated\n", (unsigned long long)i,
              (unsigned long long)size);
      return 1;
    }
    if (first == NULL) first = last;
    if (i >= kept) {
      *(void **)last = unwanted;
      unwanted = last;
    } else if (size == 0 && i % 10 == 5) {
      free(last);
    }
  }
  while (unwanted != NULL) {
    void *next = *(void **)unwanted;
    free(unwanted);
    unwanted = next;
  }
  // No buffer of stdio's own: it would be one block more than an idle process has.
  char line[80];
  int length = snprintf(line, sizeof line, "ready %llx %llx\n", (unsigned long long)(uintptr_t)first,
                        (unsigned long long)(uintptr_t)last);
  if (write(1, line, (size_t)length) != length) return 1;
  while (read(0, line, sizeof line) > 0) continue;
  return 0;
}
