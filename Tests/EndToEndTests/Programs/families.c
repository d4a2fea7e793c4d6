// An allocator with names of its own beside the C library's: random operations on both, and a record of them. -DJEMALLOC,
// -DMIMALLOC, -DTCMALLOC or -DDLMALLOC says whose functions there are beside the usual ones, PREFIX what all their names begin with.
//
//   families OPERATIONS CHECKPOINTS SEED
#include <stdbool.h>

#include "record.h"

#define JOIN_(a, b) a##b
#define JOIN(a, b) JOIN_(a, b)
#define NAME(name) JOIN(PREFIX, name)

extern void *NAME(malloc)(size_t);
extern void *NAME(calloc)(size_t, size_t);
extern void *NAME(realloc)(void *, size_t);
extern void *NAME(memalign)(size_t, size_t);
extern int NAME(posix_memalign)(void **, size_t, size_t);
extern void NAME(free)(void *);

#if defined(JEMALLOC)
extern void *NAME(mallocx)(size_t, int);
extern void *NAME(rallocx)(void *, size_t, int);
extern size_t NAME(xallocx)(void *, size_t, size_t, int);
extern void NAME(dallocx)(void *, int);
extern void NAME(sdallocx)(void *, size_t, int);
#define SPECIAL(X) X(mallocx_site, "mallocx") X(rallocx_site, "rallocx") X(xallocx_site, "xallocx")
#elif defined(MIMALLOC)
extern void *NAME(zalloc)(size_t);
extern void *NAME(malloc_aligned)(size_t, size_t);
extern void *NAME(zalloc_aligned)(size_t, size_t);
extern void *NAME(realloc_aligned)(void *, size_t, size_t);
extern void *NAME(expand)(void *, size_t);
extern void *NAME(mallocn)(size_t, size_t);
extern void *NAME(reallocf)(void *, size_t);
extern void NAME(free_size)(void *, size_t);
#define SPECIAL(X)                                                                                                     \
  X(zalloc_site, "zalloc") X(malloc_aligned_site, "malloc_aligned") X(zalloc_aligned_site, "zalloc_aligned")            \
  X(realloc_aligned_site, "realloc_aligned") X(expand_site, "expand") X(mallocn_site, "malloc") X(reallocf_site, "realloc")
#elif defined(TCMALLOC)
extern void *NAME(new)(size_t);
extern void *NAME(newarray_nothrow)(size_t, const void *);
extern void NAME(delete_sized)(void *, size_t);
#define SPECIAL(X) X(new_site, "operator new") X(newarray_site, "operator new[]")
#elif defined(DLMALLOC)
extern void *NAME(realloc_in_place)(void *, size_t);
extern size_t NAME(bulk_free)(void **, size_t);
#define SPECIAL(X) X(realloc_in_place_site, "realloc")
#else
#error "whose?"
#endif

#define SITES(X)                                                                                             \
  X(libc_malloc_site, "malloc") X(libc_calloc_site, "calloc") X(libc_realloc_site, "realloc")                \
  X(malloc_site, "malloc") X(calloc_site, "calloc") X(realloc_site, "realloc") X(memalign_site, "memalign") \
  X(posix_memalign_site, "posix_memalign") SPECIAL(X)
#define DECLARE_SITE(name, function) SITE_BOUNDS(name)
SITES(DECLARE_SITE)
enum {
#define NUMBER_SITE(name, function) id_##name,
  SITES(NUMBER_SITE) site_count
};

#define ALLOCATING(site, call, ...) \
  SITE(site) static void *site(__VA_ARGS__) { void *p = call; KEEP(p); return p; }
ALLOCATING(libc_malloc_site, malloc(size), size_t size)
ALLOCATING(libc_calloc_site, calloc(3, size / 3), size_t size)
ALLOCATING(libc_realloc_site, realloc(old, size), void *old, size_t size)
ALLOCATING(malloc_site, NAME(malloc)(size), size_t size)
ALLOCATING(calloc_site, NAME(calloc)(3, size / 3), size_t size)
ALLOCATING(realloc_site, NAME(realloc)(old, size), void *old, size_t size)
ALLOCATING(memalign_site, NAME(memalign)(alignment, size), size_t alignment, size_t size)
SITE(posix_memalign_site) static void *posix_memalign_site(size_t alignment, size_t size) {
  void *p = NULL;
  int error = NAME(posix_memalign)(&p, alignment, size);
  if (error != 0) p = NULL;
  KEEP(p);
  return p;
}
#if defined(JEMALLOC)
ALLOCATING(mallocx_site, NAME(mallocx)(size, flags), size_t size, int flags)
ALLOCATING(rallocx_site, NAME(rallocx)(old, size, flags), void *old, size_t size, int flags)
SITE(xallocx_site) static size_t xallocx_site(void *old, size_t size) { size_t s = NAME(xallocx)(old, size, 0, 0); KEEP(s); return s; }
#elif defined(MIMALLOC)
ALLOCATING(zalloc_site, NAME(zalloc)(size), size_t size)
ALLOCATING(malloc_aligned_site, NAME(malloc_aligned)(size, alignment), size_t alignment, size_t size)
ALLOCATING(zalloc_aligned_site, NAME(zalloc_aligned)(size, alignment), size_t alignment, size_t size)
ALLOCATING(realloc_aligned_site, NAME(realloc_aligned)(old, size, alignment), void *old, size_t alignment, size_t size)
ALLOCATING(expand_site, NAME(expand)(old, size), void *old, size_t size)
ALLOCATING(mallocn_site, NAME(mallocn)(3, size / 3), size_t size)
ALLOCATING(reallocf_site, NAME(reallocf)(old, size), void *old, size_t size)
#elif defined(TCMALLOC)
ALLOCATING(new_site, NAME(new)(size), size_t size)
ALLOCATING(newarray_site, NAME(newarray_nothrow)(size, ""), size_t size)
#elif defined(DLMALLOC)
ALLOCATING(realloc_in_place_site, NAME(realloc_in_place)(old, size), void *old, size_t size)
#endif

#define SLOTS 6000u
static struct record_block blocks[SLOTS];
static uint64_t state;

static uint64_t random_number(void) {
  state ^= state << 13;
  state ^= state >> 7;
  state ^= state << 17;
  return state;
}
static size_t random_size(void) {
  if (random_number() % 50 == 0) return 0;
  return random_number() & (((size_t)1 << (1 + random_number() % 14)) - 1);
}
static bool is_libc(const struct record_block *block) { return block->site <= id_libc_realloc_site; }

static void note(struct record_block *block, void *p, size_t size, size_t alignment, uint32_t site) {
  if (p == NULL) {
    if (size != 0) record_fail("an allocation failed");
    return;
  }
  *block = (struct record_block){(uint64_t)(uintptr_t)p, size, alignment, site, record_thread()};
  memset(p, (int)(size & 0xFF), size);
}

static void allocate(struct record_block *block) {
  size_t size = random_size();
  int shift = 4 + (int)(random_number() % 9);
  size_t alignment = (size_t)1 << shift;
  switch (random_number() % 12) {
    case 0: note(block, libc_malloc_site(size), size, 0, id_libc_malloc_site); break;
    case 1: size = size / 3 * 3; note(block, libc_calloc_site(size), size, 0, id_libc_calloc_site); break;
    case 2: note(block, libc_realloc_site(NULL, size), size, 0, id_libc_realloc_site); break;
    case 3: note(block, malloc_site(size), size, 0, id_malloc_site); break;
    case 4: size = size / 3 * 3; note(block, calloc_site(size), size, 0, id_calloc_site); break;
    case 5: note(block, realloc_site(NULL, size), size, 0, id_realloc_site); break;
    case 6: note(block, memalign_site(alignment, size), size, alignment, id_memalign_site); break;
    case 7: note(block, posix_memalign_site(alignment, size), size, alignment, id_posix_memalign_site); break;
#if defined(JEMALLOC)
    case 8: size += size == 0; note(block, mallocx_site(size, 0), size, 0, id_mallocx_site); break;
    case 9: size += size == 0; note(block, mallocx_site(size, shift), size, alignment, id_mallocx_site); break;
#elif defined(MIMALLOC)
    case 8: note(block, zalloc_site(size), size, 0, id_zalloc_site); break;
    case 9: note(block, malloc_aligned_site(alignment, size), size, alignment, id_malloc_aligned_site); break;
    case 10: note(block, zalloc_aligned_site(alignment, size), size, alignment, id_zalloc_aligned_site); break;
    case 11: size = size / 3 * 3; note(block, mallocn_site(size), size, 0, id_mallocn_site); break;
#elif defined(TCMALLOC)
    case 8: note(block, new_site(size), size, 0, id_new_site); break;
    case 9: note(block, newarray_site(size), size, 0, id_newarray_site); break;
#endif
    default: note(block, malloc_site(size), size, 0, id_malloc_site); break;
  }
}

static void resize(struct record_block *block) {
  struct record_block old = *block;
  void *p = (void *)(uintptr_t)old.address;
  size_t size = random_size();
  if (is_libc(block)) {
    block->address = 0;
    return note(block, libc_realloc_site(p, size), size, 0, id_libc_realloc_site);
  }
#if defined(JEMALLOC)
  size += size == 0;
  switch (random_number() % 3) {
    case 0: block->address = 0; return note(block, rallocx_site(p, size, 6), size, 64, id_rallocx_site);
    case 1:
      if (xallocx_site(p, size) >= size) note(block, p, size, 0, id_xallocx_site);
      return;
  }
#elif defined(MIMALLOC)
  switch (random_number() % 4) {
    case 0: block->address = 0; return note(block, realloc_aligned_site(p, 64, size), size, 64, id_realloc_aligned_site);
    case 1: block->address = 0; return note(block, reallocf_site(p, size), size, 0, id_reallocf_site);
    case 2:
      if (expand_site(p, size) != NULL) note(block, p, size, 0, id_expand_site);
      return;
  }
#elif defined(DLMALLOC)
  if (random_number() % 2 == 0) {
    if (realloc_in_place_site(p, size) != NULL) note(block, p, size, 0, id_realloc_in_place_site);
    return;
  }
#endif
  block->address = 0;
  note(block, realloc_site(p, size), size, 0, id_realloc_site);
}

static void release(struct record_block *block) {
  void *p = (void *)(uintptr_t)block->address;
  block->address = 0;
  const unsigned char *bytes = p;
  if (block->size != 0 && (bytes[0] != (block->size & 0xFF) || bytes[block->size - 1] != (block->size & 0xFF)))
    record_fail("a block lost its content");
  if (is_libc(block)) return free(p);
  switch (random_number() % 4) {
#if defined(JEMALLOC)
    case 0: return NAME(dallocx)(p, 0);
    case 1:
      if (block->site == id_mallocx_site && block->alignment == 0) return NAME(sdallocx)(p, block->size, 0);
      break;
#elif defined(MIMALLOC)
    case 0: return NAME(free_size)(p, block->size);
#elif defined(TCMALLOC)
    case 0:
      if (block->site == id_new_site) return NAME(delete_sized)(p, block->size);
      break;
#elif defined(DLMALLOC)
    case 0: {
      void *array[3] = {p, NULL, NAME(malloc)(5)};
      if (NAME(bulk_free)(array, 3) != 0) record_fail("a block could not be freed");
      return;
    }
#endif
    default: break;
  }
  NAME(free)(p);
}

// Calls that must fail and change nothing.
static void fail(struct record_block *block) {
  void *p = NULL;
  switch (random_number() % 4) {
    case 0: p = NAME(malloc)(SIZE_MAX - 4096); break;
    case 1: p = NAME(calloc)(SIZE_MAX / 2, 3); break;
    case 2:
      if (NAME(posix_memalign)(&p, 3, 8) == 0) record_fail("an alignment of 3 was accepted");
      break;
    case 3:
      if (block->address != 0 && !is_libc(block)) p = NAME(realloc)((void *)(uintptr_t)block->address, SIZE_MAX - 4096);
      break;
  }
  if (p != NULL) record_fail("a call succeeded that cannot");
}

int main(int argc, char **argv) {
  if (argc != 4) record_fail("usage: families OPERATIONS CHECKPOINTS SEED");
  long operations = atol(argv[1]);
  int checkpoints = atoi(argv[2]);
  state = 0x9E3779B97F4A7C15ull * (uint64_t)(atol(argv[3]) + 1);
  int file = record_open("sites");
#define RECORD_SITE(name, function) record_site(file, id_##name, __start_site_##name, __stop_site_##name, function);
  SITES(RECORD_SITE)
  close(file);
  record_checkpoint(0, blocks, SLOTS);
  for (int phase = 1; phase <= checkpoints; phase++) {
    for (long i = 0; i < operations / checkpoints; i++) {
      struct record_block *block = &blocks[random_number() % SLOTS];
      uint64_t choice = random_number() % 100;
      if (choice < 2) fail(block);
      else if (block->address == 0) allocate(block);
      else if (choice < 35) resize(block);
      else release(block);
    }
    record_checkpoint(phase, blocks, SLOTS);
  }
  return 0;
}
