// User, for an executable that the kit is linked into: where the entries lead when the process is indexed. As
// Entry/User.c, but malloc is called directly.
#include "allocs_agent.h"
#include "allocs_hooks.h"
#define ALLOCS_TERMINAL_MALLOC "__real_malloc"
#include "entry_x86.h"
#include "kit.h"

#define ALLOCS_ENTRY(count, hook, ...) \
  ALLOCS_HIDDEN __attribute__((naked)) __VA_ARGS__ { __asm__(ALLOCS_ENTRY_##count(hook)); }

ALLOCS_HIDDEN __attribute__((naked)) void *allocs_own_malloc(size_t size) { __asm__(ALLOCS_ENTRY_MALLOC); }
ALLOCS_ENTRY(2, allocs_hook_calloc, void *allocs_own_calloc(size_t count, size_t size))
ALLOCS_ENTRY(2, allocs_hook_realloc, void *allocs_own_realloc(void *block, size_t size))
ALLOCS_ENTRY(3, allocs_hook_reallocarray, void *allocs_own_reallocarray(void *block, size_t count, size_t size))
ALLOCS_ENTRY(2, allocs_hook_memalign, void *allocs_own_memalign(size_t alignment, size_t size))
ALLOCS_ENTRY(2, allocs_hook_aligned_alloc, void *allocs_own_aligned_alloc(size_t alignment, size_t size))
ALLOCS_ENTRY(3, allocs_hook_posix_memalign, int allocs_own_posix_memalign(void **result, size_t alignment, size_t size))
ALLOCS_ENTRY(1, allocs_hook_valloc, void *allocs_own_valloc(size_t size))
ALLOCS_ENTRY(1, allocs_hook_pvalloc, void *allocs_own_pvalloc(size_t size))
ALLOCS_HIDDEN __attribute__((naked)) void allocs_own_free(void *block) { __asm__(ALLOCS_ENTRY_FREE); }
ALLOCS_ENTRY(2, allocs_hook_free_sized, void allocs_own_free_sized(void *block, size_t size))
ALLOCS_ENTRY(3, allocs_hook_free_aligned_sized, void allocs_own_free_aligned_sized(void *block, size_t alignment, size_t size))

void *const allocs_hooked_functions[ALLOCS_KIT_COUNT] = {
    allocs_own_malloc,         allocs_own_free,
    allocs_own_calloc,         allocs_own_realloc,
    allocs_own_memalign,       allocs_own_aligned_alloc,
    allocs_own_posix_memalign, allocs_own_valloc,
    allocs_own_pvalloc,        allocs_own_reallocarray,
    NULL,  // malloc_usable_size: nothing to record
    allocs_own_free,           allocs_own_free_sized,
    allocs_own_free_aligned_sized,
};

// Nothing is hooked at its entry here.
const struct allocs_entry_point *allocs_entry_point(uint32_t index) {
  (void)index;
  return NULL;
}

// The one way to fork in libc that runs no fork handlers.
extern int __real__Fork(void);
ALLOCS_HIDDEN int __wrap__Fork(void) {
  int child = __real__Fork();
  if (child == 0) allocs_child_started();
  return child;
}

static void construct(void) {
  if (allocs_kit_is_active()) allocs_constructed();
}
// Before the libraries' constructors. Only an executable may have this: in a library the kit has no place.
__attribute__((section(".preinit_array"), used)) static void (*const preinit)(void) = construct;
__attribute__((destructor)) static void destruct(void) {
  if (allocs_kit_is_active()) allocs_destructed();
}
