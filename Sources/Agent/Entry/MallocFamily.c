// SPDX-License-Identifier: Apache-2.0
// The entries of a preloaded library: the exported names of libc's malloc family. An entry adds to
// its arguments where it was called from, and goes on to the hook. There is nothing else here,
// because only this needs C.
//
// Entries are written in the machine's own language: a compiler may move the frame pointer register
// before C could ask for it.
#include "allocs_agent.h"
#include "allocs_hooks.h"
#include "entry_arm.h"
#include "entry_x86.h"

// MARK: exported functions

#define ENTRY(name, kit, version, entry, result, parameters, ...)                       \
  ALLOCS_EXPORT __attribute__((naked)) result name parameters {                         \
    __asm__(ALLOCS_ENTRY_##entry(allocs_hook_##name));                                  \
  }
#define OLD_NAME(name, kit, version, entry, result, parameters, today)                  \
  ALLOCS_EXPORT __attribute__((naked)) result name parameters {                         \
    __asm__(ALLOCS_ENTRY_##entry(allocs_hook_##today));                                 \
  }
ALLOCS_HOOKED_FUNCTIONS(ENTRY)
ALLOCS_OLD_NAMES(OLD_NAME)

// Has nothing to record, and no hook.
ALLOCS_EXPORT size_t malloc_usable_size(void *block) {
  if (!allocs_terminal()->malloc_usable_size) allocs_resolve_terminal();
  return allocs_terminal()->malloc_usable_size(block);
}

// An agent in the executable (Sources/Agent/Kit) knows this library by the symbol.
ALLOCS_EXPORT const char allocs_agent = 1;

// Not of the malloc family; but the meaning of a call stack depends on which modules are loaded.
ALLOCS_EXPORT int dlclose(void *handle) { return allocs_hook_dlclose(handle); }

// The one way to fork in libc that runs no fork handlers. A signal handler may call it in the
// middle of a hook.
ALLOCS_EXPORT int _Fork(void) {
  allocs_fork_begins();
  int child = allocs_terminal()->fork();
  if (child == 0) allocs_child_started();
  else allocs_fork_ended();
  return child;
}

// MARK: entry points

// Each function has a hidden name, too: the exported name may lead to another module's definition.
#define OWN(name, ...) extern __typeof__(name) allocs_own_##name __attribute__((alias(#name), visibility("hidden")));
ALLOCS_HOOKED_FUNCTIONS(OWN)

#define POINT(name, kit, version, entry, result, parameters, operation, ...)            \
  {#name, (void *)allocs_own_##name, (void **)&allocs_process_state.terminal.name,      \
   ALLOCS_IS_FREEING_##operation, false},
static const struct allocs_entry_point entry_points[] = {ALLOCS_HOOKED_FUNCTIONS(POINT)};
enum { ENTRY_POINT_COUNT = sizeof entry_points / sizeof *entry_points };

const struct allocs_entry_point *allocs_entry_point(uint32_t index) {
  return index < ENTRY_POINT_COUNT ? &entry_points[index] : allocs_operator_point(index - ENTRY_POINT_COUNT);
}

// MARK: start and end

__attribute__((constructor)) static void construct(void) {
  // Keeps __freadptr in the library (Definitions.c). It is not called: in another C library the
  // name means another function.
  void (*volatile reference)(void) = allocs_refer_to_early;
  (void)reference;
  allocs_constructed();
}
__attribute__((destructor)) static void destruct(void) { allocs_destructed(); }
