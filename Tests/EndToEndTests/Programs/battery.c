// Calls every C allocation function with every edge, and prints what a caller can rely on: one line a case.
//
//   battery [corrupting]     `corrupting`: also cases that only some allocators survive (alignments that are not powers of 2)
//
// No line holds an address or a usable size, which may differ: plain and under the index, the output must be the same.
// errno is set to a number that no call sets before each case; "kept" says that it is still there.

#include <dlfcn.h>
#include <errno.h>
#include <malloc.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

static const int untouched = 4242;

static const size_t sizes[] = {0, 1, 7, 8, 15, 16, 17, 24, 25, 31, 32, 33, 47, 48, 63, 64, 65, 100, 127, 128, 1000, 1023, 1024,
                               4080, 4095, 4096, 4097, 65535, 65536, 131071, 131072, 131073, 1 << 20, (1 << 20) + 1, 33 << 20, 300 << 20};
static const size_t huge[] = {PTRDIFF_MAX, (size_t)PTRDIFF_MAX + 1, (size_t)PTRDIFF_MAX - 4096, SIZE_MAX, SIZE_MAX - 1, SIZE_MAX - 15,
                              SIZE_MAX - 16, SIZE_MAX - 31, SIZE_MAX - 32, SIZE_MAX - 4096, SIZE_MAX - 65536, SIZE_MAX / 2 + 2, SIZE_MAX / 4 * 3};
#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

static const char *errno_name(int number) { return number == untouched ? "kept" : strerrorname_np(number); }

// What an allocator promises for a block of this size: half the largest size class at least, 16 at most.
static size_t promised_alignment(size_t size) {
  size_t alignment = 1;
  while (alignment < 16 && alignment * 2 <= size) alignment *= 2;
  return alignment;
}

static void touch(void *block, size_t size) {
  size_t edge = size < 4096 ? size : 4096;
  memset(block, 0xA5, edge);
  memset((char *)block + size - edge, 0x5A, edge);
}

static int is_zero(const unsigned char *block, size_t size) {
  for (size_t i = 0; i < size; i++)
    if (block[i] != 0) return 0;
  return 1;
}

// Reports the answer of the call that `what` names, made with errno `untouched`; the block is filled.
static void report(const char *what, void *block, size_t size, size_t alignment) {
  int number = errno;
  if (block == NULL) {
    printf("%s: null, errno %s\n", what, errno_name(number));
    return;
  }
  if (alignment == 0) alignment = promised_alignment(size);
  size_t usable = malloc_usable_size(block);
  printf("%s: block, errno %s, %s, %s\n", what, errno_name(number), (uintptr_t)block % alignment == 0 ? "aligned" : "not aligned",
         usable >= size ? "large enough" : "too small");
  touch(block, size);
}

static void release(const char *what, void *block) {
  errno = untouched;
  free(block);
  if (errno != untouched) printf("%s: free changed errno to %s\n", what, errno_name(errno));
}

static char name[160];
#define NAME(...) (snprintf(name, sizeof name, __VA_ARGS__), name)

static void mallocs(void) {
  for (size_t i = 0; i < COUNT(sizes); i++) {
    errno = untouched;
    void *p = malloc(sizes[i]);
    report(NAME("malloc(%zu)", sizes[i]), p, sizes[i], 0);
    release(name, p);
  }
  for (size_t i = 0; i < COUNT(huge); i++) {
    errno = untouched;
    void *p = malloc(huge[i]);
    report(NAME("malloc(%zu)", huge[i]), p, huge[i], 0);
    release(name, p);
  }
  release("free(NULL)", NULL);
  errno = untouched;
  printf("malloc_usable_size(NULL): %zu, errno %s\n", malloc_usable_size(NULL), errno_name(errno));
  // Distinct blocks, also of size 0.
  void *first = malloc(0), *second = malloc(0), *third = malloc(1);
  printf("malloc(0): %s\n", first != second && second != third ? "distinct" : "not distinct");
  free(first);
  free(second);
  free(third);
}

static void callocs(void) {
  static const struct { size_t count, size; } cases[] = {
      {0, 0}, {0, 8}, {8, 0}, {1, 1}, {3, 7}, {1, 32}, {2, 32}, {1000, 16}, {1 << 20, 1}, {1, 5 << 20}, {SIZE_MAX, 0}, {0, SIZE_MAX},
      {SIZE_MAX, 1}, {1, SIZE_MAX}, {SIZE_MAX, 2}, {2, SIZE_MAX}, {SIZE_MAX, SIZE_MAX}, {SIZE_MAX / 2 + 1, 2}, {SIZE_MAX / 2 + 2, 2},
      {SIZE_MAX / 3 + 2, 3}, {1ull << 32, 1ull << 32}, {(1ull << 32) + 1, (1ull << 32) + 1}, {1ull << 63, 2}, {PTRDIFF_MAX, 1}, {PTRDIFF_MAX, 2},
      {SIZE_MAX / 16, 17}, {1ull << 60, 16}, {(1ull << 60) + 1, 16}};
  for (size_t i = 0; i < COUNT(cases); i++) {
    errno = untouched;
    void *p = calloc(cases[i].count, cases[i].size);
    int number = errno;
    NAME("calloc(%zu, %zu)", cases[i].count, cases[i].size);
    if (p != NULL) printf("%s: %s\n", name, is_zero(p, cases[i].count * cases[i].size) ? "zero" : "not zero");
    errno = number;
    report(name, p, cases[i].count * cases[i].size, 0);
    release(name, p);
  }
  // Memory that was used before.
  for (size_t size = 1; size < 300000; size = size * 3 + 1) {
    void *dirty[8];
    for (size_t i = 0; i < COUNT(dirty); i++) memset(dirty[i] = malloc(size), 0xFF, size);
    for (size_t i = 0; i < COUNT(dirty); i++) free(dirty[i]);
    int zero = 1;
    for (size_t i = 0; i < COUNT(dirty); i++) zero &= is_zero(dirty[i] = calloc(1, size), size);
    for (size_t i = 0; i < COUNT(dirty); i++) free(dirty[i]);
    printf("calloc(1, %zu) of used memory: %s\n", size, zero ? "zero" : "not zero");
  }
}

static const char *content(const unsigned char *block, size_t size, unsigned char value) {
  for (size_t i = 0; i < size; i++)
    if (block[i] != value) return "content lost";
  return "content kept";
}

static void reallocs(void) {
  for (size_t i = 0; i < COUNT(sizes); i++) {
    errno = untouched;
    void *p = realloc(NULL, sizes[i]);
    report(NAME("realloc(NULL, %zu)", sizes[i]), p, sizes[i], 0);
    release(name, p);
  }
  for (size_t i = 0; i < COUNT(sizes); i++) {
    for (size_t j = 0; j < COUNT(sizes); j++) {
      size_t old = sizes[i], new = sizes[j];
      if (new == 0 || old > 2 << 20) continue;
      void *p = malloc(old);
      memset(p, 0x77, old);
      errno = untouched;
      void *q = realloc(p, new);
      int number = errno;
      NAME("realloc(%zu → %zu)", old, new);
      if (q != NULL) printf("%s: %s\n", name, content(q, old < new ? old : new, 0x77));
      errno = number;
      report(name, q, new, 0);
      release(name, q);
    }
  }
  for (size_t i = 0; i < COUNT(sizes); i++) {
    void *p = malloc(sizes[i]);
    errno = untouched;
    void *q = realloc(p, 0);
    report(NAME("realloc(%zu → 0)", sizes[i]), q, 0, 0);
    if (q != NULL) release(name, q);
  }
  for (size_t i = 0; i < COUNT(huge); i++) {
    void *p = malloc(500);
    memset(p, 0x33, 500);
    errno = untouched;
    void *q = realloc(p, huge[i]);
    report(NAME("realloc(500 → %zu)", huge[i]), q, huge[i], 0);
    if (q == NULL) printf("%s: old block: %s\n", name, content(p, 500, 0x33));
    release(name, q == NULL ? p : q);
    errno = untouched;
    q = realloc(NULL, huge[i]);
    report(NAME("realloc(NULL, %zu)", huge[i]), q, huge[i], 0);
    release(name, q);
  }
  void *p = NULL;
  size_t size = 0;
  int kept = 1;
  for (int i = 0; i < 400; i++) {
    size_t next = size + 1 + (size_t)(i % 7) * 311;
    unsigned char *q = realloc(p, next);
    kept &= strcmp(content(q, size, 0x11), "content kept") == 0;
    memset(q, 0x11, next);
    p = q;
    size = next;
  }
  printf("realloc growing: %s\n", kept ? "content kept" : "content lost");
  release("realloc growing", p);
  p = memalign(256, 1000);
  memset(p, 0x22, 1000);
  errno = untouched;
  p = realloc(p, 5000);
  printf("realloc of an aligned block: %s, errno %s\n", content(p, 1000, 0x22), errno_name(errno));
  release("realloc of an aligned block", p);
}

static void reallocarrays(void) {
  static const struct { size_t count, size; } cases[] = {{1, 1}, {3, 7}, {100, 100}, {1, 1 << 20}, {SIZE_MAX, 2}, {2, SIZE_MAX}, {SIZE_MAX, SIZE_MAX},
      {1ull << 32, 1ull << 32}, {SIZE_MAX / 2 + 1, 2}, {SIZE_MAX, 1}, {PTRDIFF_MAX, 2}, {1ull << 60, 16}, {(1ull << 60) + 1, 16}};
  for (size_t i = 0; i < COUNT(cases); i++) {
    size_t total = cases[i].count * cases[i].size;
    errno = untouched;
    void *p = reallocarray(NULL, cases[i].count, cases[i].size);
    report(NAME("reallocarray(NULL, %zu, %zu)", cases[i].count, cases[i].size), p, total, 0);
    release(name, p);
    void *old = malloc(50);
    memset(old, 0x44, 50);
    errno = untouched;
    p = reallocarray(old, cases[i].count, cases[i].size);
    int number = errno;
    NAME("reallocarray(50 → %zu × %zu)", cases[i].count, cases[i].size);
    printf("%s: %s\n", name, content(p == NULL ? old : p, p == NULL || total > 50 ? 50 : total, 0x44));
    errno = number;
    report(name, p, total, 0);
    release(name, p == NULL ? old : p);
  }
  void *p = malloc(70);
  errno = untouched;
  void *q = reallocarray(p, 0, 16);
  report("reallocarray(70 → 0 × 16)", q, 0, 0);
  if (q != NULL) release("reallocarray(70 → 0 × 16)", q);
}

static void alignments(int corrupting) {
  static const size_t asked[] = {1, 2, 4, 8, 16, 32, 64, 128, 1024, 4096, 8192, 65536, 1 << 21};
  static const size_t odd[] = {0, 3, 5, 12, 24, 48, 100, 4097, SIZE_MAX / 2 + 1, SIZE_MAX / 2 + 2, SIZE_MAX, PTRDIFF_MAX};
  static const size_t amounts[] = {0, 1, 8, 24, 32, 63, 64, 100, 128, 1000, 4096, 5000, 100000, 1 << 20, 3 << 20};
  for (size_t i = 0; i < COUNT(asked); i++) {
    for (size_t j = 0; j < COUNT(amounts) + COUNT(huge); j++) {
      size_t alignment = asked[i], size = j < COUNT(amounts) ? amounts[j] : huge[j - COUNT(amounts)];
      errno = untouched;
      void *p = memalign(alignment, size);
      report(NAME("memalign(%zu, %zu)", alignment, size), p, size, alignment);
      release(name, p);
      errno = untouched;
      p = aligned_alloc(alignment, size);
      report(NAME("aligned_alloc(%zu, %zu)", alignment, size), p, size, alignment);
      release(name, p);
    }
  }
  for (size_t i = 0; i < COUNT(asked) + COUNT(odd); i++) {
    for (size_t j = 0; j < COUNT(amounts) + COUNT(huge); j++) {
      size_t alignment = i < COUNT(asked) ? asked[i] : odd[i - COUNT(asked)];
      size_t size = j < COUNT(amounts) ? amounts[j] : huge[j - COUNT(amounts)];
      void *const marker = (void *)name;
      void *p = marker;
      errno = untouched;
      int error = posix_memalign(&p, alignment, size);
      int number = errno;
      NAME("posix_memalign(%zu, %zu)", alignment, size);
      printf("%s: %s\n", name, error == 0 ? "0" : strerrorname_np(error));
      if (error != 0) printf("%s: pointer %s, errno %s\n", name, p == marker ? "kept" : "changed", errno_name(number));
      if (error != 0) continue;
      errno = number;
      report(name, p, size, alignment);
      release(name, p);
    }
  }
  for (size_t i = 0; corrupting && i < COUNT(odd); i++) {
    for (size_t j = 0; j < COUNT(amounts); j++) {
      errno = untouched;
      void *p = memalign(odd[i], amounts[j]);
      report(NAME("memalign(%zu, %zu)", odd[i], amounts[j]), p, amounts[j], 1);
      release(name, p);
      errno = untouched;
      p = aligned_alloc(odd[i], amounts[j]);
      report(NAME("aligned_alloc(%zu, %zu)", odd[i], amounts[j]), p, amounts[j], 1);
      release(name, p);
    }
  }
}

// Whether `function` belongs to the allocator whose malloc is called; if not, its blocks cannot be given to free.
static int same_allocator(const char *function) {
  Dl_info first, second;
  void *allocation = dlsym(RTLD_DEFAULT, "malloc"), *other = dlsym(RTLD_DEFAULT, function);
  return allocation != NULL && other != NULL && dladdr(allocation, &first) && dladdr(other, &second) && first.dli_fbase == second.dli_fbase;
}

static void pages(void) {
  static const size_t amounts[] = {0, 1, 100, 4095, 4096, 4097, 10000, 1 << 20};
  // jemalloc has no pvalloc, which the module of malloc cannot tell where that is the agent.
  int valloc_frees = same_allocator("valloc"), pvalloc_frees = same_allocator("pvalloc") && dlsym(RTLD_DEFAULT, "mallctl") == NULL;
  for (size_t j = 0; j < COUNT(amounts) + COUNT(huge); j++) {
    size_t size = j < COUNT(amounts) ? amounts[j] : huge[j - COUNT(amounts)];
    errno = untouched;
    void *p = valloc(size);
    int number = errno;
    NAME("valloc(%zu)", size);
    printf("%s: %s\n", name, p == NULL ? errno_name(number) : (uintptr_t)p % 4096 == 0 ? "on a page" : "not on a page");
    if (p != NULL) touch(p, size);
    if (valloc_frees) release(name, p);
    errno = untouched;
    p = pvalloc(size);
    number = errno;
    NAME("pvalloc(%zu)", size);
    printf("%s: %s\n", name, p == NULL ? errno_name(number) : (uintptr_t)p % 4096 == 0 ? "on a page" : "not on a page");
    if (p != NULL) touch(p, (size + 4095) & ~(size_t)4095);
    if (pvalloc_frees) release(name, p);
  }
}

// The functions that only some libraries define: without them the same blocks go to free.
static void other_frees(void) {
  void (*free_sized)(void *, size_t), (*free_aligned_sized)(void *, size_t, size_t), (*cfree)(void *);
  *(void **)&free_sized = dlsym(RTLD_DEFAULT, "free_sized");
  *(void **)&free_aligned_sized = dlsym(RTLD_DEFAULT, "free_aligned_sized");
  *(void **)&cfree = same_allocator("cfree") ? dlsym(RTLD_DEFAULT, "cfree") : NULL;
  int kept = 1;
  for (size_t i = 0; i < COUNT(sizes); i++) {
    void *p = malloc(sizes[i]);
    errno = untouched;
    if (free_sized != NULL) free_sized(p, sizes[i]); else free(p);
    kept &= errno == untouched;
    p = aligned_alloc(64, (sizes[i] + 63) & ~(size_t)63);
    errno = untouched;
    if (free_aligned_sized != NULL) free_aligned_sized(p, 64, (sizes[i] + 63) & ~(size_t)63); else free(p);
    kept &= errno == untouched;
    p = malloc(sizes[i]);
    errno = untouched;
    if (cfree != NULL) cfree(p); else free(p);
    kept &= errno == untouched;
  }
  if (free_sized != NULL) free_sized(NULL, 0);
  if (free_aligned_sized != NULL) free_aligned_sized(NULL, 8, 0);
  if (cfree != NULL) cfree(NULL);
  printf("free_sized, free_aligned_sized, cfree: errno %s\n", kept ? "kept" : "changed");
}

static size_t address_space(void) {
  FILE *file = fopen("/proc/self/statm", "r");
  unsigned long pages = 0;
  if (file == NULL || fscanf(file, "%lu", &pages) != 1) abort();
  fclose(file);
  return pages * 4096;
}

static void out_of_memory(void) {
  struct rlimit before, limit;
  getrlimit(RLIMIT_AS, &before);
  void *old = malloc(1000);
  memset(old, 0x66, 1000);
  limit = before;
  limit.rlim_cur = address_space() + (64 << 20);
  setrlimit(RLIMIT_AS, &limit);
  const size_t much = 512 << 20;
  errno = untouched;
  report("limited malloc", malloc(much), much, 0);
  errno = untouched;
  report("limited calloc", calloc(much / 8, 8), much, 0);
  errno = untouched;
  void *p = realloc(old, much);
  report("limited realloc", p, much, 0);
  printf("limited realloc: old block: %s\n", p == NULL ? content(old, 1000, 0x66) : "gone");
  errno = untouched;
  p = reallocarray(old, much / 8, 8);
  report("limited reallocarray", p, much, 0);
  printf("limited reallocarray: old block: %s\n", p == NULL ? content(old, 1000, 0x66) : "gone");
  errno = untouched;
  report("limited memalign", memalign(64, much), much, 64);
  errno = untouched;
  report("limited aligned_alloc", aligned_alloc(64, much), much, 64);
  p = old;
  errno = untouched;
  int error = posix_memalign(&p, 64, much);
  printf("limited posix_memalign: %s, errno %s, pointer %s\n", strerrorname_np(error), errno_name(errno), p == old ? "kept" : "changed");
  errno = untouched;
  p = valloc(much);
  printf("limited valloc: %s, errno %s\n", p == NULL ? "null" : "block", errno_name(errno));
  errno = untouched;
  p = pvalloc(much);
  printf("limited pvalloc: %s, errno %s\n", p == NULL ? "null" : "block", errno_name(errno));
  // Until nothing is left, and then again after all was given back.
  static void *taken[4096];
  size_t count = 0;
  errno = untouched;
  while (count < COUNT(taken) && (taken[count] = malloc(1 << 20)) != NULL) count++;
  printf("exhausted: %s, errno %s\n", count < COUNT(taken) ? "null" : "never", errno_name(errno));
  for (size_t i = 0; i < count; i++) free(taken[i]);
  errno = untouched;
  p = malloc(1 << 20);
  printf("after giving back: %s\n", p != NULL ? "block" : "null");
  free(p);
  free(old);
  setrlimit(RLIMIT_AS, &before);
}

int main(int argc, char **argv) {
  static char buffer[1 << 16];
  setvbuf(stdout, buffer, _IOFBF, sizeof buffer);
  mallocs();
  callocs();
  reallocs();
  reallocarrays();
  alignments(argc > 1 && strcmp(argv[1], "corrupting") == 0);
  pages();
  other_frees();
  out_of_memory();
  printf("done\n");
  return 0;
}
