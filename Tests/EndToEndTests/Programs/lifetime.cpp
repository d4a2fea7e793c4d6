// Allocations before main, in main, at the end of threads, and after main.
//
// Check point 1 is in main after the threads are gone, 2 in the last destructor of the program.

#include <pthread.h>

#include "record.h"

SITE_BOUNDS(allocate_site)
SITE(allocate_site) static void *allocate_site(size_t size) { void *p = malloc(size); KEEP(p); return p; }

static record_block blocks[1000];
static size_t count;

static record_block *keep(size_t size) {
  record_block *block = &blocks[count++];
  *block = record_block{(uint64_t)allocate_site(size), size, 0, 0, record_thread()};
  return block;
}
static void drop(record_block *block) {
  free((void *)block->address);
  block->address = 0;
}

static record_block *from_preinit, *from_constructor, *from_initializer;

static void before_everything() {
  from_preinit = keep(101);
  drop(keep(102));
}
__attribute__((section(".preinit_array"), used)) static void (*preinit)() = before_everything;

__attribute__((constructor(101))) static void first_constructor() {
  from_constructor = keep(201);
  keep(202);
}

struct Global {
  Global() { from_initializer = keep(301); }
  ~Global() {
    drop(from_initializer);
    keep(302);
  }
};
static Global global;

struct OfThread {
  record_block *block = keep(401);
  ~OfThread() {
    drop(block);
    keep(402);
  }
};
static thread_local OfThread of_thread;
static pthread_key_t key;

static void key_destructor(void *block) {
  drop((record_block *)block);
  keep(502);
}

static void *run(void *) {
  of_thread.block->thread = record_thread();
  pthread_setspecific(key, keep(501));
  return nullptr;
}

static void at_exit_handler() { keep(601); }

__attribute__((destructor(101))) static void last_destructor() {
  drop(from_preinit);
  drop(from_constructor);
  keep(701);
  record_checkpoint(2, blocks, count);
}

int main() {
  int sites = record_open("sites");
  record_site(sites, 0, __start_site_allocate_site, __stop_site_allocate_site, "malloc");
  close(sites);
  atexit(at_exit_handler);
  pthread_key_create(&key, key_destructor);
  for (int i = 0; i < 20; i++) {
    pthread_t thread;
    if (pthread_create(&thread, nullptr, run, nullptr) != 0) record_fail("cannot start a thread");
    pthread_join(thread, nullptr);
  }
  record_checkpoint(1, blocks, count);
  return 0;
}
