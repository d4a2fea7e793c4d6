// User, for a preloaded library: the exported names of libc's malloc family. Each takes its return address and goes on to
// the hook; there is nothing else here, because nothing else can be said only in C.
#include "allocs_agent.h"
#include "allocs_hooks.h"

ALLOCS_EXPORT void *malloc(size_t size) { return allocs_hook_malloc(size, ALLOCS_SITE); }
ALLOCS_EXPORT void *calloc(size_t count, size_t size) { return allocs_hook_calloc(count, size, ALLOCS_SITE); }
ALLOCS_EXPORT void *realloc(void *block, size_t size) { return allocs_hook_realloc(block, size, ALLOCS_SITE); }
ALLOCS_EXPORT void *reallocarray(void *block, size_t count, size_t size) { return allocs_hook_reallocarray(block, count, size, ALLOCS_SITE); }
ALLOCS_EXPORT void *memalign(size_t alignment, size_t size) { return allocs_hook_memalign(alignment, size, ALLOCS_SITE); }
ALLOCS_EXPORT void *aligned_alloc(size_t alignment, size_t size) { return allocs_hook_aligned_alloc(alignment, size, ALLOCS_SITE); }
ALLOCS_EXPORT int posix_memalign(void **result, size_t alignment, size_t size) { return allocs_hook_posix_memalign(result, alignment, size, ALLOCS_SITE); }
ALLOCS_EXPORT void *valloc(size_t size) { return allocs_hook_valloc(size, ALLOCS_SITE); }
ALLOCS_EXPORT void *pvalloc(size_t size) { return allocs_hook_pvalloc(size, ALLOCS_SITE); }
ALLOCS_EXPORT void free(void *block) { allocs_hook_free(block); }
ALLOCS_EXPORT void cfree(void *block) { allocs_hook_free(block); }
ALLOCS_EXPORT void free_sized(void *block, size_t size) { allocs_hook_free_sized(block, size); }
ALLOCS_EXPORT void free_aligned_sized(void *block, size_t alignment, size_t size) { allocs_hook_free_aligned_sized(block, alignment, size); }
ALLOCS_EXPORT size_t malloc_usable_size(void *block) {
  if (!allocs_terminal()->malloc_usable_size) allocs_resolve_terminal();
  return allocs_terminal()->malloc_usable_size(block);
}
// Not of the malloc family: which modules are loaded is part of what a call stack means.
ALLOCS_EXPORT int dlclose(void *handle) { return allocs_hook_dlclose(handle); }

__attribute__((constructor)) static void construct(void) { allocs_constructed(); }
__attribute__((destructor)) static void destruct(void) { allocs_destructed(); }
