// What the allocator below makes of each request: how many bytes of a block may be used, asked in
// every way that there is. The same under the agent as without it, or a request was changed.
#include <dlfcn.h>
#include <malloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static size_t (*sallocx)(const void *, int), (*nallocx)(size_t, int), (*xallocx)(void *, size_t, size_t, int);
static void *(*mallocx)(size_t, int), *(*rallocx)(void *, size_t, int);
static void (*sdallocx)(void *, size_t, int);
static void *(*volatile reallocate)(void *, size_t) = realloc;

static void say(const char *what, size_t size, void *block) {
  // Where a block lies shows by its alignment only.
  printf("%s %zu: %zu %zu%s\n", what, size, malloc_usable_size(block), sallocx ? sallocx(block, 0) : 0, block ? "" : " none");
}

// Small blocks side by side are each other's witnesses: if one is another's size, a byte of a
// neighbour changes.
static void neighbours(size_t size) {
  enum { COUNT = 600 };
  static unsigned char *blocks[COUNT];
  for (int round = 0; round < 3; round++) {
    for (int i = 0; i < COUNT; i++) {
      if (!blocks[i]) blocks[i] = malloc(size);
      memset(blocks[i], i, malloc_usable_size(blocks[i]));
    }
    for (int i = 0; i < COUNT; i++)
      for (size_t k = 0; k < size; k++)
        if (blocks[i][k] != (unsigned char)i) printf("a block of %zu bytes was overwritten\n", size);
    for (int i = round; i < COUNT; i += 2 + round) {
      if (sdallocx && size > 0) sdallocx(blocks[i], size, 0); else free(blocks[i]);
      blocks[i] = NULL;
    }
  }
  for (int i = 0; i < COUNT; i++) {
    free(blocks[i]);
    blocks[i] = NULL;
  }
}

int main(void) {
  *(void **)&sallocx = dlsym(RTLD_DEFAULT, "sallocx");
  *(void **)&nallocx = dlsym(RTLD_DEFAULT, "nallocx");
  *(void **)&xallocx = dlsym(RTLD_DEFAULT, "xallocx");
  *(void **)&mallocx = dlsym(RTLD_DEFAULT, "mallocx");
  *(void **)&rallocx = dlsym(RTLD_DEFAULT, "rallocx");
  *(void **)&sdallocx = dlsym(RTLD_DEFAULT, "sdallocx");
  for (size_t size = 0; size <= 130; size++) {
    void *block = malloc(size);
    say("malloc", size, block);
    if (size > 0) {
      block = reallocate(block, (size * 7) % 97 + 1);
      say("realloc", size, block);
    }
    free(block);
    block = calloc(1, size);
    say("calloc", size, block);
    free(block);
    block = reallocarray(NULL, 1, size);
    say("reallocarray", size, block);
    free(block);
    for (size_t alignment = 8; alignment <= 64; alignment *= 2) {
      if (posix_memalign(&block, alignment, size) != 0) return 1;
      say("posix_memalign", size, block);
      free(block);
      block = memalign(alignment, size);
      say("memalign", size, block);
      free(block);
      block = aligned_alloc(alignment, size);
      say("aligned_alloc", size, block);
      free(block);
    }
    if (mallocx && size > 0) {
      block = mallocx(size, 0);
      say("mallocx", size, block);
      printf("xallocx %zu: %zu of %zu\n", size, xallocx(block, size / 2 + 1, 0, 0), nallocx(size, 0));
      block = rallocx(block, size * 2, 0);
      say("rallocx", size, block);
      sdallocx(block, size * 2, 0);
    }
    neighbours(size);
  }
  return 0;
}
