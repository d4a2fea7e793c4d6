// SPDX-License-Identifier: Apache-2.0
// backtrace DEPTH [OPERATIONS]: libunwind's unw_backtrace at DEPTH of the call stack, always the same call, the fastest
// that libunwind has; an operation is one stack. Fails if the stack that it gives has not DEPTH frames.
#include "bench.h"
#include "depth.h"

#define UNW_LOCAL_ONLY
#include <libunwind.h>

static uint64_t operations;
static int depth;

FRAME void loop(struct descent *descent) {
  (void)descent;
  void *addresses[128];
  struct batches batches = {0};
  while (next_batch(&batches, operations))
    for (uint64_t i = 0; i < operations; i++) {
      int count = unw_backtrace(addresses, 128);
      if (count != depth) {
        fprintf(stderr, "backtrace: unw_backtrace gave %d frames instead of %d\n", count, depth);
        exit(1);
      }
    }
}

int main(int argc, char **argv) {
  depth = (int)count_argument(argc, argv, 1, 25);
  operations = count_argument(argc, argv, 2, 100000);
  descend(depth - OUTER_FRAMES - 1, loop);
  return 0;
}
