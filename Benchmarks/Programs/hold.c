// hold SIZE COUNT: allocates COUNT blocks of SIZE bytes, prints "ready FIRST LAST" (their addresses, in hexadecimal) and
// keeps them until its standard input ends. The blocks are not written to: what is measured is the index of them.
// With SIZE 0 their sizes are random, 16 to 527 bytes, and a tenth of them is freed again.
#include "bench.h"

int main(int argc, char **argv) {
  uint64_t size = count_argument(argc, argv, 1, 24), count = count_argument(argc, argv, 2, 1000);
  uint64_t random = 88172645463325252u;
  void *first = NULL, *last = NULL;
  for (uint64_t i = 0; i < count; i++) {
    last = size == 0 ? random_block(&random) : escape(malloc(size));
    if (last == NULL) {
      fprintf(stderr, "hold: block %llu of %llu bytes could not be allocated\n", (unsigned long long)i,
              (unsigned long long)size);
      return 1;
    }
    if (first == NULL) first = last;
    if (size == 0 && i % 10 == 5) free(last);
  }
  // No buffer of stdio's own: it would be one block more than an idle process has.
  char line[80];
  int length = snprintf(line, sizeof line, "ready %llx %llx\n", (unsigned long long)(uintptr_t)first,
                        (unsigned long long)(uintptr_t)last);
  if (write(1, line, (size_t)length) != length) return 1;
  while (read(0, line, sizeof line) > 0) continue;
  return 0;
}
