// SPDX-License-Identifier: Apache-2.0
// Whether the process is to be indexed, and which functions lie below the hooks.
//
// The first call of the malloc family decides, long before constructors run. Two threads may decide
// at once, to the same effect.
#include "kit.h"

#include <errno.h>
#include <string.h>
#include <sys/auxv.h>

#include "allocs_hooks.h"

static uint32_t phase;  // 0 undecided, 1 not active, 2 active

// Whether ALLOCS is set, and its value does not mean no.
static bool is_asked_for(void) {
  for (char **next = allocs_environment(); next && *next; next++)
    if (strncmp(*next, "ALLOCS=", 7) == 0) return (*next)[7] != 0 && allocs_read_flag(*next + 7) != 0;
  return false;
}

ALLOCS_HIDDEN void allocs_decide(void) {
  allocs_resolve_terminal();
  // A user who starts a program that gains privileges must not make it write files. For this reason
  // the dynamic linker does not preload libraries into such a program, either.
  bool active = getauxval(AT_SECURE) == 0 && (is_asked_for() || allocs_agent_is_preloaded());
  const struct allocs_terminal *terminal = allocs_terminal();
#define BELOW(name, ...) [ALLOCS_KIT_##name] = (void *)terminal->name,
#define BELOW_OLD_NAME(name, kit, version, entry, result, parameters, today) \
  [ALLOCS_KIT_##name] = (void *)terminal->today,
  void *const below[ALLOCS_KIT_COUNT] = {
      ALLOCS_HOOKED_FUNCTIONS(BELOW) ALLOCS_PASSED_FUNCTIONS(BELOW) ALLOCS_OLD_NAMES(BELOW_OLD_NAME)};
  for (int index = 0; index < ALLOCS_KIT_COUNT; index++) {
    void *hooked = allocs_hooked_functions[index];
    allocs_store_release_pointer(&allocs_entries[index], active && hooked ? hooked : below[index]);
  }
  __atomic_store_n(&phase, active ? 2 : 1, __ATOMIC_RELEASE);
}

bool allocs_kit_is_active(void) {
  if (__atomic_load_n(&phase, __ATOMIC_ACQUIRE) == 0) allocs_decide();
  return __atomic_load_n(&phase, __ATOMIC_ACQUIRE) == 2;
}

// MARK: functions below

// Rows of the functions that Fallback.S defines where nothing else does, and of the others.
#define FOR_FALLBACKS(name, kit, ...) FOR_FALLBACKS_##kit(name)
#define FOR_FALLBACKS_OPTIONAL(name)
#define FOR_FALLBACKS_RECENT(name)

#define FOR_FALLBACKS_ESSENTIAL(name)                                       \
  extern ALLOCS_HIDDEN __attribute__((weak)) void allocs_next_##name(void); \
  extern ALLOCS_HIDDEN __attribute__((weak)) void *const allocs_libc_##name;
ALLOCS_KIT_FUNCTIONS(FOR_FALLBACKS)
#undef FOR_FALLBACKS_ESSENTIAL

// These are words of a table because a weak symbol that nothing defines is null there however the
// executable is linked.
static const struct {
  const char *name;
  void *next;               // the function of Fallback.S
  void *const *libc;        // where Fallback.S keeps the address of libc's function
} functions[] = {
#define FUNCTION(name, kit, ...) [ALLOCS_KIT_##name] = {#name, FUNCTION_##kit(name)},
#define FUNCTION_ESSENTIAL(name) (void *)allocs_next_##name, &allocs_libc_##name
#define FUNCTION_OPTIONAL(name) NULL, NULL
#define FUNCTION_RECENT(name) NULL, NULL
    ALLOCS_KIT_FUNCTIONS(FUNCTION)};

void *allocs_linked_definition(const char *name) {
  for (int index = 0; index < ALLOCS_KIT_COUNT; index++)
    if (strcmp(name, functions[index].name) == 0)
      return allocs_linked[index] == functions[index].next ? NULL : allocs_linked[index];
  return NULL;
}

// A function that is in libc.a beside malloc, and in no other allocator.
extern ALLOCS_HIDDEN __attribute__((weak)) void __libc_mallinfo(void);
static void (*const libc_mark)(void) = __libc_mallinfo;
bool allocs_linked_is_libc(void) { return *(void (*const volatile *)(void))&libc_mark != NULL; }

// MARK: functions that nobody defines

static void *aligned(size_t alignment, size_t size) {
  enum { GUARANTEED = 16 };
  const struct allocs_terminal *terminal = allocs_terminal();
  __typeof__(terminal->memalign) linked_memalign = allocs_linked[ALLOCS_KIT_memalign];
  __typeof__(terminal->posix_memalign) linked_posix_memalign = allocs_linked[ALLOCS_KIT_posix_memalign];
  __typeof__(terminal->aligned_alloc) linked_aligned_alloc = allocs_linked[ALLOCS_KIT_aligned_alloc];
  void *block = NULL;
  if (linked_memalign) return linked_memalign(alignment, size);
  if (linked_posix_memalign) {
    if (alignment < sizeof(void *)) alignment = sizeof(void *);
    int error = linked_posix_memalign(&block, alignment, size);
    if (error != 0) errno = error;
    return error == 0 ? block : NULL;
  }
  if (linked_aligned_alloc) return linked_aligned_alloc(alignment, (size + alignment - 1) & -alignment);
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
static void *whole_pages(size_t size) {
  return aligned(ALLOCS_PAGE_SIZE, (size + ALLOCS_PAGE_SIZE - 1) & -(size_t)ALLOCS_PAGE_SIZE);
}
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
#define FOR_FALLBACKS_ESSENTIAL(name)                        \
  if (!terminal->name && functions[ALLOCS_KIT_##name].libc)  \
    terminal->name = (__typeof__(terminal->name))*functions[ALLOCS_KIT_##name].libc;
  ALLOCS_KIT_FUNCTIONS(FOR_FALLBACKS)
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
