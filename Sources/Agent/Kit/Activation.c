// Whether the process is to be indexed, and what lies below the hooks.
//
// Decided by the first call of the malloc family, long before constructors run; it may be decided twice, by two
// threads, to the same effect.
#include "kit.h"

#include <errno.h>
#include <string.h>
#include <sys/auxv.h>

#include "allocs_hooks.h"

static uint32_t phase;  // 0 undecided, 1 not active, 2 active

// ALLOCS is set, to something that does not say no.
static bool is_asked_for(void) {
  for (char **next = allocs_environment(); next && *next; next++)
    if (strncmp(*next, "ALLOCS=", 7) == 0) return (*next)[7] != 0 && allocs_read_flag(*next + 7) != 0;
  return false;
}

ALLOCS_HIDDEN void allocs_decide(void) {
  allocs_resolve_terminal();
  // Whoever starts a program that gains privileges must not make it write files; the dynamic linker thinks so, too, of
  // libraries that are preloaded.
  bool active = getauxval(AT_SECURE) == 0 && (is_asked_for() || allocs_agent_is_preloaded());
  void **terminal = (void **)allocs_terminal();
  static const uint8_t members[ALLOCS_KIT_COUNT] = {
#define MEMBER(name, number, version) [number] = offsetof(struct allocs_terminal, name) / sizeof(void *),
      ALLOCS_KIT_ESSENTIAL(MEMBER)
#define cfree free
      ALLOCS_KIT_OPTIONAL(MEMBER) ALLOCS_KIT_RECENT(MEMBER)
#undef cfree
  };
  for (int index = 0; index < ALLOCS_KIT_COUNT; index++)
    allocs_store_release_pointer(&allocs_entries[index], active && allocs_hooked_functions[index] ? allocs_hooked_functions[index] : terminal[members[index]]);
  __atomic_store_n(&phase, active ? 2 : 1, __ATOMIC_RELEASE);
}

bool allocs_kit_is_active(void) {
  if (__atomic_load_n(&phase, __ATOMIC_ACQUIRE) == 0) allocs_decide();
  return __atomic_load_n(&phase, __ATOMIC_ACQUIRE) == 2;
}

// MARK: what is below

#define NEXT(name, number, version) \
  extern ALLOCS_HIDDEN __attribute__((weak)) void allocs_next_##name(void); \
  extern ALLOCS_HIDDEN __attribute__((weak)) void *const allocs_libc_##name;
ALLOCS_KIT_ESSENTIAL(NEXT)

// By a table, in which a weak symbol that nothing defines is null however the executable is linked.
static const struct {
  const char *name;
  void *next;               // the function of Fallback.S
  void *const *libc;        // where it keeps libc's
} functions[] = {
#define FUNCTION(name, number, version) [number] = {#name, (void *)allocs_next_##name, &allocs_libc_##name},
#define OTHER(name, number, version) [number] = {#name, NULL, NULL},
    ALLOCS_KIT_ESSENTIAL(FUNCTION) ALLOCS_KIT_OPTIONAL(OTHER) ALLOCS_KIT_RECENT(OTHER)};

void *allocs_linked_definition(const char *name) {
  for (int index = 0; index < ALLOCS_KIT_COUNT; index++)
    if (strcmp(name, functions[index].name) == 0) return allocs_linked[index] == functions[index].next ? NULL : allocs_linked[index];
  return NULL;
}

// In libc.a beside malloc, and in no other allocator.
extern ALLOCS_HIDDEN __attribute__((weak)) void __libc_mallinfo(void);
static void (*const libc_mark)(void) = __libc_mallinfo;
bool allocs_linked_is_libc(void) { return *(void (*const volatile *)(void))&libc_mark != NULL; }

// MARK: what nobody defines

static void *aligned(size_t alignment, size_t size) {
  enum { MEMALIGN = 4, ALIGNED_ALLOC = 5, POSIX_MEMALIGN = 6, GUARANTEED = 16 };
  void *block = NULL;
  if (allocs_linked[MEMALIGN]) return ((void *(*)(size_t, size_t))allocs_linked[MEMALIGN])(alignment, size);
  if (allocs_linked[POSIX_MEMALIGN]) {
    if (alignment < sizeof(void *)) alignment = sizeof(void *);
    int error = ((int (*)(void **, size_t, size_t))allocs_linked[POSIX_MEMALIGN])(&block, alignment, size);
    if (error != 0) errno = error;
    return error == 0 ? block : NULL;
  }
  if (allocs_linked[ALIGNED_ALLOC])
    return ((void *(*)(size_t, size_t))allocs_linked[ALIGNED_ALLOC])(alignment, (size + alignment - 1) & -alignment);
  if (alignment <= GUARANTEED) return allocs_terminal()->malloc(size);
  errno = ENOMEM;
  return NULL;
}
static int aligned_into(void **result, size_t alignment, size_t size) {
  if (alignment % sizeof(void *) != 0 || (alignment & (alignment - 1)) != 0 || alignment == 0) return EINVAL;
  int before = errno;
  void *block = aligned(alignment, size);
  errno = before;
  if (!block) return ENOMEM;
  *result = block;
  return 0;
}
static void *page_aligned(size_t size) { return aligned(ALLOCS_PAGE_SIZE, size); }
static void *whole_pages(size_t size) { return aligned(ALLOCS_PAGE_SIZE, (size + ALLOCS_PAGE_SIZE - 1) & -(size_t)ALLOCS_PAGE_SIZE); }
static void *array(void *block, size_t count, size_t size) {
  size_t bytes;
  if (!__builtin_mul_overflow(count, size, &bytes)) return allocs_terminal()->realloc(block, bytes);
  errno = ENOMEM;
  return NULL;
}
static size_t no_size(void *block) {
  (void)block;
  return 0;
}
static void free_sized(void *block, size_t size) {
  (void)size;
  allocs_terminal()->free(block);
}
static void free_aligned_sized(void *block, size_t alignment, size_t size) {
  (void)alignment, (void)size;
  allocs_terminal()->free(block);
}

void allocs_complete_terminal(void) {
  struct allocs_terminal *terminal = allocs_terminal();
#define LIBC(name, number, version) \
  if (!terminal->name && functions[number].libc) terminal->name = (__typeof__(terminal->name))*functions[number].libc;
  ALLOCS_KIT_ESSENTIAL(LIBC)
  if (!terminal->memalign) terminal->memalign = aligned;
  if (!terminal->aligned_alloc) terminal->aligned_alloc = aligned;
  if (!terminal->posix_memalign) terminal->posix_memalign = aligned_into;
  if (!terminal->valloc) terminal->valloc = page_aligned;
  if (!terminal->pvalloc) terminal->pvalloc = whole_pages;
  if (!terminal->reallocarray) terminal->reallocarray = array;
  if (!terminal->malloc_usable_size) terminal->malloc_usable_size = no_size;
  if (!terminal->free_sized) terminal->free_sized = free_sized;
  if (!terminal->free_aligned_sized) terminal->free_aligned_sized = free_aligned_sized;
}
