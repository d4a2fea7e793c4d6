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

// Runs `batch` once to warm up and BATCHES times for the clock; each run does `operations` operations.
static inline void measure(uint64_t operations, void (*batch)(uint64_t operations, void *state), void *state) {
  double elapsed[BATCHES], cpu[BATCHES];
  batch(operations, state);
  for (int i = 0; i < BATCHES; i++) {
    double elapsed_before = nanoseconds(CLOCK_MONOTONIC), cpu_before = nanoseconds(CLOCK_PROCESS_CPUTIME_ID);
    batch(operations, state);
    cpu[i] = (nanoseconds(CLOCK_PROCESS_CPUTIME_ID) - cpu_before) / (double)operations;
    elapsed[i] = (nanoseconds(CLOCK_MONOTONIC) - elapsed_before) / (double)operations;
  }
  printf("elapsed %.4f cpu %.4f\n", median(elapsed, BATCHES), median(cpu, BATCHES));
}

#endif
