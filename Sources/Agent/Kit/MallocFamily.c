// SPDX-License-Identifier: Apache-2.0
// The entries of an executable that the kit is linked into: where its calls get to if the process
// is indexed. As Entry/MallocFamily.c, but malloc below is called directly.
#include "allocs_agent.h"
#include "allocs_hooks.h"
#define ALLOCS_TERMINAL_MALLOC "__real_malloc"
#include "entry_x86.h"
#include "kit.h"

#define ENTRY(name, kit, version, entry, result, parameters, ...)                       \
  ALLOCS_HIDDEN __attribute__((naked)) result allocs_own_##name parameters {            \
    __asm__(ALLOCS_ENTRY_##entry(allocs_hook_##name));                                  \
  }
ALLOCS_HOOKED_FUNCTIONS(ENTRY)

#define HOOKED(name, ...) [ALLOCS_KIT_##name] = allocs_own_##name,
#define OLD_NAME(name, kit, version, entry, result, parameters, today) [ALLOCS_KIT_##name] = allocs_own_##today,
#define PASSED(name, ...) [ALLOCS_KIT_##name] = NULL,  // has nothing to record
void *const allocs_hooked_functions[ALLOCS_KIT_COUNT] = {
    ALLOCS_HOOKED_FUNCTIONS(HOOKED) ALLOCS_PASSED_FUNCTIONS(PASSED) ALLOCS_OLD_NAMES(OLD_NAME)};

// No other definition is hooked at its entry here.
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
// Runs before the libraries' constructors. Only an executable may have such a function: in a
// library the kit has no place.
__attribute__((section(".preinit_array"), used)) static void (*const preinit)(void) = construct;
__attribute__((destructor)) static void destruct(void) {
  if (allocs_kit_is_active()) allocs_destructed();
}
