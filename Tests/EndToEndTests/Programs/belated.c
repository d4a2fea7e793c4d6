// Functions of the malloc family that serve from an array until their constructor has found the next definitions, and lead on to
// those from then on: for a library to be preloaded.

#include <dlfcn.h>
#include <stdlib.h>
#include <string.h>

static void *(*next_malloc)(size_t);
static void *(*next_calloc)(size_t, size_t);
static void *(*next_realloc)(void *, size_t);
static void (*next_free)(void *);

__attribute__((constructor)) static void find(void) {
  *(void **)&next_free = dlsym(RTLD_NEXT, "free");
  *(void **)&next_realloc = dlsym(RTLD_NEXT, "realloc");
  *(void **)&next_calloc = dlsym(RTLD_NEXT, "calloc");
  *(void **)&next_malloc = dlsym(RTLD_NEXT, "malloc");
}

static _Alignas(16) char array[1 << 20];
static size_t used;

static void *serve(size_t size) {
  if (size > sizeof array - used) abort();
  void *block = array + used;
  used += (size + 15) & ~(size_t)15;
  return block;
}

void *malloc(size_t size) { return next_malloc ? next_malloc(size) : serve(size); }

void *calloc(size_t count, size_t size) { return next_calloc ? next_calloc(count, size) : serve(count * size); }

void *realloc(void *block, size_t size) {
  if ((char *)block < array || (char *)block >= array + sizeof array)
    return next_realloc ? next_realloc(block, size) : serve(size);
  size_t most = (size_t)(array + sizeof array - (char *)block);
  return memcpy(malloc(size), block, size < most ? size : most);
}

void free(void *block) {
  if (((char *)block < array || (char *)block >= array + sizeof array) && next_free) next_free(block);
}
