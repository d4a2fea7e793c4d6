// Blocks of operator new for which the new-handler had to make room: the first call of malloc inside fails. Three in
// each of two threads, of 100, 101 and 102 bytes, which live at check point 0.

#include <new>

#include <pthread.h>

#include "record.h"

SITE_BOUNDS(made)
SITE(made) static void *made(size_t size) { void *p = ::operator new(size); KEEP(p); return p; }

static thread_local bool is_full;

// The allocator (signal_safe.c) asks, below the agent.
extern "C" int allocator_is_full(void) { return is_full; }

static void make_room() { is_full = false; }

static struct record_block blocks[6];
static int count;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static void *run(void *) {
  for (size_t size = 100; size < 103; size++) {
    is_full = true;
    void *p = made(size);
    if (is_full) record_fail("the new-handler was not asked");
    pthread_mutex_lock(&lock);
    blocks[count++] = (struct record_block){(uint64_t)p, size, 0, 0, record_thread()};
    pthread_mutex_unlock(&lock);
  }
  return nullptr;
}

int main() {
  int sites = record_open("sites");
  record_site(sites, 0, __start_site_made, __stop_site_made, "made");
  close(sites);
  std::set_new_handler(make_room);
  pthread_t threads[2];
  for (pthread_t &thread : threads) pthread_create(&thread, nullptr, run, nullptr);
  for (pthread_t thread : threads) pthread_join(thread, nullptr);
  record_checkpoint(0, blocks, 6);
  return 0;
}
