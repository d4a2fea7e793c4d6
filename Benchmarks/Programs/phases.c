// SPDX-License-Identifier: Apache-2.0
// phases FUNCTION SIZE COUNT PHASES: allocates COUNT blocks of SIZE bytes by malloc or calloc, frees them all,
// allocates them again, and so on, PHASES phases in all. The instructions of a run less those of a run with a phase
// less are the last phase's: of allocations alone, or of frees alone, in memory that has been used before.
#include "bench.h"

int main(int argc, char **argv) {
  int clears = argc > 1 && strcmp(argv[1], "calloc") == 0;
  size_t size = count_argument(argc, argv, 2, 64);
  uint64_t count = count_argument(argc, argv, 3, 1000), phases = count_argument(argc, argv, 4, 2);
  void **blocks = malloc(count * sizeof *blocks);
  if (blocks == NULL) return 1;
  for (uint64_t phase = 0; phase < phases; phase++) {
    if (phase % 2 == 1)
      for (uint64_t i = 0; i < count; i++) free(blocks[i]);
    else if (clears)
      for (uint64_t i = 0; i < count; i++) blocks[i] = escape(calloc(1, size));
    else
      for (uint64_t i = 0; i < count; i++) blocks[i] = escape(malloc(size));
  }
  return 0;
}
