// SPDX-License-Identifier: Apache-2.0
// Fills memory with blocks of two functions in turns, touches it all, and frees those of one: of 64 blocks of 256 bytes
// one lives, so every fourth page has one live block, and the pages between have none.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { count = 64000, every = 64, size = 256 };

static void *used(void *block) {
  memset(block, 1, size);
  return block;
}
__attribute__((noinline)) static void *keep(void) { return used(malloc(size)); }
__attribute__((noinline)) static void *drop(void) { return used(malloc(size)); }

int main(void) {
  static void *blocks[count];
  for (int i = 0; i < count; i++) blocks[i] = i % every == 0 ? keep() : drop();
  // Memory that was asked for and never touched.
  void *volatile untouched = malloc(8 << 20);
  for (int i = 0; i < count; i++) {
    if (i % every != 0) free(blocks[i]);
  }
  printf("ready\n");
  fflush(stdout);
  getchar();
  free(untouched);
  return 0;
}
