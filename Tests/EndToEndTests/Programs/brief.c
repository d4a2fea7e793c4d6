// Threads as fast as the machine starts and ends them, each with one block that it leaves and one that it frees:
//
//   brief MILLISECONDS
//
// says "THREADS MICROSECONDS" and "ready", then waits for the end of its standard input.

#include <pthread.h>
#include <time.h>

#include "record.h"

static void *live(void *block) {
  *(void **)block = malloc(777);
  free(malloc(33));
  return NULL;
}

static long long microseconds(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return now.tv_sec * 1000000LL + now.tv_nsec / 1000;
}

int main(int argc, char **argv) {
  if (argc != 2) record_fail("usage: brief MILLISECONDS");
  enum { LIMIT = 1 << 20, AT_ONCE = 4 };
  void **blocks = record_memory(LIMIT * sizeof *blocks);
  long long begin = microseconds(), duration = atoll(argv[1]) * 1000;
  size_t count = 0;
  while (microseconds() - begin < duration && count + AT_ONCE <= LIMIT) {
    pthread_t threads[AT_ONCE];
    for (int i = 0; i < AT_ONCE; i++)
      if (pthread_create(&threads[i], NULL, live, &blocks[count + (size_t)i]) != 0) record_fail("cannot start a thread");
    for (int i = 0; i < AT_ONCE; i++) pthread_join(threads[i], NULL);
    count += AT_ONCE;
  }
  record_say("%zu %lld\n", count, microseconds() - begin);
  record_say("ready\n");
  char byte;
  while (read(0, &byte, 1) > 0) {}
  return 0;
}
