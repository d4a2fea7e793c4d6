// A library that wraps malloc and asks dlsym for the next definition at each call, so that whatever that is is seen at
// once; for preloading before and behind the agent, and, with ASKS_EARLY, for linking: then its constructor asks, before the agent's
// constructor has run. Calls within it are bound to itself (-Bsymbolic).

#include <dlfcn.h>
#include <stddef.h>

#ifdef ASKS_EARLY
static void *(*next_malloc)(size_t);
static void (*next_free)(void *);
__attribute__((constructor)) static void ask(void) {
  next_malloc = (void *(*)(size_t))dlsym(RTLD_NEXT, "malloc");
  next_free = (void (*)(void *))dlsym(RTLD_NEXT, "free");
}
#define NEXT_MALLOC (next_malloc ? next_malloc : (void *(*)(size_t))dlsym(RTLD_NEXT, "malloc"))
#define NEXT_FREE (next_free ? next_free : (void (*)(void *))dlsym(RTLD_NEXT, "free"))
#else
#define NEXT_MALLOC ((void *(*)(size_t))dlsym(RTLD_NEXT, "malloc"))
#define NEXT_FREE ((void (*)(void *))dlsym(RTLD_NEXT, "free"))
#endif

unsigned long asked;

void *malloc(size_t size) {
  asked++;
  return NEXT_MALLOC(size);
}
void free(void *block) {
  asked++;
  NEXT_FREE(block);
}
void *calloc(size_t count, size_t size) {
  asked++;
  return ((void *(*)(size_t, size_t))dlsym(RTLD_NEXT, "calloc"))(count, size);
}
void *realloc(void *block, size_t size) {
  asked++;
  return ((void *(*)(void *, size_t))dlsym(RTLD_NEXT, "realloc"))(block, size);
}

void *asking_allocate(size_t size) { return malloc(size); }
void asking_free(void *block) { free(block); }
