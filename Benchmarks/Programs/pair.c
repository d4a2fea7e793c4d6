// SPDX-License-Identifier: Apache-2.0
// pair [OPERATIONS]: malloc(64) and free of it; an operation is the pair.
#include "bench.h"

static void batch(uint64_t operations, void *state) {
  (void)state;
  for (uint64_t i = 0; i < operations; i++) free(escape(malloc(64)));
}

int main(int argc, char **argv) {
  measure(count_argument(argc, argv, 1, 2000000), batch, NULL);
  return 0;
}
