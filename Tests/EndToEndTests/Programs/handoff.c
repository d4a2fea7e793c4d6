// Threads that hand blocks to each other as fast as they can: what one allocates, another frees, and a third gets again.
//
//   handoff THREADS OPERATIONS ROUNDS
//
// Each thread takes what lies in a random place of a shared table, frees or resizes it, and puts a new block there; OPERATIONS times
// in each round, 0 for ever. Between rounds, and before the first, it says "round N" and waits for a line.
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

enum { PLACES = 512 };
static _Atomic(void *) places[PLACES];
static long operations;
// No thread ends before each has called, and so has a slot and a ring of its own.
static pthread_barrier_t together;

static void *work(void *argument) {
  uint64_t random = (uintptr_t)argument * 0x9E3779B97F4A7C15u + 1;
  for (long i = 0; operations == 0 || i < operations; i++) {
    random ^= random >> 12;
    random ^= random << 25;
    random ^= random >> 27;
    uint64_t value = random * 2685821657736338717u;
    // Some too large for a thread's own cache of blocks, so that blocks are split and joined.
    size_t size = value % 16 == 0 ? 2000 + (value >> 8) % 60000 : value % 1024 == 1 ? 70000 + (value >> 8) % 300000 : 1 + (value >> 8) % 600;
    void *block = atomic_exchange(&places[(value >> 40) % PLACES], NULL);
    if (block && value % 5 == 0) {
      block = realloc(block, size);
    } else {
      free(block);
      block = value % 7 == 0 ? calloc(1, size) : malloc(size);
    }
    free(atomic_exchange(&places[(value >> 50) % PLACES], block));
  }
  pthread_barrier_wait(&together);
  return NULL;
}

int main(int argc, char **argv) {
  if (argc != 4) return 64;
  int threads = atoi(argv[1]), rounds = atoi(argv[3]);
  operations = atol(argv[2]);
  setvbuf(stdout, NULL, _IOLBF, 4096);
  pthread_barrier_init(&together, NULL, (unsigned)threads);
  for (int round = 0;; round++) {
    printf("round %d\n", round);
    if (round == rounds || getchar() == EOF) return 0;
    pthread_t ids[64];
    for (int i = 0; i < threads; i++) pthread_create(&ids[i], NULL, work, (void *)(uintptr_t)(round * 64 + i + 1));
    for (int i = 0; i < threads; i++) pthread_join(ids[i], NULL);
  }
}
