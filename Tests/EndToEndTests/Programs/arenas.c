// SPDX-License-Identifier: Apache-2.0
// Blocks of 500 bytes made by the main thread, blocks of 300 bytes made by another thread, which has an arena of its
// own with glibc, and one block that is large enough for a mapping of its own; all of it is touched.
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { mains = 4000, others = 6000, large = 8 << 20 };
static void *blocks[mains + others];

static void *used(size_t size) { return memset(malloc(size), 1, size); }

static void *other(void *none) {
  for (int i = 0; i < others; i++) blocks[mains + i] = used(300);
  return none;
}

int main(void) {
  for (int i = 0; i < mains; i++) blocks[i] = used(500);
  pthread_t thread;
  pthread_create(&thread, NULL, other, NULL);
  pthread_join(thread, NULL);
  void *volatile single = used(large);
  printf("ready\n");
  fflush(stdout);
  getchar();
  free(single);
  return 0;
}
