// Known numbers of blocks of known sizes at known sites, most of them freed at once:
//
//   totals THREADS WAVES
//
// - WAVES times, THREADS threads run at once, a wave after another, so that slots of ended threads are used again. Each
//   thread calls each site as often as the record says in "sites": nothing else of the threads allocates.
// - Check point 0: after all waves. Then the program forks; the child calls each site once more and says
//   "child PID" at check point 1 of its own, for which the parent waits; the parent has no check point 1.

#include <pthread.h>
#include <sys/wait.h>

#include <new>

#include "record.h"

SITE_BOUNDS(plain) SITE_BOUNDS(zeroed) SITE_BOUNDS(grown) SITE_BOUNDS(aligned) SITE_BOUNDS(made) SITE_BOUNDS(kept)

// The names without arguments.
extern "C" {
SITE(plain) void *plain(size_t size) {
  void *block = malloc(size);
  KEEP(block);
  return block;
}
SITE(zeroed) void *zeroed(size_t count, size_t size) {
  void *block = calloc(count, size);
  KEEP(block);
  return block;
}
SITE(grown) void *grown(void *old, size_t size) {
  void *block = realloc(old, size);
  KEEP(block);
  return block;
}
SITE(aligned) void *aligned(size_t alignment, size_t size) {
  void *block = aligned_alloc(alignment, size);
  KEEP(block);
  return block;
}
SITE(made) void *made(size_t size) {
  void *block = operator new(size);
  KEEP(block);
  return block;
}
SITE(kept) void *kept(size_t size) {
  void *block = malloc(size);
  KEEP(block);
  return block;
}
}

// `argument`: where the threads of a wave wait for each other; NULL: nowhere. No thread ends before each has allocated
// and so has a slot of its own, which it gets with its first block.
static void *run(void *argument) {
  for (int i = 0; i < 1000; i++) free(plain(100));
  for (int i = 0; i < 500; i++) free(zeroed(3, 16));
  // From 1 to 200 bytes in place or not, and back to nothing but a free.
  void *block = NULL;
  for (size_t size = 1; size <= 200; size++) block = grown(block, size);
  free(block);
  for (int i = 0; i < 200; i++) free(aligned(64, 128));
  for (int i = 0; i < 300; i++) operator delete(made(24));
  for (int i = 0; i < 10; i++) (void)kept(77);
  if (argument) pthread_barrier_wait((pthread_barrier_t *)argument);
  return NULL;
}

int main(int argc, char **argv) {
  if (argc != 3) record_fail("usage: totals THREADS WAVES");
  size_t threads = strtoul(argv[1], NULL, 10), waves = strtoul(argv[2], NULL, 10);
  pthread_t *ids = (pthread_t *)record_memory(threads * sizeof *ids);
  pthread_barrier_t together;
  pthread_barrier_init(&together, NULL, (unsigned)threads);
  for (size_t wave = 0; wave < waves; wave++) {
    for (size_t i = 0; i < threads; i++)
      if (pthread_create(&ids[i], NULL, run, &together) != 0) record_fail("cannot start a thread");
    for (size_t i = 0; i < threads; i++) pthread_join(ids[i], NULL);
    // A slot is not used again within the tick in which its thread ended.
    usleep(50000);
  }
  int sites = record_open("sites");
  record_site(sites, 1, __start_site_plain, __stop_site_plain, "plain");
  record_site(sites, 2, __start_site_zeroed, __stop_site_zeroed, "zeroed");
  record_site(sites, 3, __start_site_grown, __stop_site_grown, "grown");
  record_site(sites, 4, __start_site_aligned, __stop_site_aligned, "aligned");
  record_site(sites, 5, __start_site_made, __stop_site_made, "made");
  record_site(sites, 6, __start_site_kept, __stop_site_kept, "kept");
  close(sites);
  record_checkpoint(0, NULL, 0);
  pid_t child = fork();
  if (child == 0) {
    run(NULL);
    record_say("child %d\n", (int)getpid());
    record_checkpoint(1, NULL, 0);
    _exit(0);
  }
  int status;
  if (waitpid(child, &status, 0) != child || status != 0) record_fail("the child failed");
  return 0;
}
