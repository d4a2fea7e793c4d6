// Functions of the malloc family that count the calls and lead on to the next definition, as many libraries and programs have
// them: for a library to be preloaded, or to be compiled into a program.

#include <dlfcn.h>
#include <stdlib.h>
#include <sys/mman.h>

unsigned long calls;

static void *(*next_malloc)(size_t);
static void *(*next_realloc)(void *, size_t);
static void (*next_free)(void *);

// All at the first call: dlsym frees what it said when it found nothing.
static void count(void) {
  if (!next_malloc) {
    *(void **)&next_free = dlsym(RTLD_NEXT, "free");
    *(void **)&next_realloc = dlsym(RTLD_NEXT, "realloc");
    *(void **)&next_malloc = dlsym(RTLD_NEXT, "malloc");
  }
  __atomic_add_fetch(&calls, 1, __ATOMIC_RELAXED);
}

void *malloc(size_t size) {
  count();
  return next_malloc(size);
}

void free(void *block) {
  count();
  next_free(block);
}

void *realloc(void *block, size_t size) {
  count();
  return next_realloc(block, size);
}

int dlclose(void *handle) {
  static int (*next)(void *);
  if (!next) *(void **)&next = dlsym(RTLD_NEXT, "dlclose");
  return next(handle);
}

int munmap(void *start, size_t size) {
  static int (*next)(void *, size_t);
  if (!next) *(void **)&next = dlsym(RTLD_NEXT, "munmap");
  return next(start, size);
}
