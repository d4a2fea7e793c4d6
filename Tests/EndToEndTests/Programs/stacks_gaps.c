// Allocates in an executable, a library that it is linked with, and one that it loads, each linked
// in whatever way leaves room between segments or no table of call frame information: stacks_gaps
// [LIBRARY]. Built with -DGAPS_LIBRARY it is the library.
//
// libgcc's unwinder would not find its way there. So each function says itself where it returns to.
#include "stacks.h"

#include <dlfcn.h>
#include <pthread.h>

struct gaps_chain {
  struct stacks_entry *entry;
  uint64_t pcs[4];
  int count;
};
#define GAPS_STEP(chain) (chain)->pcs[(chain)->count++] = (uint64_t)__builtin_return_address(0)

__attribute__((noinline)) static void gaps_inner(struct gaps_chain *chain) {
  GAPS_STEP(chain);
  struct stacks_entry *entry = stacks_mark(STACKS_BEGINS);
  while (chain->count > 0) entry->pcs[entry->count++] = chain->pcs[--chain->count];
  chain->entry = entry;
  entry->block = malloc(500);
  STACKS_BARRIER;
}
__attribute__((noinline)) static void gaps_middle(struct gaps_chain *chain, int size) {
  GAPS_STEP(chain);
  volatile char room[size];
  room[0] = 1;
  gaps_inner(chain);
  if (room[0] != 1) _exit(98);
}
__attribute__((noinline, visibility("default"))) struct stacks_entry *
#ifdef GAPS_LIBRARY
gaps_in_library(void)
#else
gaps_here(void)
#endif
{
  struct gaps_chain chain = {.count = 0};
  GAPS_STEP(&chain);
  gaps_middle(&chain, 100);
  return chain.entry;
}

#ifdef GAPS_LIBRARY
static struct stacks_entry *constructed;
__attribute__((constructor, noinline)) static void construct(void) {
  constructed = gaps_in_library();
  STACKS_BARRIER;
}
__attribute__((visibility("default"))) struct stacks_entry *gaps_constructed(void) { return constructed; }
#else
extern struct stacks_entry *gaps_in_library(void);
extern struct stacks_entry *gaps_constructed(void);

// The library has a record of its own.
static void keep(const struct stacks_entry *entry) { *stacks_new(STACKS_BEGINS) = *entry; }

static void *in_thread(void *unused) {
  (void)unused;
  gaps_here();
  keep(gaps_in_library());
  return NULL;
}

int main(int count, char **arguments) {
  for (int i = 0; i < 5; i++) {
    gaps_here();
    keep(gaps_in_library());
  }
  keep(gaps_constructed());
  pthread_t thread;
  pthread_create(&thread, NULL, in_thread, NULL);
  pthread_join(thread, NULL);
  if (count > 1) {
    void *library = dlopen(arguments[1], RTLD_NOW | RTLD_LOCAL);
    if (!library) return fprintf(stderr, "%s\n", dlerror()), 99;
    struct stacks_entry *(*loaded)(void) = (struct stacks_entry * (*)(void)) dlsym(library, "gaps_in_library");
    struct stacks_entry *(*at_load)(void) = (struct stacks_entry * (*)(void)) dlsym(library, "gaps_constructed");
    keep(at_load());
    keep(loaded());
  }
  return stacks_finish("gaps");
}
#endif
