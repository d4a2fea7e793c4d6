// SPDX-License-Identifier: Apache-2.0
// What the micro benchmark programs share: the clock, a generator of random numbers and the way a result is printed.
//
// - A program runs its operation in batches after a warm-up and prints the median batch, so that one batch in which
//   the machine did something else doesn't count: "elapsed NS cpu NS", nanoseconds for one operation.
// - Nothing here allocates between the first and the last reading of the clock.

#ifndef BENCH_H
#define BENCH_H

#define _GNU_SOURCE
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { BATCHES = 9 };

// The compiler must believe that somebody uses the block, or it removes malloc and free as a pair.
static inline void *escape(void *block) {
  __asm__ volatile("" : "+r"(block) : : "memory");
  return block;
}

static inline double nanoseconds(clockid_t clock) {
  struct timespec time;
  clock_gettime(clock, &time);
  return (double)time.tv_sec * 1e9 + (double)time.tv_nsec;
}

// xorshift64*: three shifts and a multiplication, so that the loop measures the allocator and not this.
static inline uint64_t next_random(uint64_t *state) {
  *state ^= *state >> 12;
  *state ^= *state << 25;
  *state ^= *state >> 27;
  return *state * 2685821657736338717u;
}

// A random number below `limit`, without a division.
static inline uint64_t random_below(uint64_t *state, uint64_t limit) {
  return (uint64_t)((unsigned __int128)next_random(state) * limit >> 64);
}

// A block of the sizes that the churn programs use: 16 to 527 bytes.
static inline void *random_block(uint64_t *state) {
  return escape(malloc(16 + (next_random(state) >> 32) % 512));
}

static inline uint64_t count_argument(int argc, char **argv, int index, uint64_t otherwise) {
  if (argc <= index) return otherwise;
  char *end;
  uint64_t count = strtoull(argv[index], &end, 10);
  if (*argv[index] == 0 || *end != 0) {
    fprintf(stderr, "%s: argument %d, '%s', is not a number\n", argv[0], index, argv[index]);
    exit(64);
  }
  return count;
}

static int compare_doubles(const void *left, const void *right) {
  double a = *(const double *)left, b = *(const double *)right;
  return (a > b) - (a < b);
}

static inline double median(double *values, int count) {
  qsort(values, (size_t)count, sizeof *values, compare_doubles);
  return values[count / 2];
}

// Times the batches that the body of `while (next_batch(&batches, operations))` does, each of `operations` operations:
// the warm-up and BATCHES more, then prints the median. Starts as {0}. For loops whose own frame has to be the
// innermost.
struct batches {
  int started;
  double elapsed_before, cpu_before, elapsed[BATCHES], cpu[BATCHES];
};

static inline int next_batch(struct batches *batches, uint64_t operations) {
  int ended = batches->started - 1;  // 0 is the warm-up
  if (ended >= 1) {
    batches->cpu[ended - 1] = (nanoseconds(CLOCK_PROCESS_CPUTIME_ID) - batches->cpu_before) / (double)operations;
    batches->elapsed[ended - 1] = (nanoseconds(CLOCK_MONOTONIC) - batches->elapsed_before) / (double)operations;
  }
  if (ended == BATCHES) {
    printf("elapsed %.4f cpu %.4f\n", median(batches->elapsed, BATCHES), median(batches->cpu, BATCHES));
    return 0;
  }
  batches->started++;
  batches->elapsed_before = nanoseconds(CLOCK_MONOTONIC);
  batches->cpu_before = nanoseconds(CLOCK_PROCESS_CPUTIME_ID);
  return 1;
}

// The same with a function for a body.
static inline void measure(uint64_t operations, void (*batch)(uint64_t operations, void *state), void *state) {
  struct batches batches = {0};
  while (next_batch(&batches, operations)) batch(operations, state);
}

#endif
