// SPDX-License-Identifier: Apache-2.0
// floor.so, to preload: what an exact index by address costs at the least. For each block that comes, two stores into
// its slot, which is found by the address alone; for each that goes, a load and a store. No call site, no time, no
// thread, no count, no reader: whatever a hook does besides comes on top.
#define _GNU_SOURCE
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>

extern void *__libc_malloc(size_t size);
extern void __libc_free(void *block);

struct slot {
  uint64_t base_and_size, context;
};

// A slot for 32 bytes each of 64 GiB; blocks that are so far apart share one, which no benchmark has.
static const uint64_t slot_count = UINT64_C(1) << 31;
static struct slot *slots;

static inline struct slot *slot_of(const void *block) {
  return &slots[((uintptr_t)block >> 5) & (slot_count - 1)];
}

__attribute__((constructor)) static void start(void) {
  void *place = mmap(NULL, slot_count * sizeof *slots, PROT_READ | PROT_WRITE,
                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (place == MAP_FAILED) abort();
  slots = place;
}

void *malloc(size_t size) {
  void *block = __libc_malloc(size);
  if (block && slots) {
    struct slot *slot = slot_of(block);
    slot->context = size << 32 | 1;
    __atomic_store_n(&slot->base_and_size, (uintptr_t)block | 1, __ATOMIC_RELEASE);
  }
  return block;
}

void free(void *block) {
  if (block && slots) {
    struct slot *slot = slot_of(block);
    if (slot->base_and_size) __atomic_store_n(&slot->base_and_size, 0, __ATOMIC_RELEASE);
  }
  __libc_free(block);
}
