// SPDX-License-Identifier: Apache-2.0
// Allocates in two phases, from functions of their own; each phase ends with a line of addresses, and the next one
// begins when a line comes.
#include <stdio.h>
#include <stdlib.h>

enum { first_count = 300, second_count = 70 };

// A store behind the call keeps the function's frame: a jump to malloc would leave none.
static void *used(void *block) {
  *(volatile char *)block = 1;
  return block;
}
__attribute__((noinline)) static void *in_first(size_t size) { return used(malloc(size)); }
__attribute__((noinline)) static void *in_second(size_t size) { return used(calloc(1, size)); }

static void **blocks;

__attribute__((noinline)) static void first_phase(void) {
  for (int i = 0; i < first_count; i++) blocks[i] = in_first(1000);
}

__attribute__((noinline)) static void second_phase(void) {
  for (int i = 0; i < second_count; i++) blocks[first_count + i] = in_second(500 + (size_t)i);
}

static void tell(int from, int to) {
  for (int i = from; i < to; i++) printf("%p ", blocks[i]);
  printf("\n");
  fflush(stdout);
  getchar();
}

int main(void) {
  // No block of the C library's own comes in between.
  static char buffer[1 << 16];
  setvbuf(stdout, buffer, _IOFBF, sizeof buffer);
  blocks = calloc(first_count + second_count, sizeof *blocks);
  getchar();
  first_phase();
  tell(0, first_count);
  second_phase();
  tell(first_count, first_count + second_count);
  return 0;
}
