// SPDX-License-Identifier: Apache-2.0
// 2^LEVELS call stacks (16,384 if nothing is said), each with a live block: answers about all of them are large. Lives
// until standard input ends.
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static void *volatile sink;

static void left(unsigned level);
static void right(unsigned level);

// What comes behind the calls keeps the frame.
#define STEP(name) \
  __attribute__((noinline)) static void name(unsigned level) { \
    if (level == 0) { \
      sink = malloc(24); \
    } else { \
      left(level - 1); \
      right(level - 1); \
    } \
    __asm__ volatile(""); \
  }
STEP(left)
STEP(right)

int main(int count, char **arguments) {
  left(count > 1 ? (unsigned)atoi(arguments[1]) : 14);
  puts("ready");
  fflush(stdout);
  char byte;
  while (read(STDIN_FILENO, &byte, 1) > 0) {
  }
  return 0;
}
