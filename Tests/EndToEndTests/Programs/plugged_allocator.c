// A library with an allocator of its own, which it calls by the usual names and nobody else gets (-Bsymbolic, or -fvisibility=hidden
// for what is not exported). plugging.c opens and closes it. Its memory goes away with it.
//
// -DSHORT: a free that is too short to be hooked.
#include <stddef.h>
#include <string.h>

enum { CLASS = 512, CLASSES = 4096 };
static _Alignas(64) char memory[CLASSES][CLASS];
static short next_free[CLASSES];
static int first_free, never_used;

__attribute__((noinline)) void *malloc(size_t size) {
  if (size > CLASS) return NULL;
  int found = first_free - 1;
  if (found >= 0) first_free = next_free[found];
  else if (never_used < CLASSES) found = never_used++;
  else return NULL;
  return memory[found];
}
#ifdef SHORT
__asm__(".globl free\n.type free, @function\nfree: ret\n.size free, . - free\n.globl other\n.type other, @function\nother: ret\n.size other, . - other\n");
extern void free(void *);
#else
__attribute__((noinline)) void free(void *block) {
  if (block == NULL) return;
  int index = (int)(((char *)block - memory[0]) / CLASS);
  next_free[index] = (short)first_free;
  first_free = index + 1;
}
#endif
__attribute__((noinline)) void *calloc(size_t count, size_t size) {
  void *block = malloc(count * size);
  if (block != NULL) memset(block, 0, count * size);
  return block;
}
__attribute__((noinline)) void *realloc(void *block, size_t size) {
  void *grown = malloc(size);
  if (grown == NULL || block == NULL) return grown;
  memcpy(grown, block, size);
  free(block);
  return grown;
}

#define KEEP(pointer) __asm__ volatile("" : "+r"(pointer) : : "memory")
void *plugin_get(size_t size) { void *block = malloc(size); KEEP(block); return block; }
void *plugin_get_clear(size_t size) { void *block = calloc(1, size); KEEP(block); return block; }
void *plugin_resize(void *block, size_t size) { block = realloc(block, size); KEEP(block); return block; }
void plugin_put(void *block) { free(block); KEEP(block); }
