// SPDX-License-Identifier: Apache-2.0
// grow [OPERATIONS]: a buffer that grows by realloc from 16 bytes to 64 KiB, each time by half, as a vector does, while
// another lives behind it in the heap; an operation is one realloc.
#include "bench.h"

static void batch(uint64_t operations, void *state) {
  (void)state;
  size_t size = 16;
  void *block = NULL, *other = NULL;
  for (uint64_t i = 0; i < operations; i++) {
    block = escape(realloc(block, size));
    size += size / 2;
    if (size > 65536) {
      free(other);
      other = block;
      block = NULL;
      size = 16;
    }
  }
  free(block);
  free(other);
}

int main(int argc, char **argv) {
  measure(count_argument(argc, argv, 1, 500000), batch, NULL);
  return 0;
}
