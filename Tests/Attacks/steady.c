// SPDX-License-Identifier: Apache-2.0
// A program that others ask about: it says the address of a block of 96 bytes, then allocates and frees 100 blocks each
// millisecond.
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

int main(void) {
  char *volatile block = malloc(96);
  printf("%p\n", (void *)block);
  fflush(stdout);
  for (;;) {
    for (int size = 100; size < 200; ++size) {
      void *volatile some = malloc((size_t)size);
      free(some);
    }
    nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
  }
}
