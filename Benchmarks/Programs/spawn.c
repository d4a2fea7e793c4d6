// SPDX-License-Identifier: Apache-2.0
// spawn [OPERATIONS]: starts a thread that allocates and frees one block, and joins it; an operation is one thread.
#include "bench.h"

#include <pthread.h>

static void *run(void *argument) {
  free(escape(malloc(64)));
  return argument;
}

static void batch(uint64_t operations, void *state) {
  (void)state;
  for (uint64_t i = 0; i < operations; i++) {
    pthread_t thread;
    if (pthread_create(&thread, NULL, run, NULL) != 0) {
      fprintf(stderr, "spawn: no thread could be started\n");
      exit(1);
    }
    pthread_join(thread, NULL);
  }
}

int main(int argc, char **argv) {
  measure(count_argument(argc, argv, 1, 2000), batch, NULL);
  return 0;
}
