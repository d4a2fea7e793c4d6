// SPDX-License-Identifier: Apache-2.0
// The program whose segments are stored beside this file, one for each layout version that readers take: a few blocks
// that live, a few that were freed, one after a realloc, and the end by _exit, so that nothing is given back.
//
// To store a segment, build the agent of that version, and:
//
//   cc -O0 -g -o /tmp/tiny tiny.c
//   ALLOCS_DIR=/tmp/index ALLOCS_EVENTS=1 ALLOCS_RING=16K LD_PRELOAD=…/liballocs_agent.so /tmp/tiny
//   scripts/store-segment /tmp/index/*.seg > version-N.segment

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

__attribute__((noinline)) static void *allocate(size_t size) {
  char *block = malloc(size);
  memset(block, 1, size);
  return block;
}

int main(void) {
  volatile void *kept[8];
  for (int index = 0; index < 8; index++) kept[index] = allocate(100 + 1000 * (size_t)index);
  for (int index = 0; index < 8; index += 2) free((void *)kept[index]);
  kept[1] = realloc((void *)kept[1], 5000);
  kept[0] = calloc(3, 8);
  kept[2] = aligned_alloc(4096, 8192);
  _exit(kept[0] && kept[1] && kept[2] ? 0 : 1);
}
