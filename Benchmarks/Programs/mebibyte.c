// SPDX-License-Identifier: Apache-2.0
// mebibyte [OPERATIONS]: random replacement among 16 live blocks of 1 MiB, whose first byte is written; an operation is
// one free, one malloc and the write.
#include "bench.h"

enum { LIVE = 16, SIZE = 1 << 20 };
static char *blocks[LIVE];

static void batch(uint64_t operations, void *state) {
  for (uint64_t i = 0; i < operations; i++) {
    char **block = &blocks[next_random(state) >> 60];
    free(*block);
    *block = escape(malloc(SIZE));
    **block = 1;
  }
}

int main(int argc, char **argv) {
  uint64_t random = 88172645463325252u;
  for (int i = 0; i < LIVE; i++) blocks[i] = escape(malloc(SIZE));
  measure(count_argument(argc, argv, 1, 200000), batch, &random);
  return 0;
}
