// SPDX-License-Identifier: Apache-2.0
// 2^LEVELS call stacks (16,384 if nothing is said), each with a live block: answers about all of them are large. With a
// second argument each block is freed at once, but for those of the first 16 stacks. Lives until standard input ends.
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "call_stacks.h"

static void *volatile sink;

static int made;

static void innermost(int frees) {
  sink = malloc(24);
  if (frees && made++ >= 16) free(sink);
}

int main(int count, char **arguments) {
  on_each_stack(count > 1 ? atoi(arguments[1]) : 14, count > 2);
  puts("ready");
  fflush(stdout);
  char byte;
  while (read(STDIN_FILENO, &byte, 1) > 0) {
  }
  return 0;
}
