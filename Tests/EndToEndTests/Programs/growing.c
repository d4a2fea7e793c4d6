// SPDX-License-Identifier: Apache-2.0
// Allocates in five ways, fifty times a second, from a first line of input on until its input ends: a leak; a cache that
// fills for three seconds and stays; a buffer that swings; a leak that is freed every five seconds, as by a restart;
// and two instantiations' worth of blocks that stay. Blocks of a second thread come once. Steps that a busy machine kept
// it from are made up for: what it has after a time is the same on every machine.
#include <pthread.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

enum { steps_a_second = 50 };

struct link { struct link *next; };

__attribute__((noinline)) static struct link *leak(struct link *list) {
  struct link *block = malloc(500);
  block->next = list;
  return block;
}

__attribute__((noinline)) static struct link *cache(struct link *list) {
  struct link *block = malloc(20000);
  block->next = list;
  return block;
}

__attribute__((noinline)) static void *buffer(void *old, size_t size) {
  free(old);
  void *block = malloc(size);
  *(volatile char *)block = 1;
  return block;
}

__attribute__((noinline)) static struct link *restarts(struct link *list) {
  struct link *block = malloc(1000);
  block->next = list;
  return block;
}

__attribute__((noinline)) static void *table(size_t size) {
  void *block = malloc(size);
  *(volatile char *)block = 1;
  return block;
}

static void *threads_own(void *unused) {
  (void)unused;
  return table(777);
}

static double now(void) {
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

int main(void) {
  static char buffer_of_output[1 << 12];
  setvbuf(stdout, buffer_of_output, _IOFBF, sizeof buffer_of_output);
  void *kept = table(3 << 20);
  pthread_t thread;
  pthread_create(&thread, NULL, threads_own, NULL);
  void *result;
  pthread_join(thread, &result);
  printf("ready\n");
  fflush(stdout);
  struct link *leaked = NULL, *cached = NULL, *restarted = NULL;
  void *swinging = NULL;
  unsigned random = 1;
  getchar();
  double start = now();
  for (unsigned step = 0;; step++) {
    leaked = leak(leaked);
    if (step < 3 * steps_a_second) cached = cache(cached);
    random = random * 1103515245u + 12345u;
    if (step % 10 == 0) swinging = buffer(swinging, 10000 + (random >> 8) % 400000);
    restarted = restarts(restarted);
    if (step % (5 * steps_a_second) == 5 * steps_a_second - 1) {
      while (restarted != NULL) {
        struct link *next = restarted->next;
        free(restarted);
        restarted = next;
      }
    }
    if (step + 1 < (now() - start) * steps_a_second) continue;
    struct pollfd request = {.fd = 0, .events = POLLIN};
    char byte;
    if (poll(&request, 1, 1000 / steps_a_second) > 0 && read(0, &byte, 1) <= 0) break;
  }
  return kept == NULL;
}
