// SPDX-License-Identifier: Apache-2.0
// 2^LEVELS call stacks (16,384 if nothing is said), each with a live block: answers about all of them are large. Lives
// until standard input ends.
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "call_stacks.h"

static void *volatile sink;

static void innermost(int unused) {
  (void)unused;
  sink = malloc(24);
}

int main(int count, char **arguments) {
  on_each_stack(count > 1 ? atoi(arguments[1]) : 14, 0);
  puts("ready");
  fflush(stdout);
  char byte;
  while (read(STDIN_FILENO, &byte, 1) > 0) {
  }
  return 0;
}
