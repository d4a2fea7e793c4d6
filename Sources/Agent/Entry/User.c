// User, for a preloaded library: the exported names of libc's malloc family. Each adds where it was called from to its
// arguments and goes on to the hook; there is nothing else here, because nothing else can be said only in C.
//
// They are written in the machine's own language: a compiler may move the frame pointer register before C could ask for
// it.
#include "allocs_agent.h"
#include "allocs_hooks.h"
#include "entry_arm.h"
#include "entry_x86.h"

#define ALLOCS_ENTRY(name, count, hook, ...) \
  ALLOCS_EXPORT __attribute__((naked)) __VA_ARGS__ { __asm__(ALLOCS_ENTRY_##count(hook)); }

// Its own path, for it is the one that programs take most: a hook around the call would have to keep what it knows in
// registers that are saved first, and stores that wait behind a missed cache line are what an allocation costs. Here
// the size is all that is kept.
ALLOCS_EXPORT __attribute__((naked)) void *malloc(size_t size) { __asm__(ALLOCS_ENTRY_MALLOC); }
ALLOCS_ENTRY(calloc, 2, allocs_hook_calloc, void *calloc(size_t count, size_t size))
ALLOCS_ENTRY(realloc, 2, allocs_hook_realloc, void *realloc(void *block, size_t size))
ALLOCS_ENTRY(reallocarray, 3, allocs_hook_reallocarray, void *reallocarray(void *block, size_t count, size_t size))
ALLOCS_ENTRY(memalign, 2, allocs_hook_memalign, void *memalign(size_t alignment, size_t size))
ALLOCS_ENTRY(aligned_alloc, 2, allocs_hook_aligned_alloc, void *aligned_alloc(size_t alignment, size_t size))
ALLOCS_ENTRY(posix_memalign, 3, allocs_hook_posix_memalign, int posix_memalign(void **result, size_t alignment, size_t size))
ALLOCS_ENTRY(valloc, 1, allocs_hook_valloc, void *valloc(size_t size))
ALLOCS_ENTRY(pvalloc, 1, allocs_hook_pvalloc, void *pvalloc(size_t size))
ALLOCS_EXPORT __attribute__((naked)) void free(void *block) { __asm__(ALLOCS_ENTRY_FREE); }
ALLOCS_EXPORT __attribute__((naked)) void cfree(void *block) { __asm__(ALLOCS_ENTRY_FREE); }
ALLOCS_ENTRY(free_sized, 2, allocs_hook_free_sized, void free_sized(void *block, size_t size))
ALLOCS_ENTRY(free_aligned_sized, 3, allocs_hook_free_aligned_sized, void free_aligned_sized(void *block, size_t alignment, size_t size))
ALLOCS_EXPORT size_t malloc_usable_size(void *block) {
  if (!allocs_terminal()->malloc_usable_size) allocs_resolve_terminal();
  return allocs_terminal()->malloc_usable_size(block);
}
// By which an agent in the executable (Sources/Agent/Kit) knows this library.
ALLOCS_EXPORT const char allocs_agent = 1;

// Not of the malloc family: which modules are loaded is part of what a call stack means.
ALLOCS_EXPORT int dlclose(void *handle) { return allocs_hook_dlclose(handle); }

// The one way to fork in libc that runs no fork handlers. A signal handler may call it in the middle of a hook.
ALLOCS_EXPORT int _Fork(void) {
  allocs_fork_begins();
  int child = allocs_terminal()->fork();
  if (child == 0) allocs_child_started();
  else allocs_fork_ended();
  return child;
}

// By a hidden name each: the exported one may mean somebody else's.
#define ALLOCS_OWN(name) extern __typeof__(name) allocs_own_##name __attribute__((alias(#name), visibility("hidden")));
ALLOCS_OWN(malloc) ALLOCS_OWN(calloc) ALLOCS_OWN(realloc) ALLOCS_OWN(reallocarray) ALLOCS_OWN(memalign)
ALLOCS_OWN(aligned_alloc) ALLOCS_OWN(posix_memalign) ALLOCS_OWN(valloc) ALLOCS_OWN(pvalloc) ALLOCS_OWN(free)
ALLOCS_OWN(free_sized) ALLOCS_OWN(free_aligned_sized)

#define ALLOCS_POINT(name, member, is_essential) \
  {#name, (void *)allocs_own_##name, (void **)&allocs_process_state.terminal.member, is_essential, false}
static const struct allocs_entry_point entry_points[] = {
    ALLOCS_POINT(malloc, malloc, false),
    ALLOCS_POINT(free, free, true),
    ALLOCS_POINT(calloc, calloc, false),
    ALLOCS_POINT(realloc, realloc, true),
    ALLOCS_POINT(reallocarray, reallocarray, true),
    ALLOCS_POINT(memalign, memalign, false),
    ALLOCS_POINT(aligned_alloc, aligned_alloc, false),
    ALLOCS_POINT(posix_memalign, posix_memalign, false),
    ALLOCS_POINT(valloc, valloc, false),
    ALLOCS_POINT(pvalloc, pvalloc, false),
    ALLOCS_POINT(free_sized, free_sized, true),
    ALLOCS_POINT(free_aligned_sized, free_aligned_sized, true),
};
enum { ENTRY_POINT_COUNT = sizeof entry_points / sizeof *entry_points };
const struct allocs_entry_point *allocs_entry_point(uint32_t index) {
  return index < ENTRY_POINT_COUNT ? &entry_points[index] : allocs_operator_point(index - ENTRY_POINT_COUNT);
}

__attribute__((constructor)) static void construct(void) {
  // Where the C library is another one, the function means something else.
  void (*volatile reference)(void) = allocs_refer_to_early;
  (void)reference;
  allocs_constructed();
}
__attribute__((destructor)) static void destruct(void) { allocs_destructed(); }
