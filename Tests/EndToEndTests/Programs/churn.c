// Threads that come and go, and the blocks that they leave behind.
//
//   churn THREADS AT_ONCE BLOCKS [ID]  each thread names itself "churn-N", allocates BLOCKS blocks, frees all but one in four; each has
//                                    the thread id ID, for which the program must have a namespace of process ids
//
// Check point 0 comes before the first thread, 1 when all are gone. "names" lists "ADDRESS NAME" for each block that is left: the kernel
// gives thread ids out again.

#include <pthread.h>

#include "record.h"

SITE_BOUNDS(left_behind)
SITE(left_behind) static void *left_behind(size_t size) { void *p = malloc(size); KEEP(p); return p; }

static struct record_block *blocks;
static size_t blocks_per_thread;
static int names;
static uint32_t wanted_id;

// Gives &wanted_id if it did nothing, as it has another id than the wanted one.
static void *live(void *argument) {
  size_t number = (size_t)argument;
  if (wanted_id != 0 && record_thread() != wanted_id) return &wanted_id;
  char name[16];
  snprintf(name, sizeof name, "churn-%zu", number);
  pthread_setname_np(pthread_self(), name);
  uint32_t thread = record_thread();
  for (size_t i = 0; i < blocks_per_thread; i++) {
    size_t size = (number * 131 + i * 17) % 700;
    void *p = left_behind(size);
    if (i % 4 != 0) {
      free(p);
      continue;
    }
    blocks[number * blocks_per_thread + i] = (struct record_block){(uint64_t)p, size, 0, 0, thread};
    char line[64];
    int length = snprintf(line, sizeof line, "%llu %s\n", (unsigned long long)(uintptr_t)p, name);
    record_write(names, line, (size_t)length);
  }
  return NULL;
}

// The kernel gives the ids out in turn; the one it gave out last may be set.
static void use_id_next(uint32_t id) {
  char line[16];
  int length = snprintf(line, sizeof line, "%u", id - 1);
  int file = open("/proc/sys/kernel/ns_last_pid", O_WRONLY | O_CLOEXEC);
  if (file < 0) record_fail("cannot choose thread ids");
  record_write(file, line, (size_t)length);
  close(file);
}

int main(int argc, char **argv) {
  if (argc != 4 && argc != 5) record_fail("usage: churn THREADS AT_ONCE BLOCKS [ID]");
  size_t threads = (size_t)atol(argv[1]), at_once = (size_t)atol(argv[2]);
  blocks_per_thread = (size_t)atol(argv[3]);
  blocks = record_memory(threads * blocks_per_thread * sizeof *blocks);
  if (argc == 5) wanted_id = (uint32_t)atol(argv[4]);
  pthread_t *handles = record_memory(at_once * sizeof *handles);
  int sites = record_open("sites");
  record_site(sites, 0, __start_site_left_behind, __stop_site_left_behind, "malloc");
  close(sites);
  names = record_open("names");
  record_checkpoint(0, blocks, 0);
  for (size_t first = 0; first < threads; first += at_once) {
    if (wanted_id != 0) use_id_next(wanted_id);
    for (size_t i = 0; i < at_once; i++)
      if (pthread_create(&handles[i], NULL, live, (void *)(first + i)) != 0) record_fail("cannot start a thread");
    int is_undone = 0;
    for (size_t i = 0; i < at_once; i++) {
      void *result;
      pthread_join(handles[i], &result);
      is_undone |= result == &wanted_id;
    }
    // The thread before had its id for a moment longer than it could be joined. ID goes with AT_ONCE 1.
    if (is_undone) first -= at_once;
  }
  close(names);
  record_checkpoint(1, blocks, threads * blocks_per_thread);
  return 0;
}
