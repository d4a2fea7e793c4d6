// Threads that start and end, four at a time, each with one block that it leaves and one that it frees:
//
//   brief THREADS
//
// says "ready", then waits for the end of its standard input.

#include <pthread.h>

#include "record.h"

static void *live(void *block) {
  *(void **)block = malloc(777);
  free(malloc(33));
  return NULL;
}

int main(int argc, char **argv) {
  if (argc != 2) record_fail("usage: brief THREADS");
  enum { AT_ONCE = 4 };
  size_t count = strtoul(argv[1], NULL, 10) / AT_ONCE * AT_ONCE;
  void **blocks = record_memory((count + 1) * sizeof *blocks);
  for (size_t begun = 0; begun < count; begun += AT_ONCE) {
    pthread_t threads[AT_ONCE];
    for (size_t i = 0; i < AT_ONCE; i++)
      if (pthread_create(&threads[i], NULL, live, &blocks[begun + i]) != 0) record_fail("cannot start a thread");
    for (size_t i = 0; i < AT_ONCE; i++) pthread_join(threads[i], NULL);
  }
  record_say("ready\n");
  char byte;
  while (read(0, &byte, 1) > 0) {}
  return 0;
}
