// SPDX-License-Identifier: Apache-2.0
// An allocator to be linked into a program, or to be a shared library below the agent: lists of freed blocks by size,
// for one thread. As short as one can be, so that what a hook adds is seen.
#include <stddef.h>
#include <string.h>
#include <sys/mman.h>

enum { GRANULE = 32, CLASSES = 64 };

struct block {
  size_t size;  // with this head, a multiple of GRANULE
  struct block *next;
};

static struct block *freed[CLASSES];
static char *chunk, *chunk_end;

static struct block *fresh(size_t size) {
  size_t chunk_size = (size_t)64 << 20;
  if ((size_t)(chunk_end - chunk) < size) {
    if (size > chunk_size) chunk_size = size;
    chunk = mmap(NULL, chunk_size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (chunk == MAP_FAILED) return NULL;
    chunk_end = chunk + chunk_size;
  }
  struct block *block = (struct block *)chunk;
  chunk += size;
  block->size = size;
  return block;
}

__attribute__((noinline)) void *malloc(size_t size) {
  size = (size + sizeof(struct block) + GRANULE - 1) & ~(size_t)(GRANULE - 1);
  size_t class = size / GRANULE;
  struct block *block;
  if (class < CLASSES && (block = freed[class]))
    freed[class] = block->next;
  else if (!(block = fresh(size)))
    return NULL;
  return block + 1;
}

__attribute__((noinline)) void free(void *address) {
  if (!address) return;
  struct block *block = (struct block *)address - 1;
  size_t class = block->size / GRANULE;
  if (class >= CLASSES) {
    // Whole pages of it; the rest is lost.
    size_t start = ((size_t)block + 4095) & ~(size_t)4095, end = ((size_t)block + block->size) & ~(size_t)4095;
    if (start < end) munmap((void *)start, end - start);
    return;
  }
  block->next = freed[class];
  freed[class] = block;
}

void *calloc(size_t count, size_t size) {
  void *address = malloc(count * size);
  return address ? memset(address, 0, count * size) : NULL;
}

void *realloc(void *address, size_t size) {
  void *moved = malloc(size);
  if (moved && address) {
    size_t old = ((struct block *)address - 1)->size - sizeof(struct block);
    memcpy(moved, address, old < size ? old : size);
    free(address);
  }
  return moved;
}
