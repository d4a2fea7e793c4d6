// SPDX-License-Identifier: Apache-2.0
// churn [LIVE [OPERATIONS]]: random replacement among LIVE live blocks of 16 to 527 bytes; an operation is one free and
// one malloc. The warm-up replaces each block once on average.
#include "bench.h"

struct churn {
  uint64_t random, live;
  void **blocks;
};

static void batch(uint64_t operations, void *state) {
  struct churn *churn = state;
  uint64_t random = churn->random;
  for (uint64_t i = 0; i < operations; i++) {
    void **block = &churn->blocks[random_below(&random, churn->live)];
    free(*block);
    *block = random_block(&random);
  }
  churn->random = random;
}

int main(int argc, char **argv) {
  struct churn churn = {.random = 88172645463325252u, .live = count_argument(argc, argv, 1, 1000)};
  churn.blocks = malloc(churn.live * sizeof *churn.blocks);
  for (uint64_t i = 0; i < churn.live; i++) churn.blocks[i] = random_block(&churn.random);
  batch(churn.live, &churn);
  measure(count_argument(argc, argv, 2, 1000000), batch, &churn);
  return 0;
}
