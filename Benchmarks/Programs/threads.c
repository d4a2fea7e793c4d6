// SPDX-License-Identifier: Apache-2.0
// threads [OPERATIONS]: two threads, each on its own processor, each in a loop of one pair (malloc(64), free) and one
// replacement among its own 1,000 live blocks; an operation is one turn of the loop, timed from the moment when both
// have started until both have ended.
#include "bench.h"

#include <pthread.h>

enum { THREADS = 2, LIVE = 1000 };

static pthread_barrier_t turn;
static uint64_t operations;

static void *run(void *argument) {
  uint64_t random = 88172645463325252u + (uintptr_t)argument;
  void *blocks[LIVE];
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET((int)(uintptr_t)argument, &set);
  sched_setaffinity(0, sizeof set, &set);  // on a machine with one processor this fails, and the threads share it
  for (int i = 0; i < LIVE; i++) blocks[i] = random_block(&random);
  for (int batch = 0; batch <= BATCHES; batch++) {
    pthread_barrier_wait(&turn);
    for (uint64_t i = 0; i < operations; i++) {
      free(escape(malloc(64)));
      void **block = &blocks[random_below(&random, LIVE)];
      free(*block);
      *block = random_block(&random);
    }
    pthread_barrier_wait(&turn);
  }
  for (int i = 0; i < LIVE; i++) free(blocks[i]);
  return NULL;
}

int main(int argc, char **argv) {
  double elapsed[BATCHES + 1], cpu[BATCHES + 1];
  pthread_t threads[THREADS];
  operations = count_argument(argc, argv, 1, 1000000);
  pthread_barrier_init(&turn, NULL, THREADS + 1);
  for (uintptr_t i = 0; i < THREADS; i++) pthread_create(&threads[i], NULL, run, (void *)i);
  for (int batch = 0; batch <= BATCHES; batch++) {  // the first is the warm-up
    pthread_barrier_wait(&turn);
    double elapsed_before = nanoseconds(CLOCK_MONOTONIC), cpu_before = nanoseconds(CLOCK_PROCESS_CPUTIME_ID);
    pthread_barrier_wait(&turn);
    elapsed[batch] = (nanoseconds(CLOCK_MONOTONIC) - elapsed_before) / (double)operations;
    cpu[batch] = (nanoseconds(CLOCK_PROCESS_CPUTIME_ID) - cpu_before) / (double)operations / THREADS;
  }
  for (int i = 0; i < THREADS; i++) pthread_join(threads[i], NULL);
  printf("elapsed %.4f cpu %.4f\n", median(elapsed + 1, BATCHES), median(cpu + 1, BATCHES));
  return 0;
}
