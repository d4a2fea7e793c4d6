// An allocator that a signal handler may call at any moment: each block lies behind the one before, and none comes back.
// malloc has no memory while the program says so.
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

static _Alignas(4096) char memory[256 << 20];
static atomic_size_t used;

static void *take(size_t size, size_t alignment) {
  if (size > sizeof memory) return NULL;
  // Its size stands before each block.
  size_t room = (size + alignment + 31) & ~(size_t)15;
  size_t start = atomic_fetch_add(&used, room);
  if (start + room > sizeof memory) return NULL;
  char *block = memory + ((start + 16 + alignment - 1) & ~(alignment - 1));
  memcpy(block - sizeof size, &size, sizeof size);
  return block;
}

extern int allocator_is_full(void) __attribute__((weak));

void *malloc(size_t size) {
  if (allocator_is_full != NULL && allocator_is_full()) return NULL;
  return take(size, 16);
}
void free(void *block) { (void)block; }
void *calloc(size_t count, size_t size) { return take(count * size, 16); }
void *aligned_alloc(size_t alignment, size_t size) { return take(size, alignment); }
void *realloc(void *block, size_t size) {
  void *moved = take(size, 16);
  if (moved == NULL || block == NULL) return moved;
  size_t before;
  memcpy(&before, (char *)block - sizeof before, sizeof before);
  return memcpy(moved, block, before < size ? before : size);
}
