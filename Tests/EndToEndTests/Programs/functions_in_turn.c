// One call with one stack allocates by other functions in turn, in runs, and in random order: each block's record has to
// have the function that made it, though all else about the call is the same.
#include "record.h"

enum { BLOCKS = 6000, SIZE = 64 };

typedef void *(*allocation)(size_t, size_t);

SITE(turn) static void *call(volatile allocation *function) {
  void *block = (*function)(SIZE, 1);
  KEEP(block);
  return block;
}
SITE_BOUNDS(turn)

int main(void) {
  // Called through one pointer: malloc does not look at its second argument; aligned_alloc gets a size of 1.
  static const allocation functions[] = {(allocation)(void *)malloc, calloc, aligned_alloc};
  static const char *const names[] = {"malloc", "calloc", "aligned_alloc"};
  struct record_block *blocks = record_memory(BLOCKS * sizeof *blocks);
  int sites = record_open("sites");
  for (uint32_t which = 0; which < 3; which++)
    record_site(sites, which, __start_site_turn, __stop_site_turn, names[which]);
  close(sites);
  uint32_t random = 1;
  for (uint32_t i = 0; i < BLOCKS; i++) {
    random = random * 1664525 + 1013904223;
    uint32_t which = i < BLOCKS / 3 ? i % 3 : i < BLOCKS / 3 * 2 ? i / 100 % 3 : (random >> 8) % 3;
    volatile allocation function = functions[which];
    void *block = call(&function);
    if (block == NULL) record_fail("no memory");
    blocks[i] = (struct record_block){
        .address = (uint64_t)(uintptr_t)block, .size = which == 2 ? 1 : SIZE, .alignment = which == 2 ? SIZE : 0,
        .site = which, .thread = record_thread()};
  }
  record_checkpoint(0, blocks, BLOCKS);
  return 0;
}
